//! What is measured. Each scenario has a cluster of its own for each of its cases, so that none sees what another left.

mod big;
mod churn;
mod contended;
mod core;
mod drain;
mod kueue;
mod rest;

use std::{collections::BTreeMap, path::PathBuf};

use clap::ValueEnum;
use serde::Serialize;

pub use self::rest::bare_handler;
use crate::{
    measure::Measured,
    sides::{FloorRun, OtherRun},
};

/// The scenarios, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// Decisions of the scheduler's core by itself, with 1,000 to 1,000,000 waiting jobs.
    Core,
    /// A queue of 3,000 and 10,000 jobs over 1, 30 and 1,000 tenants is worked off.
    Drain,
    /// 15,000 jobs of three sizes in 30 tenants of all plans contend for one pool.
    Contended,
    /// Jobs come at 80 % and at 110 % of what the pool can take, whatever becomes of them.
    Churn,
    /// Memory and restart with 100,000 Jobs in the API.
    Big,
    /// Reads and submits over REST with 1, 16 and 256 connections.
    Rest,
    /// A queue of 3,000 jobs of 30 tenants is worked off by the operator, and by Kueue. Only when it is named: it
    /// builds Kueue.
    Kueue,
}

/// The input of all scenarios.
#[derive(Clone, Debug)]
pub struct Terms {
    /// The operator's program.
    pub program: PathBuf,
    /// The part of the full size, at most 1.
    pub scale: f64,
    /// Seed of all that is random.
    pub seed: u64,
    /// Directory of the results.
    pub out: PathBuf,
    /// Only these sizes of queues to drain, if any are given.
    pub jobs: Vec<usize>,
    /// Only these numbers of tenants of queues to drain, if any are given.
    pub tenants: Vec<usize>,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Case {
    /// What it is, in a few words.
    pub name: String,
    /// What the operator did.
    pub operator: Measured,
    /// What the bare client did, where there is one.
    pub floor: Option<FloorRun>,
    /// What others did, where any were measured.
    pub others: Vec<OtherRun>,
    /// What else was measured, by name.
    pub figures: BTreeMap<&'static str, f64>,
}

impl Case {
    /// The operator's admissions a second as a part of the bare client's.
    pub fn of_floor(&self) -> Option<f64> {
        let floor = self.floor.as_ref()?.measured.admissions_per_second;
        (floor > 0.0).then(|| self.operator.admissions_per_second / floor)
    }
}

impl Scenario {
    /// What is measured when none is named.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::value_variants().iter().copied().filter(|scenario| *scenario != Self::Kueue)
    }

    /// Runs it. Each case is passed to `done` as soon as it is measured.
    ///
    /// # Errors
    /// Whatever kept it from being measured.
    pub async fn run(
        self,
        terms: &Terms,
        done: &mut (dyn FnMut(Case) -> anyhow::Result<()> + Send),
    ) -> anyhow::Result<()> {
        match self {
            Self::Core => core::run(terms),
            Self::Drain => drain::run(terms, done).await,
            Self::Contended => contended::run(terms, done).await,
            Self::Churn => churn::run(terms, done).await,
            Self::Big => big::run(terms, done).await,
            Self::Rest => rest::run(terms).await,
            Self::Kueue => kueue::run(terms, done).await,
        }
    }
}
