//! What the cluster promises, tried on a real one: one for all tests of this file, and one for each that breaks it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests too")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, OnceLock},
    thread,
    time::{Duration, Instant},
};

use crofter_test_cluster::{Cluster, NodeSpec, kept_logs, wait};
use k8s_openapi::api::{
    core::v1::{ConfigMap, Namespace, Node, Pod, Secret, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

const WAIT_TIMEOUT: Duration = Duration::from_secs(60);
const COMMAND_NAME: &str = "crofter-test-cluster";
const COMMAND: &str = env!("CARGO_BIN_EXE_crofter-test-cluster");

/// A static is never dropped: this is also the test of the reaper in everyday use.
fn shared() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| Cluster::builder().keep_logs_on_failure(false).start().unwrap())
}

/// A namespace whose pods may come.
async fn namespace(client: &Client, name: &str) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
    namespaces.create(&PostParams::default(), &namespace).await.unwrap();
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
    wait::until(WAIT_TIMEOUT, "the service account", async || accounts.get("default").await).await.unwrap();
}

/// A pod that does what its parameters say, on one node.
fn pod(name: &str, node: &str, parameters: &[(&str, &str)], spec: Value) -> Pod {
    let env: Vec<Value> = parameters
        .iter()
        .map(|(key, value)| json!({ "name": format!("CROFTER_PARAM_{key}"), "value": value }))
        .collect();
    let mut pod = json!({ "metadata": { "name": name }, "spec": {
        "restartPolicy": "Never",
        "nodeSelector": { "kubernetes.io/hostname": node },
        "containers": [{ "name": "main", "image": "nothing", "env": env }],
    }});
    pod["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
    serde_json::from_value(pod).unwrap()
}

async fn in_phase(pods: &Api<Pod>, name: &str, wanted: &str) -> Pod {
    wait::until(WAIT_TIMEOUT, &format!("pod {name} to be {wanted}"), async || {
        let pod = pods.get(name).await.map_err(|error| error.to_string())?;
        let phase = pod.status.as_ref().and_then(|status| status.phase.clone()).unwrap_or_default();
        if phase == wanted { Ok(pod) } else { Err(phase) }
    })
    .await
    .unwrap()
}

/// How the first container ended: code, reason, seconds it ran.
fn end(pod: &Pod) -> (i32, String, i64) {
    let statuses = pod.status.as_ref().unwrap().container_statuses.as_ref().unwrap();
    let end = statuses[0].state.as_ref().unwrap().terminated.as_ref().unwrap();
    let ran = end.finished_at.as_ref().unwrap().0.duration_since(end.started_at.as_ref().unwrap().0);
    (end.exit_code, end.reason.clone().unwrap(), ran.as_secs())
}

/// Name and parameters; then phase, exit code and reason of the container, and reason of the pod.
type Case = (
    &'static str,
    &'static [(&'static str, &'static str)],
    &'static str,
    i32,
    &'static str,
    Option<&'static str>,
);

#[tokio::test]
async fn pods_run_and_end_as_their_parameters_say() {
    let cluster = shared();
    let client = cluster.client().await.unwrap();
    namespace(&client, "parameters").await;
    cluster.add_node(&NodeSpec::new("parameters")).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client, "parameters");
    // Given a pod for each way of ending, and one that never starts.
    let cases: [Case; 5] = [
        ("succeeds", &[("RUN_SECONDS", "0.2")], "Succeeded", 0, "Completed", None),
        ("fails", &[("EXIT_CODE", "3")], "Failed", 3, "Error", None),
        ("too-big", &[("OUTCOME", "OOMKilled")], "Failed", 137, "OOMKilled", None),
        ("evicted", &[("OUTCOME", "Evicted")], "Failed", 137, "Error", Some("Evicted")),
        ("late", &[("RUN_SECONDS", "forever")], "Failed", 137, "Error", Some("DeadlineExceeded")),
    ];
    for (name, parameters, ..) in cases {
        let spec = if name == "late" { json!({ "activeDeadlineSeconds": 2 }) } else { json!({}) };
        pods.create(&PostParams::default(), &pod(name, "parameters", parameters, spec)).await.unwrap();
    }
    pods.create(
        &PostParams::default(),
        &pod("waits", "parameters", &[("OUTCOME", "ErrImagePull")], json!({})),
    )
    .await
    .unwrap();
    // Each ends with the phase, exit code and reasons of its parameters.
    for (name, _, phase, code, reason, pod_reason) in cases {
        let ended = in_phase(&pods, name, phase).await;
        let (seen_code, seen_reason, ran) = end(&ended);
        assert_eq!((seen_code, seen_reason.as_str()), (code, reason), "{name}");
        assert_eq!(ended.status.unwrap().reason.as_deref(), pod_reason, "{name}");
        assert!(name != "late" || ran >= 2, "late ended after {ran} s");
    }
    // The pod without an image stays Pending.
    let waits = in_phase(&pods, "waits", "Pending").await;
    let statuses = waits.status.unwrap().container_statuses.unwrap();
    assert_eq!(statuses[0].state.clone().unwrap().waiting.unwrap().reason.unwrap(), "ErrImagePull");
}

