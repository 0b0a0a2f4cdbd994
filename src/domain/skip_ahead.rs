//! Jobs that were passed by others, and what is kept free for them.
//!
//! A job that finds no room is skipped, so that what is free is used. When [`ENOUGH`] jobs have passed it, it is *due*:
//! a node is kept free for it until it fits, and what it asks for is set aside from its tenant's quotas. So large jobs
//! don't starve, at the price of room that stands empty for at most as long as the jobs on that node run. A restart
//! forgets the counts; what was due is due again when as many have passed.

use std::collections::HashMap;

/// So many jobs may pass one that finds no room.
pub const ENOUGH: u64 = 16;

/// Waiting jobs that were passed, by UID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkipAhead(HashMap<String, Skipped>);

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Skipped {
    times: u64,
    node: Option<String>,
}

impl SkipAhead {
    /// How many jobs have passed this one, when it is enough to be due.
    #[must_use]
    pub fn due(&self, uid: &str) -> Option<u64> {
        self.0.get(uid).map(|skipped| skipped.times).filter(|times| *times >= ENOUGH)
    }

    /// The node that is kept free for a job.
    #[must_use]
    pub fn node(&self, uid: &str) -> Option<&str> {
        self.0.get(uid)?.node.as_deref()
    }

    /// Counts jobs that passed this one.
    pub fn passed(&mut self, uid: &str, times: u64) {
        if times > 0 {
            self.0.entry(uid.to_owned()).or_default().times += times;
        }
    }

    /// Sets the node that is kept free for a job that is due.
    pub fn keep(&mut self, uid: &str, node: Option<String>) {
        if let Some(skipped) = self.0.get_mut(uid) {
            skipped.node = node;
        }
    }

    /// Forgets all jobs but those that still wait.
    pub fn retain(&mut self, waits: impl Fn(&str) -> bool) {
        self.0.retain(|uid, _| waits(uid));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_after_enough_and_forgotten_when_it_waits_no_more() {
        let mut skips = SkipAhead::default();
        skips.passed("a", ENOUGH - 1);
        skips.passed("b", 0);
        assert_eq!(skips.due("a"), None);
        skips.passed("a", 1);
        assert_eq!(skips.due("a"), Some(ENOUGH));
        skips.keep("a", Some("n1".into()));
        skips.keep("b", Some("n1".into()));
        assert_eq!((skips.node("a"), skips.node("b")), (Some("n1"), None));
        skips.retain(|uid| uid != "a");
        assert_eq!(skips, SkipAhead::default());
    }
}
