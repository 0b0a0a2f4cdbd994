//! Tenants: for administrators, by their rights in the cluster; a tenant's key sees its own.

mod change;
mod create;
mod nodes;
mod read;
mod usage;
mod view;

use std::sync::Arc;

use axum::{
    Router,
    extract::{FromRequestParts, Path},
    http::request::Parts,
    routing::{delete, get},
};
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::{
    App,
    administrators::{Act, User},
    auth::Caller,
    problem::Problem,
};
use crate::api_types::{Tenant, api_key::Scope};

/// The routes.
pub fn routes() -> Router<App> {
    let one = get(read::get).put(change::update).patch(change::update).delete(change::delete);
    Router::new()
        .route("/tenants", get(read::list).post(create::create))
        .route("/tenants/{id}", one)
        .route("/tenants/{id}/stats", get(read::stats))
        .route("/tenants/{id}/jobs", get(read::jobs))
        .route("/tenants/{id}/nodes", get(read::nodes).post(nodes::add))
        .route("/tenants/{id}/nodes/{node}", delete(nodes::remove))
        .route("/tenants/{id}/usage", get(usage::usage))
}

/// The name or UID in a path.
pub struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        id.map(|Path(id)| Self(id)).map_err(|_| Problem::not_found("tenant"))
    }
}

fn act(verb: &'static str, name: Option<String>) -> Act {
    Act::ours(verb, "tenants", None, name)
}

/// The tenant of a path, by name or UID. A UID goes first: nobody can choose one.
fn find(app: &App, Id(id): &Id) -> Option<Arc<Tenant>> {
    let by_uid = app.tenants.find(|tenant| tenant.metadata.uid.as_deref() == Some(id));
    by_uid.or_else(|| app.tenants.get(&ObjectRef::new(id)))
}

/// The tenant of a path, for an administrator who may do this to it. Who may not learns nothing of whether it is there.
///
/// # Errors
/// `forbidden`, `not_found`.
async fn administered(app: &App, user: &User, id: &Id, verb: &'static str) -> Result<Arc<Tenant>, Problem> {
    let tenant = find(app, id);
    let name = tenant.as_ref().map_or_else(|| id.0.clone(), |tenant| tenant.name_any());
    app.administrators.may(user, act(verb, Some(name))).await?;
    tenant.ok_or_else(|| Problem::not_found("tenant"))
}

/// The tenant of a path, for an administrator who may read it, or its own key with `scope`.
///
/// # Errors
/// `missing_scope`, `forbidden`, `not_found`.
async fn readable(app: &App, caller: &Caller, id: &Id, scope: Scope) -> Result<Arc<Tenant>, Problem> {
    match caller {
        Caller::Administrator(user) => administered(app, user, id, "get").await,
        Caller::Tenant(context) => {
            context.needs(scope)?;
            let own = &context.principal.tenant;
            if id.0 == own.uid || id.0 == own.name {
                return Ok(Arc::clone(&context.tenant));
            }
            Err(Problem::not_found("tenant"))
        }
    }
}
