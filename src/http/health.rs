//! Routes without credentials: liveness, readiness, the meaning of problem codes and of reasons, and the OpenAPI document. The rules of
//! liveness are in `kube_ext::pulse`.

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    App,
    openapi::{Operation, Pages},
    problem::{PAGE, Problem, section},
    query::Params,
    routes::Routes,
};
use crate::{
    api_types::{Reason, reason},
    kube_ext::pulse::{WatchState, Watches},
    scheduler::SchedulerHandle,
};

/// The routes.
pub fn routes(pages: &Pages) -> Routes {
    let (json, html) = (pages.clone(), pages.clone());
    let (yes, no) = ("The server is ready.", "The server is not ready.");
    Routes::new("Server")
        .get(
            "/healthz",
            alive,
            Operation::new(
                "getLiveness",
                "Check that the process lives",
                "Answers whether the process is healthy. It is unhealthy where a restart would help, which an API server \
                 that is unavailable does not need.",
            )
            .text(200, "The process is healthy.", "text/plain")
            .text(503, "The process is unhealthy. The body has the reasons.", "text/plain"),
        )
        .get(
            "/readyz",
            self::ready,
            Operation::new(
                "getReadiness",
                "Check that the server is ready",
                "Answers whether the caches are complete. An unavailable database does not make the server unready.",
            )
            .text(200, yes, "text/plain")
            .json::<Readiness>(200, yes)
            .text(503, no, "text/plain")
            .json::<Readiness>(503, no),
        )
        .get(
            "/problems",
            problems,
            Operation::new("listProblems", "Describe all problem codes", "Describes each code that a problem can have.")
                .text(200, "These are all codes.", "text/markdown"),
        )
        .get(
            "/problems/{code}",
            problem,
            code(
                Operation::new("getProblem", "Describe a problem code", "Describes one code that a problem can have.")
                    .text(200, "This is the description of the code.", "text/markdown"),
            ),
        )
        .get(
            "/reasons",
            reasons,
            Operation::new("listReasons", "Describe all reasons", "Describes each reason that a status can have.")
                .text(200, "These are all reasons.", "text/markdown"),
        )
        .get(
            "/reasons/{reason}",
            reason,
            reason_parameter(
                Operation::new("getReason", "Describe a reason", "Describes the cause of a reason and what to do about it.")
                    .text(200, "This is the description of the reason.", "text/markdown"),
            ),
        )
        .get(
            "/openapi.json",
            async move || json.json(),
            Operation::new("getOpenapi", "Read this document", "Returns this document.")
                .json::<serde_json::Map<String, serde_json::Value>>(200, "This is the document, in OpenAPI 3.1."),
        )
        .get(
            "/docs",
            async move || html.html(),
            Operation::new("getDocs", "Read this document as a page", "Returns this document as a page for people.")
                .text(200, "This is the page.", "text/html"),
        )
}

fn code(mut operation: Operation) -> Operation {
    let schema = json!({"$ref": "#/components/schemas/ProblemCode"});
    operation.takes_path("code", "This is the code of the problem.", &schema);
    operation
}

fn reason_parameter(mut operation: Operation) -> Operation {
    let schema = json!({"type": "string", "maxLength": 64, "pattern": "^[A-Za-z]+$"});
    operation.takes_path("reason", "This is the reason.", &schema);
    operation
}

/// `GET /healthz`.
pub async fn alive(State(app): State<App>) -> Response {
    liveness(&app.watches).into_response()
}

/// Whether the process is healthy; else the reasons, a line each.
#[must_use]
pub fn liveness(watches: &Watches) -> (StatusCode, String) {
    let ailments = watches.ailments();
    if ailments.is_empty() {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, ailments.iter().map(|ailment| format!("{ailment}\n")).collect())
}

/// Parameters of `/readyz`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Where this is given, the response says what is ready, as JSON.
    verbose: Option<String>,
}

/// Readiness says which parts of the server are ready.
#[derive(Serialize, JsonSchema)]
struct Readiness {
    /// Whether all parts are ready.
    ready: bool,
    /// Whether the cache of jobs is complete.
    jobs: bool,
    /// Whether the scheduler has made its first decisions. It is true where this replica does not lead. A replica that
    /// was ready before it led stays ready.
    scheduler: bool,
    /// These are the watches of the API server.
    watches: Vec<WatchView>,
}

/// A watch is a stream of the changes of one kind of object.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Watch")]
pub struct WatchView {
    /// This is what the watch receives.
    pub name: &'static str,
    /// Whether its first list is complete and it is not behind.
    pub current: bool,
    /// This is since when the watch has delivered nothing, where that is longer than a quiet watch can take. It is null
    /// otherwise. A watch that is behind does not make the server unready.
    pub behind_since: Option<Timestamp>,
    /// This says in one word why the watch was interrupted last, where it has delivered nothing since: silent, unreachable,
    /// untrusted, refused, expired, ended or unreadable.
    pub cause: Option<&'static str>,
}

impl WatchView {
    /// All watches, at the time `now`.
    #[must_use]
    pub fn all(watches: &Watches, now: Timestamp) -> Vec<Self> {
        let view = |state: WatchState| {
            let since = |quiet| now.saturating_sub(SignedDuration::try_from(quiet).unwrap_or_default()).ok();
            Self {
                name: state.name,
                current: state.is_current(),
                behind_since: state.behind.and_then(since),
                cause: state.cause.map(Into::into),
            }
        };
        watches.states().into_iter().map(view).collect()
    }
}

/// `GET /readyz`: whether the caches are complete. An unavailable database does not make the server unready.
pub async fn ready(State(app): State<App>, Params(params): Params<Ready>) -> Response {
    let jobs = app.jobs.is_synced();
    let scheduler = app.scheduler().is_none_or(SchedulerHandle::is_ready);
    let is_ready = (app.is_ready)();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if params.verbose.is_some() {
        let watches = WatchView::all(&app.watches, app.clock.now());
        let body = Readiness { ready: is_ready, jobs, scheduler, watches };
        return (status, axum::Json(body)).into_response();
    }
    (status, if is_ready { "ok\n" } else { "the caches are not complete yet\n" }).into_response()
}

fn markdown(text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], text).into_response()
}

/// `GET /problems`: the sections of all codes.
pub async fn problems() -> Response {
    markdown(PAGE)
}

/// `GET /problems/{code}`: the section of a code.
pub async fn problem(code: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let text = code.ok().and_then(|Path(code)| section(&code));
    text.map(markdown).ok_or_else(|| Problem::not_found("code"))
}

/// `GET /reasons`: the sections of all reasons.
pub async fn reasons() -> Response {
    markdown(reason::PAGE)
}

/// `GET /reasons/{reason}`: the section of a reason.
///
/// # Errors
/// `not_found`.
pub async fn reason(reason: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let text = reason.ok().and_then(|Path(word)| word.parse::<Reason>().ok()?.section());
    text.map(markdown).ok_or_else(|| Problem::not_found("reason"))
}
