//! `POST /jobs` and `POST /jobs/{id}/retry`.

use axum::{extract::State, response::Response};
use kube::{Api, ResourceExt};

use super::{
    Id,
    create::{IdempotencyKey, New, create},
    living,
    request::Submit,
};
use crate::{
    api_types::{Job, JobSpec},
    domain::job_state::is_terminal,
    http::{
        App,
        auth::{ByKey, JobsWrite},
        body::Body,
        problem::{Code, Problem},
    },
    kube_ext::within,
};

/// Submits a job: 201, 202 where no verdict came in 2 s, 422 where it can never run, 429 at a quota.
///
/// # Errors
/// As documented.
pub async fn submit(
    State(app): State<App>,
    ByKey(context, _): ByKey<JobsWrite>,
    key: IdempotencyKey,
    Body(body): Body<Submit>,
) -> Result<Response, Problem> {
    let spec = JobSpec::from(body);
    if spec.image.is_none() && spec.scenario.is_none() {
        // The CRD's rule, checked before quotas are: they would ask its sender to wait in vain.
        return Err(Problem::new(Code::InvalidObject, "give an image, or a scenario that has one"));
    }
    let new = New::of(&app, &context, key, spec, None)?;
    create(&app, &context, new).await
}

/// Submits a job that has ended once more, as a new job.
///
/// # Errors
/// `wrong_state` while it has not ended; else as [`submit`].
pub async fn retry(
    State(app): State<App>,
    ByKey(context, _): ByKey<JobsWrite>,
    id: Id,
    key: IdempotencyKey,
) -> Result<Response, Problem> {
    let job = living(&app, &context, &id)?;
    let phase = job.status.as_ref().map(|status| status.phase).unwrap_or_default();
    if !is_terminal(phase) || job.status.as_ref().is_none_or(|status| status.finished_at.is_none()) {
        let detail = format!("the job is {phase}: only one that has ended can be run again");
        return Err(Problem::new(Code::WrongState, detail));
    }
    // The cache does not keep all of a job that has ended.
    let namespace = &context.principal.tenant.namespace;
    let api: Api<Job> = Api::namespaced(app.client.clone(), namespace);
    let stored = within("failed to read a Job", api.get_opt(&job.name_any())).await?;
    let stored = stored.filter(|stored| stored.metadata.uid == job.metadata.uid);
    let stored = stored.ok_or_else(|| Problem::not_found("job"))?;
    let spec = JobSpec { canceled: false, ..stored.spec };
    let new = New::of(&app, &context, key, spec, job.metadata.uid.clone())?;
    create(&app, &context, new).await
}
