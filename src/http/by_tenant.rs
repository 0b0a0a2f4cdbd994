//! The tenant of a request, and what its caller may do there.
//!
//! [`ByTenant`] accepts a tenant's API key with the scope that the handler's signature names, and a user of the cluster who
//! names the tenant (`X-Tenant-ID` or `?tenant=`) and has the rights in its namespace that kubectl would need for the same.
//! The rights are reviewed before the response depends on whether the tenant exists: whoever lacks them receives the same
//! response for each name.

use std::{marker::PhantomData, sync::Arc};

use axum::{
    extract::{FromRequestParts, Query},
    http::{Uri, request::Parts, uri::PathAndQuery},
};
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

use super::{
    App,
    administrators::User,
    audit::Audit,
    auth::{Administrator, Caller, active, current},
    header::{TENANT_ID, only},
    middleware::record_tenant,
    openapi::{AllowedCallers, Describes, Operation},
    path::canonical,
    problem::{Code, INACTIVE_TENANT, Problem},
    rights::{Needs, Right},
};
use crate::{
    api_types::{Tenant, api_key::Scope},
    keys::{Principal, TenantOf},
    names,
};

/// The parameter of the query with the tenant.
const TENANT: &str = "tenant";
/// The longest name of a tenant, as the CRD has it.
const MAX_NAME: usize = 40;

/// The tenant of a request, whose caller is authorised to what the route does.
#[derive(Clone)]
pub struct Context {
    /// The caller.
    pub by: TenantCaller,
    /// Which tenant it is.
    pub of: Arc<TenantOf>,
    /// The Tenant.
    pub tenant: Arc<Tenant>,
}

/// The caller of a route of a tenant.
#[derive(Clone)]
pub enum TenantCaller {
    /// The tenant, by a key with this scope.
    Key(Principal, Scope),
    /// A user of the cluster.
    User(Member),
}

impl TenantCaller {
    /// The caller's key, where the caller has one.
    #[must_use]
    pub fn key(&self) -> Option<&Principal> {
        match self {
            Self::Key(principal, _) => Some(principal),
            Self::User(_) => None,
        }
    }
}

/// A user of the cluster with rights in the namespace of a tenant.
#[derive(Clone)]
pub struct Member {
    user: User,
    /// Of responses that outlast their request, it is reviewed again.
    token: Arc<SecretString>,
    rights: &'static [Right],
}

impl Member {
    /// Checks that the user has other rights in the namespace too.
    ///
    /// # Errors
    /// `forbidden` with the first that is lacking; `cluster_unavailable`.
    pub async fn authorise(&self, app: &App, namespace: &str, rights: &[Right]) -> Result<(), Problem> {
        for right in rights {
            app.administrators.authorise(&self.user, right.review(namespace)).await?;
        }
        Ok(())
    }
}

impl Context {
    /// Whether the server would still accept the caller: for streaming responses.
    pub async fn is_still_authorised(&self, app: &App) -> bool {
        match &self.by {
            TenantCaller::Key(principal, scope) => match app.authenticator.revalidate(principal).await {
                Ok(now) => now.may(*scope) && active(app, &self.of).is_some(),
                Err(_) => false,
            },
            TenantCaller::User(member) => {
                let Ok(Some(user)) = app.administrators.user(member.token.expose_secret()).await else {
                    return false;
                };
                let member = Member { user, ..member.clone() };
                current(app, &self.of).is_some()
                    && member.authorise(app, &self.of.namespace, member.rights).await.is_ok()
            }
        }
    }
}

/// The tenant that a request names, by name or UID: in the header, in the query, or in both.
#[derive(Debug, Default)]
pub struct NamedTenant {
    header: Option<String>,
    query: Option<String>,
}

impl NamedTenant {
    /// The tenant that a path names.
    #[must_use]
    pub fn of(id: String) -> Self {
        Self { header: None, query: Some(id) }
    }

    /// Whether the request names a tenant.
    #[must_use]
    pub fn is_given(&self) -> bool {
        self.header.is_some() || self.query.is_some()
    }

    /// Checks that the request names no other tenant than this one.
    ///
    /// # Errors
    /// `tenant_mismatch`.
    pub fn check(&self, of: &TenantOf) -> Result<(), Problem> {
        for (named, place) in [(&self.header, "X-Tenant-ID"), (&self.query, "`tenant`")] {
            if named.as_ref().is_some_and(|named| *named != of.name && *named != of.uid) {
                let detail = format!("{place} names another tenant than the request is for");
                return Err(Problem::new(Code::TenantMismatch, detail));
            }
        }
        Ok(())
    }

