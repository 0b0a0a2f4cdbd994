//! The tenants of one pool (Kueue: a Cohort): what each uses of it, and which of their classes wait for room there.
//!
//! The classes that wait are in a table. When a node has more room, the table is read from end to end, and for each
//! class that may fit the fair-share order is computed as of that moment. The table can't be kept sorted, because recent
//! usage decays while nothing happens; reading ten thousand classes takes less than a millisecond.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use slotmap::SlotMap;

use super::{
    backfill::{AdmittedSizes, SizeBucket},
    fair_share::{DecayedUsage, FairShareOrder, Share, dominant_share},
    ids::{BlockedId, ClassId, MemberId, TenantId},
};
use crate::domain::resources::Resources;

#[derive(Clone, Debug, Default)]
pub struct PoolShares {
    /// What the pool's nodes have in all.
    capacity: Resources,
    members: SlotMap<MemberId, Member>,
    /// Sum of the weights that count.
    weights: u64,
    blocked: SlotMap<BlockedId, BlockedClass>,
    /// The load at which a job beyond a guarantee was admitted last.
    surplus_load: DecayedUsage,
    /// Jobs admitted so far.
    admitted: AdmittedSizes,
    /// Tenants with a blocked job, by its size and by the number of smaller admissions at which it may starve.
    watches: BTreeMap<SizeBucket, BTreeSet<(u64, TenantId)>>,
}

/// A tenant of the pool.
#[derive(Clone, Debug, Default)]
struct Member {
    weight: u32,
    usage: Resources,
    recent: DecayedUsage,
    /// Its weight counts: it uses the pool or has demand for it.
    counted: bool,
}

/// A tenant's share of the pool, with what it is due.
#[derive(Clone, Copy, Debug)]
pub struct MemberShare {
    /// Its share, and what a job would make of it.
    pub share: Share,
    /// What it is guaranteed, as a part of 1: its weight over those of all that use the pool or have demand for it.
    pub guarantee: f64,
    /// The weight of its plan.
    pub weight: u32,
}

impl MemberShare {
    fn order(&self) -> FairShareOrder {
        FairShareOrder::new(&self.share, self.guarantee, self.weight)
    }

    /// Whether the job fits whole into the guarantee; then it comes before all jobs that do not.
    #[must_use]
    pub fn is_guaranteed(&self) -> bool {
        self.order().surplus_load().is_none()
    }
}

/// A class that waits for room.
#[derive(Clone, Debug)]
pub struct BlockedClass {
    pub member: MemberId,
    pub tenant: TenantId,
    pub class: ClassId,
    pub asked: Resources,
    pub tie_break: TieBreak,
}

/// What decides where the fair-share order is equal: the job that is first by aging, then the tenant, in an order that does
/// not depend on which was seen first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TieBreak {
    pub effective_since: i64,
    pub tenant: u64,
}

/// A class that may start a job, and where it comes in the fair-share order. The least is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Nomination {
    pub order: FairShareOrder,
    pub tie_break: TieBreak,
    pub tenant: TenantId,
    pub class: ClassId,
}

impl PoolShares {
    /// Sets what the pool's nodes have in all: what a tenant holds is another part of it from now on.
    pub fn set_capacity(&mut self, capacity: Resources, now: Timestamp) {
        self.capacity = capacity;
        for member in self.members.values_mut() {
            member.recent.set(part(&member.usage, &capacity), now);
        }
    }

    /// Whether the pool has nothing to share.
    pub fn is_empty(&self) -> bool {
        self.capacity == Resources::default()
    }

    // --- members

    /// Adds a tenant that used this lately.
    pub fn join(&mut self, weight: u32, recent: DecayedUsage) -> MemberId {
        self.members.insert(Member { weight: weight.max(1), recent, ..Member::default() })
    }

    /// Removes a tenant; returns what it used lately.
    pub fn leave(&mut self, member: MemberId) -> DecayedUsage {
        self.uncount(member);
        self.members.remove(member).map_or_else(DecayedUsage::default, |member| member.recent)
    }

    pub fn usage(&self, member: MemberId) -> &Resources {
        &self.members[member].usage
    }

    pub fn change_usage(&mut self, member: MemberId, change: impl FnOnce(&mut Resources), now: Timestamp) {
        let Member { usage, recent, .. } = &mut self.members[member];
        change(usage);
        recent.set(part(usage, &self.capacity), now);
    }

    /// Counts a tenant's weight. One that was not counted gets no credit for that time.
    pub fn count(&mut self, member: MemberId, now: Timestamp) {
        let least = self.surplus_load.mean(now);
        let member = &mut self.members[member];
        if !std::mem::replace(&mut member.counted, true) {
            self.weights += u64::from(member.weight);
            member.recent.raise_to(least * f64::from(member.weight), now);
        }
    }

