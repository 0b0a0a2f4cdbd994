//! Bodies of requests: JSON, strictly.
//!
//! A handler receives a body after it has authorised its caller: whoever may not do what a route does sends it no body.
//!
//! The server refuses bodies over 1 MiB, of another media type, compressed, with a field that the route does not have, and
//! what [`strict_json`](super::strict_json) refuses.

use std::{fmt, marker::PhantomData, time::Duration};

use axum::{
    extract::{FromRequest, Request},
    http::header,
};
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;

use super::{
    header::only,
    openapi::{Describes, Operation},
    places::Place,
    problem::{Code, Problem},
    strict_json::{StrictDeserializer, StrictValue},
};

/// Longest body, in bytes.
pub const MAX_BYTES: usize = 1 << 20;
/// Longest time until all of a body is received.
const BODY_TIMEOUT: Duration = Duration::from_secs(15);

/// A body of the form `T`, which must refuse unknown fields itself. Its headers are read, and the rest is not yet received.
pub struct Body<T> {
    place: Place,
    body: axum::body::Body,
    form: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Body<T> {
    /// Receives the body.
    ///
    /// # Errors
    /// As the module says; `body_too_slow` where it is not complete in time, `overloaded` where too many are received.
    pub async fn receive(self) -> Result<T, Problem> {
        let whole = tokio::time::timeout(BODY_TIMEOUT, self.place.receive(self.body, MAX_BYTES)).await;
        let too_slow = |_| {
            Problem::new(Code::BodyTooSlow, format!("the body took longer than {} s", BODY_TIMEOUT.as_secs()))
        };
        let bytes = whole.map_err(too_slow)??.map_err(|error| {
            match error.is::<http_body_util::LengthLimitError>() {
                true => too_large(),
                false => Problem::new(Code::MalformedBody, "the body ended early"),
            }
        })?;
        read(&bytes)
    }
}

fn too_large() -> Problem {
    Problem::new(Code::BodyTooLarge, format!("the body is longer than {MAX_BYTES} bytes"))
}

impl<S: Send + Sync, T> FromRequest<S> for Body<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let kind = only(request.headers(), &header::CONTENT_TYPE)?.unwrap_or_default().to_ascii_lowercase();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if essence != "application/json" {
            return Err(Problem::new(Code::UnsupportedMediaType, "send Content-Type: application/json"));
        }
        let encodings = request.headers().get_all(header::CONTENT_ENCODING);
        if encodings.iter().any(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            let detail = "send the body as it is, without Content-Encoding";
            return Err(Problem::new(Code::UnsupportedMediaType, detail)
                .with_header(header::ACCEPT_ENCODING, "identity"));
        }
        let declared = only(request.headers(), &header::CONTENT_LENGTH)?.and_then(|n| n.parse::<u64>().ok());
        if declared.is_some_and(|length| length > MAX_BYTES as u64) {
            return Err(too_large());
        }
        let place = request.extensions().get::<Place>().cloned().unwrap_or_default();
        Ok(Self { place, body: request.into_body(), form: PhantomData })
    }
}

impl<T: JsonSchema> Describes for Body<T> {
    fn describe(operation: &mut Operation) {
        operation.takes_body::<T>();
    }
}

/// Reads a body.
///
/// # Errors
/// `malformed_body` and `invalid_body`.
pub fn read<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // RFC 8259, 8.1: who reads may ignore a byte order mark.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let StrictValue(value) = serde_json::from_slice(bytes)
        .map_err(|error| Problem::new(Code::MalformedBody, error.to_string()))?;
    serde_path_to_error::deserialize(StrictDeserializer(value))
        .map_err(|error| Problem::new(Code::InvalidBody, explained(&error)))
}

/// What is wrong with a value, with the field that holds it.
fn explained<E: fmt::Display>(error: &serde_path_to_error::Error<E>) -> String {
    let words = in_plain_words(&error.inner().to_string());
    match error.path().iter().next() {
        Some(Segment::Seq { .. } | Segment::Map { .. } | Segment::Enum { .. }) => {
            format!("{}: {words}", error.path())
        }
        // The whole body is wrong.
        Some(Segment::Unknown) | None => words,
    }
}

