//! Admission: which waiting jobs may start now, and why the others may not.
//!
//! A [`Dispatcher`] is told of every change of tenants, workers, jobs and pods, and decides from all it knows. Within a
//! tenant jobs are taken in the order of [`queue_order`](super::queue_order). A job is admitted when its tenant accepts
//! work, the tenant's quotas and hourly window have room, and one node of a worker group that it may use has room for
//! all of it: first in the tenant's own group, where nobody else contends, then in the shared pools, where the tenants
//! take turns by [`fair_share`](super::fair_share). What does not fit lets others pass, up to the bound of
//! [`skip_ahead`](super::skip_ahead). Admitted jobs are counted at once, so the same room is never handed out twice.
//!
//! Guarantees after every [`Dispatcher::decide`]:
//! - no quota and no node holds more than it allows, by what was told and admitted;
//! - nothing that fits is left waiting, except what is kept for a job that is due;
//! - what was decided follows from what was told, not from the order in which it was told, but for who was passed
//!   how often and who held what lately: these are forgotten by a restart, and nothing breaks by it.
//!
//! Time comes in with [`Dispatcher::tick`]. Jobs of one tenant that ask for the same are judged once. A decision looks at
//! the tenants of whose own something has changed; where there is more room it reads the table of those that wait for it
//! (`contest`) and looks at them in turn, until the room is used up. So it takes a few nanoseconds for each tenant that
//! waits, and about log n steps for each change and each admission; nothing for each job that waits.

mod answers;
mod contest;
mod due;
mod entry;
mod intake;
mod judge;
mod lane;
mod pass;
mod passed;
mod placement;
mod queue;
mod quota;
mod seat;
mod sentences;
#[cfg(test)]
mod simulation_tests;
#[cfg(test)]
mod simulator;
#[cfg(test)]
mod tests;
mod tree;
mod views;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use slab::Slab;

pub use self::views::{
    Admission, JobStanding, JobView, ProspectiveJob, TenantView, Usage, Verdict, WorkerView,
};
use self::{
    entry::{Entry, Stand},
    lane::Lane,
    placement::Rooms,
    seat::Seat,
};
use super::{rate_window::RateWindow, resources::Resources};
use crate::{
    api_types::{JobPhase, tenant::JobWindow},
    clock::ClockReading,
};

/// All that admission knows.
#[derive(Debug, Default)]
pub struct Dispatcher {
    now: ClockReading,
    seats: Slab<Seat>,
    /// Seats by namespace.
    namespaces: HashMap<Arc<str>, usize>,
    jobs: Slab<Entry>,
    uids: HashMap<Arc<str>, usize>,
    /// Where pods run and what they use there, by UID of the pod.
    pods: HashMap<Arc<str>, (usize, Resources)>,
    rooms: Rooms,
    /// Seats for which something has changed since the last decision.
    listed: Vec<usize>,
    /// Seats to assess again when their hourly window resets, by the time of day.
    window_resets: BTreeSet<(Timestamp, usize)>,
    /// Seats to assess again when a pause is over, by the steady clock.
    timers: BTreeSet<(Timestamp, usize)>,
    /// Seats with a job that is due and waits for a node to be kept for it, by since when, counted.
    unserved: BTreeMap<u64, usize>,
    /// How many there were so far.
    unserved_ever: u64,
    decided: Vec<Arc<str>>,
    news: Vec<usize>,
    lane: Lane,
    /// How many lines were judged so far.
    #[cfg(test)]
    judged: usize,
}

/// What a decision has brought.
#[derive(Debug, Default)]
pub struct Decision {
    /// Jobs by UID that were admitted or are refused, in the order in which it was decided.
    pub decided: Vec<Arc<str>>,
    /// Namespaces of tenants whose usage has changed.
    pub usage: Vec<Arc<str>>,
}

