//! Rows of nodes.

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    Error, PORTION, Pool, RowVersion, Writer, column,
    text::{optional, text},
    transaction::Fenced,
};

/// A node as it is mirrored.
#[derive(Clone, Debug)]
pub struct NodeRow {
    /// UID of the object.
    pub uid: Uuid,
    /// Its name.
    pub name: String,
    /// The worker group that an administrator labelled it for.
    pub requested_group: Option<String>,
    /// The worker group that it is admitted to.
    pub admitted_group: Option<String>,
    /// The tenant that it is admitted to.
    pub tenant_uid: Option<Uuid>,
    /// Whether its kubelet says that it is ready.
    pub ready: bool,
    /// Allocatable CPU.
    pub cpu_millicores: Option<i64>,
    /// Allocatable memory.
    pub memory_bytes: Option<i64>,
    /// Allocatable GPUs.
    pub gpus: Option<i64>,
    /// When it was made.
    pub created_at: Timestamp,
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
pub async fn write_nodes(pool: &Pool, writer: Writer, rows: &[NodeRow]) -> Result<(), Error> {
    let uids = column(rows, |r| r.uid);
    let names = column(rows, |r| text(&r.name));
    let deleted = column(rows, |r| r.deleted_at.map(jiff_sqlx::Timestamp::from));
    let work = async {
        let mut transaction = Fenced::begin(pool, writer).await?;
        let connection = transaction.connection()?;
        sqlx::query!(
            "UPDATE nodes old SET deleted_at = now()
             FROM UNNEST($1::uuid[], $2::text[], $3::timestamptz[]) AS new (uid, name, deleted_at)
             WHERE old.name = new.name AND old.uid <> new.uid AND old.deleted_at IS NULL AND new.deleted_at IS NULL",
            &uids,
            &names,
            &deleted as &[Option<jiff_sqlx::Timestamp>],
        )
        .execute(&mut *connection)
        .await?;
        sqlx::query!(
            "INSERT INTO nodes AS old (uid, name, requested_group, admitted_group, tenant_uid, ready, cpu_millicores,
                                       memory_bytes, gpus, created_at, deleted_at, resource_version, epoch)
             SELECT new.*, $13 FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::uuid[], $6::bool[],
                 $7::bigint[], $8::bigint[], $9::bigint[], $10::timestamptz[], $11::timestamptz[],
                 $12::bigint[]) AS new
             ON CONFLICT (uid) DO UPDATE SET
                 name = excluded.name, requested_group = excluded.requested_group,
                 admitted_group = excluded.admitted_group, tenant_uid = excluded.tenant_uid, ready = excluded.ready,
                 cpu_millicores = excluded.cpu_millicores, memory_bytes = excluded.memory_bytes,
                 gpus = excluded.gpus, created_at = excluded.created_at, deleted_at = excluded.deleted_at,
                 epoch = excluded.epoch, resource_version = excluded.resource_version
             WHERE (excluded.epoch, excluded.resource_version) > (old.epoch, old.resource_version)",
            &uids,
            &names,
            &column(rows, |r| optional(r.requested_group.as_ref())) as &[Option<String>],
            &column(rows, |r| optional(r.admitted_group.as_ref())) as &[Option<String>],
            &column(rows, |r| r.tenant_uid) as &[Option<Uuid>],
            &column(rows, |r| r.ready),
            &column(rows, |r| r.cpu_millicores) as &[Option<i64>],
            &column(rows, |r| r.memory_bytes) as &[Option<i64>],
            &column(rows, |r| r.gpus) as &[Option<i64>],
            &column(rows, |r| r.created_at.into()) as &[jiff_sqlx::Timestamp],
            &deleted as &[Option<jiff_sqlx::Timestamp>],
            &column(rows, |r| r.resource_version),
            writer.epoch,
        )
        .execute(&mut *connection)
        .await?;
        transaction.commit().await
    };
    pool.within("failed to write nodes", work).await
}

/// How new the rows are of the nodes that the mirror takes for living, and of those in `uids`.
///
/// # Errors
/// When the database is away.
pub async fn node_versions(pool: &Pool, uids: &[Uuid]) -> Result<Vec<RowVersion>, Error> {
    let work = async {
        let mut session = pool.session().await?;
        let rows = sqlx::query_as!(
            RowVersion,
            r#"SELECT uid AS "uid!", epoch AS "epoch!", resource_version AS "resource_version!", true AS "living!"
               FROM nodes WHERE deleted_at IS NULL
               UNION ALL
               SELECT uid, epoch, resource_version, false
               FROM nodes WHERE deleted_at IS NOT NULL AND uid = ANY($1)"#,
            uids
        )
        .fetch_all(session.connection()?)
        .await?;
        session.release();
        Ok(rows)
    };
    pool.within("failed to compare nodes", work).await
}

/// Marks these rows as deleted at `at`, a portion at a time.
///
/// # Errors
/// When the database is away.
pub async fn mark_deleted_nodes(
    pool: &Pool,
    writer: Writer,
    uids: &[Uuid],
    at: Timestamp,
) -> Result<(), Error> {
    for uids in uids.chunks(PORTION) {
        let work = async {
            let mut transaction = Fenced::begin(pool, writer).await?;
            sqlx::query!(
                "UPDATE nodes SET deleted_at = $2 WHERE uid = ANY($1) AND deleted_at IS NULL",
                uids,
                jiff_sqlx::Timestamp::from(at) as _
            )
            .execute(transaction.connection()?)
            .await?;
            transaction.commit().await
        };
        pool.within("failed to mark nodes as deleted", work).await?;
    }
    Ok(())
}
