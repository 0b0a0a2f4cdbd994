//! Whether the first job of a class can start now, where, and else why not; and its admission. An admitted job counts at
//! once (Kueue and kube-scheduler: assume).

use jiff::Timestamp;

use super::{
    TenantQueue,
    job_entry::{QueueState, SizeCheck},
};
use crate::{
    api_types::{Reason, job::OnQuota},
    domain::admission::{
        ids::{ClassId, JobIdx, NodeId, PoolId},
        inputs::Usage,
        inventory::{Inventory, LargerNode},
        job_class::{Inadmissible, JobClass, NoRoom, Shape},
        order::Rank,
        quota::{self, Excess},
        shared::Shared,
    },
};

/// Where a job can start.
#[derive(Clone, Copy)]
pub struct Assignment {
    pub pool: PoolId,
    /// `None` where an autoscaler will supply the node.
    pub node: Option<NodeId>,
}

/// The outcome of assessing a class (Kueue: Fit and NoFit).
pub enum Assessment {
    /// Its first job can start.
    Fit(Assignment),
    /// Its jobs wait.
    Inadmissible(Inadmissible),
    /// These jobs of it will never run.
    Reject(Vec<JobIdx>, Reason, String),
}

/// Why jobs of a shape can't run, were nothing else to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Infeasible {
    /// A quota does not even allow one alone.
    Quota(Excess),
    /// They name a pool that the tenant may not use.
    Pool,
    /// No node could hold one, were it empty.
    Nodes,
}

impl TenantQueue {
    /// Assesses the first job of a class: could it ever run, do the quotas allow it now, has a node room for it?
    pub fn assess(&mut self, id: ClassId, shared: &mut Shared) -> Assessment {
        #[cfg(test)]
        {
            shared.assessed += 1;
        }
        let class = &self.classes[id];
        match self.infeasible(&class.shape, &shared.inventory) {
            Some(Infeasible::Quota(excess)) => {
                return Assessment::Reject(
                    class.jobs().collect(),
                    Reason::ExceedsQuota,
                    excess.message(&self.input),
                );
            }
            Some(too_large) => return self.assess_too_large(id, too_large, shared),
            None => self.conclude_size_checks(id, shared),
        }
        let class = &self.classes[id];
        let Some((rank, _)) = class.first() else {
            return Assessment::Inadmissible(Inadmissible::Room(NoRoom::NoJob));
        };
        if let Some(excess) = self.quota_excess(&class.shape, Some(rank), shared.now.wall) {
            let reason = excess.reason();
            return match class.shape.on_quota {
                OnQuota::Reject if reason != Reason::WaitingForTurn => {
                    Assessment::Reject(class.jobs().collect(), reason, excess.message(&self.input))
                }
                _ => Assessment::Inadmissible(Inadmissible::Quota(excess)),
            };
        }
        match self.assign(&class.shape, rank, &shared.inventory) {
            Some(assignment) => Assessment::Fit(assignment),
            None => Assessment::Inadmissible(self.no_room(&class.shape, &shared.inventory)),
        }
    }

    /// Where the first job of a class that was assessed as fit can start by now; else what it waits for.
    pub fn reassign(&self, id: ClassId, inventory: &Inventory) -> Result<Assignment, Inadmissible> {
        let class = &self.classes[id];
        let assignment = class.first().and_then(|(rank, _)| self.assign(&class.shape, rank, inventory));
        assignment.ok_or_else(|| self.no_room(&class.shape, inventory))
    }

    /// A node could hold the jobs of a class: none is rejected as too large from now on.
    fn conclude_size_checks(&mut self, id: ClassId, shared: &mut Shared) {
        for job in std::mem::take(&mut self.classes[id].unchecked) {
            if let Some(entry) = shared.jobs.get_mut(job).filter(|entry| entry.is_in(self.id, id)) {
                entry.size_check = SizeCheck::Passed;
            }
        }
    }