    /// The name of the tenant that a user has named, whether it exists or not. The response must not depend on that before the
    /// user is authorised.
    ///
    /// # Errors
    /// `tenant_required`; `not_found` for a name that no tenant can have.
    pub fn name(&self, app: &App) -> Result<String, Problem> {
        self.find(app).map(|(name, _)| name)
    }

    fn find(&self, app: &App) -> Result<(String, Option<Arc<Tenant>>), Problem> {
        let required = || {
            let detail = "a user must name the tenant, by its name or UID: ?tenant=NAME or X-Tenant-ID";
            Problem::new(Code::TenantRequired, detail)
        };
        let text = self.query.as_ref().or(self.header.as_ref()).ok_or_else(required)?;
        let found = find(app, text);
        let name = found.as_ref().map_or_else(|| text.clone(), |tenant| tenant.name_any());
        if is_name(&name) { Ok((name, found)) } else { Err(Problem::not_found("tenant")) }
    }

    /// The tenant, for a user with these rights in its namespace.
    ///
    /// # Errors
    /// `tenant_required`, `forbidden`; with the rights `not_found`, `tenant_mismatch`, and `tenant_inactive` where the namespace
    /// is not the tenant's: what a user may do there says nothing about the tenant.
    pub async fn authorise(
        &self,
        app: &App,
        user: &Administrator,
        rights: &[Right],
    ) -> Result<(Arc<TenantOf>, Arc<Tenant>), Problem> {
        let (name, found) = self.find(app)?;
        let namespace = names::namespace(&app.settings.namespace_prefix, &name);
        for right in rights {
            app.administrators.authorise(&user.user, right.review(&namespace)).await?;
        }
        let tenant = found.ok_or_else(|| Problem::not_found("tenant"))?;
        if tenant.status.as_ref().and_then(|status| status.namespace.as_deref()) != Some(&namespace) {
            return Err(Problem::new(Code::TenantInactive, INACTIVE_TENANT));
        }
        let uid = tenant.uid().unwrap_or_default();
        let of = TenantOf { name, uid, namespace };
        self.check(&of)?;
        record_tenant(&of.name);
        Ok((Arc::new(of), tenant))
    }
}

/// The tenant of a name or UID. The UID has precedence, as no client can choose it.
#[must_use]
pub fn find(app: &App, id: &str) -> Option<Arc<Tenant>> {
    let by_uid = app.tenants.find(|tenant| tenant.metadata.uid.as_deref() == Some(id));
    by_uid.or_else(|| app.tenants.get(&ObjectRef::new(id)))
}

/// Whether a tenant can have this name.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=MAX_NAME).contains(&text.len())
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Takes the parameter out of a query: the tenant, and the query without it.
fn without_tenant(uri: &Uri) -> Result<Option<(String, Uri)>, Problem> {
    let invalid = |detail: &str| Problem::new(Code::InvalidQuery, detail);
    let query = uri.query().unwrap_or_default();
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| invalid("the query is not name=value pairs"))?;
    let raw = query.split('&').filter(|pair| !pair.is_empty());
    let (mut tenant, mut rest) = (None, Vec::new());
    for (raw, (name, value)) in raw.zip(pairs) {
        if name != TENANT {
            rest.push(raw);
        } else if tenant.replace(canonical(value)).is_some() {
            return Err(invalid("duplicate field `tenant`"));
        }
    }
    let Some(tenant) = tenant else { return Ok(None) };
    let rest = match &rest[..] {
        [] => uri.path().to_owned(),
        rest => format!("{}?{}", uri.path(), rest.join("&")),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = PathAndQuery::try_from(rest).ok();
    let uri = Uri::from_parts(parts).map_err(|_| invalid("the query is not name=value pairs"))?;
    Ok(Some((tenant, uri)))
}

impl<S: Send + Sync> FromRequestParts<S> for NamedTenant {
    type Rejection = Problem;

