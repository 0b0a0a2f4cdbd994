//! Every answer that is not a success: a body after RFC 9457 with a stable code, and a `type` that this server itself
//! resolves to a page of documentation.
//!
//! What went wrong inside is logged by the request's id and never answered.

use axum::{
    Json,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::kube_ext::CallError;

/// The page with a section for each code.
pub const PAGE: &str = include_str!("../../docs/problems.md");

/// What is wrong; a closed list, and a word of it never changes its meaning.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, strum::IntoStaticStr, strum::EnumIter, strum::EnumString,
)]
#[strum(serialize_all = "snake_case")]
pub enum Code {
    // --- of the request's form
    /// The head is no HTTP/1.1 request.
    MalformedRequest,
    /// The head is too large.
    HeadTooLarge,
    /// The body is no JSON that is taken here.
    MalformedBody,
    /// The body is JSON and not what the route takes.
    InvalidBody,
    /// The body is too long.
    BodyTooLarge,
    /// The body takes too long.
    BodyTooSlow,
    /// The body is of another type than JSON.
    UnsupportedMediaType,
    /// The part after `?` is not what the route takes.
    InvalidQuery,
    /// A header is doubled or malformed.
    InvalidHeader,
    /// The cursor is not one that was given out for this list.
    InvalidCursor,
    /// The path has no such method.
    MethodNotAllowed,
    // --- of who asks
    /// Neither key nor token was given.
    MissingCredentials,
    /// The key is not accepted.
    InvalidKey,
    /// The token is not accepted.
    InvalidToken,
    /// Too many refused keys or tokens came from this address.
    TooManyFailures,
    /// The key's scopes do not hold this.
    MissingScope,
    /// The administrator's rights do not hold this.
    Forbidden,
    /// This is for keys of tenants.
    KeyRequired,
    /// `X-Tenant-ID` names another tenant than the key's.
    TenantMismatch,
    /// The tenant is suspended, expired or being deleted.
    TenantInactive,
    // --- of what is asked for
    /// There is no such thing for who asks.
    NotFound,
    /// Something else was changed meanwhile, or is of that name.
    Conflict,
    /// The thing's state does not allow it.
    WrongState,
    /// The job has no log yet.
    NotStarted,
    /// The log is gone with its pod.
    LogGone,
    /// `If-Match` names another version than the present one.
    PreconditionFailed,
    /// The key of this request stands for another request.
    IdempotencyKeyReused,
    /// The rules of the API server do not allow such an object.
    InvalidObject,
    /// The job can never run.
    JobRejected,
    /// The node alone is more than the tenant's quotas allow.
    NodeRejected,
    /// A quota of the tenant is used up.
    QuotaExceeded,
    /// The hourly limit is reached.
    RateLimited,
    /// The tenant follows as many logs or jobs as it may.
    TooManyStreams,
    // --- of the server
    /// Keys can't be checked at the moment.
    KeysUnavailable,
    /// The Kubernetes API server does not answer.
    ClusterUnavailable,
    /// What is asked for is in the history, and the database does not answer.
    HistoryUnavailable,
    /// Too many requests are under way.
    Overloaded,
    /// The request took too long.
    TimedOut,
    /// A fault of this program.
    Internal,
}

