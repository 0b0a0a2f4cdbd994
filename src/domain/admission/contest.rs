//! The tenants of one worker group: what each holds of it, whose jobs wait for room there, and whose jobs were passed.
//!
//! The lines that wait stand in a table. When a node has more room the table is read from end to end, and for each line
//! that may fit the turn of its tenant is reckoned as of that moment. It can't be kept sorted, because recent shares fade
//! while nothing happens; reading ten thousand lines takes less than a millisecond.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use slab::Slab;

use crate::domain::{
    fair_share::{Lasting, Recent, Share, Turn, dominant_share},
    resources::Resources,
    skip_ahead::{Admissions, Size},
};

#[derive(Debug, Default)]
pub(super) struct Contest {
    stakes: Slab<Stake>,
    waiters: Slab<Waiter>,
    /// Weights of the tenants that hold or want something.
    weights: u64,
    /// How long jobs run.
    lasting: Lasting,
    /// Jobs admitted so far.
    admissions: Admissions,
    /// Seats whose job has no room, by its size and by the number of smaller admissions at which it may be due.
    passed: BTreeMap<Size, BTreeSet<(u64, usize)>>,
}

/// A tenant's part of the group.
#[derive(Debug, Default)]
struct Stake {
    weight: u32,
    held: Resources,
    recent: Recent,
    /// It holds or wants something: its weight counts.
    counts: bool,
}

/// A line of jobs that waits for room.
#[derive(Clone, Debug)]
pub(super) struct Waiter {
    /// The tenant's part of the group.
    pub(super) stake: usize,
    pub(super) seat: usize,
    pub(super) line: usize,
    pub(super) asked: Resources,
    /// Decides between equal turns.
    pub(super) place: Place,
}

/// Who comes first where it is nobody's turn more than another's: the job that stands longer, then the tenant, in an
/// order that does not depend on who was told of first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) standing: i64,
    pub(super) tenant: u64,
}

/// A line for which there may be room, and how near its turn is. The least is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bid {
    pub(super) turn: Turn,
    pub(super) place: Place,
    pub(super) seat: usize,
    pub(super) line: usize,
}

impl Contest {
    // --- stakes

    /// A tenant comes, which held this lately.
    pub(super) fn join(&mut self, weight: u32, recent: Recent) -> usize {
        self.stakes.insert(Stake { weight: weight.max(1), recent, ..Stake::default() })
    }

    /// A tenant goes; says what it held lately.
    pub(super) fn leave(&mut self, stake: usize) -> Recent {
        self.weigh(stake, false);
        self.stakes.remove(stake).recent
    }

    /// What a tenant holds.
    pub(super) fn held(&self, stake: usize) -> &Resources {
        &self.stakes[stake].held
    }

    /// Sets what a tenant holds of so much.
    pub(super) fn hold(&mut self, stake: usize, held: Resources, capacity: &Resources, now: Timestamp) {
        let stake = &mut self.stakes[stake];
        stake.held = held;
        stake.recent.hold(dominant_share(&held, capacity), now, &self.lasting);
    }

    /// Sets whether a tenant holds or wants anything.
    pub(super) fn weigh(&mut self, stake: usize, counts: bool) {
        let stake = &mut self.stakes[stake];
        if stake.counts != counts {
            stake.counts = counts;
            let weight = u64::from(stake.weight);
            self.weights = if counts { self.weights + weight } else { self.weights - weight };
        }
    }

    /// A job has ended after so many seconds.
    pub(super) fn ended(&mut self, seconds: f64) {
        self.lasting.ended(seconds);
    }

    /// How near a tenant's turn is with a job that asks for this.
    pub(super) fn turn(&self, stake: usize, asked: &Resources, capacity: &Resources, now: Timestamp) -> Turn {
        let fading = self.lasting.fading();
        self.turn_at(&self.stakes[stake], asked, capacity, fading, now)
    }

    fn turn_at(
        &self,
        stake: &Stake,
        asked: &Resources,
        capacity: &Resources,
        fading: f64,
        now: Timestamp,
    ) -> Turn {
        let Stake { weight, held, recent, .. } = stake;
        let guarantee = f64::from(*weight) / self.weights.max(u64::from(*weight)) as f64;
        let part = |of: &Resources| dominant_share(of, capacity);
        let share = Share {
            held: part(held),
            then: part(&(*held + *asked)),
            recent: recent.mean(now, &self.lasting),
            fading,
        };
        Turn::new(&share, guarantee, *weight)
    }

    // --- lines that wait

    /// A line waits for room.
    pub(super) fn wait(&mut self, waiter: Waiter) -> usize {
        self.waiters.insert(waiter)
    }

    /// It waits no more.
    pub(super) fn wait_no_more(&mut self, waiter: usize) {
        self.waiters.remove(waiter);
    }

    /// Another job is its first.
    pub(super) fn stand(&mut self, waiter: usize, standing: i64) {
        self.waiters[waiter].place.standing = standing;
    }

    /// All that wait.
    pub(super) fn waiters(&self) -> impl Iterator<Item = &Waiter> {
        self.waiters.iter().map(|(_, waiter)| waiter)
    }

    /// Those that may find room where no node has more than `room`.
    pub(super) fn bids(
        &self,
        room: Resources,
        capacity: Resources,
        now: Timestamp,
    ) -> impl Iterator<Item = Bid> {
        let fading = self.lasting.fading();
        self.waiters().filter(move |waiter| waiter.asked.fits(&room)).map(move |waiter| Bid {
            turn: self.turn_at(&self.stakes[waiter.stake], &waiter.asked, &capacity, fading, now),
            place: waiter.place,
            seat: waiter.seat,
            line: waiter.line,
        })
    }

    // --- jobs that were passed

    /// Counts an admission.
    pub(super) fn admitted(&mut self, asked: &Resources) {
        self.admissions.count(asked);
    }

    /// Jobs smaller than this that were admitted so far.
    pub(super) fn smaller_admitted(&self, asked: &Resources) -> u64 {
        self.admissions.smaller(&Size::of(asked))
    }

    /// A seat is to be looked at again when so many smaller ones were admitted.
    pub(super) fn watch(&mut self, asked: &Resources, admitted: u64, seat: usize) {
        self.passed.entry(Size::of(asked)).or_default().insert((admitted, seat));
    }

    /// Takes [`Self::watch`] back.
    pub(super) fn unwatch(&mut self, asked: &Resources, admitted: u64, seat: usize) {
        let size = Size::of(asked);
        if let Some(seats) = self.passed.get_mut(&size) {
            seats.remove(&(admitted, seat));
            if seats.is_empty() {
                self.passed.remove(&size);
            }
        }
    }

    /// At most so many of the seats that are to be looked at; each is said once.
    pub(super) fn take_passed(&mut self, most: usize) -> Vec<usize> {
        let mut all = Vec::new();
        self.passed.retain(|size, seats| {
            let admitted = self.admissions.smaller(size);
            let reached =
                |seats: &BTreeSet<(u64, usize)>| seats.first().filter(|(at, _)| *at <= admitted).copied();
            while let Some((at, seat)) = reached(seats).filter(|_| all.len() < most) {
                seats.remove(&(at, seat));
                all.push(seat);
            }
            !seats.is_empty()
        });
        all
    }
}
