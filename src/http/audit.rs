//! The audit log: one line for every request over REST that changes something, whatever its result; and where a database is
//! configured, an entry with the same fields, which [`GET /audit`](super::audit_log) lists.
//!
//! A line has the caller, the action, the object and the status of the response: never a token, or anything from a body. The
//! extractor that authenticates the caller records it; the middleware records the rest. A request whose client disconnects
//! before the response has a line without a status, as it may have had its effect.
//!
//! Of what clients send, a line has only what could be a name or a UID. So no client can forge a line or colour a terminal,
//! and a key in a wrong field does not reach the log.

use std::{
    convert::Infallible,
    fmt::Write as _,
    mem,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    extract::{ConnectInfo, FromRequestParts, MatchedPath, Query, Request},
    http::{Method, header, request::Parts},
    response::Response,
};

use kube::{
    ResourceExt as _,
    runtime::reflector::{ObjectRef, Store},
};
use uuid::Uuid;

use super::{
    administrators::User,
    header::TENANT_ID,
    path::{canonical, uid},
};
use crate::{
    api_types::Tenant,
    audit::AuditLog,
    clock::Clock,
    db::{AuditEntry, CallerKind},
    keys::Principal,
    metrics,
};

/// The target of the lines, by which a subscriber can filter them.
pub const TARGET: &str = "crofter::audit";
/// Longest text from a client in a line, in bytes.
const MAX_TEXT: usize = 253;
/// The end of a text that was cut.
const CUT: &str = "...";

impl From<&Tenant> for AuditedTenant {
    fn from(tenant: &Tenant) -> Self {
        Self { name: tenant.name_any(), uid: tenant.metadata.uid.as_deref().and_then(uid) }
    }
}

/// What handlers and extractors record of a request. Cheap to clone; all clones share it.
#[derive(Clone, Debug, Default)]
pub struct Audit(Arc<Mutex<Recorded>>);

#[derive(Clone, Debug, Default)]
struct Recorded {
    kind: CallerKind,
    /// Id of the key, or name of the user.
    caller: Option<String>,
    /// The tenant, where it is not the one that the request names.
    tenant: Option<AuditedTenant>,
    object: Option<String>,
}

/// The tenant of a line: by its name, or by what the request names where no such tenant exists.
#[derive(Clone, Debug)]
struct AuditedTenant {
    name: String,
    uid: Option<Uuid>,
}

impl Audit {
    /// Records a tenant as the caller, also one that is not active.
    pub fn by_key(&self, principal: &Principal) {
        let tenant = &principal.tenant;
        let tenant = AuditedTenant { name: tenant.name.clone(), uid: uid(&tenant.uid) };
        let mut recorded = self.recorded();
        recorded.tenant = Some(tenant);
        (recorded.kind, recorded.caller) = (CallerKind::Key, Some(principal.key_id.to_string()));
    }

    /// Records a user of the cluster as the caller.
    pub fn by_administrator(&self, user: &User) {
        let mut recorded = self.recorded();
        (recorded.kind, recorded.caller) = (CallerKind::Administrator, Some(visible(&user.name)));
    }

    /// Records a user of the cluster as the caller of a route of a tenant.
    pub fn by_user(&self, user: &User) {
        let mut recorded = self.recorded();
        (recorded.kind, recorded.caller) = (CallerKind::User, Some(visible(&user.name)));
    }

    /// Records a tenant that the request did not name, because it has created it.
    pub fn of_tenant(&self, tenant: &Tenant) {
        self.recorded().tenant = Some(tenant.into());
    }

    /// Records the object, where the path does not name it.
    pub fn about(&self, object: &str) {
        self.recorded().object = name_or_uid(object);
    }

