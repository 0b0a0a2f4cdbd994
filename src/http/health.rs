//! What is asked without credentials: whether the process lives and is ready, what a problem's code means, and what the
//! API is.

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
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
            Operation::new("alive", "Whether the process lives.").text(200, "It does.", "text/plain"),
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
pub async fn alive() -> &'static str {
    "ok\n"
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
}

/// `GET /readyz`: whether the caches are whole. A database that is away makes nobody unready.
pub async fn ready(State(app): State<App>, Params(params): Params<Ready>) -> Response {
    let jobs = app.jobs.is_whole();
    let scheduler = app.board.as_ref().is_none_or(|board| board.is_ready());
    let is_ready = jobs && scheduler;
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if params.verbose.is_some() {
        let body = Readiness { ready: is_ready, jobs, scheduler };
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
