//! One decision: who is looked at, whose turn it is, and what is kept.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    sync::Arc,
};

use super::{
    Decision, Dispatcher, Stand,
    contest::Bid,
    placement::Stirred,
    queue::{Hold, Line, Shape},
    quota,
    seat::{Due, Seat},
    views::TenantView,
};
use crate::{
    api_types::{Reason, job::OnQuota},
    domain::{
        queue_order::{Age, Rank},
        skip_ahead::ENOUGH,
    },
};

/// So many jobs that are due, or may be by now, are looked at in one pass: it keeps at most one more node of a group, and
/// thousands may be due at once.
const MOST_DUE: usize = 16;

/// Where a job can go.
#[derive(Clone, Copy)]
struct Spot {
    /// Which of the tenant's groups.
    share: usize,
    /// The node; `None` where an autoscaler will supply it.
    node: Option<usize>,
}

/// What comes of looking at a job.
enum Judgement {
    Go(Spot),
    Hold(Hold),
    Refuse(Reason, String),
}

/// A line may go to one of its tenant's groups. The least is next: by turn, and where that is equal, by its place.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Offer {
    bid: Bid,
    /// The group in question.
    group: usize,
    /// Which of the tenant's groups that is, once the tenant was looked at: then this is the first of its jobs that may
    /// go. Before that, it is known only that some line of the tenant's may.
    share: Option<usize>,
}

type Offers = BinaryHeap<Reverse<Offer>>;

/// What one pass is about.
#[derive(Default)]
struct Table {
    /// Tenants that are looked at, each once.
    seats: Vec<usize>,
    offers: Offers,
    /// Offers that found the room used up.
    misses: usize,
}

impl Dispatcher {
    /// Admits all that may start by what was told so far.
    pub fn decide(&mut self) -> Decision {
        loop {
            let mut table = Table { seats: std::mem::take(&mut self.listed), ..Table::default() };
            table.seats.iter().for_each(|seat| self.look_at(*seat));
            self.gather(&mut table);
            if table.seats.is_empty() && table.offers.is_empty() {
                break;
            }
            self.pass(table);
        }
        Decision { decided: std::mem::take(&mut self.decided), usage: self.take_news() }
    }

    fn pass(&mut self, mut table: Table) {
        self.serve_due(&table.seats);
        // What is not kept any more is there for all.
        self.gather(&mut table);
        for seat in &table.seats {
            self.seats[*seat].see_chances(&self.rooms);
            self.bid(*seat, &mut table.offers);
        }
        self.serve_all(&mut table);
        table.seats.into_iter().for_each(|seat| self.finish(seat));
    }

    fn take_news(&mut self) -> Vec<Arc<str>> {
        let mut told = Vec::with_capacity(self.news.len());
        for number in std::mem::take(&mut self.news) {
            self.seats[number].news = false;
            told.push(Arc::clone(&self.seats[number].namespace));
            self.forget_seat(number);
        }
        told
    }

    // --- who is looked at

    /// Takes in what has changed for a tenant.
    fn look_at(&mut self, number: usize) {
        let seat = &mut self.seats[number];
        if std::mem::take(&mut seat.restless) {
            seat.unblock_all(&mut self.rooms);
        }
        seat.count_passed(&self.rooms);
        let mut arrivals = std::mem::take(&mut seat.arrivals);
        arrivals.retain(|job| {
            let entry = self.jobs.get(*job);
            entry.is_some_and(|entry| entry.seat == number && matches!(entry.stand, Stand::Arrived))
        });
        arrivals.sort_unstable_by(|a, b| self.jobs[*a].rank.age().cmp(self.jobs[*b].rank.age()));
        arrivals.dedup();
        for job in &arrivals {
            self.take_in(number, *job);
        }
        self.balance(number);
        for job in arrivals {
            self.turn_away(number, job);
        }
        self.seats[number].weigh(&mut self.rooms);
    }

