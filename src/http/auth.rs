//! Who asks: taken from the credentials alone, before anything else of a request is looked at.
//!
//! [`ByKey`] stands for a tenant and lets through only a valid key of an active tenant, with the scope that the route's
//! signature names. [`ByAdministrator`] stands for a user of the cluster. A handler that takes neither serves everybody,
//! so the signature says who may call it.

use std::{
    marker::PhantomData,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, HeaderName, header, request::Parts},
};
use futures::future::BoxFuture;
use kube::runtime::reflector::ObjectRef;

use super::{
    App,
    administrators::{Act, User},
    audit::Audit,
    header::only,
    openapi::{Describes, Operation, Who},
    path::canonical,
    problem::{Code, Problem},
    shares::{MOST_OF_ONE, Share},
};
use crate::{
    api_types::{Tenant, api_key::Scope},
    domain::tenant_state,
    keys::{Keys, Principal, Refusal, TenantOf},
};

/// Keys, where they are no bearer.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// The tenant that a client believes to be.
const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");

/// Recognises keys.
pub trait Recognise: Send + Sync {
    /// Who presents this text.
    fn principal<'a>(&'a self, text: &'a str) -> BoxFuture<'a, Result<Principal, Refusal>>;

    /// Who presented a key that was let in before, as he would be let in now.
    fn again<'a>(&'a self, before: &'a Principal) -> BoxFuture<'a, Result<Principal, Refusal>>;
}

impl Recognise for Keys {
    fn principal<'a>(&'a self, text: &'a str) -> BoxFuture<'a, Result<Principal, Refusal>> {
        Box::pin(Self::principal(self, text))
    }

    fn again<'a>(&'a self, before: &'a Principal) -> BoxFuture<'a, Result<Principal, Refusal>> {
        Box::pin(Self::again(self, before))
    }
}

/// What a request shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown<'a> {
    Key(&'a str),
    Token(&'a str),
}

fn shown(headers: &HeaderMap) -> Result<Shown<'_>, Problem> {
    let bearer = only(headers, &header::AUTHORIZATION)?;
    let key = only(headers, &API_KEY)?;
    match (bearer.map(of_bearer), key) {
        // Some clients send one key in both ways.
        (Some(Ok(Shown::Key(bearer))), Some(key)) if bearer == key => Ok(Shown::Key(key)),
        (Some(_), Some(_)) => {
            let detail = "Authorization and X-API-Key hold different credentials: give one of them";
            Err(Problem::new(Code::InvalidHeader, detail))
        }
        (None, Some(key)) => Ok(Shown::Key(key)),
        (Some(bearer), None) => bearer,
        (None, None) => Err(Problem::new(
            Code::MissingCredentials,
            "give an API key: Authorization: Bearer crft_…, or X-API-Key",
        )),
    }
}

fn of_bearer(header: &str) -> Result<Shown<'_>, Problem> {
    let (scheme, text) = header.split_once(' ').unwrap_or((header, ""));
    let text = text.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || text.is_empty() {
        return Err(Problem::new(Code::MissingCredentials, "Authorization is `Bearer` and a key or token"));
    }
    Ok(if text.starts_with("crft_") { Shown::Key(text) } else { Shown::Token(text) })
}

fn address(parts: &Parts) -> IpAddr {
    let info = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip())
}

/// Who asks.
pub enum Caller {
    /// A tenant, by a key.
    Tenant(Context),
    /// A user of the cluster, by a token.
    Administrator(User),
}

/// The tenant of a request.
#[derive(Clone)]
pub struct Context {
    /// The key.
    pub principal: Principal,
    /// The tenant's object.
    pub tenant: Arc<Tenant>,
    /// The request's place among those of its tenant.
    pub share: Arc<Share>,
}

impl Context {
    /// Refuses a key without this scope.
    ///
    /// # Errors
    /// `missing_scope`.
    pub fn needs(&self, scope: Scope) -> Result<(), Problem> {
        if self.principal.may(scope) {
            return Ok(());
        }
        let scope = serde_json::to_value(scope).ok();
        let scope = scope.as_ref().and_then(|scope| scope.as_str()).unwrap_or_default();
        Err(Problem::new(Code::MissingScope, format!("this key lacks the scope {scope}")))
    }
}

/// Whether the same key would be let in now, with this scope: for answers that go on.
pub async fn still_holds(app: &App, principal: &Principal, scope: Scope) -> bool {
    match app.recognise.again(principal).await {
        Ok(now) => now.may(scope) && active(app, &principal.tenant).is_some(),
        Err(_) => false,
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let from = address(parts);
        let audit = parts.extensions.get::<Audit>().cloned().unwrap_or_default();
        match shown(&parts.headers)? {
            Shown::Key(text) => {
                let principal = app.recognise.principal(text).await;
                let principal = principal.map_err(|refusal| refused(app, from, refusal))?;
                audit.by_key(&principal);
                context(app, &parts.headers, principal).map(Self::Tenant)
            }
            Shown::Token(token) => {
                let user = administrator(app, from, token).await?;
                audit.by_administrator(&user);
                Ok(Self::Administrator(user))
            }
        }
    }
}

impl Describes for Caller {
    fn describe(operation: &mut Operation) {
        operation.called_by(Who::Both, None);
    }
}

/// Counts a failure; from an address that fails too often, no more than that is told.
fn refused(app: &App, from: IpAddr, refusal: Refusal) -> Problem {
    if refusal == Refusal::Unready {
        return Problem::new(Code::KeysUnavailable, refusal.to_string());
    }
    failed(app, from, || Problem::new(Code::InvalidKey, refusal.to_string()))
}

