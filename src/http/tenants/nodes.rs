//! `POST /tenants/{id}/nodes` and `DELETE /tenants/{id}/nodes/{node}`: an administrator gives a node to a tenant and takes it
//! back.
//!
//! What is written is the label that an administrator sets with kubectl, and nothing else: who is admitted stays for the
//! node controller to say, and an answer waits for its word. A node that would not fit is refused before it is labelled, by
//! the very rule of the controller. As the write is done with the operator's rights, the administrator must hold that on
//! the node, too: nobody gets at a node by way of Crofter whom the cluster keeps from it.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, ResourceExt,
    api::{ListParams, Patch, PatchParams},
    runtime::wait::await_condition,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Id, administered};
use crate::{
    api_types::Tenant,
    domain::{
        node_admission::{self, Excess, NodeFacts, WorkerQuota, WorkerQuotas, facts, since},
        resources::cores,
        tenant_state,
        worker::{self, admitted, label},
    },
    http::{
        App,
        administrators::Act,
        audit::Audit,
        auth::ByAdministrator,
        body::Body,
        openapi::{Describes, Operation},
        path::canonical,
        problem::{Code, Problem},
    },
    kube_ext::{call::within_opt, within},
    names,
};

/// How long the node controller's verdict is waited for.
const VERDICT: Duration = Duration::from_secs(5);
/// Writes to a node that somebody else changes at the same time, such as its kubelet.
const TRIES: usize = 5;

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

/// A node as it is shown to its tenant.
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

/// This names the node that is to be assigned to a tenant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GivenNode")]
pub struct Given {
    /// This is the name of the node.
    node: String,
}

/// Tenant and node in a path.
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

/// Whether a node could be of that name. Names become part of a path, so anything else is not even asked for.
fn is_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= 253
        && name.chars().all(inner)
        && edge(name.chars().next())
        && edge(name.chars().next_back())
}

/// The tenant, for an administrator who may change both it and the node.
async fn may(app: &App, admin: &ByAdministrator, id: &Id, node: &str) -> Result<Arc<Tenant>, Problem> {
    let tenant = administered(app, &admin.0, id, "patch").await?;
    if !is_name(node) {
        return Err(Problem::not_found("node"));
    }
    admin.may(app, Act::of_node("patch", node)).await?;
    Ok(tenant)
}

/// Gives a node to a tenant: 201 when it is admitted, 200 where it was the tenant's already, 202 where no verdict came in
/// 5 s.
///
/// # Errors
/// `quota_exceeded` in the seed's words; `node_rejected` where the node alone is too much; `conflict` where the node is somebody else's.
pub async fn add(
    State(app): State<App>,
    admin: ByAdministrator,
    audit: Audit,
    id: Id,
    Body(given): Body<Given>,
) -> Result<Response, Problem> {
    audit.about(&given.node);
    let tenant = may(&app, &admin, &id, &given.node).await?;
    let name = tenant.name_any();
    let (node, is_new) = claim(&app, &tenant, &given.node).await?;
    let answer = |status: StatusCode, node: &Node| (status, Json(view(&app, &tenant, node))).into_response();
    let done = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    if admitted(&node) == Some(&name) {
        return Ok(answer(done, &node));
    }
    let settled = {
        let name = name.clone();
        move |node: Option<&Node>| {
            node.is_none_or(|node| admitted(node) == Some(&name) || !is_labelled(node, &name))
        }
    };
    let api: Api<Node> = Api::all(app.client.clone());
    let verdict = tokio::time::timeout(VERDICT, await_condition(api, &given.node, settled)).await;
    let is_admitted = match &verdict {
        Ok(Ok(Some(node))) if admitted(node) == Some(&name) => true,
        Ok(Ok(_)) => {
            let detail = "the node was given to somebody else meanwhile, or is gone";
            return Err(Problem::new(Code::Conflict, detail));
        }
        _ => false,
    };
    // One that another replica gave at the same time may go before it, and then it would not stay.
    if let Some(problem) = excess(&app, &tenant, &node).await? {
        if is_new {
            release(&app, &name, &given.node).await?;
        }
        return Err(problem);
    }
    Ok(match verdict {
        Ok(Ok(Some(node))) if is_admitted => answer(done, &node),
        _ => answer(StatusCode::ACCEPTED, &node),
    })
}

