//! One tenant in a pass: its queue, what it holds, and what of its jobs is refused before anything is compared.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, VecDeque},
    ops::Range,
};

use super::{
    placement::Rooms,
    quota::{exceeds, no_turn_soon, queue_full},
    views::{JobView, TenantView, Usage, Verdict},
};
use crate::{
    api_types::{Reason, job::OnQuota, plan::Limit},
    domain::{
        fair_share::{Turn, dominant_share},
        queue_order::Rank,
        resources::Resources,
        skip_ahead::ENOUGH,
    },
};

/// What jobs have in common that are judged together: what they ask for, where, and whether they would rather wait.
type Shape<'a> = (Resources, Option<&'a str>, OnQuota);

/// A tenant at the table.
pub(super) struct Seat<'a> {
    pub(super) view: &'a TenantView,
    pub(super) usage: Usage,
    /// The groups that it may use, its own first.
    pub(super) shares: Vec<Share>,
    /// Jobs in the queue, by number.
    pub(super) queue: BinaryHeap<Reverse<(Rank<'a>, usize)>>,
    /// Jobs that the queue has no place for, in order of submission.
    pub(super) outside: VecDeque<usize>,
    /// Jobs that have a place in the queue, also those that back off.
    inside: u64,
    /// The job that is due, while it waits.
    pub(super) due: Option<Due<'a>>,
    /// The first job in the queue that was found to have no room.
    pub(super) skipped: Option<Skipped>,
    /// What can't be admitted any more in this pass.
    pub(super) blocked: HashMap<Shape<'a>, Verdict>,
    refused: HashMap<Shape<'a>, Option<Verdict>>,
    /// Jobs admitted in this pass.
    pub(super) admitted: u64,
}

/// A tenant's part of one group.
pub(super) struct Share {
    /// Number of the group.
    pub(super) group: usize,
    /// What its jobs hold there.
    pub(super) held: Resources,
    /// What it held there lately, as a part of 1.
    pub(super) recent: f64,
    /// What it is guaranteed, as a part of 1.
    pub(super) guarantee: f64,
    /// A job of it waits that may go there.
    pub(super) wanted: bool,
}

/// A job that enough others have passed.
#[derive(Clone, Copy)]
pub(super) struct Due<'a> {
    pub(super) job: usize,
    pub(super) rank: Rank<'a>,
    pub(super) asked: Resources,
    pub(super) times: u64,
    /// The node that is kept free for it.
    pub(super) node: Option<usize>,
}

/// A job that was skipped.
pub(super) struct Skipped {
    pub(super) job: usize,
    /// Passed by jobs of its own tenant only: it is a quota that it waits for.
    pub(super) by_quota: bool,
    /// Admissions that were counted before it was skipped.
    pub(super) before: u64,
}

impl<'a> Seat<'a> {
    pub(super) fn new(view: &'a TenantView, rooms: &mut Rooms, recent: impl Fn(&str) -> f64) -> Self {
        let share = |group: &String| Share {
            group: rooms.group(group),
            held: Resources::default(),
            recent: recent(group),
            guarantee: 0.0,
            wanted: false,
        };
        Self {
            shares: view.groups.iter().map(share).collect(),
            view,
            usage: Usage::default(),
            queue: BinaryHeap::new(),
            outside: VecDeque::new(),
            inside: 0,
            due: None,
            skipped: None,
            blocked: HashMap::new(),
            refused: HashMap::new(),
            admitted: 0,
        }
    }

    /// The groups that a job may use, as a range of `shares`; empty where it names one that the tenant has not.
    pub(super) fn may_use(&self, job: &JobView) -> Range<usize> {
        match &job.group {
            None => 0..self.shares.len(),
            Some(wanted) => match self.view.groups.iter().position(|g| g == wanted) {
                Some(at) => at..at + 1,
                None => 0..0,
            },
        }
    }

    /// The numbers of the groups that a job may use.
    pub(super) fn groups(&self, job: &JobView) -> Vec<usize> {
        self.shares[self.may_use(job)].iter().map(|share| share.group).collect()
    }

    /// Counts a job that runs.
    pub(super) fn hold(&mut self, asked: Resources, group: Option<&str>) {
        self.usage.active += 1;
        self.usage.held += asked;
        let at = group.and_then(|name| self.view.groups.iter().position(|g| g == name));
        if let Some(share) = at.and_then(|at| self.shares.get_mut(at)) {
            share.held += asked;
        }
    }

    /// Gives a job that backs off its place in the queue.
    pub(super) fn back_off(&mut self) {
        self.usage.queued += 1;
        self.inside += 1;
    }

    /// Gives a waiting job its place in the queue or outside of it, or says why it has none. To be called in order of
    /// submission, after all that runs was counted.
    pub(super) fn take_in(&mut self, job: &'a JobView, number: usize, rooms: &Rooms) -> Option<Verdict> {
        self.usage.queued += 1;
        let asked = match &job.asked {
            Ok(asked) => *asked,
            Err(error) => return Some(Verdict::Reject(error.reason(), error.to_string())),
        };
        if let Some((reason, sentence)) = &self.view.closed {
            return Some(Verdict::Wait(*reason, sentence.clone()));
        }
        let shape = shape(job, asked);
        if !self.refused.contains_key(&shape) {
            let refusal = self.never(job, &asked, rooms);
            self.refused.insert(shape, refusal);
        }
        if let Some(Some(refusal)) = self.refused.get(&shape) {
            return Some(refusal.clone());
        }
        let rejects = job.on_quota == OnQuota::Reject;
        let before = self.inside + self.outside.len() as u64;
        if rejects && let Some(sentence) = no_turn_soon(self.view, self.usage.active, before) {
            return Some(Verdict::Reject(Reason::WaitingForQuota, sentence));
        }
        if Limit::from_quota(self.view.quotas.max_queued_jobs).allows(self.inside + 1) {
            self.enter(job, number);
        } else if rejects {
            return Some(Verdict::Reject(Reason::QueueFull, queue_full(self.view, before + 1)));
        } else {
            self.outside.push_back(number);
        }
        None
    }

