//! What kubelets may not do to their nodes and in tenants' namespaces, and which pods reach the nodes of tenants. Each
//! refusal has a twin: the same verb on the same kind, by a client that must still be admitted.

use crofter::names;
use crofter_test_cluster::wait;
use k8s_openapi::{
    api::{
        admissionregistration::v1::ValidatingAdmissionPolicyBinding,
        apps::v1::{DaemonSet, ReplicaSet},
        core::v1::{Namespace, Node, Pod},
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    NAMESPACE, PROPAGATION_TIMEOUT, forbidden, installed, object, operator,
    policies::{job_pod, tenant_namespace},
};

fn plainly() -> PostParams {
    PostParams::default()
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

fn try_patch() -> PatchParams {
    PatchParams { dry_run: true, ..PatchParams::default() }
}

/// A client with the name and group of a node's kubelet.
async fn kubelet(node: &str) -> Client {
    let cluster = installed().await;
    let kubeconfig = cluster.kubeconfig_for_user(&format!("system:node:{node}"), &["system:nodes"]).unwrap();
    cluster.client_for(&kubeconfig).await.unwrap()
}

/// A node that nothing runs.
async fn add_node(admin: &Client, name: &str, group: Option<&str>) -> Node {
    let labels = group.map(|group| json!({names::NODE_ADMITTED: group}));
    let node: Node = object(json!({"metadata": {"name": name, "labels": labels}}));
    Api::all(admin.clone()).create(&plainly(), &node).await.unwrap()
}

fn annotated(annotations: &Value) -> Patch<Value> {
    Patch::Merge(json!({"metadata": {"annotations": annotations}}))
}

/// An administrator pauses a node, and the node controller notes its age as a worker: its kubelet does neither.
#[tokio::test]
async fn a_kubelet_writes_no_annotation_of_crofter() {
    let cluster = installed().await;
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    add_node(&admin, "annotated", None).await;
    let (own, all): (Api<Node>, Api<Node>) = (Api::all(kubelet("annotated").await), Api::all(admin));
    let words = "a kubelet doesn't set, change or remove annotations of crofter.io on its node: ";
    let refused = async |annotation: &str, value: Value| {
        let (words, change) = (format!("{words}{annotation}"), annotated(&json!({annotation: value})));
        forbidden(&words, async || own.patch("annotated", &try_patch(), &change).await).await;
        forbidden(&words, async || own.patch_status("annotated", &try_patch(), &change).await).await;
    };
    refused(names::ANNOTATION_PAUSED, json!("true")).await;
    refused(names::NODE_WORKER_SINCE, json!("2020-01-02T03:04:05Z acme")).await;
    let set = annotated(&json!({names::ANNOTATION_PAUSED: "true", names::NODE_WORKER_SINCE: "x"}));
    all.patch("annotated", &PatchParams::default(), &set).await.unwrap();
    refused(names::ANNOTATION_PAUSED, Value::Null).await;
    refused(names::NODE_WORKER_SINCE, json!("y")).await;
    // What else it writes of its node it writes as before, whatever annotations that has.
    let change = json!({
        "metadata": {"annotations": {"example.com/note": "seen"}, "labels": {"example.com/zone": "a"}},
        "status": {"capacity": {"cpu": "8"}},
    });
    own.patch("annotated", &PatchParams::default(), &Patch::Strategic(change.clone())).await.unwrap();
    own.patch_status("annotated", &PatchParams::default(), &Patch::Strategic(change)).await.unwrap();

    // It brings none along when it registers.
    let node = |annotations: Value| -> Node {
        object(json!({"metadata": {"name": "newcomer", "annotations": annotations}}))
    };
    let newcomer: Api<Node> = Api::all(kubelet("newcomer").await);
    let words = format!("{words}{}", names::NODE_WORKER_SINCE);
    let forged = node(json!({names::NODE_WORKER_SINCE: "2020-01-02T03:04:05Z acme"}));
    forbidden(&words, async || newcomer.create(&dry_run(), &forged).await).await;
    newcomer.create(&dry_run(), &node(json!({"example.com/note": "seen"}))).await.unwrap();
}

/// What a kubelet makes of a static pod.
fn mirror_pod(node: &Node) -> Pod {
    object(json!({
        "metadata": {
            "name": format!("static-{}", node.name_any()), "annotations": {"kubernetes.io/config.mirror": "0b8e9a52"},
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Node", "name": node.name_any(), "uid": node.uid(), "controller": true},
            ],
        },
        "spec": {
            "nodeName": node.name_any(), "containers": [{"name": "c", "image": "none"}],
            "tolerations": [{"operator": "Exists"}],
        },
    }))
}

/// What a kubelet mirrors of its static pods counts against the quota of the namespace.
#[tokio::test]
async fn a_kubelet_makes_no_pods_in_a_tenants_namespace() {
    let cluster = installed().await;
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    let node = add_node(&admin, "mirrors", Some("acme")).await;
    let tenant = tenant_namespace(&operator(cluster).await, "tenant-mirrors").await;
    let mirror = mirror_pod(&node);
    let kubelet = kubelet("mirrors").await;
    // NodeRestriction knows the node a moment after its creation.
    let elsewhere: Api<Pod> = Api::namespaced(kubelet.clone(), "default");
    let (dry_run, words) = (dry_run(), "the mirror pod to be admitted elsewhere");
    wait::until(PROPAGATION_TIMEOUT, words, || elsewhere.create(&dry_run, &mirror)).await.unwrap();
    let theirs: Api<Pod> = Api::namespaced(kubelet, &tenant);
    forbidden("a kubelet makes no pods in a tenant's namespace", async || {
        theirs.create(&dry_run, &mirror).await
    })
    .await;
    elsewhere.create(&dry_run, &mirror).await.unwrap();
}

/// Without the finalizer, a pod could be deleted before its run is counted.
#[tokio::test]
async fn a_kubelet_keeps_the_finalizer_of_what_is_not_counted() {
    let cluster = installed().await;
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    add_node(&admin, "counts", None).await;
    let operator = operator(cluster).await;
    let tenant = tenant_namespace(&operator, "tenant-counts").await;
    let pod = job_pod("job", &tenant);
    Api::namespaced(operator, &tenant).create(&plainly(), &pod).await.unwrap();
    // As kube-scheduler does, which finds no such node here.
    let binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": {"name": "job"},
        "target": {"apiVersion": "v1", "kind": "Node", "name": "counts"},
    });
    let path = format!("/api/v1/namespaces/{tenant}/pods/job/binding");
    let request = http::Request::post(path).header("content-type", "application/json");
    admin.request::<Value>(request.body(binding.to_string().into_bytes()).unwrap()).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(kubelet("counts").await, &tenant);
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let words = "only Crofter sets or removes the finalizer crofter.io/accounted";
    forbidden(words, async || pods.patch_status("job", &try_patch(), &release).await).await;
    // What the pod is charged for, and why it was stopped, stays as Crofter wrote it.
    for annotation in ["kubernetes.io/egress-bandwidth", names::ANNOTATION_STOP] {
        let words =
            format!("only Crofter sets, changes or removes these annotations of a job's pod: {annotation}");
        let forged = annotated(&json!({annotation: "0M"}));
        forbidden(&words, async || pods.patch_status("job", &try_patch(), &forged).await).await;
    }
    pods.patch_status("job", &try_patch(), &annotated(&json!({"example.com/note": "seen"}))).await.unwrap();
    let ended = Patch::Merge(json!({"status": {"phase": "Succeeded"}}));
    pods.patch_status("job", &PatchParams::default(), &ended).await.unwrap();
    // It may delete the pod, which the finalizer then keeps.
    pods.delete("job", &DeleteParams::default().grace_period(0)).await.unwrap();
    let kept = pods.get("job").await.unwrap();
    assert!(kept.metadata.deletion_timestamp.is_some());
    assert_eq!(kept.finalizers(), [names::FINALIZER_ACCOUNTED]);
}

