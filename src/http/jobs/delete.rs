//! `DELETE /jobs/{id}`.

use axum::{extract::State, http::StatusCode};
use kube::{
    ResourceExt,
    api::{DeleteParams, Preconditions},
};

use super::{Id, api, cached_job, write_refused};
use crate::{
    http::{
        App,
        by_tenant::ByTenant,
        header::IfMatch,
        openapi::Operation,
        problem::{Code, Problem},
        rights::DeleteJob,
    },
    kube_ext::within,
};

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new(
        "deleteJob",
        "Delete a job",
        "Cancels a job and deletes it from the cluster. The history keeps it.",
    )
    .empty(204, "The job is being deleted.")
    .problems([Code::InvalidObject])
}

/// Cancels a job and deletes it. Its usage stays in the history.
///
/// # Errors
/// As documented.
pub async fn delete(
    State(app): State<App>,
    ByTenant(context, _): ByTenant<DeleteJob>,
    id: Id,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    let job = cached_job(&app, &context, &id).await?;
    let version = if_match.version(job.metadata.resource_version.as_deref())?;
    let versioned = version.is_some();
    let preconditions = Preconditions { uid: job.uid(), resource_version: version };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let (name, api) = (job.name_any(), api(&app, &context));
    let deleted = within("failed to delete a Job", api.delete(&name, &params)).await;
    deleted.map(|_| StatusCode::NO_CONTENT).map_err(|error| write_refused(error, versioned))
}
