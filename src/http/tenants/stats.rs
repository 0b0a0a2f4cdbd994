//! `GET /tenants/{id}/stats`.

use axum::{Json, extract::State};

use super::{
    Id, readable, reads_tenant,
    view::{Stats, stats as view},
};
use crate::http::{App, auth::Caller, openapi::Operation, problem::Problem, rights::ReadTenant};

/// The description of the route.
pub fn operation() -> Operation {
    reads_tenant(
        "getTenantStats",
        "Read the statistics of a tenant",
        "Returns what a tenant uses and what its quotas still allow.",
    )
    .json::<Stats>(200, "These are the statistics.")
}

/// Returns the statistics of a tenant.
///
/// # Errors
/// As [`get`](super::get::get).
pub async fn stats(State(app): State<App>, caller: Caller, id: Id) -> Result<Json<Stats>, Problem> {
    let tenant = readable::<ReadTenant>(&app, &caller, &id).await?;
    Ok(Json(view(&app, &tenant)))
}
