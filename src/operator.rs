//! The operator as a whole: watches, scheduler, controllers and mirror put together, started, and stopped in order.
//!
//! When an essential part ends by itself the process ends: half an operator is worse than one that is restarted. On
//! SIGTERM or Ctrl-C the controllers finish what is under way, then the mirror writes what it holds, then all ends.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use futures::{FutureExt, Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{reflector::Store, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{
    api_types::{Job, Plans, Tenant},
    clock::Clock,
    config::{self, Config},
    controllers::{self, node, tenant},
    kube_ext::{events::Events, watch::Watch},
    metrics::Metrics,
    names,
    scheduler::{Board, Caches, Changes, Concerned, Scheduler},
    telemetry,
};

/// Time for controllers to finish what is under way.
const FINISH: Duration = Duration::from_secs(15);
/// Room for names of jobs and tenants that are to look again.
const CONCERNED: usize = 4096;

/// Runs until a signal, or until an essential part ends.
///
/// # Errors
/// What kept it from starting, or the name of the part that ended.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let stop = signal()?;
    let client =
        Client::try_default().await.context("finding the cluster: set KUBECONFIG, or run inside one")?;
    let listener = TcpListener::bind(config.metrics_addr).await;
    let listener = listener.with_context(|| format!("listening on {}", config.metrics_addr))?;
    tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "crofter starts");
    let mut parts = assemble(client, config, listener, stop.clone())?;
    tokio::select! {
        () = stop => (),
        Some(ended) = parts.essential.join_next() => bail!("an essential part ended: {}", name_of(ended)),
        Some(ended) = parts.controllers.join_next() => bail!("a controller ended: {}", name_of(ended)),
    }
    let finish = async { while parts.controllers.join_next().await.is_some() {} };
    if tokio::time::timeout(FINISH, finish).await.is_err() {
        tracing::warn!(
            "a controller did not finish in {} s; a restart goes on where it was",
            FINISH.as_secs()
        );
    }
    tracing::info!("stopped");
    Ok(())
}

/// Tasks by what their end means. Each returns its name.
#[derive(Default)]
struct Parts {
    /// Run until the process ends.
    essential: JoinSet<&'static str>,
    /// End by themselves after the stop signal.
    controllers: JoinSet<&'static str>,
}

fn name_of(ended: Result<&'static str, tokio::task::JoinError>) -> String {
    ended.map_or_else(|error| error.to_string(), str::to_owned)
}

impl Parts {
    fn essential(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.essential.spawn(part.map(move |()| name));
    }

    fn controller(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.controllers.spawn(part.map(move |()| name));
    }
}

