//! Headers: each once, and of readable text.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts},
};
use serde_json::json;

use super::{
    openapi::{Describes, Operation},
    problem::{Code, Problem},
};

/// A header that may be there once.
///
/// # Errors
/// `invalid_header` when it is there twice, or not of visible ASCII characters.
pub fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut all = headers.get_all(name).iter();
    let Some(value) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(Problem::new(Code::InvalidHeader, format!("{name} is given twice")));
    }
    let text = value.to_str();
    text.map(Some).map_err(|_| Problem::new(Code::InvalidHeader, format!("{name} is no readable text")))
}

/// The `ETag` of an object: its resource version.
#[must_use]
pub fn etag(version: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("\"{version}\"")).ok()
}

/// The resource version that `If-Match` asks for; `None` where any will do.
///
/// # Errors
/// `invalid_header` for what is no strong `ETag`.
fn if_match(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(text) = only(headers, &header::IF_MATCH)? else { return Ok(None) };
    let text = text.trim();
    if text == "*" {
        return Ok(None);
    }
    let tag = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match tag.filter(|tag| !tag.is_empty() && !tag.contains('"')) {
        Some(tag) => Ok(Some(tag.to_owned())),
        None => Err(Problem::new(Code::InvalidHeader, "If-Match is the ETag of an answer, in quotes, or *")),
    }
}

/// The version that a change is to be made to; `None` where any will do.
pub struct IfMatch(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        if_match(&parts.headers).map(Self)
    }
}

impl Describes for IfMatch {
    fn describe(operation: &mut Operation) {
        let schema = json!({"type": "string", "minLength": 1, "pattern": "^(\\*|\"[!#-~]+\")$"});
        operation.takes_header(
            "If-Match",
            "This is the `ETag` of the version that is to be changed, or `*`.",
            &schema,
        );
        operation.may_refuse([Code::PreconditionFailed]);
    }
}

/// Refuses where `If-Match` asks for another version than this one.
///
/// # Errors
/// `precondition_failed`.
pub fn match_version(wanted: Option<&str>, present: Option<&str>) -> Result<(), Problem> {
    match wanted {
        Some(wanted) if present != Some(wanted) => {
            Err(Problem::new(Code::PreconditionFailed, "the object is of another version than If-Match says"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::IF_MATCH, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    #[test]
    fn a_version_is_asked_for_in_quotes() {
        assert_eq!(if_match(&headers(&[])).unwrap(), None);
        assert_eq!(if_match(&headers(&["*"])).unwrap(), None);
        assert_eq!(if_match(&headers(&["\"17\""])).unwrap().as_deref(), Some("17"));
        for bad in
            [&["17"][..], &["W/\"17\""], &["\"1\", \"2\""], &["\"\""], &["\"1\"", "\"1\""], &["\"\u{e9}\""]]
        {
            assert_eq!(if_match(&headers(bad)).unwrap_err().code, Code::InvalidHeader, "{bad:?}");
        }
        assert!(match_version(Some("1"), Some("1")).is_ok() && match_version(None, Some("1")).is_ok());
        assert_eq!(match_version(Some("1"), Some("2")).unwrap_err().code, Code::PreconditionFailed);
    }
}
