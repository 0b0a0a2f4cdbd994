//! Entries of the audit log: written by every replica, read page by page, and deleted once they are old.
//!
//! An entry is an insert alone and is never changed, so no writer needs a fence: a replica that does not lead writes too, and
//! an entry that is written twice is stored once. Only the cluster is compared with that of the mirror: no call reads,
//! writes or deletes the entries of another one.

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    Cause, Error, Pool, Readers, column,
    pool::Session,
    read::OLDEST,
    state::check_cluster,
    text::{optional, text},
};

/// Most entries that one call deletes.
pub const PURGE_PORTION: u64 = 5_000;

/// What the caller of a request is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, strum::IntoStaticStr, strum::EnumString)]
#[strum(serialize_all = "snake_case")]
pub enum CallerKind {
    /// Without credentials that are accepted.
    #[default]
    Unknown,
    /// A tenant, by a key.
    Key,
    /// A user of the cluster, on a route of a tenant.
    User,
    /// A user of the cluster, on another route.
    Administrator,
}

impl CallerKind {
    /// The word for it, in the log and in the table.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }
}

/// An entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// When the response was ready, or the client disconnected. Postgres stores microseconds.
    pub at: Timestamp,
    /// Unique, also among the replicas.
    pub id: Uuid,
    /// Id of the request.
    pub request_id: String,
    /// Kind of the caller.
    pub caller_kind: CallerKind,
    /// Public id of the key, or name of the user.
    pub caller: Option<String>,
    /// Name of the tenant, or what the request names in its place.
    pub tenant: Option<String>,
    /// UID of the tenant, where it is known.
    pub tenant_uid: Option<Uuid>,
    /// Method and route.
    pub action: String,
    /// Name or UID of the object.
    pub object: Option<String>,
    /// UID of the object that was created.
    pub made: Option<String>,
    /// Status of the response; `None` where the client disconnected before.
    pub status: Option<u16>,
    /// Address of the connection.
    pub client_address: Option<String>,
}

/// Writes entries of a cluster, by the UID of its namespace `kube-system`, all or none. Those that are stored already stay as
/// they are. Where the UID is not known, it is not compared.
///
/// # Errors
/// [`Cause::OtherCluster`]; when the entries are refused ([`Error::refused_rows`]), or the database is away.
pub async fn write_audit(pool: &Pool, cluster: Option<Uuid>, entries: &[AuditEntry]) -> Result<(), Error> {
    let work = async {
        let mut session = pool.session().await?;
        check_cluster(&mut session, cluster).await?;
        sqlx::query!(
            "INSERT INTO audit_log (at, id, request_id, caller_kind, caller, tenant, tenant_uid, action, object, made,
                                    status, client_address)
             SELECT * FROM UNNEST($1::timestamptz[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[],
                                  $7::uuid[], $8::text[], $9::text[], $10::text[], $11::integer[], $12::text[])
             ON CONFLICT (at, id) DO NOTHING",
            &column(entries, |e| e.at.into()) as &[jiff_sqlx::Timestamp],
            &column(entries, |e| e.id),
            &column(entries, |e| text(&e.request_id)),
            &column(entries, |e| e.caller_kind.as_str().to_owned()),
            &column(entries, |e| optional(e.caller.as_ref())) as &[Option<String>],
            &column(entries, |e| optional(e.tenant.as_ref())) as &[Option<String>],
            &column(entries, |e| e.tenant_uid) as &[Option<Uuid>],
            &column(entries, |e| text(&e.action)),
            &column(entries, |e| optional(e.object.as_ref())) as &[Option<String>],
            &column(entries, |e| optional(e.made.as_ref())) as &[Option<String>],
            &column(entries, |e| e.status.map(i32::from)) as &[Option<i32>],
            &column(entries, |e| optional(e.client_address.as_ref())) as &[Option<String>],
        )
        .execute(session.connection()?)
        .await?;
        session.release();
        Ok(())
    };
    pool.within("failed to write the audit log", work).await
}

/// The tenant of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditedTenant<'a> {
    /// All tenants that have or had this name.
    Name(&'a str),
    /// The one of this UID.
    Uid(Uuid),
}

/// What a list has.
#[derive(Clone, Copy, Debug)]
pub struct AuditWanted<'a> {
    /// Only entries of this tenant.
    pub tenant: Option<AuditedTenant<'a>>,
    /// Only entries of this caller: the id of a key, or the name of a user.
    pub caller: Option<&'a str>,
    /// The first moment that counts.
    pub from: Timestamp,
    /// Only entries after this position in the list, which are older.
    pub before: (Timestamp, Uuid),
    /// Most entries.
    pub most: i64,
}

