//! One job: what its object says, and its state in the queue.

use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    api_types::{JobPhase, Reason, reason::StartCondition},
    domain::{
        admission::{
            agenda::Agenda,
            ids::{ClassId, NodeId, TenantId},
            inputs::{JobInput, JobState, TenantInput},
            inventory::LargerNode,
            job_class::Shape,
            order::Rank,
        },
        resources::Resources,
    },
};

/// A job.
#[derive(Clone, Debug)]
pub struct JobEntry {
    pub(super) tenant: TenantId,
    /// Its last input; `reported` may be a reason that its status is yet to get.
    pub(super) input: JobInput,
    pub(super) rank: Rank,
    pub(super) queue_state: QueueState,
    pub(super) size_check: SizeCheck,
    /// How often in a row the creation of its pod has failed.
    pub(super) create_failures: u32,
}

/// Whether a job is too large for every node. Only the first assessment of a job may reject it for that: one that has
/// waited once keeps waiting, for nodes come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeCheck {
    /// Not assessed yet.
    Pending,
    /// Too large for the nodes that exist. Larger ones may join until this time, as some have just joined.
    Until(Timestamp),
    /// It would have fitted, or may yet; or it has waited or run before.
    Passed,
    /// It is too large.
    Failed,
}

impl SizeCheck {
    /// The next state of a job that is too large for the nodes that exist.
    pub fn next(self, larger: LargerNode, now: Timestamp) -> Self {
        match (self, larger) {
            (Self::Passed, _) | (Self::Pending, LargerNode::Possible) => Self::Passed,
            (Self::Until(at), _) if at > now => self,
            (Self::Pending, LargerNode::ExpectedUntil(at)) => Self::Until(at),
            (Self::Pending | Self::Until(_) | Self::Failed, _) => Self::Failed,
        }
    }

    /// The state of a job that is seen for the first time: after a restart its status says whether it has waited.
    fn of(input: &JobInput) -> Self {
        // Its tenant was active, so the job was assessed.
        let unmet = input.reported.and_then(Reason::unmet);
        let has_waited = unmet.is_some_and(|condition| condition > StartCondition::BackOff);
        if has_waited || input.has_run() { Self::Passed } else { Self::Pending }
    }
}

/// The state of a job in its tenant's queue.
#[derive(Clone, Debug)]
pub enum QueueState {
    /// Nothing is to be decided.
    Inactive,
    /// Not assessed yet.
    New,
    /// In a class of the queue.
    Queued(ClassId),
    /// Behind the queue: a new job for a moment, and while the queue is full.
    Overflow,
    /// It waits for the back-off of a retry.
    BackingOff,
    /// The API server refused its pod; it is queued again at that time of the steady clock.
    PodBackoff {
        until: Timestamp,
        message: String,
    },
    Rejected(Reason, String),
    /// It may start. Claimed: its pod may have been created. Unwanted: it was paused, canceled or deleted since, so that it goes
    /// where no pod was.
    Admitted {
        group: Arc<str>,
        node: Option<NodeId>,
        claimed: bool,
        unwanted: bool,
    },
    /// A pod of it may run. Its room is reserved until the pod has a node.
    Active {
        group: Option<Arc<str>>,
        reserved: Option<NodeId>,
    },
    Ended(JobPhase),
}

impl QueueState {
    /// The worker group in which it uses something, and the node whose room is counted for it.
    pub fn placement(&self) -> Option<(Option<&Arc<str>>, Option<NodeId>)> {
        match self {
            Self::Admitted { group, node, .. } => Some((Some(group), *node)),
            Self::Active { group, reserved } => Some((group.as_ref(), *reserved)),
            _ => None,
        }
    }
}

impl JobEntry {
    pub fn new(tenant: TenantId, input: JobInput) -> Self {
        Self {
            tenant,
            rank: input.rank(),
            size_check: SizeCheck::of(&input),
            input,
            queue_state: QueueState::Inactive,
            create_failures: 0,
        }
    }

    pub(super) fn set_input(&mut self, input: JobInput) {
        (self.rank, self.input) = (input.rank(), input);
    }

    /// Rejects it, and reports that.
    pub(super) fn reject(&mut self, reason: Reason, message: String, agenda: &mut Agenda) {
        self.queue_state = QueueState::Rejected(reason, message);
        agenda.report(&self.input.uid);
    }

    pub fn tenant(&self) -> TenantId {
        self.tenant
    }

    /// What it uses or would use; nothing where that can't be read.
    pub fn size(&self) -> Resources {
        self.input.asked.clone().unwrap_or_default()
    }

    /// The attempt that it waits for or is admitted to; 0 for a job that does neither.
    pub fn attempt(&self) -> u32 {
        match self.input.state {
            JobState::Waiting(attempt) => attempt,
            _ => 0,
        }
    }

    /// Whether the hourly window counts the attempt that it waits for or is admitted to.
    pub(super) fn is_charged(&self) -> bool {
        self.attempt() == 1 || self.input.charged_retry
    }

    pub(super) fn shape(&self) -> Shape {
        Shape {
            asked: self.size(),
            group: self.input.group.clone(),
            on_quota: self.input.on_quota,
            charged: self.is_charged(),
        }
    }

    /// Whether it is in this class of this tenant.
    pub(super) fn is_in(&self, tenant: TenantId, class: ClassId) -> bool {
        self.tenant == tenant && matches!(self.queue_state, QueueState::Queued(own) if own == class)
    }

    /// Whether an input differs in nothing that the queue depends on.
    pub(super) fn asks_as(&self, input: &JobInput) -> bool {
        self.rank == input.rank()
            && self.input.asked == input.asked
            && self.input.group == input.group
            && self.input.on_quota == input.on_quota
            && self.input.charged_retry == input.charged_retry
    }

    /// Whether it keeps its state when its tenant gets this input: nothing starts once a tenant is closed, or in a group
    /// that it may not use any more, unless a pod may have been created.
    pub(super) fn survives(&self, tenant: &TenantInput) -> bool {
        match &self.queue_state {
            QueueState::Active { .. } | QueueState::Admitted { claimed: true, .. } => true,
            QueueState::Admitted { group, .. } => {
                tenant.closed.is_none() && tenant.groups.iter().any(|g| **g == **group)
            }
            _ => false,
        }
    }
}
