//! Attempts and what they are charged: each exactly once.
//!
//! The key of a charge is (job UID, attempt). Attempt, charge and hourly sums are one statement, and the sums take only
//! the charges that this statement inserted: writing the same attempt again, from whatever source and in whatever
//! order, changes nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    Cause, Error, Pool, Writer, column,
    jobs::end_deleted,
    text::{optional, text},
    transaction::Fenced,
};
use crate::{
    api_types::job::AttemptRecord,
    domain::metering::{self, Usage},
};

/// What a pod says of the job it was an attempt of: enough for a row where the job itself was never seen.
#[derive(Clone, Debug)]
pub struct JobSeen {
    /// UID of the tenant.
    pub tenant_uid: Uuid,
    /// Name of the tenant.
    pub tenant: String,
    /// Namespace of job and pod.
    pub namespace: String,
    /// Name of the job.
    pub job: String,
    /// When the pod was made.
    pub created_at: Timestamp,
}

/// An attempt that ended.
#[derive(Clone, Debug)]
pub struct AttemptRow {
    /// UID of its job.
    pub job_uid: Uuid,
    /// How it ended and what it asked for.
    pub record: AttemptRecord,
    /// Where the attempt comes from a pod: the job and the tenant that the pod names.
    pub seen: Option<JobSeen>,
}

/// Writes attempts and charges them. No two of `rows` may be of the same job and number. Jobs (and tenants) that have
/// no row get one, marked as deleted, from what the pod names; an attempt of a job without either is refused.
///
/// # Errors
/// When the rows are refused ([`Error::refused_rows`]; none is written then), or the database is away.
pub async fn write_attempts(pool: &Pool, writer: Writer, rows: &[AttemptRow]) -> Result<(), Error> {
    let work = async {
        let mut transaction = Fenced::begin(pool, writer).await?;
        let connection = transaction.connection()?;
        insert_seen(connection, writer, rows).await?;
        insert_attempts(connection, rows).await?;
        end_deleted(connection, &column(rows, |r| r.job_uid)).await?;
        transaction.commit().await
    };
    pool.within("failed to write attempts and usage", work).await
}

/// Rows for jobs and tenants of which only pods were ever seen. Resource version 0: whatever else comes is newer.
async fn insert_seen(
    connection: &mut sqlx::PgConnection,
    writer: Writer,
    rows: &[AttemptRow],
) -> Result<(), Cause> {
    let seen: BTreeMap<Uuid, &JobSeen> =
        rows.iter().filter_map(|r| Some((r.job_uid, r.seen.as_ref()?))).collect();
    if seen.is_empty() {
        return Ok(());
    }
    let jobs: Vec<(Uuid, &JobSeen)> = seen.into_iter().collect();
    let tenants: BTreeMap<Uuid, &JobSeen> = jobs.iter().map(|(_, s)| (s.tenant_uid, *s)).collect();
    let tenants: Vec<(Uuid, &JobSeen)> = tenants.into_iter().collect();
    sqlx::query!(
        "INSERT INTO tenants (uid, name, created_at, deleted_at, epoch, resource_version)
         SELECT new.*, now(), $4, 0 FROM UNNEST($1::uuid[], $2::text[], $3::timestamptz[]) AS new
         ON CONFLICT (uid) DO NOTHING",
        &column(&tenants, |(uid, _)| *uid),
        &column(&tenants, |(_, s)| text(&s.tenant)),
        &column(&tenants, |(_, s)| s.created_at.into()) as &[jiff_sqlx::Timestamp],
        writer.epoch,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO jobs (uid, tenant_uid, namespace, name, created_at, attempt, retries, deleted_at, epoch,
                           resource_version)
         SELECT new.*, 0, 0, now(), $6, 0
         FROM UNNEST($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::timestamptz[]) AS new
         ON CONFLICT (uid) DO NOTHING",
        &column(&jobs, |(uid, _)| *uid),
        &column(&jobs, |(_, s)| s.tenant_uid),
        &column(&jobs, |(_, s)| text(&s.namespace)),
        &column(&jobs, |(_, s)| text(&s.job)),
        &column(&jobs, |(_, s)| s.created_at.into()) as &[jiff_sqlx::Timestamp],
        writer.epoch,
    )
    .execute(&mut *connection)
    .await?;
    Ok(())
}

