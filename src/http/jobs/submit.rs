//! `POST /jobs`.

use axum::{extract::State, response::Response};

use super::{
    create::{NewJob, create, creates_job},
    idempotency_key::IdempotencyKey,
    request::Submit,
};
use crate::{
    api_types::JobSpec,
    http::{
        App,
        body::Body,
        by_tenant::ByTenant,
        openapi::Operation,
        problem::{Code, Problem},
        rights::CreateJob,
    },
};

/// The description of the route.
pub fn operation() -> Operation {
    creates_job(
        "submitJob",
        "Submit a job",
        "Creates a job and waits up to 2 s for the decision of the scheduler. Give an `image`, or a `scenario` that has one.",
    )
}

/// Submits a job: 201, 202 without a verdict within 2 s, 422 where it can never run, 429 at a quota.
///
/// # Errors
/// As documented.
pub async fn submit(
    State(app): State<App>,
    ByTenant(context, _): ByTenant<CreateJob>,
    key: IdempotencyKey,
    body: Body<Submit>,
) -> Result<Response, Problem> {
    let spec = JobSpec::from(body.receive().await?);
    if spec.image.is_none() && spec.scenario.is_none() {
        // The CRD's rule, checked before the quotas: at a quota its sender would wait in vain.
        return Err(Problem::new(Code::InvalidObject, "give an image, or a scenario that has one"));
    }
    let new = NewJob::of(&app, &context, key, spec, None)?;
    create(&app, &context, new).await
}