fn failed(app: &App, from: IpAddr, problem: impl FnOnce() -> Problem) -> Problem {
    let barred = app.failures.barred(from);
    app.failures.count(from);
    match barred {
        Some(wait) => too_many(wait.as_secs() + 1),
        None => problem(),
    }
}

fn too_many(seconds: u64) -> Problem {
    let detail = "too many refused keys or tokens from this address";
    Problem::new(Code::TooManyFailures, detail).retry_after(seconds)
}

async fn administrator(app: &App, from: IpAddr, token: &str) -> Result<User, Problem> {
    if app.administrators.remembered(token).is_none()
        && let Some(wait) = app.failures.barred(from)
    {
        // Each unknown token costs a call to the API server.
        return Err(too_many(wait.as_secs() + 1));
    }
    let unknown = || Problem::new(Code::InvalidToken, "the cluster does not accept this token");
    app.administrators.user(token).await?.ok_or_else(|| failed(app, from, unknown))
}

fn context(app: &App, headers: &HeaderMap, principal: Principal) -> Result<Context, Problem> {
    let of = &principal.tenant;
    let most = || Problem::new(Code::Overloaded, "too many requests of this tenant are under way");
    let share = app.shares.take(of.uid.clone(), MOST_OF_ONE).ok_or_else(most)?;
    if let Some(named) = only(headers, &TENANT_ID)?.map(|named| canonical(named.to_owned()))
        && named != of.uid
        && named != of.name
    {
        return Err(Problem::new(Code::TenantMismatch, "X-Tenant-ID names another tenant than the key's"));
    }
    match active(app, of) {
        Some(tenant) => Ok(Context { principal, tenant, share: Arc::new(share) }),
        None => Err(Problem::new(Code::TenantInactive, "invalid or inactive tenant")),
    }
}

fn active(app: &App, of: &TenantOf) -> Option<Arc<Tenant>> {
    let tenant = app.tenants.get(&ObjectRef::new(&of.name));
    let tenant = tenant.filter(|tenant| tenant.metadata.uid.as_ref() == Some(&of.uid));
    tenant.filter(|tenant| tenant_state::decide(tenant, app.clock.now()).accepts())
}

/// Names a scope in a type.
pub trait Needs: Send + Sync + 'static {
    /// The scope.
    const SCOPE: Scope;
}

macro_rules! scopes {
    ($($name:ident),*) => { $(
        #[doc = concat!("A route that needs the scope ", stringify!($name), ".")]
        pub struct $name;
        impl Needs for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )* };
}
scopes!(JobsRead, JobsWrite);

/// A tenant whose key has the scope `N`.
pub struct ByKey<N>(pub Context, pub(super) PhantomData<N>);

impl<N: Needs> FromRequestParts<App> for ByKey<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match Caller::from_request_parts(parts, app).await? {
            Caller::Tenant(context) => {
                context.needs(N::SCOPE)?;
                Ok(Self(context, PhantomData))
            }
            Caller::Administrator(_) => Err(Problem::new(
                Code::KeyRequired,
                "this is for API keys: an administrator's token has no tenant",
            )),
        }
    }
}

impl<N: Needs> Describes for ByKey<N> {
    fn describe(operation: &mut Operation) {
        operation.called_by(Who::Key, Some(N::SCOPE));
        operation.may_refuse([Code::KeyRequired]);
    }
}

/// A user of the cluster, whose rights the handler asks for.
pub struct ByAdministrator(pub User);

impl ByAdministrator {
    /// Refuses who may not do this.
    ///
    /// # Errors
    /// `forbidden`, `cluster_unavailable`.
    pub async fn may(&self, app: &App, act: Act) -> Result<(), Problem> {
        app.administrators.may(&self.0, act).await
    }
}

impl FromRequestParts<App> for ByAdministrator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match Caller::from_request_parts(parts, app).await? {
            Caller::Administrator(user) => Ok(Self(user)),
            Caller::Tenant(_) => {
                Err(Problem::new(Code::Forbidden, "this is for administrators: a key stands for a tenant"))
            }
        }
    }
}

impl Describes for ByAdministrator {
    fn describe(operation: &mut Operation) {
        operation.called_by(Who::Administrator, None);
        operation.may_refuse([Code::Forbidden]);
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(all: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in all {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn credentials_are_shown_once_and_in_one_way() {
        let bearer = headers(&[("authorization", "Bearer crft_x")]);
        assert_eq!(shown(&bearer).unwrap(), Shown::Key("crft_x"));
        assert_eq!(shown(&headers(&[("authorization", "bearer  ey.x")])).unwrap(), Shown::Token("ey.x"));
        assert_eq!(shown(&headers(&[("x-api-key", "crft_x")])).unwrap(), Shown::Key("crft_x"));
        let both = headers(&[("authorization", "Bearer crft_x"), ("x-api-key", "crft_x")]);
        assert_eq!(shown(&both).unwrap(), Shown::Key("crft_x"), "equal is no contradiction");
        for (all, code) in [
            (&[][..], Code::MissingCredentials),
            (&[("authorization", "Basic eDp5")], Code::MissingCredentials),
            (&[("authorization", "Bearer")], Code::MissingCredentials),
            (&[("authorization", "Bearer a"), ("x-api-key", "b")], Code::InvalidHeader),
            (&[("authorization", "Bearer crft_x"), ("x-api-key", "crft_y")], Code::InvalidHeader),
            (&[("authorization", "Basic eDp5"), ("x-api-key", "crft_x")], Code::InvalidHeader),
            (&[("authorization", "Bearer a"), ("authorization", "Bearer a")], Code::InvalidHeader),
            (&[("x-api-key", "a"), ("x-api-key", "a")], Code::InvalidHeader),
        ] {
            assert_eq!(shown(&headers(all)).unwrap_err().code, code, "{all:?}");
        }
    }
}
