//! Whether the controller is saturated, so that writes that can wait should.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

use super::CONCURRENCY;

/// Reconciles in flight from which the controller counts as saturated.
pub(super) const BUSY: u16 = CONCURRENCY / 2;
/// For how long after: an API server that has too much to do answers in bursts, between which workers are free.
pub(super) const BUSY_FOR: Duration = Duration::from_secs(2);

/// Counts the reconciles in flight.
pub struct InflightReconciles {
    free: Semaphore,
    busy_until: Mutex<Instant>,
}

impl Default for InflightReconciles {
    fn default() -> Self {
        Self { free: Semaphore::new(CONCURRENCY.into()), busy_until: Mutex::new(Instant::now()) }
    }
}

impl InflightReconciles {
    /// Begins a reconcile, which is in flight until the returned permit is dropped.
    pub(super) fn begin(&self) -> Option<SemaphorePermit<'_>> {
        let begun = self.free.try_acquire().ok();
        if usize::from(CONCURRENCY).saturating_sub(self.free.available_permits()) >= BUSY.into() {
            *self.busy_until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + BUSY_FOR;
        }
        begun
    }

    /// Whether many are in flight, or were just now.
    pub(super) fn is_saturated(&self) -> bool {
        Instant::now() < *self.busy_until.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
