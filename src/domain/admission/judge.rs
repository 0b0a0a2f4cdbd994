//! The judgement on one line of jobs, and its execution.

use std::sync::Arc;

use super::{
    Dispatcher,
    entry::{Assessment, Stand},
    queue::{Hold, Line, Shape},
    seat::{Never, Seat},
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
    /// These jobs of the line will never run.
    Refuse(Vec<usize>, Reason, String),
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
            Judgement::Refuse(jobs, reason, sentence) => self.refuse(number, line, jobs, reason, &sentence),
        }
    }

    /// Where the first of a line can go now, or why nowhere.
    pub(super) fn judge(&mut self, number: usize, line: usize) -> Judgement {
        #[cfg(test)]
        {
            self.judged += 1;
        }
        let seat = &self.seats[number];
        let (Some(view), Line { shape, verified, jobs, .. }) = (&seat.view, &seat.lines[line]) else {
            return Judgement::Hold(Hold::Room(Reason::NotATenantNamespace));
        };
        let edition = seat.edition_of(shape, &self.rooms);
        if *verified != Some(edition)
            && let Some(never) = seat.never(view, shape, &self.rooms)
        {
            return match never {
                Never::Quota(excess) => {
                    let all = jobs.values().copied().collect();
                    Judgement::Refuse(all, Reason::ExceedsQuota, excess.sentence(view))
                }
                Never::Pool | Never::Nodes => self.judge_too_large(number, line, never),
            };
        }
        let Some((rank, _)) = jobs.first_key_value() else {
            return Judgement::Hold(Hold::Room(Reason::Queued));
        };
        let judgement = self.judge_first(seat, view, &seat.lines[line], rank);
        let line_now = &mut self.seats[number].lines[line];
        line_now.verified = Some(edition);
        for job in std::mem::take(&mut line_now.pending) {
            if let Some(entry) = self.jobs.get_mut(job).filter(|entry| entry.is_in(number, line)) {
                entry.assessment = Assessment::Passed;
            }
        }
        judgement
    }

    /// Jobs that no node could hold wait on for one that can, but for those of which this is the first assessment.
    fn judge_too_large(&mut self, number: usize, line: usize, never: Never) -> Judgement {
        let seat = &self.seats[number];
        let outlook = seat.outlook(&seat.lines[line].shape, never, &self.rooms, self.now.steady);
        let (mut refused, mut later) = (Vec::new(), Vec::new());
        for job in std::mem::take(&mut self.seats[number].lines[line].pending) {
            let Some(entry) = self.jobs.get_mut(job).filter(|entry| entry.is_in(number, line)) else {
                continue;
            };
            entry.assessment = entry.assessment.next(outlook, self.now.steady);
            match entry.assessment {
                Assessment::Refused => refused.push(job),
                Assessment::Until(at) => {
                    self.timers.insert((at, number));
                    later.push(job);
                }
                Assessment::Ahead | Assessment::Passed => (),
            }
        }
        let seat = &mut self.seats[number];
        seat.lines[line].pending = later;
        let shape = &seat.lines[line].shape;
        match &seat.view {
            Some(view) if !refused.is_empty() => {
                let (reason, sentence) = seat.why_never(view, shape, never, &self.rooms);
                Judgement::Refuse(refused, reason, sentence)
            }
            _ => Judgement::Hold(Hold::Room(Reason::DoesNotFit)),
        }
    }

    fn judge_first(&self, seat: &Seat, view: &TenantView, line: &Line, rank: &Rank) -> Judgement {
        let shape = &line.shape;
        if let Some(excess) = seat.quota(view, shape, seat.is_ahead(rank), self.now.wall) {
            let reason = excess.reason();
            return match shape.on_quota {
                OnQuota::Reject if reason != Reason::WaitingForTurn => {
                    let all = line.jobs.values().copied().collect();
                    Judgement::Refuse(all, reason, excess.sentence(view))
                }
                _ => Judgement::Hold(Hold::Quota(excess)),
            };
        }
        match self.spot(seat, shape, rank) {
            Some(spot) => Judgement::Go(spot),
            None => Judgement::Hold(Hold::Room(self.room_reason(seat, shape))),
        }
    }

    /// Why a job waits that finds no room.
    fn room_reason(&self, seat: &Seat, shape: &Shape) -> Reason {
        let groups = || seat.shares[seat.may_use(shape.group.as_deref())].iter().map(|share| share.group);
        if !self.rooms.any(groups()) {
            Reason::NoWorkers
        } else if self.rooms.kept_with_room(groups(), &shape.asked).is_some() {
            Reason::WaitingForTurn
        } else {
            Reason::WaitingForCapacity
        }
    }

    // --- judging again

    /// Looks which of a tenant's lines that are held may go by what has changed for it: these are judged again. The others
    /// stay where they are, with the numbers of now. Most of a long queue do.
    pub(super) fn reassess(&mut self, number: usize) {
        if !std::mem::take(&mut self.seats[number].restless) {
            return;
        }
        let seat = &self.seats[number];
        let held = seat.lines.iter().filter(|(_, line)| line.hold.is_some());
        let held: Vec<_> = held.map(|(number, line)| (number, self.still_held(seat, line))).collect();
        let seat = &mut self.seats[number];
        let mut waits_for_hour = false;
        for (line, hold) in held {
            match hold {
                Some(hold) => {
                    waits_for_hour |= hold.reason() == Reason::RateLimited;
                    seat.lines[line].hold = Some(hold);
                }
                None => seat.unblock(line, &mut self.rooms),
            }
        }
        if let Some(at) = seat.window.resets_at(self.now.wall).filter(|_| waits_for_hour) {
            self.window_resets.insert((at, number));
        }
    }

    /// What holds a line back as before, if it is certain that the same does.
    fn still_held(&self, seat: &Seat, line: &Line) -> Option<Hold> {
        let view = seat.view.as_ref().filter(|view| view.closed.is_none())?;
        let (hold, shape) = (line.hold?, &line.shape);
        let (rank, _) = line.jobs.first_key_value().filter(|_| shape.on_quota != OnQuota::Reject)?;
        if line.verified != Some(seat.edition_of(shape, &self.rooms))
            && let Some(never) = seat.never(view, shape, &self.rooms)
        {
            let same = hold == Hold::Room(Reason::DoesNotFit) && !matches!(never, Never::Quota(_));
            return (same && line.pending.is_empty()).then_some(hold);
        }
        match (hold, seat.quota(view, shape, seat.is_ahead(rank), self.now.wall)) {
            (Hold::Quota(old), Some(new)) => (old.reason() == new.reason()).then_some(Hold::Quota(new)),
            // Room that is free now is found by `see_chances`; what is kept for the due job is not in sight there.
            (Hold::Room(reason), None) => {
                let due = seat.due.as_ref().filter(|due| *rank <= due.rank);
                let kept =
                    due.and_then(|due| due.node).is_some_and(|node| self.rooms.fits(node, &shape.asked));
                (!kept && reason == self.room_reason(seat, shape)).then_some(hold)
            }
            _ => None,
        }
    }

    // --- carrying it out

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
        seat.hold(asked, Some(&group), &mut self.rooms, self.now.steady);
        self.rooms.contest_mut(number_of_group).admitted(&asked);
        let node = spot.node.map(|node| self.rooms.take_number(node, asked));
        (entry.stand, entry.since) = (Stand::Admitted { group, node, claimed: false }, self.now.steady);
        self.decided.push(Arc::clone(&entry.uid));
        self.tell_usage(number);
        self.balance(number);
    }

    /// Notes what holds a line back, and whether its jobs are to be told.
    fn block(&mut self, number: usize, line: usize, hold: Hold) {
        let seat = &mut self.seats[number];
        let reason = hold.reason();
        if let (Reason::RateLimited, Some(at)) = (reason, seat.window.resets_at(self.now.wall)) {
            self.window_resets.insert((at, number));
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

    /// Refuses jobs of a line.
    fn refuse(&mut self, number: usize, line: usize, jobs: Vec<usize>, reason: Reason, sentence: &str) {
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
