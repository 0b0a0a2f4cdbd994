//! The whole cluster: started by [`Builder::start`], stopped and removed when dropped.

use std::{
    future::Future,
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use serde_json::{Value, json};

use crate::{
    access,
    control_plane::{self, ControlPlane, Options},
    kwok,
    layout::Layout,
    pki::{self, Identity, Pki},
    postgres::{self, Postgres},
    process::{self, Process},
    real::{self, Lan, RealNodes},
    reaper::Reaper,
    tools::{self, Tools},
    wait,
};

/// How long the slowest start may take; on a busy machine it is many times the usual four seconds.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// Why there is no cluster, or why something could not be done to it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is missing.
    #[error(transparent)]
    Tools(#[from] tools::Error),
    /// Directories, threads or the reaper could not be made.
    #[error("preparing the test cluster")]
    Prepare(#[source] io::Error),
    /// A certificate or client configuration could not be made.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// The control plane does not run.
    #[error(transparent)]
    ControlPlane(#[from] control_plane::Error),
    /// A process does not run.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// There is no database server.
    #[error(transparent)]
    Postgres(#[from] postgres::Error),
    /// The real nodes do not run.
    #[error(transparent)]
    Real(#[from] real::Error),
    /// The simulated nodes could not be served.
    #[error(transparent)]
    Kwok(#[from] kwok::Error),
    /// The API could not be reached, or credentials for it not be made.
    #[error(transparent)]
    Access(#[from] access::Error),
    /// Something did not come in time.
    #[error(transparent)]
    TimedOut(#[from] wait::TimedOut),
    /// A database was asked for in a cluster that has none.
    #[error("this cluster was started without Postgres")]
    NoPostgres,
    /// Something was requested that only a cluster with real nodes has.
    #[error("this cluster was started without real nodes")]
    NoRealNodes,
}

/// What a cluster shall have.
#[derive(Clone, Debug)]
#[must_use]
pub struct Builder {
    postgres: bool,
    audit_log: bool,
    audit_bodies_in: Option<String>,
    heavy_load: bool,
    real_nodes: usize,
    keep_logs_on_failure: bool,
}

impl Builder {
    /// With a Postgres server; the default.
    pub fn postgres(mut self, wanted: bool) -> Self {
        self.postgres = wanted;
        self
    }

    /// With an audit log of every request, for counting them; off by default.
    pub fn audit_log(mut self, wanted: bool) -> Self {
        self.audit_log = wanted;
        self
    }

    /// With the bodies of what is written in one namespace in the audit log, too.
    pub fn audit_bodies_in(mut self, namespace: impl Into<String>) -> Self {
        self.audit_bodies_in = Some(namespace.into());
        self
    }

    /// Fit for tens of thousands of pods in a few minutes, for measuring; off by default. The limits that
    /// kube-scheduler and kube-controller-manager put on their own requests go, 32 batch Jobs are reconciled at once
    /// instead of 5, kwok takes 16 pods further at once instead of 4, and etcd may hold 8 GiB.
    pub fn heavy_load(mut self, wanted: bool) -> Self {
        self.heavy_load = wanted;
        self
    }

    /// With this number of real nodes, called `real-1`, `real-2`, and so on; none by default. Where the machine cannot
    /// run them (see [`real::available`]) the start fails and says why.
    pub fn real_nodes(mut self, count: usize) -> Self {
        self.real_nodes = count;
        self
    }

    /// Keeps the logs when the start fails or anything in this process panics; the default.
    pub fn keep_logs_on_failure(mut self, wanted: bool) -> Self {
        self.keep_logs_on_failure = wanted;
        self
    }

    /// Starts the cluster: about four seconds when the programs are built, minutes the first time.
    ///
    /// Blocks, and may be called from asynchronous code whose runtime has nothing else to do meanwhile.
    ///
    /// # Errors
    /// When a program is missing or does not come up; nothing of the cluster is left then but its logs.
    pub fn start(self) -> Result<Cluster, Error> {
        let mut tools = Tools::control_plane()?;
        if self.real_nodes > 0 {
            real::available().map_err(real::Error::Unavailable)?;
            tools = real::tools(tools)?;
        }
        let layout = Layout::create().map_err(Error::Prepare)?;
        let reaper = Reaper::start(&layout, self.keep_logs_on_failure).map_err(Error::Prepare)?;
        let started = self.bring_up(&layout, &tools);
        match started {
            Ok(running) => Ok(Cluster { reaper, layout, tools, running }),
            Err(error) => {
                if self.keep_logs_on_failure {
                    reaper.keep_logs();
                }
                Err(error)
            }
        }
    }

    fn bring_up(&self, layout: &Layout, tools: &Tools) -> Result<Running, Error> {
        // Postgres and the API server listen on its address.
        let lan = (self.real_nodes > 0).then(|| Lan::create(layout)).transpose()?;
        let node_facing = lan.as_ref().map(Lan::host_ip);
        // Making a database takes as long as starting the control plane; they have nothing to do with each other.
        thread::scope(|scope| {
            let postgres = self.postgres.then(|| scope.spawn(move || start_postgres(layout, node_facing)));
            let control_plane = self.start_control_plane(layout, tools, lan);
            let postgres = postgres.map(join).transpose()?;
            let (pki, plane, real_nodes) = control_plane?;
            Ok(Running {
                admin: plane.admin_kubeconfig(),
                api_url: plane.api_url(),
                audit_log: plane.audit_log(),
                pki,
                plane: Mutex::new(plane),
                real_nodes,
                database_url: postgres.as_ref().map(|server| server.url("postgres")),
                postgres,
            })
        })
    }

    fn start_control_plane(
        &self,
        layout: &Layout,
        tools: &Tools,
        lan: Option<Lan>,
    ) -> Result<(Pki, ControlPlane, Option<RealNodes>), Error> {
        let pki = Pki::create(&layout.pki())?;
        let node_facing = lan.as_ref().map(Lan::host_ip);
        let options = Options {
            node_facing,
            audit_log: self.audit_log,
            audit_bodies_in: self.audit_bodies_in.clone(),
            heavy_load: self.heavy_load,
        };
        let mut plane = ControlPlane::start(layout, &pki, tools, options)?;
        let admin = plane.admin_kubeconfig();
        block_on(api_ready(&mut plane, START_DEADLINE))??;
        plane.start_controllers(&pki)?;
        plane.rest.push(kwok::start(layout, tools, &admin, self.heavy_load)?);
        block_on(pods_may_come(&mut plane))??;
        let Some(lan) = lan else { return Ok((pki, plane, None)) };
        let joined = real::ControlPlane {
            layout,
            tools,
            pki: &pki,
            api_url: &plane.api_url(),
            admin_kubeconfig: &admin,
        };
        let nodes = RealNodes::start(lan, self.real_nodes, &joined)?;
        Ok((pki, plane, Some(nodes)))
    }
}

/// A running cluster. Dropping it stops everything; so does the end of this process, however it comes.
///
/// It may live in a static and be shared by all tests of a binary, whatever runtime each of them uses: nothing of it
/// depends on one. Methods that talk to a server are asynchronous, so that they block no other task of the caller's
/// runtime.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first: the reaper knows the order in which things stop.
    reaper: Reaper,
    pub(crate) layout: Layout,
    pub(crate) tools: Tools,
    running: Running,
}

#[derive(Debug)]
struct Running {
    pki: Pki,
    plane: Mutex<ControlPlane>,
    real_nodes: Option<RealNodes>,
    postgres: Option<Postgres>,
    admin: PathBuf,
    api_url: String,
    audit_log: Option<PathBuf>,
    database_url: Option<String>,
}

impl Cluster {
    /// A cluster with Postgres and no nodes by default.
    pub fn builder() -> Builder {
        Builder {
            postgres: true,
            audit_log: false,
            audit_bodies_in: None,
            heavy_load: false,
            real_nodes: 0,
            keep_logs_on_failure: true,
        }
    }

    /// The client configuration of an administrator (`system:masters`).
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.running.admin
    }

    /// The certificate of the cluster's authority, as PEM: what servers of the cluster are trusted by.
    #[must_use]
    pub fn authority(&self) -> &Path {
        &self.running.pki.authority().certificate
    }

    /// A certificate, issued by [`Cluster::authority`], for a server that answers to `names`, in files called after
    /// `file`.
    ///
    /// # Errors
    /// When a name is not a valid one, or a file cannot be written.
    pub fn server_certificate(&self, file: &str, names: &[&str]) -> Result<Identity, Error> {
        Ok(self.pki().issue(file, file, &[], names)?)
    }

    /// The address of the API server.
    #[must_use]
    pub fn api_url(&self) -> &str {
        &self.running.api_url
    }

    /// The directory of the cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.layout.root()
    }

    /// The directories of the cluster's programs (kubectl, helm and the rest), best first.
    #[must_use]
    pub fn bin_dirs(&self) -> &[PathBuf] {
        self.tools.dirs()
    }

    /// The API server's audit log: one JSON object per line and request.
    #[must_use]
    pub fn audit_log(&self) -> Option<&Path> {
        self.running.audit_log.as_deref()
    }

    /// The processes of the control plane that run, with kwok, by name and process id.
    #[must_use]
    pub fn processes(&self) -> Vec<(String, u32)> {
        self.plane().running().map(|process| (process.name().to_owned(), process.pid())).collect()
    }

    /// The address of the database `postgres`, with user and password.
    #[must_use]
    pub fn database_url(&self) -> Option<&str> {
        self.running.database_url.as_deref()
    }

    /// The Service `<namespace>/postgres` with its endpoint, by which pods on real nodes reach Postgres, and the address
    /// of a database of that server by the Service's DNS name.
    ///
    /// # Errors
    /// When the cluster has no Postgres or no real nodes.
    pub fn postgres_service(&self, namespace: &str, database: &str) -> Result<(Value, String), Error> {
        let server = self.database()?;
        let host = self.real_nodes().ok_or(Error::NoRealNodes)?.host_ip();
        let ports = json!([{ "port": server.port() }]);
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "postgres", "namespace": namespace }, "spec": { "ports": ports },
        });
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "postgres", "namespace": namespace,
                "labels": { "kubernetes.io/service-name": "postgres" },
            },
            "addressType": "IPv4", "endpoints": [{ "addresses": [host] }], "ports": ports,
        });
        let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [service, slice] });
        Ok((objects, server.url_at(&format!("postgres.{namespace}.svc"), database)))
    }

    /// The real nodes, if any were asked for.
    #[must_use]
    pub fn real_nodes(&self) -> Option<&RealNodes> {
        self.running.real_nodes.as_ref()
    }

    /// Creates an empty database, one per test for instance, and returns its address.
    ///
    /// # Errors
    /// When the cluster has no Postgres or the name is taken.
    pub async fn create_database(&self, name: &str) -> Result<String, Error> {
        Ok(self.database()?.create_database(name).await?)
    }

    /// Starts a program that belongs to the cluster, such as the operator under test: its output goes to
    /// `logs/<name>.log`, and it is killed when the returned handle is dropped or the cluster goes.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn start_process(&self, name: &str, command: Command) -> Result<Process, Error> {
        Ok(Process::start(&self.layout, name, command)?)
    }

    /// Has the logs kept when the cluster goes, in a directory below [`crate::kept_logs`].
    pub fn keep_logs(&self) {
        self.reaper.keep_logs();
    }

    pub(crate) fn database(&self) -> Result<&Postgres, Error> {
        self.running.postgres.as_ref().ok_or(Error::NoPostgres)
    }

    pub(crate) fn pki(&self) -> &Pki {
        &self.running.pki
    }

    pub(crate) fn plane(&self) -> MutexGuard<'_, ControlPlane> {
        // What it guards is a set of processes, which a panic elsewhere does not make inconsistent.
        self.running.plane.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) fn start_postgres(layout: &Layout, pod_facing: Option<Ipv4Addr>) -> Result<Postgres, Error> {
    let postgres = Postgres::start(layout, pod_facing)?;
    if let Err(error) = block_on(postgres.ready())? {
        postgres.process().check()?;
        return Err(error.into());
    }
    Ok(postgres)
}

