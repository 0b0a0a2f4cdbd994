//! `POST /jobs/{id}/retry`.

use axum::{extract::State, response::Response};
use kube::ResourceExt;

use super::{
    Id, api, cached_job,
    create::{NewJob, create, creates_job},
    has_ended,
    idempotency_key::IdempotencyKey,
};
use crate::{
    api_types::JobSpec,
    http::{
        App,
        by_tenant::ByTenant,
        openapi::Operation,
        problem::{Code, Problem},
        rights::RetryJob,
    },
    kube_ext::within,
};

/// The description of the route.
pub fn operation() -> Operation {
    creates_job(
        "retryJob",
        "Submit a job again",
        "Creates a new job with the spec of one that has ended, and waits up to 2 s for the decision of the scheduler.",
    )
    .problems([Code::WrongState])
}

/// Submits a job that has ended again, as a new job.
///
/// # Errors
/// `wrong_state` where the job has not ended; else as [`submit`](super::submit::submit).
pub async fn retry(
    State(app): State<App>,
    ByTenant(context, _): ByTenant<RetryJob>,
    id: Id,
    key: IdempotencyKey,
) -> Result<Response, Problem> {
    let job = cached_job(&app, &context, &id).await?;
    if !has_ended(&job) {
        let phase = job.status.as_ref().map(|status| status.phase).unwrap_or_default();
        let detail = format!("the job is {phase}: only a job that has ended can be submitted again");
        return Err(Problem::new(Code::WrongState, detail));
    }
    // The cache does not have the whole spec of a job that has ended.
    let stored = within("failed to read a Job", api(&app, &context).get_opt(&job.name_any())).await?;
    let stored = stored.filter(|stored| stored.metadata.uid == job.metadata.uid);
    let stored = stored.ok_or_else(|| Problem::not_found("job"))?;
    let spec = JobSpec { canceled: false, ..stored.spec };
    let new = NewJob::of(&app, &context, key, spec, job.metadata.uid.clone())?;
    create(&app, &context, new).await
}
