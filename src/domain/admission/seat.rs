//! One tenant: its queue, what it holds, and what its quotas say.
//!
//! Waiting jobs that ask for the same stand in one [`Line`] and are judged by its first. Inside the queue are the oldest
//! jobs, as many as the quota allows; the others wait outside, in order of submission.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Range,
    sync::Arc,
};

use jiff::Timestamp;
use slab::Slab;

use super::{
    placement::Rooms,
    quota::{exceeds, no_turn_soon, rate_limited},
    views::{TenantView, Usage},
};
use crate::{
    api_types::{JobPhase, Reason, job::OnQuota, plan::Limit},
    domain::{
        fair_share::{Recent, Turn, dominant_share},
        queue_order::{Age, Rank},
        rate_window::RateWindow,
        resources::Resources,
        skip_ahead::SkipAhead,
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
    /// On the list of those whose jobs are to be told why they wait.
    pub(super) telling: bool,
    /// The reason that its jobs were to be told last; `None` where one has come since that was not.
    pub(super) told: Option<Reason>,
}

impl Line {
    fn new(shape: Shape) -> Self {
        Self { shape, jobs: BTreeMap::new(), hold: None, verified: None, telling: false, told: None }
    }
}

/// What holds a job back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Something of the tenant's own: its quotas, or what is set aside of them.
    Quota(Reason, String),
    /// Room on the nodes. The sentence is made when it is asked for.
    Room(Reason),
}

impl Hold {
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Quota(reason, _) | Self::Room(reason) => *reason,
        }
    }
}

/// A tenant at the table.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) namespace: Arc<str>,
    /// `None` while the namespace is not (yet) a tenant's.
    pub(super) view: Option<TenantView>,
    /// All its jobs that have not ended.
    pub(super) members: BTreeSet<usize>,
    pub(super) usage: Usage,
    /// Jobs that have ended, by phase.
    pub(super) ended: BTreeMap<JobPhase, u64>,
    /// Its parts of the groups that it may use, its own first.
    pub(super) shares: Vec<Share>,
    pub(super) lines: Slab<Line>,
    shapes: HashMap<Shape, usize>,
    /// The lines that are to be judged, by their first job.
    pub(super) heads: BTreeSet<(Rank, usize)>,
    /// Lines held back for room that may have it by now, in this decision.
    pub(super) chances: BTreeSet<(Rank, usize)>,
    /// Jobs in the queue, and those that the queue has no place for.
    pub(super) inside: BTreeMap<Age, usize>,
    pub(super) outside: BTreeMap<Age, usize>,
    /// Jobs that have a place in the queue and are not judged: they back off.
    pub(super) backing: u64,
    /// Those among them whose pod was refused, by when that is to be tried again.
    pub(super) parked: BTreeSet<(Timestamp, usize)>,
    /// Jobs that nobody has looked at yet.
    pub(super) arrivals: Vec<usize>,
    pub(super) skips: SkipAhead,
    pub(super) skipped: Option<Skipped>,
    pub(super) due: Option<Due>,
    /// Jobs admitted so far.
    pub(super) admitted: u64,
    pub(super) window: RateWindow,
    /// Jobs admitted for the first time whose pod was not seen yet.
    pub(super) starting: u64,
    /// Counts changes of the tenant itself.
    pub(super) edition: u64,
    /// Something of its own has changed: all its lines are to be judged again.
    pub(super) restless: bool,
    /// On the list of those for which something has changed.
    pub(super) listed: bool,
    /// Its usage has changed since it was last told.
    pub(super) news: bool,
}

/// A tenant's part of one group.
#[derive(Debug)]
pub(super) struct Share {
    /// Number of the group.
    pub(super) group: usize,
    /// What its jobs hold there.
    pub(super) held: Resources,
    /// What it held there lately.
    pub(super) recent: Recent,
    /// Jobs in the queue that may go there.
    pub(super) wanted: u64,
    /// The weight with which it counts in the group at the moment.
    weighs: u64,
}

/// The job of a tenant that is due.
#[derive(Clone, Debug)]
pub(super) struct Due {
    pub(super) job: usize,
    pub(super) rank: Rank,
    pub(super) asked: Resources,
    pub(super) times: u64,
    /// The node that is kept free for it.
    pub(super) node: Option<usize>,
}

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
}

impl Seat {
    pub(super) fn new(namespace: Arc<str>) -> Self {
        Self {
            namespace,
            view: None,
            members: BTreeSet::new(),
            usage: Usage::default(),
            ended: BTreeMap::new(),
            shares: Vec::new(),
            lines: Slab::new(),
            shapes: HashMap::new(),
            heads: BTreeSet::new(),
            chances: BTreeSet::new(),
            inside: BTreeMap::new(),
            outside: BTreeMap::new(),
            backing: 0,
            parked: BTreeSet::new(),
            arrivals: Vec::new(),
            skips: SkipAhead::default(),
            skipped: None,
            due: None,
            admitted: 0,
            window: RateWindow::default(),
            starting: 0,
            edition: 0,
            restless: false,
            listed: false,
            news: false,
        }
    }