    /// Takes the parameter out of the request's query, so that the handler's own parameters are read without it.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let header = only(&parts.headers, &TENANT_ID)?.filter(|named| !named.is_empty());
        let header = header.map(|named| canonical(named.to_owned()));
        let query = match without_tenant(&parts.uri)? {
            Some((tenant, uri)) => {
                parts.uri = uri;
                Some(tenant)
            }
            None => None,
        };
        Ok(Self { header, query })
    }
}

impl Describes for NamedTenant {
    fn describe(operation: &mut Operation) {
        let schema = json!({"type": "string", "minLength": 1});
        let description = "This is the name or the UID of the tenant. A user must give it here or in `X-Tenant-ID`. The server \
             refuses another tenant than the key's.";
        operation.takes_parameter(TENANT, description, &schema);
        operation.add_problems([Code::NotFound]);
    }
}

/// A tenant, whose caller is authorised to what `N` says: by a key with its scope, or by a user's rights.
pub struct ByTenant<N>(pub Context, pub(super) PhantomData<N>);

impl<N: Needs> FromRequestParts<App> for ByTenant<N> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let caller = Caller::from_request_parts(parts, app).await?;
        let named = NamedTenant::from_request_parts(parts, app).await?;
        let context = match caller {
            Caller::Tenant(key) => {
                key.needs(N::SCOPE)?;
                named.check(&key.principal.tenant)?;
                let of = Arc::clone(&key.principal.tenant);
                Context { of, tenant: key.tenant, by: TenantCaller::Key(key.principal, N::SCOPE) }
            }
            Caller::Administrator(user) => {
                if let Some(audit) = parts.extensions.get::<Audit>() {
                    audit.by_user(&user.user);
                }
                of_user::<N>(app, user, &named).await?
            }
        };
        Ok(Self(context, PhantomData))
    }
}

async fn of_user<N: Needs>(app: &App, user: Administrator, named: &NamedTenant) -> Result<Context, Problem> {
    let (of, tenant) = named.authorise(app, &user, N::RIGHTS).await?;
    if N::ACTIVE && active(app, &of).is_none() {
        return Err(Problem::new(Code::TenantInactive, INACTIVE_TENANT));
    }
    // From here on the request is one of the tenant's.
    user.takes_place(&app.places.tenants, &of.uid)?;
    let member = Member { user: user.user, token: user.token, rights: N::RIGHTS };
    Ok(Context { of, tenant, by: TenantCaller::User(member) })
}

impl<N: Needs> Describes for ByTenant<N> {
    fn describe(operation: &mut Operation) {
        operation.called_by(AllowedCallers::KeyOrAdministrator, Some(N::SCOPE));
        operation.needs_rights(N::RIGHTS);
        NamedTenant::describe(operation);
        operation.add_problems([Code::TenantRequired, Code::Forbidden, Code::InvalidQuery]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tenant_is_taken_out_of_the_query_and_the_rest_stays_as_it_was() {
        let taken = |text: &str| {
            let uri: Uri = format!("/v1/jobs?{text}").parse().unwrap();
            without_tenant(&uri).map(|taken| taken.map(|(tenant, uri)| (tenant, uri.to_string())))
        };
        for (query, tenant, rest) in [
            ("tenant=acme", "acme", "/v1/jobs"),
            ("limit=1&tenant=acme&cursor=a%26b", "acme", "/v1/jobs?limit=1&cursor=a%26b"),
            ("&&limit&tenant=a%62&&", "ab", "/v1/jobs?limit"),
            ("%74enant=acme", "acme", "/v1/jobs"),
            ("tenant", "", "/v1/jobs"),
            ("tenant=%ff", "\u{fffd}", "/v1/jobs"),
        ] {
            assert_eq!(taken(query).unwrap(), Some((tenant.to_owned(), rest.to_owned())), "{query}");
        }
        for query in ["", "limit=1", "Tenant=acme", "x=tenant=acme"] {
            assert_eq!(taken(query).unwrap(), None, "{query}");
        }
        assert_eq!(taken("tenant=a&tenant=a").unwrap_err().code, Code::InvalidQuery);
    }

    #[test]
    fn a_name_that_no_tenant_can_have_is_not_reviewed() {
        assert!(["a", "0b8e9c1a-0000-4000-8000-00000000000f", &"a".repeat(40)].into_iter().all(is_name));
        for bad in ["", "-a", "a-", "A", "a.b", "a/b", "\u{e9}", "kube-system\n", &"a".repeat(41)] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
