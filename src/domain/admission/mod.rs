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
//! ([`contest`]) and looks at them in turn, until the room is used up. So it takes a few nanoseconds for each tenant that
//! waits, and about log n steps for each change and each admission; nothing for each job that waits.

mod contest;
mod lane;
mod pass;
mod passed;
mod placement;
mod queue;
mod quota;
mod seat;
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
    time::Duration,
};

use jiff::Timestamp;
use slab::Slab;

pub use self::views::{Admission, JobStanding, JobView, TenantView, Usage, Verdict, WorkerView};
use self::{lane::Lane, placement::Rooms, queue::Hold, seat::Seat};
use super::{
    queue_order::Rank,
    rate_window::RateWindow,
    resources::{AskError, Resources},
    retry,
};
use crate::api_types::{JobPhase, Reason, job::OnQuota, tenant::JobWindow};

/// A pod that the API server refuses for the moment is tried again so many times before its admission is given back, the
/// first time after this long, and then after twice as long each time: three seconds in all.
const QUICK_RETRIES: u32 = 5;
const QUICK_RETRY: Duration = Duration::from_millis(100);

/// All that admission knows.
#[derive(Debug, Default)]
pub struct Dispatcher {
    now: Timestamp,
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
    /// Seats to look at again at a time.
    wakes: BTreeSet<(Timestamp, usize)>,
    /// Seats with a job that is due and waits for a node to be kept for it, by since when, counted.
    unserved: BTreeMap<u64, usize>,
    /// How many there were so far.
    unserved_ever: u64,
    decided: Vec<Arc<str>>,
    news: Vec<usize>,
    lane: Lane,
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
}

/// A job.
#[derive(Debug)]
struct Entry {
    uid: Arc<str>,
    seat: usize,
    rank: Rank,
    asked: Result<Resources, AskError>,
    group: Option<Arc<str>>,
    on_quota: OnQuota,
    state: JobStanding,
    stand: Stand,
    /// The reason that its owner was told last.
    told: Option<Reason>,
    /// How often the API server has refused its pod in a row.
    refusals: u32,
    /// Since when it holds something, as far as is known.
    since: Timestamp,
}

/// What admission makes of a job.
#[derive(Clone, Debug)]
enum Stand {
    /// Nothing is to be decided.
    Aside,
    /// Waits to be looked at.
    Arrived,
    /// In a line of the queue.
    Line(usize),
    /// The queue has no place for it.
    Outside,
    BackingOff,
    /// The API server refused its pod for the moment.
    Parked {
        until: Timestamp,
        sentence: String,
    },
    Refused(Reason, String),
    /// May start. Claimed: its pod may be on its way.
    Admitted {
        group: Arc<str>,
        node: Option<usize>,
        claimed: bool,
    },
    /// A pod of it may run. Its room is reserved until the pod has a node.
    Active {
        group: Option<Arc<str>>,
        reserved: Option<usize>,
    },
    Ended(JobPhase),
}

impl Entry {
    /// What it holds or would hold; nothing where that can't be read.
    fn size(&self) -> Resources {
        self.asked.clone().unwrap_or_default()
    }

    /// The attempt that it waits for or is admitted to.
    fn attempt(&self) -> u32 {
        match self.state {
            JobStanding::Waiting(attempt) => attempt,
            _ => 0,
        }
    }

    fn is_first_attempt(&self) -> bool {
        self.attempt() == 1
    }

    /// Whether a view differs in nothing that the queue goes by.
    fn asks_as(&self, view: &JobView, rank: &Rank) -> bool {
        self.rank == *rank
            && self.asked == view.asked
            && self.group == view.group
            && self.on_quota == view.on_quota
    }
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

    /// Sets the time. What waited for a time that has come is looked at in the next decision.
    pub fn tick(&mut self, now: Timestamp) {
        self.now = now;
        while let Some((_, seat)) = self.wakes.first().copied().filter(|(at, _)| *at <= now) {
            self.wakes.pop_first();
            // It may be another by now, for which this is a look too many.
            if self.seats.contains(seat) {
                self.unpark(seat);
                self.stir(seat);
            }
        }
    }

