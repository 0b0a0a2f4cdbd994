//! What admission looks at, and what it says.

use jiff::Timestamp;

use crate::{
    api_types::{
        Reason,
        job::{OnQuota, Priority, Queue},
        plan::EffectiveQuotas,
    },
    domain::resources::{AskError, Resources},
};

/// A tenant, as admission sees it.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// Name.
    pub name: String,
    /// Worker group that it is admitted to.
    pub group: String,
    /// What its pods may use in all.
    pub capacity: Resources,
    /// What live pods on it use.
    pub used: Resources,
    /// Ready and open to new pods.
    pub open: bool,
}

/// A job that has not ended, as admission sees it.
#[derive(Clone, Debug)]
pub struct JobView {
    /// UID.
    pub uid: String,
    /// When it was submitted.
    pub created: Timestamp,
    /// Its queue.
    pub queue: Queue,
    /// Its priority in the queue.
    pub priority: Priority,
    /// Its tenant, if its namespace is one's.
    pub tenant: Option<String>,
    /// What it asks for, or why that can't be read.
    pub asked: Result<Resources, AskError>,
    /// The only worker group that it may use, if it named one.
    pub group: Option<String>,
    /// What it wants when a quota is reached.
    pub on_quota: OnQuota,
    /// Where it is.
    pub state: JobStanding,
}

/// Where a job is, as admission sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobStanding {
    /// Waits for admission; the attempt that it would be.
    Waiting(u32),
    /// Waits for its back-off to pass; not judged.
    BackingOff,
    /// Admitted, or its pod may still run: it counts against every quota.
    Active {
        /// The worker group that it runs in, where that is known.
        group: Option<String>,
        /// The node that was reserved for it, while no pod of it is bound to one.
        reserved: Option<String>,
    },
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
    /// Node whose room is reserved; kube-scheduler may place it elsewhere in the group. `None` on elastic groups.
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
