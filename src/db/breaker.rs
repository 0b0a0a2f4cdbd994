//! A circuit breaker: while the database does not answer no reader waits for it, and one task asks it again.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{Cause, Error, Pool, ping};

/// Between two probes of a database that does not answer.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Closed at first: calls are made. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub(super) struct Breaker(Arc<AtomicBool>);

impl Breaker {
    /// Whether a call may be made.
    ///
    /// # Errors
    /// [`Cause::CircuitOpen`].
    pub(super) fn check(&self) -> Result<(), Cause> {
        if self.0.load(Ordering::Acquire) { Err(Cause::CircuitOpen) } else { Ok(()) }
    }

    /// Opens because of `error`, and closes again as soon as the database answers: the first probe is made at once, so
    /// that a call that was slow by itself costs the others nothing. Call it within a tokio runtime.
    pub(super) fn open(&self, pool: &Pool, error: &Error) {
        if self.0.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(%error, "the history does not answer; lists come from the cache until it does");
        tokio::spawn(probe(Arc::downgrade(&self.0), pool.clone()));
    }
}

/// Closes the breaker as soon as the database answers. Ends as well when there is no reader any more.
async fn probe(breaker: Weak<AtomicBool>, pool: Pool) {
    loop {
        if ping(&pool, pool.options().connect).await.is_ok() {
            if let Some(open) = breaker.upgrade() {
                open.store(false, Ordering::Release);
                tracing::info!("the history answers again");
            }
            return;
        }
        tokio::time::sleep(PROBE_INTERVAL).await;
        if breaker.strong_count() == 0 {
            return;
        }
    }
}
