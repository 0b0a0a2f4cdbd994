//! One pass of admission, from the snapshot to the verdicts.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashMap},
};

use super::{
    Memory, no_tenant,
    placement::Rooms,
    seat::{Due, Seat, Skipped, kept, rank, shape},
    views::{Admission, JobStanding, JobView, TenantView, Usage, Verdict},
};
use crate::{
    api_types::Reason,
    domain::{
        fair_share::{Turn, dominant_share},
        queue_order::Rank,
        resources::Resources,
    },
};

/// Everything that is compared.
pub(super) struct Pass<'a> {
    jobs: &'a [JobView],
    /// Of each job that waits.
    verdicts: Vec<Option<Verdict>>,
    /// Tenants by name.
    seats: Vec<Seat<'a>>,
    numbers: HashMap<&'a str, usize>,
    rooms: Rooms,
    memory: Memory,
    /// Admissions by group.
    admissions: Vec<u64>,
    /// Tenants whose next job has room in a shared pool; at most one entry each.
    offers: BinaryHeap<Reverse<Offer<'a>>>,
}

/// Where a job can go.
#[derive(Clone, Copy)]
struct Place {
    /// Which of the tenant's groups.
    share: usize,
    /// The node; `None` where an autoscaler will supply it.
    node: Option<usize>,
}

/// A job that would go to a shared pool. The least is next: by turn, and where that is equal, the job's own place.
struct Offer<'a> {
    turn: Turn,
    rank: Rank<'a>,
    seat: usize,
    job: usize,
    share: usize,
}

impl<'a> Pass<'a> {
    pub(super) fn new(
        tenants: &'a HashMap<String, TenantView>,
        mut rooms: Rooms,
        jobs: &'a [JobView],
        memory: Memory,
    ) -> Self {
        let mut views: Vec<&TenantView> = tenants.values().collect();
        views.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let recent = &memory.recent;
        let seats: Vec<_> =
            views.into_iter().map(|v| Seat::new(v, &mut rooms, |group| recent.of(&v.name, group))).collect();
        Self {
            verdicts: vec![None; jobs.len()],
            numbers: seats.iter().enumerate().map(|(n, seat)| (seat.view.name.as_str(), n)).collect(),
            admissions: vec![0; rooms.groups()],
            offers: BinaryHeap::new(),
            jobs,
            seats,
            rooms,
            memory,
        }
    }

    /// Counts what runs, gives every waiting job its place, and says who is guaranteed what.
    pub(super) fn take_in(&mut self) {
        let jobs = self.jobs;
        let owners: Vec<Option<usize>> =
            jobs.iter().map(|job| self.numbers.get(job.tenant.as_deref()?).copied()).collect();
        for (job, owner) in jobs.iter().zip(&owners) {
            let (Some(owner), JobStanding::Active { group, reserved }) = (owner, &job.state) else {
                continue;
            };
            let asked = job.asked.clone().unwrap_or_default();
            self.seats[*owner].hold(asked, group.as_deref());
            if let Some(node) = reserved.as_deref().and_then(|name| self.rooms.node(name)) {
                self.rooms.take(node, asked);
            }
        }
        for (number, (job, owner)) in jobs.iter().zip(owners).enumerate() {
            let seat = owner.map(|owner| &mut self.seats[owner]);
            self.verdicts[number] = match (&job.state, seat) {
                (JobStanding::Waiting(_), Some(seat)) => seat.take_in(job, number, &self.rooms),
                (JobStanding::Waiting(_), None) => Some(no_tenant()),
                (JobStanding::BackingOff, Some(seat)) => {
                    seat.back_off();
                    None
                }
                _ => None,
            };
        }
        self.guarantee();
    }

    /// A guarantee is the weight over the weights of all open tenants that hold or want something of the group.
    fn guarantee(&mut self) {
        let mut weights = vec![0.0; self.rooms.groups()];
        let weight = |seat: &Seat<'_>| f64::from(seat.view.weight.max(1));
        for seat in self.seats.iter().filter(|seat| seat.view.closed.is_none()) {
            for share in seat.shares.iter().filter(|s| s.wanted || s.held != Resources::default()) {
                weights[share.group] += weight(seat);
            }
        }
        for seat in &mut self.seats {
            let weight = weight(seat);
            seat.shares
                .iter_mut()
                .for_each(|share| share.guarantee = weight / weights[share.group].max(weight));
        }
    }

