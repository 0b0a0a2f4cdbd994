//! What a tenant has of the pools that it shares, as `GET /jobs/{id}/why` shows it.

use std::sync::Arc;

use super::{Membership, TenantQueue};
use crate::domain::admission::{job_entry::JobEntry, pool_shares::MemberShare, shared::Shared};

/// What a tenant has of one pool that others use, too, and what a job would make of it.
#[derive(Clone, Debug)]
pub struct PoolShare {
    /// Name of the pool.
    pub pool: Arc<str>,
    /// The tenant's share of it.
    pub share: MemberShare,
}

impl TenantQueue {
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
