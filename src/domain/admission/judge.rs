//! The judgement on one line of jobs, and its execution.

use std::sync::Arc;

use super::{
    Dispatcher,
    entry::Stand,
    queue::{Hold, Line, Shape},
    seat::Seat,
    views::TenantView,
};
use crate::{
    api_types::{Reason, job::OnQuota},
    domain::queue_order::Rank,
};

/// Where a job can go.
#[derive(Clone, Copy)]
pub(super) struct Spot {
    /// Which of the tenant's groups.
    pub(super) share: usize,
    /// The node; `None` where an autoscaler will supply it.
    pub(super) node: Option<usize>,
}

/// What comes of looking at a job.
pub(super) enum Judgement {
    Go(Spot),
    Hold(Hold),
    Refuse(Reason, String),
}

impl Dispatcher {
    /// Does what a judgement on a line says.
    pub(super) fn carry_out(&mut self, number: usize, line: usize, judgement: Judgement) {
        match judgement {
            Judgement::Go(spot) => {
                let first = self.seats[number].lines[line].jobs.first_key_value().map(|(_, job)| *job);
                first.into_iter().for_each(|job| self.admit(number, line, job, spot));
            }
            Judgement::Hold(hold) => self.block(number, line, hold),
            Judgement::Refuse(reason, sentence) => self.refuse(number, line, reason, &sentence),
        }
    }

    /// Where the first of a line can go now, or why nowhere.
    pub(super) fn judge(&mut self, number: usize, line: usize) -> Judgement {
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
    pub(super) fn spot(&self, seat: &Seat, shape: &Shape, rank: &Rank) -> Option<Spot> {
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

    /// Admits a job.
    pub(super) fn admit(&mut self, number: usize, line: usize, job: usize, spot: Spot) {
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
            if line_now.tellings == 0 {
                self.lane.add_line(number, line);
            }
            line_now.tellings = (line_now.tellings + 1).min(2);
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
}
