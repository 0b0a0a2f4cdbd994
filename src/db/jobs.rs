//! Rows of jobs.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::Value;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    Cause, Error, PORTION, Pool, RowVersion, Writer, column,
    text::{json, optional, text},
    transaction::Fenced,
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
    /// What was submitted. Fields that are absent stay as the row has them: the cache lacks the payload of ended jobs,
    /// and once submitted no field of it changes.
    pub spec: Value,
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
    /// The object's resource version.
    pub resource_version: i64,
}

/// Writes rows that are newer than those stored. An existing row's namesakes are deleted by then, whatever their rows
/// say.
///
/// # Errors
/// When the rows are refused ([`Error::refused_rows`]; none is written then), or the database is away.
pub async fn write_jobs(pool: &Pool, writer: Writer, rows: &[JobRow]) -> Result<(), Error> {
    let uids = column(rows, |r| r.uid);
    let namespaces = column(rows, |r| text(&r.namespace));
    let names = column(rows, |r| text(&r.name));
    let deleted = column(rows, |r| r.deleted_at.map(jiff_sqlx::Timestamp::from));
    let work = async {
        let mut transaction = Fenced::begin(pool, writer).await?;
        let connection = transaction.connection()?;
        let mut ended = sqlx::query_scalar!(
            "UPDATE jobs old SET deleted_at = now()
             FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::timestamptz[])
                 AS new (uid, namespace, name, deleted_at)
             WHERE old.namespace = new.namespace AND old.name = new.name AND old.uid <> new.uid
               AND old.deleted_at IS NULL AND new.deleted_at IS NULL
             RETURNING old.uid",
            &uids,
            &namespaces,
            &names,
            &deleted as &[Option<jiff_sqlx::Timestamp>],
        )
        .fetch_all(&mut *connection)
        .await?;
        ended.extend(rows.iter().filter(|row| row.deleted_at.is_some()).map(|row| row.uid));
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
                 node = excluded.node, exit_code = excluded.exit_code, spec = coalesce(old.spec, '{}') || excluded.spec,
                 created_at = excluded.created_at, assigned_at = excluded.assigned_at,
                 started_at = excluded.started_at, finished_at = excluded.finished_at,
                 deleted_at = excluded.deleted_at, deleted_phase = NULL, epoch = excluded.epoch,
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
        .execute(&mut *connection)
        .await?;
        end_deleted(connection, &ended).await?;
        transaction.commit().await
    };
    pool.within("failed to write jobs", work).await
}

