//! The pages that a browser allows to call the API (the WHATWG Fetch standard, 3.2): those of listed origins, by default
//! none.
//!
//! A page sets the headers with the credentials itself, so the API allows nothing that a browser adds by itself: no cookie
//! and no certificate.

use std::sync::Arc;

use axum::{
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};

const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
/// Headers that a page may send.
const ALLOWED_HEADERS: HeaderValue = HeaderValue::from_static(
    "Authorization, Content-Type, Idempotency-Key, If-Match, Last-Event-ID, X-API-Key, X-Request-ID, X-Tenant-ID",
);
/// Headers that a page may read.
const EXPOSED_HEADERS: HeaderValue = HeaderValue::from_static(
    "ETag, Idempotency-Replayed, Location, RateLimit, RateLimit-Policy, Retry-After, X-Crofter-Source, X-Request-ID",
);
/// Seconds for which a browser caches the response to its preflight.
const MAX_AGE: HeaderValue = HeaderValue::from_static("600");

/// Origins that are allowed. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Origins(Arc<[HeaderValue]>);

impl Origins {
    /// These origins, of [`origin`]'s form.
    #[must_use]
    pub fn new(origins: &[String]) -> Self {
        Self(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect())
    }

    /// The response to a preflight from an allowed origin; `None` for any other request.
    #[must_use]
    pub fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        let is_preflight =
            *method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
        if !is_preflight || self.of(headers).is_none() {
            return None;
        }
        let allowed = [
            (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
            (header::ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
            (header::ACCESS_CONTROL_MAX_AGE, MAX_AGE),
        ];
        Some((StatusCode::NO_CONTENT, allowed).into_response())
    }

    /// The origin of a request, where it is an allowed one.
    #[must_use]
    pub fn of(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let mut given = headers.get_all(header::ORIGIN).iter();
        let origin = given.next().filter(|origin| self.0.contains(origin))?;
        given.next().is_none().then(|| origin.clone())
    }

    /// Adds the headers of a response to a request from this origin.
    pub fn allow(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        if self.0.is_empty() {
            return;
        }
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED_HEADERS);
        }
    }
}

/// An origin as browsers send it: `https://host`, with a port where it is not the scheme's own.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn origin(text: &str) -> Result<String, String> {
    let wrong = || {
        format!(
            "`{text}` is no origin: give scheme and host in small letters, without a path, such as https://app.example.org"
        )
    };
    let (host, own_port) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
        (Some(host), _) => (host, ":443"),
        (_, Some(host)) => (host, ":80"),
        _ => return Err(wrong()),
    };
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port),
        _ => (host, "1"),
    };
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.:[]".contains(c);
    let fits = !name.is_empty()
        && host.chars().all(inner)
        && port.chars().all(|c| c.is_ascii_digit())
        && port.parse::<u16>().is_ok()
        && !host.ends_with(own_port)
        && text.parse::<axum::http::Uri>().is_ok_and(|uri| uri.host().is_some_and(|host| !host.is_empty()));
    if fits { Ok(text.to_owned()) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_and_a_host() {
        for good in
            ["https://app.example.org", "http://localhost:3000", "https://[::1]:8443", "https://10.0.0.1"]
        {
            assert_eq!(origin(good), Ok(good.to_owned()));
        }
        for bad in [
            "*",
            "null",
            "",
            "app.example.org",
            "ftp://a",
            "https://",
            "https://a/",
            "https://a/b",
            "https://A",
            "https://a?b",
            "https://u@a",
            "https://a:443",
            "http://a:80",
            "https://a b",
            "https://:80",
            "https://a:x",
        ] {
            assert!(origin(bad).unwrap_err().contains("https://app.example.org"), "{bad}");
        }
    }
}
