//! The tenant controller: gives each [`Tenant`] its namespace and all that belongs to it, repairs drift, reports the
//! tenant's status, and deletes everything in order when the tenant is deleted.
//!
//! A reconcile has five steps, each in a module of its own: `dereference` (caches only; `apply` reads the namespace),
//! `validate`, `build`, `apply`, `status` with its writer `write_status`. Reconciles are frequent and cheap: children
//! are applied only when what is wanted has changed, or a watch has delivered a change to one of them.
//!
//! Guarantees: a namespace that is not the tenant's is never changed or deleted; no two reconciles of one tenant run at
//! once; a tenant that fails, or can't be read, holds up no other; a reconcile never waits.

mod apply;
mod build;
mod counts;
pub mod default_tenant;
mod deletion;
mod dereference;
mod error;
mod invalid;
mod reconcile;
mod reconcile_state;
mod status;
mod triggers;
mod usage;
mod validate;
mod write_status;

#[cfg(test)]
mod tests;

use std::{future::Future, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future, stream::BoxStream};
use k8s_openapi::api::core::v1::{Node, Pod, ResourceQuota};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        Config, Controller,
        reflector::{ObjectRef, Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::{mpsc, watch};

pub use error::Error;
pub use reconcile::{error_policy, reconcile};

use self::{
    apply::{Child, Known},
    invalid::TenantMeta,
    reconcile_state::ReconcileState,
};
use crate::{
    api_types::{
        Job, Plans, Tenant, TenantApiKey,
        tenant::{JobWindow, TenantUsage},
    },
    clock::Clock,
    config::Settings,
    kube_ext::{
        controller::{Reconciler, log_errors},
        courtesy::CourtesyBudget,
        events::Events,
        invalid::{self as invalid_ext, InvalidObjects},
        mutation_cache::MutationCache,
        pulse,
        streams::{received, replaced},
        watch::{Change, Watch, synced_before, until_synced},
    },
    metrics::Metrics,
    names,
};

/// Reconciles at once.
const CONCURRENCY: u16 = 8;
/// The longest delay after failures in a row.
const LONGEST_DELAY: Duration = Duration::from_secs(300);
/// Room between the tenants' watch and the two controllers.
const CHANNEL: usize = 64;

/// A tenant's labelled nodes, compared with its quotas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkersView {
    /// Nodes admitted.
    pub admitted: i64,
    /// Why others were refused, as a message with numbers; `None` when none was.
    pub refused: Option<String>,
}

/// What the scheduler knows of a tenant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageSnapshot {
    /// What it uses.
    pub usage: TenantUsage,
    /// The hourly window as its status is to have it; `None` leaves the stored one.
    pub window: Option<JobWindow>,
    /// Whether a client waits for a pod whose finalizer may be removed once that is stored.
    pub awaited: bool,
}

/// What the scheduler knows of a tenant (by namespace); `None` while it does not know the tenant.
pub type UsageSnapshotOf = Arc<dyn Fn(&str) -> Option<UsageSnapshot> + Send + Sync>;
/// The workers of a tenant.
pub type WorkersOf = Arc<dyn Fn(&Tenant) -> WorkersView + Send + Sync>;

/// What the controller needs from the rest of the operator.
#[derive(Clone)]
pub struct Dependencies {
    /// The API server.
    pub client: Client,
    /// The time of day.
    pub clock: Clock,
    /// Where Events go.
    pub events: Events,
    /// The budget of status writes that no client waits for.
    pub courtesy: CourtesyBudget,
    /// The operator's configuration.
    pub settings: Settings,
    /// The operator's own namespace.
    pub namespace: String,
    /// The plan table; a replaced one is followed.
    pub plans: watch::Receiver<Arc<Plans>>,
    /// All Jobs.
    pub jobs: Store<Job>,
    /// All API keys.
    pub keys: Store<TenantApiKey>,
    /// All pods of Jobs.
    pub pods: Store<Pod>,
    /// All nodes.
    pub nodes: Store<Node>,
    /// The scheduler's view of usage and the hourly window; storage and workers are filled in here.
    pub snapshot: UsageSnapshotOf,
    /// The node controller's view of workers.
    pub workers: WorkersOf,
    /// Where the controller's own watches are known.
    pub watches: pulse::Watches,
    /// Counters.
    pub metrics: Metrics,
}

