//! One tenant: its queue, what it holds, and what its quotas say.
//!
//! Inside the queue are the oldest jobs, as many as the quota allows; the others wait outside, in order of submission.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    ops::Range,
    sync::Arc,
};

use jiff::Timestamp;
use slab::Slab;

use super::{
    contest::Place,
    passed::Skipped,
    placement::{Outlook, Rooms},
    queue::{Line, Shape},
    quota::{self, Excess, no_turn_soon},
    views::{TenantView, Usage},
};
use crate::{
    api_types::{JobPhase, Reason, plan::Limit},
    domain::{
        fair_share::{Recent, Turn},
        queue_order::{Age, Rank},
        rate_window::RateWindow,
        resources::Resources,
        skip_ahead::SkipAhead,
    },
};

/// A tenant at the table.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) number: usize,
    pub(super) namespace: Arc<str>,
    /// Its place among tenants whose turn is equal, in which nothing is to be read.
    place: u64,
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
    pub(super) shapes: HashMap<Shape, usize>,
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
    /// Since when that waits for a node to be kept for it, counted.
    pub(super) unserved: Option<u64>,
    /// Jobs admitted so far.
    pub(super) admitted: u64,
    pub(super) window: RateWindow,
    /// Jobs by UID whose first pod somebody waits for, until it is let go.
    pub(super) awaited: HashSet<Box<str>>,
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
    /// Number of the tenant's part among all of the group.
    pub(super) stake: usize,
    /// Jobs in the queue that may go there.
    pub(super) wanted: u64,
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

/// Why jobs of a shape can't run by what there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Never {
    /// A quota has no room even for one alone.
    Quota(Excess),
    /// They name a pool that the tenant may not use.
    Pool,
    /// No node could hold one, were it empty.
    Nodes,
}

