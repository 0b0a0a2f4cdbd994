//! What the REST API reads: jobs of one tenant, the newest first, also those that are gone from the cluster; and what
//! they used.

use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::Value;
use uuid::Uuid;

use super::{
    Cause, Error, Options, Pool,
    pool::Session,
    turns::{Place, Turns},
};

/// Connections for reading, which tenants use in turn: a tenant that asks for much waits, and the others do not wait for
/// it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Readers {
    pool: Pool,
    turns: Turns,
}

impl Readers {
    /// Readers over connections of their own. Connects to nothing yet; call it within a tokio runtime.
    ///
    /// # Errors
    /// As [`Pool::new`].
    pub fn new(url: &SecretString, options: Options) -> Result<Self, Error> {
        Ok(Self { pool: Pool::new(url, options)?, turns: Turns::new(options.connections) })
    }

    /// A connection, when it is this tenant's turn.
    async fn session(&self, tenant_uid: Uuid) -> Result<(Session, Place), Cause> {
        let place = self.turns.place(tenant_uid).await;
        Ok((self.pool.session().await?, place))
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
    /// When it was found gone, if it is.
    pub deleted_at: Option<Timestamp>,
}

/// Which jobs of a tenant.
#[derive(Clone, Copy, Debug, Default)]
pub struct JobsWanted<'a> {
    /// Those in this phase.
    pub phase: Option<&'a str>,
    /// Those of this queue.
    pub queue: Option<&'a str>,
    /// Those after this one in the list: made earlier, or at the same time with a lower UID.
    pub before: Option<(Timestamp, Uuid)>,
    /// So many at most.
    pub most: i64,
}

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
pub async fn jobs_of(
    readers: &Readers,
    tenant_uid: Uuid,
    wanted: JobsWanted<'_>,
) -> Result<Vec<JobRecord>, Error> {
    let work = async {
        let (mut session, _place) = readers.session(tenant_uid).await?;
        let (before, last) = wanted.before.unzip();
        let rows = sqlx::query!(
            r#"SELECT uid, name, phase, reason, message, attempt, retries, node, exit_code, spec,
                      created_at AS "created_at: jiff_sqlx::Timestamp",
                      assigned_at AS "assigned_at: jiff_sqlx::Timestamp",
                      started_at AS "started_at: jiff_sqlx::Timestamp",
                      finished_at AS "finished_at: jiff_sqlx::Timestamp",
                      deleted_at AS "deleted_at: jiff_sqlx::Timestamp"
               FROM jobs
               WHERE tenant_uid = $1 AND ($2::text IS NULL OR phase = $2) AND ($3::text IS NULL OR queue = $3)
                 AND ($4::timestamptz IS NULL OR (created_at, uid) < ($4, $5::uuid))
               ORDER BY created_at DESC, uid DESC LIMIT $6"#,
            tenant_uid,
            wanted.phase,
            wanted.queue,
            before.map(jiff_sqlx::Timestamp::from) as Option<jiff_sqlx::Timestamp>,
            last,
            wanted.most,
        )
        .fetch_all(session.connection()?)
        .await?;
        session.release();
        Ok(rows.into_iter().map(|row| record!(row)).collect())
    };
    readers.pool.within("reading jobs", work).await
}

/// One job of a tenant; `None` where it never had it. Nothing of another tenant's is looked at (the index
/// `jobs_of_tenant`), so that its job is refused as fast as none.
///
/// # Errors
/// When the database is away.
pub async fn job_of(readers: &Readers, tenant_uid: Uuid, uid: Uuid) -> Result<Option<JobRecord>, Error> {
    let work = async {
        let (mut session, _place) = readers.session(tenant_uid).await?;
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
        session.release();
        Ok(row.map(|row| record!(row)))
    };
    readers.pool.within("reading a job", work).await
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
    let work = async {
        let (mut session, _place) = readers.session(tenant_uid).await?;
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
        session.release();
        Ok(rows
            .into_iter()
            .map(|row| UsageRecord {
                start: row.start.to_jiff(),
                running_millis: row.running,
                cpu_millicore_millis: row.cpu,
                memory_byte_millis: row.memory,
                gpu_millis: row.gpu,
                bandwidth_mbps_millis: row.bandwidth,
            })
            .collect())
    };
    readers.pool.within("reading usage of a tenant", work).await
}
