//! Jobs that were passed too often: a node is kept for each, and it is served before all others.

use std::{cmp::Reverse, collections::BTreeSet};

use super::{Dispatcher, entry::Stand, seat::Due};

impl Dispatcher {
    /// Admits jobs that are due, where they fit by now, and keeps what they need from others where they don't.
    pub(super) fn serve_due(&mut self, table: &[usize]) {
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

    /// The job of a tenant that is due: of those that were passed often enough, the first in its queue. For one that no
    /// node could hold nothing is kept: it would be kept for ever.
    pub(super) fn first_due(&self, number: usize) -> Option<(usize, u64)> {
        let seat = &self.seats[number];
        let view = seat.view.as_ref()?;
        let could_run = |(job, _): &(usize, u64)| match self.jobs[*job].stand {
            Stand::Line(line) => seat.never(view, &seat.lines[line].shape, &self.rooms).is_none(),
            _ => false,
        };
        seat.skips.due().filter(could_run).min_by(|a, b| self.jobs[a.0].rank.cmp(&self.jobs[b.0].rank))
    }

    fn find_due(&mut self, number: usize) {
        let first = if self.seats[number].is_closed() { None } else { self.first_due(number) };
        let seat = &mut self.seats[number];
        let old = seat.due.take();
        seat.due = first.map(|(job, times)| {
            let entry = &self.jobs[job];
            Due { job, rank: entry.rank.clone(), asked: entry.size(), times, node: None }
        });
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
        let by_quota = seat.quota(view, &shape, true, self.now.wall).is_some();
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
    pub(super) fn wait_for_node(&mut self, number: usize, waits: bool) {
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
}
