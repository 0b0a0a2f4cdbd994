//! The way of new jobs into their tenant's queue, or past it.

use std::sync::Arc;

use super::{
    Dispatcher,
    entry::{Assessment, Stand},
    quota,
    seat::Never,
};
use crate::{
    api_types::{Reason, job::OnQuota},
    domain::queue_order::Age,
};

impl Dispatcher {
    /// Takes in what has changed for a tenant.
    pub(super) fn look_at(&mut self, number: usize) {
        let seat = &mut self.seats[number];
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
            (Ok(_), Some(view)) if view.closed.is_none() => {
                let shape = entry.shape();
                let never = seat.never(view, &shape, &self.rooms);
                entry.assessment = match never {
                    Some(Never::Quota(_)) => Assessment::Refused,
                    Some(never) => {
                        let outlook = seat.outlook(&shape, never, &self.rooms, self.now.steady);
                        entry.assessment.next(outlook, self.now.steady)
                    }
                    None => Assessment::Passed,
                };
                let refused = never.filter(|_| entry.assessment == Assessment::Refused);
                let waits_not = || seat.no_turn_soon(view, &age, shape.fresh, self.now.wall);
                refused
                    .map(|never| seat.why_never(view, &shape, never, &self.rooms))
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
        if !matches!(entry.stand, Stand::Outside) {
            return;
        }
        match &seat.view {
            Some(view) if view.closed.is_none() && entry.on_quota == OnQuota::Reject => {
                seat.outside.remove(entry.rank.age());
                let sentence = quota::queue_full(view, seat.usage.queued - 1);
                entry.stand = Stand::Refused(Reason::QueueFull, sentence);
                self.decided.push(Arc::clone(&entry.uid));
            }
            _ => self.lane.add(number, job),
        }
    }

    /// Sees to it that the oldest jobs are in the queue, as many as it has places for.
    pub(super) fn balance(&mut self, number: usize) {
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
        let pending = entry.assessment != Assessment::Passed;
        let line = seat.enter(job, entry.rank.clone(), entry.shape(), &mut self.rooms);
        seat.lines[line].pending.extend(pending.then_some(job));
        entry.stand = Stand::Line(line);
        self.lane.add(number, job);
    }

    fn expel(&mut self, number: usize, job: usize, age: Age) {
        let (seat, entry) = (&mut self.seats[number], &mut self.jobs[job]);
        if let Stand::Line(line) = entry.stand {
            seat.leave(job, &entry.rank, line, &mut self.rooms);
        }
        entry.stand = Stand::Outside;
        seat.outside.insert(age, job);
        self.lane.add(number, job);
        self.forget_due(number, job);
    }
}