/// Waits until the API server says that it is ready; the end of a process explains more than its silence.
async fn api_ready(plane: &mut ControlPlane, deadline: Duration) -> Result<(), Error> {
    let client = access::client(&plane.admin_kubeconfig()).await?;
    let check = || {
        let (running, client) = (plane.check(), &client);
        async move {
            match running {
                Err(ended) => Ok(Err(ended.into())),
                Ok(()) => access::is_ready(client).await.map(Ok),
            }
        }
    };
    wait::until(deadline, "the API server to be ready", check).await?
}

/// Pods are refused until their namespace has its service account.
async fn pods_may_come(plane: &mut ControlPlane) -> Result<(), Error> {
    let client = access::client(&plane.admin_kubeconfig()).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
    let check = || {
        let (running, accounts) = (plane.check(), &accounts);
        async move {
            match running {
                Err(ended) => Ok(Err(ended.into())),
                Ok(()) => accounts.get("default").await.map(|_| Ok(())),
            }
        }
    };
    wait::until(START_DEADLINE, "the default service account", check).await?
}

/// Runs a future to its end from blocking code, even if that is called from within a runtime.
fn block_on<F>(future: F) -> Result<F::Output, Error>
where
    F: Future + Send,
    F::Output: Send,
{
    thread::scope(|scope| {
        let run = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.map(|runtime| runtime.block_on(future)).map_err(Error::Prepare)
        };
        join(scope.spawn(run))
    })
}

fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