    /// Refuses a new job, or lets it wait, outside at first.
    fn take_in(&mut self, number: usize, job: usize) {
        let (seat, entry) = (&mut self.seats[number], &mut self.jobs[job]);
        let age = entry.rank.age().clone();
        let refusal = match (&entry.asked, &seat.view) {
            (Err(error), _) => Some((error.reason(), error.to_string())),
            (Ok(asked), Some(view)) if view.closed.is_none() => {
                let shape = Shape {
                    asked: *asked,
                    group: entry.group.clone(),
                    on_quota: entry.on_quota,
                    fresh: entry.is_first_attempt(),
                };
                let waits_not = || seat.no_turn_soon(view, &age, shape.fresh, self.now);
                seat.never(view, &shape, &self.rooms)
                    .or_else(|| (shape.on_quota == OnQuota::Reject).then(waits_not).flatten())
            }
            _ => None,
        };
        if let Some((reason, sentence)) = refusal {
            entry.stand = Stand::Refused(reason, sentence);
            self.decided.push(Arc::clone(&entry.uid));
        } else {
            entry.stand = Stand::Outside;
            seat.outside.insert(age, job);
        }
    }

    /// Refuses a new job that found no place in the queue and would rather not wait; notes others to be told so.
    fn turn_away(&mut self, number: usize, job: usize) {
        let (seat, entry) = (&mut self.seats[number], &mut self.jobs[job]);
        match &seat.view {
            Some(view) if view.closed.is_none() && entry.on_quota == OnQuota::Reject => {
                if matches!(entry.stand, Stand::Outside) {
                    seat.outside.remove(entry.rank.age());
                    let sentence = quota::queue_full(view, seat.usage.queued - 1);
                    entry.stand = Stand::Refused(Reason::QueueFull, sentence);
                    self.decided.push(Arc::clone(&entry.uid));
                }
            }
            _ => self.lane.add(job),
        }
    }

    /// Sees to it that the oldest jobs are in the queue, as many as it has places for.
    fn balance(&mut self, number: usize) {
        loop {
            let seat = &self.seats[number];
            if seat.view.is_none() {
                return;
            }
            let oldest = seat.outside.first_key_value().map(|(age, job)| (age.clone(), *job));
            let youngest = seat.inside.last_key_value().map(|(age, job)| (age.clone(), *job));
            let is_over = !seat.has_places(seat.places());
            let has_place = seat.has_places(seat.places() + 1);
            match (oldest, youngest) {
                (Some((_, job)), _) if has_place => self.enter(number, job),
                (_, Some((age, job))) if is_over => self.expel(number, job, age),
                (Some((older, _)), Some((age, job))) if older < age => self.expel(number, job, age),
                _ => return,
            }
        }
    }

    fn enter(&mut self, number: usize, job: usize) {
        let (seat, entry) = (&mut self.seats[number], &mut self.jobs[job]);
        seat.outside.remove(entry.rank.age());
        let shape = Shape {
            asked: entry.size(),
            group: entry.group.clone(),
            on_quota: entry.on_quota,
            fresh: entry.is_first_attempt(),
        };
        let line = seat.enter(job, entry.rank.clone(), shape, &mut self.rooms);
        entry.stand = Stand::Line(line);
        if seat.is_closed() || seat.lines[line].hold.is_some() {
            self.lane.add(job);
        }
    }

    fn expel(&mut self, number: usize, job: usize, age: Age) {
        let (seat, entry) = (&mut self.seats[number], &mut self.jobs[job]);
        if let Stand::Line(line) = entry.stand {
            seat.leave(job, &entry.rank, line, &mut self.rooms);
        }
        entry.stand = Stand::Outside;
        seat.outside.insert(age, job);
        self.lane.add(job);
        self.forget_due(number, job);
    }

    /// Adds what may go where there is more room than before, or where the nodes are others, and jobs that may be due.
    fn gather(&mut self, table: &mut Table) {
        let Stirred { renewed, roomier, kept_for } = self.rooms.take_stirred();
        if renewed.is_empty() && roomier.is_empty() && kept_for.is_empty() {
            return;
        }
        let unserved = self.unserved.values().take(MOST_DUE).copied();
        let concerned: Vec<usize> = kept_for.into_iter().chain(unserved).collect();
        concerned.into_iter().for_each(|seat| self.invite(seat, table));
        for group in renewed.iter().chain(&roomier) {
            let passed = self.rooms.contest_mut(*group).take_passed(MOST_DUE);
            passed.into_iter().for_each(|seat| self.invite(seat, table));
        }
        for group in renewed {
            let waiting: Vec<_> = self.rooms.contest(group).waiters().map(|w| (w.seat, w.line)).collect();
            for (seat, line) in waiting {
                self.seats[seat].unblock(line, &mut self.rooms);
                self.invite(seat, table);
            }
        }
        let bids = roomier.into_iter().flat_map(|group| {
            self.rooms.bids(group, self.now).map(move |bid| Reverse(Offer { bid, group, share: None }))
        });
        table.offers.append(&mut bids.collect());
    }

