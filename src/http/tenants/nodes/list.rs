//! `GET /tenants/{id}/nodes`.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Id, NodeView, view};
use crate::{
    domain::worker,
    http::{
        App,
        auth::Caller,
        openapi::Operation,
        problem::Problem,
        rights::ReadTenant,
        tenants::{readable, reads_tenant},
    },
};

/// These are all nodes of a tenant.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Nodes {
    /// These are the nodes, by name.
    nodes: Vec<NodeView>,
    /// This is always null, because there is one page.
    next_cursor: Option<String>,
}

/// The description of the route.
pub fn operation() -> Operation {
    reads_tenant(
        "listTenantNodes",
        "List the nodes of a tenant",
        "Lists the nodes that are admitted to a tenant.",
    )
    .json::<Nodes>(200, "These are all nodes of the tenant.")
}

/// Lists the nodes that are admitted to a tenant.
///
/// # Errors
/// As for the tenant itself.
pub async fn list(State(app): State<App>, caller: Caller, id: Id) -> Result<Json<Nodes>, Problem> {
    let tenant = readable::<ReadTenant>(&app, &caller, &id).await?;
    let name = tenant.name_any();
    let own = app.nodes.state_filter(|node| worker::admitted(node) == Some(&name));
    let own: BTreeMap<String, NodeView> =
        own.iter().map(|node| (node.name_any(), view(&app, &tenant, node))).collect();
    Ok(Json(Nodes { nodes: own.into_values().collect(), next_cursor: None }))
}
