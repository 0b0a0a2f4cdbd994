//! Starving jobs: a node is reserved for each, and they are admitted before all others.

use std::{cmp::Reverse, collections::BTreeSet};

use super::{TenantQueue, job_entry::QueueState};
use crate::domain::{
    admission::{
        ids::{JobIdx, NodeId, PoolId},
        inventory::Inventory,
        order::{Rank, Submission},
        shared::Shared,
    },
    resources::Resources,
};

/// What is reserved for the starving job of a tenant: what it asks for of the tenant's quotas, and a node.
#[derive(Clone, Debug)]
pub struct Reservation {
    pub(super) job: JobIdx,
    pub(super) rank: Rank,
    pub(super) asked: Resources,
    /// How many jobs have overtaken it.
    pub(super) overtaken: u64,
    /// The node that is kept free for it; `None` while none could be found, or while a quota blocks it.
    pub(super) node: Option<NodeId>,
}

impl TenantQueue {
    /// Finds the starving job of the tenant, and carries its reservation over. Returns where it comes in the order of all
    /// starving jobs: those that most jobs have overtaken are first.
    pub fn find_starving(&mut self, shared: &mut Shared) -> Option<(Reverse<u64>, Submission)> {
        let first = if self.is_closed() { None } else { self.first_starving(shared) };
        let old = self.reservation.take();
        self.reservation = first.map(|(job, overtaken)| {
            let entry = &shared.jobs[job];
            Reservation { job, rank: entry.rank.clone(), asked: entry.size(), overtaken, node: None }
        });
        if let Some((old, node)) = old.and_then(|old| Some((old.job, old.node?))) {
            let inventory = &mut shared.inventory;
            let may_use = self.memberships.iter().any(|m| inventory.pool_of(node) == Some(m.pool));
            match &mut self.reservation {
                Some(new) if new.job == old && may_use && inventory.could_hold(node, &new.asked) => {
                    inventory.reserve(node, self.id);
                    new.node = Some(node);
                }
                _ => inventory.unreserve(node),
            }
        }
        self.reservation.as_ref().map(|new| (Reverse(new.overtaken), new.rank.submission().clone()))
    }

    /// Of the jobs that enough have overtaken, the first in the tenant's order. One that no node could hold gets no
    /// reservation: it would never end.
    fn first_starving(&self, shared: &Shared) -> Option<(JobIdx, u64)> {
        let could_run = |(job, _): &(JobIdx, u64)| match shared.jobs[*job].queue_state {
            QueueState::Queued(class) => {
                self.infeasible(&self.classes[class].shape, &shared.inventory).is_none()
            }
            _ => false,
        };
        let starving = self.overtaken.starving().filter(could_run);
        starving.min_by(|a, b| shared.jobs[a.0].rank.cmp(&shared.jobs[b.0].rank))
    }

    /// Admits the tenant's starving job where it fits by now, and else reserves a node for it. A pool gives up at most one
    /// more node in a cycle, so that the search for it costs little.
    pub fn admit_or_reserve(&mut self, reserved_in: &mut BTreeSet<PoolId>, shared: &mut Shared) {
        let Some(mut reservation) = self.reservation.clone() else { return };
        let QueueState::Queued(id) = shared.jobs[reservation.job].queue_state else { return };
        let shape = &self.classes[id].shape;
        if self.quota_excess(shape, Some(&reservation.rank), shared.now.wall).is_some() {
            reservation.node.take().into_iter().for_each(|node| shared.inventory.unreserve(node));
            self.reservation = Some(reservation);
            return;
        }
        if let Some(assignment) = self.assign(shape, &reservation.rank, &shared.inventory) {
            return self.admit(reservation.job, id, assignment, shared);
        }
        if reservation.node.is_none() {
            let nearest = |pool| Some((pool, shared.inventory.nearest(pool, &reservation.asked)?));
            let found = self.pools(shape).filter(|pool| !reserved_in.contains(pool)).find_map(nearest);
            if let Some((pool, node)) = found {
                reserved_in.insert(pool);
                shared.inventory.reserve(node, self.id);
                reservation.node = Some(node);
            } else if !std::mem::replace(&mut self.awaits_reservation, true) {
                shared.agenda.await_reservation(self.id);
            }
        }
        self.reservation = Some(reservation);
    }

    /// The tenant is no longer in the line of those that wait for a reservation.
    pub fn left_reservation_line(&mut self) {
        self.awaits_reservation = false;
    }

    /// Ends the tenant's part in a cycle. A job that has begun to starve by what was just admitted is handled in the next.
    pub fn end_cycle(&mut self, shared: &mut Shared) {
        self.enqueued = false;
        self.find_blocked_job(&mut shared.inventory);
        self.weigh(shared);
        if self.reservation.is_none() && !self.is_closed() && self.first_starving(shared).is_some() {
            self.enqueue_tenant(&mut shared.agenda);
        }
    }

    /// Ends the reservation for a job that waits no longer, or is not queued.
    pub(super) fn drop_reservation(&mut self, job: JobIdx, inventory: &mut Inventory) {
        let dropped = self.reservation.take_if(|reservation| reservation.job == job);
        dropped.and_then(|dropped| dropped.node).into_iter().for_each(|node| inventory.unreserve(node));
    }
}