    /// Has a tenant looked at.
    fn invite(&mut self, number: usize, table: &mut Table) {
        let Some(seat) = self.seats.get_mut(number) else { return };
        seat.count_passed(&self.rooms);
        if !seat.listed {
            seat.listed = true;
            table.seats.push(number);
        }
    }

    // --- jobs that are due

    /// Admits jobs that are due, where they fit by now, and keeps what they need from others where they don't.
    fn serve_due(&mut self, table: &[usize]) {
        let mut due = Vec::new();
        for number in table {
            self.find_due(*number);
            if let Some(job) = &self.seats[*number].due {
                due.push((Reverse(job.times), job.rank.age().clone(), *number));
                job.node.into_iter().for_each(|node| self.rooms.keep(node, *number));
            }
        }
        due.sort_unstable();
        let mut new_in_group = BTreeSet::new();
        for (_, _, number) in due {
            self.serve_one_due(number, &mut new_in_group);
        }
    }

    /// Finds the job of a tenant that is due: of those that were passed often enough, the first in its queue.
    fn find_due(&mut self, number: usize) {
        let seat = &mut self.seats[number];
        let old = seat.due.take();
        if !seat.is_closed() {
            let due = seat.skips.due().min_by(|a, b| self.jobs[a.0].rank.cmp(&self.jobs[b.0].rank));
            seat.due = due.map(|(job, times)| {
                let entry = &self.jobs[job];
                Due { job, rank: entry.rank.clone(), asked: entry.size(), times, node: None }
            });
        }
        let Some(node) = old.as_ref().and_then(|old| old.node) else { return };
        let may_hold = |due: &&mut Due| {
            let may_use = seat.shares.iter().any(|share| self.rooms.group_of(node) == Some(share.group));
            Some(due.job) == old.as_ref().map(|old| old.job)
                && may_use
                && self.rooms.could_hold(node, &due.asked)
        };
        match seat.due.as_mut().filter(may_hold) {
            Some(due) => due.node = Some(node),
            None => self.rooms.release(node),
        }
    }

    /// In one pass a group gives at most one more node to be kept, so that looking for it costs little.
    fn serve_one_due(&mut self, number: usize, new_in_group: &mut BTreeSet<usize>) {
        let seat = &self.seats[number];
        let (Some(due), Some(view)) = (seat.due.clone(), &seat.view) else { return };
        let Stand::Line(line) = self.jobs[due.job].stand else { return };
        let shape = seat.lines[line].shape.clone();
        let by_quota = seat.quota(view, &shape, true, self.now).is_some();
        let spot = if by_quota { None } else { self.spot(seat, &shape, &due.rank) };
        if let Some(spot) = spot {
            return self.admit(number, line, due.job, spot);
        }
        let mut node = due.node;
        if by_quota {
            node.take().into_iter().for_each(|node| self.rooms.release(node));
        } else if node.is_none() {
            let groups = seat.groups(seat.may_use(shape.group.as_deref()));
            let fresh = groups.into_iter().filter(|group| !new_in_group.contains(group));
            let found =
                fresh.filter_map(|group| Some((group, self.rooms.nearest(group, &due.asked)?))).next();
            if let Some((group, nearest)) = found {
                new_in_group.insert(group);
                self.rooms.keep(nearest, number);
                node = Some(nearest);
            }
        }
        self.seats[number].due = Some(Due { node, ..due });
        self.wait_for_node(number, node.is_none() && !by_quota);
    }