impl Seat {
    pub(super) fn new(number: usize, namespace: Arc<str>) -> Self {
        let mut hasher = DefaultHasher::new();
        namespace.hash(&mut hasher);
        Self {
            number,
            namespace,
            place: hasher.finish(),
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
            unserved: None,
            admitted: 0,
            window: RateWindow::default(),
            awaited: HashSet::new(),
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

    /// Takes another view of the tenant; nobody may be waiting at the moment, and what it holds is to be counted anew.
    pub(super) fn sit(&mut self, view: Option<TenantView>, rooms: &mut Rooms) {
        let old: Vec<(usize, Recent)> = std::mem::take(&mut self.shares)
            .into_iter()
            .map(|share| (share.group, rooms.contest_mut(share.group).leave(share.stake)))
            .collect();
        let names = view.iter().flat_map(|view| view.groups.iter().map(|name| (name, view.weight)));
        for (name, weight) in names {
            let group = rooms.join_group(name);
            let recent = old.iter().find(|(before, _)| *before == group).map(|(_, recent)| *recent);
            let stake = rooms.contest_mut(group).join(weight, recent.unwrap_or_default());
            self.shares.push(Share { group, stake, wanted: 0 });
        }
        old.into_iter().for_each(|(group, _)| rooms.leave_group(group));
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
    pub(super) fn hold(&mut self, asked: Resources, group: Option<&str>, rooms: &mut Rooms, now: Timestamp) {
        self.usage.active += 1;
        self.usage.held += asked;
        self.change_share(group, |held| *held += asked, rooms, now);
    }

    /// Takes [`Self::hold`] back.
    pub(super) fn let_go(
        &mut self,
        asked: Resources,
        group: Option<&str>,
        rooms: &mut Rooms,
        now: Timestamp,
    ) {
        self.usage.active -= 1;
        self.usage.held = self.usage.held - asked;
        self.change_share(group, |held| *held = *held - asked, rooms, now);
    }

    /// Changes what is held of a group; one that the tenant may not use any more counts for its quotas only.
    pub(super) fn change_share(
        &self,
        group: Option<&str>,
        change: impl FnOnce(&mut Resources),
        rooms: &mut Rooms,
        now: Timestamp,
    ) {
        let at = self.may_use(group).next().filter(|_| group.is_some());
        if let Some(share) = at.map(|at| &self.shares[at]) {
            rooms.hold(share.group, share.stake, change, now);
        }
    }

    /// Sees to it that its weight counts where it holds or wants something.
    pub(super) fn weigh(&self, rooms: &mut Rooms) {
        let is_open = !self.is_closed();
        for share in &self.shares {
            let contest = rooms.contest_mut(share.group);
            let counts = is_open && (share.wanted > 0 || *contest.held(share.stake) != Resources::default());
            contest.weigh(share.stake, counts);
        }
    }

    /// How near the turn of a job that asks for this is in a group.
    pub(super) fn turn(&self, share: usize, asked: &Resources, rooms: &Rooms, now: Timestamp) -> Turn {
        let Share { group, stake, .. } = self.shares[share];
        rooms.turn(group, stake, asked, now)
    }

    /// Where a job stands among those of other tenants whose turn is equal.
    pub(super) fn place_of(&self, rank: &Rank) -> Place {
        Place { standing: rank.standing(), tenant: self.place }
    }

    // --- judging

    /// Why jobs of a shape can't run, were nothing else to run: by the quotas, and by the nodes that there are.
    pub(super) fn never(&self, view: &TenantView, shape: &Shape, rooms: &Rooms) -> Option<Never> {
        if let Some(excess) = quota::alone(view, &shape.asked) {
            return Some(Never::Quota(excess));
        }
        let may_use = self.may_use(shape.group.as_deref());
        if may_use.is_empty() && shape.group.is_some() {
            return Some(Never::Pool);
        }
        let groups = || self.shares[may_use.clone()].iter().map(|share| share.group);
        let too_large = || rooms.any(groups()) && !rooms.ever(groups(), &shape.asked);
        (self.supplied(may_use.clone(), rooms).is_none() && too_large()).then_some(Never::Nodes)
    }

    /// [`Self::never`] with the reason and a sentence.
    pub(super) fn why_never(
        &self,
        view: &TenantView,
        shape: &Shape,
        never: Never,
        rooms: &Rooms,
    ) -> (Reason, String) {
        match never {
            Never::Quota(excess) => (Reason::ExceedsQuota, excess.sentence(view)),
            Never::Pool => (Reason::DoesNotFit, self.no_pool(shape)),
            Never::Nodes => {
                let groups = self.groups(self.may_use(shape.group.as_deref()));
                (Reason::DoesNotFit, rooms.fits_nowhere(&groups, &shape.asked))
            }
        }
    }

    /// That the tenant may not use the pool that jobs of a shape name.
    pub(super) fn no_pool(&self, shape: &Shape) -> String {
        let tenant = self.view.as_ref().map_or(&*self.namespace, |view| view.name.as_str());
        format!(
            "tenant {tenant} may not use the pool of group {}",
            shape.group.as_deref().unwrap_or_default()
        )
    }

    /// What may become of jobs that can't run by the nodes that there are.
    pub(super) fn outlook(&self, shape: &Shape, never: Never, rooms: &Rooms, now: Timestamp) -> Outlook {
        let groups = || self.shares[self.may_use(shape.group.as_deref())].iter().map(|share| share.group);
        match never {
            Never::Nodes => rooms.outlook(groups, &shape.asked, now),
            Never::Quota(_) | Never::Pool => Outlook::Hopeless,
        }
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
        self.no_turn_after(view, self.queued_before(age, most), fresh, now)
    }

    /// The same where so many wait before the job.
    pub(super) fn no_turn_after(
        &self,
        view: &TenantView,
        before: u64,
        fresh: bool,
        now: Timestamp,
    ) -> Option<(Reason, String)> {
        if let Some(sentence) = no_turn_soon(view, self.usage.active, before) {
            return Some((Reason::WaitingForQuota, sentence));
        }
        let sentence = quota::no_start_soon(view, self.started(now), before).filter(|_| fresh)?;
        Some((Reason::RateLimited, sentence))
    }

    /// By which edition of quotas and nodes it is known whether a shape could run at all.
    pub(super) fn edition_of(&self, shape: &Shape, rooms: &Rooms) -> u64 {
        let groups = &self.shares[self.may_use(shape.group.as_deref())];
        groups.iter().map(|share| rooms.edition(share.group)).sum::<u64>() + self.edition
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
    ) -> Option<Excess> {
        if shape.fresh
            && let Some(excess) = quota::hour(view, self.started(now))
        {
            return Some(excess);
        }
        let Usage { active, held, .. } = &self.usage;
        if let Some(excess) = quota::with_held(view, held, *active, &shape.asked) {
            return Some(excess);
        }
        let due = self.due.as_ref().filter(|_| !ahead)?;
        quota::with_held(view, &(*held + due.asked), active + 1, &shape.asked)?;
        Some(Excess::SetAside { times: due.times })
    }

    /// Whether a job is the one that is due, or comes before it.
    pub(super) fn is_ahead(&self, rank: &Rank) -> bool {
        self.due.as_ref().is_some_and(|due| *rank <= due.rank)
    }
}
