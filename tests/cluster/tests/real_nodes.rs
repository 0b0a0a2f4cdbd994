//! Containers on real nodes: what a kubelet does with them, which a simulated node only claims.
//!
//! All tests share one cluster with two nodes. Where the machine cannot run real nodes they say why and do nothing,
//! unless `CROFTER_REQUIRE_REAL_NODES` is set.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use crofter_test_cluster::{
    Cluster,
    image::Image,
    real::{self, RealNodes},
    wait,
};
use k8s_openapi::api::core::v1::{ContainerStateTerminated, Node, Pod, Service};
use kube::{
    Api, Client,
    api::{DeleteParams, LogParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::sync::RwLock;

/// Far more than anything here takes, for machines that build something meanwhile.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Held for writing while a node fails, for reading by all that would notice: a kubelet that is killed takes along the
/// containers that it is just making.
static NODE_LOCK: RwLock<()> = RwLock::const_new(());

fn cluster() -> Option<(&'static Cluster, &'static RealNodes)> {
    static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
    let start = || {
        real::available_to_tests().then(|| Cluster::builder().postgres(false).real_nodes(2).start().unwrap())
    };
    let cluster = CLUSTER.get_or_init(start).as_ref()?;
    Some((cluster, cluster.real_nodes().unwrap()))
}

/// A pod as Crofter makes them: not root, no token, requests as limits, never restarted.
fn pod(name: &str, script: &str) -> Value {
    let resources = json!({ "cpu": "100m", "memory": "32Mi" });
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 2,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "job",
                "image": "crofter.test/busybox:1",
                "command": ["sh", "-c", script],
                "resources": { "requests": resources, "limits": resources },
                "securityContext": { "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } },
            }],
        },
    })
}

fn with(mut pod: Value, pointer: &str, value: Value) -> Value {
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    pod.pointer_mut(parent).unwrap()[field] = value;
    pod
}

struct Pods {
    client: Client,
    api: Api<Pod>,
}

impl Pods {
    async fn of(cluster: &Cluster) -> Self {
        let client = cluster.client().await.unwrap();
        Self { api: Api::namespaced(client.clone(), "default"), client }
    }

    async fn create(&self, pod: Value) -> String {
        let pod: Pod = serde_json::from_value(pod).unwrap();
        self.api.create(&PostParams::default(), &pod).await.unwrap().metadata.name.unwrap()
    }

    async fn until(&self, name: &str, what: &str, holds: impl Fn(&Pod) -> bool) -> Pod {
        let check = async || {
            let pod = self.api.get(name).await.map_err(|error| error.to_string())?;
            if holds(&pod) { Ok(pod) } else { Err(format!("{:?}", pod.status)) }
        };
        wait::until(WAIT_TIMEOUT, &format!("pod {name} {what}"), check).await.unwrap()
    }

    async fn running(&self, name: &str) -> Pod {
        self.until(name, "runs", |pod| phase(pod) == "Running").await
    }

    async fn ended(&self, name: &str) -> Pod {
        self.until(name, "has ended", |pod| ["Succeeded", "Failed"].contains(&phase(pod))).await
    }

    async fn run(&self, pod: Value) -> Pod {
        let name = self.create(pod).await;
        self.ended(&name).await
    }

    async fn log(&self, name: &str) -> String {
        self.api.logs(name, &LogParams::default()).await.unwrap()
    }

    /// Deletes a pod that a finalizer keeps visible until its end has been seen, and returns how it ended.
    async fn delete(&self, name: &str) -> ContainerStateTerminated {
        self.api.delete(name, &DeleteParams::default()).await.unwrap();
        let pod = self.until(name, "has stopped", |pod| terminated(pod).is_some()).await;
        let released = json!({ "metadata": { "finalizers": null } });
        self.api.patch(name, &PatchParams::default(), &Patch::Merge(released)).await.unwrap();
        terminated(&pod).unwrap().clone()
    }
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let container = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    container.state.as_ref()?.terminated.as_ref()
}

fn exit_code(pod: &Pod) -> i32 {
    terminated(pod).unwrap().exit_code
}

fn address(pod: &Pod) -> &str {
    pod.status.as_ref().unwrap().pod_ip.as_deref().unwrap()
}

#[tokio::test]
async fn output_and_exit_code_arrive() {
    let Some((cluster, _)) = cluster() else { return };
    let _shared = NODE_LOCK.read().await;
    let pods = Pods::of(cluster).await;
    let shaped =
        json!({ "kubernetes.io/ingress-bandwidth": "100M", "kubernetes.io/egress-bandwidth": "100M" });
    let failing = with(pod("exit-7", "id -u; echo to stderr >&2; exit 7"), "/metadata/annotations", shaped);
    let ended = pods.run(failing).await;
    assert_eq!((phase(&ended), exit_code(&ended)), ("Failed", 7));
    // Output and errors come through two pipes, in no order.
    let log = pods.log("exit-7").await;
    let lines: std::collections::BTreeSet<&str> = log.lines().collect();
    assert_eq!(lines, ["65532", "to stderr"].into());
    let ended = pods.run(pod("exit-0", "true")).await;
    assert_eq!((phase(&ended), exit_code(&ended)), ("Succeeded", 0));
}

