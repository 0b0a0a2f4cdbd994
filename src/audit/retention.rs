//! Deletes entries of the audit log that are older than the retention, on the leader.
//!
//! It deletes in small portions, each a call of its own, so that no other writer waits for it; a failure is logged and
//! repeated later. Two leaders at once do no harm: what is old is old for both.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    clock::Clock,
    db::{self, Error, PURGE_PORTION, Pool},
};

/// Time until the first deletion, in which the mirror brings the schema up to date; also after one that failed.
const FIRST: Duration = Duration::from_secs(60);
/// Time between two deletions.
const INTERVAL: Duration = Duration::from_hours(1);

/// Deletes old entries of a cluster every hour, for ever.
pub async fn run(pool: Pool, cluster: Uuid, keep: Duration, clock: Clock) {
    let mut next = FIRST;
    loop {
        tokio::time::sleep(next).await;
        next = match purge(&pool, cluster, keep, &clock).await {
            Ok(deleted) => {
                if deleted > 0 {
                    tracing::info!(deleted, "deleted old entries of the audit log");
                }
                INTERVAL
            }
            Err(error) => {
                tracing::warn!(%error, "failed to delete old entries of the audit log, will retry");
                FIRST
            }
        };
    }
}

/// Deletes all entries that are older than `keep`; returns how many.
///
/// # Errors
/// As [`db::purge_audit`]; what was deleted before stays deleted.
pub async fn purge(pool: &Pool, cluster: Uuid, keep: Duration, clock: &Clock) -> Result<u64, Error> {
    let mut all = 0;
    loop {
        let deleted = db::purge_audit(pool, cluster, clock.now(), keep).await?;
        all += deleted;
        if deleted < PURGE_PORTION {
            return Ok(all);
        }
    }
}
