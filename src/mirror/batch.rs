//! Rows in portions that a call has time for, and around those that Postgres refuses or can't take.

use std::{collections::HashSet, future::Future, hash::Hash, iter, ops::Range, time::Duration};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use uuid::Uuid;

use super::handle::AttemptKey;
use crate::{
    db::{self, AttemptRow, Error, JobRow, NodeRow, PORTION, Pool, TenantRow, Writer},
    domain::metering,
    metrics::Metrics,
};

/// Bytes of one transaction, more or less: the last row may go beyond.
const BYTES: usize = 4 << 20;
/// Portions that fail one after the other while the database answers: then it is not the rows.
const MAX_FAILURES: u32 = 3;
/// Within which a database that is well answers.
const ANSWER: Duration = Duration::from_secs(3);

/// Rows that are written together.
pub(super) trait Rows: Send + Sync + Sized {
    /// What they are rows of, for the log and the metrics.
    const KIND: &'static str;

    /// Which one this is.
    type Id: Copy + Eq + Hash + Send;

    /// Which one this is.
    fn id(&self) -> Self::Id;

    /// Which one this is, for the log.
    fn name(&self) -> String;

    /// Bytes, more or less.
    fn size(&self) -> usize;

    /// Writes all of them, or none.
    fn write(pool: &Pool, writer: Writer, rows: &[Self]) -> impl Future<Output = Result<(), Error>> + Send;

    /// Whether the database answers at this moment.
    fn answers(pool: &Pool) -> impl Future<Output = bool> + Send {
        async { db::ping(pool, ANSWER).await.is_ok() }
    }
}

/// Bytes of a row, not counting its texts of any length.
const FIXED: usize = 300;

/// Bytes of a value, more or less.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len() + 3,
        Value::Array(items) => items.iter().map(size).sum::<usize>() + 2,
        Value::Object(fields) => {
            fields.iter().map(|(name, value)| name.len() + 4 + size(value)).sum::<usize>() + 2
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
    }
}

fn length(text: Option<&String>) -> usize {
    text.map_or(0, String::len)
}

impl Rows for TenantRow {
    const KIND: &'static str = "tenant";
    type Id = Uuid;

    fn id(&self) -> Uuid {
        self.uid
    }

    fn name(&self) -> String {
        self.uid.to_string()
    }

    fn size(&self) -> usize {
        let values = [self.quotas.as_ref(), self.usage.as_ref(), Some(&self.metadata)];
        FIXED + length(self.display_name.as_ref()) + values.into_iter().flatten().map(size).sum::<usize>()
    }

    async fn write(pool: &Pool, writer: Writer, rows: &[Self]) -> Result<(), Error> {
        db::write_tenants(pool, writer, rows).await
    }
}

impl Rows for NodeRow {
    const KIND: &'static str = "node";
    type Id = Uuid;

    fn id(&self) -> Uuid {
        self.uid
    }

    fn name(&self) -> String {
        self.uid.to_string()
    }

    fn size(&self) -> usize {
        FIXED
    }

    async fn write(pool: &Pool, writer: Writer, rows: &[Self]) -> Result<(), Error> {
        db::write_nodes(pool, writer, rows).await
    }
}

impl Rows for JobRow {
    const KIND: &'static str = "job";
    type Id = Uuid;

    fn id(&self) -> Uuid {
        self.uid
    }

    fn name(&self) -> String {
        self.uid.to_string()
    }

    fn size(&self) -> usize {
        FIXED + length(self.message.as_ref()) + size(&self.spec)
    }

    async fn write(pool: &Pool, writer: Writer, rows: &[Self]) -> Result<(), Error> {
        db::write_jobs(pool, writer, rows).await
    }
}

impl Rows for AttemptRow {
    const KIND: &'static str = "attempt";
    type Id = AttemptKey;

    fn id(&self) -> AttemptKey {
        (self.job_uid, self.record.attempt)
    }

    fn name(&self) -> String {
        format!("{} of job {}", self.record.attempt, self.job_uid)
    }

    fn size(&self) -> usize {
        // It is charged hour by hour: one whose node's clock was wrong may have very many.
        let seconds = |start: &Time| self.record.finished_at.0.as_second() - start.0.as_second();
        let hours =
            self.record.started_at.as_ref().map_or(0, seconds).min(metering::LONGEST_RUN / 1000) / 3600;
        2 * FIXED + FIXED * usize::try_from(hours).unwrap_or(0)
    }

    async fn write(pool: &Pool, writer: Writer, rows: &[Self]) -> Result<(), Error> {
        db::write_attempts(pool, writer, rows).await
    }
}

/// What became of rows, by what they are.
#[derive(Debug)]
pub(super) struct Outcome<Id> {
    /// Committed.
    pub(super) written: HashSet<Id>,
    /// Refused by Postgres: the same would be refused again.
    pub(super) refused: HashSet<Id>,
    /// Not written in time, or broken off, while the database answers: to be tried apart from the others.
    pub(super) failed: HashSet<Id>,
}

