//! Jobs of the tenant whose key authenticates the request.

mod all_events;
mod cancel;
mod create;
mod delete;
mod ended;
mod estimate;
mod events;
mod get;
mod idempotency_key;
mod list;
mod logs;
mod rate;
mod request;
mod retry;
mod score;
mod submit;
mod view;
mod why;

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use kube::Api;
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

pub use self::{
    estimate::Estimates,
    list::{ListParams, list_of, lists_jobs},
    request::{Resources, Submit},
    view::JobView,
};
use super::{
    App,
    by_tenant::Context,
    openapi::{Describes, Operation},
    path::uid,
    problem::{Code, Problem, is_denied},
    routes::Routes,
};
use crate::{api_types::Job, db, domain::job_state::is_terminal, kube_ext::CallError};

/// How long a request waits for a job that this replica does not know.
const NEW_JOB_WAIT: Duration = Duration::from_millis(500);
const NEW_JOB_POLL: Duration = Duration::from_millis(20);

/// The routes.
pub fn routes() -> Routes {
    Routes::new("Jobs")
        .get("/jobs", list::list, list::operation())
        .post("/jobs", submit::submit, submit::operation())
        .get("/jobs/{id}", get::get, get::operation())
        .delete("/jobs/{id}", delete::delete, delete::operation())
        .post("/jobs/{id}/cancel", cancel::cancel, cancel::operation())
        .post("/jobs/{id}/retry", retry::retry, retry::operation())
        .get("/jobs/{id}/why", why::why, why::operation())
        .get("/jobs/{id}/logs", logs::logs, logs::operation())
        .get("/jobs/{id}/events", events::events, events::operation())
        .get("/events", all_events::events, all_events::operation())
}

/// The UID in a path. A text that is not a UID is the id of no job.
pub struct Id(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = Path::<String>::from_request_parts(parts, state).await.ok();
        let id = text.and_then(|Path(text)| uid(&text));
        id.map(Self).ok_or_else(|| Problem::not_found("job"))
    }
}

impl Describes for Id {
    fn describe(operation: &mut Operation) {
        // The form of UUIDs that the server returns, in capitals too.
        let pattern = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";
        operation.takes_path(
            "id",
            "This is the id of the job, which is its UID.",
            &json!({"type": "string", "pattern": pattern}),
        );
    }
}

/// The Jobs of the tenant's namespace.
fn api(app: &App, context: &Context) -> Api<Job> {
    Api::namespaced(app.client.clone(), &context.of.namespace)
}

/// A job of this tenant that is in the cluster, from the cache; waits a moment for one that another replica may have
/// created just now.
///
/// # Errors
/// `not_found`, also for another tenant's job.
async fn cached_job(app: &App, context: &Context, Id(id): &Id) -> Result<Arc<Job>, Problem> {
    let deadline = Instant::now() + NEW_JOB_WAIT;
    loop {
        if let Some(job) = app.jobs.get(&context.of.namespace, *id) {
            return Ok(job);
        }
        if Instant::now() >= deadline {
            return Err(Problem::not_found("job"));
        }
        sleep(NEW_JOB_POLL).await;
    }
}

/// A job of this tenant.
enum Found {
    /// From the cache.
    Cached(Arc<Job>),
    /// From the history.
    Recorded(Box<JobView>),
}

/// A job of this tenant, from the cache, else from the history.
///
/// # Errors
/// `not_found`; `history_unavailable` where the cluster does not have the job and the database does not answer.
async fn find_job(app: &App, context: &Context, id: &Id) -> Result<Found, Problem> {
    if let Some(job) = app.jobs.get(&context.of.namespace, id.0) {
        return Ok(Found::Cached(job));
    }
    match recorded_job(app, context, id).await {
        Ok(recorded) => Ok(Found::Recorded(Box::new(recorded))),
        Err(problem) => cached_job(app, context, id).await.map(Found::Cached).map_err(|_| problem),
    }
}

/// A job of the history.
///
/// # Errors
/// As [`find_job`].
async fn recorded_job(app: &App, context: &Context, id: &Id) -> Result<JobView, Problem> {
    let tenant = &context.of.uid;
    let absent = || Problem::not_found("job");
    let (Some(readers), Ok(tenant_uid)) = (&app.database, Uuid::parse_str(tenant)) else {
        return Err(absent());
    };
    let record = db::job_of(readers, tenant_uid, id.0).await.map_err(|error| {
        let detail = "the job is not in the cluster, and the database does not answer";
        Problem::new(Code::HistoryUnavailable, detail).with_cause(error)
    })?;
    let record = record.ok_or_else(absent)?;
    Ok(JobView::recorded(record, tenant))
}

/// Whether a job has ended: its phase is terminal, and its controller has recorded the end.
fn has_ended(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| is_terminal(status.phase) && status.finished_at.is_some())
}

/// The problem of a write that the API server refuses because the job has changed, was deleted, or is another one.
/// `versioned` says whether the write was for one version.
fn write_refused(error: CallError, versioned: bool) -> Problem {
    match error.code() {
        _ if is_denied(&error) => error.into(),
        Some(404) => Problem::not_found("job"),
        Some(409) if versioned => {
            Problem::new(Code::PreconditionFailed, "the job's version is not the one that If-Match names")
        }
        Some(409) => Problem::not_found("job"),
        _ => error.into(),
    }
}
