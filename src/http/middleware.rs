//! What every request passes: an id, a span, a place of its own, a timeout, a line in the log and, where the
//! request changes something, in the audit log, metrics, and the headers that browsers need.
//!
//! Labels of metrics and fields of the span are route templates and closed lists: never what a client sends. The span has
//! neither the query nor the credentials of a request.

use std::time::Duration;

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, Version, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use tokio::time::Instant;
use tracing::{Instrument as _, Span, field};

use super::{
    audit::{AuditLine, AuditSink},
    cors::Origins,
    places::Place,
    problem::{Code, InternalCause, Problem},
    request_id::{REQUEST_ID, RequestIds},
};
use crate::{
    metrics::{self, Metrics},
    random::Random,
};

/// Longest time until the head of a response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The middleware of one server. Cheap to clone.
#[derive(Clone)]
pub struct RequestMiddleware {
    metrics: Metrics,
    ids: RequestIds,
    origins: Origins,
    audit: AuditSink,
}

impl RequestMiddleware {
    /// The middleware of a new server.
    #[must_use]
    pub fn new(metrics: Metrics, random: Random, origins: Origins, audit: AuditSink) -> Self {
        Self { metrics, ids: RequestIds::new(random), origins, audit }
    }

    /// The response to a request that no handler receives: one without exactly one Host, and a browser's preflight.
    fn early_response(&self, request: &Request) -> Option<Response> {
        // RFC 9112, 3.2.
        let hosts = request.headers().get_all(header::HOST).iter().count();
        if hosts > 1 || (hosts == 0 && request.version() >= Version::HTTP_11) {
            let detail = format!("the request has {hosts} Host headers: send one");
            return Some(Problem::new(Code::MalformedRequest, detail).into_response());
        }
        self.origins.preflight(request.method(), request.headers())
    }

    /// The handler's response, within the timeout.
    async fn run(&self, mut request: Request, next: Next) -> Response {
        if let Some(response) = self.early_response(&request) {
            return response;
        }
        // The extractors take and leave it; it is held until there is a response.
        let place = Place::default();
        request.extensions_mut().insert(place.clone());
        let response = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
        drop(place);
        response.unwrap_or_else(|_| {
            let detail = format!("the server had no response within {} s", REQUEST_TIMEOUT.as_secs());
            Problem::new(Code::TimedOut, detail).into_response()
        })
    }
}

/// The span of a request. [`record_tenant`] adds the tenant.
fn span(method: &'static str, route: &str, request_id: &str) -> Span {
    tracing::info_span!("request", method, route, tenant = field::Empty, request_id)
}

/// Notes the tenant whose object a request is about, by name, in the request's span.
pub fn record_tenant(name: &str) {
    Span::current().record("tenant", name);
}

/// Handles one request.
pub async fn handle(
    State(middleware): State<RequestMiddleware>,
    mut request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let id = middleware.ids.of(request.headers());
    let id_text = id.to_str().unwrap_or_default();
    let audited = AuditLine::of(&mut request, id_text, &middleware.audit);
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    // Text that a client may invent, such as a key in a wrong field, is neither in a label nor in a line of the log.
    let method = metrics::method(request.method().as_str());
    let origin = middleware.origins.of(request.headers());
    let span = span(method, route, id_text);
    let mut response = middleware.run(request, next).instrument(span.clone()).await;
    let (status, took) = (response.status(), begun.elapsed());
    middleware.metrics.answered(route, method, status.as_u16(), took);
    span.in_scope(|| match response.extensions_mut().remove::<InternalCause>() {
        Some(InternalCause(cause)) => {
            tracing::warn!(id = id_text, route, status = status.as_u16(), cause, "request failed");
        }
        None => tracing::debug!(id = id_text, route, method, status = status.as_u16(), ?took, "responded"),
    });
    if let Some(line) = audited {
        line.responded(&response);
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.entry("cache-control").or_insert(HeaderValue::from_static("no-store"));
    middleware.origins.allow(origin, headers);
    response
}

/// The response to a path that has no route.
pub async fn no_route() -> Problem {
    Problem::not_found("path")
}

/// The response to a method that a path does not have.
pub async fn no_method() -> Problem {
    Problem::new(Code::MethodNotAllowed, "this path does not have this method")
}
