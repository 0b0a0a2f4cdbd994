//! `GET /pools`.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::Serialize;

use crate::{
    domain::worker,
    http::{App, administrators::AccessReview, auth::ByAdministrator, openapi::Operation, problem::Problem},
    names,
};

/// A pool is a group of nodes that the tenants it is shared with use together.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "Pool")]
pub struct PoolView {
    /// This is the name of the pool.
    name: String,
    /// These are the names of the tenants whose jobs may run on the pool's nodes.
    tenants: Vec<String>,
    /// This is how many nodes are admitted to the pool.
    nodes: i64,
    /// This is how many of the nodes are ready. The amounts below are theirs.
    ready_nodes: i64,
    /// This is the CPU that pods can use, in thousandths of a core.
    cpu_millicores: u64,
    /// This is the memory that pods can use, in bytes.
    memory_bytes: u64,
    /// This is how many GPUs pods can use.
    gpus: u64,
}

/// These are all shared pools.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Pools")]
pub struct PoolsView {
    /// These are the pools, by name.
    pools: Vec<PoolView>,
    /// This is always null, because there is one page.
    next_cursor: Option<String>,
}

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new(
        "listPools",
        "List all shared pools",
        "Lists the shared pools that have a node or a tenant, by name.",
    )
    .json::<PoolsView>(200, "These are all shared pools.")
}

/// Lists the shared pools, for an administrator who may list tenants, as it names them.
///
/// # Errors
/// `forbidden`.
pub async fn list(
    State(app): State<App>,
    ByAdministrator(admin): ByAdministrator,
) -> Result<Json<PoolsView>, Problem> {
    admin.authorise(&app, AccessReview::ours("list", "tenants", None, None)).await?;
    Ok(Json(PoolsView { pools: pools(&app), next_cursor: None }))
}

/// All pools, by name: those that a tenant's spec names, and those of nodes.
fn pools(app: &App) -> Vec<PoolView> {
    let mut pools = BTreeMap::<String, PoolView>::new();
    for tenant in app.tenants.state() {
        for pool in &tenant.spec.shared_pools {
            pools.entry(pool.clone()).or_default().tenants.push(tenant.name_any());
        }
    }
    for node in app.nodes.state() {
        let Some(worker) = worker::worker(&node, &app.settings.gpu_resource) else { continue };
        let Some(name) = names::pool_of_group(&worker.group) else { continue };
        let pool = pools.entry(name.to_owned()).or_default();
        pool.nodes += 1;
        if worker.ready {
            pool.ready_nodes += 1;
            pool.cpu_millicores = pool.cpu_millicores.saturating_add(worker.allocatable.cpu_milli);
            pool.memory_bytes = pool.memory_bytes.saturating_add(worker.allocatable.memory_bytes);
            pool.gpus = pool.gpus.saturating_add(worker.allocatable.gpus);
        }
    }
    let named = pools.into_iter().map(|(name, mut pool)| {
        pool.tenants.sort_unstable();
        pool.tenants.dedup();
        PoolView { name, ..pool }
    });
    named.collect()
}
