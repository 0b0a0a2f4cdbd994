//! Authenticates the caller of a request, from its credentials alone and before any other extractor reads the request.
//!
//! [`Caller`] is a tenant, by a valid key of an active tenant, or a user of the cluster; [`ByAdministrator`] is a user. What
//! they may do is for the handler to check, but in [`ByTenant`](super::by_tenant::ByTenant), which checks what its type
//! names. A handler that takes none of them is public, so each signature says who may call the route.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    extract::{ConnectInfo, FromRequestParts},
    http::{HeaderMap, HeaderName, header, request::Parts},
};
use futures::future::BoxFuture;
use kube::runtime::reflector::ObjectRef;
use secrecy::SecretString;

use super::{
    App,
    administrators::{AccessReview, User},
    audit::Audit,
    header::{TENANT_ID, only},
    middleware::record_tenant,
    openapi::{AllowedCallers, Describes, Operation},
    path::canonical,
    places::{Place, Pool},
    problem::{Code, INACTIVE_TENANT, Problem},
};
use crate::{
    api_types::{Tenant, api_key::Scope},
    domain::tenant_state,
    keys::{Keys, Principal, Refusal, TenantOf},
};

/// The header of a key that is not sent as a bearer token.
const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Authenticates API keys.
pub trait KeyAuthenticator: Send + Sync {
    /// The principal of this token.
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Principal, Refusal>>;

    /// The current state of a principal that was authenticated before.
    fn revalidate<'a>(&'a self, before: &'a Principal) -> BoxFuture<'a, Result<Principal, Refusal>>;
}

impl KeyAuthenticator for Keys {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Principal, Refusal>> {
        Box::pin(Self::authenticate(self, token))
    }

    fn revalidate<'a>(&'a self, before: &'a Principal) -> BoxFuture<'a, Result<Principal, Refusal>> {
        Box::pin(Self::revalidate(self, before))
    }
}

/// The credentials of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Credentials<'a> {
    Key(&'a str),
    Token(&'a str),
}

fn credentials(headers: &HeaderMap) -> Result<Credentials<'_>, Problem> {
    let authorization = only(headers, &header::AUTHORIZATION)?;
    let key = only(headers, &API_KEY)?;
    match (authorization.map(bearer), key) {
        // Some clients send one key in both ways.
        (Some(Ok(Credentials::Key(bearer))), Some(key)) if bearer == key => Ok(Credentials::Key(key)),
        (Some(_), Some(_)) => {
            let detail = "Authorization and X-API-Key have different credentials: send one of them";
            Err(Problem::new(Code::InvalidHeader, detail))
        }
        (None, Some(key)) => Ok(Credentials::Key(key)),
        (Some(bearer), None) => bearer,
        (None, None) => Err(Problem::new(
            Code::MissingCredentials,
            "send an API key: Authorization: Bearer crft_…, or X-API-Key",
        )),
    }
}

/// The credentials of an `Authorization` header.
fn bearer(header: &str) -> Result<Credentials<'_>, Problem> {
    let (scheme, token) = header.split_once(' ').unwrap_or((header, ""));
    let token = token.trim();
    if !scheme.eq_ignore_ascii_case("bearer") || token.is_empty() {
        return Err(Problem::new(
            Code::MissingCredentials,
            "Authorization must be `Bearer` and a key or token",
        ));
    }
    Ok(if token.starts_with("crft_") { Credentials::Key(token) } else { Credentials::Token(token) })
}

fn address(parts: &Parts) -> IpAddr {
    let info = parts.extensions.get::<ConnectInfo<SocketAddr>>();
    info.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |ConnectInfo(address)| address.ip())
}

/// The caller of a request.
pub enum Caller {
    /// A tenant, by a key.
    Tenant(TenantKey),
    /// A user of the cluster, by a token.
    Administrator(Administrator),
}

/// A user of the cluster, by a token. The handler must authorise what it does for the user, and before it receives a body:
/// until then the request has no place among those of administrators.
pub struct Administrator {
    /// The user.
    pub user: User,
    /// The token, by which the server checks again that the cluster accepts the user.
    pub token: Arc<SecretString>,
    place: Place,
}

impl Administrator {
    /// Checks that the user's rights in the cluster allow this.
    ///
    /// # Errors
    /// `forbidden`, `cluster_unavailable`; `overloaded` where administrators have too many requests in flight.
    pub async fn authorise(&self, app: &App, review: AccessReview) -> Result<(), Problem> {
        app.administrators.authorise(&self.user, review).await?;
        self.takes_place(&app.places.administrators, &self.user.name)
    }

    /// Takes a place of this caller for the request, once it is authorised.
    ///
    /// # Errors
    /// `overloaded`.
    pub fn takes_place(&self, pool: &Arc<Pool>, caller: &str) -> Result<(), Problem> {
        self.place.take(pool, caller)
    }
}

/// A tenant, by a key.
pub struct TenantKey {
    /// The key.
    pub principal: Principal,
    /// The Tenant.
    pub tenant: Arc<Tenant>,
}

