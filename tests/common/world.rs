//! The cluster of a test binary, and the operator that runs against it.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use crofter::{api_types::crd, names};
use crofter_test_cluster::{
    Builder, Cluster,
    process::{self, Process, Signal},
    wait,
};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Namespace},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, PostParams},
    runtime::wait::{await_condition, conditions},
};
use serde_json::json;

use super::{Verbs, WAIT_TIMEOUT};

/// Time between two checks of the operator.
const SUPERVISION: Duration = Duration::from_millis(200);

/// The operator, and what its supervisor must know of it.
#[derive(Default)]
struct Operator {
    process: Option<Process>,
    /// Length of its log when the process was started: all starts write to one log.
    log_before: usize,
    /// Whether the supervisor has started it again since a test last asked.
    restarted: bool,
}

impl Operator {
    /// Starts it again where it has ended because it lost the Lease. Nothing else is mended: a test must fail by that.
    fn restart_if_deposed(&mut self) {
        let Some(process) = &mut self.process else { return };
        let Err(process::Error::Ended { status, .. }) = process.check() else { return };
        let log = std::fs::read(process.log()).unwrap_or_default();
        let its = String::from_utf8_lossy(log.get(self.log_before..).unwrap_or_default());
        if status.code() == Some(1) && its.contains("this replica has lost the Lease") {
            eprintln!("the operator has lost the Lease: it is started again");
            process.restart().expect("starting the operator again");
            self.log_before = log.len();
            self.restarted = true;
        }
    }
}

/// Supervises the operator for as long as it has a `World`, as a kubelet would: one that leads and can't renew its
/// Lease for 10 s ends by design, and a busy machine may well stall for so long. What a test kills is not there to be
/// supervised, and the replicas of the tests of leadership are not supervised at all.
fn supervise(operator: Weak<Mutex<Operator>>) {
    std::thread::spawn(move || {
        while let Some(operator) = operator.upgrade() {
            operator.lock().unwrap_or_else(PoisonError::into_inner).restart_if_deposed();
            drop(operator);
            std::thread::sleep(SUPERVISION);
        }
    });
}

/// A cluster with Crofter's CRDs, and the operator.
pub struct World {
    pub cluster: Cluster,
    program: Mutex<PathBuf>,
    operator: Arc<Mutex<Operator>>,
    operator_kubeconfig: Mutex<PathBuf>,
    operator_flags: Mutex<Vec<String>>,
    operator_logs: Mutex<Option<String>>,
    pub database_url: Option<String>,
    metrics_port: u16,
    pub api_port: u16,
}

impl World {
    /// Starts a cluster and the operator. Blocks.
    pub fn start(builder: Builder) -> Self {
        let world = Self::without_operator(builder);
        world.start_operator();
        on_a_runtime(world.until_ready());
        world
    }

    /// Starts a cluster with the CRDs and the operator's namespace. Where it has no Postgres, the operator gets no
    /// database. Blocks.
    pub fn without_operator(builder: Builder) -> Self {
        let cluster = builder.start().expect("starting the cluster");
        on_a_runtime(async {
            let client = cluster.client().await.unwrap();
            for (_, crd) in crd::all() {
                let api: Api<CustomResourceDefinition> = Api::all(client.clone());
                api.create(&PostParams::default(), &crd).await.unwrap();
                await_condition(api, &crd.name_any(), conditions::is_crd_established()).await.unwrap();
            }
            let home: Namespace =
                serde_json::from_value(json!({"metadata": {"name": names::DEFAULT_NAMESPACE}})).unwrap();
            Api::all(client).create(&PostParams::default(), &home).await.unwrap();
        });
        Self::on(cluster)
    }