impl<Id> Default for Outcome<Id> {
    fn default() -> Self {
        Self { written: HashSet::new(), refused: HashSet::new(), failed: HashSet::new() }
    }
}

/// Writes rows of any kind in portions. What a portion holds at most shrinks when one fails, and grows again.
#[derive(Debug)]
pub(super) struct Portions {
    pool: Pool,
    metrics: Metrics,
    most: usize,
}

impl Portions {
    pub(super) fn new(pool: Pool, metrics: Metrics) -> Self {
        Self { pool, metrics, most: PORTION }
    }

    /// Writes all `rows`, and notes in `outcome` what became of each. They are made a portion at a time: together they
    /// may be more than memory holds. A portion that is refused is halved until the rows that can't be written are
    /// alone; they are left out with a log line. One that fails while the database answers is left to be tried apart.
    ///
    /// # Errors
    /// The first error that is not about the rows. `outcome` says what was written before.
    pub(super) async fn write<R: Rows>(
        &mut self,
        writer: Writer,
        rows: impl Iterator<Item = R> + Send,
        outcome: &mut Outcome<R::Id>,
    ) -> Result<(), Error> {
        let mut failures = 0;
        let mut rows = rows.fuse();
        loop {
            let mut bytes = 0;
            let mut portion: Vec<R> = Vec::new();
            while portion.len() < self.most
                && bytes < BYTES
                && let Some(row) = rows.next()
            {
                bytes += row.size();
                portion.push(row);
            }
            if portion.is_empty() {
                return Ok(());
            }
            match self.write_portion(writer, &portion, outcome).await? {
                None => failures = 0,
                Some(error) => {
                    failures += 1;
                    if failures == MAX_FAILURES {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Writes one portion. Gives the error of what failed while the database answers.
    async fn write_portion<R: Rows>(
        &mut self,
        writer: Writer,
        portion: &[R],
        outcome: &mut Outcome<R::Id>,
    ) -> Result<Option<Error>, Error> {
        let mut failure = None;
        let mut ranges: Vec<Range<usize>> = iter::once(0..portion.len()).collect();
        while let Some(range) = ranges.pop() {
            let Some(rows) = portion.get(range.clone()) else { continue };
            match (R::write(&self.pool, writer, rows).await, rows) {
                (Ok(()), _) => {
                    self.most = self.most.max(2 * rows.len()).min(PORTION);
                    outcome.written.extend(rows.iter().map(R::id));
                }
                (Err(error), [row]) if error.refused_rows() => {
                    let (kind, name) = (R::KIND, row.name());
                    tracing::warn!(kind, name, %error, "Postgres refuses a row; it is left out");
                    self.metrics.mirror_set_aside(kind, "refused");
                    outcome.refused.insert(row.id());
                }
                (Err(error), _) if error.refused_rows() => {
                    let middle = range.start + range.len() / 2;
                    ranges.extend([middle..range.end, range.start..middle]);
                }
                (Err(error), _) if error.may_be_of_the_rows() => {
                    self.most = (rows.len() / 2).max(1);
                    if !R::answers(&self.pool).await {
                        return Err(error);
                    }
                    self.set_aside(rows, &error);
                    outcome.failed.extend(rows.iter().map(R::id));
                    failure = Some(error);
                }
                (Err(error), _) => return Err(error),
            }
        }
        Ok(failure)
    }

    fn set_aside<R: Rows>(&self, rows: &[R], error: &Error) {
        let (kind, count) = (R::KIND, rows.len());
        if let [row] = rows {
            let name = row.name();
            tracing::warn!(kind, name, %error, "failed to write a row in time; it is set aside and tried again later");
            self.metrics.mirror_set_aside(kind, "slow");
        } else {
            tracing::warn!(kind, count, %error, "failed to write rows in time; they are tried apart from the others");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::db::{Cause, Options};

    type Failure = fn() -> Cause;

    struct Row {
        number: usize,
        size: usize,
        failure: Option<Failure>,
        written: Arc<Mutex<Vec<usize>>>,
        portions: Arc<Mutex<Vec<usize>>>,
    }

    impl Rows for Row {
        const KIND: &'static str = "row";
        type Id = usize;

        fn id(&self) -> usize {
            self.number
        }

        fn name(&self) -> String {
            self.number.to_string()
        }

        fn size(&self) -> usize {
            self.size
        }

        async fn write(_: &Pool, _: Writer, rows: &[Self]) -> Result<(), Error> {
            assert!(rows.len() <= PORTION);
            rows[0].portions.lock().unwrap().push(rows.len());
            assert!(rows.iter().map(|r| r.size).sum::<usize>() < BYTES + rows[0].size, "too large");
            if let Some(cause) = rows.iter().find_map(|r| r.failure) {
                return Err(Error { doing: "writing", cause: cause() });
            }
            rows.iter().for_each(|r| r.written.lock().unwrap().push(r.number));
            Ok(())
        }

        /// Says yes where its answer is not the reason of the failure.
        async fn answers(_: &Pool) -> bool {
            true
        }
    }

    struct Ran {
        error: Option<Error>,
        outcome: Outcome<usize>,
        written: Vec<usize>,
        /// The number of rows of each portion that was tried.
        portions: Vec<usize>,
        most: usize,
    }

    async fn write(size: usize, failures: &[(usize, Failure)]) -> Ran {
        let (written, tried) = <(Arc<Mutex<Vec<usize>>>, Arc<Mutex<Vec<usize>>>)>::default();
        let row = |number| Row {
            number,
            size,
            failure: failures.iter().find(|(n, _)| *n == number).map(|(_, cause)| *cause),
            written: Arc::clone(&written),
            portions: Arc::clone(&tried),
        };
        let pool = Pool::new(&"postgres://localhost/x".into(), Options::default()).unwrap();
        let mut portions = Portions::new(pool, Metrics::default());
        let mut outcome = Outcome::default();
        let error = portions.write(Writer::default(), (0..2500).map(row), &mut outcome).await.err();
        let mut written = written.lock().unwrap().clone();
        written.sort_unstable();
        let mut noted: Vec<usize> = outcome.written.iter().copied().collect();
        noted.sort_unstable();
        assert_eq!(noted, written, "each once");
        let tried = tried.lock().unwrap().clone();
        Ran { error, outcome, written, portions: tried, most: portions.most }
    }

    fn slow() -> Cause {
        Cause::Deadline(Duration::from_secs(1))
    }

    #[tokio::test]
    async fn bad_rows_stop_no_others() {
        let bad = [0, 3, 999, 1000, 2499];
        let result =
            write(10, &bad.map(|n| (n, (|| Cause::Sql(sqlx::Error::Encode("x".into()))) as Failure))).await;
        assert!(result.error.is_none());
        assert_eq!(result.outcome.refused, HashSet::from(bad));
        assert_eq!(result.written, (0..2500).filter(|n| !bad.contains(n)).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_database_that_takes_nothing_ends_it_at_once() {
        let result = write(10, &[(1400, || Cause::ReadOnly)]).await;
        assert!(result.error.is_some());
        assert_eq!(result.written.len(), 1000, "the portion before, and no other was tried");
        assert!(result.outcome.failed.is_empty());
    }

    #[tokio::test]
    async fn a_portion_that_is_too_slow_is_left_for_later_and_stops_no_others() {
        let result = write(10, &[(1400, slow)]).await;
        assert!(result.error.is_none());
        assert!(result.outcome.failed.contains(&1400) && result.outcome.failed.len() == 1000);
        assert_eq!(result.written.len(), 1500);
        assert!(result.most >= 500, "the next ones are smaller, and grow again: {}", result.most);
    }

    #[tokio::test]
    async fn the_portion_after_one_that_is_too_slow_is_half_as_large_and_the_next_ones_grow() {
        let result = write(10, &[(400, slow)]).await;
        assert_eq!(result.portions, [PORTION, PORTION / 2, PORTION]);
    }

    #[tokio::test]
    async fn when_nothing_is_written_it_is_not_the_rows() {
        let all: Vec<(usize, Failure)> = (0..2500).map(|n| (n, slow as Failure)).collect();
        let result = write(10, &all).await;
        assert!(result.error.is_some() && result.written.is_empty());
    }

    #[test]
    fn an_attempt_counts_with_the_hours_that_it_is_charged_for() {
        let of = |start: &str| {
            let record = serde_json::from_value(serde_json::json!({
                "attempt": 1, "pod": "p", "startedAt": start, "finishedAt": "2026-01-01T00:00:00Z", "reason": "Succeeded",
                "cpuMillicores": 1, "memoryBytes": 1, "gpus": 0, "bandwidthMbps": 0,
            }));
            AttemptRow { job_uid: Uuid::nil(), record: record.unwrap(), seen: None }.size()
        };
        assert_eq!(of("2025-12-31T23:59:00Z"), 2 * FIXED);
        assert_eq!(of("2026-01-01T10:00:00Z"), 2 * FIXED, "clocks differ");
        assert!(of("2017-01-01T00:00:00Z") > BYTES, "nine years go alone");
        assert!(of("0000-01-01T00:00:00Z") < 10 * BYTES, "which is not believed");
    }

    #[tokio::test]
    async fn a_portion_is_bounded_by_its_bytes() {
        let result = write(BYTES / 2 - 1, &[]).await;
        assert!(result.error.is_none() && result.written.len() == 2500);
    }
}
