//! `/keys` and `/whoami`: API keys over REST. A token is in one response only.
//!
//! A handler creates a TenantApiKey like any other; its controller makes the token, and the handler reads it from the Secret
//! into the response. A key can create and rotate only keys without scopes beyond its own, because the caller receives
//! their tokens.

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
    hex::hex,
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
    /// The scopes of the caller's key; `None` for an administrator.
    scopes: Option<Vec<Scope>>,
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
                let tenant = &context.principal.tenant;
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
                    scopes: Some(context.principal.key.spec.scopes.clone()),
                })
            }
            Caller::Administrator(user) => {
                let missing = || {
                    Problem::new(Code::InvalidQuery, "an administrator must name the tenant: ?tenant=NAME")
                };
                let name = query.tenant.ok_or_else(missing)?;
                let namespace = names::namespace(&app.settings.namespace_prefix, &name);
                let (resource, at) = ("tenantapikeys", Some(namespace.clone()));
                // Before the response says whether the tenant exists.
                app.administrators.authorise(&user, AccessReview::ours(verb, resource, at, None)).await?;
                let tenant = app.tenants.get(&ObjectRef::new(&name));
                let tenant_uid = tenant.and_then(|tenant| tenant.uid());
                let tenant_uid = tenant_uid.ok_or_else(|| Problem::not_found("tenant"))?;
                record_tenant(&name);
                Ok(Self { namespace, tenant_uid, scopes: None })
            }
        }
    }

    /// Checks that the caller's key has all of these scopes.
    fn check_scopes(&self, scopes: &[Scope]) -> Result<(), Problem> {
        match &self.scopes {
            Some(own) if scopes.iter().any(|scope| !own.contains(scope)) => Err(Problem::new(
                Code::MissingScope,
                "a key can't create or rotate a key with scopes beyond its own",
            )),
            _ => Ok(()),
        }
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