#[tokio::test]
async fn a_deleted_pod_ends_within_its_grace_and_its_finalizer_keeps_the_object() {
    let cluster = shared();
    let client = cluster.client().await.unwrap();
    namespace(&client, "deletion").await;
    cluster.add_node(&NodeSpec::new("deletion")).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client, "deletion");
    for (name, stop) in [("obeys", "0"), ("ignores", "60")] {
        let parameters = [("RUN_SECONDS", "forever"), ("STOP_SECONDS", stop)];
        let mut created = pod(name, "deletion", &parameters, json!({ "terminationGracePeriodSeconds": 2 }));
        created.metadata.finalizers = Some(vec!["test.crofter.io/kept".to_owned()]);
        pods.create(&PostParams::default(), &created).await.unwrap();
        in_phase(&pods, name, "Running").await;
        pods.delete(name, &DeleteParams::default()).await.unwrap();
    }
    assert_eq!(end(&in_phase(&pods, "obeys", "Failed").await).0, 143);
    assert_eq!(end(&in_phase(&pods, "ignores", "Failed").await).0, 137);
    for name in ["obeys", "ignores"] {
        let patch = Patch::Merge(json!({ "metadata": { "finalizers": null } }));
        pods.patch(name, &PatchParams::default(), &patch).await.unwrap();
        wait::until(WAIT_TIMEOUT, "the pod to be deleted", async || match pods.get_opt(name).await {
            Ok(None) => Ok(()),
            other => Err(other),
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_lost_node_keeps_its_pods_as_they_were_until_it_is_back() {
    let cluster = shared();
    let client = cluster.client().await.unwrap();
    namespace(&client, "lost").await;
    // Two, because the controller manager evicts no pods when no node is left.
    cluster.add_nodes(&[NodeSpec::new("lost"), NodeSpec::new("living")]).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), "lost");
    // Long enough for a busy machine to see it run.
    let parameters = [("RUN_SECONDS", "10")];
    let params = PostParams::default();
    pods.create(&params, &pod("survivor", "lost", &parameters, json!({}))).await.unwrap();
    in_phase(&pods, "survivor", "Running").await;

    cluster.set_node_ready("lost", false).await.unwrap();
    let nodes: Api<Node> = Api::all(client);
    let unreachable = async || {
        let taints = nodes.get("lost").await.unwrap().spec.unwrap().taints.unwrap_or_default();
        let found =
            taints.iter().any(|t| t.key == "node.kubernetes.io/unreachable" && t.effect == "NoExecute");
        if found { Ok(()) } else { Err(taints) }
    };
    wait::until(WAIT_TIMEOUT, "the node to be tainted", unreachable).await.unwrap();
    // When a pod that started later has ended, the other one's time is over too.
    pods.create(&params, &pod("witness", "living", &parameters, json!({}))).await.unwrap();
    in_phase(&pods, "witness", "Succeeded").await;
    let survivor = pods.get("survivor").await.unwrap();
    assert_eq!(survivor.status.unwrap().phase.unwrap(), "Running", "no kubelet can end it");

    cluster.set_node_ready("lost", true).await.unwrap();
    in_phase(&pods, "survivor", "Succeeded").await;
}

#[tokio::test]
async fn gpus_and_capacity_are_what_the_scheduler_counts() {
    let cluster = shared();
    let client = cluster.client().await.unwrap();
    namespace(&client, "capacity").await;
    let node = NodeSpec::new("capacity").label("example.com/zone", "a").capacity("2", "4Gi").gpus(1);
    cluster.add_node(&node).await.unwrap();
    let seen = Api::<Node>::all(client.clone()).get("capacity").await.unwrap();
    assert_eq!(seen.metadata.labels.unwrap()["example.com/zone"], "a");
    let pods: Api<Pod> = Api::namespaced(client, "capacity");
    let mut first = pod("first", "capacity", &[("RUN_SECONDS", "forever")], json!({}));
    let gpu = json!({ "limits": { "nvidia.com/gpu": "1" } });
    first.spec.as_mut().unwrap().containers[0].resources = serde_json::from_value(gpu).unwrap();
    let mut second = first.clone();
    second.metadata.name = Some("second".to_owned());
    pods.create(&PostParams::default(), &first).await.unwrap();
    in_phase(&pods, "first", "Running").await;
    pods.create(&PostParams::default(), &second).await.unwrap();
    let refused = async || {
        let conditions = pods.get("second").await.unwrap().status.unwrap().conditions.unwrap_or_default();
        let message = conditions.into_iter().find(|c| c.type_ == "PodScheduled").and_then(|c| c.message);
        message.filter(|text| text.contains("Insufficient nvidia.com/gpu")).ok_or(())
    };
    wait::until(WAIT_TIMEOUT, "the second pod to find no GPU", refused).await.unwrap();
}

#[tokio::test]
async fn users_and_service_accounts_may_do_what_rbac_says_and_no_more() {
    let cluster = shared();
    let admin = cluster.client().await.unwrap();
    namespace(&admin, "rights").await;
    // Given a service account and a user of a group, both bound to a role.
    let account = cluster.kubeconfig_for_service_account("rights", "default").await.unwrap();
    let user = cluster.kubeconfig_for_user("jane@example.com", &["readers"]).unwrap();
    let role: Role = serde_json::from_value(json!({ "metadata": { "name": "reader" }, "rules": [
        { "apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"] } ] }))
    .unwrap();
    let binding: RoleBinding = serde_json::from_value(json!({ "metadata": { "name": "readers" },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader" },
        "subjects": [
            { "kind": "ServiceAccount", "name": "default", "namespace": "rights" },
            { "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "readers" },
        ] }))
    .unwrap();
    Api::namespaced(admin.clone(), "rights").create(&PostParams::default(), &role).await.unwrap();
    Api::namespaced(admin, "rights").create(&PostParams::default(), &binding).await.unwrap();
    // Both may list in the namespace of the role, and not in another.
    for kubeconfig in [&account, &user] {
        let client = cluster.client_for(kubeconfig).await.unwrap();
        let here: Api<ConfigMap> = Api::namespaced(client.clone(), "rights");
        let list = async || here.list(&ListParams::default()).await;
        wait::until(WAIT_TIMEOUT, "the binding to count", list).await.unwrap();
        let elsewhere: Api<ConfigMap> = Api::namespaced(client, "kube-system");
        let error = elsewhere.list(&ListParams::default()).await.unwrap_err();
        assert!(matches!(&error, kube::Error::Api(status) if status.code == 403), "{error}");
    }
}

#[tokio::test]
async fn the_api_hangs_while_frozen_and_comes_back_at_its_address_when_killed() {
    let cluster = Cluster::builder().postgres(false).start().unwrap();
    let client = cluster.client().await.unwrap();
    let frozen = cluster.freeze_api().unwrap();
    let version = tokio::time::timeout(Duration::from_secs(1), client.apiserver_version());
    assert!(version.await.is_err(), "a frozen server answered");
    frozen.thaw();
    let answers = async || client.apiserver_version().await;
    wait::until(WAIT_TIMEOUT, "a thawed server to answer", answers).await.unwrap();

    namespace(&client, "kept").await;
    cluster.kill_api().unwrap();
    assert!(client.apiserver_version().await.is_err(), "a killed server answered");
    cluster.start_api().await.unwrap();
    Api::<Namespace>::all(client.clone()).get("kept").await.unwrap();
    cluster.restart_api().await.unwrap();
    client.apiserver_version().await.unwrap();
}

#[tokio::test]
async fn clusters_side_by_side_do_not_see_each_other() {
    let (one, other) = (shared(), Cluster::builder().postgres(false).start().unwrap());
    namespace(&one.client().await.unwrap(), "only-here").await;
    let there: Api<Namespace> = Api::all(other.client().await.unwrap());
    assert!(there.get_opt("only-here").await.unwrap().is_none());
    let foreign = other.kubeconfig().to_owned();
    let mut text = fs::read_to_string(&foreign).unwrap();
    text = text.replace(other.api_url(), one.api_url());
    let mixed = other.dir().join("mixed.kubeconfig");
    fs::write(&mixed, text).unwrap();
    let error = one.client_for(&mixed).await.unwrap().apiserver_version().await;
    assert!(error.is_err(), "one cluster's administrator is none in another");
}

#[tokio::test]
async fn postgres_answers_and_every_database_is_empty() {
    let cluster = shared();
    let first = cluster.create_database("first \"quoted\"").await;
    let mut connection = PgConnection::connect(&cluster.create_database("one").await.unwrap()).await.unwrap();
    sqlx::query("CREATE TABLE here (x int)").execute(&mut connection).await.unwrap();
    let mut other = PgConnection::connect(&cluster.create_database("two").await.unwrap()).await.unwrap();
    let tables: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")
        .fetch_one(&mut other)
        .await
        .unwrap();
    assert_eq!(tables, 0);
    first.unwrap();
    let taken = cluster.create_database("two").await.unwrap_err();
    assert!(taken.to_string().contains("two"), "{taken}");
}

#[tokio::test]
async fn kubectl_and_helm_are_the_real_ones() {
    let output = shared().kubectl(["version", "-o", "json"]).await.unwrap();
    let versions: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(versions["serverVersion"]["major"], "1");
    assert_eq!(versions["clientVersion"]["gitVersion"], versions["serverVersion"]["gitVersion"]);
    let output = shared().helm(["list", "-A", "-o", "json"]).await.unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), "[]");
}

