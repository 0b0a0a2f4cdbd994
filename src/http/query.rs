//! What stands after `?`, strictly: unknown and doubled parameters are refused.

use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::{
    openapi::{Describes, Operation},
    problem::{Code, Problem},
};

/// Parameters of the form `T`, which must refuse unknown fields itself.
pub struct Params<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(params)) => Ok(Self(params)),
            Err(rejection) => Err(Problem::new(Code::InvalidQuery, rejection.body_text())),
        }
    }
}

impl<T: JsonSchema> Describes for Params<T> {
    fn describe(operation: &mut Operation) {
        operation.takes_query::<T>();
    }
}
