//! One decision: who is looked at, whose turn it is, and what is kept.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, BinaryHeap},
    sync::Arc,
};

use super::{
    Decision, Dispatcher, contest::Bid, judge::Judgement, placement::Stirred, queue::Line, seat::Seat,
};

/// So many jobs that are due, or may be by now, are looked at in one pass: it keeps at most one more node of a group, and
/// thousands may be due at once.
const MOST_DUE: usize = 16;

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
            self.rooms.arrange_all(self.now.steady);
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
            self.reassess(*seat);
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

    /// Adds what may go where there is more room than before, or where the nodes are others, and jobs that may be due.
    fn gather(&mut self, table: &mut Table) {
        let Stirred { renewed, roomier, kept_for } = self.rooms.take_stirred(self.now.steady);
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
            let waiting: BTreeSet<usize> = self.rooms.contest(group).waiters().map(|w| w.seat).collect();
            for seat in waiting {
                self.seats[seat].restless = true;
                self.invite(seat, table);
            }
        }
        let bids = roomier.into_iter().flat_map(|group| {
            self.rooms.bids(group, self.now.steady).map(move |bid| Reverse(Offer { bid, group, share: None }))
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
        let turn = seat.turn(share, &shape.asked, &self.rooms, self.now.steady);
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
            let none_fits = self.rooms.bids(group, self.now.steady).next().is_none();
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

    /// The first of the groups that may have room for a line.
    fn first_chance(&self, seat: &Seat, line: usize) -> Option<usize> {
        let shape = &seat.lines[line].shape;
        let mut may_use = seat.may_use(shape.group.as_deref());
        may_use.find(|at| self.rooms.may_fit(seat.shares[*at].group, &shape.asked))
    }

    /// What is left to do for a tenant once all was handed out.
    fn finish(&mut self, number: usize) {
        let seat = &mut self.seats[number];
        seat.listed = false;
        seat.chances.clear();
        seat.find_skipped(&mut self.rooms);
        seat.weigh(&mut self.rooms);
        let (is_due, is_known) = (self.first_due(number).is_some(), self.seats[number].due.is_some());
        if !is_known {
            self.wait_for_node(number, false);
        }
        if is_due && !is_known && !self.seats[number].is_closed() {
            // It became so by what was just admitted.
            self.list(number);
        }
        self.forget_seat(number);
    }
}