/// Runs a test that fails after it requested objects, and returns what its report printed.
async fn printed_by_a_failing_test<F: Future<Output = ()>>(
    cluster: &Cluster,
    test: impl FnOnce(Client) -> F + Send,
) -> String {
    let printed = Arc::new(Mutex::new(String::new()));
    let sink = Arc::clone(&printed);
    let failing = || {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let (client, report) = cluster.client_with_report().await.unwrap();
            let _report = report.printed_by(move |text| sink.lock().unwrap().push_str(text));
            test(client).await;
            panic!("a test that fails, for the report's sake");
        })
    };
    thread::scope(|scope| scope.spawn(failing).join()).unwrap_err();
    let printed = printed.lock().unwrap();
    printed.clone()
}

#[tokio::test]
async fn a_failing_test_prints_the_objects_that_it_requested_as_they_are_now() {
    // Given a Pod, a ConfigMap and a Secret.
    let cluster = Cluster::builder().postgres(false).keep_logs_on_failure(false).start().unwrap();
    let admin = cluster.client().await.unwrap();
    namespace(&admin, "report").await;
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), "report");
    let secret = json!({ "metadata": { "name": "hidden" }, "stringData": { "password": "correct horse" } });
    secrets.create(&PostParams::default(), &serde_json::from_value(secret).unwrap()).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "report");
    pods.create(&PostParams::default(), &pod("waits", "no-such-node", &[], json!({}))).await.unwrap();

    // When a test requests them, one in a list and one that does not exist, and fails after a change to one of them.
    let printed = printed_by_a_failing_test(&cluster, async |client| {
        Api::<Secret>::namespaced(client.clone(), "report").get("hidden").await.unwrap();
        let pods = Api::<Pod>::namespaced(client.clone(), "report");
        pods.list(&ListParams::default().fields("metadata.name=waits")).await.unwrap();
        Api::<ConfigMap>::namespaced(client.clone(), "report").get_opt("absent").await.unwrap();
        let annotated = Patch::Merge(json!({ "metadata": { "annotations": { "changed": "later" } } }));
        let other = cluster.client().await.unwrap();
        Api::<Pod>::namespaced(other, "report")
            .patch("waits", &PatchParams::default(), &annotated)
            .await
            .unwrap();
    })
    .await;

    // Then its report has their current state, but no values of the Secret.
    for words in ["--- Secret report/hidden\n", "--- Pod report/waits\n", "changed: later", "phase: Pending"]
    {
        assert!(printed.contains(words), "{words}: {printed}");
    }
    assert!(printed.contains("--- /api/v1/namespaces/report/configmaps/absent: "), "{printed}");
    for absent in ["correct horse", "Y29ycmVjdCBob3JzZQ", "managedFields"] {
        assert!(!printed.contains(absent), "{absent}: {printed}");
    }
    assert!(printed.contains("password: (masked, 20 bytes as stored)"), "{printed}");

    // When the API server doesn't respond, the report names the objects and ends in time.
    let mut frozen = None;
    let began = Instant::now();
    let printed = printed_by_a_failing_test(&cluster, async |client| {
        Api::<Namespace>::all(client).get("report").await.unwrap();
        frozen = Some(cluster.freeze_api().unwrap());
    })
    .await;
    assert!(began.elapsed() < WAIT_TIMEOUT, "{:?}", began.elapsed());
    assert!(
        printed.contains("failed to read the objects") && printed.contains("/namespaces/report"),
        "{printed}"
    );
    frozen.unwrap().thaw();
}

