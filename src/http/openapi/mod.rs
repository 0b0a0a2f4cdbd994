//! What the REST API is, for programs: an OpenAPI 3.1 document of the routes themselves.
//!
//! It is put together from the table of routes ([`Routes`](super::routes::Routes)), the arguments of their handlers and the
//! types that serde reads and writes, with the bounds of the CRDs, so that it can't say anything else than the server
//! does. `docs/openapi.json` is checked in; `/openapi.json` is the same and `/docs` is it for people.

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

pub use self::operation::{Describes, Inputs, Operation, READABLE, Who};
use self::schemas::Schemas;
use super::{
    problem::{Code, meaning},
    routes::Described,
};
use crate::api_types::{Job, Tenant, TenantApiKey};

const ABOUT: &str = "Jobs, API keys and tenants of Crofter. Every path below `/v1` is also served without `/v1`, for clients of old.\n\
    Every refusal is a problem (RFC 9457) with a stable `code`. `X-Request-ID` is taken from the request where it has one of up to 64 letters, digits, `-`, `_` and `.`, and is else made; it stands in the log.\n\
    Bodies are JSON of at most 1 MiB and 32 levels, no name twice and no NUL character.";

/// The document.
#[must_use]
pub fn document(routes: &[Described]) -> Value {
    let mut schemas = Schemas::new();
    let mut paths: Map<String, Value> = Map::new();
    for Described { method, path, tag, operation } in routes {
        let at = paths.entry(path.clone()).or_insert_with(|| json!({}));
        at[*method] = operation.object(tag, &mut schemas);
    }
    let bounded = [
        ("NewJob", spec(&Job::crd())),
        ("NewKey", spec(&TenantApiKey::crd())),
        ("NewTenant", spec(&Tenant::crd())),
        ("TenantChanges", spec(&Tenant::crd())),
    ];
    let mut schemas = schemas.finish(&bounded);
    schemas.insert("Problem".to_owned(), problem());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Crofter",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": schemas, "headers": headers(), "securitySchemes": credentials()},
    })
}

/// The document as the file that is checked in.
///
/// # Errors
/// Never; the serialiser's own.
pub fn to_text(document: &Value) -> serde_json::Result<String> {
    serde_json::to_string_pretty(document).map(|text| text + "\n")
}

fn spec(crd: &impl serde::Serialize) -> Value {
    let crd = serde_json::to_value(crd).unwrap_or_default();
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec").cloned().unwrap_or_default()
}

fn problem() -> Value {
    let codes: Vec<&str> = Code::iter().map(Code::as_str).collect();
    let meanings: Vec<String> =
        Code::iter().map(|code| format!("- `{}`: {}", code.as_str(), meaning(code))).collect();
    let meanings = format!("What is wrong; a word never changes its meaning.\n{}", meanings.join("\n"));
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "type": "object",
        "description": "An answer that is no success (RFC 9457).",
        "properties": {
            "type": text("Path of this server where the code is described."),
            "title": text("The status in words."),
            "status": {"type": "integer", "minimum": 400, "maximum": 599, "description": "The HTTP status."},
            "code": {"type": "string", "enum": codes, "description": meanings},
            "detail": text("A sentence about this request."),
            "reason": text("Machine reason, as in the object's status."),
            "message": text("What the object's status says, with numbers."),
        },
        "required": ["type", "title", "status", "code", "detail"],
        "additionalProperties": false,
    })
}

/// Headers of answers. Those that are required are on every answer that names them.
fn headers() -> Value {
    let header = |description: &str, required: bool, schema: Value| json!({"description": description, "required": required, "schema": schema});
    let text = |pattern: &str| json!({"type": "string", "pattern": pattern});
    json!({
        "ETag": header("Version of the object, for `If-Match`.", false, text("^\"[^\"]+\"$")),
        "Idempotency-Replayed": header("The request was carried out before.", false, json!({"const": "true"})),
        "Location": header("Path of the new object.", false, text("^/v1/")),
        "RateLimit": header(
            "What is left of the hour (draft-ietf-httpapi-ratelimit-headers).",
            false,
            text("^\"jobs-per-hour\";r=[0-9]+;t=[0-9]+$"),
        ),
        "RateLimit-Policy": header(
            "The hourly limit (draft-ietf-httpapi-ratelimit-headers).",
            false,
            text("^\"jobs-per-hour\";q=[0-9]+;w=3600$"),
        ),
        "Retry-After": header("Seconds to wait.", false, json!({"type": "integer", "minimum": 1})),
        "WWW-Authenticate": header("Which credentials are asked for.", true, text("^Bearer ")),
        "X-Crofter-Source": header(
            "`cache` where the history is away, so that the answer has only what is in the cluster.",
            false,
            json!({"const": "cache"}),
        ),
        "X-Request-ID": header("Name of the request in the log.", true, text("^[-_.0-9A-Za-z]{1,64}$")),
    })
}

fn credentials() -> Value {
    json!({
        "key": {"type": "http", "scheme": "bearer", "bearerFormat": "crft_…", "description": "An API key. A requirement names the scope."},
        "keyHeader": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same in a header of its own."},
        "token": {"type": "http", "scheme": "bearer", "bearerFormat": "Kubernetes token", "description": "A Kubernetes token of an administrator, who may do what his rights in the cluster (RBAC on crofter.io) allow."},
    })
}

/// The document and its page, as they are served.
#[derive(Clone, Debug, Default)]
pub struct Pages(Arc<Texts>);

#[derive(Debug, Default)]
struct Texts {
    json: String,
    html: String,
    policy: String,
}

impl Pages {
    /// Those of a document.
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

    /// `GET /docs`: needs nothing else, from here or elsewhere, and the policy has the browser see to that.
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