    /// Admits jobs that are due, where they fit by now, and keeps what they need from others where they don't.
    pub(super) fn serve_due(&mut self) {
        for seat in 0..self.seats.len() {
            self.find_due(seat);
        }
        let mut due: Vec<(usize, Due<'a>)> =
            self.seats.iter().enumerate().filter_map(|(n, seat)| Some((n, seat.due?))).collect();
        due.sort_unstable_by_key(|(_, due)| (Reverse(due.times), due.job));
        for node in due.iter().filter_map(|(_, due)| due.node) {
            self.rooms.keep(node);
        }
        let mut new_in_group = vec![false; self.rooms.groups()];
        for (seat, due) in due {
            self.serve_one_due(seat, due, &mut new_in_group);
        }
    }

    fn find_due(&mut self, seat: usize) {
        let jobs = self.jobs;
        let numbers = self.seats[seat].queue.iter().map(|Reverse((_, number))| *number);
        let due = numbers.filter_map(|n| Some((n, self.memory.skipped.due(&jobs[n].uid)?)));
        for (number, times) in due.collect::<Vec<_>>() {
            let (job, seat) = (&jobs[number], &mut self.seats[seat]);
            let groups = seat.groups(job);
            let node = self.memory.skipped.node(&job.uid).and_then(|name| self.rooms.node(name));
            let node = node.filter(|n| {
                let holds = job.asked.as_ref().is_ok_and(|asked| self.rooms.could_hold(*n, asked));
                holds && self.rooms.is_open(*n) && groups.contains(&self.rooms.group_of(*n))
            });
            seat.make_due(job, number, times, node);
        }
    }

    /// In one pass a group gives at most one more node to be kept, so that looking for it costs little.
    fn serve_one_due(&mut self, seat: usize, due: Due<'a>, new_in_group: &mut [bool]) {
        let job = &self.jobs[due.job];
        let by_quota = self.seats[seat].quota(job, due.job, &due.asked, false).is_some();
        let place = if by_quota { None } else { self.place(seat, job, due.rank) };
        let mut kept = due.node.filter(|_| !by_quota && place.is_none());
        if let Some(node) = due.node.filter(|_| kept.is_none()) {
            self.rooms.release(node);
        }
        if let Some(place) = place {
            self.admit(seat, due.job, place);
            return;
        }
        if kept.is_none() && !by_quota {
            let mut groups = self.seats[seat].groups(job).into_iter();
            kept =
                groups.find_map(|g| (!new_in_group[g]).then(|| self.rooms.nearest(g, &due.asked)).flatten());
            if let Some(node) = kept {
                new_in_group[self.rooms.group_of(node)] = true;
                self.rooms.keep(node);
            }
        }
        self.memory.skipped.keep(&job.uid, kept.map(|node| self.rooms.node_name(node).to_owned()));
        self.seats[seat].due = Some(Due { node: kept, ..due });
    }

    /// Admits what fits: to the tenants' own groups at once, to shared pools in turn.
    pub(super) fn serve_all(&mut self) {
        for seat in 0..self.seats.len() {
            self.walk(seat);
        }
        while let Some(Reverse(offer)) = self.offers.pop() {
            let job = &self.jobs[offer.job];
            match self.judge(offer.seat, offer.job, offer.rank) {
                Err(verdict) => self.block(offer.seat, offer.job, verdict),
                Ok(place) if place.share == offer.share || place.share == 0 => {
                    self.admit(offer.seat, offer.job, place)
                }
                Ok(place) => {
                    self.offer(offer.seat, offer.job, rank(job), place);
                    continue;
                }
            }
            self.walk(offer.seat);
        }
    }

    /// Goes through a tenant's queue up to the next job that would go to a shared pool, which waits for the turn.
    fn walk(&mut self, seat: usize) {
        while let Some(Reverse((rank, job))) = self.seats[seat].queue.pop() {
            if self.verdicts[job].is_some() {
                continue;
            }
            match self.judge(seat, job, rank) {
                Ok(place) if place.share == 0 => self.admit(seat, job, place),
                Ok(place) => return self.offer(seat, job, rank, place),
                Err(verdict) => self.block(seat, job, verdict),
            }
        }
    }

    fn offer(&mut self, seat: usize, job: usize, rank: Rank<'a>, place: Place) {
        let asked = self.jobs[job].asked.clone().unwrap_or_default();
        let turn = self.seats[seat].turn(place.share, asked, &self.rooms);
        self.offers.push(Reverse(Offer { turn, rank, seat, job, share: place.share }));
    }

    /// Where a job can go now, or why nowhere.
    fn judge(&self, number: usize, job: usize, rank: Rank<'a>) -> Result<Place, Verdict> {
        let (seat, view) = (&self.seats[number], &self.jobs[job]);
        let asked = view.asked.clone().unwrap_or_default();
        if let Some(verdict) = seat.blocked.get(&shape(view, asked)) {
            return Err(verdict.clone());
        }
        let ahead = seat.due.is_some_and(|due| rank < due.rank);
        if let Some(verdict) = seat.quota(view, job, &asked, ahead) {
            return Err(verdict);
        }
        self.place(number, view, rank).ok_or_else(|| {
            let groups = seat.groups(view);
            if !self.rooms.any(&groups) {
                return Verdict::Wait(Reason::NoWorkers, self.rooms.no_workers(&groups));
            }
            match self.rooms.kept_with_room(&groups, &asked) {
                Some(node) => kept(self.rooms.node_name(node)),
                None => Verdict::Wait(Reason::WaitingForCapacity, self.rooms.no_room(&groups, &asked)),
            }
        })
    }

    /// A place with room: a node, the one kept for the tenant's due job if this is it or comes before it, or one that
    /// an autoscaler will supply.
    fn place(&self, number: usize, job: &JobView, rank: Rank<'a>) -> Option<Place> {
        let seat = &self.seats[number];
        let asked = job.asked.clone().unwrap_or_default();
        let mut may_use = seat.may_use(job);
        let supplied = seat.view.elastic && may_use.start == 0;
        let free = |at: usize| {
            self.rooms.find(seat.shares[at].group, &asked).map(|node| Place { share: at, node: Some(node) })
        };
        let kept = || {
            let node = seat.due.filter(|due| rank <= due.rank)?.node?;
            let share = seat.shares.iter().position(|share| share.group == self.rooms.group_of(node))?;
            let may = seat.may_use(job).contains(&share) && self.rooms.fits(node, &asked);
            may.then_some(Place { share, node: Some(node) })
        };
        may_use.find_map(free).or_else(kept).or_else(|| supplied.then_some(Place { share: 0, node: None }))
    }

    fn admit(&mut self, number: usize, job: usize, place: Place) {
        let view = &self.jobs[job];
        let JobStanding::Waiting(attempt) = view.state else { return };
        let asked = view.asked.clone().unwrap_or_default();
        let seat = &mut self.seats[number];
        let group = seat.shares[place.share].group;
        seat.admit(job, asked, place.share, self.jobs);
        self.admissions[group] += 1;
        if let Some(node) = place.node {
            self.rooms.take(node, asked);
        }
        self.verdicts[job] = Some(Verdict::Admit(Admission {
            attempt,
            group: self.rooms.group_name(group).to_owned(),
            node: place.node.map(|node| self.rooms.node_name(node).to_owned()),
        }));
    }

    /// Notes that a job, and all like it, have no place in this pass.
    fn block(&mut self, number: usize, job: usize, verdict: Verdict) {
        let view = &self.jobs[job];
        let by_quota = match verdict {
            Verdict::Wait(Reason::WaitingForQuota, _) => Some(true),
            Verdict::Wait(Reason::WaitingForCapacity, _) => Some(false),
            _ => None,
        };
        if let (None, Some(by_quota)) = (&self.seats[number].skipped, by_quota) {
            let before = self.passed(number, job, by_quota);
            self.seats[number].skipped = Some(Skipped { job, by_quota, before });
        }
        let seat = &mut self.seats[number];
        seat.blocked.entry(shape(view, view.asked.clone().unwrap_or_default())).or_insert(verdict.clone());
        self.verdicts[job] = Some(verdict);
    }

    /// Admissions so far that could have passed a job of a tenant.
    fn passed(&self, number: usize, job: usize, by_quota: bool) -> u64 {
        let seat = &self.seats[number];
        match by_quota {
            true => seat.admitted,
            false => seat.groups(&self.jobs[job]).iter().map(|group| self.admissions[*group]).sum(),
        }
    }

    /// The verdicts by job, the usage by tenant, and what the next pass is to know.
    pub(super) fn finish(mut self) -> (Vec<Option<Verdict>>, HashMap<String, Usage>, Memory) {
        for (number, seat) in self.seats.iter().enumerate() {
            for (job, verdict) in seat.left_outside() {
                self.verdicts[job] = Some(verdict);
            }
            if let Some(skipped) = &seat.skipped {
                let times = self.passed(number, skipped.job, skipped.by_quota) - skipped.before;
                self.memory.skipped.passed(&self.jobs[skipped.job].uid, times);
            }
        }
        let rooms = &self.rooms;
        let held = self.seats.iter().flat_map(|seat| {
            // Its own nodes are all its own: what it holds there counts nowhere else.
            let pools = seat.shares.iter().skip(1).filter(|share| share.held != Resources::default());
            pools.map(|share| {
                let part = dominant_share(&share.held, &rooms.capacity(share.group));
                (seat.view.name.as_str(), rooms.group_name(share.group), part)
            })
        });
        self.memory.recent.hold(held);
        let usage = self.seats.into_iter().map(|seat| (seat.view.name.clone(), seat.usage)).collect();
        (self.verdicts, usage, self.memory)
    }
}

impl Ord for Offer<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.turn.cmp(&other.turn).then(self.rank.cmp(&other.rank))
    }
}

impl PartialOrd for Offer<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Offer<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Offer<'_> {}