    /// Notes whether a tenant waits for a node to be kept for its job.
    fn wait_for_node(&mut self, number: usize, waits: bool) {
        let seat = &mut self.seats[number];
        match seat.unserved {
            None if waits => {
                self.unserved_ever += 1;
                seat.unserved = Some(self.unserved_ever);
                self.unserved.insert(self.unserved_ever, number);
            }
            Some(since) if !waits => {
                seat.unserved = None;
                self.unserved.remove(&since);
            }
            _ => (),
        }
    }

    /// A job waits no more, or has no place in the queue: nothing is kept for it.
    pub(super) fn forget_due(&mut self, number: usize, job: usize) {
        let due = self.seats[number].due.take_if(|due| due.job == job);
        due.and_then(|due| due.node).into_iter().for_each(|node| self.rooms.release(node));
    }

    // --- whose turn it is

    /// Goes through a tenant's lines, up to the first whose job would go to a shared pool: that waits for its turn.
    fn bid(&mut self, number: usize, offers: &mut Offers) {
        while !self.seats[number].is_closed() {
            let seat = &self.seats[number];
            let (head, chance) = (seat.heads.first(), seat.chances.first());
            let Some((rank, line)) = head.into_iter().chain(chance).min().cloned() else { return };
            if seat.chances.contains(&(rank.clone(), line)) {
                // It is judged when its turn comes; most turns do not come.
                match self.first_chance(seat, line) {
                    None => {
                        self.seats[number].chances.remove(&(rank, line));
                        continue;
                    }
                    Some(share) if share > 0 => return self.offer(number, line, share, offers),
                    Some(_) => self.seats[number].take_chance(&rank, line, &mut self.rooms),
                }
            }
            match self.judge(number, line) {
                Judgement::Go(spot) if spot.share > 0 => {
                    return self.offer(number, line, spot.share, offers);
                }
                judgement => self.carry_out(number, line, judgement),
            }
        }
    }

    fn offer(&self, number: usize, line: usize, share: usize, offers: &mut Offers) {
        let seat = &self.seats[number];
        let Line { shape, jobs, .. } = &seat.lines[line];
        let Some((rank, _)) = jobs.first_key_value() else { return };
        let turn = seat.turn(share, &shape.asked, &self.rooms, self.now);
        let bid = Bid { turn, place: seat.place_of(rank), seat: number, line };
        offers.push(Reverse(Offer { bid, group: seat.shares[share].group, share: Some(share) }));
    }

    /// Hands out what there is, in turn.
    fn serve_all(&mut self, table: &mut Table) {
        while let Some(Reverse(Offer { bid, group, share })) = table.offers.pop() {
            match share {
                Some(share) => self.serve(bid.seat, bid.line, share, &mut table.offers),
                None => self.serve_waiter(bid, group, table),
            }
        }
    }

    /// Looks at the first that may go of a tenant that waits for room.
    fn serve_waiter(&mut self, bid: Bid, group: usize, table: &mut Table) {
        if self.seats[bid.seat].listed {
            return;
        }
        if !self.may_still_fit(&bid, group) {
            return self.thin_out(group, table);
        }
        let seat = &mut self.seats[bid.seat];
        seat.listed = true;
        seat.count_passed(&self.rooms);
        seat.see_chances(&self.rooms);
        table.seats.push(bid.seat);
        self.bid(bid.seat, &mut table.offers);
    }

    fn may_still_fit(&self, bid: &Bid, group: usize) -> bool {
        let line = self.seats[bid.seat].lines.get(bid.line);
        line.is_some_and(|line| self.rooms.may_fit(group, &line.shape.asked))
    }

    /// Most that wait find the room used up. They are taken out together, the first time, the second, the fourth, …: at
    /// each miss that would be too much, and one by one, too.
    fn thin_out(&self, group: usize, table: &mut Table) {
        table.misses += 1;
        if table.misses.is_power_of_two() {
            let none_fits = self.rooms.bids(group, self.now).next().is_none();
            table.offers.retain(|Reverse(offer)| {
                let waits = offer.share.is_none() && offer.group == group;
                !waits || (!none_fits && self.may_still_fit(&offer.bid, group))
            });
        }
    }

