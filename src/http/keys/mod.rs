//! `/keys` and `/whoami`: API keys over REST. A token is in one response only.
//!
//! A handler creates a TenantApiKey like any other; its controller makes the token, and the handler reads it from the Secret
//! into the response. What a key creates has an ownerReference to it, and ends with it; it has no scopes beyond the key's
//! own. A key can rotate only itself and what it has created, because it receives the token, and delete only keys without
//! scopes beyond its own.

mod create;
mod delete;
mod issue;
mod list;
mod rotate;
mod view;
mod whoami;

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use kube::{Api, ResourceExt, runtime::reflector::ObjectRef};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

pub use self::view::{KeyView, view};
use super::{
    App,
    administrators::AccessReview,
    auth::Caller,
    middleware::record_tenant,
    openapi::{Describes, Operation},
    path::canonical,
    problem::{Code, Problem},
    routes::Routes,
};
use crate::{
    api_types::{TenantApiKey, api_key::Scope},
    domain::api_key::Lineage,
    hex::hex,
    keys::Principal,
    names,
};

/// The routes.
pub fn routes() -> Routes {
    Routes::new("Keys")
        .get("/keys", list::list, list::operation())
        .post("/keys", create::create, create::operation())
        .post("/keys/{id}/rotate", rotate::rotate, rotate::operation())
        .delete("/keys/{id}", delete::delete, delete::operation())
        .get("/whoami", whoami::whoami, whoami::operation())
}

/// The description of a route that acts on the keys of one tenant.
fn of_tenant(id: &'static str, summary: &'static str, description: &'static str, scope: Scope) -> Operation {
    Operation::new(id, summary, description).scope(scope).problems([
        Code::InvalidQuery,
        Code::Forbidden,
        Code::NotFound,
    ])
}

/// Parameters of the routes that act on the keys of one tenant.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantQuery {
    /// This is the name of the tenant. An administrator must give it.
    #[schemars(length(min = 1))]
    tenant: Option<String>,
}

/// The tenant whose keys a request acts on.
struct TenantKeys {
    namespace: String,
    tenant_uid: String,
    /// The caller's key; `None` for an administrator.
    by: Option<Principal>,
}

impl TenantKeys {
    /// The tenant of a request, for a caller with the scope or the right to the verb.
    async fn authorise(
        app: &App,
        caller: Caller,
        query: TenantQuery,
        scope: Scope,
        verb: &'static str,
    ) -> Result<Self, Problem> {
        match caller {
            Caller::Tenant(context) => {
                context.needs(scope)?;
                let tenant = Arc::clone(&context.principal.tenant);
                if query
                    .tenant
                    .map(canonical)
                    .is_some_and(|named| named != tenant.name && named != tenant.uid)
                {
                    let detail = "`tenant` names another tenant than the key's";
                    return Err(Problem::new(Code::TenantMismatch, detail));
                }
                Ok(Self {
                    namespace: tenant.namespace.clone(),
                    tenant_uid: tenant.uid.clone(),
                    by: Some(context.principal),
                })
            }
            Caller::Administrator(admin) => {
                let missing = || {
                    Problem::new(Code::InvalidQuery, "an administrator must name the tenant: ?tenant=NAME")
                };
                let name = query.tenant.ok_or_else(missing)?;
                let namespace = names::namespace(&app.settings.namespace_prefix, &name);
                let (resource, at) = ("tenantapikeys", Some(namespace.clone()));
                // Before the response says whether the tenant exists.
                admin.authorise(app, AccessReview::ours(verb, resource, at, None)).await?;
                let tenant = app.tenants.get(&ObjectRef::new(&name));
                let tenant_uid = tenant.and_then(|tenant| tenant.uid());
                let tenant_uid = tenant_uid.ok_or_else(|| Problem::not_found("tenant"))?;
                record_tenant(&name);
                Ok(Self { namespace, tenant_uid, by: None })
            }
        }
    }

    /// Checks that the caller's key has all of these scopes.
    fn check_scopes(&self, scopes: &[Scope]) -> Result<(), Problem> {
        match &self.by {
            Some(own) if scopes.iter().any(|scope| !own.may(*scope)) => Err(Problem::new(
                Code::MissingScope,
                "a key can't create, rotate or delete a key with scopes beyond its own",
            )),
            _ => Ok(()),
        }
    }

    /// Checks that a token of this key, which the caller will have, ends with the caller's own key.
    fn check_descent(&self, app: &App, key: &TenantApiKey) -> Result<(), Problem> {
        let Some(own) = &self.by else { return Ok(()) };
        let find = |name: &str| app.keys.get(&ObjectRef::new(name).within(&self.namespace));
        if key.metadata.uid == own.key.metadata.uid || Lineage::of(key, find).contains(&own.key) {
            return Ok(());
        }
        let detail = "a key can rotate only itself and the keys that it has created, which end with it";
        Err(Problem::new(Code::Forbidden, detail))
    }

    fn api(&self, app: &App) -> Api<TenantApiKey> {
        Api::namespaced(app.client.clone(), &self.namespace)
    }

    fn find(&self, app: &App, id: &str) -> Result<Arc<TenantApiKey>, Problem> {
        let is_match = |key: &TenantApiKey| {
            key.metadata.namespace.as_deref() == Some(&self.namespace)
                && key.metadata.uid.as_deref() == Some(id)
        };
        app.keys.find(is_match).ok_or_else(|| Problem::not_found("key"))
    }
}

/// The id in a path.
pub struct Id(String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        id.map(|Path(id)| Self(canonical(id))).map_err(|_| Problem::not_found("key"))
    }
}

impl Describes for Id {
    fn describe(operation: &mut Operation) {
        operation.takes_path(
            "id",
            "This is the id of the key, which is its UID.",
            &json!({"type": "string", "format": "uuid"}),
        );
    }
}

/// A random part of a name.
fn random(app: &App) -> Result<String, Problem> {
    let mut bytes = [0; 8];
    let filled = app.random.fill(&mut bytes);
    filled.map_err(|error| Problem::new(Code::Internal, "failed to make a random name").with_cause(error))?;
    Ok(hex(&bytes))
}