/// Everything that carries the id of a cluster.
fn processes_of(id: &str) -> Vec<String> {
    let marked = |dir: &Path| {
        let environ = fs::read(dir.join("environ")).unwrap_or_default();
        let cmdline = fs::read(dir.join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&environ).contains(&format!("CROFTER_TEST_CLUSTER={id}"))
            || String::from_utf8_lossy(&cmdline).contains(id)
    };
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .filter(|dir| marked(dir))
        .map(|dir| dir.display().to_string())
        .collect()
}

/// Starts the command and returns it with what it printed for shells.
fn up(mut command: Command) -> (Child, BTreeMap<String, String>) {
    let mut child = command.arg("up").stdout(Stdio::piped()).spawn().unwrap();
    let environment = BufReader::new(child.stdout.take().unwrap())
        .lines()
        .filter_map(|line| {
            let line = line.unwrap();
            let (key, value) = line.strip_prefix("export ")?.split_once('=')?;
            Some((key.to_owned(), value.to_owned()))
        })
        .take(4)
        .collect();
    (child, environment)
}

async fn ends_with_its_owner(mut owner: Child, environment: &BTreeMap<String, String>, signal: Signal) {
    let dir = PathBuf::from(&environment["CLUSTER_DIR"]);
    let id = dir.file_name().unwrap().to_str().unwrap().trim_start_matches("crofter-").to_owned();
    assert!(processes_of(&id).len() >= 6, "{:?}", processes_of(&id));
    kill_process(Pid::from_child(&owner), signal).unwrap();
    owner.wait().unwrap();
    let check = async || {
        let left = processes_of(&id);
        if left.is_empty() && !dir.exists() { Ok(()) } else { Err((left, dir.exists())) }
    };
    wait::until(
        WAIT_TIMEOUT,
        &format!("the cluster's processes and directory to be removed after {signal:?}"),
        check,
    )
    .await
    .unwrap();
}

