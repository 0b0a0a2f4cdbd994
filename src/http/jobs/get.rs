//! `GET /jobs/{id}`.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use kube::ResourceExt;

use super::{Found, Id, ended::with_stored_payload, find_job, view::JobView};
use crate::http::{
    App,
    by_tenant::ByTenant,
    header::etag,
    openapi::Operation,
    problem::{Code, Problem},
    rights::GetJob,
};

/// The header of a response that does not have the history.
pub const SOURCE: HeaderName = HeaderName::from_static("x-crofter-source");
/// The value of [`SOURCE`] while the history is unavailable.
pub const CACHE: HeaderValue = HeaderValue::from_static("cache");

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new(
        "getJob",
        "Read a job",
        "Returns a job from the cluster or, once it is deleted there, from the history.",
    )
    .json::<JobView>(200, "This is the job. It has an `ETag` while it is in the cluster.")
    .headers(&["ETag"])
    .problems([Code::HistoryUnavailable])
}

/// Returns a job from the cluster, else from the history.
///
/// # Errors
/// `not_found`; `history_unavailable` where the cluster does not have the job and the database does not answer.
pub async fn get(
    State(app): State<App>,
    ByTenant(context, _): ByTenant<GetJob>,
    id: Id,
) -> Result<Response, Problem> {
    let tenant = &context.of.uid;
    match find_job(&app, &context, &id).await? {
        Found::Cached(job) => {
            let job = with_stored_payload(&app, tenant, job).await;
            let mut response = Json(JobView::of(&job, tenant)).into_response();
            let tag = etag(&job.resource_version().unwrap_or_default());
            response.headers_mut().extend(tag.map(|tag| (header::ETAG, tag)));
            Ok(response)
        }
        Found::Recorded(job) => Ok(Json(*job).into_response()),
    }
}
