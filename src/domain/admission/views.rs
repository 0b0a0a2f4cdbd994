//! What admission is told, and what it says.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    api_types::{
        JobPhase, Reason,
        job::{OnQuota, Priority, Queue},
        plan::EffectiveQuotas,
    },
    domain::resources::{AskError, Resources},
};

/// A tenant, as admission sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantView {
    /// Name.
    pub name: String,
    /// Name of its plan, for sentences.
    pub plan: String,
    /// Why it accepts nothing at the moment, if so.
    pub closed: Option<(Reason, String)>,
    /// Quotas in force.
    pub quotas: EffectiveQuotas,
    /// Weight of its plan in the shared pools.
    pub weight: u32,
    /// Worker groups that its jobs may use: its own first, then the shared pools in the order of preference.
    pub groups: Vec<String>,
    /// Nodes of its own group are supplied by an autoscaler: there, room is not asked for.
    pub elastic: bool,
}

/// A worker node, as admission sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerView {
    /// Worker group that it is admitted to.
    pub group: String,
    /// What job pods may use in all.
    pub capacity: Resources,
    /// Ready and open to new pods.
    pub open: bool,
}

/// A job, as admission sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct JobView {
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
    /// What it wants when a quota is reached.
    pub on_quota: OnQuota,
    /// Where it is.
    pub state: JobStanding,
    /// The reason that its status gives.
    pub told: Option<Reason>,
}

impl JobView {
    /// Whether it runs, or has before.
    pub(super) fn has_run(&self) -> bool {
        match self.state {
            JobStanding::Active { .. } | JobStanding::BackingOff => true,
            JobStanding::Waiting(attempt) => attempt > 1,
            JobStanding::Aside | JobStanding::Ended(_) => false,
        }
    }
}

/// A job that is not created yet, as far as it is known whether it would be refused.
#[derive(Clone, Debug)]
pub struct ProspectiveJob<'a> {
    /// Its namespace, which is its tenant's.
    pub namespace: &'a str,
    /// What it would ask for, or why it can't be run.
    pub asked: Result<Resources, AskError>,
    /// The only worker group that it may use, if it names one.
    pub group: Option<Arc<str>>,
    /// What it wants when a quota is reached.
    pub on_quota: OnQuota,
}

/// Where a job is, as its object and its pods say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobStanding {
    /// Nothing is to be decided and nothing is held: it is canceled or paused, or its pod has just ended.
    Aside,
    /// Waits for admission; the attempt that it would be.
    Waiting(u32),
    /// Waits for its back-off to pass: it keeps its place in the queue and is not judged.
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

/// What admission says of a waiting job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may start.
    Admit(Admission),
    /// It waits.
    Wait(Reason, String),
    /// It will never run.
    Reject(Reason, String),
}

/// A place to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Number of the attempt.
    pub attempt: u32,
    /// Worker group that its pod is bound to.
    pub group: String,
    /// Node whose room is reserved; kube-scheduler may place it elsewhere in the group. `None` where an autoscaler is to
    /// supply it.
    pub node: Option<String>,
}

/// What a tenant's jobs use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Jobs waiting or backing off.
    pub queued: u64,
    /// Jobs that count against the quotas.
    pub active: u64,
    /// What those ask for together.
    pub held: Resources,
}
