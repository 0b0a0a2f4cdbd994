//! `GET /tenants/{id}/jobs`.

use axum::{extract::State, response::Response};
use kube::ResourceExt;

use super::{Id, readable};
use crate::http::{
    App,
    auth::Caller,
    jobs::{ListParams, list_of, lists_jobs},
    openapi::Operation,
    problem::{Code, Problem},
    query::Params,
    rights::ListJobs,
};

/// The description of the route.
pub fn operation() -> Operation {
    lists_jobs(
        "listTenantJobs",
        "List the jobs of a tenant",
        "Lists the jobs of a tenant, the newest first, those of the history included.",
    )
    .needs::<ListJobs>()
    .problems([Code::Forbidden])
}

/// Lists the jobs of a tenant.
///
/// # Errors
/// As [`get`](super::get::get), and those of the list.
pub async fn jobs(
    State(app): State<App>,
    caller: Caller,
    id: Id,
    Params(params): Params<ListParams>,
) -> Result<Response, Problem> {
    let tenant = readable::<ListJobs>(&app, &caller, &id).await?;
    let namespace = tenant.status.as_ref().and_then(|status| status.namespace.clone()).unwrap_or_default();
    list_of(&app, &tenant.uid().unwrap_or_default(), &namespace, params).await
}
