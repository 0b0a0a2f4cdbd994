//! Admission: which waiting jobs may start now, and why the others may not.
//!
//! A [`Dispatcher`] takes every change of tenants, workers, jobs and pods, and decides from all of them. Within a tenant,
//! jobs are taken by score and aging ([`order`]). A job is admitted when its tenant accepts work, the tenant's quotas and
//! hourly window allow it, and one node of a pool that it may use has room for all of it: first in the tenant's own group,
//! for which no other tenant contends, then in the shared pools, in the order of [`fair_share`]. Jobs that do not fit are
//! overtaken by others, up to the limit of `backfill`. Admitted jobs are counted at once, so the same room is never given
//! to two. `cycle` is the place to begin reading.
//!
//! Guarantees after every [`Dispatcher::decide`]:
//! - no quota and no node holds more than it allows, by the inputs and the admissions;
//! - nothing that fits is left waiting, except where room is reserved for a starving job;
//! - the verdicts follow from the inputs, not from the order in which they came, except for the counts of overtaken jobs
//!   and recent usage: a restart resets those, and nothing breaks by it.
//!
//! Time comes in with [`Dispatcher::tick`]. Jobs of one tenant that ask for the same are a class and assessed together. A
//! cycle handles the tenants of which something of their own has changed; where a pool has more room it reads the table of
//! those that wait for it (`pool_shares`), and handles them in order until the room is used up. So it takes a few
//! nanoseconds for each tenant that waits, and about log n steps for each change and each admission; nothing for each job
//! that waits.

mod agenda;
mod backfill;
mod cycle;
pub mod fair_share;
mod ids;
mod inputs;
mod inventory;
mod job_class;
mod job_entry;
mod max_free_tree;
mod messages;
pub mod order;
mod pool_shares;
mod queries;
mod quota;
mod reason_updates;
mod shared;
#[cfg(test)]
mod simulation_tests;
mod tenant_queue;
#[cfg(test)]
mod test_cluster;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use slotmap::SlotMap;

pub use self::{
    fair_share::Share,
    inputs::{Admission, JobInput, JobState, ProspectiveJob, TenantInput, Usage, Verdict, WorkerInput},
    pool_shares::MemberShare,
    queries::Stage,
    tenant_queue::PoolShare,
};
use self::{
    ids::{ClassId, JobIdx, NodeId, TenantId},
    job_class::JobClass,
    job_entry::JobEntry,
    reason_updates::Classes,
    shared::Shared,
    tenant_queue::TenantQueue,
};
use super::resources::Resources;
use crate::{
    api_types::{JobPhase, tenant::JobWindow},
    clock::ClockReading,
};

/// The state of admission. A clone decides by itself.
#[derive(Clone, Debug, Default)]
pub struct Dispatcher {
    tenants: SlotMap<TenantId, TenantQueue>,
    /// Tenants by namespace.
    namespaces: HashMap<Arc<str>, TenantId>,
    /// Jobs by UID.
    uids: HashMap<Arc<str>, JobIdx>,
    /// Where pods run and what they use there, by UID of the pod.
    pods: HashMap<Arc<str>, (NodeId, Resources)>,
    shared: Shared,
}

/// The outcome of [`Dispatcher::decide`].
#[derive(Debug, Default)]
pub struct Decision {
    /// Jobs by UID that were admitted or rejected, in the order of the decisions.
    pub decided: Vec<Arc<str>>,
    /// Namespaces of tenants whose usage has changed.
    pub usage: Vec<Arc<str>>,
}

/// What a tenant uses at a moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UsageSnapshot {
    /// What its jobs use.
    pub usage: Usage,
    /// Jobs that have ended, by phase.
    pub ended: BTreeMap<JobPhase, u64>,
    /// Jobs charged in the hourly window in force.
    pub started: u64,
    /// When that ends.
    pub resets_at: Option<Timestamp>,
    /// The window, as it is to be stored.
    pub window: Option<JobWindow>,
    /// Whether it is to be stored soon: a caller waits for a pod that loses its finalizer only then.
    pub urgent: bool,
}

