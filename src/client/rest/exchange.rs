//! One request to the REST API, and what its response means. Nothing is sent twice: a refusal that says when to try again
//! reaches the user, who may not want to wait.

use std::{io::Write as _, path::Path, time::Duration};

use axum::http::{HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Limited};
use kube::{Client, client::Body};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{
    client::error::{Error, Kind, Result},
    domain::api_key::token,
};

/// Time until the head of a response.
const LIMIT: Duration = Duration::from_secs(35);
/// Time to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Most bytes of a response that is no stream.
const MAX_BODY: usize = 64 << 20;

/// How requests reach the REST API, and as whom.
pub struct Exchange {
    client: Client,
    /// The URL.
    pub server: String,
    token: SecretString,
    verbose: bool,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").field("server", &self.server).finish()
    }
}

/// An error with the causes that its text leaves out.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// A part of a path, with what may not be in one escaped.
pub fn escaped(part: &str) -> String {
    let mut text = String::with_capacity(part.len());
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(byte.into());
        } else {
            text += &format!("%{byte:02X}");
        }
    }
    text
}

/// A path of escaped parts and a query of the parameters that are given.
pub fn path(parts: &[&str], query: &[(&str, Option<String>)]) -> String {
    let mut path: String = parts.iter().flat_map(|part| ["/".to_owned(), escaped(part)]).collect();
    let given = query.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    for (at, (name, value)) in given.enumerate() {
        path += &format!("{}{name}={}", if at == 0 { '?' } else { '&' }, escaped(value));
    }
    path
}

impl Exchange {
    /// A client of the REST API at this URL.
    ///
    /// # Errors
    /// The URL is none of HTTP, or the certificates can't be read.
    pub fn new(server: &str, token: SecretString, ca: Option<&Path>, verbose: bool) -> Result<Self> {
        let invalid = |cause: &dyn std::fmt::Display| {
            Error::usage(format!("failed to use the server {server:?}: {cause}"))
        };
        let url: Uri = server.trim_end_matches('/').parse().map_err(|error| invalid(&error))?;
        if !matches!(url.scheme_str(), Some("http" | "https")) || url.authority().is_none() {
            return Err(invalid(&"give a URL such as https://crofter.example.org"));
        }
        if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(Error::usage(
                "failed to use the server: its URL has a user or password, which the REST API does not take",
            ));
        }
        HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(|_| Error::usage("failed to use the key: it has characters that no key has"))?;
        let mut config = kube::Config::new(url);
        config.root_cert_file = ca.map(Path::to_owned);
        config.default_retry = false;
        config.connect_timeout = Some(CONNECT_LIMIT);
        let client = Client::try_from(config).map_err(|error| invalid(&chain(&error)))?;
        Ok(Self { client, server: server.trim_end_matches('/').to_owned(), token, verbose })
    }

    /// Whether the credentials are an API key.
    pub fn is_key(&self) -> bool {
        self.token.expose_secret().starts_with(token::PREFIX)
    }

    /// Sends a request, and returns its response where that is a success. `what` says what is done: `read the job render`.
    pub async fn send(
        &self,
        what: &str,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Option<&Value>,
    ) -> Result<Response<Body>> {
        let failed = |kind: Kind, cause: &dyn std::fmt::Display| {
            Error::new(kind, format!("failed to {what}: {cause}"))
        };
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", self.token.expose_secret()))
            .map_err(|_| failed(Kind::Usage, &"the key has characters that no key has"))?;
        bearer.set_sensitive(true);
        let agent = concat!("kubectl-crofter/", env!("CARGO_PKG_VERSION"));
        let mut request = Request::builder()
            .method(method.clone())
            .uri(format!("/v1{path}"))
            .header(header::AUTHORIZATION, bearer)
            .header(header::USER_AGENT, agent);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let bytes = body.map(Value::to_string).unwrap_or_default().into_bytes();
        let request = request.body(Body::from(bytes)).map_err(|error| failed(Kind::Usage, &error))?;
        let sent = tokio::time::timeout(LIMIT, self.client.send(request)).await;
        let response = match sent {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                let cause = format!("no answer from {}: {}", self.server, chain(&error));
                return Err(failed(Kind::Unreachable, &cause).next("login --server URL"));
            }
            Err(_) => {
                let cause = format!("no answer from {} within {} s", self.server, LIMIT.as_secs());
                return Err(failed(Kind::Unreachable, &cause).next("whoami"));
            }
        };
        if self.verbose {
            // Without a standard error there is no one to read it.
            drop(writeln!(std::io::stderr().lock(), "{method} {path} {}", response.status().as_u16()));
        }
        if response.status().is_success() { Ok(response) } else { Err(refusal(what, response).await) }
    }

    /// The same for a response that is JSON.
    pub async fn json<T: DeserializeOwned>(
        &self,
        what: &str,
        method: Method,
        path: &str,
        headers: &[(&'static str, &str)],
        body: Option<&Value>,
    ) -> Result<T> {
        let response = self.send(what, method, path, headers, body).await?;
        let bytes = collected(what, response).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            let cause = format!("{} is no REST API of Crofter: {error}", self.server);
            Error::new(Kind::Failed, format!("failed to {what}: {cause}")).next("login --server URL")
        })
    }
}

