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
use crofter_test_cluster::{
    Cluster, NodeSpec,
    image::{self, Archive},
    kept_logs,
    process::Process,
    real,
};
use serde_json::json;
use tokio::process::Command;

use crate::example;

/// How many workers there are, and how many of them the first tenant gets.
const WORKERS: u32 = 4;
const WORKERS_OF_ACME: u32 = 3;

/// The repository of the image that the demo makes.
const REPOSITORY: &str = "crofter.test/crofter";
/// The address of a database in the operator's namespace, as docs/install.md names it.
const DATABASE_SECRET: &str = "crofter-database";

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

/// Where the operator runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a pod that the chart makes, where there are real nodes; else as a process.
    Pod,
    /// As a process of this machine, which is replaced soonest.
    Process,
}

/// A cluster with workers, and the operator.
pub(crate) struct Stage {
    // Dropped, and so stopped, before the cluster it talks to. Where the operator runs in a pod, this follows its log.
    operator: Option<Process>,
    cluster: Cluster,
    workers: Vec<String>,
    /// The image of the operator that the nodes have, where it runs in a pod.
    image: Option<Archive>,
    /// What the workers are, and why.
    setting: String,
}

impl Stage {
    /// Brings up control plane, Postgres and nodes. Blocks: seconds when all programs are built, minutes before.
    pub(crate) fn bring_up(nodes: Nodes, operator: &Path, place: Place) -> anyhow::Result<Self> {
        let (real, setting) = choose(nodes)?;
        say(&setting);
        let in_pod = real && place == Place::Pod;
        // The operator's pod has a node that is no tenant's.
        let count = usize::try_from(WORKERS)? + usize::from(in_pod);
        let cluster = Cluster::builder().real_nodes(if real { count } else { 0 }).start()?;
        let workers =
            (1..=WORKERS).map(|n| if real { format!("real-{n}") } else { format!("kwok-{n}") }).collect();
        let image = in_pod.then(|| import(&cluster, operator)).transpose()?;
        let stage = Self { operator: None, cluster, workers, image, setting };
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
        // Where the chart is installed; the peppers of keys are kept there.
        self.kubectl(&["create", "namespace", names::DEFAULT_NAMESPACE]).await?;
        if let Some(image) = self.image.clone() {
            self.install_chart(&image).await?;
        } else {
            self.install_crds("crds").await?;
            self.start_operator(operator)?;
        }
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

    /// Installs the chart as docs/install.md says, with the image by its digest, and waits until its pods are ready.
    async fn install_chart(&mut self, image: &Archive) -> anyhow::Result<()> {
        let (postgres, url) = self.cluster.postgres_service(names::DEFAULT_NAMESPACE, "postgres")?;
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": { "name": DATABASE_SECRET, "namespace": names::DEFAULT_NAMESPACE },
            "stringData": { "url": url },
        });
        // As files: the address has a password in it.
        for (name, object) in [("postgres.json", postgres), ("database.json", secret)] {
            let file = self.dir().join(name);
            fs::write(&file, object.to_string()).with_context(|| format!("writing {}", file.display()))?;
            self.kubectl(&["apply", "--filename", &file.display().to_string()]).await?;
        }
        let repository = format!("image.repository={}", image.repository);
        let digest = format!("image.digest={}", image.digest);
        let database = format!("database.existingSecret={DATABASE_SECRET}");
        let node = format!("nodeSelector.kubernetes\\.io/hostname=real-{}", WORKERS + 1);
        let mut install =
            vec!["install", "crofter", "charts/crofter", "--namespace", names::DEFAULT_NAMESPACE];
        install.extend(["--values", example::SCENARIOS, "--wait", "--timeout", "120s"]);
        install.extend(
            [&repository, &digest, &database, &node].into_iter().flat_map(|value| ["--set", value.as_str()]),
        );
        self.run("helm", &install).await?;

        let mut log = std::process::Command::new(self.program("kubectl"));
        log.args([
            "logs",
            "--namespace",
            names::DEFAULT_NAMESPACE,
            "--selector",
            "app.kubernetes.io/name=crofter",
        ]);
        log.args(["--follow", "--tail=-1"]);
        log.env("KUBECONFIG", self.cluster.kubeconfig());
        self.operator = Some(self.cluster.start_process("operator", log)?);
        Ok(())
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
        let mut lines = vec![
            format!("KUBECONFIG={}", self.cluster.kubeconfig().display()),
            format!("Ctrl-C ends it. In another shell: . {}; then try", environment_file().display()),
            "  kubectl get tenants,tjob --all-namespaces --output=wide".to_owned(),
            "  kubectl --namespace tenant-acme describe tjob nightly-report".to_owned(),
            "  psql $DATABASE_URL --command 'SELECT * FROM usage_hourly'".to_owned(),
        ];
        if self.image.is_some() {
            lines
                .push("  kubectl --namespace crofter-system port-forward service/crofter 8080:80".to_owned());
        }
        lines
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

    async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<()> {
        self.run("kubectl", arguments).await
    }

    /// A program of the cluster.
    fn program(&self, name: &str) -> PathBuf {
        let paths = self.cluster.bin_dirs().iter().map(|dir| dir.join(name));
        paths.into_iter().find(|path| path.exists()).unwrap_or_else(|| name.into())
    }

    /// Runs a program of the cluster as the administrator, after printing the line.
    async fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<()> {
        let line = format!("{program} {}", arguments.join(" "));
        say(&format!("$ {line}"));
        let status = Command::new(self.program(program))
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

/// Makes the image of the operator, and the nodes have it.
fn import(cluster: &Cluster, operator: &Path) -> anyhow::Result<Archive> {
    say("packing the operator into an image");
    let reference = format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION"));
    let archive = image::development_build(&reference, operator, cluster.dir())?;
    cluster.real_nodes().context("the cluster has no real nodes")?.import_image(&archive)?;
    Ok(archive)
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
