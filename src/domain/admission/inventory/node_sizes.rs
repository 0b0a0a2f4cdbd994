//! The sizes of node that a pool has and has had lately: whether a job that fits none now may fit one later.

use std::cmp::Reverse;

use jiff::{SignedDuration, Timestamp};

use crate::domain::resources::Resources;

/// After a node has joined a pool, or has grown, others may follow for this long: nodes are labelled one after another,
/// and a GPU is registered when its node has been Ready for a while.
const GROWTH_PAUSE: SignedDuration = SignedDuration::from_secs(60);
/// A size of node that a pool had may come back for this long.
const SIZE_MEMORY: SignedDuration = SignedDuration::from_hours(6);
/// Sizes remembered of a pool.
const MAX_PAST_SIZES: usize = 64;

/// Whether a pool may get a node that is large enough for a job that fits none now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LargerNode {
    /// Nothing says so.
    Unlikely,
    /// Nodes have just joined, and others may follow until about this time.
    ExpectedUntil(Timestamp),
    /// It had one lately, or a node is away and may come back with more than it shows (a rebooted one shows no GPUs at
    /// first).
    Possible,
}

#[derive(Clone, Debug, Default)]
pub(super) struct NodeSizes {
    /// The largest sizes: each other one fits into one of these.
    largest: Vec<Resources>,
    /// Larger ones that the pool has had, with the time when it had them last, the oldest first.
    past: Vec<(Resources, Timestamp)>,
    /// When a node joined last, or was larger than any before.
    grown: Option<Timestamp>,
    /// A node has joined since the sizes were set.
    pub(super) joined: bool,
}

impl NodeSizes {
    /// Sets the sizes of the pool's nodes, and notes those it had until now, and whether it has grown.
    pub(super) fn set(&mut self, sizes: impl Iterator<Item = Resources>, now: Timestamp) {
        let before = std::mem::replace(&mut self.largest, largest_of(sizes));
        let was_there = |size: &Resources| {
            before.iter().chain(self.past.iter().map(|(size, _)| size)).any(|other| size.fits(other))
        };
        if std::mem::take(&mut self.joined) || !self.largest.iter().all(was_there) {
            self.grown = Some(now);
        }
        self.past.retain(|(size, _)| !before.iter().any(|later| size.fits(later)));
        self.past.extend(before.into_iter().map(|size| (size, now)));
        let largest = &self.largest;
        self.past.retain(|(size, at)| {
            now.duration_since(*at) < SIZE_MEMORY && !largest.iter().any(|other| size.fits(other))
        });
        let surplus = self.past.len().saturating_sub(MAX_PAST_SIZES);
        self.past.drain(..surplus);
    }

    /// Whether a node could hold it, were it empty.
    pub(super) fn could_hold(&self, asked: &Resources) -> bool {
        self.largest.iter().any(|size| asked.fits(size))
    }

    /// Whether the pool lately had a node that could hold it.
    pub(super) fn had_lately(&self, asked: &Resources, now: Timestamp) -> bool {
        self.past.iter().any(|(size, at)| asked.fits(size) && now.duration_since(*at) < SIZE_MEMORY)
    }

    /// Until when more nodes are expected.
    pub(super) fn grows_until(&self) -> Option<Timestamp> {
        self.grown?.checked_add(GROWTH_PAUSE).ok()
    }
}

/// Those of these sizes that fit into no other one.
fn largest_of(sizes: impl Iterator<Item = Resources>) -> Vec<Resources> {
    let mut all: Vec<Resources> = sizes.collect();
    let key = |r: &Resources| Reverse((r.cpu_milli, r.memory_bytes, r.gpus, r.ephemeral_bytes, r.pods));
    all.sort_unstable_by_key(key);
    all.dedup();
    let mut largest: Vec<Resources> = Vec::new();
    for size in all {
        // Those before it have at least as much CPU.
        if !largest.iter().any(|other| size.fits(other)) {
            largest.push(size);
        }
    }
    largest
}