    /// A cluster with the CRDs that was started elsewhere.
    pub fn on(cluster: Cluster) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (metrics, api) = (free(), free());
        let [metrics_port, api_port] = [metrics, api].map(|socket| socket.local_addr().unwrap().port());
        let database_url = cluster.database_url().map(str::to_owned);
        let operator_kubeconfig = Mutex::new(cluster.kubeconfig().to_owned());
        let operator = Arc::default();
        supervise(Arc::downgrade(&operator));
        std::fs::write(catalogue(&cluster), "scenarios: {}").unwrap();
        Self {
            cluster,
            program: Mutex::new(env!("CARGO_BIN_EXE_crofter").into()),
            operator,
            operator_kubeconfig,
            operator_flags: Mutex::default(),
            operator_logs: Mutex::default(),
            database_url,
            metrics_port,
            api_port,
        }
    }

    /// Replaces the catalogue of scenarios. The operator reads it every 10 s.
    pub fn write_scenarios(&self, yaml: &str) {
        // As a ConfigMap changes: atomically.
        let whole = catalogue(&self.cluster).with_extension("new");
        std::fs::write(&whole, yaml).unwrap();
        std::fs::rename(&whole, catalogue(&self.cluster)).unwrap();
    }

    /// Lets the operator use another identity from its next start on.
    pub fn operator_as(&self, kubeconfig: &Path) {
        *self.operator_kubeconfig.lock().unwrap() = kubeconfig.to_owned();
    }

    /// Lets the operator be another program from its next start on.
    pub fn operator_program(&self, program: &Path) {
        *self.program.lock().unwrap() = program.to_owned();
    }

    /// Gives the operator flags from its next start on.
    pub fn operator_flags(&self, flags: &[&str]) {
        *self.operator_flags.lock().unwrap() = flags.iter().map(|&flag| flag.to_owned()).collect();
    }

    /// Lets the operator log this from its next start on; `None` for what it usually does.
    pub fn operator_logs(&self, filter: Option<&str>) {
        *self.operator_logs.lock().unwrap() = filter.map(str::to_owned);
    }

    /// Starts the operator; it is not ready yet. The one before it has ended, so its Lease is deleted, as an administrator
    /// would who knows that: else each start would wait until the Lease expires.
    pub fn start_operator(&self) {
        on_a_runtime(self.delete_lease());
        let kubeconfig = self.operator_kubeconfig.lock().unwrap().clone();
        let process = self.start_replica("crofter", &kubeconfig, self.metrics_port, self.api_port, |_| ());
        // It loses nothing within its first moments.
        let log_before = std::fs::read(process.log()).unwrap().len();
        *self.operator.lock().unwrap() = Operator { process: Some(process), log_before, restarted: false };
    }

    /// Deletes the Lease, where it exists and the API server answers.
    async fn delete_lease(&self) {
        let delete = async {
            let leases: Api<Lease> =
                Api::namespaced(self.cluster.client().await.ok()?, names::DEFAULT_NAMESPACE);
            leases.delete(names::LEASE, &DeleteParams::default()).await.ok()
        };
        drop(tokio::time::timeout(Duration::from_secs(5), delete).await);
    }

    /// Starts one replica of the operator, whose pod has this name, on these ports. `prepare` changes its command.
    pub fn start_replica(
        &self,
        name: &str,
        kubeconfig: &Path,
        metrics_port: u16,
        api_port: u16,
        prepare: impl FnOnce(&mut Command),
    ) -> Process {
        let mut command = Command::new(&*self.program.lock().unwrap());
        command.arg("run").arg("--metrics-addr").arg(format!("127.0.0.1:{metrics_port}"));
        command.arg("--api-addr").arg(format!("127.0.0.1:{api_port}"));
        command.args(&*self.operator_flags.lock().unwrap());
        command.env("KUBECONFIG", kubeconfig).env("POD_NAME", name);
        command.env("CROFTER_SCENARIOS", catalogue(&self.cluster));
        let logs = self.operator_logs.lock().unwrap().clone();
        let logs = logs.or_else(|| std::env::var("RUST_LOG").ok());
        command.env("RUST_LOG", logs.as_deref().unwrap_or("info,crofter=debug"));
        match &self.database_url {
            Some(url) => command.env("DATABASE_URL", url),
            None => command.env_remove("DATABASE_URL"),
        };
        prepare(&mut command);
        self.cluster.start_process(name, command).expect("starting the operator")
    }

    /// Whether the operator has ended because it lost the Lease, and was started again, since a test asked or started
    /// it. It must not have ended in another way.
    pub fn restart_if_deposed(&self) -> bool {
        let (state, restarted) = {
            let mut operator = self.operator.lock().unwrap();
            operator.restart_if_deposed();
            let state = operator.process.as_mut().expect("no operator runs").check();
            (state, std::mem::take(&mut operator.restarted))
        };
        state.unwrap_or_else(|ended| panic!("{ended}"));
        restarted
    }

    /// Kills the operator (SIGKILL).
    pub fn kill_operator(&self) {
        let process = self.operator.lock().unwrap().process.take();
        if let Some(mut process) = process {
            process.kill().unwrap();
        }
    }

    /// Asks the operator to stop (SIGTERM), and says how long that took; it must end with code 0.
    pub async fn stop_operator(&self) -> Duration {
        let process = self.operator.lock().unwrap().process.take();
        let mut process = process.expect("no operator runs");
        let asked = tokio::time::Instant::now();
        process.signal(Signal::TERM).unwrap();
        let stopping = Mutex::new(process);
        let status = wait::until(WAIT_TIMEOUT, "the operator's end", || async {
            match stopping.lock().unwrap().check() {
                Err(process::Error::Ended { status, .. }) => Ok(status),
                other => Err(other.map_err(|error| error.to_string())),
            }
        })
        .await
        .unwrap();
        assert!(status.success(), "the operator ended with {status}");
        asked.elapsed()
    }

    /// The process id of the operator, which must be alive.
    pub fn operator_pid(&self) -> u32 {
        let mut operator = self.operator.lock().unwrap();
        operator.restart_if_deposed();
        let process = operator.process.as_mut().expect("no operator runs");
        process.check().unwrap();
        process.pid()
    }

    /// What the operators of this cluster have logged so far.
    pub fn operator_log(&self) -> String {
        let operator = self.operator.lock().unwrap();
        let log = operator.process.as_ref().expect("no operator runs").log().to_owned();
        String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned()
    }

    /// The last lines that the operator has logged, if it runs.
    pub(super) fn log_tail(&self) -> Option<String> {
        const LINES: usize = 40;
        let operator = self.operator.lock().unwrap_or_else(PoisonError::into_inner);
        let log = std::fs::read(operator.process.as_ref()?.log()).ok()?;
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        Some(lines[lines.len().saturating_sub(LINES)..].join("\n"))
    }

    /// Waits until the operator has logged `words` after the first `since` bytes of its log.
    pub async fn until_logged(&self, since: usize, words: &str) {
        wait::until(WAIT_TIMEOUT, &format!("`{words}` in the operator's log"), || async {
            let log = self.operator_log();
            let new = log.get(since..).unwrap_or_default();
            if new.contains(words) { Ok(()) } else { Err(new.lines().last().map(str::to_owned)) }
        })
        .await
        .unwrap();
    }

    /// What the operator answers on its own port.
    pub async fn ask(&self, path: &str) -> Result<String, String> {
        ask(self.metrics_port, path).await
    }

    /// The database that the operator mirrors into.
    pub fn database_url(&self) -> Option<&str> {
        self.database_url.as_deref()
    }

    /// Waits until the operator says that it is ready and leads.
    pub async fn until_ready(&self) {
        let leads = async || {
            let state = self.ask("/readyz?verbose").await?;
            let leads = state.contains("this replica leads, and its scheduler has decided");
            if leads { Ok(()) } else { Err(state) }
        };
        wait::until(WAIT_TIMEOUT, "the operator to be ready", leads).await.unwrap();
    }

    /// The verbs, with a client of the calling test's runtime.
    pub async fn verbs(&self) -> Verbs<'_> {
        let (client, objects) = self.cluster.client_with_report().await.unwrap();
        Verbs { world: self, client, _objects: objects }
    }
}

/// What a replica of the operator answers on this port for health and metrics.
pub async fn ask(port: u16, path: &str) -> Result<String, String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| e.to_string())?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: x\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.map_err(|e| e.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("half an answer")?;
    if head.contains(" 200 ") { Ok(body.to_owned()) } else { Err(answer.clone()) }
}

/// The file of scenarios.
fn catalogue(cluster: &Cluster) -> PathBuf {
    cluster.dir().join("scenarios.yaml")
}

/// Runs `work` to its end on a runtime of its own, also from within another one.
pub fn on_a_runtime<T: Send>(work: impl Future<Output = T> + Send) -> T {
    std::thread::scope(|scope| {
        scope.spawn(|| tokio::runtime::Runtime::new().unwrap().block_on(work)).join().unwrap()
    })
}