/// The one statement: attempts, their charges, and the hourly sums of those charges that were not there yet. (Left
/// join: an attempt without a job then has no tenant, which the table refuses; it must not count as written.)
async fn insert_attempts(connection: &mut sqlx::PgConnection, rows: &[AttemptRow]) -> Result<(), Cause> {
    let usages = column(rows, |r| metering::usage(&r.record));
    let parts: Vec<(Uuid, i32, metering::HourlyUsage)> = rows
        .iter()
        .flat_map(|r| {
            metering::by_hour(&r.record).into_iter().map(|part| (r.job_uid, r.record.attempt, part))
        })
        .collect();
    let of_part = |amount: fn(&Usage) -> i128| column(&parts, |(_, _, part)| amount(&part.usage).to_string());
    let of_run = |amount: fn(&Usage) -> i128| column(&usages, |usage| amount(usage).to_string());
    sqlx::query!(
        r#"WITH ended AS (
               SELECT e.*, j.tenant_uid
               FROM UNNEST($1::uuid[], $2::int[], $3::text[], $4::text[], $5::timestamptz[], $6::timestamptz[],
                           $7::text[], $8::int[], $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[],
                           $13::bigint[], $14::text[], $15::text[], $16::text[], $17::text[])
                    AS e (job_uid, attempt, pod, node, started_at, finished_at, reason, exit_code, cpu_millicores,
                          memory_bytes, gpus, bandwidth_mbps, running_millis, cpu_millicore_millis,
                          memory_byte_millis, gpu_millis, bandwidth_mbps_millis)
               LEFT JOIN jobs j ON j.uid = e.job_uid
           ), attempts AS (
               INSERT INTO job_attempts (job_uid, attempt, tenant_uid, pod, node, started_at, finished_at, reason,
                                         exit_code, cpu_millicores, memory_bytes, gpus, bandwidth_mbps)
               SELECT job_uid, attempt, tenant_uid, pod, node, started_at, finished_at, reason, exit_code,
                      cpu_millicores, memory_bytes, gpus, bandwidth_mbps
               FROM ended
               ON CONFLICT (job_uid, attempt) DO NOTHING
           ), charged AS (
               INSERT INTO usage_events (job_uid, attempt, tenant_uid, started_at, finished_at, running_millis,
                                         cpu_millicore_millis, memory_byte_millis, gpu_millis,
                                         bandwidth_mbps_millis)
               SELECT job_uid, attempt, tenant_uid, started_at, finished_at, running_millis,
                      cpu_millicore_millis::numeric, memory_byte_millis::numeric, gpu_millis::numeric,
                      bandwidth_mbps_millis::numeric
               FROM ended
               ON CONFLICT (job_uid, attempt) DO NOTHING
               RETURNING job_uid, attempt, tenant_uid
           )
           INSERT INTO usage_hourly AS h (tenant_uid, hour, running_millis, cpu_millicore_millis,
                                          memory_byte_millis, gpu_millis, bandwidth_mbps_millis)
           SELECT c.tenant_uid, p.hour, sum(p.running_millis), sum(p.cpu_millicore_millis::numeric),
                  sum(p.memory_byte_millis::numeric), sum(p.gpu_millis::numeric),
                  sum(p.bandwidth_mbps_millis::numeric)
           FROM UNNEST($18::uuid[], $19::int[], $20::timestamptz[], $21::bigint[], $22::text[], $23::text[],
                       $24::text[], $25::text[])
                AS p (job_uid, attempt, hour, running_millis, cpu_millicore_millis, memory_byte_millis, gpu_millis,
                      bandwidth_mbps_millis)
           JOIN charged c USING (job_uid, attempt)
           GROUP BY c.tenant_uid, p.hour
           ORDER BY c.tenant_uid, p.hour
           ON CONFLICT (tenant_uid, hour) DO UPDATE SET
               running_millis = h.running_millis + excluded.running_millis,
               cpu_millicore_millis = h.cpu_millicore_millis + excluded.cpu_millicore_millis,
               memory_byte_millis = h.memory_byte_millis + excluded.memory_byte_millis,
               gpu_millis = h.gpu_millis + excluded.gpu_millis,
               bandwidth_mbps_millis = h.bandwidth_mbps_millis + excluded.bandwidth_mbps_millis"#,
        &column(rows, |r| r.job_uid),
        &column(rows, |r| r.record.attempt),
        &column(rows, |r| text(&r.record.pod)),
        &column(rows, |r| optional(r.record.node.as_ref())) as &[Option<String>],
        &column(rows, |r| r.record.started_at.as_ref().map(|t| t.0.into())) as &[Option<jiff_sqlx::Timestamp>],
        &column(rows, |r| r.record.finished_at.0.into()) as &[jiff_sqlx::Timestamp],
        &column(rows, |r| text(&r.record.reason)),
        &column(rows, |r| r.record.exit_code) as &[Option<i32>],
        &column(rows, |r| r.record.cpu_millicores),
        &column(rows, |r| r.record.memory_bytes),
        &column(rows, |r| r.record.gpus),
        &column(rows, |r| r.record.bandwidth_mbps),
        &column(&usages, |usage| usage.running_millis),
        &of_run(|usage| usage.cpu_millicore_millis),
        &of_run(|usage| usage.memory_byte_millis),
        &of_run(|usage| usage.gpu_millis),
        &of_run(|usage| usage.bandwidth_mbps_millis),
        &column(&parts, |(uid, _, _)| *uid),
        &column(&parts, |(_, attempt, _)| *attempt),
        &column(&parts, |(_, _, part)| part.hour.into()) as &[jiff_sqlx::Timestamp],
        &column(&parts, |(_, _, part)| part.usage.running_millis),
        &of_part(|usage| usage.cpu_millicore_millis),
        &of_part(|usage| usage.memory_byte_millis),
        &of_part(|usage| usage.gpu_millis),
        &of_part(|usage| usage.bandwidth_mbps_millis),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// What one attempt was charged, ready to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageEvent {
    /// Name of the tenant.
    pub tenant: String,
    /// Name of the job.
    pub job: String,
    /// UID of the job.
    pub job_uid: Uuid,
    /// Number of the attempt.
    pub attempt: i32,
    /// When it started, if it did.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
    /// What it is charged.
    pub usage: Usage,
}