    fn recorded(&self) -> MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Audit {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

/// The UID of the object that a handler created, as an extension of its response.
#[derive(Clone, Debug)]
pub struct CreatedUid(pub String);

/// What a line is made with, and where its entry goes. Cheap to clone.
#[derive(Clone)]
pub struct AuditSink {
    /// All tenants.
    pub tenants: Store<Tenant>,
    /// The time.
    pub clock: Clock,
    /// The way to the database, if one is configured.
    pub log: Option<AuditLog>,
}

impl AuditSink {
    /// The tenant of a name or UID that a request has. One that is named by its UID keeps it in place of its name.
    fn named(&self, text: String) -> AuditedTenant {
        match uid(&text) {
            Some(uid) => AuditedTenant { name: text, uid: Some(uid) },
            None => match self.tenants.get(&ObjectRef::new(&text)) {
                Some(tenant) => AuditedTenant::from(&*tenant),
                None => AuditedTenant { name: text, uid: None },
            },
        }
    }

    /// The same by its name. All tenants are searched, so it is not for callers that are not authenticated.
    fn by_name(&self, named: AuditedTenant) -> AuditedTenant {
        if uid(&named.name).is_none() {
            return named;
        }
        // As handlers find it: the UID has precedence, as no client can choose it.
        let found = self.tenants.find(|tenant| tenant.metadata.uid.as_ref() == Some(&named.name));
        let found = found.or_else(|| self.tenants.get(&ObjectRef::new(&named.name)));
        found.map_or(named, |tenant| AuditedTenant::from(&*tenant))
    }
}

/// The line of one request. Dropping it writes the line.
pub struct AuditLine {
    sink: AuditSink,
    audit: Audit,
    request_id: String,
    from: Option<IpAddr>,
    action: String,
    object: Option<String>,
    tenant: Option<AuditedTenant>,
    made: Option<String>,
    status: Option<u16>,
}

impl AuditLine {
    /// The line of a request that may change something; `None` for any other.
    #[must_use]
    pub fn of(request: &mut Request, request_id: &str, sink: &AuditSink) -> Option<Self> {
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            return None;
        }
        let audit = Audit::default();
        request.extensions_mut().insert(audit.clone());
        let template = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
        // Both paths of a route are the same action.
        let route = template.map_or("unmatched", |path| path.strip_prefix("/v1").unwrap_or(path));
        let ids = template.map(|template| ids(template, request.uri().path())).unwrap_or_default();
        let tenant = match route.starts_with("/tenants/{") {
            true => ids.first().cloned().flatten(),
            false => named_tenant(request),
        };
        Some(Self {
            sink: sink.clone(),
            audit,
            request_id: request_id.to_owned(),
            from: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip()),
            action: format!("{} {route}", metrics::method(request.method().as_str())),
            object: ids.last().cloned().flatten(),
            // Now: the request may delete it.
            tenant: tenant.map(|text| sink.named(text)),
            made: None,
            status: None,
        })
    }

    /// Adds the response.
    pub fn responded(mut self, response: &Response) {
        let made = response.extensions().get::<CreatedUid>().map(|made| visible(&made.0));
        let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
        self.made = made.or_else(|| location?.rsplit('/').next().map(visible));
        self.status = Some(response.status().as_u16());
    }
}

impl Drop for AuditLine {
    fn drop(&mut self) {
        let Recorded { kind, caller, tenant, object } = self.audit.recorded().clone();
        let tenant = tenant.or_else(|| {
            let named = self.tenant.take()?;
            Some(if kind == CallerKind::Unknown { named } else { self.sink.by_name(named) })
        });
        let object = object.or_else(|| self.object.take());
        let (key_id, user) =
            if kind == CallerKind::Key { (caller.as_deref(), None) } else { (None, caller.as_deref()) };
        tracing::info!(
            target: TARGET,
            request_id = self.request_id.as_str(),
            who = kind.as_str(),
            user,
            tenant = tenant.as_ref().map(|tenant| tenant.name.as_str()),
            key_id,
            action = self.action.as_str(),
            object = object.as_deref(),
            made = self.made.as_deref(),
            status = self.status,
            from = self.from.map(tracing::field::display),
            "change requested"
        );
        let Some(log) = &self.sink.log else { return };
        let (tenant, tenant_uid) = tenant.map(|tenant| (tenant.name, tenant.uid)).unzip();
        log.record(AuditEntry {
            at: self.sink.clock.now(),
            id: log.next_id(),
            request_id: mem::take(&mut self.request_id),
            caller_kind: kind,
            caller,
            tenant,
            tenant_uid: tenant_uid.flatten(),
            action: mem::take(&mut self.action),
            object,
            made: self.made.take(),
            status: self.status,
            client_address: self.from.map(|address| address.to_string()),
        });
    }
}