/// An entry as its row has it.
struct Row {
    at: jiff_sqlx::Timestamp,
    id: Uuid,
    request_id: String,
    caller_kind: String,
    caller: Option<String>,
    tenant: Option<String>,
    tenant_uid: Option<Uuid>,
    action: String,
    object: Option<String>,
    made: Option<String>,
    status: Option<i32>,
    client_address: Option<String>,
}

impl From<Row> for AuditEntry {
    fn from(row: Row) -> Self {
        Self {
            at: row.at.to_jiff(),
            id: row.id,
            request_id: row.request_id,
            caller_kind: row.caller_kind.parse().unwrap_or_default(),
            caller: row.caller,
            tenant: row.tenant,
            tenant_uid: row.tenant_uid,
            action: row.action,
            object: row.object,
            made: row.made,
            status: row.status.and_then(|status| u16::try_from(status).ok()),
            client_address: row.client_address,
        }
    }
}

/// The rows of a page: each filter is a statement of its own, so that its index serves it, whatever plan the server keeps.
macro_rules! rows {
    ($session:ident, $wanted:ident, $filter:literal $(, $value:expr)*) => {
        sqlx::query_as!(
            Row,
            r#"SELECT at AS "at: jiff_sqlx::Timestamp", id, request_id, caller_kind, caller, tenant, tenant_uid, action,
                      object, made, status, client_address
               FROM audit_log WHERE (at, id) < ($1, $2) AND at >= $3 AND "# + $filter + r#"
               ORDER BY at DESC, id DESC LIMIT $4"#,
            jiff_sqlx::Timestamp::from($wanted.before.0.max(OLDEST)) as jiff_sqlx::Timestamp,
            $wanted.before.1,
            jiff_sqlx::Timestamp::from($wanted.from.max(OLDEST)) as jiff_sqlx::Timestamp,
            $wanted.most
            $(, $value)*
        )
        .fetch_all($session.connection()?)
        .await?
    };
}

/// A page of the audit log of a cluster, the newest entries first.
///
/// # Errors
/// [`Cause::OtherCluster`], or when the database is away.
pub async fn audit_page(
    readers: &Readers,
    cluster: Option<Uuid>,
    wanted: AuditWanted<'_>,
) -> Result<Vec<AuditEntry>, Error> {
    let work = async |mut session: Session| {
        check_cluster(&mut session, cluster).await?;
        let rows = match (wanted.tenant, wanted.caller) {
            (None, None) => rows!(session, wanted, "true"),
            (None, Some(caller)) => rows!(session, wanted, "caller = $5", caller),
            (Some(AuditedTenant::Name(name)), None) => rows!(session, wanted, "tenant = $5", name),
            (Some(AuditedTenant::Name(name)), Some(caller)) => {
                rows!(session, wanted, "tenant = $5 AND caller = $6", name, caller)
            }
            (Some(AuditedTenant::Uid(uid)), None) => rows!(session, wanted, "tenant_uid = $5", uid),
            (Some(AuditedTenant::Uid(uid)), Some(caller)) => {
                rows!(session, wanted, "tenant_uid = $5 AND caller = $6", uid, caller)
            }
        };
        Ok::<_, Cause>((rows.into_iter().map(AuditEntry::from).collect(), session))
    };
    // Administrators share the turn of one tenant: their reads delay no tenant for long.
    readers.read("failed to read the audit log", Uuid::nil(), work).await
}

/// Deletes the oldest entries that are older than `keep`, by `now` and by the server's clock alike: a clock that is ahead
/// deletes nothing too early. At most [`PURGE_PORTION`]; returns how many.
///
/// # Errors
/// [`Cause::NotLeader`], [`Cause::OtherCluster`], or when the database is away.
pub async fn purge_audit(pool: &Pool, cluster: Uuid, now: Timestamp, keep: Duration) -> Result<u64, Error> {
    let end = now.checked_sub(keep).unwrap_or(OLDEST).max(OLDEST);
    let work = async {
        let mut session = pool.session().await?;
        pool.check_leader()?;
        check_cluster(&mut session, Some(cluster)).await?;
        let deleted = sqlx::query!(
            "DELETE FROM audit_log WHERE (at, id) IN (
                 SELECT at, id FROM audit_log WHERE at < least($1::timestamptz, now() - make_interval(secs => $2))
                 ORDER BY at, id LIMIT $3)",
            jiff_sqlx::Timestamp::from(end) as jiff_sqlx::Timestamp,
            keep.as_secs_f64(),
            i64::try_from(PURGE_PORTION).unwrap_or(i64::MAX),
        )
        .execute(session.connection()?)
        .await?
        .rows_affected();
        session.release();
        Ok(deleted)
    };
    pool.within("failed to delete old entries of the audit log", work).await
}
