//! What the controller remembers from one pass over a tenant to the next.
//!
//! All of it may be lost at any time: a pass that finds nothing here applies every child again and writes usage once
//! more. What is remembered never says how the cluster is, only that no watch has told of a change since.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

/// Hash of the children that were applied.
pub(super) type Fingerprint = [u8; 32];

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
struct Entry {
    /// How often a watch has told of a change to a child.
    changes: u64,
    /// The value of `changes` before the children were last applied, and what was applied.
    applied: Option<(u64, Fingerprint)>,
    failures: u32,
    usage_written: Option<Timestamp>,
    /// The step of a deletion last told of, and when.
    step: Option<(&'static str, Timestamp)>,
}

/// By name of tenant.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<HashMap<String, Entry>>);

impl Memory {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // Each method leaves the map whole, so a poisoned lock holds nothing broken.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, tenant: &str, f: impl FnOnce(&mut Entry) -> T) -> T {
        let mut entries = self.entries();
        match entries.get_mut(tenant) {
            Some(entry) => f(entry),
            None => f(entries.entry(tenant.to_owned()).or_default()),
        }
    }

    /// A child of the tenant has changed.
    pub(super) fn child_changed(&self, tenant: &str) {
        // A tenant that no pass has seen has nothing applied either.
        if let Some(entry) = self.entries().get_mut(tenant) {
            entry.changes += 1;
        }
    }

    /// How often children have changed; to be read before they are applied.
    pub(super) fn changes(&self, tenant: &str) -> u64 {
        self.with(tenant, |entry| entry.changes)
    }

    /// Whether just these children were applied and none has changed since.
    pub(super) fn is_applied(&self, tenant: &str, children: &Fingerprint) -> bool {
        self.with(tenant, |entry| {
            entry.applied.is_some_and(|(at, what)| at == entry.changes && what == *children)
        })
    }

    /// The children were applied; `changes` is the number read before.
    pub(super) fn applied(&self, tenant: &str, changes: u64, children: Fingerprint) {
        self.with(tenant, |entry| entry.applied = Some((changes, children)));
    }

    /// How many passes have failed since the last good one.
    pub(super) fn failures(&self, tenant: &str) -> u32 {
        self.with(tenant, |entry| entry.failures)
    }

    /// A pass failed; says how long to wait: min(1 s x 2^n, 5 min), less up to a quarter of jitter.
    pub(super) fn failed(&self, tenant: &str) -> Duration {
        let failures = self.with(tenant, |entry| {
            entry.failures = entry.failures.saturating_add(1);
            entry.failures
        });
        let full = FIRST_BACKOFF.saturating_mul(2_u32.saturating_pow(failures - 1)).min(LONGEST_BACKOFF);
        // A function of name and number: tenants that failed together do not come back together.
        let jitter = u32::from(Sha256::digest(format!("{tenant}/{failures}"))[0]);
        full - full * jitter / (4 * 256)
    }

    /// A pass reached its end.
    pub(super) fn succeeded(&self, tenant: &str) {
        self.with(tenant, |entry| entry.failures = 0);
    }

    /// When usage was last written.
    pub(super) fn usage_written(&self, tenant: &str) -> Option<Timestamp> {
        self.with(tenant, |entry| entry.usage_written)
    }

    /// Usage was written.
    pub(super) fn wrote_usage(&self, tenant: &str, now: Timestamp) {
        self.with(tenant, |entry| entry.usage_written = Some(now));
    }

    /// The step of a deletion last told of, and when.
    pub(super) fn step(&self, tenant: &str) -> Option<(&'static str, Timestamp)> {
        self.with(tenant, |entry| entry.step)
    }

    /// A step of a deletion was told of.
    pub(super) fn told_step(&self, tenant: &str, step: &'static str, now: Timestamp) {
        self.with(tenant, |entry| entry.step = Some((step, now)));
    }

    /// The tenant is gone.
    pub(super) fn forget(&self, tenant: &str) {
        self.entries().remove(tenant);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_during_or_after_the_apply_makes_it_due_again() {
        let memory = Memory::default();
        let before = memory.changes("a");
        memory.applied("a", before, [1; 32]);
        assert!(memory.is_applied("a", &[1; 32]));
        assert!(!memory.is_applied("a", &[2; 32]), "other children are wanted now");
        let before = memory.changes("a");
        memory.child_changed("a");
        memory.applied("a", before, [1; 32]);
        assert!(!memory.is_applied("a", &[1; 32]), "a child changed while the others were applied");
    }

    #[test]
    fn backoff_grows_to_five_minutes_and_starts_anew_after_success() {
        let memory = Memory::default();
        let waits: Vec<Duration> = (0..12).map(|_| memory.failed("a")).collect();
        assert!(waits[0] <= FIRST_BACKOFF && waits[0] > FIRST_BACKOFF * 3 / 4, "{waits:?}");
        assert!(waits.is_sorted_by(|a, b| *a < LONGEST_BACKOFF && *b <= LONGEST_BACKOFF), "{waits:?}");
        assert!(waits[11] > LONGEST_BACKOFF * 3 / 4, "{waits:?}");
        memory.succeeded("a");
        assert!(memory.failed("a") <= FIRST_BACKOFF);
    }
}
