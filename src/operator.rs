//! The operator as a whole: watches, scheduler, controllers and mirror put together, started, and stopped in order.
//!
//! When an essential part ends by itself the process ends: half an operator is worse than one that is restarted. On
//! SIGTERM or Ctrl-C the controllers finish what is under way, then the mirror writes what it holds, then all ends.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use futures::{FutureExt, StreamExt, future::BoxFuture, future::Shared, stream};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{reflector::ObjectRef, watcher},
};
use secrecy::SecretString;
use serde::de::DeserializeOwned;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};
use uuid::Uuid;

use crate::{
    api_types::{Job, Plans, Scenarios, Tenant, TenantApiKey},
    clock::Clock,
    config::{self, Config, Settings},
    controllers::{api_key, attempt, job, node, tenant},
    db::{self, Pool},
    domain::{admission::Dispatcher, worker},
    http::{self, administrators::Administrators, failures::Failures, jobs_index::JobsIndex},
    keys::{self, Keys, pepper},
    kube_ext::{
        events::Events,
        streams::received,
        unreadable::{self, Unreadable},
        watch::Watch,
        within,
    },
    metrics::Metrics,
    mirror::{self, MirrorHandle},
    names,
    random::Random,
    scheduler::{self, Board, Caches, Changes, Concerned, Scheduler},
    telemetry::{self, IsReady},
};

/// Time for controllers to finish what is under way.
const FINISH: Duration = Duration::from_secs(15);
/// Time for the mirror to write what it holds.
const FLUSH: Duration = Duration::from_secs(5);
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
    let api_listener = TcpListener::bind(config.api_addr).await;
    let api_listener = api_listener.with_context(|| format!("listening on {}", config.api_addr))?;
    let history = config.database_url.as_ref().map(history).transpose()?;
    let mirror = match &config.database_url {
        Some(url) => Some(mirror_config(&client, url, &config.settings.gpu_resource).await?),
        None => None,
    };
    let (plans, follow_plans) = config::plans(config.plans).await?;
    let (scenarios, follow_scenarios) = config::scenarios(config.scenarios).await?;
    let tables = Tables { plans, scenarios };
    let mut assembly = Assembly::new(client, config.settings, &config.elastic_pools, tables, stop.clone());
    assembly.parts.essential("plan table", follow_plans);
    assembly.parts.essential("scenario catalogue", follow_scenarios);
    let mirror = mirror.map(|mirror| assembly.mirror(mirror));
    let names = assembly.scheduler();
    let unreadable = assembly.tenants(names.tenants);
    assembly.nodes();
    assembly.jobs(names.jobs, mirror.as_ref(), config.start_limit_seconds);
    assembly.attempts(unreadable, mirror.as_ref());
    let keys = assembly.api_keys(config.namespace);
    assembly.rest(api_listener, keys, history);
    let board = assembly.board.clone();
    let mut parts = assembly.watch_and_serve(listener, Arc::new(move || board.is_ready()));
    tokio::select! {
        // First: a controller that ends because it was told to is no failure.
        biased;
        () = stop => (),
        Some(ended) = parts.essential.join_next() => bail!("an essential part ended: {}", name_of(ended)),
        Some(ended) = parts.controllers.join_next() => bail!("a controller ended: {}", name_of(ended)),
    }
    parts.finish(mirror).await;
    Ok(())
}

/// Serves the REST API alone until a signal, or until an essential part ends. It schedules and controls nothing.
///
/// # Errors
/// As [`run`].
pub async fn api(config: Config) -> anyhow::Result<()> {
    let stop = signal()?;
    let client =
        Client::try_default().await.context("finding the cluster: set KUBECONFIG, or run inside one")?;
    let listener = TcpListener::bind(config.metrics_addr).await;
    let listener = listener.with_context(|| format!("listening on {}", config.metrics_addr))?;
    let api_listener = TcpListener::bind(config.api_addr).await;
    let api_listener = api_listener.with_context(|| format!("listening on {}", config.api_addr))?;
    let history = config.database_url.as_ref().map(history).transpose()?;
    let (plans, follow_plans) = config::plans(config.plans).await?;
    let (scenarios, follow_scenarios) = config::scenarios(config.scenarios).await?;
    let tables = Tables { plans, scenarios };
    let mut assembly = Assembly::new(client, config.settings, &config.elastic_pools, tables, stop.clone());
    assembly.parts.essential("plan table", follow_plans);
    assembly.parts.essential("scenario catalogue", follow_scenarios);
    let keys = assembly.key_cache(config.namespace);
    let jobs = assembly.rest(api_listener, keys, history);
    let mut parts = assembly.watch_and_serve(listener, Arc::new(move || jobs.is_whole()));
    tokio::select! {
        biased;
        () = stop => (),
        Some(ended) = parts.essential.join_next() => bail!("an essential part ended: {}", name_of(ended)),
        Some(ended) = parts.controllers.join_next() => bail!("a controller ended: {}", name_of(ended)),
    }
    parts.finish(None).await;
    Ok(())
}