/// What a tenant's jobs come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Account {
    /// What they use.
    pub usage: Usage,
    /// Those that have ended, by phase.
    pub ended: BTreeMap<JobPhase, u64>,
    /// Jobs charged in the hourly window in force.
    pub started: u64,
    /// When that ends.
    pub resets_at: Option<Timestamp>,
    /// The window, as it is to be stored.
    pub window: Option<JobWindow>,
    /// Whether somebody waits for a pod that may go once that is stored.
    pub awaited: bool,
}

/// # What is told
impl Dispatcher {
    /// One that knows nothing yet. Nodes of the `elastic` groups are supplied by an autoscaler.
    #[must_use]
    pub fn new<'a>(elastic: impl IntoIterator<Item = &'a str>) -> Self {
        let mut new = Self::default();
        elastic.into_iter().for_each(|group| new.rooms.set_elastic(group));
        new
    }

    /// Sets the time. The next decision assesses again what waited for a time that has come. Hourly windows go by the
    /// time of day, as the API server's timestamps do; every other pause goes by the steady clock, so that none gets longer
    /// when the time of day is set back.
    pub fn tick(&mut self, now: ClockReading) {
        self.now = now;
        let mut due = due_by(&mut self.window_resets, now.wall);
        due.append(&mut due_by(&mut self.timers, now.steady));
        for (_, seat) in due {
            // The number may belong to a newer tenant by now: then this is one assessment too many.
            if self.seats.contains(seat) {
                self.unpark(seat);
                self.stir(seat);
            }
        }
    }

    /// How long after `now` something changes by itself; not positive where that is due.
    #[must_use]
    pub fn next_wake(&self, now: ClockReading) -> Option<SignedDuration> {
        let until = |at: Option<&(Timestamp, usize)>, now| at.map(|(at, _)| at.duration_since(now));
        let (reset, timer) = (self.window_resets.first(), self.timers.first());
        [until(reset, now.wall), until(timer, now.steady)].into_iter().flatten().min()
    }

    /// Sets what the tenant of a namespace is, or that it is none's.
    pub fn set_tenant(&mut self, namespace: &str, view: Option<TenantView>) {
        let number = self.seat(namespace);
        if self.seats[number].view == view {
            return self.forget_seat(number);
        }
        let stays = |entry: &Entry| match &entry.stand {
            Stand::Active { .. } | Stand::Admitted { claimed: true, .. } => true,
            // Nothing starts after a tenant has closed.
            Stand::Admitted { group, .. } => {
                view.as_ref().is_some_and(|v| v.closed.is_none() && v.groups.iter().any(|g| **g == **group))
            }
            _ => false,
        };
        let members = self.seats[number].members.iter().copied();
        let (stay, again): (Vec<usize>, Vec<usize>) = members.partition(|job| stays(&self.jobs[*job]));
        again.iter().for_each(|job| self.withdraw(*job));
        let seat = &mut self.seats[number];
        seat.sit(view, &mut self.rooms);
        for job in stay {
            let entry = &self.jobs[job];
            let asked = entry.size();
            seat.change_share(entry.stand.group(), |held| *held += asked, &mut self.rooms, self.now.steady);
        }
        again.iter().for_each(|job| self.put(*job));
        self.stir(number);
        self.forget_seat(number);
    }

    /// Takes over what is stored of a tenant's hourly window. To be told before its pods, once, after a restart.
    pub fn restore_window(&mut self, namespace: &str, stored: &JobWindow) {
        let number = self.seat(namespace);
        self.seats[number].window.restore(stored);
        self.stir(number);
    }

    /// Says of which jobs the first pod is still held by its finalizer. To be told once after a restart, when all pods
    /// are known.
    pub fn keep_settling(&mut self, held: impl Fn(&str) -> bool) {
        self.seats.iter_mut().for_each(|(_, seat)| seat.window.keep_settling(&held));
    }

    /// Counts a job in its tenant's hourly window: its first pod was seen, with its finalizer.
    pub fn charge(&mut self, namespace: &str, job_uid: &str, created: Timestamp) {
        self.change_window(namespace, |window| window.charge(job_uid, created));
    }

    /// A job's first pod is to be let go: its charge must be in what is stored from now on. `soon` where somebody waits
    /// for it.
    pub fn settle(&mut self, namespace: &str, job_uid: &str, soon: bool) {
        let number = self.seat(namespace);
        if soon {
            self.seats[number].awaited.insert(job_uid.into());
        }
        self.change_window(namespace, |window| {
            window.settle(job_uid);
        });
    }

    /// A job's first pod has been let go.
    pub fn released(&mut self, namespace: &str, job_uid: &str) {
        let number = self.seat(namespace);
        self.seats[number].awaited.remove(job_uid);
        self.change_window(namespace, |window| window.released(job_uid));
    }

    /// Whether what is stored of a tenant's hourly window allows a job's first pod to go; see [`RateWindow::may_let_go`].
    #[must_use]
    pub fn may_let_go(
        &self,
        namespace: &str,
        stored: Option<&JobWindow>,
        job_uid: &str,
        created: Timestamp,
        now: Timestamp,
    ) -> bool {
        let window = self.namespaces.get(namespace).map(|number| &self.seats[*number].window);
        window.is_some_and(|window| window.may_let_go(stored, job_uid, created, now))
    }

    fn change_window(&mut self, namespace: &str, change: impl FnOnce(&mut RateWindow)) {
        let number = self.seat(namespace);
        change(&mut self.seats[number].window);
        self.tell_usage(number);
        self.list(number);
    }

    /// Sets what a node can take, or that it is no worker (any more).
    pub fn set_worker(&mut self, name: &str, view: Option<WorkerView>) {
        self.rooms.set_worker(name, view);
    }

    /// Sets where a pod, of a job or not, runs and what it uses there; `None` where it uses nothing (any more).
    pub fn set_pod(&mut self, uid: &Arc<str>, place: Option<(&str, Resources)>) {
        if let (Some((node, used)), Some((name, now))) = (self.pods.get(uid), place)
            && self.rooms.node_name(*node) == name
            && *used == now
        {
            return;
        }
        let new = place.map(|(node, used)| (self.rooms.take(node, used), used));
        let old = match new {
            Some(new) => self.pods.insert(Arc::clone(uid), new),
            None => self.pods.remove(uid),
        };
        if let Some((node, used)) = old {
            self.rooms.give_back(node, used);
        }
    }
}

