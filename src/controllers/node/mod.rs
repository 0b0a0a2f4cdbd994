//! The node controller: carries out what `domain::node_admission` decides, one node at a time.
//!
//! A reconcile has five steps, each in a module of its own: `dereference` (caches and own writes), `live_reads` (what
//! the API server has to confirm), `build`, `apply`, `report`.
//!
//! Guarantees:
//! - label and taint of a node change in one write, which fails if anything about the node has changed meanwhile;
//! - nodes are reconciled one after the other, and each reconcile sees all own writes however late the watch is
//!   (`writes`), so a tenant never holds more than its quotas;
//! - a node is admitted to another group, or loses its taint, only after the API server itself has said that no job pod
//!   of an earlier group is left: the cache alone is not trusted with that;
//! - a tenant that is missing from the cache loses its workers only after the API server has said that it is deleted:
//!   one that can't be decoded is not in the cache either.
//!
//! No other client may write the label and the taint; the label's prefix is one that kubelets can't set on themselves.

mod apply;
mod build;
mod dereference;
mod error;
mod facts;
mod live_reads;
mod reconcile;
mod report;
#[cfg(test)]
mod tests;
mod triggers;
mod writes;

use std::{
    future::{Future, ready},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Client, ResourceExt,
    runtime::{Controller, controller, reflector::Store},
};
use tokio::sync::watch;

pub use self::{
    error::Error,
    facts::refused,
    reconcile::{error_policy, reconcile},
};
use self::{
    report::ReportedRefusals,
    triggers::{Neighbours, TenantChanges},
    writes::Writes,
};
pub use crate::domain::node_admission::since::prepare;
use crate::{
    api_types::{Plans, Tenant},
    config::Settings,
    kube_ext::{
        controller::{Reconciler, log_errors},
        events::Events,
        streams::replaced,
        watch::{synced_before, until_synced},
    },
    metrics::Metrics,
};

/// The longest delay after failures in a row.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// The caches that the node controller reads.
#[derive(Clone, Debug)]
pub struct Caches {
    /// All nodes, as [`prepare`] left them.
    pub nodes: Store<Node>,
    /// All tenants.
    pub tenants: Store<Tenant>,
    /// All job pods.
    pub pods: Store<Pod>,
}

/// What the node controller works with.
pub struct Context {
    client: Client,
    events: Events,
    caches: Caches,
    plans: watch::Receiver<Arc<Plans>>,
    gpu_resource: String,
    namespace_prefix: String,
    state: Mutex<State>,
    reconciler: Reconciler,
}

#[derive(Default)]
struct State {
    writes: Writes,
    reported: ReportedRefusals,
}

/// Runs the controller until `shutdown`, and then until the reconcile in flight has finished. The streams deliver every
/// change of the objects in `context`'s caches, deletions included.
pub async fn run(
    context: Arc<Context>,
    nodes: impl Stream<Item = Arc<Node>> + Send + 'static,
    tenants: impl Stream<Item = Arc<Tenant>> + Send + 'static,
    pods: impl Stream<Item = Arc<Pod>> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let shutdown = shutdown.shared();
    // A tenant or a pod that the cache lacks still would count as deleted.
    if !synced_before(context.caches.whole(), shutdown.clone()).await {
        return;
    }
    let store = context.caches.nodes.clone();
    let mut neighbours = Neighbours::new(store.clone(), context.gpu_resource.clone());
    let mut changes = TenantChanges::new(context.caches.tenants.clone());
    let (by_tenant, by_pod) = (store.clone(), store.clone());
    Controller::for_shared_stream(nodes.flat_map(move |node| stream::iter(neighbours.of(node))), store)
        .watches_shared_stream(
            tenants.filter(move |tenant| ready(changes.is_relevant(tenant))),
            move |tenant: Arc<Tenant>| triggers::of_tenant(&tenant.name_any(), &by_tenant),
        )
        .watches_shared_stream(pods, move |pod: Arc<Pod>| triggers::of_pod(&pod, &by_pod))
        .reconcile_all_on(replaced(context.plans.clone()))
        .with_config(controller::Config::default().concurrency(1))
        .graceful_shutdown_on(shutdown)
        .run(reconcile, error_policy, context)
        .for_each(log_errors)
        .await;
}

impl Caches {
    /// Waits until all that existed at the start is in; `false` when a watch has ended instead.
    async fn whole(&self) -> bool {
        until_synced(&self.nodes).await && until_synced(&self.tenants).await && until_synced(&self.pods).await
    }
}

impl Context {
    /// A controller that writes with `client` and reads from `caches`.
    #[must_use]
    pub fn new(
        client: Client,
        events: Events,
        caches: Caches,
        plans: watch::Receiver<Arc<Plans>>,
        settings: Settings,
        metrics: Metrics,
    ) -> Self {
        let Settings { gpu_resource, namespace_prefix, .. } = settings;
        let reconciler = Reconciler::new("node", metrics, LONGEST_DELAY);
        let state = Mutex::default();
        Self { client, events, caches, plans, gpu_resource, namespace_prefix, state, reconciler }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("node::Context")
    }
}
