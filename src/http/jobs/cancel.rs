//! `POST /jobs/{id}/cancel`.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{Id, api, cached_job, ended::with_stored_payload, view::JobView, write_refused};
use crate::{
    domain::job_state::is_terminal,
    http::{
        App,
        by_tenant::ByTenant,
        header::IfMatch,
        openapi::Operation,
        problem::{Code, Problem},
        rights::CancelJob,
    },
    kube_ext::within,
};

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new(
        "cancelJob",
        "Cancel a job",
        "Ends a job: at once where it waits, after its grace period where it runs. Repeating the request changes nothing.",
    )
    .json::<JobView>(202, "This is the job as it is now. It ends soon.")
    .problems([Code::WrongState, Code::InvalidObject])
}

/// Cancels a job: 202 with its current state, also for a job that is canceled already.
///
/// # Errors
/// `wrong_state` where the job has ended.
pub async fn cancel(
    State(app): State<App>,
    ByTenant(context, _): ByTenant<CancelJob>,
    id: Id,
    if_match: IfMatch,
) -> Result<Response, Problem> {
    let job = cached_job(&app, &context, &id).await?;
    let version = if_match.version(job.metadata.resource_version.as_deref())?;
    let phase = job.status.as_ref().map(|status| status.phase).unwrap_or_default();
    let ended = is_terminal(phase) && job.status.as_ref().is_some_and(|status| status.finished_at.is_some());
    if ended && !job.spec.canceled {
        return Err(Problem::new(Code::WrongState, format!("the job has ended: it is {phase}")));
    }
    let tenant = &context.of.uid;
    if job.spec.canceled {
        let job = with_stored_payload(&app, tenant, job).await;
        return Ok((StatusCode::ACCEPTED, Json(JobView::of(&job, tenant))).into_response());
    }
    // With the UID the patch never changes a later job of the same name.
    let mut patch = json!({"metadata": {"uid": job.uid()}, "spec": {"canceled": true}});
    if let Some(version) = &version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    let (name, api, params) = (job.name_any(), api(&app, &context), PatchParams::default());
    let patched = within("failed to cancel a Job", api.patch(&name, &params, &Patch::Merge(&patch))).await;
    let job = patched.map_err(|error| write_refused(error, version.is_some()))?;
    Ok((StatusCode::ACCEPTED, Json(JobView::of(&job, tenant))).into_response())
}
