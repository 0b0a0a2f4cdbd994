//! Rows of tenants.

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::{
    Error, PORTION, Pool, RowVersion, Writer, column,
    text::{json, optional, text},
    transaction::Fenced,
};

/// A tenant as it is mirrored.
#[derive(Clone, Debug)]
pub struct TenantRow {
    /// UID of the object.
    pub uid: Uuid,
    /// Its name.
    pub name: String,
    /// Its name for people.
    pub display_name: Option<String>,
    /// Its namespace.
    pub namespace: Option<String>,
    /// Its plan.
    pub plan: String,
    /// Its phase.
    pub status: Option<String>,
    /// The quotas in force.
    pub quotas: Option<Value>,
    /// What it uses.
    pub usage: Option<Value>,
    /// The administrator's notes.
    pub metadata: Value,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
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
pub async fn write_tenants(pool: &Pool, writer: Writer, rows: &[TenantRow]) -> Result<(), Error> {
    let uids = column(rows, |r| r.uid);
    let names = column(rows, |r| text(&r.name));
    let deleted = column(rows, |r| r.deleted_at.map(jiff_sqlx::Timestamp::from));
    let work = async {
        let mut transaction = Fenced::begin(pool, writer).await?;
        let connection = transaction.connection()?;
        sqlx::query!(
            "UPDATE tenants old SET deleted_at = now()
             FROM UNNEST($1::uuid[], $2::text[], $3::timestamptz[]) AS new (uid, name, deleted_at)
             WHERE old.name = new.name AND old.uid <> new.uid AND old.deleted_at IS NULL AND new.deleted_at IS NULL",
            &uids,
            &names,
            &deleted as &[Option<jiff_sqlx::Timestamp>],
        )
        .execute(&mut *connection)
        .await?;
        sqlx::query!(
            "INSERT INTO tenants AS old (uid, name, display_name, namespace, plan, status, quotas, usage, metadata,
                                         created_at, expires_at, deleted_at, resource_version, epoch)
             SELECT new.*, $14 FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[],
                 $7::jsonb[], $8::jsonb[], $9::jsonb[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[],
                 $13::bigint[]) AS new
             ON CONFLICT (uid) DO UPDATE SET
                 name = excluded.name, display_name = excluded.display_name, namespace = excluded.namespace,
                 plan = excluded.plan, status = excluded.status, quotas = excluded.quotas, usage = excluded.usage,
                 metadata = excluded.metadata, created_at = excluded.created_at, expires_at = excluded.expires_at,
                 deleted_at = excluded.deleted_at, epoch = excluded.epoch,
                 resource_version = excluded.resource_version
             WHERE (excluded.epoch, excluded.resource_version) > (old.epoch, old.resource_version)",
            &uids,
            &names,
            &column(rows, |r| optional(r.display_name.as_ref())) as &[Option<String>],
            &column(rows, |r| optional(r.namespace.as_ref())) as &[Option<String>],
            &column(rows, |r| text(&r.plan)),
            &column(rows, |r| optional(r.status.as_ref())) as &[Option<String>],
            &column(rows, |r| r.quotas.as_ref().map(json)) as &[Option<Value>],
            &column(rows, |r| r.usage.as_ref().map(json)) as &[Option<Value>],
            &column(rows, |r| json(&r.metadata)),
            &column(rows, |r| r.created_at.into()) as &[jiff_sqlx::Timestamp],
            &column(rows, |r| r.expires_at.map(Into::into)) as &[Option<jiff_sqlx::Timestamp>],
            &deleted as &[Option<jiff_sqlx::Timestamp>],
            &column(rows, |r| r.resource_version),
            writer.epoch,
        )
        .execute(&mut *connection)
        .await?;
        transaction.commit().await
    };
    pool.within("failed to write tenants", work).await
}

/// How new the rows are of the tenants that the mirror takes for living, and of those in `uids`.
///
/// # Errors
/// When the database is away.
pub async fn tenant_versions(pool: &Pool, uids: &[Uuid]) -> Result<Vec<RowVersion>, Error> {
    let work = async {
        let mut session = pool.session().await?;
        let rows = sqlx::query_as!(
            RowVersion,
            r#"SELECT uid AS "uid!", epoch AS "epoch!", resource_version AS "resource_version!", true AS "living!"
               FROM tenants WHERE deleted_at IS NULL
               UNION ALL
               SELECT uid, epoch, resource_version, false
               FROM tenants WHERE deleted_at IS NOT NULL AND uid = ANY($1)"#,
            uids
        )
        .fetch_all(session.connection()?)
        .await?;
        session.release();
        Ok(rows)
    };
    pool.within("failed to compare tenants", work).await
}

/// Marks these rows as deleted at `at`, a portion at a time.
///
/// # Errors
/// When the database is away.
pub async fn mark_deleted_tenants(
    pool: &Pool,
    writer: Writer,
    uids: &[Uuid],
    at: Timestamp,
) -> Result<(), Error> {
    for uids in uids.chunks(PORTION) {
        let work = async {
            let mut transaction = Fenced::begin(pool, writer).await?;
            sqlx::query!(
                "UPDATE tenants SET deleted_at = $2 WHERE uid = ANY($1) AND deleted_at IS NULL",
                uids,
                jiff_sqlx::Timestamp::from(at) as _
            )
            .execute(transaction.connection()?)
            .await?;
            transaction.commit().await
        };
        pool.within("failed to mark tenants as deleted", work).await?;
    }
    Ok(())
}
