//! The REST API as an OpenAPI 3.1 document, generated from the routes themselves.
//!
//! Its sources are the table of routes ([`Routes`](super::routes::Routes)), the arguments of their handlers and the types
//! that serde reads and writes, with the bounds of the CRDs, so that the document can't differ from the server.
//! `docs/openapi.json` is checked in; `/openapi.json` serves the same document, and `/docs` serves it as a page.

mod operation;
mod page;
mod schemas;

use std::sync::Arc;

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};
use strum::IntoEnumIterator;

pub use self::operation::{AllowedCallers, DescribedRoute, Describes, HEADER_TEXT, Inputs, Operation};
use self::schemas::Schemas;
#[cfg(test)]
pub(crate) use self::{
    page::{form, needs, operations},
    schemas::not_null,
};
use super::problem::{Code, meaning};
use crate::api_types::{Job, Tenant, TenantApiKey};

const ABOUT: &str = "This API manages the jobs, API keys and tenants of Crofter. The server also answers every path below `/v1` without that prefix, for backwards compatibility.\n\
    Every refusal is a problem (RFC 9457) with a stable `code`. Every response has an `X-Request-ID`, which the log has too. It is the one of the request where that has up to 64 letters, digits, `-`, `_` and `.`, and otherwise a random one.\n\
    A body is JSON of at most 1 MiB and 32 levels. It has no name twice in one object, and no NUL character.";

/// The groups of operations.
const TAGS: [(&str, &str); 6] = [
    ("Audit", "These operations describe the changes that were requested, and by whom."),
    ("Jobs", "These operations submit, read and end the jobs of the tenant whose key is sent."),
    ("Keys", "These operations manage the API keys of a tenant."),
    ("Offer", "These operations describe what the administrators of the cluster offer."),
    ("Server", "These operations describe the server and need no credentials."),
    ("Tenants", "These operations manage tenants and what belongs to them."),
];

/// The document.
#[must_use]
pub fn document(routes: &[DescribedRoute]) -> Value {
    let mut schemas = Schemas::new();
    let mut paths: Map<String, Value> = Map::new();
    for DescribedRoute { method, path, tag, operation } in routes {
        let at = paths.entry(path.clone()).or_insert_with(|| json!({}));
        at[*method] = operation.object(tag, &mut schemas);
    }
    let bounded = [
        ("JobCreate", spec(&Job::crd())),
        ("KeyCreate", spec(&TenantApiKey::crd())),
        ("TenantCreate", spec(&Tenant::crd())),
        ("TenantChanges", spec(&Tenant::crd())),
    ];
    let mut schemas = schemas.finish(&bounded);
    schemas.insert("Problem".to_owned(), problem());
    schemas.insert("ProblemCode".to_owned(), problem_code());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Crofter",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "contact": {"name": "The administrator of the cluster that runs it"},
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This is the server that the document comes from."}],
        "tags": TAGS.map(|(name, description)| json!({"name": name, "description": description})),
        "paths": paths,
        "components": {"schemas": schemas, "headers": headers(), "securitySchemes": credentials()},
    })
}

/// The document as the text of the checked-in file.
///
/// # Errors
/// The serialiser's own, which do not occur for this document.
pub fn to_text(document: &Value) -> serde_json::Result<String> {
    serde_json::to_string_pretty(document).map(|text| text + "\n")
}

fn spec(crd: &impl serde::Serialize) -> Value {
    let crd = serde_json::to_value(crd).unwrap_or_default();
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").cloned().unwrap_or_default()
}

fn problem_code() -> Value {
    let codes: Vec<&str> = Code::iter().map(Code::as_str).collect();
    let meanings: Vec<String> =
        Code::iter().map(|code| format!("- `{}`: {}", code.as_str(), meaning(code))).collect();
    let meanings =
        format!("A code says what is wrong. The meaning of a code never changes.\n{}", meanings.join("\n"));
    json!({"type": "string", "enum": codes, "description": meanings})
}