    /// Puts a job into the queue.
    pub(super) fn enter(&mut self, job: &'a JobView, number: usize) {
        self.inside += 1;
        let may_use = self.may_use(job);
        self.shares[may_use].iter_mut().for_each(|share| share.wanted = true);
        self.queue.push(Reverse((rank(job), number)));
    }

    /// Makes a job the one that is due, unless one before it is.
    pub(super) fn make_due(&mut self, job: &'a JobView, number: usize, times: u64, node: Option<usize>) {
        let (rank, asked) = (rank(job), job.asked.clone().unwrap_or_default());
        if self.due.is_none_or(|due| rank < due.rank) {
            self.due = Some(Due { job: number, rank, asked, times, node });
        }
    }

    /// Why a job will never run, if so.
    fn never(&self, job: &JobView, asked: &Resources, rooms: &Rooms) -> Option<Verdict> {
        if let Some(sentence) = exceeds(self.view, &Resources::default(), asked, None) {
            return Some(Verdict::Reject(Reason::ExceedsQuota, sentence));
        }
        let may_use = self.may_use(job);
        if let (true, Some(wanted)) = (may_use.is_empty(), &job.group) {
            let sentence = format!("tenant {} may not use the pool of group {wanted}", self.view.name);
            return Some(Verdict::Reject(Reason::DoesNotFit, sentence));
        }
        let groups = self.groups(job);
        let supplied = self.view.elastic && may_use.start == 0;
        // A node that is away may come back with more than it shows now (a rebooted one shows no GPUs at first).
        (!supplied && rooms.any(&groups) && rooms.all_open(&groups) && !rooms.ever(&groups, asked))
            .then(|| Verdict::Reject(Reason::DoesNotFit, rooms.fits_nowhere(&groups, asked)))
    }

    /// The quota that holds a job back, if one does. `ahead`: it comes before the one that is due.
    pub(super) fn quota(
        &self,
        job: &JobView,
        number: usize,
        asked: &Resources,
        ahead: bool,
    ) -> Option<Verdict> {
        let usage = &self.usage;
        if let Some(sentence) = exceeds(self.view, &usage.held, asked, Some(usage.active)) {
            return Some(match job.on_quota {
                OnQuota::Reject => Verdict::Reject(Reason::WaitingForQuota, sentence),
                OnQuota::Queue => Verdict::Wait(Reason::WaitingForQuota, sentence),
            });
        }
        let due = self.due.filter(|due| due.job != number && !ahead)?;
        exceeds(self.view, &(usage.held + due.asked), asked, Some(usage.active + 1))?;
        let sentence = format!(
            "what is left of the quotas of {} is kept for a larger job of the tenant that {} others have passed",
            self.view.plan, due.times
        );
        Some(Verdict::Wait(Reason::WaitingForTurn, sentence))
    }

    /// Counts an admission; the first job from outside gets the place in the queue.
    pub(super) fn admit(&mut self, number: usize, asked: Resources, share: usize, jobs: &'a [JobView]) {
        self.usage.queued = self.usage.queued.saturating_sub(1);
        self.usage.active += 1;
        self.usage.held += asked;
        self.shares[share].held += asked;
        self.admitted += 1;
        self.inside = self.inside.saturating_sub(1);
        if self.due.is_some_and(|due| due.job == number) {
            self.due = None;
        }
        if let Some(next) = self.outside.pop_front() {
            self.enter(&jobs[next], next);
        }
    }

    /// How near the turn of a job that asks for this is in a group.
    pub(super) fn turn(&self, share: usize, asked: Resources, rooms: &Rooms) -> Turn {
        let share = &self.shares[share];
        let part = |held| dominant_share(&held, &rooms.capacity(share.group));
        let (held, then) = (part(share.held), part(share.held + asked));
        Turn::new(held, then, share.recent, share.guarantee, self.view.weight)
    }

    /// The verdicts on jobs outside of the queue.
    pub(super) fn left_outside(&self) -> impl Iterator<Item = (usize, Verdict)> {
        let nth = |at: usize| self.inside + at as u64 + 1;
        let full = move |at: usize| Verdict::Wait(Reason::QueueFull, queue_full(self.view, nth(at)));
        self.outside.iter().enumerate().map(move |(at, job)| (*job, full(at)))
    }
}

/// What a job has in common with others like it.
pub(super) fn shape(job: &JobView, asked: Resources) -> Shape<'_> {
    (asked, job.group.as_deref(), job.on_quota)
}

/// A job's place in its tenant's queue.
pub(super) fn rank(job: &JobView) -> Rank<'_> {
    Rank::new(job.queue, job.priority, job.created, &job.uid)
}

/// That a node has room, but not for this job, as a sentence.
pub(super) fn kept(node: &str) -> Verdict {
    let sentence =
        format!("the room on {node} is kept for a larger job that {ENOUGH} or more others have passed");
    Verdict::Wait(Reason::WaitingForTurn, sentence)
}