/// The newest `limit` charges, the last first.
///
/// # Errors
/// When the database is away.
pub async fn usage_events(pool: &Pool, limit: i64) -> Result<Vec<UsageEvent>, Error> {
    let work = async {
        let mut session = pool.session().await?;
        let rows = sqlx::query!(
            r#"SELECT t.name AS tenant, j.name AS job, u.job_uid, u.attempt,
                      u.started_at AS "started_at: jiff_sqlx::Timestamp",
                      u.finished_at AS "finished_at: jiff_sqlx::Timestamp", u.running_millis,
                      u.cpu_millicore_millis::text AS "cpu!", u.memory_byte_millis::text AS "memory!",
                      u.gpu_millis::text AS "gpu!", u.bandwidth_mbps_millis::text AS "bandwidth!"
               FROM usage_events u JOIN tenants t ON t.uid = u.tenant_uid JOIN jobs j ON j.uid = u.job_uid
               ORDER BY u.recorded_at DESC, u.finished_at DESC, u.job_uid, u.attempt DESC LIMIT $1"#,
            limit
        )
        .fetch_all(session.connection()?)
        .await?;
        session.release();
        rows.into_iter()
            .map(|row| {
                Ok(UsageEvent {
                    tenant: row.tenant,
                    job: row.job,
                    job_uid: row.job_uid,
                    attempt: row.attempt,
                    started_at: row.started_at.map(jiff_sqlx::Timestamp::to_jiff),
                    finished_at: row.finished_at.to_jiff(),
                    usage: Usage {
                        running_millis: row.running_millis,
                        cpu_millicore_millis: whole(row.cpu)?,
                        memory_byte_millis: whole(row.memory)?,
                        gpu_millis: whole(row.gpu)?,
                        bandwidth_mbps_millis: whole(row.bandwidth)?,
                    },
                })
            })
            .collect()
    };
    pool.within("failed to read usage", work).await
}

fn whole(number: String) -> Result<i128, Cause> {
    number.parse().map_err(|_| Cause::Number(number))
}
