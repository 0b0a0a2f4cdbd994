//! What the REST API reads: jobs of one tenant, the newest first, also those that are deleted from the cluster; and
//! what they used.

use std::future::Future;

use jiff::Timestamp;
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::{Cause, Error, Options, Pool, UrlSource, breaker::Breaker, pool::Session};
use crate::fair_semaphore::FairSemaphore;

/// The most jobs that one filtered list scans: a tenant may have millions, and few that match.
pub const LONGEST_SCAN: i64 = 10_000;

/// Connections for reading, which tenants get by round robin: a tenant with many reads waits, and the others do not
/// wait for it. While the database does not answer, calls fail at once ([`Cause::CircuitOpen`]). Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readers {
    pool: Pool,
    permits: FairSemaphore,
    breaker: Breaker,
}

impl Readers {
    /// Readers over connections of their own. Connects to nothing yet; call it within a tokio runtime.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn new(url: &UrlSource, options: Options) -> Result<Self, Error> {
        // One more than readers use at once: to ask whether the database answers.
        let with_probe = Options { connections: options.connections + 1, ..options };
        Ok(Self {
            pool: Pool::new(url, with_probe)?,
            permits: FairSemaphore::new(options.connections),
            breaker: Breaker::default(),
        })
    }

    /// Runs a read of a tenant on a connection, once the tenant has a permit.
    pub(super) async fn read<T, F>(
        &self,
        doing: &'static str,
        tenant_uid: Uuid,
        work: impl FnOnce(Session) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<(T, Session), Cause>>,
    {
        self.breaker.check().map_err(|cause| Error { doing, cause })?;
        let call = self.pool.options().call;
        let deadline = Instant::now() + call;
        let late = || Error { doing, cause: Cause::Deadline(call) };
        let permit = tokio::time::timeout_at(deadline, self.permits.acquire(tenant_uid)).await;
        let _permit = permit.map_err(|_| late())?;
        // It may have opened meanwhile.
        self.breaker.check().map_err(|cause| Error { doing, cause })?;
        let asked = Instant::now();
        let reading = async {
            let (read, session) = work(self.pool.session_until(deadline).await?).await?;
            session.release();
            Ok(read)
        };
        let read = tokio::time::timeout_at(deadline, reading).await.unwrap_or(Err(Cause::Deadline(call)));
        let read = read.map_err(|cause| Error { doing, cause });
        if let Err(error) = &read
            && error.is_away()
            // The permit may have come too late for any database to respond.
            && (!matches!(error.cause, Cause::Deadline(_)) || asked.elapsed() >= call / 2)
        {
            self.breaker.open(&self.pool, error);
        }
        read
    }
}

/// A job as the history has it.
#[derive(Clone, Debug)]
pub struct JobRecord {
    /// UID of the object.
    pub uid: Uuid,
    /// Its name.
    pub name: String,
    /// Where it is, or was last; `None` where only its pods were ever seen.
    pub phase: Option<String>,
    /// Why, in one word.
    pub reason: Option<String>,
    /// Why, in a sentence.
    pub message: Option<String>,
    /// Number of the current or last attempt.
    pub attempt: i32,
    /// Attempts charged against its retries.
    pub retries: i32,
    /// Node of the current or last attempt.
    pub node: Option<String>,
    /// Exit code of the last attempt.
    pub exit_code: Option<i32>,
    /// What was submitted, without the values of its variables.
    pub spec: Option<Value>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When the current or last attempt was admitted.
    pub assigned_at: Option<Timestamp>,
    /// When the current or last attempt started.
    pub started_at: Option<Timestamp>,
    /// When the job ended.
    pub finished_at: Option<Timestamp>,
    /// When its deletion was seen; `None` while it exists.
    pub deleted_at: Option<Timestamp>,
}

/// Which jobs of a tenant.
#[derive(Clone, Copy, Debug, Default)]
pub struct JobsWanted<'a> {
    /// Those in this phase.
    pub phase: Option<&'a str>,
    /// Those of this queue.
    pub queue: Option<&'a str>,
    /// Those of this name.
    pub name: Option<&'a str>,
    /// Those after this one in the list: made earlier, or at the same time with a lower UID.
    pub before: Option<(Timestamp, Uuid)>,
    /// The limit of the page.
    pub most: i64,
}

/// Jobs of a list.
#[derive(Clone, Debug, Default)]
pub struct JobsPage {
    /// The newest first.
    pub jobs: Vec<JobRecord>,
    /// The position at which the scan ended ([`LONGEST_SCAN`]) before the page was full: older jobs may match, too.
    pub searched_to: Option<(Timestamp, Uuid)>,
}