/// # Keeping it all up to date
impl Dispatcher {
    fn seat(&mut self, namespace: &str) -> usize {
        if let Some(number) = self.namespaces.get(namespace) {
            return *number;
        }
        let name: Arc<str> = namespace.into();
        let vacant = self.seats.vacant_entry();
        let number = vacant.key();
        vacant.insert(Seat::new(number, Arc::clone(&name)));
        self.namespaces.insert(name, number);
        number
    }

    /// Forgets a namespace in which nothing is left.
    fn forget_seat(&mut self, number: usize) {
        let seat = &self.seats[number];
        if seat.is_empty() && !seat.listed && !seat.news {
            let seat = self.seats.remove(number);
            seat.unserved.into_iter().for_each(|since| {
                self.unserved.remove(&since);
            });
            self.namespaces.remove(&seat.namespace);
        }
    }

    /// Something has changed for a tenant: the next decision looks at it.
    fn list(&mut self, number: usize) {
        let seat = &mut self.seats[number];
        if !seat.listed {
            seat.listed = true;
            self.listed.push(number);
        }
    }

    /// Something has changed that may let any of a tenant's jobs go.
    fn stir(&mut self, number: usize) {
        self.seats[number].restless = true;
        self.list(number);
    }

    fn tell_usage(&mut self, number: usize) {
        let seat = &mut self.seats[number];
        if !seat.news {
            seat.news = true;
            self.news.push(number);
        }
    }
}

/// Takes out what is due by a time.
fn due_by(timers: &mut BTreeSet<(Timestamp, usize)>, now: Timestamp) -> BTreeSet<(Timestamp, usize)> {
    let later = now.checked_add(SignedDuration::from_nanos(1)).unwrap_or(Timestamp::MAX);
    let rest = timers.split_off(&(later, 0));
    std::mem::replace(timers, rest)
}