/// Connections for what the REST API reads. A reader does not wait long: a list has the cache.
fn history(url: &SecretString) -> anyhow::Result<Pool> {
    let options =
        db::Options { connections: 4, connect: Duration::from_secs(1), call: Duration::from_secs(3) };
    Ok(Pool::new(url, options)?)
}

/// Brings the schema of the configured database up to date.
///
/// # Errors
/// No database is configured, or it does not answer.
pub async fn migrate(config: Config) -> anyhow::Result<()> {
    let url = config.database_url.context("no database: give --database-url or DATABASE_URL")?;
    db::migrate(&Pool::new(&url, db::Options::default())?).await?;
    tracing::info!("the schema is up to date");
    Ok(())
}

type Stop = Shared<BoxFuture<'static, ()>>;

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

    async fn finish(mut self, mirror: Option<MirrorHandle>) {
        let finish = async { while self.controllers.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH, finish).await.is_err() {
            tracing::warn!(
                seconds = FINISH.as_secs(),
                "a controller did not finish; a restart goes on where it was"
            );
        }
        if let Some(mirror) = mirror
            && tokio::time::timeout(FLUSH, mirror.written()).await.is_err()
        {
            tracing::warn!(
                seconds = FLUSH.as_secs(),
                "the mirror did not finish; the next start finds what is missing"
            );
        }
        tracing::info!("stopped");
    }
}

/// What administrators write in files, and may replace at any time.
struct Tables {
    plans: watch::Receiver<Arc<Plans>>,
    scenarios: watch::Receiver<Arc<Scenarios>>,
}

/// Names of those who are to look again after a decision.
struct Names {
    jobs: mpsc::Receiver<ObjectRef<Job>>,
    tenants: mpsc::Receiver<ObjectRef<Tenant>>,
}

/// The operator while it is put together: every part subscribes before the watches run.
struct Assembly {
    client: Client,
    settings: Settings,
    plans: watch::Receiver<Arc<Plans>>,
    scenarios: watch::Receiver<Arc<Scenarios>>,
    clock: Clock,
    metrics: Metrics,
    events: Events,
    board: Board,
    tenants: Watch<Tenant>,
    jobs: Watch<Job>,
    keys: Watch<TenantApiKey>,
    pods: Watch<Pod>,
    nodes: Watch<Node>,
    /// Pods of others.
    others: Watch<Pod>,
    caches: Caches,
    parts: Parts,
    /// Whether the scheduler runs here.
    schedules: bool,
    stop: Stop,
}