    fn serve(&mut self, number: usize, line: usize, share: usize, offers: &mut Offers) {
        let seat = &self.seats[number];
        let first = seat.lines[line].jobs.first_key_value().map(|(rank, _)| (rank.clone(), line));
        if let Some((rank, _)) = first.filter(|first| seat.chances.contains(first)) {
            if !self.rooms.may_fit(seat.shares[share].group, &seat.lines[line].shape.asked) {
                return self.bid(number, offers);
            }
            self.seats[number].take_chance(&rank, line, &mut self.rooms);
        }
        match self.judge(number, line) {
            Judgement::Go(spot) if spot.share > 0 && spot.share != share => {
                self.offer(number, line, spot.share, offers);
            }
            judgement => {
                self.carry_out(number, line, judgement);
                self.bid(number, offers);
            }
        }
    }

    fn carry_out(&mut self, number: usize, line: usize, judgement: Judgement) {
        match judgement {
            Judgement::Go(spot) => {
                let first = self.seats[number].lines[line].jobs.first_key_value().map(|(_, job)| *job);
                first.into_iter().for_each(|job| self.admit(number, line, job, spot));
            }
            Judgement::Hold(hold) => self.block(number, line, hold),
            Judgement::Refuse(reason, sentence) => self.refuse(number, line, reason, &sentence),
        }
    }

    /// The first of the groups that may have room for a line.
    fn first_chance(&self, seat: &Seat, line: usize) -> Option<usize> {
        let shape = &seat.lines[line].shape;
        let mut may_use = seat.may_use(shape.group.as_deref());
        may_use.find(|at| self.rooms.may_fit(seat.shares[*at].group, &shape.asked))
    }

    /// Where the first of a line can go now, or why nowhere.
    fn judge(&mut self, number: usize, line: usize) -> Judgement {
        let seat = &self.seats[number];
        let (Some(view), Line { shape, verified, jobs, .. }) = (&seat.view, &seat.lines[line]) else {
            return Judgement::Hold(Hold::Room(Reason::NotATenantNamespace));
        };
        let edition = seat.edition_of(shape, &self.rooms);
        if *verified != Some(edition)
            && let Some((reason, sentence)) = seat.never(view, shape, &self.rooms)
        {
            return Judgement::Refuse(reason, sentence);
        }
        let Some((rank, _)) = jobs.first_key_value() else {
            return Judgement::Hold(Hold::Room(Reason::Queued));
        };
        let judgement = self.judge_first(seat, view, shape, rank);
        self.seats[number].lines[line].verified = Some(edition);
        judgement
    }

    fn judge_first(&self, seat: &Seat, view: &TenantView, shape: &Shape, rank: &Rank) -> Judgement {
        let ahead = seat.due.as_ref().is_some_and(|due| *rank <= due.rank);
        if let Some(hold) = seat.quota(view, shape, ahead, self.now) {
            return match (shape.on_quota, hold) {
                (OnQuota::Reject, Hold::Quota(reason, sentence)) if reason != Reason::WaitingForTurn => {
                    Judgement::Refuse(reason, sentence)
                }
                (_, hold) => Judgement::Hold(hold),
            };
        }
        if let Some(spot) = self.spot(seat, shape, rank) {
            return Judgement::Go(spot);
        }
        let groups = seat.groups(seat.may_use(shape.group.as_deref()));
        Judgement::Hold(Hold::Room(if !self.rooms.any(&groups) {
            Reason::NoWorkers
        } else if self.rooms.kept_with_room(&groups, &shape.asked).is_some() {
            Reason::WaitingForTurn
        } else {
            Reason::WaitingForCapacity
        }))
    }

    /// A place with room: a node, the one kept for the tenant's due job if this is it or comes before it, or one that
    /// an autoscaler will supply.
    fn spot(&self, seat: &Seat, shape: &Shape, rank: &Rank) -> Option<Spot> {
        let asked = &shape.asked;
        let may_use = seat.may_use(shape.group.as_deref());
        let kept = || {
            let node = seat.due.as_ref().filter(|due| *rank <= due.rank)?.node?;
            let group = self.rooms.group_of(node)?;
            let mut may_use = seat.may_use(shape.group.as_deref());
            let share = may_use.find(|at| seat.shares[*at].group == group)?;
            self.rooms.fits(node, asked).then_some(Spot { share, node: Some(node) })
        };
        let supplied = || Some(Spot { share: seat.supplied(may_use.clone(), &self.rooms)?, node: None });
        let free = |at: usize| {
            let node = self.rooms.find(seat.shares[at].group, asked)?;
            Some(Spot { share: at, node: Some(node) })
        };
        may_use.clone().find_map(free).or_else(kept).or_else(supplied)
    }

