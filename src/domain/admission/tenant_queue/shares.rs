//! What a tenant has of the pools that it shares, as `GET /jobs/{id}/why` shows it.

use std::sync::Arc;

use super::{Membership, TenantQueue};
use crate::domain::admission::{job_entry::JobEntry, pool_shares::MemberShare, shared::Shared};

/// What a tenant has of one pool that others use, too, and what a job would make of it.
#[derive(Clone, Debug)]
pub struct PoolShare {
    /// The worker group of the pool.
    pub pool: Arc<str>,
    /// The tenant's share of it.
    pub share: MemberShare,
}

impl TenantQueue {
    /// The tenant's shares of the pools that a job may use, in the order of preference, without its own group, which it
    /// shares with no other tenant, and without pools that have no node: any job would be a boundless part of them.
    pub fn pool_shares(&self, job: &JobEntry, shared: &Shared) -> Vec<PoolShare> {
        let shape = job.shape();
        let share = |Membership { pool, member, .. }: &Membership| {
            let shares = shared.inventory.shares(*pool);
            let is_shown = self.is_shared(*pool) && !shares.is_empty();
            is_shown.then(|| PoolShare {
                pool: shared.inventory.pool_name(*pool),
                share: shares.share(*member, &shape.asked, shared.now.steady),
            })
        };
        self.allowed(&shape).iter().filter_map(share).collect()
    }
}