#[tokio::test]
async fn memory_beyond_the_limit_is_an_oom_kill() {
    let Some((cluster, _)) = cluster() else { return };
    let _shared = NODE_LOCK.read().await;
    let ended = Pods::of(cluster).await.run(pod("oom", "tail /dev/zero")).await;
    assert_eq!(terminated(&ended).unwrap().reason.as_deref(), Some("OOMKilled"));
    assert_eq!(exit_code(&ended), 137);
}

#[tokio::test]
async fn a_deadline_ends_a_pod() {
    let Some((cluster, _)) = cluster() else { return };
    let _shared = NODE_LOCK.read().await;
    let endless = with(pod("deadline", "exec sleep 1000"), "/spec/activeDeadlineSeconds", json!(2));
    let ended = Pods::of(cluster).await.run(endless).await;
    assert_eq!(phase(&ended), "Failed");
    assert_eq!(ended.status.unwrap().reason.as_deref(), Some("DeadlineExceeded"));
}

#[tokio::test]
async fn a_deleted_pod_gets_sigterm_and_after_its_grace_sigkill() {
    let Some((cluster, _)) = cluster() else { return };
    let _shared = NODE_LOCK.read().await;
    let pods = Pods::of(cluster).await;
    let kept = |pod| with(pod, "/metadata/finalizers", json!(["crofter.test/seen"]));
    // Ready when its trap is: a signal before that would be the shell's own end.
    let ready = |pod| {
        let probe = json!({ "exec": { "command": ["test", "-e", "/tmp/ready"] }, "periodSeconds": 1 });
        with(pod, "/spec/containers/0/readinessProbe", probe)
    };
    let wait = "touch /tmp/ready; while :; do sleep 0.1; done";
    let obeys = ready(kept(pod("obeys", &format!("trap 'exit 42' TERM; {wait}"))));
    let ignores = ready(kept(pod("ignores", &format!("trap '' TERM; {wait}"))));
    for script in [&obeys, &ignores] {
        pods.create(script.clone()).await;
    }
    for (name, code) in [("obeys", 42), ("ignores", 137)] {
        pods.until(name, "is ready", |pod| {
            let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
            statuses.is_some_and(|statuses| statuses.iter().all(|status| status.ready))
        })
        .await;
        assert_eq!(pods.delete(name).await.exit_code, code, "{name}");
    }
}

#[tokio::test]
async fn pods_reach_each_other_by_address_service_and_name() {
    let Some((cluster, nodes)) = cluster() else { return };
    let _shared = NODE_LOCK.read().await;
    let pods = Pods::of(cluster).await;
    let [first, second] = nodes.names().collect::<Vec<_>>()[..] else { panic!("two nodes") };
    let server = "echo found >/tmp/index.html; exec httpd -f -p 8080 -h /tmp";
    let server = with(pod("server", server), "/spec/nodeName", json!(first));
    pods.create(with(server, "/metadata/labels", json!({ "app": "server" }))).await;
    let server = pods.running("server").await;
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "server" },
        "spec": { "selector": { "app": "server" }, "ports": [{ "port": 80, "targetPort": 8080 }] },
    });
    let services: Api<Service> = Api::namespaced(pods.client.clone(), "default");
    services.create(&PostParams::default(), &serde_json::from_value(service).unwrap()).await.unwrap();
    // The proxies learn of the service a moment later.
    let script = format!(
        "wget -qO- http://{}:8080/; until wget -qO- http://server/; do sleep 0.2; done; \
         nc -w 5 kubernetes.default.svc 443 </dev/null && echo API",
        address(&server)
    );
    let client = with(pod("client", &script), "/spec/nodeName", json!(second));
    let client = pods.run(with(client, "/spec/activeDeadlineSeconds", json!(30))).await;
    let log = pods.log("client").await;
    assert_eq!(exit_code(&client), 0, "{log}");
    assert!(log.starts_with("found\n") && log.ends_with("found\nAPI\n"), "{log}");
}

#[tokio::test]
async fn an_image_made_here_runs_on_every_node() {
    let Some((cluster, nodes)) = cluster() else { return };
    let _shared = NODE_LOCK.read().await;
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("image.tar");
    // Any dynamic program will do.
    let image = Image::new("crofter.test/own:1").program("usr/bin/greet", Path::new("/usr/bin/env")).unwrap();
    let written = image.text("etc/greeting", "hello").write(&archive).unwrap();
    nodes.import_image(&written).unwrap();
    let pods = Pods::of(cluster).await;
    // By its tag and by its digest.
    let references = ["crofter.test/own:1".to_owned(), format!("crofter.test/own@{}", written.digest)];
    for (number, reference) in references.iter().enumerate() {
        for node in nodes.names() {
            let name = format!("own-{number}-{node}");
            let pod = with(pod(&name, ""), "/spec/containers/0/image", json!(reference));
            let pod = with(pod, "/spec/containers/0/command", Value::Null);
            let pod = with(pod, "/spec/containers/0/args", json!(["GREETING=hello"]));
            let ended = pods.run(with(pod, "/spec/nodeName", json!(node))).await;
            assert_eq!(exit_code(&ended), 0);
            assert!(pods.log(&name).await.contains("GREETING=hello\n"));
        }
    }
}