    /// Jobs that no node could hold wait for one that can, except those whose size check fails.
    fn assess_too_large(&mut self, id: ClassId, infeasible: Infeasible, shared: &mut Shared) -> Assessment {
        let now = shared.now.steady;
        let larger = self.larger_node(&self.classes[id].shape, infeasible, &shared.inventory, now);
        let larger = larger.unwrap_or(LargerNode::Unlikely);
        let (mut rejected, mut unchecked) = (Vec::new(), Vec::new());
        for job in std::mem::take(&mut self.classes[id].unchecked) {
            let Some(entry) = shared.jobs.get_mut(job).filter(|entry| entry.is_in(self.id, id)) else {
                continue;
            };
            entry.size_check = entry.size_check.next(larger, now);
            match entry.size_check {
                SizeCheck::Failed => rejected.push(job),
                SizeCheck::Until(at) => {
                    shared.agenda.wake_at(at, self.id);
                    unchecked.push(job);
                }
                SizeCheck::Pending | SizeCheck::Passed => (),
            }
        }
        self.classes[id].unchecked = unchecked;
        if rejected.is_empty() {
            return Assessment::Inadmissible(Inadmissible::Room(NoRoom::TooLarge));
        }
        let (reason, message) = self.explain(&self.classes[id].shape, infeasible, &shared.inventory);
        Assessment::Reject(rejected, reason, message)
    }

    /// Why jobs of a shape can't run, were nothing else to run: by the quotas, and by the nodes that exist.
    pub(super) fn infeasible(&self, shape: &Shape, inventory: &Inventory) -> Option<Infeasible> {
        if let Some(excess) = quota::alone(&self.input, &shape.asked) {
            return Some(Infeasible::Quota(excess));
        }
        let pools = self.pools(shape);
        if shape.group.is_some() && pools.clone().next().is_none() {
            return Some(Infeasible::Pool);
        }
        let too_large = inventory.has_nodes(pools.clone()) && !inventory.could_ever_fit(pools, &shape.asked);
        (too_large && self.elastic_pool(shape, inventory).is_none()).then_some(Infeasible::Nodes)
    }

    /// The reason and message of an infeasible shape.
    pub(super) fn explain(
        &self,
        shape: &Shape,
        infeasible: Infeasible,
        inventory: &Inventory,
    ) -> (Reason, String) {
        match infeasible {
            Infeasible::Quota(excess) => (Reason::ExceedsQuota, excess.message(&self.input)),
            Infeasible::Pool => (Reason::DoesNotFit, self.no_pool_message(shape)),
            Infeasible::Nodes => {
                (Reason::DoesNotFit, inventory.fits_nowhere(self.pools(shape), &shape.asked))
            }
        }
    }

    /// Whether a node may join that is large enough; `None` for a shape that a quota forbids.
    pub(super) fn larger_node(
        &self,
        shape: &Shape,
        infeasible: Infeasible,
        inventory: &Inventory,
        now: Timestamp,
    ) -> Option<LargerNode> {
        match infeasible {
            Infeasible::Quota(_) => None,
            Infeasible::Pool => Some(LargerNode::Unlikely),
            Infeasible::Nodes => Some(inventory.larger_node(self.pools(shape), &shape.asked, now)),
        }
    }

    /// The first pool whose nodes an autoscaler supplies.
    fn elastic_pool(&self, shape: &Shape, inventory: &Inventory) -> Option<PoolId> {
        let own_is_elastic = self.input.elastic;
        self.pools(shape)
            .find(|pool| (own_is_elastic && !self.is_shared(*pool)) || inventory.is_elastic(*pool))
    }

    /// The quota that holds a job back, if one does. The job at `rank` may use what is set aside for the tenant's starving
    /// job if it is that job or comes before it.
    pub(super) fn quota_excess(&self, shape: &Shape, rank: Option<&Rank>, now: Timestamp) -> Option<Excess> {
        if shape.charged
            && let Some(excess) = quota::hour(&self.input, self.started(now))
        {
            return Some(excess);
        }
        let Usage { active, held, .. } = &self.usage;
        if let Some(excess) = quota::with_held(&self.input, held, *active, &shape.asked) {
            return Some(excess);
        }
        let reservation = self.reservation.as_ref().filter(|r| rank.is_none_or(|rank| *rank > r.rank))?;
        quota::with_held(&self.input, &(*held + reservation.asked), active + 1, &shape.asked)?;
        Some(Excess::SetAside { times: reservation.overtaken })
    }