impl Code {
    /// The word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.into()
    }

    /// The HTTP status that goes with it.
    #[must_use]
    pub fn status(self) -> StatusCode {
        match self {
            Self::MalformedRequest
            | Self::MalformedBody
            | Self::InvalidQuery
            | Self::InvalidHeader
            | Self::InvalidCursor => StatusCode::BAD_REQUEST,
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
            Self::MissingScope
            | Self::Forbidden
            | Self::KeyRequired
            | Self::TenantMismatch
            | Self::TenantInactive => StatusCode::FORBIDDEN,
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

/// An answer that is not a success.
#[derive(Clone, Debug)]
pub struct Problem {
    /// What is wrong.
    pub code: Code,
    rest: Box<Rest>,
}

/// Apart, so that what may fail returns little.
#[derive(Clone, Debug, Default)]
struct Rest {
    detail: String,
    reason: Option<String>,
    message: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
    inside: Option<Inside>,
}

/// What went wrong inside, for the log; travels with the response to where the request's id is known.
#[derive(Clone, Debug)]
pub struct Inside(pub String);

impl Problem {
    /// One of this code, with a sentence about this request.
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

    /// Nothing of that kind is there for who asks: the same for what is absent and what is somebody else's.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no such {what}"))
    }

    /// With the machine reason and the sentence that stand in the object's status.
    #[must_use]
    pub fn because(mut self, reason: Option<String>, message: Option<String>) -> Self {
        (self.rest.reason, self.rest.message) = (reason, message);
        self
    }

    /// With what is to be logged and not answered.
    #[must_use]
    pub fn inside(mut self, what: impl std::fmt::Display) -> Self {
        self.rest.inside = Some(Inside(what.to_string()));
        self
    }

    /// With a header more.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: impl std::fmt::Display) -> Self {
        if let Ok(value) = HeaderValue::from_str(&value.to_string()) {
            self.rest.headers.retain(|(present, _)| *present != name);
            self.rest.headers.push((name, value));
        }
        self
    }

    /// With the seconds after which to try again.
    #[must_use]
    pub fn retry_after(self, seconds: u64) -> Self {
        self.with_header(header::RETRY_AFTER, seconds.max(1))
    }
}

/// What the API server says of an object, in the words of this API: without the kind and name of the object that was
/// made of a body, and with the fields as they stand in a body.
fn invalid(message: &str, causes: &[(&str, &str)]) -> String {
    /// The field of rules that were not checked because of the other causes.
    const NO_FIELD: &str = "<nil>";
    let named: Vec<&(&str, &str)> =
        causes.iter().filter(|(field, _)| !field.is_empty() && *field != NO_FIELD).collect();
    let words: Vec<String> = named
        .into_iter()
        .map(|(path, words)| {
            let words = words.replace(&format!("{path} in body "), "");
            match field(path) {
                name if name.is_empty() => words,
                name => format!("{name}: {words}"),
            }
        })
        .collect();
    if words.is_empty() {
        let denied = message.split_once(" denied request: ").map(|(_, words)| words);
        let invalid = || message.split_once("\" is invalid: ").map(|(_, words)| words);
        return denied.or_else(invalid).unwrap_or(message).to_owned();
    }
    words.join("; ")
}

/// A field's path in an object, as a body has it: `spec.envFrom[0].configMap` is `env_from[0].config_map`.
fn field(path: &str) -> String {
    let path = path.strip_prefix("spec").or_else(|| path.strip_prefix("metadata")).unwrap_or(path);
    let path = path.strip_prefix('.').unwrap_or(path);
    let mut name = String::with_capacity(path.len() + 4);
    // What is in brackets is an index, or a name that was sent.
    let mut depth = 0_u32;
    for c in path.chars() {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => (),
        }
        if depth == 0 && c.is_ascii_uppercase() {
            name.push('_');
            name.push(c.to_ascii_lowercase());
        } else {
            name.push(c);
        }
    }
    name
}

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        let problem = match error.code() {
            Some(404) => Self::not_found("object"),
            Some(409) => Self::new(Code::Conflict, "the object was changed meanwhile: read it and try again"),
            Some(400 | 422) => {
                Self::new(Code::InvalidObject, invalid(error.refusal().unwrap_or_default(), &error.causes()))
            }
            Some(429) | None | Some(500..) => {
                Self::new(Code::ClusterUnavailable, "the Kubernetes API server does not answer at the moment")
            }
            Some(_) => Self::new(Code::Internal, "the request could not be carried out"),
        };
        match problem.code {
            // Its words hold what was sent, be it a password in the wrong field: they are the sender's alone.
            Code::InvalidObject => problem,
            _ => problem.inside(error),
        }
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

    /// What is said of this request.
    #[cfg(test)]
    pub(super) fn detail(&self) -> &str {
        &self.rest.detail
    }

    /// Its body as text, for what is answered without a request.
    #[must_use]
    pub fn text(&self) -> String {
        self.body().to_string()
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = (self.code.status(), Json(self.body())).into_response();
        let Rest { headers: more, inside, .. } = *self.rest;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.extend(more);
        if let Some(inside) = inside {
            response.extensions_mut().insert(inside);
        }
        response
    }
}

