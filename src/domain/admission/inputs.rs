//! The inputs of admission, and its verdicts.

use std::sync::Arc;

use jiff::Timestamp;

use super::order::Rank;
use crate::{
    api_types::{
        JobPhase, Reason,
        job::{OnQuota, Priority, Queue},
        plan::EffectiveQuotas,
    },
    domain::resources::{AskError, Resources},
};

/// A tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantInput {
    /// Name.
    pub name: String,
    /// Name of its plan, for messages.
    pub plan: String,
    /// Why it accepts nothing at the moment, if so.
    pub closed: Option<(Reason, String)>,
    /// Quotas in force.
    pub quotas: EffectiveQuotas,
    /// Weight of its plan in the shared pools.
    pub weight: u32,
    /// Worker groups that its jobs may use: its own first, then the shared pools in the order of preference.
    pub groups: Vec<String>,
    /// An autoscaler supplies the nodes of its own group: a job there need not find room.
    pub elastic: bool,
}

/// A namespace that is not a tenant's: nothing is admitted there.
impl Default for TenantInput {
    fn default() -> Self {
        let message = "this namespace is not that of a tenant".to_owned();
        Self {
            name: String::new(),
            plan: String::new(),
            closed: Some((Reason::NotATenantNamespace, message)),
            quotas: EffectiveQuotas::default(),
            weight: 1,
            groups: Vec::new(),
            elastic: false,
        }
    }
}

/// A worker node.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerInput {
    /// Worker group that it is admitted to.
    pub group: String,
    /// What job pods may use in all.
    pub capacity: Resources,
    /// Ready and open to new pods.
    pub open: bool,
}

/// A job.
#[derive(Clone, Debug, PartialEq)]
pub struct JobInput {
    /// UID.
    pub uid: Arc<str>,
    /// Its namespace, which is its tenant's.
    pub namespace: Arc<str>,
    /// When it was submitted.
    pub created: Timestamp,
    /// Its queue.
    pub queue: Queue,
    /// Its priority in the queue.
    pub priority: Priority,
    /// What it asks for (its pod's own requests, once there is one), or why it can't be run.
    pub asked: Result<Resources, AskError>,
    /// The only worker group that it may use, if it named one.
    pub group: Option<Arc<str>>,
    /// What happens to it when a quota is reached.
    pub on_quota: OnQuota,
    /// Its state.
    pub state: JobState,
    /// The attempt that it waits for is a retry that the hourly window counts.
    pub charged_retry: bool,
    /// The reason that its status gives.
    pub reported: Option<Reason>,
}

/// A new job that asks for nothing, for tests and measurements: they give the fields that matter to them.
impl Default for JobInput {
    fn default() -> Self {
        Self {
            uid: Arc::default(),
            namespace: Arc::default(),
            created: Timestamp::UNIX_EPOCH,
            queue: Queue::default(),
            priority: Priority::default(),
            asked: Ok(Resources::default()),
            group: None,
            on_quota: OnQuota::default(),
            state: JobState::Waiting(1),
            charged_retry: false,
            reported: None,
        }
    }
}

impl JobInput {
    /// Its position in the order of its tenant's jobs.
    pub(super) fn rank(&self) -> Rank {
        Rank::new(self.queue, self.priority, self.created, Arc::clone(&self.uid))
    }

    /// Whether it runs, or has before.
    pub(super) fn has_run(&self) -> bool {
        match self.state {
            JobState::Active { .. } | JobState::BackingOff => true,
            JobState::Waiting(attempt) => attempt > 1,
            JobState::Inactive | JobState::Ended(_) => false,
        }
    }
}

/// A job that is not created yet, to assess whether it would be rejected.
#[derive(Clone, Debug)]
pub struct ProspectiveJob<'a> {
    /// Its namespace, which is its tenant's.
    pub namespace: &'a str,
    /// What it would ask for, or why it can't be run.
    pub asked: Result<Resources, AskError>,
    /// The only worker group that it may use, if it names one.
    pub group: Option<Arc<str>>,
    /// What happens to it when a quota is reached.
    pub on_quota: OnQuota,
}

/// The state of a job by its object and its pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobState {
    /// It waits for nothing and uses nothing: it is canceled or paused, or its pod has just ended.
    Inactive,
    /// It waits for admission to this attempt.
    Waiting(u32),
    /// It waits for its back-off: it counts as queued and is not assessed.
    BackingOff,
    /// A pod of it may run: it counts against every quota.
    Active {
        /// The worker group that it runs in, where that is known.
        group: Option<Arc<str>>,
        /// Its pod has a node, and counts there by itself.
        bound: bool,
    },
    /// It has ended, with this phase.
    Ended(JobPhase),
}

/// What is decided of a waiting job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may start.
    Admit(Admission),
    /// It waits, for this reason.
    Wait(Reason, String),
    /// It will never run, for this reason.
    Reject(Reason, String),
}

/// Where an attempt runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Number of the attempt.
    pub attempt: u32,
    /// Worker group that its pod is bound to.
    pub group: String,
    /// The node whose room is counted; kube-scheduler may place it elsewhere in the group. `None` where an autoscaler is to
    /// supply it.
    pub node: Option<String>,
}

/// What a tenant's jobs use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Jobs that wait or back off.
    pub queued: u64,
    /// Jobs that count against the quotas.
    pub active: u64,
    /// What those ask for together.
    pub held: Resources,
}
