//! The node controller: carries out what `domain::node_admission` decides, one node at a time.
//!
//! Guarantees:
//! - label and taint of a node change in one write, which fails if anything about the node has changed meanwhile;
//! - nodes are looked at one after the other, and each look sees all own writes however late the watch is (`writes`),
//!   so a tenant never holds more than its quotas;
//! - a node reconciles to another group, or loses its taint, only after the API server itself has said that no job pod of
//!   an earlier group is left: the cache alone is not trusted with that;
//! - a tenant that is missing from the cache loses its workers only after the API server has said that it is deleted: one
//!   that can't be decoded is not in the cache either.
//!
//! No other client may write the label and the taint; the label's prefix is one that kubelets can't set on themselves.

mod facts;
mod live_reads;
mod patch;
mod triggers;
mod writes;

use std::{
    collections::{HashMap, HashSet},
    future::{Future, ready},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{FutureExt, Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
    runtime::{
        Controller, controller,
        controller::Action,
        reflector::{ObjectRef, Store},
    },
};
use serde_json::Value;
use tokio::sync::watch;

pub use self::facts::refused;
use self::{
    triggers::{Neighbours, TenantChanges},
    writes::Writes,
};
pub use crate::domain::node_admission::since::prepare;
use crate::{
    api_types::{Plans, Reason, Tenant},
    config::Settings,
    domain::{
        node_admission::{Fleet, LivePods, Refusal, Step, TenantFacts, Waiting, WorkerQuotas, facts::read},
        tenant_state, worker,
    },
    kube_ext::{
        call::{CallError, within},
        controller::{ReconcileError, Reconciler, log_errors},
        events::Events,
        is_paused,
        streams::replaced,
        watch::{until_whole, whole_before},
    },
    metrics::Metrics,
    names,
};

/// The longest delay after failures in a row.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// How soon a node that waits for others to be released is looked at again, if nothing changes before.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(10);

/// Why a node was not dealt with.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the API server failed.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl ReconcileError for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Call(error) => error.category(),
        }
    }
}

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
    /// What was last said of a refused node, by UID.
    told: HashMap<String, String>,
}

/// A node and what is to be done with it.
struct Seen {
    node: Arc<Node>,
    step: Step,
    live: LivePods,
    /// An admission of it was written, and no answer came.
    unanswered: bool,
}

/// Looks after all nodes until `shutdown`, and ends when what is under way has finished. The streams tell of every
/// change of the objects in `context`'s caches, deletions included.
pub async fn run(
    context: Arc<Context>,
    nodes: impl Stream<Item = Arc<Node>> + Send + 'static,
    tenants: impl Stream<Item = Arc<Tenant>> + Send + 'static,
    pods: impl Stream<Item = Arc<Pod>> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let shutdown = shutdown.shared();
    // A tenant or a pod that is not in the cache yet would count as gone.
    if !whole_before(context.caches.whole(), shutdown.clone()).await {
        return;
    }
    let store = context.caches.nodes.clone();
    let mut neighbours = Neighbours::new(store.clone(), context.gpu_resource.clone());
    let mut changes = TenantChanges::new(context.caches.tenants.clone());
    let (by_tenant, by_pod) = (store.clone(), store.clone());
    Controller::for_shared_stream(nodes.flat_map(move |node| stream::iter(neighbours.of(node))), store)
        .watches_shared_stream(
            tenants.filter(move |tenant| ready(changes.is_one(tenant))),
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

/// Takes the next step with one node.
///
/// # Errors
/// [`Error`] when the API server did not do what was asked; to be tried again after [`error_policy`].
pub async fn reconcile(node: Arc<Node>, context: Arc<Context>) -> Result<Action, Error> {
    context.reconciler.run(&*node, reconcile_node(&node, &context)).await
}

async fn reconcile_node(node: &Node, context: &Context) -> Result<Action, Error> {
    let seen = context.look(&node.name_any());
    if let Some(seen) = &seen {
        context.act(seen).await?;
    }
    Ok(match seen.map(|seen| seen.step) {
        // Room may be made by an unanswered write that turns out not to have happened, which no watch delivers.
        Some(Step::Wait(Waiting::Room)) => Action::requeue(LOOK_FOR_ROOM),
        _ => Action::await_change(),
    })
}

/// When to try again after a failure.
#[expect(clippy::needless_pass_by_value, reason = "the signature that a Controller asks for")]
pub fn error_policy(node: Arc<Node>, error: &Error, context: Arc<Context>) -> Action {
    context.reconciler.retry(&*node, error)
}

/// The entry of `uid`; when there is none yet, those of nodes that are deleted are dropped first.
fn remember<'a, T: Default>(all: &'a mut HashMap<String, T>, uid: String, nodes: &Store<Node>) -> &'a mut T {
    if !all.contains_key(&uid) {
        let nodes = nodes.state();
        let known: HashSet<&str> = nodes.iter().filter_map(|node| node.metadata.uid.as_deref()).collect();
        all.retain(|uid, _| known.contains(uid.as_str()));
    }
    all.entry(uid).or_default()
}