    /// Nothing speaks of this namespace any more.
    pub(super) fn is_empty(&self) -> bool {
        self.view.is_none() && self.members.is_empty() && self.ended.values().all(|n| *n == 0)
    }

    /// Takes another view of the tenant; it must hold nothing and have nobody waiting at the moment.
    pub(super) fn sit(&mut self, number: usize, view: Option<TenantView>, rooms: &mut Rooms) {
        let names = view.iter().flat_map(|view| &view.groups);
        let groups: Vec<usize> = names.map(|name| rooms.join_group(name)).collect();
        let old = std::mem::take(&mut self.shares);
        let recent = |group| old.iter().find(|share| share.group == group).map(|share| share.recent);
        let share = |group: &usize| Share {
            group: *group,
            held: Resources::default(),
            recent: recent(*group).unwrap_or_default(),
            wanted: 0,
            weighs: 0,
        };
        self.shares = groups.iter().map(share).collect();
        for share in old {
            *rooms.weights(share.group) -= share.weighs;
            rooms.waiting(share.group).remove(&number);
            rooms.leave_group(share.group);
        }
        self.view = view;
        self.edition += 1;
    }

    /// The groups that a job may use, as a range of `shares`; empty where it names one that the tenant has not.
    pub(super) fn may_use(&self, group: Option<&str>) -> Range<usize> {
        let Some(wanted) = group else { return 0..self.shares.len() };
        let mut groups = self.view.iter().flat_map(|view| &view.groups);
        groups.position(|group| group == wanted).map_or(0..0, |at| at..at + 1)
    }

    /// The numbers of groups.
    pub(super) fn groups(&self, shares: Range<usize>) -> Vec<usize> {
        self.shares[shares].iter().map(|share| share.group).collect()
    }

    /// Whether nothing of it is admitted at the moment.
    pub(super) fn is_closed(&self) -> bool {
        self.view.as_ref().is_none_or(|view| view.closed.is_some())
    }

    /// Counts a job that runs, or is to.
    pub(super) fn hold(&mut self, asked: Resources, group: Option<&str>, rooms: &Rooms, now: Timestamp) {
        self.usage.active += 1;
        self.usage.held += asked;
        self.change_share(group, |held| *held += asked, rooms, now);
    }

    /// Takes [`Self::hold`] back.
    pub(super) fn let_go(&mut self, asked: Resources, group: Option<&str>, rooms: &Rooms, now: Timestamp) {
        self.usage.active -= 1;
        self.usage.held = self.usage.held - asked;
        self.change_share(group, |held| *held = *held - asked, rooms, now);
    }

    /// Changes what is held of a group; one that the tenant may not use any more counts for its quotas only.
    pub(super) fn change_share(
        &mut self,
        group: Option<&str>,
        change: impl FnOnce(&mut Resources),
        rooms: &Rooms,
        now: Timestamp,
    ) {
        let at = self.may_use(group).next().filter(|_| group.is_some());
        if let Some(share) = at.map(|at| &mut self.shares[at]) {
            change(&mut share.held);
            share.recent.hold(dominant_share(&share.held, rooms.capacity(share.group)), now);
        }
    }

    /// Brings the weights of its groups up to date with what it holds and wants there.
    pub(super) fn weigh(&mut self, number: usize, rooms: &mut Rooms) {
        let weight =
            self.view.as_ref().filter(|v| v.closed.is_none()).map_or(0, |v| u64::from(v.weight.max(1)));
        for share in &mut self.shares {
            let counts = share.wanted > 0 || share.held != Resources::default();
            let weighs = if counts { weight } else { 0 };
            if weighs != share.weighs {
                let sum = rooms.weights(share.group);
                *sum = *sum - share.weighs + weighs;
                share.weighs = weighs;
            }
            let waiting = rooms.waiting(share.group);
            if share.wanted > 0 {
                waiting.insert(number)
            } else {
                waiting.remove(&number)
            };
        }
    }

    // --- the queue

    /// Puts a job into the queue; returns its line.
    pub(super) fn enter(&mut self, job: usize, rank: Rank, shape: Shape) -> usize {
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
        self.change_line(number, |line| line.jobs.insert(rank, job));
        if self.lines[number].hold.is_none() {
            self.lines[number].told = None;
        }
        number
    }

