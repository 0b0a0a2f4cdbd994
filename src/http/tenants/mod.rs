//! Tenants: for administrators, by their rights in the cluster; a tenant's key sees its own.

mod change;
mod create;
mod nodes;
mod read;
mod usage;
mod view;

use std::sync::Arc;

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use kube::{ResourceExt, runtime::reflector::ObjectRef};
use serde_json::json;

use self::view::{Stats, TenantView};
use super::{
    App,
    administrators::{Act, User},
    auth::Caller,
    jobs,
    openapi::{Describes, Operation},
    path::canonical,
    problem::{Code, Problem},
    routes::Routes,
};
use crate::api_types::{Tenant, api_key::Scope};

/// The routes.
pub fn routes() -> Routes {
    let read = |id, summary| Operation::new(id, summary).scope(Scope::TenantRead).refuses([Code::Forbidden]);
    let changed = |id, summary| {
        Operation::new(id, summary)
            .json::<TenantView>(200, "The tenant.")
            .headers(&["ETag"])
            .refuses([Code::InvalidObject, Code::Conflict])
    };
    let (list, made) = (
        Operation::new("listTenants", "Tenants, by name."),
        Operation::new("createTenant", "Makes a tenant."),
    );
    let deleted = Operation::new("deleteTenant", "Deletes a tenant, its jobs first. The history stays.");
    let jobs = jobs::listed("listJobsOfTenant", "Jobs of a tenant, the newest first, history included.");
    let jobs = jobs.scope(Scope::JobsRead).refuses([Code::Forbidden]);
    Routes::new("Tenants")
        .get(
            "/tenants",
            read::list,
            list.json::<read::Tenants>(200, "A page of tenants.").refuses([Code::InvalidCursor]),
        )
        .post(
            "/tenants",
            create::create,
            made.json::<TenantView>(201, "The tenant. Its namespace and the rest follow.")
                .headers(&["Location", "ETag"])
                .links(
                    201,
                    "id",
                    &["getTenant", "statsOfTenant", "listJobsOfTenant", "listNodesOfTenant", "usageOfTenant"],
                )
                .refuses([Code::Conflict, Code::InvalidObject]),
        )
        .get(
            "/tenants/{id}",
            read::get,
            read("getTenant", "A tenant.").json::<TenantView>(200, "The tenant.").headers(&["ETag"]),
        )
        .put(
            "/tenants/{id}",
            change::replace,
            changed("replaceTenant", "Replaces a tenant: a field that is left out is as for a new one."),
        )
        .patch(
            "/tenants/{id}",
            change::update,
            changed("changeTenant", "Changes the fields that are given, and no other."),
        )
        .delete(
            "/tenants/{id}",
            change::delete,
            deleted.nothing(204, "It is being deleted.").refuses([Code::Conflict]),
        )
        .get(
            "/tenants/{id}/stats",
            read::stats,
            read("statsOfTenant", "What a tenant uses, and what its quotas leave.")
                .json::<Stats>(200, "The statistics."),
        )
        .get("/tenants/{id}/jobs", read::jobs, jobs)
        .get(
            "/tenants/{id}/nodes",
            read::nodes,
            read("listNodesOfTenant", "The nodes that are admitted to a tenant.")
                .json::<read::Nodes>(200, "All of them."),
        )
        .post(
            "/tenants/{id}/nodes",
            nodes::add,
            Operation::new("giveNode", "Gives a node to a tenant, within the tenant's quotas.")
                .json::<nodes::NodeView>(200, "It was the tenant's already.")
                .json::<nodes::NodeView>(201, "It is admitted.")
                .json::<nodes::NodeView>(202, "It is labelled, and no verdict came in 5 s.")
                .refuses([Code::Conflict, Code::NodeRejected, Code::QuotaExceeded, Code::WrongState]),
        )
        .delete(
            "/tenants/{id}/nodes/{node}",
            nodes::remove,
            Operation::new("takeNode", "Takes a node from a tenant. Its jobs there finish first.")
                .nothing(204, "It is not the tenant's any more.")
                .refuses([Code::Conflict]),
        )
        .get(
            "/tenants/{id}/usage",
            usage::usage,
            read("usageOfTenant", "What a tenant's attempts came to, by hour or day.")
                .json::<usage::Usage>(200, "The usage of the full hours that began in that time.")
                .refuses([Code::HistoryUnavailable]),
        )
}

/// What names and UIDs are made of.
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
        operation.takes_path("id", "Name or UID of the tenant.", &schema);
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