    /// The first place with room: a node of a pool, the node reserved for the tenant's starving job where the job at
    /// `rank` is that job or comes before it, or a node that an autoscaler will supply.
    pub(super) fn assign(&self, shape: &Shape, rank: &Rank, inventory: &Inventory) -> Option<Assignment> {
        let free = |pool| Some(Assignment { pool, node: Some(inventory.find(pool, &shape.asked)?) });
        let reserved = || {
            let node = self.reservation.as_ref().filter(|r| *rank <= r.rank)?.node?;
            let pool =
                inventory.pool_of(node).filter(|pool| self.pools(shape).any(|allowed| allowed == *pool))?;
            inventory.fits(node, &shape.asked).then_some(Assignment { pool, node: Some(node) })
        };
        let elastic = || Some(Assignment { pool: self.elastic_pool(shape, inventory)?, node: None });
        self.pools(shape).find_map(free).or_else(reserved).or_else(elastic)
    }

    /// Why a shape finds no room.
    fn no_room(&self, shape: &Shape, inventory: &Inventory) -> Inadmissible {
        Inadmissible::Room(if !inventory.has_nodes(self.pools(shape)) {
            NoRoom::NoNodes
        } else if inventory.reserved_with_room(self.pools(shape), &shape.asked).is_some() {
            NoRoom::Reserved
        } else {
            NoRoom::Full
        })
    }

    // --- assessing again

    /// Finds the inadmissible classes that a change of the tenant may let start, and has them assessed again. The others,
    /// which are most of a long queue, keep their reason with the numbers of now.
    pub fn recheck_inadmissible(&mut self, shared: &mut Shared) {
        if !std::mem::take(&mut self.recheck) {
            return;
        }
        let inadmissible = self.classes.iter().filter(|(_, class)| class.inadmissible.is_some());
        let checked: Vec<_> =
            inadmissible.map(|(id, class)| (id, self.still_inadmissible(class, shared))).collect();
        let mut waits_for_reset = false;
        for (id, inadmissible) in checked {
            match inadmissible {
                Some(inadmissible) => {
                    waits_for_reset |= inadmissible.reason() == Reason::RateLimited;
                    self.classes[id].inadmissible = Some(inadmissible);
                }
                None => self.requeue(id, &mut shared.inventory),
            }
        }
        if let Some(at) = self.window.resets_at(shared.now.wall).filter(|_| waits_for_reset) {
            shared.agenda.wake_at_reset(at, self.id);
        }
    }

    /// Why a class can't start a job, where that is certainly the same as before.
    fn still_inadmissible(&self, class: &JobClass, shared: &Shared) -> Option<Inadmissible> {
        let (before, shape, inventory) = (class.inadmissible?, &class.shape, &shared.inventory);
        let (rank, _) = class.first().filter(|_| shape.on_quota != OnQuota::Reject && !self.is_closed())?;
        if let Some(infeasible) = self.infeasible(shape, inventory) {
            let is_too_large = !matches!(infeasible, Infeasible::Quota(_));
            let same = before == Inadmissible::Room(NoRoom::TooLarge) && is_too_large;
            return (same && class.unchecked.is_empty()).then_some(before);
        }
        match (before, self.quota_excess(shape, Some(rank), shared.now.wall)) {
            (Inadmissible::Quota(old), Some(new)) => {
                (old.reason() == new.reason()).then_some(Inadmissible::Quota(new))
            }
            // `collect_retryable` finds free room, but not that of the node reserved for the tenant's own job.
            (Inadmissible::Room(_), None) => {
                let reserved = self.reservation.as_ref().filter(|r| *rank <= r.rank).and_then(|r| r.node);
                let has_room = reserved.is_some_and(|node| inventory.fits(node, &shape.asked));
                (!has_room && before == self.no_room(shape, inventory)).then_some(before)
            }
            _ => None,
        }
    }

    // --- admitting and rejecting

    /// Admits a job of a class: its quota and room count from now on, and it is among the decided jobs of the next report.
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
        self.starting += u64::from(entry.is_charged());
        entry.queue_state = QueueState::Admitted { group, node, claimed: false, unwanted: false };
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