#[tokio::test]
async fn nothing_is_left_when_the_owner_is_killed() {
    for signal in [Signal::KILL, Signal::INT] {
        let (owner, environment) = up(Command::new(COMMAND));
        ends_with_its_owner(owner, &environment, signal).await;
    }
}

/// Under root Postgres runs as another user, which all the other tests show where they run as root; this one shows
/// there that an ordinary user's cluster works as well. Where an ordinary user runs the tests, the other tests show
/// that.
#[tokio::test]
async fn works_as_a_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    // Neither the build directory nor root's cache need be open to others.
    let open = tempfile::tempdir().unwrap();
    fs::set_permissions(open.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let programs = shared().bin_dirs().iter().flat_map(|dir| fs::read_dir(dir).unwrap().flatten());
    for program in programs.map(|entry| entry.path()).chain([PathBuf::from(COMMAND)]) {
        let path = open.path().join(program.file_name().unwrap());
        fs::hard_link(&program, &path).or_else(|_| fs::copy(&program, &path).map(drop)).unwrap();
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(open.path().join(COMMAND_NAME));
    command.env("HOME", "/nonexistent").env_remove("XDG_CACHE_HOME").env("KUBEBUILDER_ASSETS", open.path());
    let (owner, environment) = up(command);
    let dir = fs::metadata(&environment["CLUSTER_DIR"]).unwrap();
    assert_ne!(dir.uid(), 0);
    let mut database = PgConnection::connect(&environment["DATABASE_URL"]).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, i32>("SELECT 1").fetch_one(&mut database).await.unwrap(), 1);
    ends_with_its_owner(owner, &environment, Signal::KILL).await;
}

#[test]
fn logs_are_kept_when_something_panics() {
    let cluster = Cluster::builder().postgres(false).start().unwrap();
    let id = cluster.dir().file_name().unwrap().to_str().unwrap().trim_start_matches("crofter-").to_owned();
    thread::spawn(|| panic!("a test that fails, for the logs' sake")).join().unwrap_err();
    let dir = cluster.dir().to_owned();
    drop(cluster);
    assert!(!dir.exists());
    let kept = kept_logs().join(&id);
    assert!(kept.join("kube-apiserver.log").is_file());
    fs::remove_dir_all(kept).unwrap();
}
