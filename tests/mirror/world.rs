//! A database, a mirror, and watches that the test plays.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt::Debug,
    future::Future,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crofter::{
    api_types::{Job, Tenant},
    clock::Clock,
    db::{Options, Pool, Readers, UrlSource},
    kube_ext::watch::Change,
    metrics::Metrics,
    mirror::{self, Changes, Config, MirrorHandle, Stores},
};
use crofter_test_cluster::{DatabaseServer, wait};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Client, Resource, ResourceExt,
    client::Body,
    core::error_boundary::InvalidObject,
    runtime::{
        reflector::{self, Store, store::Writer},
        watcher::Event,
    },
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};
use tokio::{sync::mpsc, task::JoinHandle};
use uuid::Uuid;

use crate::proxy::{Proxy, Way};

/// Far more than anything here takes: the machines are shared.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a call to the database may take: a busy machine keeps it, and a wait is longer than one that hangs.
pub(crate) const CALL: Duration = Duration::from_secs(30);
pub(crate) const CLUSTER: Uuid = Uuid::from_u128(0xc1);
/// The time of the test.
pub(crate) const NOW: &str = "2026-01-01T16:00:00Z";

fn server() -> &'static DatabaseServer {
    static SERVER: OnceLock<DatabaseServer> = OnceLock::new();
    SERVER.get_or_init(|| DatabaseServer::start().unwrap())
}

/// One kind: its cache and who listens.
pub(crate) struct Feed<K: Resource<DynamicType = ()> + Clone + Debug + 'static> {
    store: Store<K>,
    writer: Writer<K>,
    listeners: Vec<mpsc::Sender<Change<K>>>,
    /// Invalid objects, delivered before the end of the next list.
    pub(crate) unreadable: Vec<Arc<InvalidObject>>,
}

impl<K: Resource<DynamicType = ()> + Clone + Debug + Send + Sync + 'static> Feed<K> {
    fn new() -> Self {
        let (store, mut writer) = reflector::store();
        writer.apply_watcher_event(&Event::Init);
        writer.apply_watcher_event(&Event::InitDone);
        Self { store, writer, listeners: Vec::new(), unreadable: Vec::new() }
    }

    /// As `Watch`: a new subscriber gets all objects first.
    async fn subscribe(&mut self) -> mpsc::Receiver<Change<K>> {
        let (sender, receiver) = mpsc::channel(16);
        let applied = self.store.state().into_iter().map(Change::Applied);
        let invalid = std::mem::take(&mut self.unreadable).into_iter().map(Change::Invalid);
        let list: Vec<Change<K>> = applied.chain(invalid).chain([Change::Synced]).collect();
        let initial = sender.clone();
        tokio::spawn(async move {
            for change in list {
                // The mirror may end meanwhile.
                drop(initial.send(change).await);
            }
        });
        self.listeners.push(sender);
        receiver
    }

    pub(crate) async fn apply(&mut self, object: K) {
        self.writer.apply_watcher_event(&Event::Apply(object.clone()));
        self.deliver(Change::Applied(Arc::new(object))).await;
    }

    pub(crate) async fn delete(&mut self, object: &K) {
        self.writer.apply_watcher_event(&Event::Delete(object.clone()));
        self.deliver(Change::Deleted(Arc::new(object.clone()))).await;
    }

    /// The cache as if the process had begun with it: no change is delivered.
    pub(crate) fn begin_with(&mut self, objects: Vec<K>) {
        self.writer.apply_watcher_event(&Event::Init);
        for object in objects {
            self.writer.apply_watcher_event(&Event::InitApply(object));
        }
        self.writer.apply_watcher_event(&Event::InitDone);
    }

    pub(crate) async fn deliver(&mut self, change: Change<K>) {
        self.listeners.retain(|listener| !listener.is_closed());
        for listener in &self.listeners {
            // The mirror may end meanwhile.
            drop(listener.send(change.clone()).await);
        }
    }
}