/// # Changes
impl Dispatcher {
    /// One without tenants, nodes and jobs. An autoscaler supplies the nodes of the `elastic` groups.
    #[must_use]
    pub fn new<'a>(elastic: impl IntoIterator<Item = &'a str>) -> Self {
        let mut new = Self::default();
        elastic.into_iter().for_each(|group| new.shared.inventory.set_elastic(group));
        new
    }

    /// Sets the time. The next decision assesses again what waited for a time that has come. Hourly windows go by the
    /// time of day, as the API server's timestamps do; every other pause goes by the steady clock, so that none gets longer
    /// when the time of day is set back.
    pub fn tick(&mut self, now: ClockReading) {
        self.shared.now = now;
        for tenant in self.shared.agenda.take_due(now) {
            // `None` for a tenant that was dropped meanwhile.
            if let Some(queue) = self.tenants.get_mut(tenant) {
                queue.end_pod_backoff(&mut self.shared);
                queue.requeue_all(&mut self.shared.agenda);
            }
        }
    }

    /// How long after `now` something changes by itself; not positive where that is due.
    #[must_use]
    pub fn next_wakeup(&self, now: ClockReading) -> Option<SignedDuration> {
        self.shared.agenda.next_wakeup(now)
    }

    /// Sets the tenant of a namespace; `None` where it is no tenant's.
    pub fn set_tenant(&mut self, namespace: &str, input: Option<TenantInput>) {
        let tenant = self.tenant(namespace);
        self.tenants[tenant].set_input(input.unwrap_or_default(), &mut self.shared);
        self.drop_if_empty(tenant);
    }

    /// Sets what a node can take; `None` for a node that is no worker, or is deleted.
    pub fn set_worker(&mut self, name: &str, input: Option<WorkerInput>) {
        self.shared.inventory.set_worker(name, input);
    }

    /// Sets where a pod, of a job or not, runs and what it uses there; `None` where it uses nothing, or is deleted.
    pub fn set_pod(&mut self, uid: &Arc<str>, usage: Option<(&str, Resources)>) {
        let inventory = &mut self.shared.inventory;
        if let (Some((node, before)), Some((name, now))) = (self.pods.get(uid), usage)
            && inventory.node_name(*node) == name
            && *before == now
        {
            return;
        }
        let new = usage.map(|(node, used)| (inventory.take_by_name(node, used), used));
        let old = match new {
            Some(new) => self.pods.insert(Arc::clone(uid), new),
            None => self.pods.remove(uid),
        };
        if let Some((node, used)) = old {
            inventory.give_back(node, used);
        }
    }

    /// Sets a job.
    pub fn set_job(&mut self, input: JobInput) {
        if let Some(job) = self.uids.get(&input.uid) {
            let tenant = self.shared.jobs[*job].tenant();
            return self.tenants[tenant].update_job(*job, input, &mut self.shared);
        }
        let (tenant, uid) = (self.tenant(&input.namespace), Arc::clone(&input.uid));
        let job = self.shared.jobs.insert(JobEntry::new(tenant, input));
        self.uids.insert(uid, job);
        self.tenants[tenant].attach(job, &mut self.shared);
    }

    /// Removes a job that was deleted.
    pub fn remove_job(&mut self, uid: &str) {
        let Some(job) = self.uids.remove(uid) else { return };
        let tenant = self.shared.jobs[job].tenant();
        self.tenants[tenant].detach(job, &mut self.shared);
        self.shared.jobs.remove(job);
        self.drop_if_empty(tenant);
    }
}

/// # The hourly window
///
/// What is charged has an id, [`charge_id`](crate::domain::rate_window::charge_id).
impl Dispatcher {
    /// Takes over the stored hourly window of a tenant: once after a restart, before its pods.
    pub fn restore_window(&mut self, namespace: &str, stored: &JobWindow) {
        let tenant = self.tenant(namespace);
        self.tenants[tenant].restore_window(stored, &mut self.shared.agenda);
    }

    /// Says of which charges the pod still has its finalizer: once after a restart, when all pods are known.
    pub fn retain_settling(&mut self, has_finalizer: impl Fn(&str) -> bool) {
        self.tenants.values_mut().for_each(|queue| queue.retain_settling(&has_finalizer));
    }

    /// Charges a tenant's hourly window: the pod was seen, with its finalizer.
    pub fn charge(&mut self, namespace: &str, charge: &str, created: Timestamp) {
        let tenant = self.tenant(namespace);
        self.tenants[tenant].change_window(&mut self.shared.agenda, |window| window.charge(charge, created));
    }

    /// Requests that a charge is stored, so that its pod may lose its finalizer; `soon` where a caller waits for that.
    pub fn request_charge(&mut self, namespace: &str, charge: &str, soon: bool) {
        let tenant = self.tenant(namespace);
        let queue = &mut self.tenants[tenant];
        if soon {
            queue.set_urgent(charge, true);
        }
        queue.change_window(&mut self.shared.agenda, |window| {
            window.settle(charge);
        });
    }

    /// The pod of a charge has lost its finalizer.
    pub fn finalizer_removed(&mut self, namespace: &str, charge: &str) {
        let tenant = self.tenant(namespace);
        let queue = &mut self.tenants[tenant];
        queue.set_urgent(charge, false);
        queue.change_window(&mut self.shared.agenda, |window| window.finalizer_removed(charge));
    }
}

/// # Tenants
impl Dispatcher {
    /// The tenant of a namespace, which may be new.
    fn tenant(&mut self, namespace: &str) -> TenantId {
        if let Some(tenant) = self.namespaces.get(namespace) {
            return *tenant;
        }
        let name: Arc<str> = namespace.into();
        let tenant = self.tenants.insert_with_key(|id| TenantQueue::new(id, Arc::clone(&name)));
        self.namespaces.insert(name, tenant);
        tenant
    }

    /// Drops a namespace in which nothing is left.
    fn drop_if_empty(&mut self, tenant: TenantId) {
        if self.tenants[tenant].is_empty() {
            self.namespaces.remove(self.tenants[tenant].namespace());
            self.tenants.remove(tenant);
        }
    }
}

/// Jobs visited in one call, so that a call that finds nothing to report ends soon.
const MAX_JOBS_VISITED: usize = 4096;

impl Dispatcher {
    /// At most `max` jobs, by UID, whose status is to get a new reason to wait: from now on [`Self::verdict`] has it.
    pub fn take_reason_updates(&mut self, max: usize) -> Vec<Arc<str>> {
        let mut updates = Vec::new();
        for _ in 0..MAX_JOBS_VISITED {
            if updates.len() >= max {
                break;
            }
            let Some(job) = self.shared.reason_updates.next(&mut self.tenants) else { break };
            let Some(entry) = self.shared.jobs.get_mut(job) else { continue };
            updates.extend(self.tenants[entry.tenant()].report_reason(entry));
        }
        updates
    }

    /// Whether a job may have to get a new reason.
    #[must_use]
    pub fn has_reason_updates(&self) -> bool {
        !self.shared.reason_updates.is_empty()
    }
}

impl Classes for SlotMap<TenantId, TenantQueue> {
    fn class_mut(&mut self, tenant: TenantId, class: ClassId) -> Option<&mut JobClass> {
        self.get_mut(tenant)?.class_mut(class)
    }
}
