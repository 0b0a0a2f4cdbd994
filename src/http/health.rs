//! What is asked without credentials: whether the process lives and is ready, and what a problem's code means.

use axum::{
    extract::{Path, State, rejection::PathRejection},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    App,
    problem::{PAGE, Problem, section},
    query::Params,
};

/// `GET /healthz`.
pub async fn alive() -> &'static str {
    "ok\n"
}

/// Parameters of `/readyz`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ready {
    /// Say what is ready.
    verbose: Option<String>,
}

/// `GET /readyz`: whether the caches are whole. A database that is away makes nobody unready.
pub async fn ready(State(app): State<App>, Params(params): Params<Ready>) -> Response {
    let jobs = app.jobs.is_whole();
    let scheduler = app.board.as_ref().is_none_or(|board| board.is_ready());
    let is_ready = jobs && scheduler;
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if params.verbose.is_some() {
        let body = json!({"ready": is_ready, "jobs": jobs, "scheduler": scheduler});
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