fn problem() -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "type": "object",
        "description": "A problem (RFC 9457) is the body of every response that is not a success.",
        "properties": {
            "type": text("This is the path on this server that describes the code."),
            "title": text("This is the name of the HTTP status."),
            "status": {
                "type": "integer", "format": "int32", "minimum": 400, "maximum": 599,
                "description": "This is the HTTP status of the response.",
            },
            "code": {"$ref": "#/components/schemas/ProblemCode"},
            "detail": text("This sentence says what is wrong with this request."),
            "reason": text("This is the reason in the status of the object, where the object has one."),
            "message": text("This is the message in the status of the object, which has the numbers."),
        },
        "required": ["type", "title", "status", "code", "detail"],
        "additionalProperties": false,
    })
}

/// Headers of responses. A required header is on every response that refers to it.
fn headers() -> Value {
    let header = |description: &str, required: bool, schema: Value| json!({"description": description, "required": required, "schema": schema});
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    let only = |word: &str| json!({"type": "string", "enum": [word]});
    json!({
        "ETag": header("This is the version of the object, which `If-Match` takes.", false, text("^\"[^\"]+\"$")),
        "Idempotency-Replayed": header(
            "This is `true` where an earlier request with the same `Idempotency-Key` made the job.",
            false,
            only("true"),
        ),
        "Location": header("This is the path of the new object.", false, text("^/v1/")),
        "RateLimit": header(
            "This is the number of jobs that the hourly limit still allows, and the number of seconds until it is reset (draft-ietf-httpapi-ratelimit-headers).",
            false,
            text("^\"jobs-per-hour\";r=[0-9]+;t=[0-9]+$"),
        ),
        "RateLimit-Policy": header(
            "This is the hourly limit of jobs (draft-ietf-httpapi-ratelimit-headers).",
            false,
            text("^\"jobs-per-hour\";q=[0-9]+;w=3600$"),
        ),
        "Retry-After": header(
            "This is the number of seconds after which a client may try again.",
            false,
            json!({"type": "integer", "format": "int64", "minimum": 1}),
        ),
        "WWW-Authenticate": header("This header names the credentials that the server accepts.", true, text("^Bearer ")),
        "X-Crofter-Source": header(
            "This is `cache` while the history is unavailable. The response then has only what is in the cluster.",
            false,
            only("cache"),
        ),
        "X-Request-ID": header("This is the id of the request, which the log has too.", true, text("^[-_.0-9A-Za-z]{1,64}$")),
    })
}

fn credentials() -> Value {
    json!({
        "apiKey": {
            "type": "http", "scheme": "bearer", "bearerFormat": "crft_…",
            "description": "An API key authenticates a tenant. The requirement of an operation names the scope that the key needs.",
        },
        "apiKeyHeader": {
            "type": "apiKey", "in": "header", "name": "X-API-Key",
            "description": "The same API key may be sent in this header instead.",
        },
        "kubernetesToken": {
            "type": "http", "scheme": "bearer", "bearerFormat": "Kubernetes token",
            "description": "A Kubernetes token authenticates a user of the cluster, whose RBAC rights decide what is allowed. The requirement of an operation on a tenant names the rights that the user needs in the tenant's namespace.",
        },
    })
}

/// The document and its page, as the server sends them.
#[derive(Clone, Debug, Default)]
pub struct Pages(Arc<Texts>);

#[derive(Debug, Default)]
struct Texts {
    json: String,
    html: String,
    policy: String,
}

impl Pages {
    /// The texts of a document.
    #[must_use]
    pub fn of(document: &Value) -> Self {
        let json = to_text(document).unwrap_or_default();
        Self(Arc::new(Texts { json, html: page::html(document), policy: page::policy() }))
    }

    /// `GET /openapi.json`.
    #[must_use]
    pub fn json(&self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], self.0.json.clone()).into_response()
    }

    /// `GET /docs`: a page that loads nothing else, which its policy has the browser enforce.
    #[must_use]
    pub fn html(&self) -> Response {
        const REFERRER_POLICY: HeaderName = header::REFERRER_POLICY;
        let mut response =
            ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], self.0.html.clone()).into_response();
        let headers = response.headers_mut();
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        headers.extend(
            HeaderValue::from_str(&self.0.policy).ok().map(|value| (header::CONTENT_SECURITY_POLICY, value)),
        );
        response
    }
}

#[cfg(test)]
mod tests;