/// What a reconcile works with.
pub struct Context {
    dependencies: Dependencies,
    known: Known,
    state: Arc<ReconcileState>,
    /// Tenants as last written.
    mutations: MutationCache<Tenant>,
    invalid: InvalidObjects<Tenant>,
    /// Whether Kubernetes counts Jobs.
    counted: watch::Receiver<bool>,
    reconciler: Reconciler,
}

impl Context {
    /// The tenants that can't be read.
    #[must_use]
    pub fn invalid(&self) -> InvalidObjects<Tenant> {
        self.invalid.clone()
    }
}

/// What the controller listens to.
pub struct Inputs {
    /// The cache of tenants.
    pub tenants: Store<Tenant>,
    /// Changes of tenants.
    pub tenant_changes: mpsc::Receiver<Change<Tenant>>,
    /// Changes of pods.
    pub pods: BoxStream<'static, Arc<Pod>>,
    /// Changes of nodes.
    pub nodes: BoxStream<'static, Arc<Node>>,
    /// Tenants whose usage or workers may have changed.
    pub requeued: BoxStream<'static, ObjectRef<Tenant>>,
}

/// The controller's own watches, and the cache of the tenants that can't be read. Made with the
/// [`Context`] and consumed by [`run`].
pub struct Watches {
    tasks: Vec<BoxTask>,
    triggers: Vec<BoxStream<'static, ObjectRef<Tenant>>>,
    invalid: Writer<TenantMeta>,
}

type BoxTask = future::BoxFuture<'static, ()>;

impl Watches {
    /// Watches one kind of child.
    fn child<M>(
        &mut self,
        name: &'static str,
        context: &Dependencies,
        state: &Arc<ReconcileState>,
        config: watcher::Config,
    ) -> Store<M>
    where
        M: Child + DeserializeOwned,
    {
        let api = Api::all(context.client.clone());
        let mut watch = Watch::<M>::new(api, config).known_as(name, &context.watches);
        let trigger = triggers::children(watch.subscribe(), context.settings.clone(), Arc::clone(state));
        self.triggers.push(trigger.boxed());
        self.start(watch)
    }

    /// Watches quotas, which are a child and count storage as well.
    fn quotas(&mut self, context: &Dependencies, state: &Arc<ReconcileState>) -> Store<ResourceQuota> {
        let api = Api::all(context.client.clone());
        let mut watch = Watch::<ResourceQuota>::new(api, ours()).known_as("quotas", &context.watches);
        let drift = triggers::children(watch.subscribe(), context.settings.clone(), Arc::clone(state));
        let storage = triggers::storage(watch.subscribe(), context.settings.clone());
        self.triggers.extend([drift.boxed(), storage.boxed()]);
        self.start(watch)
    }

    fn start<M>(&mut self, watch: Watch<M>) -> Store<M>
    where
        M: Child + DeserializeOwned,
    {
        let store = watch.store();
        self.tasks.push(watch.run().boxed());
        store
    }
}

fn ours() -> watcher::Config {
    watcher::Config::default().labels(&format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGER))
}

fn reconciler(metrics: Metrics) -> Reconciler {
    Reconciler::new("tenant", metrics, LONGEST_DELAY)
}