/// Where lists end: what is older than this was not made by any cluster, and may be beyond what Postgres can hold.
pub(super) const OLDEST: Timestamp = Timestamp::UNIX_EPOCH;

macro_rules! record {
    ($row:expr) => {{
        let row = $row;
        JobRecord {
            uid: row.uid,
            name: row.name,
            phase: row.phase,
            reason: row.reason,
            message: row.message,
            attempt: row.attempt,
            retries: row.retries,
            node: row.node,
            exit_code: row.exit_code,
            spec: row.spec,
            created_at: row.created_at.to_jiff(),
            assigned_at: row.assigned_at.map(jiff_sqlx::Timestamp::to_jiff),
            started_at: row.started_at.map(jiff_sqlx::Timestamp::to_jiff),
            finished_at: row.finished_at.map(jiff_sqlx::Timestamp::to_jiff),
            deleted_at: row.deleted_at.map(jiff_sqlx::Timestamp::to_jiff),
        }
    }};
}

/// Jobs of a tenant, the newest first.
///
/// # Errors
/// When the database is away.
pub async fn jobs_of(readers: &Readers, tenant_uid: Uuid, wanted: JobsWanted<'_>) -> Result<JobsPage, Error> {
    let before = wanted.before.map(|(at, uid)| (at.max(OLDEST), uid));
    let work = async |mut session: Session| {
        let searched_to = match wanted {
            JobsWanted { phase: None, queue: None, name: None, .. } => None,
            _ => end_of_search(&mut session, tenant_uid, before).await?,
        };
        let jobs = jobs_between(&mut session, tenant_uid, wanted, before, searched_to).await?;
        let found_enough = i64::try_from(jobs.len()).is_ok_and(|found| found >= wanted.most);
        Ok((JobsPage { jobs, searched_to: searched_to.filter(|_| !found_enough) }, session))
    };
    readers.read("failed to read jobs", tenant_uid, work).await
}

