//! The audit log's way to Postgres: a bounded queue, a task that writes batches, and the deletion of old entries.
//!
//! Guarantees:
//! - No request waits for the database or fails because of it: an entry is put into the queue or dropped, at once.
//! - While the database is away, up to [`QUEUE`] entries and a batch of [`db::PORTION`] wait for it, and are written when it
//!   is back, each once. What does not fit is dropped and counted; the line in the log is the record.
//! - No caller fills the queue or the database: each tenant and user has a rate, a low one for what is refused, and all who are
//!   not authenticated have that of one caller.
//! - It works on every replica, whether it leads or not. Only the leader deletes old entries ([`retention`]).
//! - A database that mirrors another cluster is left alone: entries wait as for one that is away.
//! - An entry that the database does not take is left out, and no other.

pub mod retention;

use std::{
    collections::HashMap,
    mem::{self, Discriminant},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::future::{self, BoxFuture};
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
/// Entries of one caller about refused requests; those of all callers without accepted credentials are of one.
const REFUSED: Rate = Rate { burst: 100.0, per_second: 1.0 };
/// Other entries of one caller: more changes than the API server takes for long.
const OTHERS: Rate = Rate { burst: 1000.0, per_second: 50.0 };
/// Most callers with rates of their own; those beyond share one.
const MAX_CALLERS: usize = 4096;
/// Shortest time between two batches, unless one is full.
const INTERVAL: Duration = Duration::from_millis(200);
/// Failures in a row of a database that answers, after which it may be because of the entries.
const MAX_ANSWERED: u32 = 3;
/// Shortest and longest time until a batch is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The UID of the namespace `kube-system`, which names the cluster; `None` where this process may not read it. Cheap to clone.
pub type ClusterUid = future::Shared<BoxFuture<'static, Option<Uuid>>>;

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
    /// By whether they are about refused requests, and by caller.
    callers: Mutex<HashMap<(bool, String), Bucket>>,
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
        callers: Mutex::default(),
        metrics,
    }));
    Ok((log.clone(), Queued { entries, log }))
}

/// How many entries are taken at once, and a second after that.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: f64,
    per_second: f64,
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: rate.burst, at: now }
    }

    fn at(self, now: Instant) -> Self {
        let refilled = now.saturating_duration_since(self.at).as_secs_f64() * self.rate.per_second;
        Self { tokens: (self.tokens + refilled).min(self.rate.burst), at: now, ..self }
    }

    fn take(&mut self, now: Instant) -> bool {
        *self = self.at(now);
        let is_allowed = self.tokens >= 1.0;
        self.tokens -= f64::from(u8::from(is_allowed));
        is_allowed
    }
}

