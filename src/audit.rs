//! The audit log's way to Postgres: a bounded queue, a task that writes batches, and the deletion of old entries.
//!
//! Guarantees:
//! - No request waits for the database or fails because of it: an entry is put into the queue or dropped, at once.
//! - While the database is away, up to [`QUEUE`] entries and a batch of [`db::PORTION`] wait for it, and are written when it
//!   is back, each once. What does not fit is dropped and counted; the line in the log is the record.
//! - Whoever is not authenticated fills neither the queue nor the database: such entries have a rate of their own.
//! - It works on every replica, whether it leads or not. Only the leader deletes old entries ([`retention`]).

pub mod retention;

use std::{
    mem::{self, Discriminant},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use uuid::Uuid;

use crate::{
    db::{self, AuditEntry, CallerKind, Cause, Error, Pool},
    metrics::Metrics,
    random::{Random, Unavailable},
};

/// Most entries that wait to be written. One takes about 400 bytes, and 1.6 KiB at most.
pub const QUEUE: usize = 8192;
/// Entries of callers without accepted credentials that are written at once, and a second after that.
pub const UNAUTHENTICATED_BURST: u32 = 100;
const UNAUTHENTICATED_PER_SECOND: f64 = 1.0;
/// Shortest time between two batches, unless one is full.
const INTERVAL: Duration = Duration::from_millis(200);
/// Shortest and longest time until a batch is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Puts entries into the queue. Cheap to clone; all clones share one queue.
#[derive(Clone)]
pub struct AuditLog(Arc<Shared>);

struct Shared {
    queue: mpsc::Sender<AuditEntry>,
    /// How many are in the queue or being written.
    pending: watch::Sender<usize>,
    /// The half of each id that is this process's own.
    process: u64,
    next: AtomicU64,
    /// Whether the last entry found no room.
    full: AtomicBool,
    unauthenticated: Mutex<Bucket>,
    metrics: Metrics,
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuditLog")
    }
}

/// The other end of the queue.
#[derive(Debug)]
pub struct Queued {
    entries: mpsc::Receiver<AuditEntry>,
    log: AuditLog,
}

/// An empty queue. `random` makes the ids of its entries those of no other process.
///
/// # Errors
/// There is no randomness.
pub fn queue(random: &Random, metrics: Metrics) -> Result<(AuditLog, Queued), Unavailable> {
    let mut process = [0; 8];
    random.fill(&mut process)?;
    let (queue, entries) = mpsc::channel(QUEUE);
    let log = AuditLog(Arc::new(Shared {
        queue,
        pending: watch::Sender::new(0),
        process: u64::from_be_bytes(process),
        next: AtomicU64::new(0),
        full: AtomicBool::new(false),
        unauthenticated: Mutex::new(Bucket::full(Instant::now())),
        metrics,
    }));
    Ok((log.clone(), Queued { entries, log }))
}

/// Tokens for entries of callers that are not authenticated.
#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(now: Instant) -> Self {
        Self { tokens: UNAUTHENTICATED_BURST.into(), at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let refilled = now.saturating_duration_since(self.at).as_secs_f64() * UNAUTHENTICATED_PER_SECOND;
        *self = Self { tokens: (self.tokens + refilled).min(UNAUTHENTICATED_BURST.into()), at: now };
        let is_allowed = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(is_allowed));
        is_allowed
    }
}

