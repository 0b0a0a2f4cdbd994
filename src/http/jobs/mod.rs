//! Jobs of the tenant whose key authenticates the request.

mod cancel;
mod create;
mod cursor;
mod delete;
mod ended;
mod events;
mod get;
mod idempotency_key;
mod list;
mod logs;
mod rate;
mod request;
mod retry;
mod submit;
mod view;
mod why;

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use kube::Api;
use serde_json::json;
use uuid::Uuid;

pub use self::list::{ListParams, list_of, lists_jobs};
use super::{
    App,
    auth::Context,
    openapi::{Describes, Operation},
    path::uid,
    problem::{Code, Problem, is_denied},
    routes::Routes,
};
use crate::{api_types::Job, domain::job_state::is_terminal, kube_ext::CallError};

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
    Api::namespaced(app.client.clone(), &context.principal.tenant.namespace)
}

/// A job of this tenant that is in the cluster, from the cache.
///
/// # Errors
/// `not_found`, also for another tenant's job.
fn cached_job(app: &App, context: &Context, Id(id): &Id) -> Result<Arc<Job>, Problem> {
    app.jobs.get(&context.principal.tenant.namespace, *id).ok_or_else(|| Problem::not_found("job"))
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