    /// The time at which something changes by itself.
    #[must_use]
    pub fn next_wake(&self) -> Option<Timestamp> {
        self.wakes.first().map(|(at, _)| *at)
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
            seat.change_share(entry.stand.group(), |held| *held += asked, &mut self.rooms, self.now);
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

    /// A job's first pod is to be let go: its charge must be in what is stored from now on.
    pub fn settle(&mut self, namespace: &str, job_uid: &str) {
        self.change_window(namespace, |window| {
            window.settle(job_uid);
        });
    }

    /// A job's first pod has been let go.
    pub fn released(&mut self, namespace: &str, job_uid: &str) {
        self.change_window(namespace, |window| window.released(job_uid));
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

    /// Sets what a job is.
    pub fn set_job(&mut self, view: JobView) {
        let rank = Rank::new(view.queue, view.priority, view.created, Arc::clone(&view.uid));
        let number = match self.uids.get(&view.uid) {
            None => self.add(view, rank),
            Some(number) => {
                let number = *number;
                if !self.stays(number, &view, &rank) {
                    self.withdraw(number);
                    let entry = &mut self.jobs[number];
                    (entry.rank, entry.asked, entry.group) = (rank, view.asked, view.group);
                    (entry.on_quota, entry.state) = (view.on_quota, view.state);
                    self.put(number);
                }
                if self.jobs[number].told != view.told {
                    self.jobs[number].told = view.told;
                    self.lane.add(number);
                }
                return;
            }
        };
        self.put(number);
    }

    fn add(&mut self, view: JobView, rank: Rank) -> usize {
        let entry = Entry {
            uid: Arc::clone(&view.uid),
            seat: self.seat(&view.namespace),
            rank,
            asked: view.asked,
            group: view.group,
            on_quota: view.on_quota,
            state: view.state,
            stand: Stand::Aside,
            told: view.told,
            refusals: 0,
            since: self.now,
        };
        let number = self.jobs.insert(entry);
        self.uids.insert(view.uid, number);
        number
    }

    /// Takes in what changes nothing of a job's place: true where that was all.
    fn stays(&mut self, number: usize, view: &JobView, rank: &Rank) -> bool {
        let entry = &mut self.jobs[number];
        let same = entry.asks_as(view, rank);
        match (&entry.stand, &view.state) {
            // It is on its way, whatever its owner wishes by now.
            (Stand::Admitted { claimed, .. }, state) if *state == entry.state => *claimed || same,
            (Stand::Admitted { claimed: true, .. }, JobStanding::Aside) => true,
            (Stand::Admitted { group, node, .. }, JobStanding::Active { group: now, bound })
                if same && now.as_ref().is_none_or(|now| now == group) =>
            {
                let (group, reserved) = (Some(Arc::clone(group)), *node);
                let (first, seat, asked) = (entry.is_first_attempt(), entry.seat, entry.size());
                entry.state = view.state.clone();
                entry.refusals = 0;
                let kept = reserved.filter(|_| !bound);
                entry.stand = Stand::Active { group, reserved: kept };
                if let Some(node) = reserved.filter(|_| *bound) {
                    self.rooms.give_back(node, asked);
                }
                self.seats[seat].starting -= u64::from(first);
                self.list(seat);
                true
            }
            (Stand::Active { group, reserved }, JobStanding::Active { group: now, bound })
                if same && (now.is_none() || now == group) =>
            {
                let (reserved, asked) = (*reserved, entry.size());
                entry.state = view.state.clone();
                if let (true, Some(node)) = (*bound, reserved) {
                    entry.stand = Stand::Active { group: group.clone(), reserved: None };
                    self.rooms.give_back(node, asked);
                }
                true
            }
            (_, state) => same && *state == entry.state,
        }
    }

    /// A job does not exist any more.
    pub fn remove_job(&mut self, uid: &str) {
        let Some(number) = self.uids.remove(uid) else { return };
        self.withdraw(number);
        let entry = self.jobs.remove(number);
        self.forget_seat(entry.seat);
    }
}

/// # What is asked
impl Dispatcher {
    /// What was decided of a job, by UID; `None` while nothing is new to its owner.
    #[must_use]
    pub fn verdict(&self, uid: &str) -> Option<Verdict> {
        let entry = &self.jobs[*self.uids.get(uid)?];
        let verdict = self.judgement(entry)?;
        match &verdict {
            Verdict::Wait(reason, _) => (entry.told == Some(*reason)).then_some(verdict),
            Verdict::Admit(_) | Verdict::Reject(..) => Some(verdict),
        }
    }

    /// What holds a job back or lets it go, by UID, with the numbers of this moment.
    #[must_use]
    pub fn standing(&self, uid: &str) -> Option<Verdict> {
        self.judgement(&self.jobs[*self.uids.get(uid)?])
    }

    /// Takes an admission into use: from now on it stands until its pod was seen, or [`Self::refused`]. Again for the
    /// same attempt, it is the same.
    pub fn claim(&mut self, uid: &str, attempt: u32) -> Option<Admission> {
        let entry = &mut self.jobs[*self.uids.get(uid)?];
        if entry.attempt() != attempt {
            return None;
        }
        match &mut entry.stand {
            Stand::Admitted { claimed, .. } => *claimed = true,
            _ => return None,
        }
        match self.verdict(uid)? {
            Verdict::Admit(admission) => Some(admission),
            _ => None,
        }
    }

    /// The API server refused the pod of an admission for the moment, in these words. At first, when to try again: a
    /// quota whose count lags is right in a moment. `None` where the admission is given back; the job then waits, longer
    /// each time, and its owner is told.
    pub fn refused(&mut self, uid: &str, attempt: u32, words: &str) -> Option<Duration> {
        let number = self.uids.get(uid).copied()?;
        let entry = &mut self.jobs[number];
        if entry.attempt() != attempt || !matches!(entry.stand, Stand::Admitted { .. }) {
            return None;
        }
        entry.refusals += 1;
        let (seat, refusals) = (entry.seat, entry.refusals);
        if refusals <= QUICK_RETRIES {
            return Some(QUICK_RETRY.saturating_mul(2_u32.saturating_pow(refusals - 1)));
        }
        let until = self.now.checked_add(retry::backoff(uid, refusals - QUICK_RETRIES)).unwrap_or(self.now);
        let sentence = format!("the API server refuses the pod for the moment: {words}");
        self.withdraw(number);
        self.jobs[number].stand = Stand::Parked { until, sentence };
        let seat_now = &mut self.seats[seat];
        seat_now.members.insert(number);
        seat_now.parked.insert((until, number));
        seat_now.usage.queued += 1;
        seat_now.backing += 1;
        self.wakes.insert((until, seat));
        self.lane.add(number);
        self.stir(seat);
        None
    }

    /// What a tenant's jobs come to, by namespace.
    #[must_use]
    pub fn account(&self, namespace: &str) -> Option<Account> {
        let seat = &self.seats[*self.namespaces.get(namespace)?];
        Some(Account {
            usage: seat.usage.clone(),
            ended: seat.ended.clone(),
            started: seat.started(self.now),
            resets_at: seat.window.resets_at(self.now),
            window: seat.window.stored(self.now),
        })
    }

    /// How many jobs wait, by reason.
    #[must_use]
    pub fn waiting(&self) -> BTreeMap<Reason, u64> {
        let mut all = BTreeMap::new();
        let mut count = |reason, jobs: usize| {
            if jobs > 0 {
                *all.entry(reason).or_default() += jobs as u64;
            }
        };
        for (_, seat) in &self.seats {
            let closed = match &seat.view {
                None => Some(Reason::NotATenantNamespace),
                Some(view) => view.closed.as_ref().map(|(reason, _)| *reason),
            };
            for (_, line) in &seat.lines {
                let reason = closed.or(line.hold.as_ref().map(Hold::reason));
                count(reason.unwrap_or(Reason::Queued), line.jobs.len());
            }
            count(closed.unwrap_or(Reason::QueueFull), seat.outside.len());
            count(Reason::BackingOff, usize::try_from(seat.backing).unwrap_or(usize::MAX));
        }
        all
    }

    /// Nodes that are kept for jobs that are due.
    #[must_use]
    pub fn kept(&self) -> Vec<&str> {
        let due = self.seats.iter().filter_map(|(_, seat)| seat.due.as_ref()?.node);
        due.map(|node| self.rooms.node_name(node)).collect()
    }

    fn judgement(&self, entry: &Entry) -> Option<Verdict> {
        let seat = &self.seats[entry.seat];
        let closed = || {
            let Some(view) = &seat.view else { return Some(no_tenant()) };
            view.closed.clone().map(|(reason, sentence)| Verdict::Wait(reason, sentence))
        };
        match &entry.stand {
            Stand::Admitted { group, node, .. } => Some(Verdict::Admit(Admission {
                attempt: entry.attempt(),
                group: (**group).to_owned(),
                node: node.map(|node| self.rooms.node_name(node).to_owned()),
            })),
            Stand::Refused(reason, sentence) => Some(Verdict::Reject(*reason, sentence.clone())),
            Stand::Parked { sentence, .. } => Some(Verdict::Wait(Reason::PodRefused, sentence.clone())),
            Stand::Outside => closed().or_else(|| {
                let sentence = quota::queue_full(seat.view.as_ref()?, seat.usage.queued);
                Some(Verdict::Wait(Reason::QueueFull, sentence))
            }),
            Stand::Line(line) => closed().or_else(|| {
                let line = &seat.lines[*line];
                Some(match line.hold.as_ref()? {
                    Hold::Quota(reason, sentence) => Verdict::Wait(*reason, sentence.clone()),
                    Hold::Room(reason) => Verdict::Wait(*reason, self.room_sentence(seat, line, *reason)),
                })
            }),
            Stand::Aside | Stand::Arrived | Stand::BackingOff | Stand::Active { .. } | Stand::Ended(_) => {
                None
            }
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

    /// Gives a job the place that its state asks for.
    fn put(&mut self, number: usize) {
        let entry = &mut self.jobs[number];
        let (of, asked) = (entry.seat, entry.asked.clone().unwrap_or_default());
        let seat = &mut self.seats[of];
        seat.members.insert(number);
        entry.stand = match &entry.state {
            JobStanding::Aside => Stand::Aside,
            JobStanding::Waiting(_) => {
                seat.usage.queued += 1;
                seat.arrivals.push(number);
                Stand::Arrived
            }
            JobStanding::BackingOff => {
                seat.usage.queued += 1;
                seat.backing += 1;
                Stand::BackingOff
            }
            JobStanding::Active { group, .. } => {
                entry.since = self.now;
                seat.hold(asked, group.as_deref(), &mut self.rooms, self.now);
                Stand::Active { group: group.clone(), reserved: None }
            }
            JobStanding::Ended(phase) => {
                seat.members.remove(&number);
                *seat.ended.entry(*phase).or_default() += 1;
                Stand::Ended(*phase)
            }
        };
        self.tell_usage(of);
        self.list(of);
    }

    /// Takes back what [`Self::put`], and what came after it, did.
    fn withdraw(&mut self, number: usize) {
        let entry = &mut self.jobs[number];
        let (of, asked, first) = (entry.seat, entry.size(), entry.is_first_attempt());
        let seat = &mut self.seats[of];
        seat.members.remove(&number);
        let mut reserved = None;
        match std::mem::replace(&mut entry.stand, Stand::Aside) {
            Stand::Aside => return,
            Stand::Arrived | Stand::Refused(..) => seat.usage.queued -= 1,
            Stand::Line(line) => {
                seat.usage.queued -= 1;
                seat.leave(number, &entry.rank, line, &mut self.rooms);
            }
            Stand::Outside => {
                seat.usage.queued -= 1;
                seat.outside.remove(entry.rank.age());
            }
            Stand::BackingOff => {
                seat.usage.queued -= 1;
                seat.backing -= 1;
            }
            Stand::Parked { until, .. } => {
                seat.usage.queued -= 1;
                seat.backing -= 1;
                seat.parked.remove(&(until, number));
            }
            Stand::Admitted { group, node, .. } => {
                seat.let_go(asked, Some(&group), &mut self.rooms, self.now);
                seat.starting -= u64::from(first);
                reserved = node;
            }
            Stand::Active { group, reserved: node } => {
                seat.let_go(asked, group.as_deref(), &mut self.rooms, self.now);
                if let Some(group) = &group {
                    self.rooms.ended(group, self.now.duration_since(entry.since).as_secs_f64());
                }
                reserved = node;
            }
            Stand::Ended(phase) => *seat.ended.entry(phase).or_default() -= 1,
        }
        self.forget_due(of, number);
        if let Some(node) = reserved {
            self.rooms.give_back(node, asked);
        }
        self.tell_usage(of);
        self.stir(of);
    }

    /// Lets jobs whose time has come wait in the queue again.
    fn unpark(&mut self, seat: usize) {
        let first = |seat: &Seat| seat.parked.first().copied();
        while let Some((_, job)) = first(&self.seats[seat]).filter(|(until, _)| *until <= self.now) {
            self.withdraw(job);
            self.put(job);
        }
    }
}

impl Stand {
    /// The worker group in which something is held.
    fn group(&self) -> Option<&str> {
        match self {
            Self::Admitted { group, .. } => Some(group),
            Self::Active { group, .. } => group.as_deref(),
            _ => None,
        }
    }
}

/// The verdict on a job outside of every tenant.
fn no_tenant() -> Verdict {
    Verdict::Wait(Reason::NotATenantNamespace, "this namespace is not that of a tenant".to_owned())
}
