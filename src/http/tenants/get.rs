//! `GET /tenants/{id}`.

use axum::{extract::State, response::Response};

use super::{
    Id, readable, reads_tenant,
    view::{TenantView, with_etag},
};
use crate::http::{App, auth::Caller, openapi::Operation, problem::Problem, rights::ReadTenant};

/// The description of the route.
pub fn operation() -> Operation {
    reads_tenant("getTenant", "Read a tenant", "Returns a tenant with its quotas and its current usage.")
        .json::<TenantView>(200, "This is the tenant.")
        .headers(&["ETag"])
}

/// Returns a tenant.
///
/// # Errors
/// `not_found`, also for another tenant's key.
pub async fn get(State(app): State<App>, caller: Caller, id: Id) -> Result<Response, Problem> {
    let tenant = readable::<ReadTenant>(&app, &caller, &id).await?;
    Ok(with_etag(&app, &tenant))
}
