//! Admission: which waiting jobs may start now, and why the others may not.
//!
//! A pure pass over everything that is known. Within a tenant jobs are taken in the order of
//! [`queue_order`](super::queue_order). A job is admitted when its tenant accepts work, the tenant's quotas have room
//! beside what already runs, and one node of a worker group that it may use has room for all of it: first in the
//! tenant's own group, where nobody else contends, then in the shared pools, where the tenants take turns by
//! [`fair_share`](super::fair_share). What does not fit lets others pass, up to the bound of
//! [`skip_ahead`](super::skip_ahead). Admitted jobs are counted at once, so that one pass never hands out the same
//! room twice.
//!
//! Nothing that fits is left waiting, except what is kept for a job that is due. Over a pass, room and quotas only
//! shrink, so what did not fit once is not tried again: jobs of one tenant that ask for the same are judged once, and a
//! pass takes about n log n steps in jobs, tenants and nodes.

mod pass;
mod placement;
mod quota;
mod seat;
#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;
mod views;

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

pub use self::views::{Admission, JobStanding, JobView, TenantView, Usage, Verdict, WorkerView};
use self::{pass::Pass, placement::Rooms};
use super::{fair_share::RecentUsage, skip_ahead::SkipAhead};
use crate::api_types::Reason;

/// What one pass leaves to the next. Nothing breaks when it is lost: a restart begins with an empty one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    /// What tenants held of shared pools.
    pub recent: RecentUsage,
    /// Which jobs were passed, and what is kept for them.
    pub skipped: SkipAhead,
}

/// The outcome of one pass.
#[derive(Debug, Default)]
pub struct Decision {
    /// Of every waiting job, in order of submission.
    pub verdicts: Vec<(String, Verdict)>,
    /// Of every tenant by name, after the admissions.
    pub usage: HashMap<String, Usage>,
    /// For the next pass.
    pub memory: Memory,
}

/// Judges every waiting job.
#[must_use]
pub fn decide(
    tenants: &HashMap<String, TenantView>,
    workers: Vec<WorkerView>,
    mut jobs: Vec<JobView>,
    mut memory: Memory,
    now: Timestamp,
) -> Decision {
    jobs.sort_unstable_by(|a, b| (a.created, &a.uid).cmp(&(b.created, &b.uid)));
    memory.recent.advance(now);
    let mut pass = Pass::new(tenants, Rooms::new(workers), &jobs, memory);
    pass.take_in();
    pass.serve_due();
    pass.serve_all();
    let (verdicts, usage, mut memory) = pass.finish();
    let still_waits: HashSet<&str> = jobs
        .iter()
        .zip(&verdicts)
        .filter(|(_, verdict)| matches!(verdict, Some(Verdict::Wait(..))))
        .map(|(job, _)| job.uid.as_str())
        .collect();
    memory.skipped.retain(|uid| still_waits.contains(uid));
    let verdicts = jobs.into_iter().zip(verdicts);
    let verdicts = verdicts.filter_map(|(job, verdict)| Some((job.uid, verdict?))).collect();
    Decision { verdicts, usage, memory }
}

/// The verdict on a job outside of every tenant.
fn no_tenant() -> Verdict {
    Verdict::Wait(Reason::NotATenantNamespace, "this namespace is not that of a tenant".to_owned())
}