/// Gives those of `uids` that were deleted before their end one, by what is known of their last attempt: what had ended
/// by itself ended so; what waited, or was stopped by the deletion, was canceled. An attempt may become known later, so
/// this is called after each write of either.
pub(super) async fn end_deleted(connection: &mut PgConnection, uids: &[Uuid]) -> Result<(), Cause> {
    if uids.is_empty() {
        return Ok(());
    }
    sqlx::query!(
        "UPDATE jobs j SET
             deleted_phase = CASE WHEN a.attempt IS NULL THEN coalesce(k.deleted_phase, k.phase) ELSE 'Running' END,
             phase = CASE a.reason WHEN 'Succeeded' THEN 'Completed' WHEN 'DeadlineExceeded' THEN 'TimedOut'
                                   WHEN 'NonZeroExit' THEN 'Failed' WHEN 'OutOfMemory' THEN 'Failed'
                                   ELSE 'Canceled' END,
             reason = CASE WHEN a.reason IN ('Succeeded', 'DeadlineExceeded', 'NonZeroExit', 'OutOfMemory')
                           THEN a.reason ELSE 'JobDeleted' END,
             message = CASE WHEN a.reason IN ('Succeeded', 'NonZeroExit', 'OutOfMemory')
                            THEN 'exit code ' || a.exit_code
                            WHEN a.reason = 'DeadlineExceeded' THEN 'ran longer than its timeout'
                            WHEN coalesce(k.deleted_phase, k.phase) IN ('Queued', 'Retrying') AND a.attempt IS NULL
                            THEN 'the job was deleted while it waited'
                            ELSE 'the job was deleted before it had ended' END,
             attempt = greatest(k.attempt, a.attempt),
             node = coalesce(a.node, k.node),
             started_at = coalesce(a.started_at, k.started_at),
             exit_code = coalesce(a.exit_code, k.exit_code),
             finished_at = coalesce(a.finished_at, greatest(k.deleted_at, k.created_at))
         FROM jobs k LEFT JOIN LATERAL (
             SELECT * FROM job_attempts a
             WHERE a.job_uid = k.uid
               AND (a.attempt > k.attempt
                    OR a.attempt = k.attempt AND coalesce(k.deleted_phase, k.phase) IN ('Assigned', 'Running'))
             ORDER BY a.attempt DESC LIMIT 1
         ) a ON true
         WHERE j.uid = k.uid AND k.uid = ANY($1) AND k.deleted_at IS NOT NULL
           AND (k.deleted_phase IS NOT NULL OR k.phase IN ('Queued', 'Assigned', 'Running', 'Retrying'))",
        uids
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Those of `uids` whose rows have the payload of their spec ([`crate::api_types::JobSpec::has_payload`]).
///
/// # Errors
/// When the database is away.
pub async fn jobs_with_payload(pool: &Pool, uids: &[Uuid]) -> Result<HashSet<Uuid>, Error> {
    let mut found = HashSet::new();
    for uids in uids.chunks(PAGE) {
        let work = async {
            let mut session = pool.session().await?;
            let rows = sqlx::query_scalar!(
                "SELECT uid FROM jobs WHERE uid = ANY($1) AND jsonb_exists_any(spec, ARRAY['image', 'scenario'])",
                uids
            )
            .fetch_all(session.connection()?)
            .await?;
            session.release();
            Ok(rows)
        };
        found.extend(pool.within("failed to read which jobs have a spec", work).await?);
    }
    Ok(found)
}

/// Rows of one answer, or UIDs of one question, at most.
const PAGE: usize = 10_000;

/// How new the rows are of the jobs that the mirror takes for living, and of those in `uids`. Read in pages, each
/// within a deadline of its own.
///
/// # Errors
/// When the database is away.
pub async fn job_versions(pool: &Pool, uids: &[Uuid]) -> Result<Vec<RowVersion>, Error> {
    let mut versions = Vec::new();
    let mut after = (String::new(), String::new());
    loop {
        let page = living_after(pool, &after).await?;
        let is_last = page.len() < PAGE;
        if let Some(last) = page.last() {
            after = (last.namespace.clone(), last.name.clone());
        }
        versions.extend(page.into_iter().map(|row| RowVersion {
            uid: row.uid,
            epoch: row.epoch,
            resource_version: row.resource_version,
            living: true,
        }));
        if is_last {
            break;
        }
    }
    for uids in uids.chunks(PAGE) {
        versions.extend(deleted_among(pool, uids).await?);
    }
    Ok(versions)
}

struct Living {
    uid: Uuid,
    epoch: i64,
    resource_version: i64,
    namespace: String,
    name: String,
}

/// A page of the jobs that the mirror takes for living, by namespace and name.
async fn living_after(pool: &Pool, (namespace, name): &(String, String)) -> Result<Vec<Living>, Error> {
    let work = async {
        let mut session = pool.session().await?;
        let rows = sqlx::query_as!(
            Living,
            "SELECT uid, epoch, resource_version, namespace, name FROM jobs
             WHERE deleted_at IS NULL AND (namespace, name) > ($1, $2) ORDER BY namespace, name LIMIT $3",
            namespace,
            name,
            i64::try_from(PAGE).unwrap_or(i64::MAX)
        )
        .fetch_all(session.connection()?)
        .await?;
        session.release();
        Ok(rows)
    };
    pool.within("failed to compare jobs", work).await
}

/// Those of `uids` that the mirror takes for deleted.
async fn deleted_among(pool: &Pool, uids: &[Uuid]) -> Result<Vec<RowVersion>, Error> {
    let work = async {
        let mut session = pool.session().await?;
        let rows = sqlx::query_as!(
            RowVersion,
            r#"SELECT uid, epoch, resource_version, false AS "living!"
               FROM jobs WHERE deleted_at IS NOT NULL AND uid = ANY($1)"#,
            uids
        )
        .fetch_all(session.connection()?)
        .await?;
        session.release();
        Ok(rows)
    };
    pool.within("failed to compare jobs", work).await
}

/// Marks these rows as deleted at `at`, a portion at a time.
///
/// # Errors
/// When the database is away.
pub async fn mark_deleted_jobs(
    pool: &Pool,
    writer: Writer,
    uids: &[Uuid],
    at: Timestamp,
) -> Result<(), Error> {
    for uids in uids.chunks(PORTION) {
        let work = async {
            let mut transaction = Fenced::begin(pool, writer).await?;
            let connection = transaction.connection()?;
            sqlx::query!(
                "UPDATE jobs SET deleted_at = $2 WHERE uid = ANY($1) AND deleted_at IS NULL",
                uids,
                jiff_sqlx::Timestamp::from(at) as _
            )
            .execute(&mut *connection)
            .await?;
            end_deleted(connection, uids).await?;
            transaction.commit().await
        };
        pool.within("failed to mark jobs as deleted", work).await?;
    }
    Ok(())
}
