//! The first job of a tenant that is blocked, and how many jobs overtake it: see [`backfill`](crate::domain::admission::backfill).

use super::{Membership, TenantQueue};
use crate::{
    api_types::Reason,
    domain::admission::{
        backfill::BACKFILL_LIMIT,
        inventory::Inventory,
        job_class::{BackfillCount, Inadmissible, NoRoom},
    },
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
                let pools = self.memberships[count.allowed.clone()].iter().map(|membership| membership.pool);
                pools.map(|pool| inventory.shares(pool).smaller_admitted(&count.asked)).sum()
            }
        }
    }

    /// Finds the job that is now the first that is blocked.
    pub(super) fn find_blocked_job(&mut self, inventory: &mut Inventory) {
        self.count_overtakes(inventory);
        let blocked =
            self.classes.values().filter_map(|class| {
                let by_quota = match class.inadmissible? {
                    Inadmissible::Quota(excess) if excess.reason() == Reason::WaitingForQuota => true,
                    Inadmissible::Room(NoRoom::Full) => false,
                    Inadmissible::Quota(_)
                    | Inadmissible::Room(
                        NoRoom::NoNodes | NoRoom::TooLarge | NoRoom::Reserved | NoRoom::NoJob,
                    ) => return None,
                };
                let (rank, job) = class.first()?;
                Some((rank, job, by_quota, &class.shape))
            });
        let first = blocked.min_by(|a, b| a.0.cmp(b.0)).map(|(_, job, by_quota, shape)| {
            let allowed = self.allowed_range(shape.group.as_deref());
            let new = BackfillCount { job, by_quota, allowed, asked: shape.asked, counted: 0 };
            let same = self.backfill_count.as_ref().filter(|old| (old.job, old.by_quota) == (job, by_quota));
            let counted = same.map_or_else(|| self.admissions_before(&new, inventory), |old| old.counted);
            BackfillCount { counted, ..new }
        });
        self.backfill_count = first;
        self.watch_pools(inventory);
    }

    /// Has the tenant enqueued when enough jobs may have overtaken its own. If those that are missing are admitted, one of
    /// its pools has admitted at least that number divided by the number of pools.
    fn watch_pools(&self, inventory: &mut Inventory) {
        let Some(count) = self.backfill_count.as_ref().filter(|count| !count.by_quota) else { return };
        let missing = BACKFILL_LIMIT.saturating_sub(self.overtaken.times(count.job));
        let memberships = &self.memberships[count.allowed.clone()];
        for Membership { pool, .. } in memberships.iter().filter(|_| missing > 0) {
            let shares = inventory.shares_mut(*pool);
            let at = shares.smaller_admitted(&count.asked) + missing.div_ceil(memberships.len() as u64);
            shares.watch(&count.asked, at, self.id);
        }
    }
}
