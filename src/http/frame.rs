//! What surrounds every request: an id, a bound on how many run, a time limit, a line in the log and, where it
//! asks for a change, in the audit log, metrics, and what a browser is allowed.
//!
//! Labels of metrics are the routes' templates and classes of status: never what a client sends.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    audit::Line,
    cors::Origins,
    header::only,
    problem::{Code, Inside, Problem},
};
use crate::{
    hex::hex,
    metrics::{self, Metrics},
    random::Random,
};

/// Name of a request, ours or the client's.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Requests under way at most. A few more wait in their connections.
pub const MOST_AT_ONCE: usize = 512;
/// Longest time until the head of an answer.
const LIMIT: Duration = Duration::from_secs(30);

/// What the frame needs.
#[derive(Clone)]
pub struct Frame {
    room: Arc<Semaphore>,
    metrics: Metrics,
    random: Random,
    origins: Origins,
}

impl Frame {
    /// The frame of one server.
    #[must_use]
    pub fn new(metrics: Metrics, random: Random, origins: Origins) -> Self {
        Self { room: Arc::new(Semaphore::new(MOST_AT_ONCE)), metrics, random, origins }
    }

    /// What is answered without a look at what is asked for.
    fn beforehand(&self, request: &Request) -> Option<Response> {
        // RFC 9112, 3.2.
        let hosts = request.headers().get_all(header::HOST).iter().count();
        if hosts > 1 || (hosts == 0 && request.version() >= Version::HTTP_11) {
            let detail = format!("the request has {hosts} Host headers: send one");
            return Some(Problem::new(Code::MalformedRequest, detail).into_response());
        }
        self.origins.preflight(request.method(), request.headers())
    }

    /// The answer, within the bounds.
    async fn answer(&self, request: Request, next: Next) -> Response {
        let Ok(_place) = self.room.try_acquire() else {
            return Problem::new(Code::Overloaded, "too many requests are under way").into_response();
        };
        match tokio::time::timeout(LIMIT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => {
                let detail = format!("no answer within {} s", LIMIT.as_secs());
                Problem::new(Code::TimedOut, detail).into_response()
            }
        }
    }

    /// An id for a request: the client's where it is one, else a new one.
    fn id(&self, request: &Request) -> HeaderValue {
        let fits = |id: &str| {
            (1..=64).contains(&id.len()) && id.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        };
        if let Ok(Some(id)) = only(request.headers(), &REQUEST_ID)
            && fits(id)
            && let Ok(id) = HeaderValue::from_str(id)
        {
            return id;
        }
        let mut bytes = [0; 16];
        let made = self.random.fill(&mut bytes).is_ok();
        let id = made.then(|| HeaderValue::from_str(&hex(&bytes)).ok()).flatten();
        id.unwrap_or(HeaderValue::from_static("none"))
    }
}

/// The middleware.
pub async fn surround(State(frame): State<Frame>, mut request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let id = frame.id(&request);
    let audited = Line::of(&mut request, id.to_str().unwrap_or_default());
    let route = request.extensions().get::<MatchedPath>().cloned();
    // What a client may invent, a key in the wrong place included, becomes neither label nor line.
    let method = metrics::method(request.method().as_str());
    let origin = frame.origins.of(request.headers());
    let mut response = match frame.beforehand(&request) {
        Some(response) => response,
        None => frame.answer(request, next).await,
    };
    let (status, took) = (response.status(), begun.elapsed());
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    frame.metrics.answered(route, method, status.as_u16(), took);
    let id_text = id.to_str().unwrap_or_default();
    if let Some(Inside(cause)) = response.extensions_mut().remove::<Inside>() {
        tracing::warn!(id = id_text, route, status = status.as_u16(), cause, "a request failed");
    } else {
        tracing::debug!(id = id_text, route, method, status = status.as_u16(), ?took, "answered");
    }
    if let Some(line) = audited {
        line.answered(&response);
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.entry("cache-control").or_insert(HeaderValue::from_static("no-store"));
    frame.origins.allow(origin, headers);
    response
}

/// For paths that are none of ours.
pub async fn no_route() -> Problem {
    Problem::not_found("path")
}

/// For methods that a path does not have.
pub async fn no_method() -> Problem {
    Problem::new(Code::MethodNotAllowed, "this path has no such method")
}