/// The position of the last job that one search scans; `None` where there are fewer.
async fn end_of_search(
    session: &mut Session,
    tenant_uid: Uuid,
    before: Option<(Timestamp, Uuid)>,
) -> Result<Option<(Timestamp, Uuid)>, Cause> {
    let (before, last) = before.unzip();
    let last_scanned = sqlx::query!(
        r#"SELECT created_at AS "created_at: jiff_sqlx::Timestamp", uid FROM jobs
           WHERE tenant_uid = $1
             AND (created_at, uid) < (coalesce($2::timestamptz, 'infinity'), coalesce($3::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
           ORDER BY created_at DESC, uid DESC OFFSET $4 LIMIT 1"#,
        tenant_uid,
        before.map(jiff_sqlx::Timestamp::from) as Option<jiff_sqlx::Timestamp>,
        last,
        LONGEST_SCAN - 1,
    )
    .fetch_optional(session.connection()?)
    .await?;
    Ok(last_scanned.map(|row| (row.created_at.to_jiff(), row.uid)))
}

/// The jobs after the position `before` up to the position `to`, itself included. (Bounds without `OR`: the index
/// serves them, whatever plan the server keeps for the statement.)
async fn jobs_between(
    session: &mut Session,
    tenant_uid: Uuid,
    wanted: JobsWanted<'_>,
    before: Option<(Timestamp, Uuid)>,
    to: Option<(Timestamp, Uuid)>,
) -> Result<Vec<JobRecord>, Cause> {
    let ((before, last), (to, end)) = (before.unzip(), to.unzip());
    let rows = sqlx::query!(
        r#"SELECT uid, name, phase, reason, message, attempt, retries, node, exit_code, spec,
                  created_at AS "created_at: jiff_sqlx::Timestamp",
                  assigned_at AS "assigned_at: jiff_sqlx::Timestamp",
                  started_at AS "started_at: jiff_sqlx::Timestamp",
                  finished_at AS "finished_at: jiff_sqlx::Timestamp",
                  deleted_at AS "deleted_at: jiff_sqlx::Timestamp"
           FROM jobs
           WHERE tenant_uid = $1 AND ($2::text IS NULL OR phase = $2) AND ($3::text IS NULL OR queue = $3)
             AND (created_at, uid) < (coalesce($4::timestamptz, 'infinity'), coalesce($5::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff'))
             AND (created_at, uid) >= (coalesce($6::timestamptz, '-infinity'), coalesce($7::uuid, '00000000-0000-0000-0000-000000000000'))
             AND ($8::text IS NULL OR name = $8)
           ORDER BY created_at DESC, uid DESC LIMIT $9"#,
        tenant_uid,
        wanted.phase,
        wanted.queue,
        before.map(jiff_sqlx::Timestamp::from) as Option<jiff_sqlx::Timestamp>,
        last,
        to.map(jiff_sqlx::Timestamp::from) as Option<jiff_sqlx::Timestamp>,
        end,
        wanted.name,
        wanted.most,
    )
    .fetch_all(session.connection()?)
    .await?;
    Ok(rows.into_iter().map(|row| record!(row)).collect())
}

/// One job of a tenant; `None` where it never had it. The query reads no rows of other tenants (the index
/// `jobs_of_tenant`), so the response for another tenant's job takes as long as for one that never existed.
///
/// # Errors
/// When the database is away.
pub async fn job_of(readers: &Readers, tenant_uid: Uuid, uid: Uuid) -> Result<Option<JobRecord>, Error> {
    let work = async |mut session: Session| {
        let row = sqlx::query!(
            r#"SELECT uid, name, phase, reason, message, attempt, retries, node, exit_code, spec,
                      created_at AS "created_at: jiff_sqlx::Timestamp",
                      assigned_at AS "assigned_at: jiff_sqlx::Timestamp",
                      started_at AS "started_at: jiff_sqlx::Timestamp",
                      finished_at AS "finished_at: jiff_sqlx::Timestamp",
                      deleted_at AS "deleted_at: jiff_sqlx::Timestamp"
               FROM jobs WHERE tenant_uid = $1 AND uid::text = ($2::uuid)::text"#,
            tenant_uid,
            uid,
        )
        .fetch_optional(session.connection()?)
        .await?;
        Ok((row.map(|row| record!(row)), session))
    };
    readers.read("failed to read a job", tenant_uid, work).await
}

/// What the attempts of a tenant came to within a stretch of time, in thousandths times milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageRecord {
    /// When the stretch began.
    pub start: Timestamp,
    /// Running time, in milliseconds.
    pub running_millis: String,
    /// Thousandths of a core times milliseconds.
    pub cpu_millicore_millis: String,
    /// Bytes times milliseconds.
    pub memory_byte_millis: String,
    /// GPUs times milliseconds.
    pub gpu_millis: String,
    /// Mbit/s times milliseconds.
    pub bandwidth_mbps_millis: String,
}

/// A tenant's usage in full hours from `from` to before `to`, summed up by hour or by day (UTC), the oldest first.
///
/// # Errors
/// When the database is away.
pub async fn usage_of(
    readers: &Readers,
    tenant_uid: Uuid,
    from: Timestamp,
    to: Timestamp,
    by_day: bool,
) -> Result<Vec<UsageRecord>, Error> {
    let (from, to) = (from.max(OLDEST), to.max(OLDEST));
    let work = async |mut session: Session| {
        let rows = sqlx::query!(
            r#"SELECT date_trunc(CASE WHEN $4 THEN 'day' ELSE 'hour' END, hour, 'UTC')
                          AS "start!: jiff_sqlx::Timestamp",
                      sum(running_millis)::text AS "running!", sum(cpu_millicore_millis)::text AS "cpu!",
                      sum(memory_byte_millis)::text AS "memory!", sum(gpu_millis)::text AS "gpu!",
                      sum(bandwidth_mbps_millis)::text AS "bandwidth!"
               FROM usage_hourly WHERE tenant_uid = $1 AND hour >= $2 AND hour < $3
               GROUP BY 1 ORDER BY 1"#,
            tenant_uid,
            jiff_sqlx::Timestamp::from(from) as jiff_sqlx::Timestamp,
            jiff_sqlx::Timestamp::from(to) as jiff_sqlx::Timestamp,
            by_day,
        )
        .fetch_all(session.connection()?)
        .await?;
        let records = rows.into_iter().map(|row| UsageRecord {
            start: row.start.to_jiff(),
            running_millis: row.running,
            cpu_millicore_millis: row.cpu,
            memory_byte_millis: row.memory,
            gpu_millis: row.gpu,
            bandwidth_mbps_millis: row.bandwidth,
        });
        Ok((records.collect(), session))
    };
    readers.read("failed to read usage of a tenant", tenant_uid, work).await
}
