//! Which waiting jobs are to be told why they wait.
//!
//! A reason is a write on the Job, and thousands may get another one at once. So they stand here in a lane and are told
//! as many at a time as the caller has writes to spare: those that came last first, then line by line from the front.
//! A job is told only when its reason is another one than its owner knows; a job that waits for room or quota keeps that
//! reason while it is others' turn, because what is kept for a large job comes and goes.

use std::{
    collections::VecDeque,
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
};

use super::{
    Dispatcher,
    entry::{Entry, Stand},
};
use crate::{api_types::Reason, domain::queue_order::Rank};

/// Looks for each job that may be told, so that finding nobody to tell ends soon.
const LOOKS: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Lane {
    jobs: VecDeque<usize>,
    /// Lines by seat and number, with the last job that was looked at.
    lines: VecDeque<(usize, usize, Option<Rank>)>,
}

impl Lane {
    pub(super) fn add(&mut self, job: usize) {
        self.jobs.push_back(job);
    }

    pub(super) fn add_line(&mut self, seat: usize, line: usize) {
        self.lines.push_back((seat, line, None));
    }
}

impl Dispatcher {
    /// At most so many jobs, by UID, whose owners are to be told a reason to wait: from now on [`Self::verdict`] says it.
    pub fn reasons(&mut self, most: usize) -> Vec<Arc<str>> {
        let mut told = Vec::new();
        for _ in 0..most.saturating_mul(LOOKS) {
            if told.len() >= most {
                break;
            }
            let Some(job) = self.lane.jobs.pop_front().or_else(|| self.next_of_lines()) else { break };
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
        !self.lane.jobs.is_empty() || !self.lane.lines.is_empty()
    }

    fn next_of_lines(&mut self) -> Option<usize> {
        loop {
            let (seat, number, cursor) = self.lane.lines.front_mut()?;
            let line = self.seats.get_mut(*seat).and_then(|seat| seat.lines.get_mut(*number));
            let after = cursor.take().map_or(Unbounded, Excluded);
            match line {
                None => (),
                Some(line) => match line.jobs.range((after, Unbounded)).next() {
                    Some((rank, job)) => {
                        *cursor = Some(rank.clone());
                        return Some(*job);
                    }
                    None => line.telling = false,
                },
            }
            self.lane.lines.pop_front();
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
            Stand::Line(line) => closed.or_else(|| Some(seat.lines[*line].hold.as_ref()?.reason())),
            _ => None,
        }
    }
}

fn is_news(told: Option<Reason>, reason: Reason) -> bool {
    let waits_for_room = matches!(told, Some(Reason::WaitingForCapacity | Reason::WaitingForQuota));
    told != Some(reason) && !(waits_for_room && reason == Reason::WaitingForTurn)
}
