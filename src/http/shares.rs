//! How many there are of each key (a tenant's requests under way, its streams), up to a limit, so that one tenant, with
//! bodies that do not end or with many at once, leaves room for the others.
//!
//! A count goes down with the drop of what was taken, and nothing is kept of a key that has none.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// Requests of one tenant under way at most: half of what the server takes.
pub const MOST_OF_ONE: usize = super::frame::MOST_AT_ONCE / 2;

/// Counts by key, which is a tenant's UID where nothing else is said. Cheap to clone; all clones are one.
#[derive(Debug)]
pub struct Shares<K = String>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Clone for Shares<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for Shares<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// A place among those of its key, until it is dropped.
#[derive(Debug)]
pub struct Share<K: Eq + Hash = String> {
    all: Shares<K>,
    key: K,
}

impl<K: Eq + Hash + Clone> Shares<K> {
    /// A place for one more; `None` where there are `most`.
    #[must_use]
    pub fn take(&self, key: K, most: usize) -> Option<Share<K>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&key).copied().unwrap_or_default();
        if count >= most {
            return None;
        }
        counts.insert(key.clone(), count + 1);
        Some(Share { all: self.clone(), key })
    }
}

impl<K: Eq + Hash> Drop for Share<K> {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(counts.remove(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_gets_its_part_and_nothing_is_left_of_what_is_over() {
        let shares = Shares::default();
        let mut held: Vec<_> = (0..3).map(|_| shares.take("a", 3).unwrap()).collect();
        assert!(shares.take("a", 3).is_none());
        let other = shares.take("b", 3).unwrap();
        held.pop();
        held.push(shares.take("a", 3).unwrap());
        assert!(shares.take("a", 3).is_none(), "one came back, not all");
        drop((held, other));
        assert!(shares.0.lock().unwrap().is_empty());
        assert!(shares.take("a", 0).is_none());
        assert!(shares.0.lock().unwrap().is_empty(), "also of who got nothing");
    }
}
