//! Jobs of the tenant whose key asks.

mod act;
mod create;
mod cursor;
mod ended;
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
        .get(
            "/jobs",
            list::list,
            listed(
                "listJobs",
                "List jobs",
                "Lists the tenant's jobs, the newest first, those of the history included.",
            ),
        )
        .post(
            "/jobs",
            submit::submit,
            made(
                "submitJob",
                "Submit a job",
                "Creates a job and waits up to 2 s for the decision of the scheduler. Give an `image`, or a `scenario` that has one.",
            ),
        )
        .get(
            "/jobs/{id}",
            get::get,
            Operation::new(
                "getJob",
                "Read a job",
                "Returns a job from the cluster or, once it is deleted there, from the history.",
            )
            .json::<JobView>(200, "This is the job. It has an `ETag` while it is in the cluster.")
            .headers(&["ETag"])
            .refuses([Code::HistoryUnavailable]),
        )
        .delete(
            "/jobs/{id}",
            act::delete,
            Operation::new(
                "deleteJob",
                "Delete a job",
                "Cancels a job and deletes it from the cluster. The history keeps it.",
            )
            .nothing(204, "The job is being deleted."),
        )
        .post(
            "/jobs/{id}/cancel",
            act::cancel,
            Operation::new(
                "cancelJob",
                "Cancel a job",
                "Ends a job: at once where it waits, after its grace period where it runs. Repeating the request changes nothing.",
            )
            .json::<JobView>(202, "This is the job as it is now. It ends soon.")
            .refuses([Code::WrongState]),
        )
        .post(
            "/jobs/{id}/retry",
            submit::retry,
            made(
                "retryJob",
                "Submit a job again",
                "Creates a new job with the spec of one that has ended, and waits up to 2 s for the decision of the scheduler.",
            )
            .refuses([Code::WrongState]),
        )
        .get(
            "/jobs/{id}/why",
            why::why,
            Operation::new(
                "explainJob",
                "Explain why a job waits",
                "Returns the position of a waiting job and the conditions of its start, in their order and with numbers.",
            )
            .json::<Why>(200, "These are the conditions."),
        )
        .get(
            "/jobs/{id}/logs",
            logs::logs,
            Operation::new(
                "readLog",
                "Read a log",
                "Returns what an attempt of the job printed. With `follow` the response continues until the attempt ends. A response that had to be cut is aborted.",
            )
            .text(200, "This is the log.", "text/plain; charset=utf-8")
            .refuses([Code::NotStarted, Code::LogGone, Code::TooManyStreams]),
        )
        .get(
            "/jobs/{id}/events",
            events::events,
            Operation::new(
                "followJob",
                "Follow a job",
                "Sends the state of a job now and after each change, as server-sent events, until the job has ended.",
            )
            .text(
                200,
                "The data of each event `status` is a `Job`. The data of the last event is a `DeletedJob` where its name is `deleted`.",
                "text/event-stream",
            )
            .event::<JobView>(200, "status")
            .event::<events::Deleted>(200, "deleted")
            .nothing(204, "The client has received the last event.")
            .refuses([Code::TooManyStreams, Code::HistoryUnavailable]),
        )
}

/// What is said of a list of jobs.
pub fn listed(id: &'static str, summary: &'static str, description: &'static str) -> Operation {
    Operation::new(id, summary, description)
        .json::<Page>(200, "This is a page of jobs.")
        .headers(&["X-Crofter-Source"])
        .refuses([Code::InvalidCursor])
}

/// What is said of a route that makes a job.
fn made(id: &'static str, summary: &'static str, description: &'static str) -> Operation {
    const NEXT: [&str; 5] = ["getJob", "explainJob", "cancelJob", "retryJob", "deleteJob"];
    Operation::new(id, summary, description)
        .json::<JobView>(201, "This is the job, which was admitted or waits.")
        .json::<JobView>(202, "This is the job. The scheduler has not decided within 2 s.")
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
            "This is the id of the job, which is its UID.",
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
