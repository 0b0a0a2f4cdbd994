//! The operator as a whole: watches, scheduler, controllers and mirror put together, started, and stopped in order.
//!
//! Of several replicas one leads. Each runs the watches, serves the REST API and checks API keys; the scheduler, the
//! controllers and the mirror begin once their replica leads, and write only while it does. A replica that has led and does
//! not any more ends, and is started again as a follower.
//!
//! When an essential part ends by itself the process ends: half an operator is worse than one that is restarted. On
//! SIGTERM or Ctrl-C the controllers finish what is under way, then the mirror writes what it holds, then the Lease is
//! released, then the requests in flight end and the audit log is written, then all ends.

mod assembly;
mod bundled_database;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, bail};
use axum::http::{HeaderValue, header};
use futures::{FutureExt, future::BoxFuture, future::Shared};
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client, ResourceExt};
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinSet,
};
use uuid::Uuid;

use self::assembly::{Assembly, Clients, Tables};
pub use self::bundled_database::{DatabaseSecret, database_secret};
use crate::{
    audit::{self, AuditLog, ClusterUid},
    clock::{Clock, ServerTime},
    config::{self, Config},
    controllers::tenant::default_tenant,
    db::{self, Pool, Readers, UrlSource},
    http::{
        cors::Origins,
        server::Listener,
        tls::{Reload, Tls},
    },
    kube_ext::{
        date_header::timed,
        events::Events,
        leader_gate,
        lease::{self, Election, Leadership},
        within,
    },
    mirror::{self, MirrorHandle},
    random::Random,
};

/// Time for controllers, and for requests of the REST API, to finish what is under way.
const FINISH: Duration = Duration::from_secs(15);
/// Time for the mirror to write what it holds.
const FLUSH: Duration = Duration::from_secs(5);
/// Time for the entries of the audit log that are left, once no request is in flight.
const FLUSH_AUDIT: Duration = Duration::from_secs(3);
/// The same where the process can't go on, such as one that has lost the Lease: nothing of it writes to the cluster any more.
const FLUSH_AUDIT_ABANDONED: Duration = Duration::from_secs(1);
/// Time for the Events that are left.
const FLUSH_EVENTS: Duration = Duration::from_secs(2);
/// Time to release the Lease.
const RELEASE: Duration = Duration::from_secs(3);

/// Runs until a signal, or until an essential part ends; with `serves_api` it also serves the REST API.
///
/// # Errors
/// What kept it from starting, or the name of the part that ended.
pub async fn run(config: Config, serves_api: bool) -> anyhow::Result<()> {
    let (start_limit_seconds, namespace) = (config.start_limit_seconds, config.namespace.clone());
    let (url, gpu_resource) = (config.database.source(), config.settings.gpu_resource.clone());
    let audit_retention = config.audit_retention();
    let default_tenant = config.default_tenant.as_deref().map(default_tenant::build).transpose()?;
    let identity = lease::identity(config.pod_name.as_deref(), &Random::system())?;
    let Start { mut assembly, listener, stop } = start(&config).await?;
    let rest = if serves_api { Some(rest(&config, &mut assembly).await?) } else { None };
    let audit = rest.as_ref().and_then(|rest| rest.audit.clone());
    tracing::info!(address = %listener.local_addr()?, version = env!("CARGO_PKG_VERSION"), "crofter starts");
    // First: probes are answered also while the API server is away.
    assembly.leadership().take_part();
    let is_ready = assembly.readiness(serves_api);
    let policies = assembly.policies();
    assembly.health(listener, is_ready.clone(), policies);
    let mirror = match &url {
        Some(url) => {
            let config = tokio::select! {
                config = mirror_config(assembly.client(), url, &gpu_resource) => config?,
                () = stop.clone() => return Ok(()),
            };
            Some(assembly.mirror(config, audit_retention))
        }
        None => None,
    };
    let names = assembly.scheduler();
    let invalid = assembly.tenants(names.tenants, namespace.clone());
    assembly.default_tenant(default_tenant, namespace.clone());
    assembly.nodes();
    assembly.jobs(names.jobs, mirror.as_ref(), start_limit_seconds);
    assembly.attempts(invalid, mirror.as_ref());
    let keys = assembly.api_keys(namespace.clone());
    if let Some(rest) = rest {
        assembly.rest(rest, keys, is_ready);
    }
    let (events, leadership) = (assembly.events(), assembly.leadership().clone());
    let election = Election::new(assembly.election_client(), &namespace, identity, leadership.clone());
    let (release, released) = oneshot::channel();
    assembly.follow("leader election", election.run(asked(released)));
    let mut parts = assembly.watch();
    if let Err(error) = parts.until(stop, &leadership).await {
        parts.abandon(audit).await;
        return Err(error);
    }
    parts.finish(mirror, &events).await;
    parts.release(release, &leadership).await;
    parts.end(audit).await;
    Ok(())
}

