//! `GET /audit`: who requested which change, the newest first, page by page.
//!
//! The entries name users, keys and addresses of all tenants, so neither a key nor a role of a tenant reads them, and the
//! right to list tenants is not enough: a user needs `list auditlogs.crofter.io` in the cluster. That resource exists for this
//! right alone, as those of the API server's impersonation do, so that administrators have it by their wildcards and an
//! auditor can be given it without the right to change anything.

use std::time::Duration;

use axum::{Json, extract::State};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    App,
    administrators::AccessReview,
    audit::visible,
    auth::ByAdministrator,
    by_tenant::is_name,
    cursor,
    openapi::Operation,
    path::uid,
    problem::{Code, Problem},
    query::Params,
    routes::Routes,
};
use crate::db::{self, AuditEntry, AuditWanted, AuditedTenant, CallerKind, Cause};

/// Entries of a page, by default and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 500;
/// How long a request waits until the cluster is known; the API server has just answered who the caller is.
const MAX_WAIT_FOR_CLUSTER: Duration = Duration::from_secs(2);
/// Longest name of a caller, in characters.
pub(super) const MAX_CALLER: usize = 256;

/// The routes.
pub fn routes() -> Routes {
    Routes::new("Audit").get("/audit", list, operation())
}

/// Parameters of the audit log.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditQuery {
    /// Only changes in this tenant are listed. A name includes the deleted tenants that had it, and a UID is that of one tenant.
    #[schemars(length(max = 40), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    tenant: Option<String>,
    /// Only changes by this caller are listed: the public id of a key, or the name of a user.
    #[schemars(length(min = 1, max = MAX_CALLER))]
    caller: Option<String>,
    /// This is the first moment that counts.
    from: Option<Timestamp>,
    /// This is the first moment that does not count any more.
    to: Option<Timestamp>,
    /// A page has at most this many entries, by default 100.
    #[schemars(range(min = 1, max = MAX_LIMIT))]
    limit: Option<usize>,
    /// This is `next_cursor` of the previous page, of a list with the same filters.
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    cursor: Option<String>,
}

/// The caller of a request is of one of these kinds.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
enum Who {
    Key,
    User,
    Administrator,
    Unknown,
}

impl From<CallerKind> for Who {
    fn from(kind: CallerKind) -> Self {
        match kind {
            CallerKind::Key => Self::Key,
            CallerKind::User => Self::User,
            CallerKind::Administrator => Self::Administrator,
            CallerKind::Unknown => Self::Unknown,
        }
    }
}

/// An entry is about one request that could change something, whatever its result.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AuditEntry")]
struct EntryView {
    /// This is the id of the entry.
    id: String,
    /// This is when the response was ready, or the client disconnected.
    at: Timestamp,
    /// This is the id of the request, as in the header `X-Request-ID`.
    request_id: String,
    /// This is the kind of the caller: a key, a user on a route of a tenant, an administrator on another route, or unknown
    /// where the credentials were not accepted.
    who: Who,
    /// This is the name of the user. It is null for other callers.
    user: Option<String>,
    /// This is the public id of the key. It is null for other callers.
    key_id: Option<String>,
    /// This is the name of the tenant. It is what the request named where no such tenant existed, and null where it named none.
    tenant: Option<String>,
    /// This is the UID of the tenant. It is null where it was not known.
    tenant_id: Option<String>,
    /// This is the method and the route, such as `POST /jobs/{id}/cancel`.
    action: String,
    /// This is the object of the path, or the node of the body. It is null where there is none.
    object: Option<String>,
    /// This is the UID of the object that was created. It is null where there is none.
    made: Option<String>,
    /// This is the status of the response. It is null where the client disconnected before it, and the request may have
    /// succeeded.
    status: Option<u16>,
    /// This is the address of the connection. It is null where it is not known.
    client_address: Option<String>,
}

impl From<AuditEntry> for EntryView {
    fn from(entry: AuditEntry) -> Self {
        let (key_id, user) = match entry.caller_kind {
            CallerKind::Key => (entry.caller, None),
            CallerKind::User | CallerKind::Administrator | CallerKind::Unknown => (None, entry.caller),
        };
        Self {
            id: entry.id.to_string(),
            at: entry.at,
            request_id: entry.request_id,
            who: entry.caller_kind.into(),
            user,
            key_id,
            tenant: entry.tenant,
            tenant_id: entry.tenant_uid.map(|uid| uid.to_string()),
            action: entry.action,
            object: entry.object,
            made: entry.made,
            status: entry.status,
            client_address: entry.client_address,
        }
    }
}

