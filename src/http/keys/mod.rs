//! `/keys` and `/whoami`: API keys over REST. A token is in one response only.
//!
//! A handler creates a TenantApiKey like any other; its controller makes the token, and the handler reads it from the Secret
//! into the response. A user of the cluster has the token of a key only with the right to read Secrets, in which it is, and
//! where the user's rights are worth the key's scopes. What a key creates has an ownerReference to it, and ends with it; it has no scopes beyond the key's
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
use kube::{Api, runtime::reflector::ObjectRef};
use serde_json::json;

pub use self::view::{KeyView, view};
use super::{
    App,
    by_tenant::{Context, TenantCaller},
    openapi::{Describes, Operation},
    path::canonical,
    problem::{Code, Problem},
    rights::of_scope,
    routes::Routes,
};
use crate::{
    api_types::{TenantApiKey, api_key::Scope},
    domain::api_key::Lineage,
    hex::hex,
    keys::TenantOf,
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
fn of_tenant(id: &'static str, summary: &'static str, description: &'static str) -> Operation {
    Operation::new(id, summary, description).problems([Code::NotFound])
}

/// The tenant whose keys a request acts on.
struct TenantKeys {
    of: Arc<TenantOf>,
    by: TenantCaller,
}

impl From<Context> for TenantKeys {
    fn from(Context { of, by, .. }: Context) -> Self {
        Self { of, by }
    }
}

impl TenantKeys {
    /// Checks that the caller's key has all of these scopes.
    fn check_scopes(&self, scopes: &[Scope]) -> Result<(), Problem> {
        match self.by.key() {
            Some(own) if scopes.iter().any(|scope| !own.may(*scope)) => Err(Problem::new(
                Code::MissingScope,
                "a key can't create, rotate or delete a key with scopes beyond its own",
            )),
            _ => Ok(()),
        }
    }

    /// Checks that a token with these scopes, which the caller will have, is worth no more than the caller's key or, of a
    /// user, than the user's rights.
    async fn check_token(&self, app: &App, scopes: &[Scope]) -> Result<(), Problem> {
        self.check_scopes(scopes)?;
        let TenantCaller::User(member) = &self.by else { return Ok(()) };
        for scope in scopes {
            member.authorise(app, &self.of.namespace, of_scope(*scope)).await?;
        }
        Ok(())
    }

    /// Checks that a token of this key, which the caller will have, ends with the caller's own key.
    fn check_descent(&self, key: &TenantApiKey, lineage: &Lineage) -> Result<(), Problem> {
        let Some(own) = self.by.key() else { return Ok(()) };
        if key.metadata.uid == own.key.metadata.uid || lineage.contains(&own.key) {
            return Ok(());
        }
        let detail = "a key can rotate only itself and the keys that it has created, which end with it";
        Err(Problem::new(Code::Forbidden, detail))
    }

    /// The keys that a key comes from.
    fn lineage(&self, app: &App, key: &TenantApiKey) -> Lineage {
        Lineage::of(key, |name| app.keys.get(&ObjectRef::new(name).within(&self.of.namespace)))
    }

    fn api(&self, app: &App) -> Api<TenantApiKey> {
        Api::namespaced(app.client.clone(), &self.of.namespace)
    }

    fn find(&self, app: &App, id: &str) -> Result<Arc<TenantApiKey>, Problem> {
        let is_match = |key: &TenantApiKey| {
            key.metadata.namespace.as_deref() == Some(&self.of.namespace)
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
