//! One job: what admission knows of it, and the place that its state gives it.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Dispatcher,
    placement::Outlook,
    queue::Shape,
    seat::Seat,
    views::{JobStanding, JobView},
};
use crate::{
    api_types::{JobPhase, Reason, job::OnQuota},
    domain::{
        queue_order::Rank,
        resources::{AskError, Resources},
    },
};

/// A job.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) uid: Arc<str>,
    pub(super) seat: usize,
    pub(super) rank: Rank,
    pub(super) asked: Result<Resources, AskError>,
    pub(super) group: Option<Arc<str>>,
    pub(super) on_quota: OnQuota,
    pub(super) state: JobStanding,
    pub(super) stand: Stand,
    /// How far its first assessment has come.
    pub(super) assessment: Assessment,
    /// The reason that its owner was told last.
    pub(super) told: Option<Reason>,
    /// How often the API server has refused its pod in a row.
    pub(super) refusals: u32,
    /// Since when it holds something, as far as is known.
    pub(super) since: Timestamp,
}

/// How far the first assessment of a job has come. It alone may find that the job is too large for every node and refuse it:
/// what has waited once waits on, for nodes come and go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assessment {
    /// Nothing was found yet.
    Ahead,
    /// Too large for the nodes that there are. It may wait so long for others, as some have come just now.
    Until(Timestamp),
    /// It would have fitted, or may yet; or it has waited or run before.
    Passed,
    /// It is too large.
    Refused,
}

impl Assessment {
    /// What comes of it where the job is too large for the nodes that there are.
    pub(super) fn next(self, outlook: Outlook, now: Timestamp) -> Self {
        match (self, outlook) {
            (Self::Passed, _) | (Self::Ahead, Outlook::Hopeful) => Self::Passed,
            (Self::Until(at), _) if at > now => self,
            (Self::Ahead, Outlook::Unsettled(until)) => Self::Until(until),
            (Self::Ahead | Self::Until(_) | Self::Refused, _) => Self::Refused,
        }
    }

    /// Of a job that is seen for the first time: after a restart its status says whether it has waited.
    fn of(view: &JobView) -> Self {
        use Reason::{
            DoesNotFit, NoWorkers, PodRefused, QueueFull, RateLimited, WaitingForCapacity, WaitingForQuota,
            WaitingForTurn,
        };
        let waited = [
            DoesNotFit,
            NoWorkers,
            PodRefused,
            QueueFull,
            RateLimited,
            WaitingForCapacity,
            WaitingForQuota,
            WaitingForTurn,
        ];
        let has_waited = view.told.is_some_and(|reason| waited.contains(&reason));
        if has_waited || view.has_run() { Self::Passed } else { Self::Ahead }
    }
}

/// What admission makes of a job.
#[derive(Clone, Debug)]
pub(super) enum Stand {
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
    pub(super) fn size(&self) -> Resources {
        self.asked.clone().unwrap_or_default()
    }

    /// The attempt that it waits for or is admitted to.
    pub(super) fn attempt(&self) -> u32 {
        match self.state {
            JobStanding::Waiting(attempt) => attempt,
            _ => 0,
        }
    }

    pub(super) fn is_first_attempt(&self) -> bool {
        self.attempt() == 1
    }

    /// What it has in common with others that are judged with it.
    pub(super) fn shape(&self) -> Shape {
        Shape {
            asked: self.size(),
            group: self.group.clone(),
            on_quota: self.on_quota,
            fresh: self.is_first_attempt(),
        }
    }

    /// Whether it is in this line of this tenant.
    pub(super) fn is_in(&self, seat: usize, line: usize) -> bool {
        self.seat == seat && matches!(self.stand, Stand::Line(own) if own == line)
    }

    /// Whether a view differs in nothing that the queue goes by.
    fn asks_as(&self, view: &JobView, rank: &Rank) -> bool {
        self.rank == *rank
            && self.asked == view.asked
            && self.group == view.group
            && self.on_quota == view.on_quota
    }
}

