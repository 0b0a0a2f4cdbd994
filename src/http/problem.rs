//! Every response that is not a success: a body in the form of RFC 9457 with a stable code, and a `type` that this server
//! itself resolves to a page of documentation.
//!
//! The internal cause of a problem is logged with the request's id and never sent.

mod api_error;

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

pub use self::api_error::is_denied;

/// The detail of `tenant_inactive`.
pub const INACTIVE_TENANT: &str = "invalid or inactive tenant";
/// The documentation, with a section for each code.
pub const PAGE: &str = include_str!("../../docs/problems.md");

/// What is wrong, as a closed list. The meaning of a code never changes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::EnumIter, strum::EnumString,
)]
#[strum(serialize_all = "snake_case")]
pub enum Code {
    // --- The form of the request
    /// The head is not one of an HTTP/1.1 request.
    MalformedRequest,
    /// The head is too large.
    HeadTooLarge,
    /// The body is not JSON, or not JSON that this server accepts.
    MalformedBody,
    /// The body is JSON, but not what the route accepts.
    InvalidBody,
    /// The body is too long.
    BodyTooLarge,
    /// The body takes too long.
    BodyTooSlow,
    /// The body's media type is not JSON.
    UnsupportedMediaType,
    /// The query is not what the route accepts.
    InvalidQuery,
    /// A header is given twice or is malformed.
    InvalidHeader,
    /// The cursor does not belong to this list.
    InvalidCursor,
    /// The path does not have this method.
    MethodNotAllowed,
    // --- The caller
    /// The request has neither a key nor a token.
    MissingCredentials,
    /// The key is not accepted.
    InvalidKey,
    /// The token is not accepted.
    InvalidToken,
    /// Too many refused keys or tokens came from this address.
    TooManyFailures,
    /// The key lacks the scope.
    MissingScope,
    /// The user's rights do not allow this.
    Forbidden,
    /// A user has not named the tenant.
    TenantRequired,
    /// The request names another tenant than the key's, or two tenants.
    TenantMismatch,
    /// The tenant is suspended, expired or being deleted.
    TenantInactive,
    // --- The object
    /// The object does not exist, or not for this caller.
    NotFound,
    /// The object has changed, or an object of that name exists.
    Conflict,
    /// The object's state does not allow this.
    WrongState,
    /// The job has no log yet.
    NotStarted,
    /// The log was deleted with its pod.
    LogGone,
    /// `If-Match` does not name the current version.
    PreconditionFailed,
    /// The `Idempotency-Key` was used for another request.
    IdempotencyKeyReused,
    /// The API server, its policies or its webhooks do not allow such an object.
    InvalidObject,
    /// The job can never run.
    JobRejected,
    /// The node alone exceeds the tenant's quotas.
    NodeRejected,
    /// A quota of the tenant is used up.
    QuotaExceeded,
    /// The hourly limit is reached.
    RateLimited,
    /// The tenant follows as many logs or jobs as it may.
    TooManyStreams,
    // --- The server
    /// The server can't check keys at the moment.
    KeysUnavailable,
    /// The Kubernetes API server does not answer.
    ClusterUnavailable,
    /// The object is in the history, and the database does not answer.
    HistoryUnavailable,
    /// Too many requests are in flight.
    Overloaded,
    /// The request took too long.
    TimedOut,
    /// The program has a fault.
    Internal,
}

impl Code {
    /// The code as clients see it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The HTTP status of responses with this code.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::MalformedRequest
            | Self::MalformedBody
            | Self::InvalidQuery
            | Self::InvalidHeader
            | Self::InvalidCursor
            | Self::TenantRequired => StatusCode::BAD_REQUEST,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::InvalidBody
            | Self::InvalidObject
            | Self::IdempotencyKeyReused
            | Self::JobRejected
            | Self::NodeRejected => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::MissingCredentials | Self::InvalidKey | Self::InvalidToken => StatusCode::UNAUTHORIZED,
            Self::TooManyFailures | Self::QuotaExceeded | Self::RateLimited | Self::TooManyStreams => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::MissingScope | Self::Forbidden | Self::TenantMismatch | Self::TenantInactive => {
                StatusCode::FORBIDDEN
            }
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Conflict | Self::WrongState | Self::NotStarted => StatusCode::CONFLICT,
            Self::LogGone => StatusCode::GONE,
            Self::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
            Self::KeysUnavailable
            | Self::ClusterUnavailable
            | Self::HistoryUnavailable
            | Self::Overloaded
            | Self::TimedOut => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// A response that is not a success.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What is wrong.
    pub code: Code,
    rest: Box<Rest>,
}