/// The section of the page about a code.
#[must_use]
pub fn section(code: &str) -> Option<&'static str> {
    let code: Code = code.parse().ok()?;
    let heading = format!("## {}\n", code.as_str());
    let begin = PAGE.find(&heading)?;
    let rest = &PAGE[begin..];
    let end = rest[heading.len()..].find("\n## ").map_or(rest.len(), |end| heading.len() + end + 1);
    Some(&rest[..end])
}

/// What a code means, in a sentence.
#[must_use]
pub fn meaning(code: Code) -> &'static str {
    let paragraph = section(code.as_str()).and_then(|section| section.lines().nth(2)).unwrap_or_default();
    // After `Status NNN. `.
    paragraph.split_once(". ").map_or(paragraph, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use strum::IntoEnumIterator;

    use super::*;
    use crate::kube_ext::{
        mock::{client, refusal},
        within,
    };

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
    fn what_is_inside_stays_inside() {
        let problem = Problem::new(Code::Internal, "sorry").inside("password=geheim").retry_after(0);
        let response = problem.into_response();
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.extensions().get::<Inside>().unwrap().0, "password=geheim");
    }

    #[test]
    fn an_invalid_object_is_explained_in_the_words_of_this_api() {
        for (message, causes, said) in [
            (
                "Job.crofter.io \"job-1\" is invalid: [spec.envFrom[0].configMap: Invalid value: …, <nil>: Invalid value: null: some …]",
                &[
                    (
                        "spec.envFrom[0].configMap",
                        "Invalid value: \"A B\": spec.envFrom[0].configMap in body should match '^[a-z]+$'",
                    ),
                    ("<nil>", "Invalid value: null: some validation rules were not checked"),
                ][..],
                "env_from[0].config_map: Invalid value: \"A B\": should match '^[a-z]+$'",
            ),
            (
                "…",
                &[("spec", "Invalid value: give an image"), ("spec.parameters[aB.cD]", "Too long")],
                "Invalid value: give an image; parameters[aB.cD]: Too long",
            ),
            ("…", &[("metadata.name", "Required value")], "name: Required value"),
            (
                "Job.crofter.io \"job-1\" is invalid: spec.image: Too long: may not be more than 1024 bytes",
                &[],
                "spec.image: Too long: may not be more than 1024 bytes",
            ),
            (
                "jobs.crofter.io \"job-1\" is forbidden: ValidatingAdmissionPolicy 'crofter-jobs' with binding 'crofter-jobs' denied request: queue live is closed",
                &[("", "queue live is closed")],
                "queue live is closed",
            ),
            ("no more is said", &[("<nil>", "x")], "no more is said"),
        ] {
            assert_eq!(invalid(message, causes), said);
        }
    }

    #[tokio::test]
    async fn what_the_api_server_says_of_what_was_sent_is_the_senders_alone() {
        let words = "spec.pool: Invalid value: \"geheim\"";
        for (status, logged) in [(422, false), (400, false), (500, true), (403, true)] {
            let pods: Api<Pod> = Api::namespaced(client(move |_| refusal(status, words)), "x");
            let problem = Problem::from(within("failed to read a pod", pods.get("x")).await.unwrap_err());
            assert_eq!(problem.rest.detail.contains("geheim"), !logged, "{status}");
            let response = problem.into_response();
            assert_eq!(response.extensions().get::<Inside>().is_some(), logged, "{status}");
        }
    }
}