/// A namespace of ordinary users, with one of them.
async fn team(admin: &Client, name: &str, labels: Value) -> Client {
    let namespace: Namespace = object(json!({"metadata": {"name": name, "labels": labels}}));
    Api::all(admin.clone()).create(&plainly(), &namespace).await.unwrap();
    member_of(admin, name).await
}

/// A user who may write pods and what makes pods in a namespace.
async fn member_of(admin: &Client, name: &str) -> Client {
    let cluster = installed().await;
    let user = format!("member-of-{name}");
    let binding: RoleBinding = object(json!({
        "metadata": {"name": "edit"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
    }));
    Api::namespaced(admin.clone(), name).create(&plainly(), &binding).await.unwrap();
    let client = cluster.client_for(&cluster.kubeconfig_for_user(&user, &[]).unwrap()).await.unwrap();
    let (pods, dry_run): (Api<Pod>, _) = (Api::namespaced(client.clone(), name), dry_run());
    let pod = pod(json!({}));
    wait::until(PROPAGATION_TIMEOUT, "a pod to be admitted", || pods.create(&dry_run, &pod)).await.unwrap();
    client
}

/// A pod with more in its spec.
fn pod(more: Value) -> Pod {
    let mut spec = json!({"containers": [{"name": "c", "image": "none"}]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object(json!({"metadata": {"name": "pod"}, "spec": spec}))
}

fn tolerating(toleration: &Value) -> Pod {
    pod(json!({"tolerations": [{"key": "example.com/gpu", "operator": "Exists"}, toleration]}))
}

const TOLERATES: &str =
    "the taint crofter.node-restriction.kubernetes.io/admitted keeps workers for their tenants";

/// What tolerates the taint of workers, one by one.
fn tolerations() -> [Value; 4] {
    [
        json!({"key": names::NODE_ADMITTED, "operator": "Exists"}),
        json!({"key": names::NODE_ADMITTED, "value": "acme", "effect": "NoSchedule"}),
        json!({"operator": "Exists"}),
        json!({"operator": "Exists", "effect": "NoSchedule"}),
    ]
}

#[tokio::test]
async fn ordinary_pods_do_not_tolerate_the_taint_of_workers() {
    let cluster = installed().await;
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    let member = team(&admin, "team-tolerates", json!({})).await;
    let pods: Api<Pod> = Api::namespaced(member.clone(), "team-tolerates");
    let mut stored = pod(json!({}));
    stored.metadata.name = Some("stored".to_owned());
    pods.create(&plainly(), &stored).await.unwrap();
    let administrators: Api<Pod> = Api::namespaced(admin.clone(), "team-tolerates");
    for toleration in tolerations() {
        forbidden(TOLERATES, async || pods.create(&dry_run(), &tolerating(&toleration)).await).await;
        // A pod that waits gets more tolerations by an update.
        let stored = pods.get("stored").await.unwrap().spec.unwrap().tolerations.unwrap();
        let mut more = json!(stored);
        more.as_array_mut().unwrap().push(toleration.clone());
        let more = Patch::Merge(json!({"spec": {"tolerations": more}}));
        forbidden(TOLERATES, async || pods.patch("stored", &try_patch(), &more).await).await;
        // Who may write nodes could take the taint off.
        administrators.create(&dry_run(), &tolerating(&toleration)).await.unwrap();
        administrators.patch("stored", &try_patch(), &more).await.unwrap();
    }
    // Tolerations of other taints, and of evictions, are free; and what a pod has stays with it through other updates.
    let mut other = tolerating(&json!({"operator": "Exists", "effect": "NoExecute"}));
    other.metadata.name = Some("other".to_owned());
    pods.create(&plainly(), &other).await.unwrap();
    let mut given = tolerating(&tolerations()[0]);
    given.metadata.name = Some("given".to_owned());
    administrators.create(&plainly(), &given).await.unwrap();
    for name in ["stored", "other", "given"] {
        let note = Patch::Merge(json!({"metadata": {"labels": {"example.com/note": "seen"}}}));
        pods.patch(name, &PatchParams::default(), &note).await.unwrap();
    }

    // A namespace of the system may, by its name or by its Pod Security label.
    let privileged = json!({"pod-security.kubernetes.io/enforce": "privileged"});
    let of_privileged = team(&admin, "team-privileged", privileged).await;
    for (client, namespace) in
        [(of_privileged, "team-privileged"), (member_of(&admin, NAMESPACE).await, NAMESPACE)]
    {
        let system: Api<Pod> = Api::namespaced(client, namespace);
        system.create(&dry_run(), &tolerating(&tolerations()[2])).await.unwrap();
    }
}

/// A pod that a controller creates is refused like one that its user creates, but for those of DaemonSets.
#[tokio::test]
async fn of_controllers_only_daemonsets_reach_workers() {
    let cluster = installed().await;
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    add_node(&admin, "for-daemons", Some("acme")).await;
    let member = team(&admin, "team-controllers", json!({})).await;
    let pods: Api<Pod> = Api::namespaced(member.clone(), "team-controllers");
    forbidden(TOLERATES, async || pods.create(&dry_run(), &tolerating(&tolerations()[2])).await).await;
    let of = |name: &str, toleration: &Value| {
        json!({
            "metadata": {"name": name},
            "spec": {"selector": {"matchLabels": {"app": name}}, "template": {
                "metadata": {"labels": {"app": name}}, "spec": tolerating(toleration).spec,
            }},
        })
    };
    // The ReplicaSet has the reason why it has no pods.
    let sets: Api<ReplicaSet> = Api::namespaced(member.clone(), "team-controllers");
    sets.create(&plainly(), &object(of("replicas", &tolerations()[2]))).await.unwrap();
    let said = wait::until(PROPAGATION_TIMEOUT, "the controller to be refused", || async {
        let status = sets.get("replicas").await.unwrap().status.unwrap_or_default();
        let failure = status.conditions.iter().flatten().find(|c| c.type_ == "ReplicaFailure");
        failure.and_then(|c| c.message.clone()).ok_or(status.clone())
    })
    .await
    .unwrap();
    assert!(said.contains("forbidden") && said.contains(TOLERATES), "{said}");

    // A DaemonSet has its pods, and so has a ReplicaSet that tolerates another taint.
    let daemons: Api<DaemonSet> = Api::namespaced(member, "team-controllers");
    daemons.create(&plainly(), &object(of("daemons", &tolerations()[2]))).await.unwrap();
    sets.create(&plainly(), &object(of("plain", &json!({"key": "example.com/x", "operator": "Exists"}))))
        .await
        .unwrap();
    for app in ["daemons", "plain"] {
        wait::until(PROPAGATION_TIMEOUT, app, || async {
            let found = pods.list(&ListParams::default().labels(&format!("app={app}"))).await.unwrap().items;
            if found.is_empty() { Err("no pod") } else { Ok(()) }
        })
        .await
        .unwrap();
    }
    assert!(pods.list(&ListParams::default().labels("app=replicas")).await.unwrap().items.is_empty());
}

/// A user who may also bind the pods of the namespace.
async fn may_bind(admin: &Client, namespace: &str) {
    let role: Role = object(json!({
        "metadata": {"name": "bind"},
        "rules": [{"apiGroups": [""], "resources": ["bindings", "pods/binding"], "verbs": ["create"]}],
    }));
    Api::namespaced(admin.clone(), namespace).create(&plainly(), &role).await.unwrap();
    let binding: RoleBinding = object(json!({
        "metadata": {"name": "bind"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "bind"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": format!("member-of-{namespace}")}],
    }));
    Api::namespaced(admin.clone(), namespace).create(&plainly(), &binding).await.unwrap();
}

/// Binds the pod `bound` without storing it, by the subresource or the kind, with this metadata.
async fn bind(client: &Client, namespace: &str, by: &str, metadata: Value) -> kube::Result<Value> {
    let mut binding = json!({
        "apiVersion": "v1", "kind": "Binding", "metadata": metadata,
        "target": {"apiVersion": "v1", "kind": "Node", "name": "to-bind-to"},
    });
    binding["metadata"]["name"] = json!("bound");
    let path = format!("/api/v1/namespaces/{namespace}/{by}?dryRun=All");
    let request = http::Request::post(path).header("content-type", "application/json");
    client.request(request.body(binding.to_string().into_bytes()).unwrap()).await
}

/// The API server copies labels and annotations of a binding to the pod.
#[tokio::test]
async fn a_binding_brings_no_mark_of_crofter_along() {
    let cluster = installed().await;
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    add_node(&admin, "to-bind-to", Some("acme")).await;
    let member = team(&admin, "team-binds", json!({})).await;
    may_bind(&admin, "team-binds").await;
    let mut bound = pod(json!({"schedulerName": "none"}));
    bound.metadata.name = Some("bound".to_owned());
    Api::namespaced(member.clone(), "team-binds").create(&plainly(), &bound).await.unwrap();
    for by in ["pods/bound/binding", "bindings"] {
        let label = json!({"labels": {names::LABEL_TENANT: "acme"}});
        forbidden("only Crofter sets, changes or removes labels of crofter.io", async || {
            bind(&member, "team-binds", by, label.clone()).await
        })
        .await;
        let annotation = json!({"annotations": {names::ANNOTATION_STOP: "2026-01-02T03:04:05Z Canceled"}});
        forbidden("only Crofter sets, changes or removes these annotations", async || {
            bind(&member, "team-binds", by, annotation.clone()).await
        })
        .await;
        bind(&member, "team-binds", by, json!({"labels": {"example.com/zone": "a"}})).await.unwrap();
    }
}

/// A pod that names its node passes kube-scheduler and the taint by. The chart's own binding reports such a pod; this is what
/// one refuses that denies.
#[tokio::test]
async fn ordinary_pods_name_no_node_where_that_is_denied() {
    let cluster = installed().await;
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    let member = team(&admin, "team-names", json!({})).await;
    let pods: Api<Pod> = Api::namespaced(member.clone(), "team-names");
    let on_a_node = pod(json!({"nodeName": "named", "tolerations": [{"operator": "Exists"}]}));
    pods.create(&dry_run(), &on_a_node).await.unwrap();

    let policies: Api<ValidatingAdmissionPolicyBinding> = Api::all(admin.clone());
    let mut binding = policies.get("node-names.crofter.io").await.unwrap();
    binding.metadata = ObjectMeta { name: Some("names-of-the-team".to_owned()), ..ObjectMeta::default() };
    let spec = binding.spec.as_mut().unwrap();
    spec.validation_actions = Some(vec!["Deny".to_owned()]);
    let selector = spec.match_resources.as_mut().unwrap().namespace_selector.as_mut().unwrap();
    selector.match_labels =
        Some([("kubernetes.io/metadata.name".to_owned(), "team-names".to_owned())].into());
    policies.create(&plainly(), &binding).await.unwrap();
    let words =
        "a pod that names its node (spec.nodeName), or is bound to one, passes the taints of workers by";
    forbidden(words, async || pods.create(&dry_run(), &on_a_node).await).await;
    pods.create(&dry_run(), &pod(json!({}))).await.unwrap();
    // The same for one that is bound by its owner, and not for one that a scheduler binds.
    may_bind(&admin, "team-names").await;
    let mut bound = pod(json!({"schedulerName": "none"}));
    bound.metadata.name = Some("bound".to_owned());
    pods.create(&plainly(), &bound).await.unwrap();
    for by in ["pods/bound/binding", "bindings"] {
        forbidden(words, async || bind(&member, "team-names", by, json!({})).await).await;
    }
    let scheduler = cluster.kubeconfig_for_user("system:kube-scheduler", &[]).unwrap();
    let scheduler = cluster.client_for(&scheduler).await.unwrap();
    bind(&scheduler, "team-names", "pods/bound/binding", json!({})).await.unwrap();
    // Who may write nodes could make it a worker or no worker; and a kubelet mirrors its static pods.
    let administrators: Api<Pod> = Api::namespaced(admin.clone(), "team-names");
    administrators.create(&dry_run(), &on_a_node).await.unwrap();
    let node = add_node(&admin, "named", Some("acme")).await;
    let (kubelet, mirror): (Api<Pod>, _) =
        (Api::namespaced(kubelet("named").await, "team-names"), mirror_pod(&node));
    let (dry_run, words) = (dry_run(), "the mirror pod to be admitted");
    wait::until(PROPAGATION_TIMEOUT, words, || kubelet.create(&dry_run, &mirror)).await.unwrap();
}
