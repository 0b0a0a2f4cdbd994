//! Rows of jobs.

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::{
    Error, Pool, RowVersion, Writer, column,
    state::fence,
    text::{json, optional, text},
};

/// A job as it is mirrored.
#[derive(Clone, Debug)]
pub struct JobRow {
    /// UID of the object.
    pub uid: Uuid,
    /// Its tenant, which has a row. Never changed once written.
    pub tenant_uid: Uuid,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its queue.
    pub queue: &'static str,
    /// Its priority.
    pub priority: &'static str,
    /// Where it is.
    pub phase: &'static str,
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
    /// What was submitted.
    pub spec: Value,
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
    /// The object's resource version.
    pub resource_version: i64,
}

/// Writes rows that are newer than what is there. A living row's namesakes are gone by then, whatever their rows say.
///
/// # Errors
/// When the rows are refused ([`Error::refused_rows`]; none is written then), or the database is away.
pub async fn write_jobs(pool: &Pool, writer: Writer, rows: &[JobRow]) -> Result<(), Error> {
    let uids = column(rows, |r| r.uid);
    let namespaces = column(rows, |r| text(&r.namespace));
    let names = column(rows, |r| text(&r.name));
    let deleted = column(rows, |r| r.deleted_at.map(jiff_sqlx::Timestamp::from));
    let work = async {
        let mut session = pool.session().await?;
        let mut transaction = session.begin().await?;
        fence(&mut transaction, writer, &pool.statement_timeout()).await?;
        sqlx::query!(
            "UPDATE jobs old SET deleted_at = now()
             FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::timestamptz[])
                 AS new (uid, namespace, name, deleted_at)
             WHERE old.namespace = new.namespace AND old.name = new.name AND old.uid <> new.uid
               AND old.deleted_at IS NULL AND new.deleted_at IS NULL",
            &uids,
            &namespaces,
            &names,
            &deleted as &[Option<jiff_sqlx::Timestamp>],
        )
        .execute(&mut *transaction)
        .await?;
        sqlx::query!(
            "INSERT INTO jobs AS old (uid, tenant_uid, namespace, name, queue, priority, phase, reason, message,
                                      attempt, retries, node, exit_code, spec, created_at, assigned_at, started_at,
                                      finished_at, deleted_at, resource_version, epoch)
             SELECT new.*, $21 FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[],
                 $7::text[], $8::text[], $9::text[], $10::int[], $11::int[], $12::text[], $13::int[], $14::jsonb[],
                 $15::timestamptz[], $16::timestamptz[], $17::timestamptz[], $18::timestamptz[], $19::timestamptz[],
                 $20::bigint[]) AS new
             ON CONFLICT (uid) DO UPDATE SET
                 namespace = excluded.namespace, name = excluded.name, queue = excluded.queue,
                 priority = excluded.priority, phase = excluded.phase, reason = excluded.reason,
                 message = excluded.message, attempt = excluded.attempt, retries = excluded.retries,
                 node = excluded.node, exit_code = excluded.exit_code, spec = excluded.spec,
                 created_at = excluded.created_at, assigned_at = excluded.assigned_at,
                 started_at = excluded.started_at, finished_at = excluded.finished_at,
                 deleted_at = excluded.deleted_at, epoch = excluded.epoch,
                 resource_version = excluded.resource_version
             WHERE (excluded.epoch, excluded.resource_version) > (old.epoch, old.resource_version)",
            &uids,
            &column(rows, |r| r.tenant_uid),
            &namespaces,
            &names,
            &column(rows, |r| r.queue) as &[&str],
            &column(rows, |r| r.priority) as &[&str],
            &column(rows, |r| r.phase) as &[&str],
            &column(rows, |r| optional(r.reason.as_ref())) as &[Option<String>],
            &column(rows, |r| optional(r.message.as_ref())) as &[Option<String>],
            &column(rows, |r| r.attempt),
            &column(rows, |r| r.retries),
            &column(rows, |r| optional(r.node.as_ref())) as &[Option<String>],
            &column(rows, |r| r.exit_code) as &[Option<i32>],
            &column(rows, |r| json(&r.spec)),
            &column(rows, |r| r.created_at.into()) as &[jiff_sqlx::Timestamp],
            &column(rows, |r| r.assigned_at.map(Into::into)) as &[Option<jiff_sqlx::Timestamp>],
            &column(rows, |r| r.started_at.map(Into::into)) as &[Option<jiff_sqlx::Timestamp>],
            &column(rows, |r| r.finished_at.map(Into::into)) as &[Option<jiff_sqlx::Timestamp>],
            &deleted as &[Option<jiff_sqlx::Timestamp>],
            &column(rows, |r| r.resource_version),
            writer.epoch,
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        session.release();
        Ok(())
    };
    pool.within("writing jobs", work).await
}

/// How new the rows are of the jobs that the mirror takes for living, and of those in `uids`.
///
/// # Errors
/// When the database is away.
pub async fn job_versions(pool: &Pool, uids: &[Uuid]) -> Result<Vec<RowVersion>, Error> {
    let work = async {
        let mut session = pool.session().await?;
        let rows = sqlx::query_as!(
            RowVersion,
            r#"SELECT uid AS "uid!", epoch AS "epoch!", resource_version AS "resource_version!", true AS "living!"
               FROM jobs WHERE deleted_at IS NULL
               UNION ALL
               SELECT uid, epoch, resource_version, false
               FROM jobs WHERE deleted_at IS NOT NULL AND uid = ANY($1)"#,
            uids
        )
        .fetch_all(session.connection()?)
        .await?;
        session.release();
        Ok(rows)
    };
    pool.within("comparing jobs", work).await
}

/// Marks as gone, at `at`, what is not there any more.
///
/// # Errors
/// When the database is away.
pub async fn bury_jobs(pool: &Pool, writer: Writer, uids: &[Uuid], at: Timestamp) -> Result<(), Error> {
    if uids.is_empty() {
        return Ok(());
    }
    let work = async {
        let mut session = pool.session().await?;
        let mut transaction = session.begin().await?;
        fence(&mut transaction, writer, &pool.statement_timeout()).await?;
        sqlx::query!(
            "UPDATE jobs SET deleted_at = $2 WHERE uid = ANY($1) AND deleted_at IS NULL",
            uids,
            jiff_sqlx::Timestamp::from(at) as _
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        session.release();
        Ok(())
    };
    pool.within("marking jobs as gone", work).await
}
