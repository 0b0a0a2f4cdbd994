//! Admits and rejects jobs of a class. An admitted job counts at once (Kueue and kube-scheduler: assume).

use super::{TenantQueue, assess::Assignment, job_entry::QueueState};
use crate::{
    api_types::Reason,
    domain::admission::{
        ids::{ClassId, JobIdx},
        shared::Shared,
    },
};

impl TenantQueue {
    /// Admits a job of a class.
    pub fn admit(&mut self, job: JobIdx, id: ClassId, assignment: Assignment, shared: &mut Shared) {
        let Assignment { pool, node } = assignment;
        self.dequeue(job, id, shared);
        let (asked, group) = (shared.jobs[job].size(), shared.inventory.pool_name(pool));
        self.usage.queued -= 1;
        self.admitted += 1;
        if let Some(membership) = self.memberships.iter().find(|membership| membership.pool == pool) {
            let shares = shared.inventory.shares_mut(pool);
            shares.count_admission(membership.member, &asked, shared.now.steady);
        }
        self.add_usage(asked, Some(&group), shared);
        node.into_iter().for_each(|node| shared.inventory.take(node, asked));
        let entry = &mut shared.jobs[job];
        self.starting += u64::from(entry.is_first_attempt());
        entry.queue_state = QueueState::Admitted { group, node, claimed: false };
        shared.agenda.report(&entry.input.uid);
        self.mark_usage_changed(&mut shared.agenda);
        self.fill_queue(shared);
    }

    /// Admits the first job of a class.
    pub fn admit_first(&mut self, id: ClassId, assignment: Assignment, shared: &mut Shared) {
        if let Some((_, job)) = self.classes[id].first() {
            self.admit(job, id, assignment, shared);
        }
    }

    /// Rejects jobs of a class.
    pub fn reject(
        &mut self,
        id: ClassId,
        jobs: Vec<JobIdx>,
        reason: Reason,
        message: &str,
        shared: &mut Shared,
    ) {
        for job in jobs {
            self.dequeue(job, id, shared);
            let entry = &mut shared.jobs[job];
            entry.reject(reason, message.to_owned(), &mut shared.agenda);
        }
        self.fill_queue(shared);
    }
}