async fn collected(what: &str, response: Response<Body>) -> Result<Vec<u8>> {
    let whole = tokio::time::timeout(LIMIT, Limited::new(response.into_body(), MAX_BODY).collect()).await;
    let cause = match whole {
        Ok(Ok(body)) => return Ok(body.to_bytes().into()),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("its response did not end within {} s", LIMIT.as_secs()),
    };
    Err(Error::new(Kind::Unreachable, format!("failed to {what}: {cause}")))
}

/// The error of a response that is no success: the words of the server, and what to do about it.
async fn refusal(what: &str, response: Response<Body>) -> Error {
    let status = response.status();
    let wait = response.headers().get(header::RETRY_AFTER).and_then(|wait| wait.to_str().ok());
    let wait = wait.map(|seconds| format!(" (try again in {seconds} s)")).unwrap_or_default();
    let body = collected(what, response).await.unwrap_or_default();
    let problem: Value = serde_json::from_slice(&body).unwrap_or_default();
    let text = |name: &str| problem[name].as_str().map(str::to_owned);
    let detail = text("detail").or_else(|| text("title")).unwrap_or_else(|| {
        let reason = status.canonical_reason().unwrap_or_default();
        format!("the server answers {} {reason}", status.as_u16())
    });
    let reason = text("reason").map(|reason| format!("{reason}: ")).unwrap_or_default();
    let mut error =
        Error::new(Kind::of_status(status.as_u16()), format!("failed to {what}: {reason}{detail}{wait}"));
    error.code = text("code");
    match error.code.as_deref() {
        Some("invalid_key" | "invalid_token" | "missing_credentials") => error.next("login --server URL"),
        Some("missing_scope" | "forbidden" | "key_required" | "tenant_mismatch") => error.next("whoami"),
        Some("tenant_inactive") => error.next("status"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_users_give_stays_within_its_part_of_a_path() {
        let query = [("limit", Some("5".to_owned())), ("a", None), ("cursor", Some("x&y".to_owned()))];
        assert_eq!(
            path(&["jobs", "../tenants?x", "ü"], &query),
            "/jobs/..%2Ftenants%3Fx/%C3%BC?limit=5&cursor=x%26y"
        );
    }

    #[tokio::test]
    async fn a_url_that_is_none_of_http_is_refused_and_no_error_has_the_key() {
        for server in ["crofter", "ftp://x", "http://", "https://u:geheim@h", "http://h"] {
            let key = SecretString::from("crft_gehe\nim");
            let error = Exchange::new(server, key, None, false).unwrap_err();
            assert_eq!(error.kind, Kind::Usage, "{server}");
            assert!(!format!("{error} {error:?}").contains("gehe"), "{server}: {error}");
        }
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_named() {
        let exchange = Exchange::new("http://127.0.0.1:1", "crft_geheim".into(), None, false).unwrap();
        let error = exchange.send("read x", Method::GET, "/jobs", &[], None).await.unwrap_err();
        assert_eq!(error.kind, Kind::Unreachable);
        assert!(
            error.message.starts_with("failed to read x: no answer from http://127.0.0.1:1: "),
            "{error}"
        );
        assert!(!format!("{error:?} {exchange:?}").contains("geheim"));
    }
}
