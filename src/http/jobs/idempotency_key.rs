//! The `Idempotency-Key` of a request that creates a job.

use axum::{
    extract::FromRequestParts,
    http::{HeaderName, request::Parts},
};
use serde_json::json;

use crate::http::{
    header::only,
    openapi::{Describes, HEADER_TEXT, Operation},
    problem::{Code, Problem},
};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Most characters of an `Idempotency-Key`.
const MAX_LENGTH: usize = 255;

/// The `Idempotency-Key`, where the request has one.
pub struct IdempotencyKey(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let key = only(&parts.headers, &IDEMPOTENCY_KEY)?;
        if key.is_some_and(|key| !(1..=MAX_LENGTH).contains(&key.len())) {
            let detail = format!("Idempotency-Key must have 1 to {MAX_LENGTH} characters");
            return Err(Problem::new(Code::InvalidHeader, detail));
        }
        Ok(Self(key.map(str::to_owned)))
    }
}

impl Describes for IdempotencyKey {
    fn describe(operation: &mut Operation) {
        let schema =
            json!({"type": "string", "minLength": 1, "maxLength": MAX_LENGTH, "pattern": HEADER_TEXT});
        let description = "This key identifies the request: however often it is sent, it creates one job.";
        operation.takes_header("Idempotency-Key", description, &schema);
    }
}
