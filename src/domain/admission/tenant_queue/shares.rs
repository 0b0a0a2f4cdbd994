//! What a tenant has of the pools that it shares, and where its jobs come there.

use std::sync::Arc;

use super::{Membership, TenantQueue};
use crate::domain::admission::{
    ids::{ClassId, PoolId},
    job_class::JobClass,
    job_entry::JobEntry,
    pool_shares::{MemberShare, Nomination},
    shared::Shared,
};

/// What a tenant has of one pool that others use, too, and what a job would make of it.
#[derive(Clone, Debug)]
pub struct PoolShare {
    /// Name of the pool.
    pub pool: Arc<str>,
    /// The tenant's share of it.
    pub share: MemberShare,
}

impl TenantQueue {
    /// Where the first job of a class comes in the order of all that contend for a pool.
    pub fn nomination(&self, class: ClassId, pool: PoolId, shared: &Shared) -> Option<Nomination> {
        let JobClass { shape, .. } = &self.classes[class];
        let (rank, _) = self.classes[class].first()?;
        let membership = self.memberships.iter().find(|membership| membership.pool == pool)?;
        let order = shared.inventory.shares(pool).order(membership.member, &shape.asked, shared.now.steady);
        Some(Nomination { order, tie_break: self.tie_break_of(rank), tenant: self.id, class })
    }

    /// The tenant's shares of the pools that a job may use, in the order of preference, without its own group, which it
    /// shares with no other tenant.
    pub fn pool_shares(&self, job: &JobEntry, shared: &Shared) -> Vec<PoolShare> {
        let shape = job.shape();
        let memberships = self.allowed(&shape).iter().filter(|membership| self.is_shared(membership.pool));
        let share = |membership: &Membership| PoolShare {
            pool: shared.inventory.pool_name(membership.pool),
            share: shared.inventory.shares(membership.pool).share(
                membership.member,
                &shape.asked,
                shared.now.steady,
            ),
        };
        memberships.map(share).collect()
    }
}
