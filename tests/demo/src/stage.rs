//! The cluster that the demo plays on, and the administrator's part of the play.
//!
//! What an administrator would type is typed: each `kubectl` line is printed before it is run.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, bail};
use clap::ValueEnum;
use crofter::names;
use crofter_test_cluster::{Cluster, NodeSpec, kept_logs, process::Process, real};
use tokio::process::Command;

use crate::example;

/// How many workers there are, and how many of them the first tenant gets.
const WORKERS: u32 = 4;
const WORKERS_OF_ACME: u32 = 3;

/// How long the operator has to finish what it is doing.
const GRACE: Duration = Duration::from_secs(15);

/// Which nodes to play on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Nodes {
    /// Real ones where this machine can run them, else simulated ones.
    Auto,
    /// Real ones: kubelet and containerd; containers run.
    Real,
    /// Simulated ones: kwok says what a kubelet would say, and no container runs.
    Kwok,
}

/// A cluster with workers, and the operator.
pub(crate) struct Stage {
    // Dropped, and so stopped, before the cluster it talks to.
    operator: Option<Process>,
    cluster: Cluster,
    workers: Vec<String>,
    /// What the workers are, and why.
    setting: String,
}

impl Stage {
    /// Brings up control plane, Postgres and nodes. Blocks: seconds when all programs are built, minutes before.
    pub(crate) fn bring_up(nodes: Nodes) -> anyhow::Result<Self> {
        let (real, setting) = choose(nodes)?;
        say(&setting);
        let count = usize::try_from(WORKERS)?;
        let cluster = Cluster::builder().real_nodes(if real { count } else { 0 }).start()?;
        let workers =
            (1..=WORKERS).map(|n| if real { format!("real-{n}") } else { format!("kwok-{n}") }).collect();
        let stage = Self { operator: None, cluster, workers, setting };
        stage.write_environment()?;
        Ok(stage)
    }

    /// What the workers are, and why.
    pub(crate) fn setting(&self) -> &str {
        &self.setting
    }

    /// From an empty cluster to two tenants that have workers: nodes, CRDs, the operator, tenants, a key, labels.
    pub(crate) async fn set_up(&mut self, operator: &Path) -> anyhow::Result<()> {
        self.add_nodes().await?;
        self.install_crds("crds").await?;
        // Where a chart would be installed; the peppers of keys are kept there.
        self.kubectl(&["create", "namespace", names::DEFAULT_NAMESPACE]).await?;
        self.start_operator(operator)?;
        self.apply_tenants().await?;
        self.apply_keys().await?;
        self.label_workers().await
    }

    /// Has the logs kept when `result` is a failure; where the operator has ended, that is the better reason for it.
    pub(crate) fn explain<T>(&mut self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        result.or_else(|error| {
            self.cluster.keep_logs();
            say(&format!("the logs are kept in {}", kept_logs().display()));
            self.check_operator().and(Err(error))
        })
    }

    /// Adds the simulated nodes, where those were chosen.
    async fn add_nodes(&self) -> anyhow::Result<()> {
        let simulated = self.workers.iter().filter(|name| name.starts_with("kwok-"));
        let specs: Vec<NodeSpec> = simulated.map(|name| NodeSpec::new(name).capacity("2", "8Gi")).collect();
        Ok(self.cluster.add_nodes(&specs).await?)
    }

    /// Installs the CRDs in `dir`.
    pub(crate) async fn install_crds(&self, dir: &str) -> anyhow::Result<()> {
        self.kubectl(&["apply", "--filename", dir]).await?;
        self.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=30s"]).await
    }

    /// Gives the workers to the tenants of the examples.
    async fn label_workers(&self) -> anyhow::Result<()> {
        let (acme, globex) = self.workers.split_at(usize::try_from(WORKERS_OF_ACME)?);
        for (tenant, workers) in [("acme", acme), ("globex", globex)] {
            let label = format!("{}={tenant}", names::NODE_TENANT);
            let mut arguments = vec!["label", "node"];
            arguments.extend(workers.iter().map(String::as_str));
            arguments.push(&label);
            self.kubectl(&arguments).await?;
        }
        Ok(())
    }

    /// Applies the example tenants and waits until their namespaces can take jobs.
    async fn apply_tenants(&self) -> anyhow::Result<()> {
        self.kubectl(&["apply", "--filename", example::TENANTS]).await?;
        self.kubectl(&["wait", "--for=condition=Ready", "tenants.crofter.io", "--all", "--timeout=60s"]).await
    }

    /// Applies the example key and waits until its Secret holds its text.
    async fn apply_keys(&self) -> anyhow::Result<()> {
        self.kubectl(&["apply", "--filename", example::KEYS]).await?;
        let all = ["--all", "--all-namespaces", "--timeout=60s"];
        self.kubectl(&[["wait", "--for=condition=Ready", "tenantapikeys"].as_slice(), &all].concat()).await
    }