impl Assembly {
    fn new(client: Client, settings: Settings, elastic_pools: &[String], tables: Tables, stop: Stop) -> Self {
        let Tables { plans, scenarios } = tables;
        let elastic: Vec<String> = elastic_pools.iter().map(|pool| names::pool_group(pool)).collect();
        let tenants = everything(&client);
        let jobs = everything(&client);
        let keys = everything(&client);
        let nodes = everything(&client).with_prepare(node::prepare);
        let ours =
            watcher::Config::default().labels(&format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGER));
        let pods = Watch::new(Api::all(client.clone()), ours);
        let theirs =
            watcher::Config::default().labels(&format!("{}!={}", names::LABEL_MANAGED_BY, names::MANAGER));
        let others = Watch::new(Api::all(client.clone()), theirs).with_prepare(scheduler::prepare_other_pods);
        let caches =
            Caches { tenants: tenants.store(), jobs: jobs.store(), pods: pods.store(), nodes: nodes.store() };
        Self {
            events: Events::new(client.clone()),
            client,
            settings,
            plans,
            scenarios,
            clock: Clock::system(),
            metrics: Metrics::default(),
            board: Board::new(Dispatcher::new(elastic.iter().map(String::as_str))),
            tenants,
            jobs,
            keys,
            pods,
            nodes,
            others,
            caches,
            parts: Parts::default(),
            schedules: false,
            stop,
        }
    }

    fn mirror(&mut self, config: mirror::Config) -> MirrorHandle {
        let Caches { tenants, jobs, pods, nodes } = self.caches.clone();
        let stores = mirror::Stores { tenants, nodes, jobs, pods };
        let changes = mirror::Changes {
            tenants: self.tenants.subscribe(),
            nodes: self.nodes.subscribe(),
            jobs: self.jobs.subscribe(),
            pods: self.pods.subscribe(),
        };
        let (handle, writing) = mirror::start(config, stores, changes, self.clock.clone());
        self.parts.essential("mirror", async move {
            if let Err(error) = writing.await {
                tracing::error!(%error, "the mirror has ended");
            }
        });
        handle
    }

    fn scheduler(&mut self) -> Names {
        self.schedules = true;
        let (concerned_jobs, jobs) = mpsc::channel(CONCERNED);
        let (concerned_tenants, tenants) = mpsc::channel(CONCERNED);
        let scheduler = Scheduler::new(scheduler::Parts {
            caches: self.caches.clone(),
            board: self.board.clone(),
            concerned: Concerned { jobs: concerned_jobs, tenants: concerned_tenants },
            plans: self.plans.clone(),
            scenarios: self.scenarios.clone(),
            gpu_resource: self.settings.gpu_resource.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
        });
        let changes = Changes {
            tenants: self.tenants.subscribe(),
            jobs: self.jobs.subscribe(),
            pods: self.pods.subscribe(),
            nodes: self.nodes.subscribe(),
            others: self.others.subscribe(),
        };
        self.parts.essential("scheduler", scheduler.run(changes));
        Names { jobs, tenants }
    }

    /// Returns which tenants can't be read.
    fn tenants(&mut self, touched: mpsc::Receiver<ObjectRef<Tenant>>) -> Unreadable<Tenant> {
        let board = self.board.clone();
        let (context, watches) = tenant::prepare(tenant::Dependencies {
            client: self.client.clone(),
            clock: self.clock.clone(),
            events: self.events.clone(),
            settings: self.settings.clone(),
            plans: self.plans.clone(),
            jobs: self.caches.jobs.clone(),
            keys: self.keys.store(),
            pods: self.caches.pods.clone(),
            nodes: self.caches.nodes.clone(),
            ledger: Arc::new(move |namespace| {
                board.usage(namespace).map(|(usage, window)| tenant::Ledger { usage, window })
            }),
            workers: self.workers(),
        });
        let inputs = tenant::Inputs {
            tenants: self.caches.tenants.clone(),
            tenant_changes: self.tenants.subscribe(),
            pods: self.pods.subscribe_objects().boxed(),
            nodes: self.nodes.subscribe_objects().boxed(),
            touched: received(touched).boxed(),
        };
        let unreadable = context.unreadable();
        self.parts.controller("tenant controller", tenant::run(context, watches, inputs, self.stop.clone()));
        unreadable
    }

    /// How a tenant's workers stand, for its status.
    fn workers(&self) -> tenant::WorkersOf {
        let (nodes, plans) = (self.caches.nodes.clone(), self.plans.clone());
        let gpu_resource = self.settings.gpu_resource.clone();
        Arc::new(move |tenant: &Tenant| {
            let all = nodes.state();
            let quotas =
                plans.borrow().get(&tenant.spec.plan).map(|plan| plan.effective(&tenant.spec.quotas));
            tenant::WorkersView {
                admitted: i64::try_from(worker::count(&tenant.name_any(), &all)).unwrap_or(i64::MAX),
                refused: quotas.and_then(|quotas| node::refused(tenant, &quotas, &all, &gpu_resource)),
            }
        })
    }

    fn nodes(&mut self) {
        let Caches { tenants, pods, nodes, .. } = self.caches.clone();
        let (client, gpu_resource) = (self.client.clone(), self.settings.gpu_resource.clone());
        let caches = node::Caches { nodes, tenants, pods };
        let context = Arc::new(node::Context::new(client, caches, self.plans.clone(), gpu_resource));
        let (of_nodes, of_tenants) = (self.nodes.subscribe_objects(), self.tenants.subscribe_objects());
        let run = node::run(context, of_nodes, of_tenants, self.pods.subscribe_objects(), self.stop.clone());
        self.parts.controller("node controller", run);
    }

    /// Returns which jobs can't be read.
    fn jobs(
        &mut self,
        concerned: mpsc::Receiver<ObjectRef<Job>>,
        mirror: Option<&MirrorHandle>,
        start_limit_seconds: u32,
    ) {
        let (unreadable, writer) = unreadable::cache();
        let Caches { tenants, jobs, pods, .. } = self.caches.clone();
        let context = job::Context {
            client: self.client.clone(),
            jobs,
            unreadable,
            pods,
            tenants,
            board: self.board.clone(),
            plans: self.plans.clone(),
            scenarios: self.scenarios.clone(),
            settings: self.settings.clone(),
            start_limit: SignedDuration::from_secs(start_limit_seconds.into()),
            mirrored: mirror.cloned().map(mirrored),
            events: self.events.clone(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
        };
        let of_jobs = job::Changes { all: self.jobs.subscribe(), unreadable: writer };
        let (of_pods, of_tenants) = (self.pods.subscribe_objects(), self.tenants.subscribe_objects());
        let run =
            job::run(Arc::new(context), of_jobs, of_pods, of_tenants, received(concerned), self.stop.clone());
        self.parts.controller("job controller", run);
    }

    fn attempts(&mut self, unreadable: Unreadable<Tenant>, mirror: Option<&MirrorHandle>) {
        let Caches { jobs, pods, tenants, .. } = self.caches.clone();
        let context = attempt::Context {
            client: self.client.clone(),
            jobs,
            pods,
            tenants: attempt::Tenants { known: tenants, unreadable },
            accounts: mirror.cloned().map(|mirror| Arc::new(mirror) as Arc<dyn attempt::Accounts>),
            windows: Arc::new(self.board.clone()),
            waiting: attempt::Waiting::default(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
        };
        let (of_pods, of_jobs) = (self.pods.subscribe_objects(), self.jobs.subscribe_objects());
        let of_tenants = self.tenants.subscribe_objects();
        let commits = mirror.map_or_else(|| stream::pending().boxed(), |mirror| mirror.commits().boxed());
        let run = attempt::run(Arc::new(context), of_pods, of_jobs, of_tenants, commits, self.stop.clone());
        self.parts.controller("attempt controller", run);
    }

    /// The controller of API keys, and the cache by which they are recognised.
    fn api_keys(&mut self, namespace: String) -> Keys {
        let peppers = self.peppers(&namespace);
        let (context, watches) = api_key::prepare(api_key::Dependencies {
            client: self.client.clone(),
            keys: self.keys.store(),
            tenants: self.caches.tenants.clone(),
            peppers: peppers.clone(),
            settings: self.settings.clone(),
            namespace: namespace.clone(),
            events: self.events.clone(),
            clock: self.clock.clone(),
            random: Random::system(),
            metrics: self.metrics.clone(),
        });
        let inputs = api_key::Inputs { keys: self.keys.subscribe(), tenants: self.tenants.subscribe() };
        self.parts
            .controller("API key controller", api_key::run(context, watches, inputs, self.stop.clone()));
        self.recognise(peppers, namespace)
    }

    /// The cache alone.
    fn key_cache(&mut self, namespace: String) -> Keys {
        let peppers = self.peppers(&namespace);
        self.recognise(peppers, namespace)
    }

    fn peppers(&mut self, namespace: &str) -> watch::Receiver<pepper::Known> {
        let mut secret = pepper::watch(&self.client, namespace);
        let (known, peppers) = watch::channel(pepper::Known::Nothing);
        let following = pepper::follow(self.client.clone(), namespace.to_owned(), secret.subscribe(), known);
        self.parts.essential("watch of peppers", secret.run());
        self.parts.essential("peppers", following);
        peppers
    }

    fn recognise(&mut self, peppers: watch::Receiver<pepper::Known>, namespace: String) -> Keys {
        let keys = Keys::new(peppers, self.clock.clone(), self.metrics.clone());
        let inputs = keys::Inputs { keys: self.keys.subscribe(), tenants: self.tenants.subscribe() };
        self.parts.essential("cache of API keys", keys.clone().feed(namespace.clone(), inputs));
        self.parts.essential("probe of API keys", keys.clone().probe(self.client.clone(), namespace));
        keys
    }

    /// The REST API. Returns its index of jobs.
    fn rest(&mut self, listener: TcpListener, keys: Keys, database: Option<Pool>) -> JobsIndex {
        let jobs = JobsIndex::default();
        self.parts.essential("index of jobs", jobs.clone().feed(self.jobs.subscribe()));
        let app = http::App::new(http::Parts {
            client: self.client.clone(),
            settings: self.settings.clone(),
            plans: self.plans.clone(),
            scenarios: self.scenarios.clone(),
            clock: self.clock.clone(),
            random: Random::system(),
            board: self.schedules.then(|| self.board.clone()),
            recognise: Arc::new(keys),
            administrators: Administrators::new(self.client.clone()),
            failures: Failures::default(),
            tenants: self.caches.tenants.clone(),
            jobs: jobs.clone(),
            keys: self.keys.store(),
            nodes: self.caches.nodes.clone(),
            database,
        });
        let routes = http::routes(app, self.metrics.clone());
        // Ends by itself at the stop signal, when all that was asked is answered.
        self.parts.controller("REST API", http::server::serve(listener, routes, self.stop.clone()));
        jobs
    }

    /// Runs the watches: those of pods only where this process schedules.
    fn watch_and_serve(self, listener: TcpListener, is_ready: IsReady) -> Parts {
        let Self { mut parts, tenants, jobs, keys, pods, nodes, others, metrics, board, schedules, .. } =
            self;
        parts.essential("watch of tenants", tenants.run());
        parts.essential("watch of jobs", jobs.run());
        parts.essential("watch of API keys", keys.run());
        parts.essential("watch of nodes", nodes.run());
        if schedules {
            parts.essential("watch of pods", pods.run());
            parts.essential("watch of other pods", others.run());
        }
        parts.essential("health and metrics", async move {
            if let Err(error) = telemetry::serve(listener, metrics, board, is_ready).await {
                tracing::error!(%error, "health and metrics are not served any more");
            }
        });
        parts
    }
}

/// What the mirror needs to know before it starts. The database itself need not answer yet.
async fn mirror_config(
    client: &Client,
    url: &SecretString,
    gpu_resource: &str,
) -> anyhow::Result<mirror::Config> {
    let pool = Pool::new(url, db::Options::default())?;
    let api: Api<Namespace> = Api::all(client.clone());
    // Its UID is as old as the cluster, and so names it.
    let system = within("reading namespace kube-system", api.get_metadata("kube-system")).await?;
    let uid = system.uid().context("namespace kube-system has no UID")?;
    Ok(mirror::Config::new(pool, Uuid::parse_str(&uid)?, gpu_resource.to_owned()))
}

/// Whether the mirror has a job as it is.
fn mirrored(mirror: MirrorHandle) -> job::Mirrored {
    Arc::new(move |job: &Job| {
        let uid = job.uid().unwrap_or_default();
        mirror.job_mirrored(&uid, &job.resource_version().unwrap_or_default())
    })
}

impl attempt::Accounts for MirrorHandle {
    fn committed(&self, job_uid: &str, attempt: u32) -> bool {
        Self::committed(self, job_uid, attempt)
    }

    fn behind(&self) -> bool {
        Self::behind(self)
    }
}

impl attempt::Windows for Board {
    fn settle(&self, namespace: &str, job_uid: &str) {
        Self::settle(self, namespace, job_uid);
    }
}

/// A watch of all objects of a kind.
fn everything<K>(client: &Client) -> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    Watch::new(Api::<DeserializeGuard<K>>::all(client.clone()), watcher::Config::default())
}

/// A future that is ready at SIGTERM or Ctrl-C, for each who clones it.
fn signal() -> anyhow::Result<Stop> {
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