    /// Counts a tenant's weight no more.
    pub fn uncount(&mut self, member: MemberId) {
        let member = &mut self.members[member];
        if std::mem::take(&mut member.counted) {
            self.weights -= u64::from(member.weight);
        }
    }

    /// A tenant's share, and what a job that asks for this would make of it.
    pub fn share(&self, member: MemberId, asked: &Resources, now: Timestamp) -> MemberShare {
        let Member { weight, usage, recent, .. } = &self.members[member];
        let share = Share {
            held: dominant_share(usage, &self.capacity),
            with_job: dominant_share(&(*usage + *asked), &self.capacity),
            recent: recent.mean(now),
        };
        let guarantee = f64::from(*weight) / self.weights.max(u64::from(*weight)) as f64;
        MemberShare { share, guarantee, weight: *weight }
    }

    /// Where a tenant's job that asks for this comes in the fair-share order.
    pub fn order(&self, member: MemberId, asked: &Resources, now: Timestamp) -> FairShareOrder {
        self.share(member, asked, now).order()
    }

    // --- blocked classes

    pub fn block(&mut self, class: BlockedClass) -> BlockedId {
        self.blocked.insert(class)
    }

    pub fn unblock(&mut self, class: BlockedId) {
        self.blocked.remove(class);
    }

    /// Another job is the first of its class.
    pub fn set_since(&mut self, class: BlockedId, effective_since: i64) {
        self.blocked[class].tie_break.effective_since = effective_since;
    }

    /// The tenants with a blocked class.
    pub fn blocked_tenants(&self) -> BTreeSet<TenantId> {
        self.blocked.values().map(|class| class.tenant).collect()
    }

    /// The blocked classes that may fit where no node has more than `room`, in no order.
    pub fn nominations(&self, room: Resources, now: Timestamp) -> impl Iterator<Item = Nomination> {
        self.blocked.values().filter(move |class| class.asked.fits(&room)).map(move |class| Nomination {
            order: self.order(class.member, &class.asked, now),
            tie_break: class.tie_break,
            tenant: class.tenant,
            class: class.class,
        })
    }

    // --- jobs that others overtake

    /// Counts the admission of a tenant's job, whose usage is not counted yet.
    pub fn count_admission(&mut self, member: MemberId, asked: &Resources, now: Timestamp) {
        if let Some(load) = self.order(member, asked, now).surplus_load() {
            self.surplus_load = DecayedUsage::past(load, now);
        }
        self.admitted.count(asked);
    }

    /// Jobs smaller than this that were admitted so far.
    pub fn smaller_admitted(&self, asked: &Resources) -> u64 {
        self.admitted.smaller(&SizeBucket::of(asked))
    }

    /// Has a tenant enqueued when `admitted` smaller jobs were admitted. That is never taken back: a tenant whose job waits no
    /// longer by then is enqueued once too often.
    pub fn watch(&mut self, asked: &Resources, admitted: u64, tenant: TenantId) {
        self.watches.entry(SizeBucket::of(asked)).or_default().insert((admitted, tenant));
    }

    /// At most `max` of the tenants whose job may starve by now; each watch is returned once.
    pub fn take_overtaken(&mut self, max: usize) -> Vec<TenantId> {
        let mut all = Vec::new();
        self.watches.retain(|size, tenants| {
            let admitted = self.admitted.smaller(size);
            while let Some(watch) =
                tenants.first().copied().filter(|(at, _)| *at <= admitted && all.len() < max)
            {
                tenants.remove(&watch);
                all.push(watch.1);
            }
            !tenants.is_empty()
        });
        all
    }
}

/// The part of a pool that is held, at most all of it: after a restart jobs are known before nodes, and nodes may leave with pods
/// on them.
fn part(held: &Resources, capacity: &Resources) -> f64 {
    dominant_share(held, capacity).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cores(cores: u64) -> Resources {
        Resources { cpu_milli: cores * 1000, memory_bytes: cores << 30, ..Resources::default() }
    }

    #[test]
    fn what_is_held_is_a_part_of_the_nodes_that_are_known() {
        let day = |day: i64| Timestamp::from_second(day * 24 * 3600).unwrap();
        let mut shares = PoolShares::default();
        let member = shares.join(1, DecayedUsage::default());
        // Given a job that is known before any node; within a day, a half of what is held is in the mean.
        shares.change_usage(member, |usage| *usage = cores(1), day(0));
        shares.set_capacity(cores(4), day(0));
        let recent = |shares: &PoolShares, at| shares.members[member].recent.mean(at);
        assert!((recent(&shares, day(1)) - 0.125).abs() < 1e-6);
        // When nodes join, and when all leave, it is another part, and never more than all.
        shares.set_capacity(cores(1), day(1));
        assert!((recent(&shares, day(2)) - (0.125 + 1.0) / 2.0).abs() < 1e-6);
        shares.set_capacity(Resources::default(), day(2));
        assert!(recent(&shares, day(9)) <= 1.0);
    }
}
