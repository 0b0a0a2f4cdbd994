//! A tenant's queue: its lines of jobs that ask for the same, each judged by its first.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    contest::Waiter,
    placement::Rooms,
    quota::Excess,
    seat::{Seat, Share},
};
use crate::{
    api_types::{Reason, job::OnQuota, plan::Limit},
    domain::{
        queue_order::{Age, Rank},
        resources::Resources,
    },
};

/// What jobs have in common that are judged together.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) asked: Resources,
    /// The only group that they may use.
    pub(super) group: Option<Arc<str>>,
    pub(super) on_quota: OnQuota,
    /// They have never run: the hourly window counts them.
    pub(super) fresh: bool,
}

/// Jobs of one shape, in the queue.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) shape: Shape,
    pub(super) jobs: BTreeMap<Rank, usize>,
    /// What holds its first job, and so all of them, back; `None` until that is known.
    pub(super) hold: Option<Hold>,
    /// The edition of the nodes and quotas by which they could run at all.
    pub(super) verified: Option<u64>,
    /// How often its jobs are to be gone through yet for those to be told why they wait: twice where the reason became
    /// another one meanwhile.
    pub(super) tellings: u8,
    /// The reason that its jobs were to be told last.
    pub(super) told: Option<Reason>,
    /// Jobs whose first assessment is not concluded, with some that have left.
    pub(super) pending: Vec<usize>,
    /// Its entries among those that wait for room: groups and numbers there.
    waits: Vec<(usize, usize)>,
}

impl Line {
    fn new(shape: Shape) -> Self {
        Self {
            shape,
            jobs: BTreeMap::new(),
            hold: None,
            verified: None,
            tellings: 0,
            told: None,
            pending: Vec::new(),
            waits: Vec::new(),
        }
    }
}

/// What holds a job back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Something of the tenant's own: its quotas, or what is set aside of them.
    Quota(Excess),
    /// Room on the nodes. The sentence is made when it is asked for.
    Room(Reason),
}

impl Hold {
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Quota(excess) => excess.reason(),
            Self::Room(reason) => reason,
        }
    }
}

impl Seat {
    /// Puts a job into the queue; returns its line.
    pub(super) fn enter(&mut self, job: usize, rank: Rank, shape: Shape, rooms: &mut Rooms) -> usize {
        let may_use = self.may_use(shape.group.as_deref());
        self.shares[may_use].iter_mut().for_each(|share| share.wanted += 1);
        self.inside.insert(rank.age().clone(), job);
        let number = match self.shapes.get(&shape) {
            Some(number) => *number,
            None => {
                let number = self.lines.insert(Line::new(shape.clone()));
                self.shapes.insert(shape, number);
                number
            }
        };
        self.change_line(number, rooms, |line| line.jobs.insert(rank, job));
        number
    }

    /// Takes a job out of the queue.
    pub(super) fn leave(&mut self, job: usize, rank: &Rank, number: usize, rooms: &mut Rooms) {
        let may_use = self.may_use(self.lines[number].shape.group.as_deref());
        self.shares[may_use].iter_mut().for_each(|share| share.wanted -= 1);
        self.inside.remove(rank.age());
        self.change_line(number, rooms, |line| line.jobs.remove(rank));
        self.skips.forget(job);
        if self.skipped.as_ref().is_some_and(|skipped| skipped.job == job) {
            self.skip(None, rooms);
        }
        if self.lines[number].jobs.is_empty() {
            self.wait_no_more(number, rooms);
            let line = self.lines.remove(number);
            self.shapes.remove(&line.shape);
        }
    }

    /// Changes a line's jobs, and keeps `heads` and `chances` in order.
    fn change_line<T>(&mut self, number: usize, rooms: &mut Rooms, change: impl FnOnce(&mut Line) -> T) {
        let line = &mut self.lines[number];
        let before = line.jobs.first_key_value().map(|(rank, _)| rank.clone());
        change(line);
        let after = line.jobs.first_key_value().map(|(rank, _)| rank.clone());
        if before == after {
            return;
        }
        if let Some(rank) = &after {
            line.waits.iter().for_each(|(group, n)| rooms.contest_mut(*group).stand(*n, rank.standing()));
        }
        let all = if line.hold.is_none() { &mut self.heads } else { &mut self.chances };
        let had = before.is_some_and(|rank| all.remove(&(rank, number)));
        if let Some(rank) = after.filter(|_| had || line.hold.is_none()) {
            all.insert((rank, number));
        }
    }

    /// Notes what holds a line back. One that waits for room stands among those of each group that it may use.
    pub(super) fn block(&mut self, number: usize, hold: Hold, rooms: &mut Rooms) {
        self.wait_no_more(number, rooms);
        let line = &self.lines[number];
        let Some(rank) = line.jobs.first_key_value().map(|(rank, _)| rank.clone()) else { return };
        if matches!(hold, Hold::Room(_)) {
            let place = self.place_of(&rank);
            let asked = line.shape.asked;
            let wait = |share: &Share| {
                let waiter = Waiter { stake: share.stake, seat: self.number, line: number, asked, place };
                (share.group, rooms.contest_mut(share.group).wait(waiter))
            };
            let may_use = self.may_use(line.shape.group.as_deref());
            self.lines[number].waits = self.shares[may_use].iter().map(wait).collect();
        }
        if self.lines[number].hold.is_none() {
            self.heads.remove(&(rank, number));
        }
        self.lines[number].hold = Some(hold);
    }

    /// Lets a line be judged again.
    pub(super) fn unblock(&mut self, number: usize, rooms: &mut Rooms) {
        self.wait_no_more(number, rooms);
        let line = &mut self.lines[number];
        if let (Some(_), Some((rank, _))) = (line.hold.take(), line.jobs.first_key_value()) {
            self.heads.insert((rank.clone(), number));
        }
    }

    fn wait_no_more(&mut self, number: usize, rooms: &mut Rooms) {
        let waits = std::mem::take(&mut self.lines[number].waits);
        waits.into_iter().for_each(|(group, waiter)| rooms.contest_mut(group).wait_no_more(waiter));
    }

    /// Notes the lines that were held back for room and may find it now.
    pub(super) fn see_chances(&mut self, rooms: &Rooms) {
        for (number, line) in &self.lines {
            let may_fit = line.waits.iter().any(|(group, _)| rooms.may_fit(*group, &line.shape.asked));
            if let (true, Some((rank, _))) = (may_fit, line.jobs.first_key_value()) {
                self.chances.insert((rank.clone(), number));
            }
        }
    }

    /// Lets a line be judged for which there may be room.
    pub(super) fn take_chance(&mut self, rank: &Rank, line: usize, rooms: &mut Rooms) {
        self.chances.remove(&(rank.clone(), line));
        self.unblock(line, rooms);
    }

    /// How many jobs were submitted before this one and wait; counted up to `most`.
    pub(super) fn queued_before(&self, age: &Age, most: u64) -> u64 {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let older = |jobs: &BTreeMap<Age, usize>| jobs.range(..age.clone()).take(most).count() as u64;
        self.backing + older(&self.inside) + older(&self.outside)
    }

    /// Whether the queue has a place for so many jobs.
    pub(super) fn has_places(&self, jobs: u64) -> bool {
        let most = self.view.as_ref().map_or(0, |view| view.quotas.max_queued_jobs);
        Limit::from_quota(most).allows(jobs)
    }

    /// Jobs that have a place in the queue.
    pub(super) fn places(&self) -> u64 {
        self.inside.len() as u64 + self.backing
    }
}
