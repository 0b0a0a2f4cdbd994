//! `GET` of tenants, and of what belongs to one.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Id, act,
    nodes::{self, NodeView},
    readable,
    view::{Stats, TenantView, stats as statistics, view},
};
use crate::{
    api_types::{Tenant, api_key::Scope},
    domain::worker,
    http::{
        App,
        auth::{ByAdministrator, Caller},
        header::etag,
        jobs,
        problem::{Code, Problem},
        query::Params,
    },
};

/// Tenants of a page, by default and at most.
const PAGE: usize = 100;
const LARGEST_PAGE: usize = 500;

/// Parameters of a list of tenants.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// A page has at most this many tenants, by default 100.
    #[schemars(range(min = 1, max = LARGEST_PAGE))]
    limit: Option<usize>,
    /// This is `next_cursor` of the previous page: the name of its last tenant.
    #[schemars(length(max = 63), regex(pattern = "^[-a-z0-9]*$"))]
    cursor: Option<String>,
}

/// A page is a part of the list of tenants.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Tenants {
    /// These are the tenants of the page, by name.
    tenants: Vec<TenantView>,
    /// This is the cursor of the next page. It is null on the last page.
    next_cursor: Option<String>,
}

/// These are all nodes of a tenant.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Nodes {
    /// These are the nodes, by name.
    nodes: Vec<NodeView>,
    /// This is always null, because there is one page.
    next_cursor: Option<String>,
}

/// Lists tenants, by name.
///
/// # Errors
/// `forbidden`, `invalid_query`, `invalid_cursor`.
pub async fn list(
    State(app): State<App>,
    admin: ByAdministrator,
    Params(wanted): Params<Wanted>,
) -> Result<Json<Tenants>, Problem> {
    admin.may(&app, act("list", None)).await?;
    let limit = wanted.limit.unwrap_or(PAGE);
    if !(1..=LARGEST_PAGE).contains(&limit) {
        return Err(Problem::new(Code::InvalidQuery, format!("limit is 1 to {LARGEST_PAGE}")));
    }
    let after = wanted.cursor.unwrap_or_default();
    // A name is its own cursor, so only its form can be wrong.
    if after.len() > 63 || !after.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        return Err(Problem::new(Code::InvalidCursor, "this cursor was not given out for this list"));
    }
    let all = app.tenants.state();
    let by_name: BTreeMap<String, &Tenant> =
        all.iter().map(|tenant| (tenant.name_any(), tenant.as_ref())).collect();
    let mut rest = by_name.into_iter().filter(|(name, _)| *name > after);
    let page: Vec<(String, TenantView)> =
        rest.by_ref().take(limit).map(|(name, tenant)| (name, view(&app, tenant))).collect();
    let next_cursor = rest.next().and_then(|_| page.last().map(|(name, _)| name.clone()));
    Ok(Json(Tenants { tenants: page.into_iter().map(|(_, view)| view).collect(), next_cursor }))
}

/// One tenant.
///
/// # Errors
/// `not_found`, also for another tenant's key.
pub async fn get(State(app): State<App>, caller: Caller, id: Id) -> Result<Response, Problem> {
    let tenant = readable(&app, &caller, &id, Scope::TenantRead).await?;
    let mut response = Json(view(&app, &tenant)).into_response();
    let tag = etag(tenant.metadata.resource_version.as_deref().unwrap_or_default());
    response.headers_mut().extend(tag.map(|tag| (header::ETAG, tag)));
    Ok(response)
}

/// Its statistics.
///
/// # Errors
/// As [`get`].
pub async fn stats(State(app): State<App>, caller: Caller, id: Id) -> Result<Json<Stats>, Problem> {
    let tenant = readable(&app, &caller, &id, Scope::TenantRead).await?;
    Ok(Json(statistics(&app, &tenant)))
}

/// Its jobs.
///
/// # Errors
/// As [`get`], and of the list.
pub async fn jobs(
    State(app): State<App>,
    caller: Caller,
    id: Id,
    Params(wanted): Params<jobs::Wanted>,
) -> Result<Response, Problem> {
    let tenant = readable(&app, &caller, &id, Scope::JobsRead).await?;
    let namespace = tenant.status.as_ref().and_then(|status| status.namespace.clone()).unwrap_or_default();
    jobs::list_of(&app, &tenant.uid().unwrap_or_default(), &namespace, wanted).await
}

/// The nodes that are admitted to it.
///
/// # Errors
/// As [`get`].
pub async fn nodes(State(app): State<App>, caller: Caller, id: Id) -> Result<Json<Nodes>, Problem> {
    let tenant = readable(&app, &caller, &id, Scope::TenantRead).await?;
    let name = tenant.name_any();
    let own = app.nodes.state_filter(|node| worker::admitted(node) == Some(&name));
    let own: BTreeMap<String, NodeView> =
        own.iter().map(|node| (node.name_any(), nodes::view(&app, &tenant, node))).collect();
    Ok(Json(Nodes { nodes: own.into_values().collect(), next_cursor: None }))
}
