//! Which waiting jobs are to be told why they wait.
//!
//! A reason is a write on the Job, and thousands may get another one at once. So they stand here in a lane and are told
//! as many at a time as the caller has writes to spare, of each tenant one in turn: those that came last first, then of
//! each line one in turn, from its front. A job is told only when its reason is another one than its owner knows; a job
//! that waits for room or quota keeps that reason while it is others' turn, because what is kept for a large job comes and
//! goes.

use std::{
    collections::{HashMap, VecDeque},
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use super::{
    Dispatcher,
    entry::{Entry, Stand},
    seat::Seat,
};
use crate::{api_types::Reason, domain::queue_order::Rank};

/// Jobs looked at in one go, so that finding nobody to tell ends soon.
const LOOKS: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// Tenants of which somebody may be told, by seat, the next first.
    turns: VecDeque<usize>,
    candidates: HashMap<usize, Candidates>,
}

/// Who may be told of one tenant.
#[derive(Debug, Default)]
struct Candidates {
    jobs: VecDeque<usize>,
    /// Lines by number, with the last job that was looked at.
    lines: VecDeque<(usize, Option<Rank>)>,
}

impl Lane {
    pub(super) fn add(&mut self, seat: usize, job: usize) {
        self.of(seat).jobs.push_back(job);
    }

    pub(super) fn add_line(&mut self, seat: usize, line: usize) {
        self.of(seat).lines.push_back((line, None));
    }

    fn of(&mut self, seat: usize) -> &mut Candidates {
        self.candidates.entry(seat).or_insert_with(|| {
            self.turns.push_back(seat);
            Candidates::default()
        })
    }
}

impl Candidates {
    fn next(&mut self, seat: Option<&mut Seat>) -> Option<usize> {
        self.jobs.pop_front().or_else(|| self.next_of_lines(seat?))
    }

    fn next_of_lines(&mut self, seat: &mut Seat) -> Option<usize> {
        loop {
            let (number, looked_at) = self.lines.pop_front()?;
            let Some(line) = seat.lines.get_mut(number) else { continue };
            match line.jobs.range((looked_at.map_or(Unbounded, Excluded), Unbounded)).next() {
                Some((rank, job)) => {
                    self.lines.push_back((number, Some(rank.clone())));
                    return Some(*job);
                }
                None => {
                    // There may be an entry of a line that had this number before.
                    line.tellings = line.tellings.saturating_sub(1);
                    if line.tellings > 0 {
                        self.lines.push_back((number, None));
                    }
                }
            }
        }
    }
}

impl Dispatcher {
    /// At most so many jobs, by UID, whose owners are to be told a reason to wait: from now on [`Self::verdict`] says it.
    pub fn reasons(&mut self, most: usize) -> Vec<Arc<str>> {
        let mut told = Vec::new();
        for _ in 0..LOOKS {
            if told.len() >= most {
                break;
            }
            let Some(job) = self.next_candidate() else { break };
            let Some(entry) = self.jobs.get(job) else { continue };
            let Some(reason) = self.reason(entry).filter(|reason| is_news(entry.told, *reason)) else {
                continue;
            };
            let entry = &mut self.jobs[job];
            entry.told = Some(reason);
            told.push(Arc::clone(&entry.uid));
        }
        told
    }

    /// Whether anybody may be there to be told.
    #[must_use]
    pub fn has_reasons(&self) -> bool {
        !self.lane.turns.is_empty()
    }

    fn next_candidate(&mut self) -> Option<usize> {
        loop {
            let seat = self.lane.turns.pop_front()?;
            let candidates = self.lane.candidates.get_mut(&seat);
            match candidates.and_then(|candidates| candidates.next(self.seats.get_mut(seat))) {
                Some(job) => {
                    self.lane.turns.push_back(seat);
                    return Some(job);
                }
                None => self.lane.candidates.remove(&seat),
            };
        }
    }

    /// Why a job waits, if it does.
    pub(super) fn reason(&self, entry: &Entry) -> Option<Reason> {
        let seat = &self.seats[entry.seat];
        let closed = match &seat.view {
            None => Some(Reason::NotATenantNamespace),
            Some(view) => view.closed.as_ref().map(|(reason, _)| *reason),
        };
        match &entry.stand {
            Stand::Parked { .. } => Some(Reason::PodRefused),
            Stand::Outside => Some(closed.unwrap_or(Reason::QueueFull)),
            Stand::Line(line) => closed.or_else(|| Some(seat.lines[*line].hold?.reason())),
            _ => None,
        }
    }
}

fn is_news(told: Option<Reason>, reason: Reason) -> bool {
    let waits_for_room = matches!(told, Some(Reason::WaitingForCapacity | Reason::WaitingForQuota));
    told != Some(reason) && !(waits_for_room && reason == Reason::WaitingForTurn)
}
