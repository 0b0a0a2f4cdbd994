//! The classes of a tenant's queue: which of them is assessed next, and what is noted of one that can't start a job.

use super::{
    BlockedClass, ClassId, Inadmissible, Inventory, JobClass, JobIdx, Membership, Nomination, PoolId, Rank,
    Shape, Shared, TenantQueue, TieBreak,
};
use crate::api_types::Reason;

impl TenantQueue {
    /// The next class to assess, in the tenant's order; `None` for a closed tenant. A blocked class is passed over where
    /// the room that it may have had is used up.
    pub fn next_class(&mut self, inventory: &mut Inventory) -> Option<ClassId> {
        if self.is_closed() {
            return None;
        }
        loop {
            let (_, id) = self.heads.first()?;
            let id = *id;
            let class = &self.classes[id];
            if class.inadmissible.is_none() {
                return Some(id);
            }
            if self.may_fit(class, inventory) {
                self.requeue(id, inventory);
                return Some(id);
            }
            self.heads.pop_first();
        }
    }

    pub(super) fn may_fit(&self, class: &JobClass, inventory: &Inventory) -> bool {
        class.blocked_in.iter().any(|(pool, _)| inventory.may_fit(*pool, &class.shape.asked))
    }

    /// Whether a pool may still have room for a class.
    pub fn may_fit_in(&self, class: ClassId, pool: PoolId, inventory: &Inventory) -> bool {
        self.classes.get(class).is_some_and(|class| inventory.may_fit(pool, &class.shape.asked))
    }

    pub fn class_mut(&mut self, class: ClassId) -> Option<&mut JobClass> {
        self.classes.get_mut(class)
    }

    /// Adds blocked classes that may have room by now to those to assess.
    pub fn collect_retryable(&mut self, inventory: &Inventory) {
        for (id, class) in self.classes.iter() {
            if let (true, Some((rank, _))) = (self.may_fit(class, inventory), class.first()) {
                self.heads.insert((rank.clone(), id));
            }
        }
    }

    /// Where the first job of a class comes in the order of all that contend for a pool.
    pub fn nomination(&self, class: ClassId, pool: PoolId, shared: &Shared) -> Option<Nomination> {
        let JobClass { shape, .. } = &self.classes[class];
        let (rank, _) = self.classes[class].first()?;
        let membership = self.memberships.iter().find(|membership| membership.pool == pool)?;
        let order = shared.inventory.shares(pool).order(membership.member, &shape.asked, shared.now.steady);
        Some(Nomination { order, tie_break: self.tie_break_of(rank), tenant: self.id, class })
    }

    pub(super) fn tie_break_of(&self, rank: &Rank) -> TieBreak {
        TieBreak { effective_since: rank.effective_since(), tenant: self.tie_break }
    }

    /// Puts a job into its class.
    pub(super) fn insert_into_class(
        &mut self,
        job: JobIdx,
        rank: Rank,
        shape: Shape,
        inventory: &mut Inventory,
    ) -> ClassId {
        let allowed = self.allowed_range(shape.group.as_deref());
        self.memberships[allowed].iter_mut().for_each(|membership| membership.demand += 1);
        self.queued.insert(rank.submission().clone(), job);
        let classes = &mut self.classes;
        let id = *self
            .class_ids
            .entry(shape)
            .or_insert_with_key(|shape| classes.insert(JobClass::new(shape.clone())));
        self.change_class(id, inventory, |class| class.insert(rank, job));
        id
    }

    /// Takes a job out of its class; what is reserved for it is free again.
    pub(super) fn dequeue(&mut self, job: JobIdx, id: ClassId, shared: &mut Shared) {
        let rank = shared.jobs[job].rank.clone();
        let allowed = self.allowed_range(self.classes[id].shape.group.as_deref());
        self.memberships[allowed].iter_mut().for_each(|membership| membership.demand -= 1);
        self.queued.remove(rank.submission());
        self.change_class(id, &mut shared.inventory, |class| class.remove(&rank));
        self.overtaken.forget(job);
        if self.backfill_count.as_ref().is_some_and(|count| count.job == job) {
            self.backfill_count = None;
        }
        self.drop_reservation(job, &mut shared.inventory);
        if self.classes[id].first().is_none() {
            self.unblock(id, &mut shared.inventory);
            self.class_ids.remove(&self.classes[id].shape);
            self.classes.remove(id);
        }
    }

    /// Changes the jobs of a class, and keeps `heads` and its entries in pools up to date.
    pub(super) fn change_class(
        &mut self,
        id: ClassId,
        inventory: &mut Inventory,
        change: impl FnOnce(&mut JobClass),
    ) {
        let class = &mut self.classes[id];
        let before = class.first().map(|(rank, _)| rank.clone());
        change(class);
        let after = class.first().map(|(rank, _)| rank.clone());
        if before == after {
            return;
        }
        if let Some(rank) = &after {
            let since = rank.effective_since();
            class
                .blocked_in
                .iter()
                .for_each(|(pool, blocked)| inventory.shares_mut(*pool).set_since(*blocked, since));
        }
        let was_head = before.is_some_and(|rank| self.heads.remove(&(rank, id)));
        if let Some(rank) = after.filter(|_| was_head || class.inadmissible.is_none()) {
            self.heads.insert((rank, id));
        }
    }

    /// Notes why a class can't start a job, and requests that the status of its jobs says so. One that waits for room
    /// is blocked in each pool that it may use.
    pub fn mark_inadmissible(&mut self, id: ClassId, inadmissible: Inadmissible, shared: &mut Shared) {
        let Shared { inventory, agenda, reason_updates, now, .. } = shared;
        self.unblock(id, inventory);
        let class = &self.classes[id];
        let Some(rank) = class.first().map(|(rank, _)| rank.clone()) else { return };
        if matches!(inadmissible, Inadmissible::Room(_)) {
            let (asked, tie_break) = (class.shape.asked, self.tie_break_of(&rank));
            let block = |membership: &Membership| {
                let blocked =
                    BlockedClass { member: membership.member, tenant: self.id, class: id, asked, tie_break };
                (membership.pool, inventory.shares_mut(membership.pool).block(blocked))
            };
            let blocked_in = self.allowed(&class.shape).iter().map(block).collect();
            self.classes[id].blocked_in = blocked_in;
        }
        self.heads.remove(&(rank, id));
        let reason = inadmissible.reason();
        if let (Reason::RateLimited, Some(at)) = (reason, self.window.resets_at(now.wall)) {
            agenda.wake_at_reset(at, self.id);
        }
        let class = &mut self.classes[id];
        class.inadmissible = Some(inadmissible);
        if class.request_reports(reason) {
            reason_updates.add_class(self.id, id);
        }
    }

    /// Has an inadmissible class assessed again.
    pub(super) fn requeue(&mut self, id: ClassId, inventory: &mut Inventory) {
        self.unblock(id, inventory);
        let class = &mut self.classes[id];
        if let (Some(_), Some((rank, _))) = (class.inadmissible.take(), self.classes[id].first()) {
            self.heads.insert((rank.clone(), id));
        }
    }

    pub(super) fn unblock(&mut self, id: ClassId, inventory: &mut Inventory) {
        let blocked_in = std::mem::take(&mut self.classes[id].blocked_in);
        blocked_in.into_iter().for_each(|(pool, blocked)| inventory.shares_mut(pool).unblock(blocked));
    }
}