/// Makes the context, and the watches that feed it.
#[must_use]
pub fn prepare(dependencies: Dependencies) -> (Arc<Context>, Watches) {
    let (invalid, writer) = invalid_ext::cache();
    let state = Arc::new(ReconcileState::default());
    let mut watches = Watches { tasks: Vec::new(), triggers: Vec::new(), invalid: writer };
    let (sender, counted) = watch::channel(false);
    let counting = counts::wait(dependencies.client.clone(), dependencies.namespace.clone(), sender);
    watches.tasks.push(counting.boxed());
    let known = Known {
        // All of them: one that is in a tenant's way carries no label of ours.
        namespaces: watches.child("namespaces", &dependencies, &state, watcher::Config::default()),
        quotas: watches.quotas(&dependencies, &state),
        limits: watches.child("limits", &dependencies, &state, ours()),
        policies: watches.child("network_policies", &dependencies, &state, ours()),
        accounts: watches.child("service_accounts", &dependencies, &state, ours()),
        bindings: watches.child("role_bindings", &dependencies, &state, ours()),
    };
    let reconciler = reconciler(dependencies.metrics.clone());
    let mutations = MutationCache::default();
    (Arc::new(Context { dependencies, known, state, mutations, invalid, counted, reconciler }), watches)
}

/// Runs the controller until `shutdown`, and then until the reconciles in flight have finished.
pub async fn run(
    context: Arc<Context>,
    watches: Watches,
    inputs: Inputs,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let Watches { tasks, triggers, invalid } = watches;
    let Inputs { tenants, tenant_changes, pods, nodes, requeued } = inputs;
    let shutdown = shutdown.boxed().shared();
    let (valid_sender, objects) = mpsc::channel(CHANNEL);
    let (invalid_sender, metas) = mpsc::channel(CHANNEL);
    let state = Arc::clone(&context.state);
    let forget = move |tenant: &Tenant| state.forget(&tenant.name_any());
    let splitting = invalid_ext::split_invalid(tenant_changes, invalid, valid_sender, invalid_sender, forget);

    let mut controller = Controller::for_shared_stream(received(objects), tenants.clone())
        .with_config(Config::default().concurrency(CONCURRENCY))
        .reconcile_on(triggers::pods(pods, tenants))
        .reconcile_on(triggers::nodes(nodes, context.dependencies.nodes.clone()))
        .reconcile_on(requeued)
        .reconcile_all_on(replaced(context.dependencies.plans.clone()))
        .reconcile_all_on(replaced(context.counted.clone()))
        .graceful_shutdown_on(shutdown.clone());
    for trigger in triggers {
        controller = controller.reconcile_on(trigger);
    }
    let controller = controller.run(reconcile, error_policy, Arc::clone(&context)).for_each(log_errors);
    let invalid_controller = Controller::for_shared_stream(received(metas), context.invalid.store())
        .graceful_shutdown_on(shutdown.clone())
        .run(invalid::reconcile, invalid::error_policy, Arc::clone(&context))
        .for_each(log_errors);

    // To a deletion an empty cache means that nothing is left: no reconcile before every cache is whole.
    let reconciles = async {
        if synced_before(caches_ready(&context), shutdown).await {
            future::join(controller, invalid_controller).await;
        }
    };
    let endless = future::join(future::join_all(tasks), splitting).then(|_| future::pending::<()>());
    future::select(Box::pin(reconciles), Box::pin(endless)).await;
}

/// Waits until every cache has been filled once; false when a watch has ended.
async fn caches_ready(context: &Context) -> bool {
    let Dependencies { jobs, keys, pods, nodes, .. } = &context.dependencies;
    let Known { namespaces, quotas, limits, policies, accounts, bindings } = &context.known;
    let ready = future::join_all([
        until_synced(jobs).boxed(),
        until_synced(keys).boxed(),
        until_synced(pods).boxed(),
        until_synced(nodes).boxed(),
        until_synced(namespaces).boxed(),
        until_synced(quotas).boxed(),
        until_synced(limits).boxed(),
        until_synced(policies).boxed(),
        until_synced(accounts).boxed(),
        until_synced(bindings).boxed(),
    ]);
    ready.await.into_iter().all(|whole| whole)
}
