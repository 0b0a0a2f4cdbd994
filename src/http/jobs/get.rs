//! `GET /jobs/{id}`.

use axum::{
    Json,
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use kube::ResourceExt;
use uuid::Uuid;

use super::{Id, ended::whole, living, view::JobView};
use crate::{
    db,
    http::{
        App,
        auth::{ByKey, Context, JobsRead},
        header::etag,
        problem::{Code, Problem},
    },
};

/// Where an answer comes from, when not from where it should.
pub const SOURCE: HeaderName = HeaderName::from_static("x-crofter-source");
/// The value of [`SOURCE`] while the history is away.
pub const CACHE: HeaderValue = HeaderValue::from_static("cache");

/// A job, from the cluster, else from the history.
///
/// # Errors
/// `not_found`; `history_unavailable` where the cluster does not have it and the history does not answer.
pub async fn get(
    State(app): State<App>,
    ByKey(context, _): ByKey<JobsRead>,
    id: Id,
) -> Result<Response, Problem> {
    let tenant = &context.principal.tenant.uid;
    if let Ok(job) = living(&app, &context, &id) {
        let job = whole(&app, tenant, job).await;
        let mut response = Json(JobView::of(&job, tenant)).into_response();
        let tag = etag(&job.resource_version().unwrap_or_default());
        response.headers_mut().extend(tag.map(|tag| (header::ETAG, tag)));
        return Ok(response);
    }
    Ok(Json(past(&app, &context, &id).await?).into_response())
}

/// A job of the history.
///
/// # Errors
/// As [`get`].
pub async fn past(app: &App, context: &Context, id: &Id) -> Result<JobView, Problem> {
    let tenant = &context.principal.tenant.uid;
    let absent = || Problem::not_found("job");
    let (Some(readers), Ok(tenant_uid)) = (&app.database, Uuid::parse_str(tenant)) else {
        return Err(absent());
    };
    let record = db::job_of(readers, tenant_uid, id.0).await.map_err(|error| {
        let detail = "the job is not in the cluster, and the history does not answer";
        Problem::new(Code::HistoryUnavailable, detail).inside(error)
    })?;
    let record = record.ok_or_else(absent)?;
    Ok(JobView::recorded(record, tenant))
}