impl TenantKey {
    /// Checks that the key has this scope.
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

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let from = address(parts);
        let audit = parts.extensions.get::<Audit>().cloned().unwrap_or_default();
        let place = parts.extensions.get::<Place>().cloned().unwrap_or_default();
        match credentials(&parts.headers)? {
            Credentials::Key(token) => {
                let principal = app.authenticator.authenticate(token).await;
                let principal = principal.map_err(|refusal| refused(app, from, refusal))?;
                audit.by_key(&principal);
                place.take(&app.places.tenants, &principal.tenant.uid)?;
                tenant(app, &parts.headers, principal).map(Self::Tenant)
            }
            Credentials::Token(token) => {
                let user = user(app, from, token).await?;
                audit.by_administrator(&user);
                let is_administrator = app.administrators.is_administrator(&user).await;
                let pool = if is_administrator { &app.places.administrators } else { &app.places.users };
                place.take(pool, &user.name)?;
                let token = Arc::new(SecretString::from(token));
                Ok(Self::Administrator(Administrator { user, token, place }))
            }
        }
    }
}

impl Describes for Caller {
    fn describe(operation: &mut Operation) {
        operation.called_by(AllowedCallers::KeyOrAdministrator, None);
    }
}

/// Records a failure. An address that fails too often learns nothing else.
fn refused(app: &App, from: IpAddr, refusal: Refusal) -> Problem {
    if refusal == Refusal::Unready {
        return Problem::new(Code::KeysUnavailable, refusal.to_string());
    }
    failed(app, from, || Problem::new(Code::InvalidKey, refusal.to_string()))
}

fn failed(app: &App, from: IpAddr, problem: impl FnOnce() -> Problem) -> Problem {
    match app.auth_throttle.take(from) {
        Ok(()) => problem(),
        Err(wait) => too_many(wait),
    }
}

fn too_many(wait: Duration) -> Problem {
    let detail = "too many refused keys or tokens from this address";
    Problem::new(Code::TooManyFailures, detail).retry_after(wait.as_secs() + 1)
}

/// The user of a token. Where the address fails too often, a token that is not known waits for its review.
async fn user(app: &App, from: IpAddr, token: &str) -> Result<User, Problem> {
    let invalid = || Problem::new(Code::InvalidToken, "the cluster does not accept this token");
    let (administrators, throttle) = (&app.administrators, &app.auth_throttle);
    if administrators.is_known(token).await {
        return administrators.user(token).await?.ok_or_else(|| failed(app, from, invalid));
    }
    let is_within = throttle.take(from).is_ok();
    let permit = match is_within {
        true => None,
        false => Some(throttle.wait_for_review().await.map_err(too_many)?),
    };
    let user = administrators.user(token).await;
    drop(permit);
    if is_within && !matches!(user, Ok(None)) {
        throttle.give_back(from);
    }
    user?.ok_or_else(invalid)
}

fn tenant(app: &App, headers: &HeaderMap, principal: Principal) -> Result<TenantKey, Problem> {
    let of = &principal.tenant;
    record_tenant(&of.name);
    if let Some(named) = only(headers, &TENANT_ID)?.map(|named| canonical(named.to_owned()))
        && named != of.uid
        && named != of.name
    {
        return Err(Problem::new(Code::TenantMismatch, "X-Tenant-ID names another tenant than the key's"));
    }
    match active(app, of) {
        Some(tenant) => Ok(TenantKey { principal, tenant }),
        None => Err(Problem::new(Code::TenantInactive, INACTIVE_TENANT)),
    }
}

/// The Tenant of this UID, where it exists.
#[must_use]
pub fn current(app: &App, of: &TenantOf) -> Option<Arc<Tenant>> {
    let tenant = app.tenants.get(&ObjectRef::new(&of.name));
    tenant.filter(|tenant| tenant.metadata.uid.as_ref() == Some(&of.uid))
}

/// The Tenant of this UID, where it is active.
#[must_use]
pub fn active(app: &App, of: &TenantOf) -> Option<Arc<Tenant>> {
    current(app, of).filter(|tenant| tenant_state::decide(tenant, app.clock.now()).accepts())
}

/// A user of the cluster. The handler must authorise what it does.
pub struct ByAdministrator(pub Administrator);

impl FromRequestParts<App> for ByAdministrator {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        match Caller::from_request_parts(parts, app).await? {
            Caller::Administrator(admin) => Ok(Self(admin)),
            Caller::Tenant(_) => Err(Problem::new(
                Code::Forbidden,
                "this route needs an administrator's token: a key authenticates a tenant",
            )),
        }
    }
}

impl Describes for ByAdministrator {
    fn describe(operation: &mut Operation) {
        operation.called_by(AllowedCallers::Administrator, None);
        operation.add_problems([Code::Forbidden]);
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
    fn credentials_are_sent_once_and_in_one_way() {
        let bearer = headers(&[("authorization", "Bearer crft_x")]);
        assert_eq!(credentials(&bearer).unwrap(), Credentials::Key("crft_x"));
        assert_eq!(
            credentials(&headers(&[("authorization", "bearer  ey.x")])).unwrap(),
            Credentials::Token("ey.x")
        );
        assert_eq!(credentials(&headers(&[("x-api-key", "crft_x")])).unwrap(), Credentials::Key("crft_x"));
        let both = headers(&[("authorization", "Bearer crft_x"), ("x-api-key", "crft_x")]);
        assert_eq!(credentials(&both).unwrap(), Credentials::Key("crft_x"), "equal credentials are accepted");
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
            assert_eq!(credentials(&headers(all)).unwrap_err().code, code, "{all:?}");
        }
    }
}