/// Whose rate an entry takes: a tenant's for all of its keys.
fn caller(entry: &AuditEntry) -> String {
    match entry.caller_kind {
        CallerKind::Unknown => String::new(),
        CallerKind::Key => entry.tenant_uid.map(|uid| uid.to_string()).unwrap_or_default(),
        CallerKind::User | CallerKind::Administrator => entry.caller.clone().unwrap_or_default(),
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
        if !self.is_within_rate(&entry) {
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

    fn is_within_rate(&self, entry: &AuditEntry) -> bool {
        let is_refused =
            entry.caller_kind == CallerKind::Unknown || entry.status.is_some_and(|status| status >= 400);
        let now = Instant::now();
        let mut callers = self.0.callers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (is_refused, caller(entry));
        if callers.len() >= MAX_CALLERS && !callers.contains_key(&key) {
            callers.retain(|_, bucket| bucket.at(now).tokens < bucket.rate.burst);
            if callers.len() >= MAX_CALLERS {
                key.1 = String::new();
            }
        }
        let rate = if is_refused { REFUSED } else { OTHERS };
        callers.entry(key).or_insert_with(|| Bucket::full(rate, now)).take(now)
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
    /// Writes what the queue holds to the database of a cluster, until the process ends.
    pub async fn write_to(mut self, pool: Pool, cluster: ClusterUid) {
        let cluster = cluster.await;
        let mut writer = Writer { pool, cluster, log: self.log, failures: 0, answered: 0, trouble: None };
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
    cluster: Option<Uuid>,
    log: AuditLog,
    failures: u32,
    /// Those of this batch since the database was away: it answers, with an error.
    answered: u32,
    trouble: Option<Discriminant<Cause>>,
}

impl Writer {
    /// Writes a batch, and tries it again while the database is away. Where entries are refused, or the database answers with
    /// other errors again and again, the batch is halved, until the bad entry is alone and left out.
    async fn write(&mut self, batch: Vec<AuditEntry>) {
        let mut batches = vec![batch];
        self.answered = 0;
        while let Some(mut batch) = batches.pop() {
            match db::write_audit(&self.pool, self.cluster, &batch).await {
                Ok(()) => {
                    self.log.done("written", batch.len());
                    self.recovered();
                }
                Err(error) => {
                    if !error.refused_rows() {
                        self.failed(&error);
                        tokio::time::sleep(pause(self.failures)).await;
                    }
                    if !error.refused_rows() && self.answered <= MAX_ANSWERED {
                        batches.push(batch);
                    } else if batch.len() > 1 {
                        let rest = batch.split_off(batch.len() / 2);
                        batches.extend([rest, batch]);
                    } else {
                        tracing::error!(%error, "the database refuses an entry of the audit log, which the log has");
                        self.log.done("refused", batch.len());
                    }
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
        self.answered = if error.is_answer_to_rows() { self.answered.saturating_add(1) } else { 0 };
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
        for n in 0..QUEUE + 7 {
            // Of twenty tenants, as none has a rate of that many.
            log.record(AuditEntry {
                tenant_uid: Some(Uuid::from_u128(n as u128 % 20)),
                ..entry(&log, CallerKind::Key)
            });
        }
        assert_eq!((begun.elapsed(), counted(&metrics, "dropped")), (Duration::ZERO, "7".to_owned()));
        assert_eq!(log.flush(Duration::from_secs(3)).await, QUEUE, "the end waits for a while only");
        // The oldest are kept, and their ids grow.
        let kept: Vec<Uuid> = std::iter::from_fn(|| queued.try_next()).map(|entry| entry.id).collect();
        assert_eq!((kept.len(), kept.is_sorted()), (QUEUE, true));
        assert_eq!(kept[0].as_u64_pair().1, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn no_caller_fills_the_database() {
        let metrics = Metrics::default();
        let (log, mut queued) = queue(&Random::system(), metrics.clone()).unwrap();
        let mut recorded = |n: usize, kind, status, tenant: u128| {
            let one = || AuditEntry {
                caller: Some(tenant.to_string()),
                tenant_uid: Some(Uuid::from_u128(tenant)),
                status,
                ..entry(&log, kind)
            };
            (0..n).for_each(|_| log.record(one()));
            std::iter::from_fn(|| queued.try_next()).count()
        };
        // Strangers share one rate; refused requests of a tenant, or a user, have its own, and take nothing from its changes.
        assert_eq!(
            recorded(300, CallerKind::Unknown, Some(401), 1) + recorded(9, CallerKind::Unknown, None, 2),
            100
        );
        for kind in [CallerKind::Key, CallerKind::User] {
            assert_eq!(recorded(300, kind, Some(429), 1), 100);
            assert_eq!(recorded(300, kind, Some(403), 2), 100);
            assert_eq!(recorded(900, kind, Some(201), 1) + recorded(900, kind, None, 1), 1000);
        }
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(recorded(9, CallerKind::Unknown, Some(401), 1), 2, "one a second");
        assert_eq!(recorded(300, CallerKind::Key, Some(201), 1), 100, "fifty a second");
        tokio::time::advance(Duration::from_secs(100_000)).await;
        assert_eq!(
            recorded(500, CallerKind::Unknown, Some(401), 1),
            100,
            "no more than the burst is saved up"
        );
        assert_eq!(counted(&metrics, "dropped"), "0");
        // However many callers there are, a bounded number of them is known.
        for tenant in 10..10_000 {
            recorded(2, CallerKind::Key, Some(429), tenant);
        }
        assert_eq!(log.0.callers.lock().unwrap().len(), MAX_CALLERS);
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
