//! What others ask the dispatcher: verdicts on jobs, what a tenant uses, how many jobs wait.

use std::{
    collections::{BTreeMap, HashSet},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    Dispatcher, UsageSnapshot,
    inputs::{Admission, JobInput, ProspectiveJob, TenantInput, Verdict},
    job_entry::{JobEntry, QueueState},
    tenant_queue::{PoolShare, TenantQueue},
};
use crate::{
    api_types::{Reason, tenant::JobWindow},
    clock::ClockReading,
    domain::pod_create::Meaning,
};

/// How far a job that has not ended has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits for its admission.
    Waiting,
    /// It waits for its back-off.
    BackingOff,
    /// It was admitted, and its pod was not seen yet.
    Admitted,
    /// A pod of it may run.
    Active,
}

impl Stage {
    fn of(state: &QueueState) -> Option<Self> {
        match state {
            QueueState::New
            | QueueState::Queued(_)
            | QueueState::Overflow
            | QueueState::PodBackoff { .. } => Some(Self::Waiting),
            QueueState::BackingOff => Some(Self::BackingOff),
            QueueState::Admitted { .. } => Some(Self::Admitted),
            QueueState::Active { .. } => Some(Self::Active),
            QueueState::Inactive | QueueState::Rejected(..) | QueueState::Ended(_) => None,
        }
    }
}

/// # For an estimate of a start
impl Dispatcher {
    /// The jobs that wait or run, each with its last input, in an order that follows from the inputs' own.
    pub fn unfinished(&self) -> impl Iterator<Item = (&JobInput, Stage)> {
        let jobs = self.shared.jobs.values();
        jobs.filter_map(|job| Some((&job.input, Stage::of(&job.queue_state)?)))
    }

    /// A job that waits or runs, by UID.
    #[must_use]
    pub fn unfinished_job(&self, uid: &str) -> Option<(&JobInput, Stage)> {
        let (_, job) = self.job(uid)?;
        Some((&job.input, Stage::of(&job.queue_state)?))
    }

    /// The tenant of a namespace.
    #[must_use]
    pub fn tenant_input(&self, namespace: &str) -> Option<&TenantInput> {
        self.queue(namespace).map(TenantQueue::input)
    }

    /// The namespaces of the tenants on which it depends when a job of this namespace starts: its own, those that share a
    /// pool with it, those that share one with those, and so on.
    #[must_use]
    pub fn contenders<'a>(&'a self, namespace: &'a str) -> HashSet<&'a str> {
        let (mut groups, mut contenders) = (HashSet::new(), HashSet::from([namespace]));
        groups.extend(self.tenant_input(namespace).into_iter().flat_map(|input| &input.groups));
        loop {
            let before = contenders.len();
            for queue in self.tenants.values() {
                if !contenders.contains(&**queue.namespace())
                    && queue.input().groups.iter().any(|group| groups.contains(group))
                {
                    contenders.insert(&**queue.namespace());
                    groups.extend(&queue.input().groups);
                }
            }
            if contenders.len() == before {
                return contenders;
            }
        }
    }
}

impl Dispatcher {
    /// What was decided of a job, by UID, for its status; `None` while that has it, or nothing is decided.
    #[must_use]
    pub fn verdict(&self, uid: &str) -> Option<Verdict> {
        let (queue, job) = self.job(uid)?;
        queue.verdict(job, &self.shared).filter(|verdict| TenantQueue::is_reported(job, verdict))
    }

    /// What is decided of a job at this moment, by UID, with the numbers of now.
    #[must_use]
    pub fn current_verdict(&self, uid: &str) -> Option<Verdict> {
        let (queue, job) = self.job(uid)?;
        queue.verdict(job, &self.shared)
    }

    /// What the tenant of a job, by UID, has of each shared pool that the job may use.
    #[must_use]
    pub fn pool_shares(&self, uid: &str) -> Vec<PoolShare> {
        self.job(uid).map_or_else(Vec::new, |(queue, job)| queue.pool_shares(job, &self.shared))
    }

    /// Why a job would be rejected at once if it were created now, as the youngest of its tenant; `None` where it would
    /// be admitted or wait, and for an unknown tenant.
    #[must_use]
    pub fn assess_prospective(
        &self,
        job: &ProspectiveJob<'_>,
        now: ClockReading,
    ) -> Option<(Reason, String)> {
        let last = self.shared.now;
        let now = ClockReading { wall: now.wall.max(last.wall), steady: now.steady.max(last.steady) };
        self.queue(job.namespace)?.assess_prospective(job, now, &self.shared)
    }

    /// Takes an admission into use: from now on it stays until its pod was seen, or [`Self::pod_create_failed`]. Again for
    /// the same attempt, it is the same.
    pub fn claim(&mut self, uid: &str, attempt: u32) -> Option<Admission> {
        let job = *self.uids.get(uid)?;
        let tenant = self.shared.jobs[job].tenant();
        if !self.tenants[tenant].claim(job, attempt, &mut self.shared) {
            return None;
        }
        match self.verdict(uid)? {
            Verdict::Admit(admission) => Some(admission),
            _ => None,
        }
    }

    /// The API server refused the pod of an admission for the moment; `message` says so. At first, and only where quick
    /// retries are worth while ([`Meaning::TryAgain`]: a quota whose count lags is right in a moment), when to retry.
    /// `None` where the admission is given back; the job then pauses, longer each time, and its status says so.
    pub fn pod_create_failed(
        &mut self,
        uid: &str,
        attempt: u32,
        meaning: Meaning,
        message: String,
    ) -> Option<Duration> {
        let job = self.uids.get(uid).copied()?;
        let tenant = self.shared.jobs[job].tenant();
        self.tenants[tenant].pod_create_failed(job, attempt, meaning, message, &mut self.shared)
    }

    /// What a tenant uses, by namespace.
    #[must_use]
    pub fn usage_snapshot(&self, namespace: &str) -> Option<UsageSnapshot> {
        self.queue(namespace).map(|queue| queue.snapshot(self.shared.now.wall))
    }

    /// Whether what is stored of a tenant's hourly window allows to remove the finalizer of the pod of a charge; see
    /// [`RateWindow::may_remove_finalizer`](crate::domain::rate_window::RateWindow::may_remove_finalizer).
    #[must_use]
    pub fn may_remove_finalizer(
        &self,
        namespace: &str,
        stored: Option<&JobWindow>,
        charge: &str,
        created: Timestamp,
        now: Timestamp,
    ) -> bool {
        let window = self.queue(namespace).map(TenantQueue::window);
        window.is_some_and(|window| window.may_remove_finalizer(stored, charge, created, now))
    }

    /// How many jobs wait, by reason.
    #[must_use]
    pub fn waiting(&self) -> BTreeMap<Reason, u64> {
        let mut waiting = BTreeMap::new();
        self.tenants.values().for_each(|queue| queue.count_waiting(&mut waiting));
        waiting
    }

    /// The nodes that are reserved for starving jobs.
    #[must_use]
    pub fn reserved_nodes(&self) -> Vec<&str> {
        self.tenants.values().filter_map(|queue| queue.reserved_node(&self.shared)).collect()
    }

    fn queue(&self, namespace: &str) -> Option<&TenantQueue> {
        self.namespaces.get(namespace).map(|tenant| &self.tenants[*tenant])
    }

    fn job(&self, uid: &str) -> Option<(&TenantQueue, &JobEntry)> {
        let job = &self.shared.jobs[*self.uids.get(uid)?];
        Some((&self.tenants[job.tenant()], job))
    }
}