    fn admit(&mut self, number: usize, line: usize, job: usize, spot: Spot) {
        self.forget_due(number, job);
        let (seat, entry) = (&mut self.seats[number], &mut self.jobs[job]);
        let asked = entry.size();
        seat.leave(job, &entry.rank, line, &mut self.rooms);
        seat.usage.queued -= 1;
        seat.admitted += 1;
        seat.starting += u64::from(entry.is_first_attempt());
        let number_of_group = seat.shares[spot.share].group;
        let group: Arc<str> = self.rooms.group_name(number_of_group).into();
        seat.hold(asked, Some(&group), &mut self.rooms, self.now);
        self.rooms.contest_mut(number_of_group).admitted(&asked);
        let node = spot.node.map(|node| self.rooms.take_number(node, asked));
        (entry.stand, entry.since) = (Stand::Admitted { group, node, claimed: false }, self.now);
        self.decided.push(Arc::clone(&entry.uid));
        self.tell_usage(number);
        self.balance(number);
    }

    /// Notes what holds a line back, and whether its jobs are to be told.
    fn block(&mut self, number: usize, line: usize, hold: Hold) {
        let seat = &mut self.seats[number];
        let reason = hold.reason();
        if let (Reason::RateLimited, Some(at)) = (reason, seat.window.resets_at(self.now)) {
            self.wakes.insert((at, number));
        }
        seat.block(line, hold, &mut self.rooms);
        let line_now = &mut seat.lines[line];
        if line_now.told != Some(reason) {
            line_now.told = Some(reason);
            if !std::mem::replace(&mut line_now.telling, true) {
                self.lane.add_line(number, line);
            }
        }
    }

    /// Refuses all jobs of a line.
    fn refuse(&mut self, number: usize, line: usize, reason: Reason, sentence: &str) {
        let jobs: Vec<usize> = self.seats[number].lines[line].jobs.values().copied().collect();
        for job in jobs {
            self.forget_due(number, job);
            let (seat, entry) = (&mut self.seats[number], &mut self.jobs[job]);
            seat.leave(job, &entry.rank, line, &mut self.rooms);
            entry.stand = Stand::Refused(reason, sentence.to_owned());
            self.decided.push(Arc::clone(&entry.uid));
        }
        self.balance(number);
    }

    /// What is left to do for a tenant once all was handed out.
    fn finish(&mut self, number: usize) {
        let seat = &mut self.seats[number];
        seat.listed = false;
        seat.chances.clear();
        seat.find_skipped(&mut self.rooms);
        seat.weigh(&mut self.rooms);
        let (is_due, is_known) = (seat.skips.due().next().is_some(), seat.due.is_some());
        if !is_known {
            self.wait_for_node(number, false);
        }
        if is_due && !is_known && !self.seats[number].is_closed() {
            // It became so by what was just admitted.
            self.list(number);
        }
        self.forget_seat(number);
    }

    // --- sentences

    /// Why there is no room for a line, with the numbers of this moment.
    pub(super) fn room_sentence(&self, seat: &Seat, line: &Line, reason: Reason) -> String {
        let groups = seat.groups(seat.may_use(line.shape.group.as_deref()));
        let kept = self.rooms.kept_with_room(&groups, &line.shape.asked);
        match (reason, kept) {
            (Reason::NoWorkers, _) => self.rooms.no_workers(&groups),
            (Reason::WaitingForTurn, Some(node)) => {
                let node = self.rooms.node_name(node);
                format!(
                    "the room on {node} is kept for a larger job that {ENOUGH} or more others have passed"
                )
            }
            (Reason::WaitingForTurn, None) => "room is kept for a larger job".to_owned(),
            _ => self.rooms.no_room(&groups, &line.shape.asked),
        }
    }
}