/// A page is a part of the audit log.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AuditLog")]
pub struct Page {
    /// These are the entries of the page, the newest first.
    entries: Vec<EntryView>,
    /// This is the cursor of the next page. It is null on the last page.
    next_cursor: Option<String>,
}

/// The query of a page, checked.
#[derive(Debug)]
struct PageQuery {
    tenant: Option<String>,
    caller: Option<String>,
    from: Timestamp,
    before: (Timestamp, Uuid),
    limit: usize,
    /// The filters, to which the cursors belong.
    list: String,
}

impl PageQuery {
    fn of(query: AuditQuery) -> Result<Self, Problem> {
        let AuditQuery { tenant, caller, from, to, limit, cursor } = query;
        let invalid = |detail: String| Problem::new(Code::InvalidQuery, detail);
        let limit = limit.unwrap_or(DEFAULT_LIMIT);
        if !(1..=MAX_LIMIT).contains(&limit) {
            return Err(invalid(format!("limit is {limit}: give 1 to {MAX_LIMIT}")));
        }
        let tenant = tenant.map(super::path::canonical);
        if tenant.as_ref().is_some_and(|tenant| !is_name(tenant)) {
            return Err(invalid("tenant is no name and no UID of a tenant".to_owned()));
        }
        if caller.as_ref().is_some_and(|caller| !(1..=MAX_CALLER).contains(&caller.chars().count())) {
            return Err(invalid(format!("caller has no characters, or more than {MAX_CALLER}")));
        }
        // As the entries have it.
        let caller = caller.as_deref().map(visible);
        let (begin, end) = (from.unwrap_or(Timestamp::UNIX_EPOCH), to.unwrap_or(Timestamp::MAX));
        if begin >= end {
            return Err(invalid("`from` must be before `to`".to_owned()));
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let list = format!("audit|{}|{}|{begin}|{end}", text(&tenant), text(&caller));
        let before = match cursor {
            Some(cursor) => cursor::read(&list, &cursor)?,
            // No id is smaller: `to` itself is left out.
            None => (end, Uuid::nil()),
        };
        Ok(Self { tenant, caller, from: begin, before, limit, list })
    }

    /// What a read of the page has: one entry more, to know whether another page follows.
    fn wanted(&self) -> AuditWanted<'_> {
        let tenant = self.tenant.as_deref();
        AuditWanted {
            tenant: tenant.map(|name| uid(name).map_or(AuditedTenant::Name(name), AuditedTenant::Uid)),
            caller: self.caller.as_deref(),
            from: self.from,
            before: self.before,
            most: i64::try_from(self.limit + 1).unwrap_or(i64::MAX),
        }
    }

    fn page(&self, mut entries: Vec<AuditEntry>) -> Page {
        let is_last = entries.len() <= self.limit;
        entries.truncate(self.limit);
        let last = entries.last().filter(|_| !is_last);
        let next_cursor = last.map(|entry| cursor::write(&self.list, (entry.at, entry.id)));
        Page { entries: entries.into_iter().map(EntryView::from).collect(), next_cursor }
    }
}

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new(
        "listAuditLog",
        "List the audit log",
        "Lists who requested which change through this API, the newest first.",
    )
    .json::<Page>(200, "This is a page of the audit log.")
    .problems([Code::InvalidCursor, Code::HistoryUnavailable])
}