impl AuditLog {
    /// The id of the next entry. Those of one process grow.
    #[must_use]
    pub fn next_id(&self) -> Uuid {
        Uuid::from_u64_pair(self.0.process, self.0.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Puts an entry into the queue, or drops it. Never waits.
    pub fn record(&self, entry: AuditEntry) {
        let shared = &self.0;
        if entry.caller_kind == CallerKind::Unknown
            && !shared.unauthenticated.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
        {
            shared.metrics.audit("throttled", 1);
            return;
        }
        shared.pending.send_modify(|pending| *pending += 1);
        let is_dropped = shared.queue.try_send(entry).is_err();
        if is_dropped {
            self.done("dropped", 1);
        }
        if is_dropped != shared.full.swap(is_dropped, Ordering::Relaxed) && is_dropped {
            tracing::warn!(
                queue = QUEUE,
                "the queue of the audit log is full: the database lacks further entries, which the log has"
            );
        }
    }

    /// Waits until all entries are written, at most for `longest`; how many are left then.
    pub async fn flush(&self, longest: Duration) -> usize {
        let mut pending = self.0.pending.subscribe();
        let written = pending.wait_for(|pending| *pending == 0);
        let is_done = tokio::time::timeout(longest, written).await.is_ok();
        if is_done { 0 } else { *self.0.pending.borrow() }
    }

    /// Counts what came of entries.
    fn done(&self, result: &'static str, entries: usize) {
        self.0.metrics.audit(result, entries as u64);
        self.0.pending.send_modify(|pending| *pending = pending.saturating_sub(entries));
    }
}

impl Queued {
    /// Writes what the queue holds, until the process ends.
    pub async fn write_to(mut self, pool: Pool) {
        let mut writer = Writer { pool, log: self.log, failures: 0, trouble: None };
        loop {
            let mut batch = Vec::new();
            if self.entries.recv_many(&mut batch, db::PORTION).await == 0 {
                return;
            }
            let is_full = batch.len() == db::PORTION;
            writer.write(batch).await;
            if !is_full {
                tokio::time::sleep(INTERVAL).await;
            }
        }
    }

    /// The next entry, for tests without a database.
    #[cfg(test)]
    pub fn try_next(&mut self) -> Option<AuditEntry> {
        self.entries.try_recv().ok()
    }
}

/// Writes batches.
struct Writer {
    pool: Pool,
    log: AuditLog,
    failures: u32,
    trouble: Option<Discriminant<Cause>>,
}

impl Writer {
    /// Writes a batch, and tries it again while the database is away. Where entries are refused the batch is halved, until the
    /// refused entry is alone and left out.
    async fn write(&mut self, batch: Vec<AuditEntry>) {
        let mut batches = vec![batch];
        while let Some(mut batch) = batches.pop() {
            match db::write_audit(&self.pool, &batch).await {
                Ok(()) => {
                    self.log.done("written", batch.len());
                    self.recovered();
                }
                Err(error) if error.refused_rows() && batch.len() > 1 => {
                    let rest = batch.split_off(batch.len() / 2);
                    batches.extend([rest, batch]);
                }
                Err(error) if error.refused_rows() => {
                    tracing::error!(%error, "the database refuses an entry of the audit log, which the log has");
                    self.log.done("refused", batch.len());
                }
                Err(error) => {
                    self.failed(&error);
                    batches.push(batch);
                    tokio::time::sleep(pause(self.failures)).await;
                }
            }
        }
    }

    fn recovered(&mut self) {
        self.failures = 0;
        if self.trouble.take().is_some() {
            tracing::info!("the audit log is written again");
        }
    }

    /// Logs each kind of trouble once.
    fn failed(&mut self, error: &Error) {
        self.failures = self.failures.saturating_add(1);
        let kind = mem::discriminant(&error.cause);
        if self.trouble.replace(kind) != Some(kind) {
            tracing::warn!(%error, "failed to write the audit log, will retry; entries are kept as far as the queue has room");
        }
    }
}

/// How long to wait after this number of failures in a row.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(log: &AuditLog, caller_kind: CallerKind) -> AuditEntry {
        AuditEntry {
            at: jiff::Timestamp::UNIX_EPOCH,
            id: log.next_id(),
            request_id: "r".to_owned(),
            caller_kind,
            caller: None,
            tenant: None,
            tenant_uid: None,
            action: "POST /jobs".to_owned(),
            object: None,
            made: None,
            status: Some(201),
            client_address: None,
        }
    }

    fn counted(metrics: &Metrics, result: &str) -> String {
        let text = metrics.text().unwrap();
        let name = format!("crofter_audit_entries_total{{result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or("0").to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_queue_has_no_room_for_is_dropped_and_counted_and_nothing_waits() {
        let metrics = Metrics::default();
        let (log, mut queued) = queue(&Random::system(), metrics.clone()).unwrap();
        let begun = Instant::now();
        for _ in 0..QUEUE + 7 {
            log.record(entry(&log, CallerKind::Key));
        }
        assert_eq!((begun.elapsed(), counted(&metrics, "dropped")), (Duration::ZERO, "7".to_owned()));
        assert_eq!(log.flush(Duration::from_secs(3)).await, QUEUE, "the end waits for a while only");
        // The oldest are kept, and their ids grow.
        let kept: Vec<Uuid> = std::iter::from_fn(|| queued.try_next()).map(|entry| entry.id).collect();
        assert_eq!((kept.len(), kept.is_sorted()), (QUEUE, true));
        assert_eq!(kept[0].as_u64_pair().1, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn callers_without_credentials_have_a_rate_and_others_none() {
        let metrics = Metrics::default();
        let (log, mut queued) = queue(&Random::system(), metrics.clone()).unwrap();
        let mut recorded = |unknown: u32, known: usize| {
            (0..unknown).for_each(|_| log.record(entry(&log, CallerKind::Unknown)));
            (0..known).for_each(|_| log.record(entry(&log, CallerKind::Administrator)));
            std::iter::from_fn(|| queued.try_next()).filter(|e| e.caller_kind == CallerKind::Unknown).count()
        };
        assert_eq!(recorded(UNAUTHENTICATED_BURST + 9, 500), UNAUTHENTICATED_BURST as usize);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(recorded(9, 0), 2, "one a second");
        tokio::time::advance(Duration::from_secs(100_000)).await;
        assert_eq!(recorded(500, 0), UNAUTHENTICATED_BURST as usize, "no more than the burst is saved up");
        assert_eq!(
            (counted(&metrics, "throttled"), counted(&metrics, "dropped")),
            ("416".into(), "0".into())
        );
    }

    #[test]
    fn pauses_grow_up_to_the_longest() {
        assert_eq!([1, 2, 3].map(pause), [1, 2, 4].map(|n| FIRST_PAUSE * n));
        assert_eq!([20, u32::MAX].map(pause), [LONGEST_PAUSE; 2]);
    }

    #[test]
    fn the_ids_of_two_processes_differ() {
        let ids = |byte: u8| {
            let random = Random::of(move |bytes| {
                bytes.fill(byte);
                Ok(())
            });
            let (log, _queued) = queue(&random, Metrics::default()).unwrap();
            [log.next_id(), log.next_id()]
        };
        let (one, other) = (ids(1), ids(2));
        assert!(one[0] < one[1] && one.iter().all(|id| !other.contains(id)), "{one:?} {other:?}");
    }
}
