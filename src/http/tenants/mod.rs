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
    let read = |id, summary, description| {
        Operation::new(id, summary, description).scope(Scope::TenantRead).refuses([Code::Forbidden])
    };
    let changed = |id, summary, description| {
        Operation::new(id, summary, description)
            .json::<TenantView>(200, "This is the changed tenant.")
            .headers(&["ETag"])
            .refuses([Code::InvalidObject, Code::Conflict])
    };
    let list = Operation::new("listTenants", "List tenants", "Lists all tenants by name.");
    let made = Operation::new(
        "createTenant",
        "Create a tenant",
        "Creates a tenant. Its controller then creates the namespace and what belongs into it.",
    );
    let deleted = Operation::new(
        "deleteTenant",
        "Delete a tenant",
        "Deletes a tenant, its jobs first. The history keeps what it used.",
    );
    let jobs = jobs::listed(
        "listJobsOfTenant",
        "List the jobs of a tenant",
        "Lists the jobs of a tenant, the newest first, those of the history included.",
    );
    let jobs = jobs.scope(Scope::JobsRead).refuses([Code::Forbidden]);
    Routes::new("Tenants")
        .get(
            "/tenants",
            read::list,
            list.json::<read::Tenants>(200, "This is a page of tenants.").refuses([Code::InvalidCursor]),
        )
        .post(
            "/tenants",
            create::create,
            made.json::<TenantView>(201, "This is the new tenant.")
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
            read("getTenant", "Read a tenant", "Returns a tenant with its quotas and its current usage.")
                .json::<TenantView>(200, "This is the tenant.")
                .headers(&["ETag"]),
        )
        .put(
            "/tenants/{id}",
            change::replace,
            changed(
                "replaceTenant",
                "Replace a tenant",
                "Replaces a tenant. A field that the body lacks has the same value as in a new tenant.",
            ),
        )
        .patch(
            "/tenants/{id}",
            change::update,
            changed(
                "changeTenant",
                "Change a tenant",
                "Changes the fields of a tenant that the body has, and no others.",
            ),
        )
        .delete(
            "/tenants/{id}",
            change::delete,
            deleted.nothing(204, "The tenant is being deleted.").refuses([Code::Conflict]),
        )
        .get(
            "/tenants/{id}/stats",
            read::stats,
            read("statsOfTenant", "Read the statistics of a tenant", "Returns what a tenant uses and what its quotas still allow.")
                .json::<Stats>(200, "These are the statistics."),
        )
        .get("/tenants/{id}/jobs", read::jobs, jobs)
        .get(
            "/tenants/{id}/nodes",
            read::nodes,
            read("listNodesOfTenant", "List the nodes of a tenant", "Lists the nodes that are admitted to a tenant.")
                .json::<read::Nodes>(200, "These are all its nodes."),
        )
        .post(
            "/tenants/{id}/nodes",
            nodes::add,
            Operation::new(
                "giveNode",
                "Assign a node to a tenant",
                "Assigns a node to a tenant and waits up to 5 s until the node is admitted. The tenant's quotas must allow it.",
            )
            .json::<nodes::NodeView>(200, "The node was assigned to the tenant before.")
            .json::<nodes::NodeView>(201, "The node is admitted.")
            .json::<nodes::NodeView>(202, "The node is assigned. It was not admitted within 5 s.")
            .refuses([Code::Conflict, Code::NodeRejected, Code::QuotaExceeded, Code::WrongState]),
        )
        .delete(
            "/tenants/{id}/nodes/{node}",
            nodes::remove,
            Operation::new(
                "takeNode",
                "Release a node of a tenant",
                "Releases a node from a tenant. Jobs that run there finish first.",
            )
            .nothing(204, "The node is released.")
            .refuses([Code::Conflict]),
        )
        .get(
            "/tenants/{id}/usage",
            usage::usage,
            read("usageOfTenant", "Read the usage of a tenant", "Returns what the attempts of a tenant's jobs used, by hour or by day.")
                .json::<usage::Usage>(200, "This is the usage of the full hours that began in that time.")
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
        operation.takes_path("id", "This is the name or the UID of the tenant.", &schema);
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