/// Lists the audit log, for a user who may.
///
/// # Errors
/// `forbidden`, `invalid_query`, `invalid_cursor`; `history_unavailable`.
pub async fn list(
    State(app): State<App>,
    ByAdministrator(admin): ByAdministrator,
    Params(query): Params<AuditQuery>,
) -> Result<Json<Page>, Problem> {
    admin.authorise(&app, AccessReview::ours("list", "auditlogs", None, None)).await?;
    let query = PageQuery::of(query)?;
    let unavailable = |detail: &str| Problem::new(Code::HistoryUnavailable, detail);
    let readers = app.database.as_ref().ok_or_else(|| {
        unavailable("no database is configured: the log of the server has the lines of the audit log")
    })?;
    let cluster = timeout(MAX_WAIT_FOR_CLUSTER, app.cluster.clone()).await;
    let cluster = cluster.map_err(|_| unavailable("the server has not read yet which cluster this is"))?;
    let entries = db::audit_page(readers, cluster, query.wanted()).await.map_err(|error| {
        let detail = match error.cause {
            Cause::OtherCluster { .. } => "the database is that of another cluster, whose audit log it has",
            _ => "the database, which has the audit log, does not answer",
        };
        unavailable(detail).with_cause(error)
    })?;
    Ok(Json(query.page(entries)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn entry(id: u128, kind: CallerKind) -> AuditEntry {
        AuditEntry {
            at: at(1_900_000_000),
            id: Uuid::from_u128(id),
            request_id: "r".to_owned(),
            caller_kind: kind,
            caller: Some("c".to_owned()),
            tenant: Some("acme".to_owned()),
            tenant_uid: Some(Uuid::from_u128(9)),
            action: "POST /jobs".to_owned(),
            object: None,
            made: None,
            status: None,
            client_address: None,
        }
    }

    fn tenant(name: &str) -> AuditQuery {
        AuditQuery { tenant: Some(name.to_owned()), ..AuditQuery::default() }
    }

    #[test]
    fn a_query_is_bounded_and_its_filters_are_those_of_entries() {
        let uid = "0b8e9c1a-0000-4000-8000-00000000000f";
        let by_uid = PageQuery::of(tenant(&uid.to_uppercase())).unwrap();
        assert_eq!(by_uid.wanted().tenant, Some(AuditedTenant::Uid(uid.parse().unwrap())));
        assert_eq!(PageQuery::of(tenant("acme")).unwrap().wanted().tenant, Some(AuditedTenant::Name("acme")));
        let caller = |text: String| AuditQuery { caller: Some(text), ..AuditQuery::default() };
        assert_eq!(PageQuery::of(caller("a\nb".to_owned())).unwrap().caller.as_deref(), Some("a%0Ab"));
        assert!(PageQuery::of(caller("é".repeat(MAX_CALLER))).is_ok());
        let times = |from, to| AuditQuery { from, to, ..AuditQuery::default() };
        let all = PageQuery::of(times(None, None)).unwrap();
        assert_eq!((all.from, all.before), (Timestamp::UNIX_EPOCH, (Timestamp::MAX, Uuid::nil())));
        assert!(PageQuery::of(times(Some(at(1)), Some(at(2)))).is_ok());
        for bad in [
            tenant("Acme"),
            tenant(""),
            tenant(&"a".repeat(41)),
            caller(String::new()),
            caller("a".repeat(MAX_CALLER + 1)),
            times(Some(at(2)), Some(at(2))),
            times(None, Some(Timestamp::MIN)),
            AuditQuery { limit: Some(0), ..AuditQuery::default() },
            AuditQuery { limit: Some(MAX_LIMIT + 1), ..AuditQuery::default() },
        ] {
            let shown = format!("{bad:?}");
            assert_eq!(PageQuery::of(bad).unwrap_err().code, Code::InvalidQuery, "{shown}");
        }
    }

    #[test]
    fn a_page_ends_with_a_cursor_to_its_last_entry_for_the_same_filters() {
        let query = PageQuery::of(AuditQuery { limit: Some(2), ..tenant("acme") }).unwrap();
        assert_eq!(query.wanted().most, 3);
        let entries = || [3, 2, 1].map(|id| entry(id, CallerKind::Key));
        let page = query.page(entries().to_vec());
        assert_eq!(page.entries.len(), 2);
        let cursor = page.next_cursor.unwrap();
        let with = |query: AuditQuery| PageQuery::of(AuditQuery { cursor: Some(cursor.clone()), ..query });
        assert_eq!(with(tenant("acme")).unwrap().before, (at(1_900_000_000), Uuid::from_u128(2)));
        for other in
            [tenant("acme-2"), AuditQuery::default(), AuditQuery { to: Some(at(5)), ..tenant("acme") }]
        {
            assert_eq!(with(other).unwrap_err().code, Code::InvalidCursor);
        }
        assert_eq!(query.page(entries()[1..].to_vec()).next_cursor, None, "the last page");
    }

    #[test]
    fn an_entry_shows_its_caller_as_key_or_as_user() {
        for (kind, shown) in [
            (CallerKind::Key, r#""who":"key","user":null,"key_id":"c""#),
            (CallerKind::User, r#""who":"user","user":"c","key_id":null"#),
            (CallerKind::Administrator, r#""who":"administrator","user":"c","key_id":null"#),
        ] {
            let text = serde_json::to_string(&EntryView::from(entry(1, kind))).unwrap();
            assert!(text.contains(shown), "{text}");
        }
    }
}