pub(crate) struct World {
    pub(crate) url: String,
    /// Has the URL of the mirror and the readers, in place of `url` by way of the proxy.
    pub(crate) url_file: Option<PathBuf>,
    pub(crate) proxy: Proxy,
    /// How long a call of the mirror may take.
    pub(crate) call: Duration,
    /// How often an idle mirror checks whether the database has all commits.
    pub(crate) verify_interval: Duration,
    pub(crate) metrics: Metrics,
    pub(crate) api: JobsApi,
    pub(crate) tenants: Feed<Tenant>,
    pub(crate) nodes: Feed<Node>,
    pub(crate) jobs: Feed<Job>,
    pub(crate) pods: Feed<Pod>,
}

/// An API server that has Jobs, and of which nothing but one of them is asked.
#[derive(Clone, Default)]
pub(crate) struct JobsApi(Arc<Mutex<Jobs>>);

#[derive(Default)]
struct Jobs {
    /// By path.
    all: HashMap<String, Value>,
    away: bool,
    reads: usize,
}

impl JobsApi {
    pub(crate) fn put(&self, job: &Job) {
        let path = format!(
            "/apis/crofter.io/v1alpha1/namespaces/{}/jobs/{}",
            job.namespace().unwrap(),
            job.name_any()
        );
        self.0.lock().unwrap().all.insert(path, json!(job));
    }

    pub(crate) fn set_away(&self, away: bool) {
        self.0.lock().unwrap().away = away;
    }

    pub(crate) fn reads(&self) -> usize {
        self.0.lock().unwrap().reads
    }

    fn read(&self, path: &str) -> (u16, Value) {
        let mut jobs = self.0.lock().unwrap();
        jobs.reads += 1;
        let refusal =
            |code: u16| (code, json!({"kind": "Status", "code": code, "message": "x", "reason": "x"}));
        if jobs.away {
            return refusal(503);
        }
        jobs.all.get(path).map_or_else(|| refusal(404), |job| (200, job.clone()))
    }

    fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (code, answer) = api.read(request.uri().path());
            let body = Body::from(serde_json::to_vec(&answer).unwrap());
            let response = http::Response::builder().status(code).body(body).unwrap();
            std::future::ready(Ok::<_, Infallible>(response))
        });
        Client::new(service, "default")
    }
}

