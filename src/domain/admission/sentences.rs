//! What there is to say of room on nodes, with the numbers of this moment.

use super::{Dispatcher, placement::Rooms, queue::Line, seat::Seat};
use crate::{
    api_types::Reason,
    domain::{
        resources::{Resources, cores, gigabytes},
        skip_ahead::ENOUGH,
    },
};

impl Dispatcher {
    /// Why there is no room for a line, with the numbers of this moment.
    pub(super) fn room_sentence(&self, seat: &Seat, line: &Line, reason: Reason) -> String {
        let groups = seat.groups(seat.may_use(line.shape.group.as_deref()));
        let kept = self.rooms.kept_with_room(groups.iter().copied(), &line.shape.asked);
        match (reason, kept) {
            (Reason::NoWorkers, _) => self.rooms.no_workers(&groups),
            (Reason::DoesNotFit, _) if groups.is_empty() => seat.no_pool(&line.shape),
            (Reason::DoesNotFit, _) => self.rooms.fits_nowhere(&groups, &line.shape.asked),
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

impl Rooms {
    /// That there is no node, as a sentence.
    pub(super) fn no_workers(&self, groups: &[usize]) -> String {
        let names: Vec<&str> = groups.iter().map(|g| self.group_name(*g)).collect();
        format!("no worker is admitted to {}: label a node for the tenant", names.join(" or "))
    }

    /// That no node has room, as a sentence.
    pub(super) fn no_room(&self, groups: &[usize], asked: &Resources) -> String {
        let (open, all) = self.count(groups);
        let sentence = format!("no worker has {} free: {open} of {all} are open", sizes(asked));
        match self.full_of_pods(groups, asked) {
            0 => sentence,
            full => format!("{sentence}, and {full} with room run as many pods as they take"),
        }
    }

    /// That no node could ever hold it, as a sentence.
    pub(super) fn fits_nowhere(&self, groups: &[usize], asked: &Resources) -> String {
        let largest = self.largest(groups).map_or_else(String::new, |(name, capacity)| {
            let pods = if asked.pods > capacity.pods { " and takes no pods" } else { "" };
            format!("; the largest, {name}, has {}{pods}", sizes(&capacity))
        });
        let (_, all) = self.count(groups);
        format!("asks for {}: none of the {all} workers could hold it, were it empty{largest}", sizes(asked))
    }
}

fn sizes(asked: &Resources) -> String {
    let mut parts =
        vec![format!("{} CPU", cores(asked.cpu_milli)), format!("{} GB", gigabytes(asked.memory_bytes))];
    if asked.gpus > 0 {
        parts.push(format!("{} GPUs", asked.gpus));
    }
    if asked.ephemeral_bytes > 0 {
        parts.push(format!("{} GB of disk", gigabytes(asked.ephemeral_bytes)));
    }
    parts.join(", ")
}
