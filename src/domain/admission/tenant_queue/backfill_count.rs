//! The first job of a tenant that is blocked, and how many jobs overtake it: see [`backfill`](crate::domain::admission::backfill).

use super::TenantQueue;
use crate::{
    api_types::Reason,
    domain::admission::{backfill::BACKFILL_LIMIT, inventory::Inventory, job_class::BackfillCount},
};

impl TenantQueue {
    /// Counts the jobs that have overtaken the first blocked job.
    pub fn count_overtakes(&mut self, inventory: &Inventory) {
        let Some(count) = &self.backfill_count else { return };
        let admissions = self.admissions_before(count, inventory);
        self.overtaken.add(count.job, admissions.saturating_sub(count.counted));
        if let Some(count) = &mut self.backfill_count {
            count.counted = admissions;
        }
    }

    /// Admissions so far that could have overtaken a job.
    fn admissions_before(&self, count: &BackfillCount, inventory: &Inventory) -> u64 {
        match count.by_quota {
            true => self.admitted,
            false => {
                count.pools.iter().map(|pool| inventory.shares(*pool).smaller_admitted(&count.asked)).sum()
            }
        }
    }

    /// Finds the job that is now the first that is blocked.
    pub(super) fn find_blocked_job(&mut self, inventory: &mut Inventory) {
        self.count_overtakes(inventory);
        let blocked = self.classes.values().filter_map(|class| {
            let by_quota = match class.inadmissible?.reason() {
                Reason::WaitingForQuota => true,
                Reason::WaitingForCapacity => false,
                _ => return None,
            };
            let (rank, job) = class.first()?;
            Some((rank, job, by_quota, &class.shape))
        });
        let first = blocked.min_by(|a, b| a.0.cmp(b.0)).map(|(_, job, by_quota, shape)| {
            let (pools, asked) = (self.pools(shape).collect(), shape.asked);
            BackfillCount { job, by_quota, pools, asked, counted: 0, watches: Vec::new() }
        });
        let first = first.map(|new| {
            let same =
                self.backfill_count.as_ref().filter(|old| (old.job, old.by_quota) == (new.job, new.by_quota));
            let counted = same.map_or_else(|| self.admissions_before(&new, inventory), |old| old.counted);
            BackfillCount { counted, ..new }
        });
        self.set_backfill_count(first, inventory);
        self.watch_pools(inventory);
    }

    pub(super) fn set_backfill_count(&mut self, count: Option<BackfillCount>, inventory: &mut Inventory) {
        if let Some(old) = std::mem::replace(&mut self.backfill_count, count) {
            for (pool, at) in old.watches {
                inventory.shares_mut(pool).unwatch(&old.asked, at, self.id);
            }
        }
    }

    /// Has the tenant enqueued when enough jobs may have overtaken its own. If those that are missing are admitted, one of
    /// its pools has admitted at least that number divided by the number of pools.
    fn watch_pools(&mut self, inventory: &mut Inventory) {
        let Some(count) = self.backfill_count.as_mut().filter(|count| !count.by_quota) else { return };
        let missing = BACKFILL_LIMIT.saturating_sub(self.overtaken.times(count.job));
        if missing == 0 || count.pools.is_empty() {
            return;
        }
        let each = missing.div_ceil(count.pools.len() as u64);
        for pool in &count.pools {
            let at = inventory.shares(*pool).smaller_admitted(&count.asked) + each;
            inventory.shares_mut(*pool).watch(&count.asked, at, self.id);
            count.watches.push((*pool, at));
        }
    }
}
