//! What is asked without credentials: whether the process lives and is ready, what a problem's code means, and what the
//! API is. When a process does not live is decided in `kube_ext::pulse`.

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use strum::IntoEnumIterator;

use super::{
    App,
    openapi::{Operation, Pages},
    problem::{Code, PAGE, Problem, section},
    query::Params,
    routes::Routes,
};
use crate::kube_ext::pulse::{WatchState, Watches};

/// The routes.
pub fn routes(pages: &Pages) -> Routes {
    let (json, html) = (pages.clone(), pages.clone());
    let ready = Operation::new(
        "ready",
        "Whether the caches are whole. A database that is away makes nobody unready.",
    );
    let (yes, no) = ("It is ready.", "It is not.");
    Routes::new("Server")
        .get(
            "/healthz",
            alive,
            Operation::new(
                "alive",
                "Whether the process lives. It does not where a restart would mend it, which an API server that is \
                 away is not.",
            )
            .text(200, "It does.", "text/plain")
            .text(503, "It does not; with the reasons.", "text/plain"),
        )
        .get(
            "/readyz",
            self::ready,
            ready
                .text(200, yes, "text/plain")
                .json::<Readiness>(200, yes)
                .text(503, no, "text/plain")
                .json::<Readiness>(503, no),
        )
        .get(
            "/problems",
            problems,
            Operation::new("problems", "What each code of a problem means.").text(
                200,
                "All codes.",
                "text/markdown",
            ),
        )
        .get(
            "/problems/{code}",
            problem,
            code(Operation::new("problem", "What a code of a problem means.").text(
                200,
                "It.",
                "text/markdown",
            )),
        )
        .get(
            "/openapi.json",
            async move || json.json(),
            Operation::new("openapi", "This document.")
                .json::<serde_json::Map<String, serde_json::Value>>(200, "OpenAPI 3.1."),
        )
        .get(
            "/docs",
            async move || html.html(),
            Operation::new("docs", "This document as a page.").text(200, "The page.", "text/html"),
        )
}

fn code(mut operation: Operation) -> Operation {
    let words: Vec<&str> = Code::iter().map(Code::as_str).collect();
    operation.takes_path("code", "The code.", &json!({"type": "string", "enum": words}));
    operation
}

/// `GET /healthz`.
pub async fn alive(State(app): State<App>) -> Response {
    liveness(&app.watches).into_response()
}

/// Whether the process lives; else what a restart would mend, a line each.
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
    /// Say what is ready.
    verbose: Option<String>,
}

/// What is ready.
#[derive(Serialize, JsonSchema)]
struct Readiness {
    /// All of it.
    ready: bool,
    /// The cache of jobs is whole.
    jobs: bool,
    /// The scheduler has decided, where this process schedules.
    scheduler: bool,
    /// The watches of the API server.
    watches: Vec<WatchView>,
}

/// A watch of the API server.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "Watch")]
pub struct WatchView {
    /// What it watches.
    pub name: &'static str,
    /// Its first list was complete, and it is not behind.
    pub current: bool,
    /// Since when it has delivered nothing, where that is longer than a quiet watch can take; else null. A watch that is
    /// behind makes nothing unready: what the cache knows is still the best answer.
    pub behind_since: Option<Timestamp>,
    /// Why it was interrupted last, if nothing was delivered since: silent, unreachable, untrusted, refused, expired, ended
    /// or unreadable.
    pub cause: Option<&'static str>,
}

impl WatchView {
    /// All watches that run, at the time `now`.
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

/// `GET /readyz`: whether the caches are whole. A database that is away makes nobody unready.
pub async fn ready(State(app): State<App>, Params(params): Params<Ready>) -> Response {
    let jobs = app.jobs.is_whole();
    let scheduler = app.board.as_ref().is_none_or(|board| board.is_ready());
    let is_ready = jobs && scheduler;
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if params.verbose.is_some() {
        let watches = WatchView::all(&app.watches, app.clock.now());
        let body = Readiness { ready: is_ready, jobs, scheduler, watches };
        return (status, axum::Json(body)).into_response();
    }
    (status, if is_ready { "ok\n" } else { "the caches are not whole yet\n" }).into_response()
}

fn markdown(text: &'static str) -> Response {
    ([(header::CONTENT_TYPE, "text/markdown; charset=utf-8")], text).into_response()
}

/// `GET /problems`: the page.
pub async fn problems() -> Response {
    markdown(PAGE)
}

/// `GET /problems/{code}`: its section.
pub async fn problem(code: Result<Path<String>, PathRejection>) -> Result<Response, Problem> {
    let text = code.ok().and_then(|Path(code)| section(&code));
    text.map(markdown).ok_or_else(|| Problem::not_found("code"))
}
