//! Rows in portions, and around those that Postgres refuses.

use std::{collections::HashSet, future::Future, ops::Range};

use crate::db::{self, AttemptRow, Error, JobRow, NodeRow, Pool, TenantRow, Writer};

/// Rows of one transaction at most.
const CHUNK: usize = 1000;

/// Rows that are written together.
pub(super) trait Rows: Sized {
    /// What they are rows of, for the log.
    const KIND: &'static str;

    /// Which one this is, for the log.
    fn name(&self) -> String;

    /// Writes all of them, or none.
    fn write(pool: &Pool, writer: Writer, rows: &[Self]) -> impl Future<Output = Result<(), Error>> + Send;
}

impl Rows for TenantRow {
    const KIND: &'static str = "tenant";

    fn name(&self) -> String {
        self.uid.to_string()
    }

    async fn write(pool: &Pool, writer: Writer, rows: &[Self]) -> Result<(), Error> {
        db::write_tenants(pool, writer, rows).await
    }
}

impl Rows for NodeRow {
    const KIND: &'static str = "node";

    fn name(&self) -> String {
        self.uid.to_string()
    }

    async fn write(pool: &Pool, writer: Writer, rows: &[Self]) -> Result<(), Error> {
        db::write_nodes(pool, writer, rows).await
    }
}

impl Rows for JobRow {
    const KIND: &'static str = "job";

    fn name(&self) -> String {
        self.uid.to_string()
    }

    async fn write(pool: &Pool, writer: Writer, rows: &[Self]) -> Result<(), Error> {
        db::write_jobs(pool, writer, rows).await
    }
}

impl Rows for AttemptRow {
    const KIND: &'static str = "attempt";

    fn name(&self) -> String {
        format!("{} of job {}", self.record.attempt, self.job_uid)
    }

    async fn write(pool: &Pool, writer: Writer, rows: &[Self]) -> Result<(), Error> {
        db::write_attempts(pool, writer, rows).await
    }
}

/// Writes all `rows`. A portion that is refused is halved until the rows that can't be written stand alone; they are
/// left out with a log line. Gives their places in `rows`.
///
/// # Errors
/// The first error that is not about the rows; then no row counts as written.
pub(super) async fn write_rows<R: Rows>(
    pool: &Pool,
    writer: Writer,
    rows: &[R],
) -> Result<HashSet<usize>, Error> {
    let mut refused = HashSet::new();
    let mut portions: Vec<Range<usize>> =
        (0..rows.len()).step_by(CHUNK).map(|from| from..rows.len().min(from + CHUNK)).collect();
    while let Some(portion) = portions.pop() {
        let Some(chunk) = rows.get(portion.clone()) else { continue };
        match (R::write(pool, writer, chunk).await, chunk) {
            (Ok(()), _) => (),
            (Err(error), [row]) if error.refused_rows() => {
                let (kind, name) = (R::KIND, row.name());
                tracing::warn!(kind, name, %error, "Postgres refuses a row; it is left out");
                refused.insert(portion.start);
            }
            (Err(error), _) if error.refused_rows() => {
                let middle = portion.start + portion.len() / 2;
                portions.extend([middle..portion.end, portion.start..middle]);
            }
            (Err(error), _) => return Err(error),
        }
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{Arc, Mutex},
        time::Duration,
    };

    use super::*;
    use crate::db::{Cause, Options};

    type Failure = fn() -> Cause;

    struct Row {
        number: usize,
        failure: Option<Failure>,
        written: Arc<Mutex<Vec<usize>>>,
    }

    impl Rows for Row {
        const KIND: &'static str = "row";

        fn name(&self) -> String {
            self.number.to_string()
        }

        async fn write(_: &Pool, _: Writer, rows: &[Self]) -> Result<(), Error> {
            assert!(rows.len() <= CHUNK);
            if let Some(cause) = rows.iter().find_map(|r| r.failure) {
                return Err(Error { doing: "writing", cause: cause() });
            }
            rows.iter().for_each(|r| r.written.lock().unwrap().push(r.number));
            Ok(())
        }
    }

    async fn write(failures: &[(usize, Failure)]) -> (Result<HashSet<usize>, Error>, Vec<usize>) {
        let written = Arc::new(Mutex::new(Vec::new()));
        let row = |number| Row {
            number,
            failure: failures.iter().find(|(n, _)| *n == number).map(|(_, cause)| *cause),
            written: Arc::clone(&written),
        };
        let rows: Vec<Row> = (0..2500).map(row).collect();
        let pool = Pool::new(&"postgres://localhost/x".into(), Options::default()).unwrap();
        let result = write_rows(&pool, Writer::default(), &rows).await;
        let mut written = written.lock().unwrap().clone();
        written.sort_unstable();
        (result, written)
    }

    #[tokio::test]
    async fn bad_rows_stop_no_others() {
        let bad = [0, 3, 999, 1000, 2499];
        let (refused, written) =
            write(&bad.map(|n| (n, (|| Cause::Sql(sqlx::Error::Encode("x".into()))) as Failure))).await;
        assert_eq!(refused.unwrap(), HashSet::from(bad));
        assert_eq!(written, (0..2500).filter(|n| !bad.contains(n)).collect::<Vec<_>>(), "each once");
    }

    #[tokio::test]
    async fn an_absent_database_ends_it_at_once() {
        let (result, written) = write(&[(2400, || Cause::Deadline(Duration::from_secs(1)))]).await;
        assert!(result.is_err());
        assert!(written.is_empty(), "no other was tried: {written:?}");
    }
}
