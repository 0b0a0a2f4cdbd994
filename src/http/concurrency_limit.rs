//! Limits how many of something are in flight for each key: a caller's requests, or a tenant's streaming responses. So one
//! tenant leaves capacity for the others.
//!
//! Dropping a permit returns it, and a key without permits takes no memory.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// Counts permits by key, which is a tenant's UID by default. Cheap to clone; all clones share the counts.
#[derive(Debug)]
pub struct KeyedLimiter<K = String>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Clone for KeyedLimiter<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K> Default for KeyedLimiter<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// One of the permits of a key, until it is dropped.
#[derive(Debug)]
pub struct Permit<K: Eq + Hash = String> {
    limiter: KeyedLimiter<K>,
    key: K,
}

impl<K: Eq + Hash + Clone> KeyedLimiter<K> {
    /// A permit of `key`; `None` where it has `limit` of them.
    #[must_use]
    pub fn try_acquire(&self, key: K, limit: usize) -> Option<Permit<K>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.get(&key).copied().unwrap_or_default();
        if count >= limit {
            return None;
        }
        counts.insert(key.clone(), count + 1);
        Some(Permit { limiter: self.clone(), key })
    }
}

impl<K: Eq + Hash> Drop for Permit<K> {
    fn drop(&mut self) {
        let mut counts = self.limiter.0.lock().unwrap_or_else(PoisonError::into_inner);
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
    fn a_key_has_as_many_permits_as_its_limit_and_no_memory_without_any() {
        let limiter = KeyedLimiter::default();
        let mut held: Vec<_> = (0..3).map(|_| limiter.try_acquire("a", 3).unwrap()).collect();
        assert!(limiter.try_acquire("a", 3).is_none());
        let other = limiter.try_acquire("b", 3).unwrap();
        held.pop();
        held.push(limiter.try_acquire("a", 3).unwrap());
        assert!(limiter.try_acquire("a", 3).is_none(), "one permit was returned, not all");
        drop((held, other));
        assert!(limiter.0.lock().unwrap().is_empty());
        assert!(limiter.try_acquire("a", 0).is_none());
        assert!(limiter.0.lock().unwrap().is_empty(), "a refused key takes no memory either");
    }
}