    /// Takes a job out of the queue.
    pub(super) fn leave(&mut self, job: usize, rank: &Rank, number: usize) {
        let may_use = self.may_use(self.lines[number].shape.group.as_deref());
        self.shares[may_use].iter_mut().for_each(|share| share.wanted -= 1);
        self.inside.remove(rank.age());
        self.change_line(number, |line| line.jobs.remove(rank));
        self.skips.forget(job);
        if self.skipped.as_ref().is_some_and(|skipped| skipped.job == job) {
            self.skipped = None;
        }
        if self.lines[number].jobs.is_empty() {
            let line = self.lines.remove(number);
            self.shapes.remove(&line.shape);
        }
    }

    /// Changes a line's jobs, and keeps `heads` and `chances` in order.
    fn change_line<T>(&mut self, number: usize, change: impl FnOnce(&mut Line) -> T) {
        let line = &mut self.lines[number];
        let before = line.jobs.first_key_value().map(|(rank, _)| rank.clone());
        change(line);
        let after = line.jobs.first_key_value().map(|(rank, _)| rank.clone());
        if before == after {
            return;
        }
        let all = if line.hold.is_none() { &mut self.heads } else { &mut self.chances };
        let had = before.is_some_and(|rank| all.remove(&(rank, number)));
        if let Some(rank) = after.filter(|_| had || line.hold.is_none()) {
            all.insert((rank, number));
        }
    }

    /// Notes what holds a line back.
    pub(super) fn block(&mut self, number: usize, hold: Hold) {
        let line = &mut self.lines[number];
        if let (None, Some((rank, _))) = (&line.hold, line.jobs.first_key_value()) {
            self.heads.remove(&(rank.clone(), number));
        }
        line.hold = Some(hold);
    }

    /// Lets a line be judged again.
    pub(super) fn unblock(&mut self, number: usize) {
        let line = &mut self.lines[number];
        if let (Some(_), Some((rank, _))) = (line.hold.take(), line.jobs.first_key_value()) {
            self.heads.insert((rank.clone(), number));
        }
    }

