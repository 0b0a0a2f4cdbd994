//! `POST /tenants/{id}/nodes`.
//!
//! The handler refuses a node that exceeds the tenant's quotas before it sets the label, by the rule of the node controller.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, ResourceExt, api::ListParams, runtime::wait::await_condition};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Id, MAX_ATTEMPTS, NodeView, administered, authorise, changes_too_often, is_labelled, read, remove_label,
    view, with_label_age, write_label,
};
use crate::{
    api_types::Tenant,
    domain::{
        node_admission::{self, Excess, NodeFacts, WorkerQuota, WorkerQuotas, facts},
        resources::cores,
        tenant_state,
        worker::{admitted, label},
    },
    http::{
        App,
        audit::Audit,
        auth::ByAdministrator,
        body::Body,
        openapi::Operation,
        problem::{Code, Problem},
    },
    kube_ext::within,
    names,
};

/// How long a request waits for the node controller's decision.
const ADMISSION_TIMEOUT: Duration = Duration::from_secs(5);

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new(
        "assignNode",
        "Assign a node to a tenant",
        "Assigns a node to a tenant and waits up to 5 s until the node is admitted. The tenant's quotas must allow it.",
    )
    .json::<NodeView>(200, "The node was assigned to the tenant before.")
    .json::<NodeView>(201, "The node is admitted.")
    .json::<NodeView>(202, "The node is assigned. It was not admitted within 5 s.")
    .problems([Code::Conflict, Code::InvalidObject, Code::NodeRejected, Code::QuotaExceeded, Code::WrongState])
}

/// This names the node that is to be assigned to a tenant.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NodeAssignment")]
pub struct NodeAssignment {
    /// This is the name of the node.
    node: String,
}

/// Assigns a node to a tenant: 201 once it is admitted, 200 where it was assigned before, 202 where it is not admitted
/// within 5 s.
///
/// # Errors
/// `quota_exceeded`; `node_rejected` where the node alone exceeds the quotas; `conflict` where the node belongs to another
/// tenant or to a pool.
pub async fn assign(
    State(app): State<App>,
    ByAdministrator(admin): ByAdministrator,
    audit: Audit,
    id: Id,
    body: Body<NodeAssignment>,
) -> Result<Response, Problem> {
    let tenant = administered(&app, &admin, &id, "patch").await?;
    let assignment = body.receive().await?;
    audit.about(&assignment.node);
    authorise(&app, &admin, &assignment.node).await?;
    let name = tenant.name_any();
    let (node, is_new) = set_label(&app, &tenant, &assignment.node).await?;
    let respond = |status: StatusCode, node: &Node| (status, Json(view(&app, &tenant, node))).into_response();
    let done = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    if admitted(&node) == Some(&name) {
        return Ok(respond(done, &node));
    }
    let is_decided = {
        let name = name.clone();
        move |node: Option<&Node>| {
            node.is_none_or(|node| admitted(node) == Some(&name) || !is_labelled(node, &name))
        }
    };
    let api: Api<Node> = Api::all(app.client.clone());
    let waited =
        tokio::time::timeout(ADMISSION_TIMEOUT, await_condition(api, &assignment.node, is_decided)).await;
    let is_admitted = match &waited {
        Ok(Ok(Some(node))) if admitted(node) == Some(&name) => true,
        Ok(Ok(_)) => {
            let detail = "the node was assigned to another tenant at the same time, or was deleted";
            return Err(Problem::new(Code::Conflict, detail));
        }
        _ => false,
    };
    // A node that another replica assigned at the same time may use up the quota.
    if let Some(problem) = excess(&app, &tenant, &node).await? {
        if is_new {
            remove_label(&app, &name, &assignment.node).await?;
        }
        return Err(problem);
    }
    Ok(match waited {
        Ok(Ok(Some(node))) if is_admitted => respond(done, &node),
        _ => respond(StatusCode::ACCEPTED, &node),
    })
}

/// The problem of a quota that the node would exceed.
fn quota_exceeded(detail: impl Into<String>) -> Problem {
    Problem::new(Code::QuotaExceeded, detail)
}

/// Labels a node for a tenant; false with a node that has the label already.
async fn set_label(app: &App, tenant: &Tenant, name: &str) -> Result<(Node, bool), Problem> {
    let own = tenant.name_any();
    // One request at a time: each sees the labels of the previous ones.
    let _guard = app.assigning.lock().await;
    for _ in 0..MAX_ATTEMPTS {
        let node = read(app, name).await?;
        match (label(&node, names::NODE_TENANT), label(&node, names::NODE_POOL)) {
            (_, Some(pool)) => {
                return Err(Problem::new(
                    Code::Conflict,
                    format!("the node belongs to the shared pool {pool}"),
                ));
            }
            (Some(tenant), None) if tenant == own => return Ok((node, false)),
            (Some(other), None) => {
                return Err(Problem::new(Code::Conflict, format!("the node belongs to the tenant {other}")));
            }
            (None, None) => (),
        }
        if !tenant_state::decide(tenant, app.clock.now()).accepts() {
            return Err(quota_exceeded("tenant is not active"));
        }
        if let Some(problem) = excess(app, tenant, &node).await? {
            return Err(problem);
        }
        if let Some(node) = write_label(app, &node, Some(&own)).await? {
            return Ok((node, true));
        }
    }
    Err(changes_too_often())
}

/// The problem of a node that alone exceeds a quota, so that releasing other nodes would not help.
fn too_large(excess: &Excess) -> Problem {
    let max = excess.limit.at_most().unwrap_or(u64::MAX);
    let detail = match excess.quota {
        WorkerQuota::Workers => format!("the tenant's quotas allow {max} workers"),
        WorkerQuota::Cpu => {
            let (own, max) = (cores(excess.asked), cores(max));
            format!("the node has {own} CPU cores: the tenant's quotas allow {max} in all")
        }
        WorkerQuota::Gpus => {
            format!("the node has {} GPUs: the tenant's quotas allow {max} in all", excess.asked)
        }
    };
    Problem::new(Code::NodeRejected, detail)
}

/// The quota that the node would exceed by the rule of admission: alone, or together with the tenant's nodes. The handler
/// lists these, as the cache may lack a node that was just assigned.
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
    let labelled = within("failed to list the Nodes of a tenant", api.list(&params)).await?;
    let labelled: Vec<NodeFacts> =
        labelled.items.into_iter().map(|node| facts::read(&with_label_age(node), gpu)).collect();
    Ok(node_admission::excess(&name, &quotas, &labelled, &own)
        .map(|excess| quota_exceeded(excess.in_short())))
}