/// The values of the parameters of a path.
fn ids(template: &str, path: &str) -> Vec<Option<String>> {
    let pairs = template.split('/').zip(path.split('/'));
    pairs.filter(|(part, _)| part.starts_with('{')).map(|(_, text)| name_or_uid(text)).collect()
}

/// The tenant that the query of a request names, or else its header.
fn named_tenant(request: &Request) -> Option<String> {
    let Query(all) = Query::<Vec<(String, String)>>::try_from_uri(request.uri()).ok()?;
    match all.into_iter().find(|(name, _)| name == "tenant") {
        Some((_, value)) => name_or_uid(&value),
        None => name_or_uid(request.headers().get(TENANT_ID)?.to_str().ok()?),
    }
}

/// A text, if it could be the name or the UID of an object.
fn name_or_uid(text: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    let text = canonical(text.to_owned());
    ((1..=MAX_TEXT).contains(&text.len()) && text.chars().all(fits)).then_some(text)
}

/// A text in visible ASCII: anything else becomes `%XX` of its bytes, and the text is cut where it is too long. What is shown of
/// a text is shown as it is, so that it finds the same entries as the text.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len().min(MAX_TEXT + CUT.len()));
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => write!(shown, "%{byte:02X}"),
            0x21..=0x7e => shown.write_char(char::from(byte)),
            _ => write!(shown, "%{byte:02X}"),
        }
        .unwrap_or_default();
        if shown.len() > MAX_TEXT + CUT.len() {
            shown.truncate(MAX_TEXT);
            shown.push_str(CUT);
            break;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_text_stays_on_one_line_and_is_bounded() {
        assert_eq!(visible("system:serviceaccount:ns:boss@x.io"), "system:serviceaccount:ns:boss@x.io");
        assert_eq!(visible("a\n2030 INFO forged\r"), "a%0A2030%20INFO%20forged%0D");
        assert_eq!(visible("\u{1b}[31mred\u{9b}\""), "%1B[31mred%C2%9B%22");
        let long = visible(&"\u{1b}".repeat(10_000));
        assert!(long.len() <= MAX_TEXT + 3 && long.ends_with("..."), "{long}");
        // What an entry shows finds that entry again, whatever its length.
        for length in MAX_TEXT - 5..MAX_TEXT + 9 {
            for text in [
                "a".repeat(length),
                format!("{}é{}", "a".repeat(length), "b".repeat(9)),
                "\n".repeat(length / 3),
            ] {
                let shown = visible(&text);
                assert!(shown.len() <= super::super::audit_log::MAX_CALLER, "{shown}");
                assert_eq!(visible(&shown), shown);
            }
        }
    }

    #[test]
    fn ids_are_the_values_of_the_paths_parameters() {
        let given =
            |ids: Vec<Option<String>>| ids.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>();
        let path = "/v1/tenants/acme/nodes/n%0a1";
        assert_eq!(given(ids("/v1/tenants/{id}/nodes/{node}", path)), ["acme", ""]);
        assert_eq!(given(ids("/jobs", "/jobs")), [""; 0]);
        for (text, is_allowed) in [("n1.example.org", true), ("", false), ("crft_a", false), ("A", false)] {
            assert_eq!(name_or_uid(text).is_some(), is_allowed, "{text}");
        }
        let uid = "0b8e9c1a-0000-4000-8000-00000000000f";
        assert_eq!(name_or_uid(&uid.to_uppercase()).as_deref(), Some(uid), "as the handler finds it");
        assert_eq!(
            (name_or_uid(&"a".repeat(253)).is_some(), name_or_uid(&"a".repeat(254)).is_some()),
            (true, false)
        );
    }
}
