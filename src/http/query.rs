//! The query of a request, strictly: unknown and doubled parameters are refused.

use std::error::Error as _;

use axum::{
    extract::{FromRequestParts, Query},
    http::request::Parts,
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::{
    body::in_plain_words,
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
            // Its source names the parameter; its own message has names of the program.
            Err(rejection) => {
                let message = rejection.source().map_or_else(|| rejection.body_text(), ToString::to_string);
                Err(Problem::new(Code::InvalidQuery, in_plain_words(&message)))
            }
        }
    }
}

impl<T: JsonSchema> Describes for Params<T> {
    fn describe(operation: &mut Operation) {
        operation.takes_query::<T>();
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Known {
        limit: Option<u32>,
    }

    async fn read(query: &str) -> Result<Option<u32>, String> {
        let (mut parts, ()) = Request::builder().uri(format!("/?{query}")).body(()).unwrap().into_parts();
        let params = Params::<Known>::from_request_parts(&mut parts, &()).await;
        params.map(|Params(known)| known.limit).map_err(|problem| problem.detail().to_owned())
    }

    #[tokio::test]
    async fn an_error_names_the_parameter_and_nothing_of_the_program() {
        assert_eq!(read("limit=7").await, Ok(Some(7)));
        for (query, said) in [
            ("limit=x", "limit: give a whole number that is not out of range"),
            ("limit=-1", "limit: give a whole number that is not out of range"),
            ("limit=99999999999", "limit: give a whole number that is not out of range"),
            ("limits=1", "limits: unknown field `limits`, expected `limit`"),
            ("limit=1&limit=2", "duplicate field `limit`"),
        ] {
            assert_eq!(read(query).await, Err(said.to_owned()), "{query}");
        }
    }
}