#[tokio::test]
async fn a_killed_kubelet_loses_its_node_but_not_the_pod() {
    let Some((cluster, nodes)) = cluster() else { return };
    let _exclusive = NODE_LOCK.write().await;
    let pods = Pods::of(cluster).await;
    // A node of its own while it is away: the other tests' pods would wait for it.
    let node = nodes.names().last().unwrap();
    let script = "sleep 30; echo finished without a kubelet; exit 3";
    pods.create(with(pod("survivor", script), "/spec/nodeName", json!(node))).await;
    pods.running("survivor").await;

    nodes.kill_kubelet(node).unwrap();
    let all: Api<Node> = Api::all(pods.client.clone());
    let ready = async |wanted: &str| {
        let check = async || {
            let conditions =
                all.get(node).await.map_err(|e| e.to_string())?.status.unwrap().conditions.unwrap();
            let status = conditions.into_iter().find(|c| c.type_ == "Ready").unwrap().status;
            if status == wanted { Ok(()) } else { Err(status) }
        };
        // A node may be silent for 40 s before it counts as lost.
        wait::until(2 * WAIT_TIMEOUT, &format!("node {node} is ready: {wanted}"), check).await.unwrap();
    };
    ready("Unknown").await;
    assert_eq!(
        phase(&pods.api.get("survivor").await.unwrap()),
        "Running",
        "no kubelet has reported its end yet"
    );

    nodes.start_kubelet(node).unwrap();
    ready("True").await;
    let ended = pods.ended("survivor").await;
    assert_eq!(exit_code(&ended), 3);
    assert_eq!(pods.log("survivor").await, "finished without a kubelet\n");
}

#[test]
fn names_of_other_nodes_are_refused() {
    let Some((_, nodes)) = cluster() else { return };
    let error = nodes.kill_kubelet("real-9").unwrap_err();
    assert_eq!(error.to_string(), "no real node is called real-9");
}

#[tokio::test]
async fn nothing_remains_when_the_owner_is_killed() {
    if !real::available_to_tests() {
        return;
    }
    // Given a cluster with a real node, owned by another process.
    let dir = tempfile::tempdir().unwrap();
    let environment = dir.path().join("environment");
    let sysctls =
        || ["vm/overcommit_memory", "kernel/panic"].map(|key| fs::read(format!("/proc/sys/{key}")).unwrap());
    let before = sysctls();
    let owner = Command::new(env!("CARGO_BIN_EXE_crofter-test-cluster"))
        .args(["up", "--real-nodes", "1", "--no-postgres", "--env-file"])
        .arg(&environment)
        .stdout(Stdio::null())
        .spawn();
    let owner = Owner(owner.unwrap());
    let text = wait::until(2 * WAIT_TIMEOUT, "the cluster is up", async || fs::read_to_string(&environment))
        .await
        .unwrap();
    let id = text.split_once("crofter-").unwrap().1.get(..8).unwrap();
    // It has processes, mounts and devices, and leaves the machine's settings alone.
    assert_eq!(sysctls(), before, "a node's kubelet changed the machine");
    assert_ne!(
        remains(id),
        [String::new(), String::new(), String::new(), String::new()],
        "the check sees nothing"
    );

    // When the owner is killed, all of them end.
    drop(owner);
    let check = async || {
        let remains = remains(id);
        if remains.iter().all(String::is_empty) { Ok(()) } else { Err(remains) }
    };
    wait::until(WAIT_TIMEOUT, "nothing remains", check).await.unwrap();
}

/// Killed with `SIGKILL` when dropped, so that a failing test does not leave its cluster.
struct Owner(Child);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Processes, control groups, network devices and directories of a cluster.
fn remains(id: &str) -> [String; 4] {
    let find = |script: &str| {
        let output = Command::new("sh").args(["-c", script, "sh", id]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    [
        find("grep -lzsE \"^CROFTER_(TEST_CLUSTER|REAL_NODES)=$1$\" /proc/[0-9]*/environ"),
        find("find /sys/fs/cgroup -maxdepth 2 -name \"crofter-$1\""),
        find("grep -lsx \"crofter-$1\" /sys/class/net/*/ifalias"),
        find("ls -d \"${TMPDIR:-/tmp}/crofter-$1\" 2>/dev/null"),
    ]
}
