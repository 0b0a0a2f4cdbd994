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
    Router,
    extract::{FromRequestParts, Path},
    http::request::Parts,
    routing::{get, post},
};
use uuid::Uuid;

pub use self::list::{Wanted, list_of};
use super::{App, auth::Context, problem::Problem};
use crate::{api_types::Job, domain::job_state::is_terminal};

/// The routes.
pub fn routes() -> Router<App> {
    Router::new()
        .route("/jobs", get(list::list).post(submit::submit))
        .route("/jobs/{id}", get(get::get).delete(act::delete))
        .route("/jobs/{id}/cancel", post(act::cancel))
        .route("/jobs/{id}/retry", post(submit::retry))
        .route("/jobs/{id}/why", get(why::why))
        .route("/jobs/{id}/logs", get(logs::logs))
        .route("/jobs/{id}/events", get(events::events))
}

/// The UID in a path. What is none is the id of nothing.
pub struct Id(pub Uuid);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = Path::<String>::from_request_parts(parts, state).await.ok();
        // Only the one form that is given out.
        let id = text.and_then(|Path(text)| Uuid::parse_str(&text).ok().filter(|id| id.to_string() == text));
        id.map(Self).ok_or_else(|| Problem::not_found("job"))
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