/// A mirror that runs until dropped.
pub(crate) struct Running {
    pub(crate) handle: MirrorHandle,
    pub(crate) task: JoinHandle<Result<(), crofter::db::Error>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::on(server()).await
    }

    pub(crate) async fn on(server: &DatabaseServer) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("mirror_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let url = server.create_database(&name).await.unwrap();
        let port = url.rsplit_once(':').unwrap().1.split('/').next().unwrap().parse().unwrap();
        Self {
            url,
            url_file: None,
            proxy: Proxy::start(port).await,
            call: CALL,
            verify_interval: WAIT_TIMEOUT,
            metrics: Metrics::default(),
            api: JobsApi::default(),
            tenants: Feed::new(),
            nodes: Feed::new(),
            jobs: Feed::new(),
            pods: Feed::new(),
        }
    }

    /// The database, by way of the proxy; with deadlines that a busy machine keeps.
    pub(crate) fn pool(&self) -> Pool {
        self.pool_with(Options { connect: CALL, call: self.call, ..Options::default() })
    }

    pub(crate) fn pool_with(&self, options: Options) -> Pool {
        Pool::new(&self.by_proxy(), options).unwrap()
    }

    /// Its readers, with a number of connections, by way of the proxy.
    pub(crate) fn readers(&self, connections: u32) -> Readers {
        self.readers_with(Options { connections, connect: CALL, call: CALL })
    }

    pub(crate) fn readers_with(&self, options: Options) -> Readers {
        Readers::new(&self.by_proxy(), options).unwrap()
    }

    fn by_proxy(&self) -> UrlSource {
        if let Some(file) = &self.url_file {
            return UrlSource::File(file.clone());
        }
        let (before, after) = self.url.rsplit_once(':').unwrap();
        let database = after.split_once('/').unwrap().1;
        format!("{before}:{}/{database}", self.proxy.port()).as_str().into()
    }

    pub(crate) async fn start(&mut self) -> Running {
        self.start_as(CLUSTER).await
    }

    pub(crate) async fn start_as(&mut self, cluster_uid: Uuid) -> Running {
        let config = Config {
            interval: Duration::from_millis(20),
            behind_after: Duration::from_millis(700),
            longest_pause: Duration::from_millis(200),
            verify_interval: self.verify_interval,
            metrics: self.metrics.clone(),
            ..Config::new(self.pool(), cluster_uid, "nvidia.com/gpu".into())
        };
        let stores = Stores {
            tenants: self.tenants.store.clone(),
            nodes: self.nodes.store.clone(),
            jobs: self.jobs.store.clone(),
            pods: self.pods.store.clone(),
        };
        let changes = Changes {
            tenants: self.tenants.subscribe().await,
            nodes: self.nodes.subscribe().await,
            jobs: self.jobs.subscribe().await,
            pods: self.pods.subscribe().await,
        };
        let now: Timestamp = NOW.parse().unwrap();
        let (handle, future) =
            mirror::start(config, self.api.client(), stores, changes, Clock::of(move || now));
        Running { handle, task: tokio::spawn(future) }
    }

    /// The answer to a query of one text column and one row, past the proxy.
    pub(crate) async fn ask(&self, query: &'static str) -> Result<String, sqlx::Error> {
        let mut connection = PgConnection::connect(&self.url).await?;
        let answer: Option<String> = sqlx::query_scalar(query).fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(answer.unwrap_or_else(|| "NULL".into()))
    }

    pub(crate) async fn execute(&self, statement: &'static str) {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Copies the database as it is at this moment: a standby that will get nothing more. Open connections break.
    pub(crate) async fn fork(&self) {
        let name = self.name();
        let fork = format!("CREATE DATABASE {name}_standby TEMPLATE {name}");
        self.without_connections(&[&fork]).await;
    }

    /// The standby replaces the database. Open connections break.
    pub(crate) async fn promote(&self) {
        let name = self.name();
        let away = format!("ALTER DATABASE {name} RENAME TO {name}_lost");
        let here = format!("ALTER DATABASE {name}_standby RENAME TO {name}");
        self.without_connections(&[&away, &here]).await;
    }

    fn name(&self) -> &str {
        self.url.rsplit_once('/').unwrap().1
    }

    async fn without_connections(&self, statements: &[&str]) {
        self.proxy.set(Way::Cut);
        let server = format!("{}/postgres", self.url.rsplit_once('/').unwrap().0);
        let mut connection = PgConnection::connect(&server).await.unwrap();
        let end = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{}'",
            self.name()
        );
        for statement in [&[end.as_str()], statements].concat() {
            let run = async |connection: &mut PgConnection| {
                sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned())).execute(connection).await.map(drop)
            };
            // A connection may take a moment to end.
            while run(&mut connection).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        connection.close().await.unwrap();
        self.proxy.set(Way::Open);
    }

    /// Waits until `query` answers `expected`.
    pub(crate) async fn sees(&self, query: &'static str, expected: &str) {
        let check = || async {
            match self.ask(query).await {
                Ok(answer) if answer == expected => Ok(()),
                other => Err(other.map_err(|e| e.to_string())),
            }
        };
        wait::until(WAIT_TIMEOUT, &format!("`{query}` to answer {expected}"), check).await.unwrap();
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    let check = || std::future::ready(if condition() { Ok(()) } else { Err(()) });
    wait::until(WAIT_TIMEOUT, what, check).await.unwrap();
}

/// `future`, which must end soon.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(WAIT_TIMEOUT, future).await.unwrap()
}