/// Boxed, so that a `Result` with a problem is small.
#[derive(Clone, Debug, Default)]
struct Rest {
    detail: String,
    reason: Option<String>,
    message: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    cause: Option<InternalCause>,
}

/// The internal cause of a problem, for the log. It is an extension of the response until the middleware logs it.
#[derive(Clone, Debug)]
pub struct InternalCause(pub String);

impl Problem {
    /// A problem of this code, with a sentence about this request.
    #[must_use]
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let headers = match code.status() {
            StatusCode::UNAUTHORIZED => {
                vec![(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"crofter\""))]
            }
            StatusCode::SERVICE_UNAVAILABLE => vec![(header::RETRY_AFTER, HeaderValue::from_static("1"))],
            _ => Vec::new(),
        };
        Self { code, rest: Box::new(Rest { detail: detail.into(), headers, ..Rest::default() }) }
    }

    /// The object does not exist for this caller: the same for an absent object and for another tenant's.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("this {what} does not exist"))
    }

    /// With the reason and the message of the object's status.
    #[must_use]
    pub fn with_reason(mut self, reason: Option<String>, message: Option<String>) -> Self {
        (self.rest.reason, self.rest.message) = (reason, message);
        self
    }

    /// With the internal cause, which is logged and not sent.
    #[must_use]
    pub fn with_cause(mut self, what: impl std::fmt::Display) -> Self {
        self.rest.cause = Some(InternalCause(what.to_string()));
        self
    }

    /// With one more header.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: impl std::fmt::Display) -> Self {
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            self.rest.headers.retain(|(present, _)| *present != name);
            self.rest.headers.push((name, value));
        }
        self
    }

    /// With the number of seconds after which a client may try again.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.with_header(header::RETRY_AFTER, seconds.max(1))
    }
}

impl Problem {
    fn body(&self) -> Value {
        let (status, code) = (self.code.status(), self.code.as_str());
        let Rest { detail, reason, message, .. } = &*self.rest;
        let mut body = json!({
            "type": format!("/problems/{code}"),
            "title": status.canonical_reason().unwrap_or_default(),
            "status": status.as_u16(),
            "code": code,
            "detail": detail,
        });
        for (field, value) in [("reason", reason), ("message", message)] {
            if let Some(value) = value {
                body[field] = value.as_str().into();
            }
        }
        body
    }

    /// The sentence about this request.
    #[cfg(test)]
    pub(super) fn detail(&self) -> &str {
        &self.rest.detail
    }

    /// The body as text, for a response outside the router.
    #[must_use]
    pub fn text(&self) -> String {
        self.body().to_string()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.code.status(), Json(self.body())).into_response();
        let Rest { headers: more, cause, .. } = *self.rest;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(more);
        if let Some(cause) = cause {
            response.extensions_mut().insert(cause);
        }
        response
    }
}

/// The section about a code.
#[must_use]
pub fn section(code: &str) -> Option<&'static str> {
    let code: Code = code.parse().ok()?;
    let heading = format!("## {}\n", code.as_str());
    let begin = PAGE.find(&heading)?;
    let rest = &PAGE[begin..];
    let end = rest[heading.len()..].find("\n## ").map_or(rest.len(), |end| heading.len() + end + 1);
    Some(&rest[..end])
}

/// The meaning of a code, in sentences.
#[must_use]
pub fn meaning(code: Code) -> String {
    let lines = section(code.as_str()).unwrap_or_default().lines().skip(2);
    let paragraph = lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>().join(" ");
    // After `Status NNN. `.
    paragraph.split_once(". ").map(|(_, rest)| rest.to_owned()).unwrap_or(paragraph)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use strum::IntoEnumIterator;

    use super::*;

    #[test]
    fn each_code_has_its_section_with_its_status_and_no_section_is_without_a_code() {
        for code in Code::iter() {
            let text = section(code.as_str()).unwrap_or_else(|| panic!("{code:?} has no section"));
            let status = format!("{}", code.status().as_u16());
            assert!(text.contains(&status) && text.lines().count() > 2, "{text}");
            assert!(meaning(code).len() > 10 && !meaning(code).starts_with("Status"), "{text}");
            assert_eq!(text.matches("## ").count(), 1);
        }
        let headings: BTreeSet<&str> = PAGE.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        assert_eq!(headings, Code::iter().map(Code::as_str).collect());
    }

    #[test]
    fn the_internal_cause_is_not_sent() {
        let problem = Problem::new(Code::Internal, "sorry").with_cause("password=geheim").retry_after(0);
        let response = problem.into_response();
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.extensions().get::<InternalCause>().unwrap().0, "password=geheim");
    }
}