/// What serde says, without the names that Rust has for types.
#[must_use]
pub fn in_plain_words(words: &str) -> String {
    const NUMBERS: [&str; 4] = [
        "invalid digit found in string",
        "cannot parse integer from empty string",
        "number too large to fit in target type",
        "number too small to fit in target type",
    ];
    if let Some(field) = NUMBERS.iter().find_map(|ending| words.strip_suffix(ending)) {
        return format!("{field}give a whole number that is not out of range");
    }
    // The last: what is between may be what was sent.
    let Some((what, expected)) = words.rsplit_once(", expected ") else { return words.to_owned() };
    let plain = match expected {
        "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number",
        "a sequence" => "a list",
        "a map" => "an object",
        "a string" => "a text",
        "a boolean" => "true or false",
        other => other,
    };
    match what.strip_prefix("unknown variant ") {
        Some(word) => format!("unknown word {word}, expected {plain}"),
        None => format!("{what}, expected {plain}"),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Known {
        #[serde(default)]
        a: Value,
    }

    fn refused(text: &str) -> (Code, String) {
        let problem = read::<Known>(text.as_bytes()).unwrap_err();
        (problem.code, format!("{problem:?}"))
    }

    /// What a request with these headers and this body comes to.
    async fn sent(headers: &[(&str, &[u8])], body: axum::body::Body) -> Result<Value, Code> {
        let request =
            headers.iter().fold(Request::builder(), |request, (name, value)| request.header(*name, *value));
        let request = request.body(body).unwrap();
        let body = Body::<Known>::from_request(request, &()).await.map_err(|problem| problem.code)?;
        body.receive().await.map(|known| known.a).map_err(|problem| problem.code)
    }

    #[tokio::test]
    async fn a_body_is_whole_of_one_media_type_and_no_longer_than_it_may_be() {
        use axum::body::{Body as Bytes, Bytes as Chunk};
        const JSON: (&str, &[u8]) = ("content-type", b"application/json");
        let content = |value: &'static [u8]| ("content-type", value);
        let length = |value: &'static [u8]| ("content-length", value);
        let good = || Bytes::from(r#"{"a": 1}"#);
        // Step 1: a JSON media type is accepted.
        for media in ["application/json", "Application/JSON; charset=utf-8"] {
            assert_eq!(sent(&[("content-type", media.as_bytes())], good()).await, Ok(1.into()), "{media}");
        }
        // Step 2: another media type, a duplicate header and a body that is cut or too long are refused.
        let cut = [Ok(Chunk::from(r#"{"a": "#)), Err(std::io::Error::other("disconnected"))];
        let longest = r#"{"a": 1}"#.to_owned() + &" ".repeat(MAX_BYTES - 8);
        let chunk = || Ok::<_, std::io::Error>(" ".repeat(1024));
        let chunks = |n| Bytes::from_stream(futures::stream::iter(std::iter::repeat_with(chunk).take(n)));
        for (headers, body, code) in [
            (&[][..], good(), Code::UnsupportedMediaType),
            (&[content(b"")], good(), Code::UnsupportedMediaType),
            (&[content(b"text/json")], good(), Code::UnsupportedMediaType),
            (&[content(b"application/json, text/plain")], good(), Code::UnsupportedMediaType),
            (&[JSON, JSON], good(), Code::InvalidHeader),
            (&[content(b"application/json\xe9")], good(), Code::InvalidHeader),
            (&[JSON, length(b"99999999999")], good(), Code::BodyTooLarge),
            (&[JSON, length(b"8"), length(b"9")], good(), Code::InvalidHeader),
            (&[JSON], Bytes::from(longest.clone() + " "), Code::BodyTooLarge),
            // Without Content-Length.
            (&[JSON], chunks(1025), Code::BodyTooLarge),
            (&[JSON], chunks(1024), Code::MalformedBody),
            (&[JSON], Bytes::from_stream(futures::stream::iter(cut)), Code::MalformedBody),
            (&[JSON], Bytes::from(b"{\"\xff\": 1}".to_vec()), Code::MalformedBody),
        ] {
            assert_eq!(sent(headers, body).await, Err(code), "{headers:?}");
        }
        // Step 3: a body of exactly the longest length is accepted.
        assert_eq!(sent(&[JSON], Bytes::from(longest)).await, Ok(1.into()));
    }

    #[test]
    fn what_is_good_is_taken() {
        let body: Known = read(br#"{"a": [1, -2, 1.5, "x", true, null, {"b": {}}]}"#).unwrap();
        assert_eq!(body.a, serde_json::json!([1, -2, 1.5, "x", true, null, {"b": {}}]));
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(31), "]".repeat(31));
        assert!(read::<Known>(deep.as_bytes()).is_ok());
    }

    #[test]
    fn hostile_bodies_are_refused_each_for_its_own_fault() {
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(32), "]".repeat(32));
        let bottomless = "[".repeat(100_000);
        // Step 1: a body that is not strict JSON is malformed.
        for (body, words) in [
            ("", "EOF"),
            ("{\"a\": 1", "EOF"),
            ("{\"a\": 1} x", "trailing"),
            ("{\"a\": 1, \"a\": 2}", "given twice"),
            ("{\"a\": {\"b\": 1, \"b\": 2}}", "given twice"),
            ("{\"a\": \"x\\u0000y\"}", "NUL"),
            ("{\"a\\u0000\": 1}", "NUL"),
            ("{\"a\": 1e999}", "out of range"),
            (deep.as_str(), "nested deeper"),
            (bottomless.as_str(), "nested deeper"),
        ] {
            let (code, said) = refused(body);
            assert_eq!(code, Code::MalformedBody, "{said}");
            assert!(said.contains(words), "{said}");
        }
        // Step 2: strict JSON of another form is invalid.
        for (body, words) in [
            ("{\"b\": 1}", "unknown field `b`"),
            ("[[]]", "expected an object"),
            ("7", "expected an object"),
            ("null", "expected an object"),
        ] {
            let (code, said) = refused(body);
            assert_eq!((code, said.contains(words)), (Code::InvalidBody, true), "{said}");
        }
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only read")]
        size: Option<i64>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only read")]
        #[serde(default)]
        inner: Vec<Inner>,
        #[expect(dead_code, reason = "only read")]
        on: Option<bool>,
    }

    #[test]
    fn a_wrong_type_names_its_field() {
        for (body, said) in [
            (r#"{"on": 1}"#, "on: invalid type: integer `1`, expected true or false"),
            (r#"{"inner": {}}"#, "inner: invalid type: map, expected a list"),
            (
                r#"{"inner": [{"size": 1}, {"size": "a, expected i64"}]}"#,
                r#"inner[1].size: invalid type: string "a, expected i64", expected a whole number"#,
            ),
            (r#"{"inner": [{"sise": 1}]}"#, "inner[0].sise: unknown field `sise`, expected `size`"),
            (r#"{"off": 1}"#, "off: unknown field `off`, expected `inner` or `on`"),
            ("[1]", "invalid type: sequence, expected an object"),
        ] {
            let problem = read::<Outer>(body.as_bytes()).unwrap_err();
            assert_eq!(problem.code, Code::InvalidBody);
            assert_eq!(problem.detail(), said, "{body}");
        }
    }

    #[tokio::test]
    async fn a_byte_order_mark_is_skipped_and_a_compressed_body_is_of_another_type() {
        use axum::body::Body as Bytes;
        const JSON: (&str, &[u8]) = ("content-type", b"application/json");
        assert_eq!(sent(&[JSON], Bytes::from("\u{feff}{\"a\": 1}")).await, Ok(1.into()));
        assert_eq!(sent(&[JSON], Bytes::from("\u{feff}\u{feff}{}")).await, Err(Code::MalformedBody));
        let encoded = |encoding: &'static [u8]| ("content-encoding", encoding);
        let good = || Bytes::from(r#"{"a": 1}"#);
        assert_eq!(sent(&[JSON, encoded(b"identity")], good()).await, Ok(1.into()));
        for encoding in [&b"gzip"[..], b"identity, gzip", b"\xff"] {
            let refused = sent(&[JSON, encoded(encoding)], good()).await;
            assert_eq!(refused, Err(Code::UnsupportedMediaType), "{encoding:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_given_up() {
        let never = futures::stream::pending::<Result<Vec<u8>, std::io::Error>>();
        let request = Request::builder().header("content-type", "application/json");
        let request = request.body(axum::body::Body::from_stream(never)).unwrap();
        let body = Body::<Value>::from_request(request, &()).await.ok().unwrap();
        let problem = body.receive().await.unwrap_err();
        assert_eq!(problem.code, Code::BodyTooSlow);
    }
}
