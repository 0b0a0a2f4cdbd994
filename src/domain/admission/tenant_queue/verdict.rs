//! What admission decides of a job, with the numbers of the moment.

use super::{
    TenantQueue,
    job_entry::{JobEntry, QueueState},
};
use crate::{
    api_types::Reason,
    domain::admission::{
        backfill::BACKFILL_LIMIT,
        inputs::{Admission, Verdict},
        job_class::{Inadmissible, JobClass, NoRoom, Shape},
        quota,
        shared::Shared,
    },
};
use std::{collections::BTreeMap, sync::Arc};

impl TenantQueue {
    /// What is decided of a job; `None` for one that does not wait, or was not assessed yet.
    pub fn verdict(&self, job: &JobEntry, shared: &Shared) -> Option<Verdict> {
        Some(match &job.queue_state {
            QueueState::Admitted { group, node, .. } => Verdict::Admit(Admission {
                attempt: job.attempt(),
                group: (**group).to_owned(),
                node: node.map(|node| shared.inventory.node_name(node).to_owned()),
            }),
            QueueState::Rejected(reason, message) => Verdict::Reject(*reason, message.clone()),
            _ => Verdict::Wait(self.reason(job)?, self.message(job, shared)?),
        })
    }

    /// Why nothing of the tenant is admitted at the moment, if so.
    fn closed_reason(&self) -> Option<Reason> {
        self.input.closed.as_ref().map(|(reason, _)| *reason)
    }

    /// Why a job waits, if it does and that is known.
    fn reason(&self, job: &JobEntry) -> Option<Reason> {
        match &job.queue_state {
            QueueState::PodBackoff { .. } => Some(Reason::PodRefused),
            QueueState::Overflow => Some(self.closed_reason().unwrap_or(Reason::QueueFull)),
            QueueState::Queued(class) => {
                self.closed_reason().or_else(|| Some(self.classes[*class].inadmissible?.reason()))
            }
            _ => None,
        }
    }

    fn message(&self, job: &JobEntry, shared: &Shared) -> Option<String> {
        if let QueueState::PodBackoff { message, .. } = &job.queue_state {
            return Some(message.clone());
        }
        if let Some((_, message)) = &self.input.closed {
            return Some(message.clone());
        }
        let QueueState::Queued(class) = job.queue_state else {
            return Some(quota::queue_full(&self.input, self.usage.queued));
        };
        let class = &self.classes[class];
        Some(match class.inadmissible? {
            Inadmissible::Quota(excess) => {
                let now = self.quota_excess(&class.shape, Some(&job.rank), shared.now.wall);
                now.filter(|now| now.reason() == excess.reason()).unwrap_or(excess).message(&self.input)
            }
            Inadmissible::Room(no_room) => self.no_room_message(class, no_room, shared),
        })
    }

    fn no_room_message(&self, JobClass { shape, .. }: &JobClass, no_room: NoRoom, shared: &Shared) -> String {
        let (pools, inventory) = (self.pools(shape), &shared.inventory);
        match no_room {
            NoRoom::NoNodes => inventory.no_workers(pools),
            NoRoom::TooLarge if pools.clone().next().is_none() => self.no_pool_message(shape),
            NoRoom::TooLarge => inventory.fits_nowhere(pools, &shape.asked),
            NoRoom::Reserved => match inventory.reserved_with_room(pools, &shape.asked) {
                Some(node) => format!(
                    "the room on {} is kept for a larger job that {BACKFILL_LIMIT} or more others have passed",
                    inventory.node_name(node)
                ),
                None => "room is kept for a larger job".to_owned(),
            },
            NoRoom::Full | NoRoom::NoJob => inventory.no_room(pools, &shape.asked),
        }
    }

    /// That the tenant may not use the pool that jobs of a shape name.
    pub(super) fn no_pool_message(&self, shape: &Shape) -> String {
        format!(
            "tenant {} may not use the pool of group {}",
            self.input.name,
            shape.group.as_deref().unwrap_or_default()
        )
    }

    /// Whether a verdict is for the job's status: one to wait is only once its reason was taken for a report.
    pub fn is_reported(job: &JobEntry, verdict: &Verdict) -> bool {
        match verdict {
            Verdict::Wait(reason, _) => job.input.reported == Some(*reason),
            Verdict::Admit(_) | Verdict::Reject(..) => true,
        }
    }

    /// Takes the reason of a waiting job for a report, where its status has another one; returns the job's UID then.
    pub fn report_reason(&self, job: &mut JobEntry) -> Option<Arc<str>> {
        let reason = self.reason(job)?;
        let waits_for_room =
            matches!(job.input.reported, Some(Reason::WaitingForCapacity | Reason::WaitingForQuota));
        if job.input.reported == Some(reason) || (waits_for_room && reason == Reason::WaitingForTurn) {
            return None;
        }
        job.input.reported = Some(reason);
        Some(Arc::clone(&job.input.uid))
    }

    /// Adds the tenant's waiting jobs to the numbers by reason.
    pub fn count_waiting(&self, waiting: &mut BTreeMap<Reason, u64>) {
        let mut count = |reason, jobs: usize| {
            if jobs > 0 {
                *waiting.entry(reason).or_default() += jobs as u64;
            }
        };
        let closed = self.closed_reason();
        for class in self.classes.values() {
            let reason = closed.or(class.inadmissible.map(Inadmissible::reason));
            count(reason.unwrap_or(Reason::Queued), class.jobs().len());
        }
        count(closed.unwrap_or(Reason::QueueFull), self.overflow.len());
        count(Reason::BackingOff, usize::try_from(self.backoff_count).unwrap_or(usize::MAX));
    }

    /// The node that is reserved for the tenant's starving job.
    pub fn reserved_node<'a>(&self, shared: &'a Shared) -> Option<&'a str> {
        self.reservation.as_ref()?.node.map(|node| shared.inventory.node_name(node))
    }
}