impl Caches {
    /// Waits until all that existed at the start is in; `false` when a watch has ended instead.
    async fn whole(&self) -> bool {
        until_whole(&self.nodes).await && until_whole(&self.tenants).await && until_whole(&self.pods).await
    }

    /// Job pods on a node that have not ended, by worker group.
    fn live_pods(&self, node: &str) -> LivePods {
        let here = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
        live(self.pods.state_filter(here).iter().map(AsRef::as_ref))
    }
}

/// Job pods that have not ended, by worker group.
fn live<'a>(pods: impl Iterator<Item = &'a Pod>) -> LivePods {
    let mut live = LivePods::new();
    for pod in pods {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if let Some(group) = pod.labels().get(names::LABEL_GROUP)
            && !matches!(phase, Some("Succeeded" | "Failed"))
        {
            *live.entry(group.clone()).or_default() += 1;
        }
    }
    live
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
        let Settings { gpu_resource, namespace_prefix } = settings;
        let reconciler = Reconciler::new("node", metrics, LONGEST_DELAY);
        let state = Mutex::default();
        Self { client, events, caches, plans, gpu_resource, namespace_prefix, state, reconciler }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    /// What to do with the node of that name; `None` when it is deleted, paused, or the cache is behind an own write to it.
    fn look(&self, name: &str) -> Option<Seen> {
        let mut state = self.state();
        // In this order: what is read after the pruning is at least as new as what was pruned against.
        state.writes.prune(&self.caches.nodes);
        let cached = self.caches.nodes.state();
        let node = cached.iter().find(|node| node.metadata.name.as_deref() == Some(name))?;
        let known = state.writes.known(node, &self.gpu_resource);
        if is_paused(&**node) || known.behind {
            return None;
        }
        let mut fleet = Fleet::default();
        if let Some(tenant) = &known.facts.tenant {
            let marks = |node: &&Arc<Node>| {
                [names::NODE_TENANT, names::NODE_ADMITTED]
                    .iter()
                    .any(|key| node.labels().get(*key) == Some(tenant))
            };
            let known = |node| state.writes.known(node, &self.gpu_resource).facts;
            fleet.nodes = cached.iter().filter(marks).map(|node| known(node)).collect();
            fleet.tenants.extend(self.tenant(tenant).map(|facts| (tenant.clone(), facts)));
        }
        let live = self.caches.live_pods(name);
        let (step, unanswered) = (fleet.step(&known.facts, &live), known.facts.unconfirmed.is_some());
        Some(Seen { node: Arc::clone(node), step, live, unanswered })
    }

    fn tenant(&self, name: &str) -> Option<TenantFacts> {
        let tenant = self.caches.tenants.get(&ObjectRef::new(name))?;
        let plans = self.plans.borrow();
        let quotas = plans.get(&tenant.spec.plan).map(|plan| plan.effective(&tenant.spec.quotas));
        Some(TenantFacts {
            plan: tenant.spec.plan.clone(),
            quotas: quotas.as_ref().map(WorkerQuotas::from),
            terminating: tenant_state::terminating(&tenant),
        })
    }

    async fn act(&self, seen: &Seen) -> Result<(), Error> {
        if seen.unanswered && !matches!(seen.step, Step::Admit { .. }) {
            return self.patch(&seen.node, patch::fence(&seen.node)).await.map(drop);
        }
        if let Step::Refuse(refusal) = &seen.step {
            return self.tell(&seen.node, refusal).await;
        }
        self.state().told.remove(&seen.node.uid().unwrap_or_default());
        match &seen.step {
            Step::Admit { group, after } => {
                if after.is_none() || self.is_drained(&seen.node, Some(group)).await? {
                    self.state().writes.begin_admission(&seen.node, group);
                    let note = format!("admitted to {}", described(group));
                    self.write(seen, patch::admit(&seen.node, group), Reason::WorkerAdmitted, note).await?;
                }
            }
            Step::Release { group, because } => {
                if !self.is_tenant_invalid(seen, group, because.as_ref()).await? {
                    let pods: usize = seen.live.values().sum();
                    let why =
                        because.as_ref().map_or("its worker label has changed", |b| b.sentence.as_str());
                    let note = format!(
                        "released from {}: {why}; job pods that finish first: {pods}",
                        described(group)
                    );
                    self.write(seen, patch::release(&seen.node), Reason::WorkerReleasing, note).await?;
                }
            }
            Step::Free { group } => {
                if self.is_drained(&seen.node, None).await? {
                    let note = format!("no longer kept for {}: no job pod is left", described(group));
                    self.write(seen, patch::free(&seen.node), Reason::WorkerReleased, note).await?;
                }
            }
            Step::Wait(waiting) => tracing::debug!(node = seen.node.name_any(), ?waiting, "a node waits"),
            Step::Leave | Step::Keep | Step::Refuse(_) => {}
        }
        Ok(())
    }

    /// Writes to a node and tells of it.
    async fn write(&self, seen: &Seen, patch: Value, reason: Reason, note: String) -> Result<(), Error> {
        if let Some(after) = self.patch(&seen.node, patch).await? {
            tracing::info!(
                node = after.name_any(),
                reason = reason.as_str(),
                note,
                "a node's admission changed"
            );
            self.events.normal(&after, reason, note);
        }
        Ok(())
    }

    /// Writes to a node. What has changed or gone meanwhile (`None`) is no failure: the watch brings it.
    async fn patch(&self, node: &Node, patch: Value) -> Result<Option<Node>, Error> {
        let name = node.name_any();
        let params = PatchParams { field_manager: Some(names::MANAGER.to_owned()), ..PatchParams::default() };
        let call = async { self.nodes().patch(&name, &params, &Patch::Merge(&patch)).await };
        let mut after = match within(format!("failed to write the admission of node {name}"), call).await {
            Ok(after) => after,
            Err(error) if error.is_conflict() || error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        prepare(&mut after);
        if after.resource_version() == node.resource_version() {
            // Nothing was left to change, so the cache is not behind and no watch event follows.
            return Ok(None);
        }
        self.state().writes.answered(node, read(&after, &self.gpu_resource));
        Ok(Some(after))
    }

    /// Tells why a node is refused, once for each sentence.
    async fn tell(&self, node: &Node, refusal: &Refusal) -> Result<(), Error> {
        let uid = node.uid().unwrap_or_default();
        if self.state().told.get(&uid) == Some(&refusal.sentence) {
            return Ok(());
        }
        if refusal.reason == Reason::NoSuchTenant
            && let Some(tenant) = worker::label(node, names::NODE_TENANT)
            && self.exists(tenant).await?
        {
            return Ok(());
        }
        *remember(&mut self.state().told, uid, &self.caches.nodes) = refusal.sentence.clone();
        tracing::info!(
            node = node.name_any(),
            reason = refusal.reason.as_str(),
            refusal.sentence,
            "a node is refused"
        );
        self.events.warning(node, refusal.reason, refusal.sentence.clone());
        Ok(())
    }
}

/// A worker group in words.
fn described(group: &str) -> String {
    match group.strip_prefix(&names::pool_group("")) {
        Some(pool) => format!("shared pool {pool}"),
        None => format!("tenant {group}"),
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("node::Context")
    }
}

#[cfg(test)]
mod tests;