fn assemble(
    client: Client,
    config: Config,
    listener: TcpListener,
    stop: impl Future<Output = ()> + Clone + Send + Sync + 'static,
) -> anyhow::Result<Parts> {
    let (clock, metrics, events, board) =
        (Clock::system(), Metrics::default(), Events::new(client.clone()), Board::default());
    let (plans, follow) = config::plans(config.plans)?;
    let settings = config.settings;
    let mut tenants: Watch<Tenant> = everything(&client);
    let mut jobs: Watch<Job> = everything(&client);
    let mut nodes: Watch<Node> = everything(&client).with_prepare(node::prepare);
    let ours = watcher::Config::default().labels(&format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGER));
    let mut pods: Watch<Pod> = Watch::new(Api::all(client.clone()), ours);
    let caches =
        Caches { tenants: tenants.store(), jobs: jobs.store(), pods: pods.store(), nodes: nodes.store() };

    let mut parts = Parts::default();
    let (concerned_jobs, job_names) = mpsc::channel(CONCERNED);
    let (concerned_tenants, tenant_names) = mpsc::channel(CONCERNED);
    let scheduler = Scheduler {
        caches: caches.clone(),
        board: board.clone(),
        concerned: Concerned { jobs: concerned_jobs, tenants: concerned_tenants },
        plans: plans.clone(),
        gpu_resource: settings.gpu_resource.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
    };
    let changes = Changes {
        tenants: tenants.subscribe(),
        jobs: jobs.subscribe(),
        pods: pods.subscribe(),
        nodes: nodes.subscribe(),
    };
    parts.essential("scheduler", scheduler.run(changes));

    let workers = tenant_workers(caches.nodes.clone(), plans.clone(), settings.gpu_resource.clone());
    let usage = board.clone();
    let (context, watches) = tenant::prepare(tenant::Dependencies {
        client: client.clone(),
        clock: clock.clone(),
        events: events.clone(),
        settings: settings.clone(),
        plans: plans.clone(),
        jobs: caches.jobs.clone(),
        pods: caches.pods.clone(),
        nodes: caches.nodes.clone(),
        usage: Arc::new(move |uid| usage.usage(uid)),
        workers,
    });
    let inputs = tenant::Inputs {
        tenants: caches.tenants.clone(),
        tenant_changes: tenants.subscribe(),
        pods: pods.subscribe_objects().boxed(),
        nodes: nodes.subscribe_objects().boxed(),
        touched: received(tenant_names).boxed(),
    };
    parts.controller("tenant controller", tenant::run(context, watches, inputs, stop.clone()));

    let of_nodes = node::Caches {
        nodes: caches.nodes.clone(),
        tenants: caches.tenants.clone(),
        pods: caches.pods.clone(),
    };
    let context = node::Context::new(client.clone(), of_nodes, plans.clone(), settings.gpu_resource.clone());
    let (of_tenants, of_pods) = (tenants.subscribe_objects(), pods.subscribe_objects());
    let run = node::run(Arc::new(context), nodes.subscribe_objects(), of_tenants, of_pods, stop.clone());
    parts.controller("node controller", run);

    let job = controllers::job::Context {
        client: client.clone(),
        jobs: caches.jobs.clone(),
        pods: caches.pods.clone(),
        tenants: caches.tenants.clone(),
        board: board.clone(),
        plans: plans.clone(),
        settings: settings.clone(),
        mirrored: None,
        events: events.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
    };
    let (of_jobs, of_pods, of_tenants) =
        (jobs.subscribe_objects(), pods.subscribe_objects(), tenants.subscribe_objects());
    let concerned = received(job_names);
    let run = controllers::job::run(Arc::new(job), of_jobs, of_pods, of_tenants, concerned, stop.clone());
    parts.controller("job controller", run);

    let attempt = controllers::attempt::Context {
        client: client.clone(),
        jobs: caches.jobs.clone(),
        pods: caches.pods.clone(),
        accounts: None,
        metrics: metrics.clone(),
    };
    let of_jobs = jobs.subscribe_objects();
    let run = controllers::attempt::run(
        Arc::new(attempt),
        pods.subscribe_objects(),
        of_jobs,
        stream::pending(),
        stop.clone(),
    );
    parts.controller("attempt controller", run);

    parts.essential("watch of tenants", tenants.run());
    parts.essential("watch of jobs", jobs.run());
    parts.essential("watch of pods", pods.run());
    parts.essential("watch of nodes", nodes.run());
    parts.essential("plan table", follow);
    parts.essential("health and metrics", async move {
        if let Err(error) = telemetry::serve(listener, metrics, board).await {
            tracing::error!(%error, "health and metrics are not served any more");
        }
    });
    Ok(parts)
}

/// How a tenant's workers stand, for its status.
fn tenant_workers(
    nodes: Store<Node>,
    plans: watch::Receiver<Arc<Plans>>,
    gpu_resource: String,
) -> tenant::WorkersOf {
    Arc::new(move |tenant: &Tenant| {
        let all = nodes.state();
        let quotas = plans.borrow().get(&tenant.spec.plan).map(|plan| plan.effective(&tenant.spec.quotas));
        tenant::WorkersView {
            admitted: i64::try_from(node::admitted(&tenant.name_any(), &all)).unwrap_or(i64::MAX),
            refused: quotas.and_then(|quotas| node::refused(tenant, &quotas, &all, &gpu_resource)),
        }
    })
}

/// A watch of all objects of a kind.
fn everything<K>(client: &Client) -> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    Watch::new(Api::<DeserializeGuard<K>>::all(client.clone()), watcher::Config::default())
}

/// What comes through a channel, as a stream.
fn received<T: Send + 'static>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> + Send + 'static {
    stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
}

/// A future that is ready at SIGTERM or Ctrl-C, for each who clones it.
fn signal() -> anyhow::Result<impl Future<Output = ()> + Clone + Send + Sync + 'static> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, mut receiver) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => (), _ = interrupt.recv() => () }
        tracing::info!("stopping: what is under way is finished first");
        sender.send_replace(true);
        // Keeps the channel open for whoever looks later.
        sender.closed().await;
    });
    let stopped = async move {
        if receiver.wait_for(|stopping| *stopping).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    Ok(stopped.boxed().shared())
}