impl Dispatcher {
    /// Sets what a job is.
    pub fn set_job(&mut self, view: JobView) {
        let rank = Rank::new(view.queue, view.priority, view.created, Arc::clone(&view.uid));
        let number = match self.uids.get(&view.uid) {
            None => self.add(view, rank),
            Some(number) => {
                let number = *number;
                if view.has_run() {
                    self.jobs[number].assessment = Assessment::Passed;
                }
                self.resize(number, &view);
                if !self.stays(number, &view, &rank) {
                    self.withdraw(number);
                    let entry = &mut self.jobs[number];
                    (entry.rank, entry.asked, entry.group) = (rank, view.asked, view.group);
                    (entry.on_quota, entry.state) = (view.on_quota, view.state);
                    self.put(number);
                }
                let entry = &mut self.jobs[number];
                if entry.told != view.told {
                    entry.told = view.told;
                    self.lane.add(entry.seat, number);
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
            assessment: Assessment::of(&view),
            asked: view.asked,
            group: view.group,
            on_quota: view.on_quota,
            state: view.state,
            stand: Stand::Aside,
            told: view.told,
            refusals: 0,
            since: self.now.steady,
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
            // Of what runs, its place in the queue does not count any more.
            (Stand::Admitted { group, node, .. }, JobStanding::Active { group: now, bound })
                if now.as_ref().is_none_or(|now| now == group) =>
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
                if now.is_none() || now == group =>
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

    /// What is admitted or runs uses what its pod asks for: something may have been added to that when it was made.
    fn resize(&mut self, number: usize, view: &JobView) {
        let entry = &mut self.jobs[number];
        let (JobStanding::Active { .. }, Ok(after)) = (&view.state, &view.asked) else { return };
        let (before, after) = (entry.size(), *after);
        let (group, node) = match &entry.stand {
            Stand::Admitted { group, node, .. } => (Some(group), *node),
            Stand::Active { group, reserved } => (group.as_ref(), *reserved),
            _ => return,
        };
        if before == after {
            return;
        }
        let (of, group) = (entry.seat, group.cloned());
        entry.asked = Ok(after);
        let seat = &mut self.seats[of];
        seat.usage.held = seat.usage.held - before + after;
        seat.change_share(
            group.as_deref(),
            |held| *held = *held - before + after,
            &mut self.rooms,
            self.now.steady,
        );
        if let Some(node) = node {
            self.rooms.take_number(node, after);
            self.rooms.give_back(node, before);
        }
        self.tell_usage(of);
        self.stir(of);
    }

    /// A job does not exist any more.
    pub fn remove_job(&mut self, uid: &str) {
        let Some(number) = self.uids.remove(uid) else { return };
        self.withdraw(number);
        let entry = self.jobs.remove(number);
        self.forget_seat(entry.seat);
    }

    /// Gives a job the place that its state asks for.
    pub(super) fn put(&mut self, number: usize) {
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
                (entry.since, entry.refusals) = (self.now.steady, 0);
                seat.hold(asked, group.as_deref(), &mut self.rooms, self.now.steady);
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
    pub(super) fn withdraw(&mut self, number: usize) {
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
                seat.let_go(asked, Some(&group), &mut self.rooms, self.now.steady);
                seat.starting -= u64::from(first);
                reserved = node;
            }
            Stand::Active { group, reserved: node } => {
                seat.let_go(asked, group.as_deref(), &mut self.rooms, self.now.steady);
                if let Some(group) = &group {
                    self.rooms.ended(group, self.now.steady.duration_since(entry.since).as_secs_f64());
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
    pub(super) fn unpark(&mut self, seat: usize) {
        let first = |seat: &Seat| seat.parked.first().copied();
        while let Some((_, job)) = first(&self.seats[seat]).filter(|(until, _)| *until <= self.now.steady) {
            self.withdraw(job);
            self.put(job);
        }
    }
}

impl Stand {
    /// The worker group in which something is held.
    pub(super) fn group(&self) -> Option<&str> {
        match self {
            Self::Admitted { group, .. } => Some(group),
            Self::Active { group, .. } => group.as_deref(),
            _ => None,
        }
    }
}