/// Takes a node from a tenant. Its jobs there finish first.
///
/// # Errors
/// `not_found` where it is not the tenant's.
pub async fn remove(
    State(app): State<App>,
    admin: ByAdministrator,
    Ids(id, node): Ids,
) -> Result<StatusCode, Problem> {
    let tenant = may(&app, &admin, &id, &node).await?;
    release(&app, &tenant.name_any(), &node).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn is_labelled(node: &Node, tenant: &str) -> bool {
    label(node, names::NODE_TENANT) == Some(tenant)
}

fn over(detail: impl Into<String>) -> Problem {
    Problem::new(Code::QuotaExceeded, detail)
}

/// Labels a node for a tenant; false beside one that is labelled for it already.
async fn claim(app: &App, tenant: &Tenant, name: &str) -> Result<(Node, bool), Problem> {
    let own = tenant.name_any();
    // One after the other: each sees the labels of those before it.
    let _turn = app.giving.lock().await;
    for _ in 0..TRIES {
        let node = read(app, name).await?;
        match (label(&node, names::NODE_TENANT), label(&node, names::NODE_POOL)) {
            (_, Some(pool)) => {
                return Err(Problem::new(Code::Conflict, format!("the node is of the shared pool {pool}")));
            }
            (Some(tenant), None) if tenant == own => return Ok((node, false)),
            (Some(other), None) => {
                return Err(Problem::new(Code::Conflict, format!("the node is of the tenant {other}")));
            }
            (None, None) => (),
        }
        if !tenant_state::decide(tenant, app.clock.now()).accepts() {
            return Err(over("tenant is not active"));
        }
        if let Some(problem) = excess(app, tenant, &node).await? {
            return Err(problem);
        }
        if let Some(node) = write(app, &node, Some(&own)).await? {
            return Ok((node, true));
        }
    }
    Err(busy())
}

/// Takes a tenant's label off a node.
async fn release(app: &App, tenant: &str, name: &str) -> Result<(), Problem> {
    for _ in 0..TRIES {
        let node = read(app, name).await?;
        if !is_labelled(&node, tenant) {
            return Err(Problem::not_found("node"));
        }
        if write(app, &node, None).await?.is_some() {
            return Ok(());
        }
    }
    Err(busy())
}

fn busy() -> Problem {
    Problem::new(Code::Conflict, "the node is being changed all the time: try again")
}

async fn read(app: &App, name: &str) -> Result<Node, Problem> {
    let api: Api<Node> = Api::all(app.client.clone());
    let node = within_opt("failed to read a Node", api.get(name)).await?;
    node.map(aged).ok_or_else(|| Problem::not_found("node"))
}

/// A node with the age of its label, as those of the cache have it.
fn aged(mut node: Node) -> Node {
    since::prepare(&mut node);
    node
}

/// Sets or takes off the label of a node as it was read; `None` where it has changed since.
async fn write(app: &App, node: &Node, tenant: Option<&str>) -> Result<Option<Node>, Problem> {
    let patch = json!({"metadata": {
        "uid": node.uid(),
        "resourceVersion": node.resource_version(),
        "labels": {(names::NODE_TENANT): tenant},
    }});
    let api: Api<Node> = Api::all(app.client.clone());
    let params = PatchParams { field_manager: Some(names::API_MANAGER.to_owned()), ..PatchParams::default() };
    let (name, patch) = (node.name_any(), Patch::Merge(&patch));
    match within("failed to label a Node", api.patch(&name, &params, &patch)).await {
        Ok(node) => Ok(Some(aged(node))),
        Err(error) if error.is_conflict() => Ok(None),
        Err(error) if error.is_not_found() => Err(Problem::not_found("node")),
        Err(error) => Err(error.into()),
    }
}

/// Why a node that breaks a quota by itself is refused: no other node makes room for it.
fn too_large(excess: &Excess) -> Problem {
    let most = excess.limit.at_most().unwrap_or(u64::MAX);
    let detail = match excess.quota {
        WorkerQuota::Workers => format!("the tenant's quotas allow {most} workers"),
        WorkerQuota::Cpu => {
            let (own, most) = (cores(excess.asked), cores(most));
            format!("the node has {own} CPU cores: the tenant's quotas allow {most} in all")
        }
        WorkerQuota::Gpus => {
            format!("the node has {} GPUs: the tenant's quotas allow {most} in all", excess.asked)
        }
    };
    Problem::new(Code::NodeRejected, detail)
}

/// The quota that the node breaks, by the rule of admission: alone, or together with the nodes that are the tenant's now, of
/// which the cache may not show yet what was given a moment ago.
async fn excess(app: &App, tenant: &Tenant, node: &Node) -> Result<Option<Problem>, Problem> {
    let plan = &tenant.spec.plan;
    let quotas = app.plans.borrow().get(plan).map(|plan| plan.effective(&tenant.spec.quotas));
    let Some(quotas) = quotas else {
        let detail = format!("the tenant is on plan `{plan}`, which does not exist");
        return Err(Problem::new(Code::WrongState, detail));
    };
    let (name, gpu) = (tenant.name_any(), &app.settings.gpu_resource);
    let (quotas, own) = (WorkerQuotas::from(&quotas), facts::read(node, gpu));
    if let Some(excess) = node_admission::excess(&name, &quotas, &[], &own) {
        return Ok(Some(too_large(&excess)));
    }
    let api: Api<Node> = Api::all(app.client.clone());
    let params = ListParams::default().labels(&format!("{}={name}", names::NODE_TENANT));
    let labelled = within("failed to list a tenant's Nodes", api.list(&params)).await?;
    let labelled: Vec<NodeFacts> =
        labelled.items.into_iter().map(|node| facts::read(&aged(node), gpu)).collect();
    Ok(node_admission::excess(&name, &quotas, &labelled, &own).map(|excess| over(excess.in_short())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_a_name_becomes_part_of_a_path() {
        for good in ["n1", "worker-1.example.org", "0"] {
            assert!(is_name(good), "{good}");
        }
        let long = "a".repeat(254);
        for bad in ["", "..", "a/status", "a?b", "a%2f", "A", "-a", "a.", "a b", "\u{e9}", &long] {
            assert!(!is_name(bad), "{bad}");
        }
    }
}
