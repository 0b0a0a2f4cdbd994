//! Jobs of the tenant whose key asks.

mod act;
mod create;
mod cursor;
mod events;
mod get;
mod list;
mod logs;
mod rate;
mod request;
mod submit;
mod view;
mod why;

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use serde_json::json;
use uuid::Uuid;

pub use self::list::{Page, Wanted, list_of};
use self::{view::JobView, why::Why};
use super::{
    App,
    auth::Context,
    openapi::{Describes, Operation},
    path::uid,
    problem::{Code, Problem},
    routes::Routes,
};
use crate::{api_types::Job, domain::job_state::is_terminal};

/// The routes.
pub fn routes() -> Routes {
    Routes::new("Jobs")
        .get("/jobs", list::list, listed("listJobs", "Jobs, the newest first, history included."))
        .post(
            "/jobs",
            submit::submit,
            made("submitJob", "Submits a job, and waits up to 2 s for the verdict."),
        )
        .get(
            "/jobs/{id}",
            get::get,
            Operation::new(
                "getJob",
                "A job, from the cluster or, when it is gone from there, from the history.",
            )
            .json::<JobView>(200, "The job. It has an `ETag` while it is in the cluster.")
            .headers(&["ETag"])
            .refuses([Code::HistoryUnavailable]),
        )
        .delete(
            "/jobs/{id}",
            act::delete,
            Operation::new("deleteJob", "Cancels a job and takes it from the cluster. The history keeps it.")
                .nothing(204, "It is being deleted."),
        )
        .post(
            "/jobs/{id}/cancel",
            act::cancel,
            Operation::new("cancelJob", "Ends a job: one that waits at once, one that runs with grace.")
                .json::<JobView>(202, "The job as it is; it ends soon.")
                .refuses([Code::WrongState]),
        )
        .post(
            "/jobs/{id}/retry",
            submit::retry,
            made("retryJob", "Submits a job that has ended once more, as a new one.")
                .refuses([Code::WrongState]),
        )
        .get(
            "/jobs/{id}/why",
            why::why,
            Operation::new(
                "explainJob",
                "Why a job waits: its position, and an ordered checklist with numbers.",
            )
            .json::<Why>(200, "The checklist."),
        )
        .get(
            "/jobs/{id}/logs",
            logs::logs,
            Operation::new("readLog", "What a job printed, as it comes where it is followed.")
                .text(200, "The log.", "text/plain; charset=utf-8")
                .refuses([Code::WrongState, Code::TooManyStreams]),
        )
        .get(
            "/jobs/{id}/events",
            events::events,
            Operation::new("followJob", "The job's state now and each one that is new, until its end.")
                .text(200, "Server-sent events `status` and `deleted`.", "text/event-stream")
                .nothing(204, "The client has seen the last of it.")
                .refuses([Code::TooManyStreams, Code::HistoryUnavailable]),
        )
}

/// What is said of a list of jobs.
pub fn listed(id: &'static str, summary: &'static str) -> Operation {
    Operation::new(id, summary)
        .json::<Page>(200, "A page of jobs.")
        .headers(&["X-Crofter-Source"])
        .refuses([Code::InvalidCursor])
}

/// What is said of a route that makes a job.
fn made(id: &'static str, summary: &'static str) -> Operation {
    const NEXT: [&str; 5] = ["getJob", "explainJob", "cancelJob", "retryJob", "deleteJob"];
    Operation::new(id, summary)
        .json::<JobView>(201, "The job.")
        .json::<JobView>(202, "The job, of which nothing was decided within 2 s.")
        .headers(&["Location", "ETag", "RateLimit", "RateLimit-Policy", "Idempotency-Replayed"])
        .links(201, "id", &NEXT)
        .refuses([
            Code::TenantInactive,
            Code::Conflict,
            Code::IdempotencyKeyReused,
            Code::InvalidObject,
            Code::JobRejected,
            Code::QuotaExceeded,
            Code::RateLimited,
        ])
}

/// The UID in a path. What is none is the id of nothing.
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
        // Of the forms of UUIDs the one that is given out, in capitals too.
        let pattern = "^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$";
        operation.takes_path(
            "id",
            "The job's id, which is its UID.",
            &json!({"type": "string", "pattern": pattern}),
        );
    }
}

/// A job of this tenant that is in the cluster.
///
/// # Errors
/// `not_found`, also for another tenant's.
fn living(app: &App, context: &Context, Id(id): &Id) -> Result<Arc<Job>, Problem> {
    app.jobs.get(&context.principal.tenant.namespace, *id).ok_or_else(|| Problem::not_found("job"))
}

/// Whether a job has come to its end: its phase is one, and what is due at the end is done.
fn has_ended(job: &Job) -> bool {
    job.status.as_ref().is_some_and(|status| is_terminal(status.phase) && status.finished_at.is_some())
}
