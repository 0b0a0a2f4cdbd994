//! Jobs of one tenant that are assessed together: the scheduling equivalence class of kube-scheduler and Kueue.

use std::{
    collections::BTreeMap,
    ops::{
        Bound::{Excluded, Unbounded},
        Range,
    },
    sync::Arc,
};

use super::{
    ids::{BlockedId, JobIdx, PoolId},
    order::Rank,
    quota::Excess,
};
use crate::{
    api_types::{Reason, job::OnQuota},
    domain::resources::Resources,
};

/// What the jobs of a class have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    pub asked: Resources,
    /// The only worker group that they may use.
    pub group: Option<Arc<str>>,
    pub on_quota: OnQuota,
    /// The hourly window counts them: they have never run, or are retries.
    pub charged: bool,
}

/// The queued jobs of one shape. The first represents all: what holds it back holds the others back, too.
#[derive(Clone, Debug)]
pub struct JobClass {
    pub shape: Shape,
    jobs: BTreeMap<Rank, JobIdx>,
    /// Why its jobs can't start; `None` until it was assessed.
    pub inadmissible: Option<Inadmissible>,
    /// Jobs whose size check is not concluded, with some that have left the class.
    pub unchecked: Vec<JobIdx>,
    /// Its entries among the blocked classes of pools.
    pub blocked_in: Vec<(PoolId, BlockedId)>,
    /// The reason for which reports of its jobs were requested last.
    reported: Option<Reason>,
    /// How many times all its jobs are still to be visited for such reports: two where the reason has changed meanwhile.
    passes_left: u8,
}

/// Why a class can't start a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inadmissible {
    /// A quota of the tenant, or what is set aside of it.
    Quota(Excess),
    /// Room on the nodes. The message is made when it is asked for.
    Room(NoRoom),
}

impl Inadmissible {
    pub fn reason(self) -> Reason {
        match self {
            Self::Quota(excess) => excess.reason(),
            Self::Room(no_room) => no_room.reason(),
        }
    }
}

/// Why no node can take a job that the quotas allow. Whatever depends on it matches all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// The pools have no node.
    NoNodes,
    /// No node could hold it, were it empty, or the tenant may not use its pool.
    TooLarge,
    /// A node with room is reserved for a larger job.
    Reserved,
    /// No node has enough free room.
    Full,
    /// The class has no job.
    NoJob,
}

impl NoRoom {
    pub fn reason(self) -> Reason {
        match self {
            Self::NoNodes => Reason::NoWorkers,
            Self::TooLarge => Reason::DoesNotFit,
            Self::Reserved => Reason::WaitingForTurn,
            Self::Full => Reason::WaitingForCapacity,
            Self::NoJob => Reason::Queued,
        }
    }
}

/// The first job of a tenant that is blocked, and how many jobs were admitted before it: see [`backfill`](super::backfill).
#[derive(Clone, Debug)]
pub struct BackfillCount {
    pub job: JobIdx,
    /// It waits for a quota: only jobs of its own tenant overtake it.
    pub by_quota: bool,
    /// Which memberships of the tenant it may use.
    pub allowed: Range<usize>,
    pub asked: Resources,
    /// Admissions that are counted already.
    pub counted: u64,
}

impl JobClass {
    pub fn new(shape: Shape) -> Self {
        Self {
            shape,
            jobs: BTreeMap::new(),
            inadmissible: None,
            unchecked: Vec::new(),
            blocked_in: Vec::new(),
            reported: None,
            passes_left: 0,
        }
    }

    pub fn insert(&mut self, rank: Rank, job: JobIdx) {
        self.jobs.insert(rank, job);
    }

    pub fn remove(&mut self, rank: &Rank) {
        self.jobs.remove(rank);
    }

    /// Its first job.
    pub fn first(&self) -> Option<(&Rank, JobIdx)> {
        self.jobs.first_key_value().map(|(rank, job)| (rank, *job))
    }

    pub fn jobs(&self) -> impl ExactSizeIterator<Item = JobIdx> {
        self.jobs.values().copied()
    }

    /// Requests that a reason is reported for its jobs; true where the class was not being visited yet.
    pub fn request_reports(&mut self, reason: Reason) -> bool {
        if self.reported == Some(reason) {
            return false;
        }
        self.reported = Some(reason);
        self.passes_left = (self.passes_left + 1).min(2);
        self.passes_left == 1
    }

    /// The job after one in its order, or its first.
    pub fn job_after(&self, rank: Option<&Rank>) -> Option<(&Rank, JobIdx)> {
        let after = (rank.map_or(Unbounded, Excluded), Unbounded);
        self.jobs.range::<Rank, _>(after).next().map(|(rank, job)| (rank, *job))
    }

    /// All its jobs were visited; true where they are to be visited again.
    pub fn end_report_pass(&mut self) -> bool {
        self.passes_left = self.passes_left.saturating_sub(1);
        self.passes_left > 0
    }
}
