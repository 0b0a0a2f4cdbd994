//! Tenants: administrators access them by their rights in the cluster; a tenant's key reads its own.

mod create;
mod delete;
mod get;
mod jobs;
mod list;
mod nodes;
mod stats;
mod update;
mod usage;
mod view;

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use kube::ResourceExt;
use serde_json::json;

pub use self::view::AllQuotas;
use super::{
    App,
    administrators::AccessReview,
    auth::{Administrator, Caller},
    by_tenant::{NamedTenant, find},
    header::IfMatch,
    middleware::record_tenant,
    openapi::{Describes, Operation},
    path::canonical,
    problem::{Code, Problem, is_denied},
    rights::{Needs, ReadTenant},
    routes::Routes,
};
use crate::{api_types::Tenant, kube_ext::CallError};

/// The routes.
pub fn routes() -> Routes {
    let routes = Routes::new("Tenants")
        .get("/tenants", list::list, list::operation())
        .post("/tenants", create::create, create::operation())
        .get("/tenants/{id}", get::get, get::operation())
        .put("/tenants/{id}", update::replace, update::replace_operation())
        .patch("/tenants/{id}", update::update, update::update_operation())
        .delete("/tenants/{id}", delete::delete, delete::operation())
        .get("/tenants/{id}/stats", stats::stats, stats::operation())
        .get("/tenants/{id}/jobs", jobs::jobs, jobs::operation());
    nodes::add_routes(routes).get("/tenants/{id}/usage", usage::usage, usage::operation())
}

/// The description of a route that reads a tenant.
fn reads_tenant(id: &'static str, summary: &'static str, description: &'static str) -> Operation {
    Operation::new(id, summary, description).needs::<ReadTenant>().problems([Code::Forbidden])
}

/// The pattern of names and UIDs.
const NAME: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// The name or UID in a path.
pub struct Id(pub String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        id.map(|Path(id)| Self(canonical(id))).map_err(|_| Problem::not_found("tenant"))
    }
}

impl Describes for Id {
    fn describe(operation: &mut Operation) {
        let schema = json!({"type": "string", "maxLength": 40, "pattern": NAME});
        operation.takes_path("id", "This is the name or the UID of the tenant.", &schema);
    }
}

fn access_review(verb: &'static str, name: Option<String>) -> AccessReview {
    AccessReview::ours(verb, "tenants", None, name)
}

/// The tenant of a path, for an administrator with the right to this verb. Without the right an administrator does not learn
/// whether the tenant exists.
///
/// # Errors
/// `forbidden`, `not_found`.
async fn administered(
    app: &App,
    admin: &Administrator,
    id: &Id,
    verb: &'static str,
) -> Result<Arc<Tenant>, Problem> {
    let tenant = find(app, &id.0);
    let name = tenant.as_ref().map_or_else(|| id.0.clone(), |tenant| tenant.name_any());
    admin.authorise(app, access_review(verb, Some(name))).await?;
    let tenant = tenant.ok_or_else(|| Problem::not_found("tenant"))?;
    record_tenant(&tenant.name_any());
    Ok(tenant)
}

/// The tenant of a path for a write, and the version that `If-Match` requires.
///
/// # Errors
/// `forbidden`, `not_found`, `precondition_failed`.
async fn versioned_for_write(
    app: &App,
    admin: &Administrator,
    id: &Id,
    if_match: &IfMatch,
    verb: &'static str,
) -> Result<(Arc<Tenant>, Option<String>), Problem> {
    let tenant = administered(app, admin, id, verb).await?;
    let version = if_match.version(tenant.metadata.resource_version.as_deref())?;
    Ok((tenant, version))
}

/// The problem of a write that the API server refuses because the tenant has changed or was deleted. `versioned` says
/// whether the write was for one version.
fn write_refused(error: CallError, versioned: bool) -> Problem {
    match error.code() {
        _ if is_denied(&error) => error.into(),
        Some(404) => Problem::not_found("tenant"),
        Some(409) if versioned => {
            Problem::new(Code::PreconditionFailed, "the tenant's version is not the one that If-Match names")
        }
        _ => error.into(),
    }
}

/// The tenant of a path, for an administrator with the right to read it, for a user with the rights of `N` in its namespace,
/// or for its own key with the scope of `N`.
///
/// # Errors
/// `missing_scope`, `forbidden`, `not_found`.
async fn readable<N: Needs>(app: &App, caller: &Caller, id: &Id) -> Result<Arc<Tenant>, Problem> {
    match caller {
        Caller::Administrator(user) => match administered(app, user, id, "get").await {
            Err(problem) if problem.code == Code::Forbidden => of_member::<N>(app, user, id).await,
            result => result,
        },
        Caller::Tenant(key) => {
            key.needs(N::SCOPE)?;
            let own = &key.principal.tenant;
            if id.0 == own.uid || id.0 == own.name {
                return Ok(Arc::clone(&key.tenant));
            }
            Err(Problem::not_found("tenant"))
        }
    }
}

/// The tenant of a path, for a user with the rights of `N` in its namespace.
async fn of_member<N: Needs>(app: &App, user: &Administrator, Id(id): &Id) -> Result<Arc<Tenant>, Problem> {
    let named = NamedTenant::of(id.clone());
    let (of, tenant) = named.authorise(app, user, N::RIGHTS).await?;
    user.takes_place(&app.places.tenants, &of.uid)?;
    Ok(tenant)
}
