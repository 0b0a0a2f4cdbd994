//! Headers: each at most once, and of visible characters.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts},
};
use serde_json::json;

use super::{
    openapi::{Describes, Operation},
    problem::{Code, Problem},
};

/// The header with the tenant that a client expects its key to belong to, or that a user names.
pub const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");

/// The value of a header that a request has at most once.
///
/// # Errors
/// `invalid_header` where the request has it twice, or not in visible ASCII characters.
pub fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut all = headers.get_all(name).iter();
    let Some(value) = all.next() else { return Ok(None) };
    if all.next().is_some() {
        return Err(Problem::new(Code::InvalidHeader, format!("{name} is given twice")));
    }
    let text = value.to_str();
    text.map(Some).map_err(|_| {
        Problem::new(Code::InvalidHeader, format!("{name} has characters other than visible ASCII"))
    })
}

/// The `ETag` of an object, which is its resource version.
#[must_use]
pub fn etag(version: &str) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("\"{version}\"")).ok()
}

/// The versions that `If-Match` names, `None` where any version matches: a list of entity tags (RFC 9110, 13.1.1), of which
/// weak ones match nothing.
///
/// # Errors
/// `invalid_header` where the value is not a list of entity tags.
fn if_match(headers: &HeaderMap) -> Result<Option<Vec<String>>, Problem> {
    let malformed = || {
        let detail = "If-Match must be *, or ETags of responses, in quotes and separated by commas";
        Problem::new(Code::InvalidHeader, detail)
    };
    let lines: Vec<&str> = headers
        .get_all(header::IF_MATCH)
        .iter()
        .map(|value| value.to_str().map_err(|_| malformed()))
        .collect::<Result<_, _>>()?;
    if lines.is_empty() || lines[..] == ["*"] {
        return Ok(None);
    }
    let mut strong = Vec::new();
    // A version has no comma, so each comma separates two tags.
    for tag in lines.iter().flat_map(|line| line.split(',')).map(str::trim).filter(|tag| !tag.is_empty()) {
        let opaque = tag.strip_prefix("W/").unwrap_or(tag);
        let text = opaque.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        match text.filter(|text| !text.contains(['"', ' '])) {
            Some(text) if opaque == tag => strong.push(text.to_owned()),
            Some(_) => (),
            None => return Err(malformed()),
        }
    }
    Ok(Some(strong))
}

/// The versions of an object that a request may change; `None` where it may change any.
pub struct IfMatch(Option<Vec<String>>);

impl IfMatch {
    /// The current version, where the header names versions and this is one of them.
    ///
    /// # Errors
    /// `precondition_failed` where the header does not name the current version.
    pub fn version(&self, current: Option<&str>) -> Result<Option<String>, Problem> {
        match (&self.0, current) {
            (None, _) => Ok(None),
            (Some(named), Some(current)) if named.iter().any(|one| one == current) => {
                Ok(Some(current.to_owned()))
            }
            (Some(_), _) => {
                let detail = "the object's version is not one that If-Match names";
                Err(Problem::new(Code::PreconditionFailed, detail))
            }
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        if_match(&parts.headers).map(Self)
    }
}

impl Describes for IfMatch {
    fn describe(operation: &mut Operation) {
        const TAGS: &str = "^(\\*|(W/)?\"[!#-+.-~-]*\"( *, *(W/)?\"[!#-+.-~-]*\")*)$";
        let schema = json!({"type": "string", "minLength": 1, "pattern": TAGS});
        operation.takes_header(
            "If-Match",
            "This is the `ETag` of the version that the request may change, or a list of several, or `*`.",
            &schema,
        );
        operation.add_problems([Code::PreconditionFailed]);
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
    fn if_match_names_one_or_several_versions_in_quotes() {
        let of = |values: &[&str]| IfMatch(if_match(&headers(values)).unwrap());
        assert_eq!(of(&[]).version(Some("17")).unwrap(), None);
        assert_eq!(of(&["*"]).version(Some("17")).unwrap(), None);
        for one in [&["\"17\""][..], &["\"1\", \"17\""], &["\"1\"", "\"17\""], &["W/\"1\",\"17\""]] {
            assert_eq!(of(one).version(Some("17")).unwrap().as_deref(), Some("17"), "{one:?}");
        }
        for other in
            [&["\"1\""][..], &["W/\"17\""], &["\"1\", W/\"17\""], &["\"\""], &["\"1\"", "\"1\""], &[","]]
        {
            let refused = of(other).version(Some("17")).unwrap_err();
            assert_eq!(refused.code, Code::PreconditionFailed, "{other:?}");
        }
        assert!(of(&["\"17\""]).version(None).is_err());
    }

    #[test]
    fn a_value_that_is_not_a_list_of_versions_is_refused() {
        for bad in [&["17"][..], &["w/\"17\""], &["\"17"], &["\"1\" \"2\""], &["*, \"1\""], &["\"\u{e9}\""]] {
            assert_eq!(if_match(&headers(bad)).unwrap_err().code, Code::InvalidHeader, "{bad:?}");
        }
    }
}
