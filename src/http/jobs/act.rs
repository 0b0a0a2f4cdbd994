//! `POST /jobs/{id}/cancel` and `DELETE /jobs/{id}`.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;

use super::{Id, ended::whole, living, view::JobView};
use crate::{
    api_types::Job,
    domain::job_state::is_terminal,
    http::{
        App,
        auth::{ByKey, Context, JobsWrite},
        header::IfMatch,
        problem::{Code, Problem},
    },
    kube_ext::{CallError, within},
};

fn api(app: &App, context: &Context) -> Api<Job> {
    Api::namespaced(app.client.clone(), &context.principal.tenant.namespace)
}

/// What a call says where the job is another one by now, or gone.
fn explained(error: CallError, versioned: bool) -> Problem {
    match error.code() {
        Some(404) => Problem::not_found("job"),
        Some(409) if versioned => {
            Problem::new(Code::PreconditionFailed, "the job is of another version than If-Match says")
        }
        Some(409) => Problem::not_found("job"),
        _ => error.into(),
    }
}

/// Ends a job: one that waits at once, one that runs with grace. 202 with the job as it is; again, it is the same.
///
/// # Errors
/// `wrong_state` where it has ended.
pub async fn cancel(
    State(app): State<App>,
    ByKey(context, _): ByKey<JobsWrite>,
    id: Id,
    wanted: IfMatch,
) -> Result<Response, Problem> {
    let job = living(&app, &context, &id)?;
    let version = wanted.version(job.metadata.resource_version.as_deref())?;
    let phase = job.status.as_ref().map(|status| status.phase).unwrap_or_default();
    let ended = is_terminal(phase) && job.status.as_ref().is_some_and(|status| status.finished_at.is_some());
    if ended && !job.spec.canceled {
        return Err(Problem::new(Code::WrongState, format!("the job has ended: it is {phase}")));
    }
    let tenant = &context.principal.tenant.uid;
    if job.spec.canceled {
        let job = whole(&app, tenant, job).await;
        return Ok((StatusCode::ACCEPTED, Json(JobView::of(&job, tenant))).into_response());
    }
    // The UID keeps a job of the same name that has taken its place out of it.
    let mut patch = json!({"metadata": {"uid": job.uid()}, "spec": {"canceled": true}});
    if let Some(version) = &version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    let (name, api, params) = (job.name_any(), api(&app, &context), PatchParams::default());
    let patched = within("failed to cancel a Job", api.patch(&name, &params, &Patch::Merge(&patch))).await;
    let job = patched.map_err(|error| explained(error, version.is_some()))?;
    Ok((StatusCode::ACCEPTED, Json(JobView::of(&job, tenant))).into_response())
}

/// Cancels a job and deletes it. What it used stays in the history.
///
/// # Errors
/// As documented.
pub async fn delete(
    State(app): State<App>,
    ByKey(context, _): ByKey<JobsWrite>,
    id: Id,
    wanted: IfMatch,
) -> Result<StatusCode, Problem> {
    let job = living(&app, &context, &id)?;
    let version = wanted.version(job.metadata.resource_version.as_deref())?;
    let versioned = version.is_some();
    let preconditions = Preconditions { uid: job.uid(), resource_version: version };
    let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
    let (name, api) = (job.name_any(), api(&app, &context));
    let deleted = within("failed to delete a Job", api.delete(&name, &params)).await;
    deleted.map(|_| StatusCode::NO_CONTENT).map_err(|error| explained(error, versioned))
}
