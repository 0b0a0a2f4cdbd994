//! Crofter on real nodes: what its jobs are to a kubelet and a container runtime, which a simulated node only claims.
//!
//! The operator is installed as an administrator does it: from an image, by the chart, on a node of no tenant
//! worker. Two tenants have one real worker each. One cluster for all tests. Where the machine can't run real nodes
//! they say why and do nothing, unless `CROFTER_REQUIRE_REAL_NODES` is set.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that can't go on fails")]

#[path = "../common/mod.rs"]
#[expect(dead_code, unused_imports, reason = "other test binaries use the rest")]
mod common;

mod check;
mod cli;
mod endings;
mod logs;
mod outage;
mod surroundings;
mod waiting;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::LazyLock,
};

use crofter::names;
use crofter_test_cluster::{Cluster, image, process::Process, real, wait};
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::RwLock;

use common::{Verbs, WAIT_TIMEOUT, World, namespace, world::on_a_runtime};

/// The node of the operator; the others are the tenants' workers.
const SYSTEM_NODE: &str = "real-1";
/// The tenants and their workers. Beta's node fails in a test.
const WORKERS: [(&str, &str); 2] = [("alpha", "real-2"), ("beta", "real-3")];

const IMAGE: &str = "crofter.test/crofter";

/// Held for writing while a node fails, for reading by all that would notice: a kubelet that is killed takes along the
/// containers that it is just making.
static NODE_LOCK: RwLock<()> = RwLock::const_new(());

/// The cluster of this test binary; `None` where there can't be one. It goes when the process does.
fn world() -> Option<&'static World> {
    // Lazy, so that a start that failed is not tried again by each test.
    static WORLD: LazyLock<Option<(World, Process)>> =
        LazyLock::new(|| real::available_to_tests().then(start));
    WORLD.as_ref().map(|(world, _)| world)
}

/// A cluster with Crofter and the tenants, and the process that keeps the operator's log with the cluster's.
fn start() -> (World, Process) {
    let cluster = Cluster::builder().postgres(false).real_nodes(3).start().expect("starting the cluster");
    import_operator(&cluster);
    let world = World::on(cluster);
    let log = on_a_runtime(async {
        let log = install(&world.cluster).await;
        let verbs = world.verbs().await;
        for (tenant, node) in WORKERS {
            verbs.tenant(tenant, json!({"plan": "basic"})).await;
            let label = json!({"metadata": {"labels": {names::NODE_TENANT: tenant}}});
            verbs.all::<Node>().patch(node, &PatchParams::default(), &Patch::Merge(label)).await.unwrap();
            verbs.until_admitted(node, Some(tenant)).await;
        }
        log
    });
    (world, log)
}

/// Packs the operator as it was built for these tests, and brings it to the nodes.
fn import_operator(cluster: &Cluster) {
    let reference = format!("{IMAGE}:{}", env!("CARGO_PKG_VERSION"));
    let binary = Path::new(env!("CARGO_BIN_EXE_crofter"));
    let archive = image::development_build(&reference, binary, cluster.dir()).unwrap();
    cluster.real_nodes().unwrap().import_image(&archive).unwrap();
}

/// Installs the chart; Helm waits until the Deployment is available.
async fn install(cluster: &Cluster) -> Process {
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/crofter");
    let values = [
        format!("image.repository={IMAGE}"),
        // It was imported into the nodes, and no registry has it.
        "image.pullPolicy=Never".to_owned(),
        // Its log is the one that is followed.
        "replicas=1".to_owned(),
        format!("nodeSelector.kubernetes\\.io/hostname={SYSTEM_NODE}"),
        "extraEnv[0].name=RUST_LOG,extraEnv[0].value=info\\,crofter=debug".to_owned(),
    ];
    let mut helm = vec!["install", "crofter", chart.to_str().unwrap(), "--namespace", "crofter-system"];
    helm.extend(["--create-namespace", "--wait", "--timeout", "300s"]);
    helm.extend(values.iter().flat_map(|value| ["--set", value]));
    let installed = cluster.helm(&helm).await.unwrap();
    let mut follow = Command::new(kubectl(cluster));
    follow.args(["logs", "--namespace", "crofter-system", "deployment/crofter", "--follow"]);
    follow.env("KUBECONFIG", cluster.kubeconfig());
    let log = cluster.start_process("crofter", follow).unwrap();
    succeeded(&installed);
    log
}

fn kubectl(cluster: &Cluster) -> PathBuf {
    cluster.bin_dirs().iter().map(|dir| dir.join("kubectl")).find(|path| path.exists()).unwrap()
}

/// Forwards a port of the machine to the REST API, and waits until it is there. kubectl ends when its way to the pod
/// breaks, and is then started again; it is killed with the shell that does so.
async fn forward(cluster: &Cluster, name: &str, port: u16) -> Process {
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"while :; do setpriv --pdeathsig KILL "$@"; sleep 1; done"#, "forward"]);
    shell.arg(kubectl(cluster)).args(["port-forward", "--namespace", "crofter-system", "deployment/crofter"]);
    shell.arg(format!("{port}:8080")).env("KUBECONFIG", cluster.kubeconfig());
    let process = cluster.start_process(name, shell).unwrap();
    let connect = async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.map(drop);
    wait::until(WAIT_TIMEOUT, "the forwarded port", connect).await.unwrap();
    process
}

/// What a command printed when it succeeded; the test ends when it did not.
fn succeeded(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}\n{}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// A job of one shell script.
fn script(text: &str) -> Value {
    json!({"command": ["sh", "-c", text]})
}

/// The same with more fields.
fn script_with(text: &str, more: Value) -> Value {
    let mut spec = script(text);
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

impl Verbs<'_> {
    /// What a job has printed, by `kubectl logs`.
    async fn log(&self, tenant: &str, job: &str) -> Result<String, String> {
        let status = self.jobs(tenant).get(job).await.map_err(|error| error.to_string())?.status;
        let pod = status.and_then(|s| s.pod).ok_or("no pod yet")?;
        let output = self.world.cluster.kubectl(["logs", "-n", &namespace(tenant), &pod]).await.unwrap();
        if output.status.success() {
            Ok(succeeded(&output))
        } else {
            Err(String::from_utf8_lossy(&output.stderr).into_owned())
        }
    }

    /// Waits until a job has printed a line.
    async fn until_printed(&self, tenant: &str, job: &str, line: &str) {
        wait::until(WAIT_TIMEOUT, &format!("{tenant}/{job} to print {line}"), || async {
            let log = self.log(tenant, job).await?;
            if log.lines().any(|l| l == line) { Ok(()) } else { Err(log) }
        })
        .await
        .unwrap();
    }
}
