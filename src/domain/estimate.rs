//! When a waiting job will start, as far as that can be known.
//!
//! The scheduler's own core plays on from a copy of its state, some tens of times: how long each job runs is drawn each time
//! from how long jobs of its kind ran before ([`history`]), what is submitted from what was submitted before (`arrivals`),
//! and so the job in question starts sooner or later. What half and what nine of ten of these runs have is the estimate.
//! Nothing is approximated but what can't be known; what will be canceled, changed or lost until then is left out.
//!
//! The same state, times and seed give the same estimate. The work is bounded: by the number of runs, by the events of each,
//! and by what the caller allows.

mod arrivals;
pub mod history;
mod job_times;
mod outlook;
mod play;
mod state_copy;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use fastrand::Rng;
use jiff::SignedDuration;

use self::play::Play;
pub use self::{
    job_times::JobTimes,
    outlook::Outlook,
    state_copy::{Contention, StateCopy},
};
use crate::{clock::ClockReading, domain::admission::Dispatcher};

/// Runs at most: enough for a ninth decile that two estimates of the same state hardly differ in.
const MAX_RUNS: u64 = 40;
/// Runs at least, unless an estimate is unknown: fewer have no ninth decile.
const MIN_RUNS: usize = 10;
/// Runs in which the job does not start at most: with more of them there is no ninth decile.
const MAX_WITHOUT_START: usize = 4;
/// A start that is further away is unknown.
const MAX_AHEAD: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Events of one run at most.
const MAX_EVENTS: usize = 100_000;

/// When a job starts, counted from now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// In half of the runs it started within this time.
    pub median: SignedDuration,
    /// In nine of ten runs it did.
    pub ninth_decile: SignedDuration,
}

/// Why it can't be known when a job starts; the text is a sentence without its subject's beginning, for users.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// The scheduler does not have the job among those that wait.
    #[error("the scheduler has not seen the job yet, or the job no longer waits for it")]
    NotScheduled,
    /// Nothing that runs, waits or is known to come lets it start.
    #[error("nothing that is known to come lets it start: {0}")]
    Never(String),
    /// It waits for jobs that may run for ever.
    #[error(
        "it waits for a job without a timeout, of whose scenario and image fewer than {} runs have ended",
        history::MIN_RUNS
    )]
    NoHistory,
    /// Nothing lets it start for long.
    #[error("it does not start within a week")]
    Late,
    /// The bounds of the work were reached.
    #[error("more jobs run and wait before it than can be computed in time")]
    TooLong,
}

/// What is needed to estimate the start of one job: a copy of all that it depends on, which it shares with others.
#[derive(Debug)]
pub struct Forecast {
    dispatcher: Arc<Dispatcher>,
    now: ClockReading,
    /// UID of the job.
    job: Arc<str>,
    contention: Arc<Contention>,
}

impl Forecast {
    /// Estimates when the job starts. `may_continue` is asked again and again; once it returns false, the runs so far
    /// are the result if they are enough.
    ///
    /// # Errors
    /// Why that can't be known: in more than one run of ten the job does not start.
    pub fn estimate(&self, seed: u64, mut may_continue: impl FnMut() -> bool) -> Result<Estimate, Unknown> {
        let (mut starts, mut unknown) = (Vec::new(), None);
        for run in 0..MAX_RUNS {
            let seed = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ run;
            match Play::new(self, Rng::with_seed(seed)).run(&mut may_continue) {
                // Nothing was drawn that this depends on.
                Ok(0) if run == 0 => return Ok(Estimate::default()),
                Ok(start) => starts.push(Some(start)),
                Err(Unknown::TooLong) => break,
                Err(why) => {
                    unknown = unknown.or(Some(why));
                    starts.push(None);
                }
            }
            let without_start = starts.iter().filter(|start| start.is_none()).count();
            if without_start > MAX_WITHOUT_START || !may_continue() {
                break;
            }
        }
        if starts.len() < MIN_RUNS {
            return Err(unknown.unwrap_or(Unknown::TooLong));
        }
        // Runs in which it does not start come last.
        starts.sort_unstable_by_key(|start| (start.is_none(), *start));
        let decile = |tenths: usize| {
            let rank = (starts.len() * tenths).div_ceil(10);
            starts.get(rank - 1).copied().flatten().map(SignedDuration::from_millis)
        };
        match decile(5).zip(decile(9)) {
            Some((median, ninth_decile)) => Ok(Estimate { median, ninth_decile }),
            None => Err(unknown.unwrap_or(Unknown::TooLong)),
        }
    }
}