/// Ready once a message has come; never where its sender is dropped.
async fn asked(message: oneshot::Receiver<()>) {
    if message.await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Serves the REST API alone until a signal, or until an essential part ends. It schedules and controls nothing.
///
/// # Errors
/// As [`run`].
pub async fn api(config: Config) -> anyhow::Result<()> {
    let Start { mut assembly, listener, stop } = start(&config).await?;
    let rest = rest(&config, &mut assembly).await?;
    let audit = rest.audit.clone();
    let keys = assembly.key_cache(config.namespace);
    let is_ready = assembly.readiness(true);
    assembly.rest(rest, keys, is_ready.clone());
    // Its account reads none: the operator says which are missing.
    assembly.health(listener, is_ready, watch::channel(None).1);
    // No controller runs that holds them: their writer ends with the last handle.
    let _events = assembly.events();
    let leadership = assembly.leadership().clone();
    let mut parts = assembly.watch();
    if let Err(error) = parts.until(stop, &leadership).await {
        parts.abandon(audit).await;
        return Err(error);
    }
    parts.end(audit).await;
    Ok(())
}

/// What every way to run begins with.
struct Start {
    assembly: Assembly,
    /// Of health and metrics.
    listener: TcpListener,
    stop: Stop,
}

/// What the REST API is given.
struct Rest {
    listener: Listener,
    /// Connections for what it reads.
    history: Option<Readers>,
    /// Where its audit log goes, in addition to the log.
    audit: Option<AuditLog>,
    /// The cluster, whose database it must be.
    cluster: ClusterUid,
    /// Origins of the pages that browsers may let call it.
    origins: Origins,
}

async fn start(config: &Config) -> anyhow::Result<Start> {
    let stop = signal()?;
    let time = ServerTime::new(Clock::system());
    let leadership = Leadership::new(time.clock());
    let clients = clients(leadership.clone(), time)
        .await
        .context("failed to find the cluster: set KUBECONFIG, or run inside one")?;
    let listener = listen(config.metrics_addr).await?;
    let (plans, follow_plans) = config::plans(config.plans.clone()).await?;
    let (scenarios, follow_scenarios) = config::scenarios(config.scenarios.clone()).await?;
    let (tables, settings) = (Tables { plans, scenarios }, config.settings.clone());
    let mut assembly =
        Assembly::new(clients, leadership, settings, &config.elastic_pools, tables, stop.clone());
    assembly.follow("plan table", follow_plans);
    assembly.follow("scenario catalogue", follow_scenarios);
    Ok(Start { assembly, listener, stop })
}

async fn rest(config: &Config, assembly: &mut Assembly) -> anyhow::Result<Rest> {
    let (tls, reload) = tls(config).await?.unzip();
    if let Some(reload) = reload {
        assembly.follow("TLS certificate", reload.run(assembly.metrics()));
    }
    let url = config.database.source();
    let cluster = known_cluster(assembly.client().clone()).boxed().shared();
    Ok(Rest {
        listener: Listener::new(listen(config.api_addr).await?, tls),
        history: url.as_ref().map(history).transpose()?,
        audit: url.as_ref().map(|url| audit_log(url, cluster.clone(), assembly)).transpose()?,
        cluster,
        origins: Origins::new(&config.cors_origins),
    })
}

/// What the API server's audit log calls the operator.
const USER_AGENT: &str = concat!("crofter/", env!("CARGO_PKG_VERSION"));

pub(crate) async fn client_config() -> anyhow::Result<kube::Config> {
    let mut config = kube::Config::infer().await?;
    config.headers.push((header::USER_AGENT, HeaderValue::from_static(USER_AGENT)));
    Ok(config)
}

async fn clients(leadership: Leadership, time: ServerTime) -> anyhow::Result<Clients> {
    let config = client_config().await?;
    let mut once = config.clone();
    once.default_retry = false;
    let timed = |client| timed(client, time.clone());
    // The gate is next to the connection: what it lets pass is sent at once.
    let leader = timed(leader_gate::gated(Client::try_from(once)?, leadership));
    let election = timed(Client::try_from(of_election(&config))?);
    Ok(Clients { any: timed(Client::try_from(config)?), leader, election, clock: time.clock() })
}

/// For the client of the election, whose connection is its own, so that no other request delays a renewal.
fn of_election(config: &kube::Config) -> kube::Config {
    let mut config = config.clone();
    for timeout in [&mut config.connect_timeout, &mut config.read_timeout, &mut config.write_timeout] {
        *timeout = Some(lease::CALL_LIMIT);
    }
    config.default_retry = false;
    config
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listening on {address}"))
}

/// The certificate of the REST API, where it is served over TLS.
async fn tls(config: &Config) -> anyhow::Result<Option<(Tls, Reload)>> {
    match config.tls() {
        Some(files) => Ok(Some(Tls::load(files, Clock::system()).await?)),
        None => Ok(None),
    }
}

/// Connections for what the REST API reads. A reader does not wait long: a list has the cache.
fn history(url: &UrlSource) -> anyhow::Result<Readers> {
    let options =
        db::Options { connections: 8, connect: Duration::from_secs(2), call: Duration::from_secs(3) };
    Ok(Readers::new(url, options)?)
}

/// The way of the audit log to the database, over a connection of its own.
fn audit_log(url: &UrlSource, cluster: ClusterUid, assembly: &mut Assembly) -> anyhow::Result<AuditLog> {
    let pool = Pool::new(url, db::Options { connections: 1, ..db::Options::default() })?;
    let (log, queued) = audit::queue(&Random::system(), assembly.metrics())?;
    assembly.follow("audit log", queued.write_to(pool, cluster));
    Ok(log)
}

/// Brings the schema of the configured database up to date.
///
/// # Errors
/// No database is configured, or it does not answer.
pub async fn migrate(config: Config) -> anyhow::Result<()> {
    let url = config
        .database
        .source()
        .context("no database: give --database-url, --database-url-file or DATABASE_URL")?;
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
    /// As the controllers, and independent of leadership.
    servers: JoinSet<&'static str>,
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

    fn server(&mut self, name: &'static str, part: impl Future<Output = ()> + Send + 'static) {
        self.servers.spawn(part.map(move |()| name));
    }

    /// Waits for the signal.
    ///
    /// # Errors
    /// This process has led and does not any more; or the name of a part that ended before.
    async fn until(&mut self, stop: Stop, leadership: &Leadership) -> anyhow::Result<()> {
        let ended = tokio::select! {
            // First: a controller that ends because of a stop has not failed.
            biased;
            () = stop => return Ok(()),
            () = leadership.lost() => String::new(),
            Some(ended) = self.essential.join_next() => name_of(ended),
            Some(ended) = self.controllers.join_next() => name_of(ended),
            Some(ended) = self.servers.join_next() => name_of(ended),
        };
        // Some parts notice it first.
        if leadership.is_lost() {
            let transitions = leadership.transitions();
            tracing::error!(
                transitions,
                "this replica has lost the Lease: it ends, and starts again as a follower"
            );
            bail!("this replica has lost the Lease");
        }
        bail!("an essential part ended: {ended}")
    }

    /// Lets the controllers finish, and then what they feed.
    async fn finish(&mut self, mirror: Option<MirrorHandle>, events: &Events) {
        let finish = async { while self.controllers.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH, finish).await.is_err() {
            tracing::warn!(
                seconds = FINISH.as_secs(),
                "a controller did not finish in time; the next leader resumes its work"
            );
        }
        let left = events.flush(FLUSH_EVENTS).await;
        if left > 0 {
            tracing::warn!(left, seconds = FLUSH_EVENTS.as_secs(), "some Events were not written");
        }
        // Of a follower it holds nothing, and is never asked.
        if let Some(mirror) = mirror
            && mirror.has_begun()
            && tokio::time::timeout(FLUSH, mirror.written()).await.is_err()
        {
            tracing::warn!(
                seconds = FLUSH.as_secs(),
                "the mirror did not finish; the next leader finds what is missing"
            );
        }
    }

    /// Releases the Lease where this process has it. Nothing writes in its name any more.
    async fn release(&mut self, release: oneshot::Sender<()>, leadership: &Leadership) {
        self.controllers.abort_all();
        if release.send(()).is_err() || tokio::time::timeout(RELEASE, leadership.ended()).await.is_err() {
            tracing::warn!("the Lease was not released; the next leader waits until it expires");
        }
    }

    /// Lets the requests that are in flight complete, and then writes what the audit log has of them.
    async fn end(mut self, audit: Option<AuditLog>) {
        let finish = async { while self.servers.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH, finish).await.is_err() {
            tracing::warn!(seconds = FINISH.as_secs(), "some requests of the REST API did not complete");
        }
        flush(audit, FLUSH_AUDIT).await;
        tracing::info!("stopped");
    }

    /// Ends all at once but what the audit log has of the requests until now, those that are cut off included.
    async fn abandon(mut self, audit: Option<AuditLog>) {
        self.controllers.abort_all();
        self.servers.shutdown().await;
        flush(audit, FLUSH_AUDIT_ABANDONED).await;
    }
}

/// Writes what the audit log has, at most for `longest`.
async fn flush(audit: Option<AuditLog>, longest: Duration) {
    let Some(audit) = audit else { return };
    let left = audit.flush(longest).await;
    if left > 0 {
        let seconds = longest.as_secs();
        tracing::warn!(
            left,
            seconds,
            "the database lacks the last entries of the audit log, which the log has"
        );
    }
}

/// What the mirror needs to know before it starts. The database itself need not answer yet; the API server is waited
/// for.
async fn mirror_config(
    client: &Client,
    url: &UrlSource,
    gpu_resource: &str,
) -> anyhow::Result<mirror::Config> {
    let pool = Pool::new(url, db::Options::default())?;
    let uid = cluster_uid(client).await?;
    Ok(mirror::Config::new(pool, uid, gpu_resource.to_owned()))
}

/// The same for the audit log. Its entries are worth more than the comparison: where this process may not read the UID, they are
/// written all the same.
async fn known_cluster(client: Client) -> Option<Uuid> {
    match cluster_uid(&client).await {
        Ok(uid) => Some(uid),
        Err(error) => {
            tracing::warn!(
                %error,
                "the audit log is written without a check that the database is that of this cluster"
            );
            None
        }
    }
}

/// The UID of namespace kube-system, which is as old as the cluster and so names it. A process that ended because the
/// API server is away would be started ever more rarely, and be late when it comes back.
async fn cluster_uid(client: &Client) -> anyhow::Result<Uuid> {
    const RETRY: Duration = Duration::from_secs(5);
    let api: Api<Namespace> = Api::all(client.clone());
    loop {
        match within("failed to read namespace kube-system", api.get_metadata("kube-system")).await {
            Ok(system) => {
                let uid = system.uid().context("namespace kube-system has no UID")?;
                return Ok(Uuid::parse_str(&uid)?);
            }
            Err(error)
                if matches!(error.category(), "timeout" | "unreachable" | "throttled" | "server_error") =>
            {
                tracing::warn!(%error, "waiting for the API server");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
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
        // Keeps the channel open for later receivers.
        sender.closed().await;
    });
    let stopped = async move {
        if receiver.wait_for(|stopping| *stopping).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    Ok(stopped.boxed().shared())
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use serde_json::json;

    use super::*;
    use crate::kube_ext::mock;

    #[tokio::test(start_paused = true)]
    async fn an_api_server_that_is_away_at_the_start_is_waited_for_and_one_that_refuses_is_not() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&asked);
        let client = mock::client(move |_| match count.fetch_add(1, Ordering::SeqCst) {
            0..3 => mock::refusal(500, "etcd is away"),
            _ => (200, json!({"metadata": {"uid": "10000000-0000-4000-8000-000000000000"}})),
        });
        assert_eq!(cluster_uid(&client).await.unwrap().to_string(), "10000000-0000-4000-8000-000000000000");
        let refused = mock::client(|_| mock::refusal(403, "no"));
        let error = cluster_uid(&refused).await.unwrap_err().to_string();
        assert!(error.starts_with("failed to read namespace kube-system: "), "{error}");
    }
}
