//! Which waiting jobs get a new reason in their status, and in which order.
//!
//! A reason is a write on the Job, and thousands may get a new one at once. They wait here, and the scheduler takes as
//! many at a time as its budget of writes allows: the tenants by turns, of each tenant first the jobs that came last, then
//! one job of each class by turns, from the front of the class. A job is reported only where the reason differs from that
//! in its status; one that waits for capacity or quota keeps that reason while it is others' turn, because reservations for
//! starving jobs come and end often.

use std::collections::{HashMap, VecDeque};

use super::{
    ids::{ClassId, JobIdx, TenantId},
    job_class::JobClass,
    order::Rank,
};

/// The classes of all tenants.
pub(super) trait Classes {
    /// The class of that handle, where the tenant has it still.
    fn class_mut(&mut self, tenant: TenantId, class: ClassId) -> Option<&mut JobClass>;
}

#[derive(Clone, Debug, Default)]
pub(super) struct ReasonUpdates {
    /// Tenants that may have a job to report, the next first.
    round_robin: VecDeque<TenantId>,
    by_tenant: HashMap<TenantId, TenantUpdates>,
}

/// What may have to be reported of one tenant.
#[derive(Clone, Debug, Default)]
struct TenantUpdates {
    jobs: VecDeque<JobIdx>,
    /// Classes with the last job visited.
    classes: VecDeque<(ClassId, Option<Rank>)>,
}

impl ReasonUpdates {
    pub(super) fn add_job(&mut self, tenant: TenantId, job: JobIdx) {
        self.of(tenant).jobs.push_back(job);
    }

    pub(super) fn add_class(&mut self, tenant: TenantId, class: ClassId) {
        self.of(tenant).classes.push_back((class, None));
    }

    fn of(&mut self, tenant: TenantId) -> &mut TenantUpdates {
        self.by_tenant.entry(tenant).or_insert_with(|| {
            self.round_robin.push_back(tenant);
            TenantUpdates::default()
        })
    }

    /// Whether a job may have to be reported.
    pub(super) fn is_empty(&self) -> bool {
        self.round_robin.is_empty()
    }

    /// The next job that may have to be reported.
    pub(super) fn next(&mut self, classes: &mut impl Classes) -> Option<JobIdx> {
        loop {
            let tenant = self.round_robin.pop_front()?;
            let updates = self.by_tenant.get_mut(&tenant);
            match updates.and_then(|updates| updates.next(tenant, classes)) {
                Some(job) => {
                    self.round_robin.push_back(tenant);
                    return Some(job);
                }
                None => self.by_tenant.remove(&tenant),
            };
        }
    }
}

impl TenantUpdates {
    fn next(&mut self, tenant: TenantId, classes: &mut impl Classes) -> Option<JobIdx> {
        self.jobs.pop_front().or_else(|| self.next_of_classes(tenant, classes))
    }

    fn next_of_classes(&mut self, tenant: TenantId, classes: &mut impl Classes) -> Option<JobIdx> {
        loop {
            let (id, visited) = self.classes.pop_front()?;
            // `None` for a class that has no jobs any more.
            let Some(class) = classes.class_mut(tenant, id) else { continue };
            if let Some((rank, job)) = class.job_after(visited.as_ref()) {
                self.classes.push_back((id, Some(rank.clone())));
                return Some(job);
            }
            if class.end_report_pass() {
                self.classes.push_back((id, None));
            }
        }
    }
}
