//! How many requests of each tenant are under way: a part of all at most, so that one tenant, with bodies that do not end
//! or with many at once, leaves room for the others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Requests of one tenant under way at most: half of what the server takes.
pub const MOST_OF_ONE: usize = super::frame::MOST_AT_ONCE / 2;

/// Counts by tenant. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Shares(Arc<Mutex<HashMap<String, usize>>>);

/// A place among its tenant's requests, until it is dropped.
#[derive(Debug)]
pub struct Share {
    all: Shares,
    tenant: String,
}

impl Shares {
    /// A place for a request of this tenant; `None` where it has its part.
    #[must_use]
    pub fn take(&self, tenant: &str) -> Option<Arc<Share>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(tenant.to_owned()).or_default();
        if *count >= MOST_OF_ONE {
            return None;
        }
        *count += 1;
        Some(Arc::new(Share { all: self.clone(), tenant: tenant.to_owned() }))
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.tenant) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.tenant);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenant_gets_half_and_nothing_is_left_of_what_is_over() {
        let shares = Shares::default();
        let held: Vec<_> = (0..MOST_OF_ONE).map(|_| shares.take("a").unwrap()).collect();
        assert!(shares.take("a").is_none());
        let other = shares.take("b").unwrap();
        drop((held, other));
        assert!(shares.0.lock().unwrap().is_empty());
        assert!(shares.take("a").is_some());
    }
}