    /// Applies the example jobs.
    pub(crate) async fn apply_jobs(&self) -> anyhow::Result<()> {
        for file in example::JOBS {
            self.kubectl(&["apply", "--filename", file]).await?;
        }
        Ok(())
    }

    /// Starts the operator, or the one just built in place of the one that runs.
    pub(crate) fn start_operator(&mut self, program: &Path) -> anyhow::Result<()> {
        self.stop_operator()?;
        let mut command = std::process::Command::new(program);
        command
            .arg("run")
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .env("DATABASE_URL", self.database_url()?)
            .env("CROFTER_SCENARIOS", example::project().join(example::SCENARIOS))
            // Any free ports.
            .env("CROFTER_METRICS_ADDR", "127.0.0.1:0")
            .env("CROFTER_API_ADDR", "127.0.0.1:0");
        self.operator = Some(self.cluster.start_process("operator", command)?);
        Ok(())
    }

    /// Has the operator finish what it is doing, and waits for that.
    pub(crate) fn stop_operator(&mut self) -> anyhow::Result<()> {
        self.operator.take().map_or(Ok(()), |mut operator| Ok(operator.stop(GRACE)?))
    }

    /// An error with the end of its log when the operator has ended by itself.
    pub(crate) fn check_operator(&mut self) -> anyhow::Result<()> {
        self.operator.as_mut().map_or(Ok(()), |operator| Ok(operator.check()?))
    }

    /// Where the operator writes its log.
    pub(crate) fn operator_log(&self) -> PathBuf {
        self.cluster.dir().join("logs/operator.log")
    }

    /// The cluster's directory, which goes with it.
    pub(crate) fn dir(&self) -> &Path {
        self.cluster.dir()
    }

    /// A client with an administrator's rights.
    pub(crate) async fn client(&self) -> anyhow::Result<kube::Client> {
        Ok(self.cluster.client().await?)
    }

    /// The address of the database.
    pub(crate) fn database_url(&self) -> anyhow::Result<&str> {
        self.cluster.database_url().context("the cluster has no Postgres")
    }

    /// What to type in another shell to get there, and what to try then.
    pub(crate) fn invitation(&self) -> Vec<String> {
        vec![
            format!("KUBECONFIG={}", self.cluster.kubeconfig().display()),
            format!("Ctrl-C ends it. In another shell: . {}; then try", environment_file().display()),
            "  kubectl get tenants,tjob --all-namespaces --output=wide".to_owned(),
            "  kubectl --namespace tenant-acme describe tjob nightly-report".to_owned(),
            "  psql $DATABASE_URL --command 'SELECT * FROM usage_hourly'".to_owned(),
        ]
    }

    fn write_environment(&self) -> anyhow::Result<()> {
        let path = environment_file();
        let programs = std::env::join_paths(self.cluster.bin_dirs())?;
        let text = format!(
            "export KUBECONFIG={}\nexport DATABASE_URL={}\nexport PATH={}:$PATH\n",
            self.cluster.kubeconfig().display(),
            self.database_url()?,
            programs.to_string_lossy(),
        );
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, text))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Runs kubectl as the administrator, after printing the line.
    async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let line = format!("kubectl {}", arguments.join(" "));
        say(&format!("$ {line}"));
        let program =
            self.cluster.bin_dirs().iter().map(|dir| dir.join("kubectl")).find(|path| path.exists());
        let status = Command::new(program.unwrap_or_else(|| "kubectl".into()))
            .args(arguments)
            .env("KUBECONFIG", self.cluster.kubeconfig())
            .current_dir(example::project())
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .status()
            .await
            .with_context(|| format!("running `{line}`"))?;
        if status.success() { Ok(()) } else { bail!("`{line}` failed ({status})") }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // The cluster goes in any case, and the operator with it; this is its chance to say goodbye.
        drop(self.stop_operator());
    }
}

/// Whether to use real nodes, and the sentence that says so.
fn choose(nodes: Nodes) -> anyhow::Result<(bool, String)> {
    let real =
        |why: &str| Ok((true, format!("{WORKERS} real nodes (kubelet and containerd; containers run){why}")));
    let simulated =
        |why: &str| Ok((false, format!("{WORKERS} nodes simulated by kwok (no container runs){why}")));
    match (nodes, real::available()) {
        (Nodes::Kwok, _) => simulated(", as asked"),
        (Nodes::Auto | Nodes::Real, Ok(())) => real(""),
        (Nodes::Auto, Err(missing)) => simulated(&format!("; real ones can't run here: {}", list(&missing))),
        (Nodes::Real, Err(missing)) => bail!("real nodes can't run here: {}", list(&missing)),
    }
}

fn list(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// Lines for a shell: the way to the cluster that was brought up last.
fn environment_file() -> PathBuf {
    example::project().join("target/crofter.env")
}

/// The program that cargo has built, next to this one.
pub(crate) fn built_operator() -> anyhow::Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("crofter");
    if !program.exists() {
        bail!("{} is not there: `cargo build --bin crofter`, or use `make up`", program.display());
    }
    Ok(program)
}

/// Says what is going on, where it does not get into the way of what is printed.
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}
