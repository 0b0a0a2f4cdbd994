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

/// The versions that `If-Match` asks for, `None` where any will do: a list of entity tags (RFC 9110, 13.1.1), of which
/// weak ones match nothing.
///
/// # Errors
/// `invalid_header` for what is no list of entity tags.
fn if_match(headers: &HeaderMap) -> Result<Option<Vec<String>>, Problem> {
    let malformed = || {
        let detail = "If-Match is *, or the ETags of answers, in quotes and separated by commas";
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
    // Neither versions nor what a client may make up of a tag hold a comma that is not one between tags.
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

/// The versions of an object that a change may be made to; `None` where any will do.
pub struct IfMatch(Option<Vec<String>>);

impl IfMatch {
    /// The version that the change is to be made to, where the header asks for one: it is the one that is present.
    ///
    /// # Errors
    /// `precondition_failed` where the present one is none of those asked for.
    pub fn version(&self, present: Option<&str>) -> Result<Option<String>, Problem> {
        match (&self.0, present) {
            (None, _) => Ok(None),
            (Some(wanted), Some(present)) if wanted.iter().any(|one| one == present) => {
                Ok(Some(present.to_owned()))
            }
            (Some(_), _) => {
                let detail = "the object is of another version than If-Match says";
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
            "This is the `ETag` of the version that is to be changed, or a list of several, or `*`.",
            &schema,
        );
        operation.may_refuse([Code::PreconditionFailed]);
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
    fn versions_are_asked_for_in_quotes_one_or_several() {
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
    fn what_is_no_list_of_versions_is_refused() {
        for bad in [&["17"][..], &["w/\"17\""], &["\"17"], &["\"1\" \"2\""], &["*, \"1\""], &["\"\u{e9}\""]] {
            assert_eq!(if_match(&headers(bad)).unwrap_err().code, Code::InvalidHeader, "{bad:?}");
        }
    }
}
