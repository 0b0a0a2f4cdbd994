//! `/tenants/{id}/nodes`: the nodes of a tenant, which an administrator assigns and releases.
//!
//! A handler writes only the label that an administrator would set with kubectl. The node controller decides about
//! admission, and the response waits for its decision. As the handler writes with the operator's rights, the administrator
//! needs the right to patch the node too: Crofter gives no access to a node that the cluster denies.

pub mod assign;
pub mod list;
pub mod release;

use axum::{
    extract::{FromRequestParts, Path},
    http::request::Parts,
};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::{Id, administered};
use crate::{
    api_types::Tenant,
    domain::{
        node_admission::since,
        worker::{self, admitted, label},
    },
    http::{
        App,
        administrators::AccessReview,
        auth::Administrator,
        openapi::{Describes, Operation},
        path::canonical,
        problem::{Code, Problem, is_denied},
        routes::Routes,
    },
    kube_ext::{call::within_opt, within},
    names,
};

/// Most writes to a node that other clients, such as its kubelet, change at the same time.
const MAX_ATTEMPTS: usize = 5;

/// Adds the routes.
pub fn add_routes(routes: Routes) -> Routes {
    routes
        .get("/tenants/{id}/nodes", list::list, list::operation())
        .post("/tenants/{id}/nodes", assign::assign, assign::operation())
        .delete("/tenants/{id}/nodes/{node}", release::release, release::operation())
}

/// A node is assigned to a tenant.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Node")]
pub struct NodeView {
    /// This is the UID of the node.
    id: Option<String>,
    /// This is the name of the node.
    pub name: String,
    /// This is the UID of the tenant.
    tenant_id: Option<String>,
    /// This is `pending` until the node is admitted, then `ready` or `not_ready`.
    #[schemars(extend("enum" = ["pending", "ready", "not_ready"]))]
    status: &'static str,
    /// This is the CPU that pods can use, in thousandths of a core.
    cpu_millicores: u64,
    /// This is the memory that pods can use, in bytes.
    memory_bytes: u64,
    /// This is how many GPUs pods can use.
    gpus: u64,
}

/// The view of a node for its tenant.
#[must_use]
pub fn view(app: &App, tenant: &Tenant, node: &Node) -> NodeView {
    let name = tenant.name_any();
    let is_admitted = admitted(node) == Some(&name);
    let worker = worker::of_group(node, name, &app.settings.gpu_resource);
    NodeView {
        id: node.uid(),
        name: worker.name,
        tenant_id: tenant.uid(),
        status: match (is_admitted, worker.ready) {
            (false, _) => "pending",
            (true, false) => "not_ready",
            (true, true) => "ready",
        },
        cpu_millicores: worker.allocatable.cpu_milli,
        memory_bytes: worker.allocatable.memory_bytes,
        gpus: worker.allocatable.gpus,
    }
}

/// The tenant and the node in a path.
pub struct Ids(Id, String);

impl<S: Send + Sync> FromRequestParts<S> for Ids {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let ids = Path::<(String, String)>::from_request_parts(parts, state).await;
        ids.map(|Path((id, node))| Self(Id(canonical(id)), node)).map_err(|_| Problem::not_found("node"))
    }
}

impl Describes for Ids {
    fn describe(operation: &mut Operation) {
        Id::describe(operation);
        let schema =
            json!({"type": "string", "maxLength": 253, "pattern": "^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$"});
        operation.takes_path("node", "This is the name of the node.", &schema);
    }
}

/// Whether a text can be the name of a node. The handler makes a path of the name, so it refuses any other text.
fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 253
        && name.chars().all(inner)
        && edge(name.chars().next())
        && edge(name.chars().next_back())
}

/// Checks that an administrator may change a node, besides the tenant.
async fn authorise(app: &App, admin: &Administrator, node: &str) -> Result<(), Problem> {
    if !is_name(node) {
        return Err(Problem::not_found("node"));
    }
    admin.authorise(app, AccessReview::of_node("patch", node)).await
}

fn is_labelled(node: &Node, tenant: &str) -> bool {
    label(node, names::NODE_TENANT) == Some(tenant)
}

/// Removes a tenant's label from a node.
async fn remove_label(app: &App, tenant: &str, name: &str) -> Result<(), Problem> {
    for _ in 0..MAX_ATTEMPTS {
        let node = read(app, name).await?;
        if !is_labelled(&node, tenant) {
            return Err(Problem::not_found("node"));
        }
        if write_label(app, &node, None).await?.is_some() {
            return Ok(());
        }
    }
    Err(changes_too_often())
}

/// The problem of a node that changes too often.
fn changes_too_often() -> Problem {
    Problem::new(Code::Conflict, "other clients keep changing the node: try again")
}

async fn read(app: &App, name: &str) -> Result<Node, Problem> {
    let api: Api<Node> = Api::all(app.client.clone());
    let node = within_opt("failed to read a Node", api.get(name)).await?;
    node.map(with_label_age).ok_or_else(|| Problem::not_found("node"))
}

/// A node with the age of its label, as the nodes of the cache have it.
fn with_label_age(mut node: Node) -> Node {
    since::prepare(&mut node);
    node
}

/// Sets or removes the label of a node; `None` where the node has changed since it was read.
async fn write_label(app: &App, node: &Node, tenant: Option<&str>) -> Result<Option<Node>, Problem> {
    let patch = json!({"metadata": {
        "uid": node.uid(),
        "resourceVersion": node.resource_version(),
        "labels": {(names::NODE_TENANT): tenant},
    }});
    let api: Api<Node> = Api::all(app.client.clone());
    let params = PatchParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PatchParams::default() };
    let (name, patch) = (node.name_any(), Patch::Merge(&patch));
    match within("failed to label a Node", api.patch(&name, &params, &patch)).await {
        Ok(node) => Ok(Some(with_label_age(node))),
        Err(error) if is_denied(&error) => Err(error.into()),
        Err(error) if error.is_conflict() => Ok(None),
        Err(error) if error.is_not_found() => Err(Problem::not_found("node")),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_name_becomes_part_of_a_path() {
        for good in ["n1", "worker-1.example.org", "0"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(254);
        for bad in ["", "..", "a/status", "a?b", "a%2f", "A", "-a", "a.", "a b", "\u{e9}", &long] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
