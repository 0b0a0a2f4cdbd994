//! `GET /tenants`.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    access_review,
    view::{TenantView, view},
};
use crate::{
    api_types::Tenant,
    http::{
        App,
        auth::ByAdministrator,
        openapi::Operation,
        problem::{Code, Problem},
        query::Params,
    },
};

/// Tenants of a page, by default and at most.
const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 500;

/// Parameters of a list of tenants.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    /// A page has at most this many tenants, by default 100.
    #[schemars(range(min = 1, max = MAX_LIMIT))]
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

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new("listTenants", "List all tenants", "Lists all tenants by name.")
        .json::<Tenants>(200, "This is a page of tenants.")
        .problems([Code::InvalidCursor])
}

/// Lists tenants, by name.
///
/// # Errors
/// `forbidden`, `invalid_query`, `invalid_cursor`.
pub async fn list(
    State(app): State<App>,
    ByAdministrator(admin): ByAdministrator,
    Params(params): Params<ListParams>,
) -> Result<Json<Tenants>, Problem> {
    admin.authorise(&app, access_review("list", None)).await?;
    let limit = params.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::new(Code::InvalidQuery, format!("limit is {limit}: give 1 to {MAX_LIMIT}")));
    }
    let after = params.cursor.unwrap_or_default();
    // A cursor is a name, so only its form can be wrong.
    if after.len() > 63 || !after.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
        return Err(Problem::new(Code::InvalidCursor, "this cursor does not belong to this list"));
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