    /// Lets all lines be judged again.
    pub(super) fn unblock_all(&mut self) {
        let held: Vec<usize> = self.lines.iter().filter(|(_, l)| l.hold.is_some()).map(|(n, _)| n).collect();
        held.into_iter().for_each(|number| self.unblock(number));
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

    // --- judging

    /// Why a job will never run, if so.
    pub(super) fn never(&self, view: &TenantView, shape: &Shape, rooms: &Rooms) -> Option<(Reason, String)> {
        let asked = &shape.asked;
        if let Some(sentence) = exceeds(view, &Resources::default(), asked, None) {
            return Some((Reason::ExceedsQuota, sentence));
        }
        let may_use = self.may_use(shape.group.as_deref());
        if let (true, Some(wanted)) = (may_use.is_empty(), &shape.group) {
            let sentence = format!("tenant {} may not use the pool of group {wanted}", view.name);
            return Some((Reason::DoesNotFit, sentence));
        }
        let supplied = self.supplied(may_use.clone(), rooms).is_some();
        let groups = self.groups(may_use);
        // A node that is away may come back with more than it shows now (a rebooted one shows no GPUs at first).
        (!supplied && rooms.any(&groups) && rooms.all_open(&groups) && !rooms.ever(&groups, asked))
            .then(|| (Reason::DoesNotFit, rooms.fits_nowhere(&groups, asked)))
    }

    /// The share among these whose nodes an autoscaler supplies.
    pub(super) fn supplied(&self, may_use: Range<usize>, rooms: &Rooms) -> Option<usize> {
        let own = self.view.as_ref().is_some_and(|view| view.elastic);
        may_use.into_iter().find(|at| (*at == 0 && own) || rooms.is_elastic(self.shares[*at].group))
    }

    /// Why a job that would rather not wait is refused at once.
    pub(super) fn no_turn_soon(
        &self,
        view: &TenantView,
        age: &Age,
        fresh: bool,
        now: Timestamp,
    ) -> Option<(Reason, String)> {
        let limit = |quota| Limit::from_quota(quota).at_most();
        let most =
            [view.quotas.max_jobs, view.quotas.max_jobs_per_hour].into_iter().filter_map(limit).max()?;
        let before = self.queued_before(age, most);
        if let Some(sentence) = no_turn_soon(view, self.usage.active, before) {
            return Some((Reason::WaitingForQuota, sentence));
        }
        let sentence = rate_limited(view, self.started(now), before).filter(|_| fresh)?;
        Some((Reason::RateLimited, sentence))
    }

    /// By which edition of quotas and nodes it is known whether a shape could run at all.
    pub(super) fn edition_of(&self, shape: &Shape, rooms: &Rooms) -> u64 {
        let groups = &self.shares[self.may_use(shape.group.as_deref())];
        groups.iter().map(|share| rooms.edition(share.group)).sum::<u64>() + self.edition
    }

    /// Notes the lines for which there may be room in a group now, and lets those be judged again that were judged by
    /// other nodes.
    pub(super) fn see_chances(&mut self, group: usize, rooms: &Rooms) {
        let mut outdated = Vec::new();
        for (number, line) in &self.lines {
            if !matches!(line.hold, Some(Hold::Room(_))) {
                continue;
            }
            let may_use = self.may_use(line.shape.group.as_deref());
            if !self.shares[may_use].iter().any(|share| share.group == group) {
                continue;
            }
            if line.verified != Some(self.edition_of(&line.shape, rooms)) {
                outdated.push(number);
            } else if let (true, Some((rank, _))) =
                (rooms.may_fit(group, &line.shape.asked), line.jobs.first_key_value())
            {
                self.chances.insert((rank.clone(), number));
            }
        }
        for number in outdated {
            self.unblock(number);
        }
    }

    /// Lets a line be judged for which there may be room.
    pub(super) fn take_chance(&mut self, rank: &Rank, line: usize) {
        self.chances.remove(&(rank.clone(), line));
        self.unblock(line);
    }

    /// Jobs started in the hourly window, with those about to.
    pub(super) fn started(&self, now: Timestamp) -> u64 {
        self.window.used(now) + self.starting
    }

    /// The quota that holds a job back, if one does. `ahead`: it is the one that is due, or comes before it.
    pub(super) fn quota(
        &self,
        view: &TenantView,
        shape: &Shape,
        ahead: bool,
        now: Timestamp,
    ) -> Option<Hold> {
        if shape.fresh
            && let Some(sentence) = rate_limited(view, self.started(now), 0)
        {
            return Some(Hold::Quota(Reason::RateLimited, sentence));
        }
        let usage = &self.usage;
        if let Some(sentence) = exceeds(view, &usage.held, &shape.asked, Some(usage.active)) {
            return Some(Hold::Quota(Reason::WaitingForQuota, sentence));
        }
        let due = self.due.as_ref().filter(|_| !ahead)?;
        exceeds(view, &(usage.held + due.asked), &shape.asked, Some(usage.active + 1))?;
        let sentence = format!(
            "what is left of the quotas of {} is kept for a larger job of the tenant that {} others have passed",
            view.plan, due.times
        );
        Some(Hold::Quota(Reason::WaitingForTurn, sentence))
    }

    /// How near the turn of a job that asks for this is in a group.
    pub(super) fn turn(&self, share: usize, asked: Resources, rooms: &Rooms, now: Timestamp) -> Turn {
        let weight = self.view.as_ref().map_or(1, |view| view.weight.max(1));
        let share = &self.shares[share];
        let part = |held| dominant_share(&held, rooms.capacity(share.group));
        let (held, then) = (part(share.held), part(share.held + asked));
        Turn::new(held, then, share.recent.mean(now), rooms.guarantee(share.group, weight.into()), weight)
    }

    // --- jobs that are passed

    /// Counts who has passed the job that is skipped.
    pub(super) fn count_passed(&mut self, rooms: &Rooms) {
        if let Some(skipped) = self.skipped.clone() {
            let now = self.admissions(&skipped, rooms);
            self.skips.passed(skipped.job, now.saturating_sub(skipped.before));
            self.skipped = Some(Skipped { before: now, ..skipped });
        }
    }

    /// Admissions so far that could have passed a job.
    fn admissions(&self, skipped: &Skipped, rooms: &Rooms) -> u64 {
        match skipped.by_quota {
            true => self.admitted,
            false => {
                let shares = self.shares[skipped.may_use.clone()].iter();
                shares.map(|share| rooms.smaller_admitted(share.group, &skipped.asked)).sum()
            }
        }
    }

    /// Looks which job is now the first that has no room.
    pub(super) fn find_skipped(&mut self, rooms: &Rooms) {
        let held = self.lines.iter().filter_map(|(_, line)| {
            let by_quota = match line.hold.as_ref()?.reason() {
                Reason::WaitingForQuota => true,
                Reason::WaitingForCapacity => false,
                _ => return None,
            };
            let (rank, job) = line.jobs.first_key_value()?;
            Some((rank, *job, by_quota, line))
        });
        let first = held.min_by(|a, b| a.0.cmp(b.0));
        let first = first.map(|(_, job, by_quota, line)| Skipped {
            job,
            by_quota,
            may_use: self.may_use(line.shape.group.as_deref()),
            asked: line.shape.asked,
            before: 0,
        });
        let same = |a: &Skipped, b: &Skipped| (a.job, a.by_quota) == (b.job, b.by_quota);
        match (&self.skipped, first) {
            (Some(old), Some(new)) if same(old, &new) => (),
            (_, None) => self.skipped = None,
            (_, Some(new)) => {
                let before = self.admissions(&new, rooms);
                self.skipped = Some(Skipped { before, ..new });
            }
        }
    }
}
