//! A tenant's job that has no room, and who passes it: the bookkeeping of [`skip_ahead`](crate::domain::skip_ahead).

use std::ops::Range;

use super::{placement::Rooms, seat::Seat};
use crate::{
    api_types::Reason,
    domain::{resources::Resources, skip_ahead::ENOUGH},
};

/// The first job that was found to have no room.
#[derive(Clone, Debug)]
pub(super) struct Skipped {
    pub(super) job: usize,
    /// Passed by jobs of its own tenant only: it is a quota that it waits for.
    pub(super) by_quota: bool,
    pub(super) may_use: Range<usize>,
    pub(super) asked: Resources,
    /// Admissions that were counted before.
    pub(super) before: u64,
    /// Where the seat is to be looked at when enough may have passed: groups, and the admissions there.
    watches: Vec<(usize, u64)>,
}

impl Seat {
    /// Counts who has passed the job that is skipped.
    pub(super) fn count_passed(&mut self, rooms: &Rooms) {
        let Some(skipped) = &self.skipped else { return };
        let now = self.admissions(skipped, rooms);
        self.skips.passed(skipped.job, now.saturating_sub(skipped.before));
        if let Some(skipped) = &mut self.skipped {
            skipped.before = now;
        }
    }

    /// Admissions so far that could have passed a job.
    fn admissions(&self, skipped: &Skipped, rooms: &Rooms) -> u64 {
        match skipped.by_quota {
            true => self.admitted,
            false => {
                let shares = self.shares[skipped.may_use.clone()].iter();
                shares.map(|share| rooms.contest(share.group).smaller_admitted(&skipped.asked)).sum()
            }
        }
    }

    /// Looks which job is now the first that has no room.
    pub(super) fn find_skipped(&mut self, rooms: &mut Rooms) {
        self.count_passed(rooms);
        let held = self.lines.iter().filter_map(|(_, line)| {
            let by_quota = match line.hold?.reason() {
                Reason::WaitingForQuota => true,
                Reason::WaitingForCapacity => false,
                _ => return None,
            };
            let (rank, job) = line.jobs.first_key_value()?;
            Some((rank, *job, by_quota, line))
        });
        let first = held.min_by(|a, b| a.0.cmp(b.0));
        let mut first = first.map(|(_, job, by_quota, line)| Skipped {
            job,
            by_quota,
            may_use: self.may_use(line.shape.group.as_deref()),
            asked: line.shape.asked,
            before: 0,
            watches: Vec::new(),
        });
        if let Some(new) = &mut first {
            let same = self.skipped.as_ref().filter(|old| (old.job, old.by_quota) == (new.job, new.by_quota));
            new.before = same.map_or_else(|| self.admissions(new, rooms), |old| old.before);
        }
        self.skip(first, rooms);
        self.watch(rooms);
    }

    /// Another job is the first that has no room, or none.
    pub(super) fn skip(&mut self, job: Option<Skipped>, rooms: &mut Rooms) {
        if let Some(old) = std::mem::replace(&mut self.skipped, job) {
            for (group, at) in old.watches {
                rooms.contest_mut(group).unwatch(&old.asked, at, self.number);
            }
        }
    }

    /// Sees to it that the seat is looked at when enough have passed its job. In one of several groups at least as many
    /// have by then as are missing now, by the number of groups.
    fn watch(&mut self, rooms: &mut Rooms) {
        let Some(skipped) = self.skipped.as_mut().filter(|skipped| !skipped.by_quota) else { return };
        let missing = ENOUGH.saturating_sub(self.skips.times(skipped.job));
        let shares = &self.shares[skipped.may_use.clone()];
        if missing == 0 || shares.is_empty() {
            return;
        }
        let each = missing.div_ceil(shares.len() as u64);
        for share in shares {
            let contest = rooms.contest_mut(share.group);
            let at = contest.smaller_admitted(&skipped.asked) + each;
            contest.watch(&skipped.asked, at, self.number);
            skipped.watches.push((share.group, at));
        }
    }
}
