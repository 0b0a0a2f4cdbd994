//! The first of many nodes that has room, in logarithmic time.

use crate::domain::resources::Resources;

/// The largest free amounts, of each resource by itself, below every branch; leaves are nodes. `None`: no job may go there.
#[derive(Clone, Debug)]
pub(super) struct MaxFreeTree {
    largest: Vec<Option<Resources>>,
    leaves: usize,
}

impl Default for MaxFreeTree {
    fn default() -> Self {
        Self::new(0)
    }
}

impl MaxFreeTree {
    pub(super) fn new(leaves: usize) -> Self {
        let leaves = leaves.next_power_of_two();
        Self { largest: vec![None; 2 * leaves], leaves }
    }

    /// Sets what is free on a node.
    pub(super) fn set(&mut self, leaf: usize, room: Option<Resources>) {
        let mut branch = self.leaves + leaf;
        self.largest[branch] = room;
        while branch > 1 {
            branch /= 2;
            let (left, right) = (self.largest[2 * branch], self.largest[2 * branch + 1]);
            self.largest[branch] = match (left, right) {
                (Some(a), Some(b)) => Some(a.max_each(&b)),
                (one, other) => one.or(other),
            };
        }
    }

    /// What no node has more of; `None` where no job may go to any.
    pub(super) fn max(&self) -> Option<Resources> {
        self.largest[1]
    }

    /// The first leaf with room for all of it.
    pub(super) fn first(&self, asked: &Resources) -> Option<usize> {
        self.below(1, asked)
    }

    fn below(&self, branch: usize, asked: &Resources) -> Option<usize> {
        if !self.largest[branch].is_some_and(|room| asked.fits(&room)) {
            return None;
        }
        if branch >= self.leaves {
            return Some(branch - self.leaves);
        }
        self.below(2 * branch, asked).or_else(|| self.below(2 * branch + 1, asked))
    }
}
