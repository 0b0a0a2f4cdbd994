//! The audit log: one line for every change that was asked for over REST, whatever became of it.
//!
//! A line says who asked for what, of which object, and how it was answered: never a key's text, a token, or anything of a
//! body. The extractor that recognises the caller fills in who; the rest is the frame's. A request whose client goes away
//! before the answer has its line, too, as it may have had its effect: it has no status.
//!
//! Of what clients write only that is told which could be a name or a UID: so nobody can forge a line or colour a terminal,
//! and a key that was put in the wrong place is not told either.

use std::{
    convert::Infallible,
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::{ConnectInfo, FromRequestParts, MatchedPath, Query, Request},
    http::{Method, header, request::Parts},
    response::Response,
};

use super::{administrators::User, path::canonical};
use crate::{keys::Principal, metrics};

/// The target of the lines, by which they are filtered.
pub const TARGET: &str = "crofter::audit";
/// Longest text of a client's in a line, in bytes.
const LONGEST: usize = 253;

/// What is known of a request as it goes its way. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Audit(Arc<Mutex<Known>>);

#[derive(Clone, Debug, Default)]
struct Known {
    who: Who,
    object: Option<String>,
}

#[derive(Clone, Debug, Default)]
enum Who {
    #[default]
    Unknown,
    Key {
        tenant: String,
        key_id: String,
    },
    Administrator(String),
}

impl Audit {
    /// A tenant asks, also one that is not active.
    pub fn by_key(&self, principal: &Principal) {
        let tenant = principal.tenant.name.clone();
        self.known().who = Who::Key { tenant, key_id: principal.key_id.to_string() };
    }

    /// A user of the cluster asks.
    pub fn by_administrator(&self, user: &User) {
        self.known().who = Who::Administrator(visible(&user.name));
    }

    /// It is about this object, which does not stand in the path.
    pub fn about(&self, object: &str) {
        self.known().object = named(object);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Audit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// The UID of what an answer tells was made; travels with the response.
#[derive(Clone, Debug)]
pub struct Made(pub String);

/// The line of one request, written when this is dropped.
pub struct Line {
    audit: Audit,
    request_id: String,
    from: Option<IpAddr>,
    action: String,
    object: Option<String>,
    tenant: Option<String>,
    made: Option<String>,
    status: Option<u16>,
}

impl Line {
    /// The line of a request that may change something; `None` for any other.
    #[must_use]
    pub fn of(request: &mut Request, request_id: &str) -> Option<Self> {
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            return None;
        }
        let audit = Audit::default();
        request.extensions_mut().insert(audit.clone());
        let template = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        // The same action by both of its paths.
        let route = template.map_or("unmatched", |path| path.strip_prefix("/v1").unwrap_or(path));
        let ids = template.map(|template| ids(template, request.uri().path())).unwrap_or_default();
        let tenant = match route.starts_with("/tenants/{") {
            true => ids.first().cloned().flatten(),
            false => asked_for(request),
        };
        Some(Self {
            audit,
            request_id: request_id.to_owned(),
            from: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip()),
            action: format!("{} {route}", metrics::method(request.method().as_str())),
            object: ids.last().cloned().flatten(),
            tenant,
            made: None,
            status: None,
        })
    }

    /// This is the answer.
    pub fn answered(mut self, response: &Response) {
        let made = response.extensions().get::<Made>().map(|made| visible(&made.0));
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        self.made = made.or_else(|| location?.rsplit('/').next().map(visible));
        self.status = Some(response.status().as_u16());
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let known = self.audit.known().clone();
        let (who, tenant, key_id, user) = match known.who {
            Who::Unknown => ("unknown", self.tenant.take(), None, None),
            Who::Key { tenant, key_id } => ("key", Some(tenant), Some(key_id), None),
            Who::Administrator(name) => ("administrator", self.tenant.take(), None, Some(name)),
        };
        tracing::info!(
            target: TARGET,
            request_id = self.request_id.as_str(),
            who,
            user = user.as_deref(),
            tenant = tenant.as_deref(),
            key_id = key_id.as_deref(),
            action = self.action.as_str(),
            object = known.object.as_deref().or(self.object.as_deref()),
            made = self.made.as_deref(),
            status = self.status,
            from = self.from.map(tracing::field::display),
            "change asked for"
        );
    }
}

/// What stands in a path where its template has parameters.
fn ids(template: &str, path: &str) -> Vec<Option<String>> {
    let pairs = template.split('/').zip(path.split('/'));
    pairs.filter(|(part, _)| part.starts_with('{')).map(|(_, text)| named(text)).collect()
}

/// The tenant that an administrator names after `?`.
fn asked_for(request: &Request) -> Option<String> {
    let Query(all) = Query::<Vec<(String, String)>>::try_from_uri(request.uri()).ok()?;
    all.into_iter().find(|(name, _)| name == "tenant").and_then(|(_, value)| named(&value))
}

/// A text that could be the name of an object, or its UID.
fn named(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    let text = canonical(text.to_owned());
    ((1..=LONGEST).contains(&text.len()) && text.chars().all(fits)).then_some(text)
}

/// A text in visible ASCII, anything else as `%XX` of its bytes, and cut where it is too long.
fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(LONGEST));
    for byte in text.bytes() {
        if shown.len() >= LONGEST {
            shown.push_str("...");
            break;
        }
        match byte {
            b'"' | b'\\' => write!(shown, "%{byte:02X}"),
            0x21..=0x7e => shown.write_char(char::from(byte)),
            _ => write!(shown, "%{byte:02X}"),
        }
        .unwrap_or_default();
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_client_writes_stays_on_its_line_and_is_bounded() {
        assert_eq!(visible("system:serviceaccount:ns:boss@x.io"), "system:serviceaccount:ns:boss@x.io");
        assert_eq!(visible("a\n2030 INFO forged\r"), "a%0A2030%20INFO%20forged%0D");
        assert_eq!(visible("\u{1b}[31mred\u{9b}\""), "%1B[31mred%C2%9B%22");
        let long = visible(&"\u{1b}".repeat(10_000));
        assert!(long.len() <= LONGEST + 6 && long.ends_with("..."), "{long}");
    }

    #[test]
    fn ids_are_what_stands_in_the_path() {
        let given =
            |ids: Vec<Option<String>>| ids.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>();
        let path = "/v1/tenants/acme/nodes/n%0a1";
        assert_eq!(given(ids("/v1/tenants/{id}/nodes/{node}", path)), ["acme", ""]);
        assert_eq!(given(ids("/jobs", "/jobs")), [""; 0]);
        for (text, told) in [("n1.example.org", true), ("", false), ("crft_a", false), ("A", false)] {
            assert_eq!(named(text).is_some(), told, "{text}");
        }
        let uid = "0b8e9c1a-0000-4000-8000-00000000000f";
        assert_eq!(named(&uid.to_uppercase()).as_deref(), Some(uid), "as the handler finds it");
        assert_eq!((named(&"a".repeat(253)).is_some(), named(&"a".repeat(254)).is_some()), (true, false));
    }
}
