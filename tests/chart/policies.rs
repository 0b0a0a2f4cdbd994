//! What the chart's admission policies refuse, with which message, and what they admit.

use std::fmt::Debug;

use crofter::{
    api_types::{Job, Tenant, TenantApiKey},
    controllers::tenant::default_tenant,
    names,
};
use crofter_test_cluster::{Cluster, wait};
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, Secret, ServiceAccount},
    rbac::v1::RoleBinding,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{NAMESPACE, PROPAGATION_TIMEOUT, RELEASE, installed, object, operator, refused, refused_call};

/// A tenant's namespace, made as the operator makes it.
pub(crate) async fn tenant_namespace(operator: &Client, name: &str) -> String {
    let labels = json!({names::LABEL_TENANT: name, "pod-security.kubernetes.io/enforce": "baseline"});
    let namespace: Namespace = object(json!({"metadata": {"name": name, "labels": labels}}));
    Api::all(operator.clone()).create(&PostParams::default(), &namespace).await.unwrap();
    let account: ServiceAccount = object(json!({"metadata": {"name": names::JOB_SERVICE_ACCOUNT}}));
    Api::namespaced(operator.clone(), name).create(&PostParams::default(), &account).await.unwrap();
    let bindings = Api::namespaced(operator.clone(), name);
    bindings.create(&PostParams::default(), &key_secrets_binding()).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(operator.clone(), name);
    let get = || secrets.get_opt("none");
    wait::until(PROPAGATION_TIMEOUT, "the operator's right to read Secrets here", get).await.unwrap();
    name.to_owned()
}

/// The binding by which the operator has the Secrets of a namespace.
pub(crate) fn key_secrets_binding() -> RoleBinding {
    object(json!({
        "metadata": {"name": "crofter-key-secrets"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": names::KEY_SECRETS_ROLE},
        "subjects": [{"kind": "ServiceAccount", "namespace": NAMESPACE, "name": RELEASE}],
    }))
}

/// A user with the role `admin` of a tenant, who has its rights already: the role is put together by the controller manager,
/// a moment after the install.
pub(crate) async fn tenant_admin(cluster: &Cluster, namespace: &str, user: &str) -> Client {
    let role: RoleBinding = object(json!({
        "metadata": {"name": "all-roles"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "crofter:tenant-admin"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
    }));
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    Api::namespaced(admin, namespace).create(&PostParams::default(), &role).await.unwrap();
    let client = cluster.client_for(&cluster.kubeconfig_for_user(user, &[]).unwrap()).await.unwrap();
    let (keys, secrets, jobs): (Api<TenantApiKey>, Api<Secret>, Api<Job>) = (
        Api::namespaced(client.clone(), namespace),
        Api::namespaced(client.clone(), namespace),
        Api::namespaced(client.clone(), namespace),
    );
    wait::until(PROPAGATION_TIMEOUT, "the rights of the role", || async {
        let all = ListParams::default();
        keys.list_metadata(&all).await?;
        secrets.list_metadata(&all).await?;
        jobs.list_metadata(&all).await.map(drop)
    })
    .await
    .unwrap();
    client
}

/// The message for other users who set Crofter's labels.
const LABELS: &str = "only Crofter sets, changes or removes labels of crofter.io here: ";

fn tenant(name: &str, spec: Value) -> Tenant {
    object(json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec,
    }))
}

/// A job's pod, as the operator makes it, for the nodes of a worker group.
pub(crate) fn job_pod(name: &str, group: &str) -> Pod {
    let admitted = json!({"key": names::NODE_ADMITTED, "operator": "In", "values": [group]});
    let terms = json!({"nodeSelectorTerms": [{"matchExpressions": [admitted]}]});
    let taint =
        json!({"key": names::NODE_ADMITTED, "operator": "Equal", "value": group, "effect": "NoSchedule"});
    object(json!({
        "metadata": {
            "name": name,
            "labels": {names::LABEL_JOB_UID: "0b8e9a52", names::LABEL_ATTEMPT: "1"},
            "finalizers": [names::FINALIZER_ACCOUNTED],
        },
        "spec": {
            "serviceAccountName": names::JOB_SERVICE_ACCOUNT,
            "automountServiceAccountToken": false,
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}},
            "tolerations": [taint],
            "containers": [{"name": names::JOB_CONTAINER, "image": "none"}],
        },
    }))
}

/// Tries a change without making it, until it is refused; the reason given must contain `message`.
async fn change_refused<K>(api: &Api<K>, name: &str, change: &Patch<Value>, message: &str)
where
    K: Clone + DeserializeOwned + Debug,
{
    let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
    refused_call(message, || api.patch(name, &dry_run, change)).await;
}

#[tokio::test]
async fn a_plan_is_one_of_the_table() {
    let cluster = installed().await;
    let (client, _report) = cluster.client_with_report().await.unwrap();
    let tenants: Api<Tenant> = Api::all(client);
    let message = "spec.plan is 'gold', which is no plan: the plans are basic, enterprise, free, pro";
    refused(&tenants, &tenant("planned", json!({"plan": "gold"})), message).await;

    tenants.create(&PostParams::default(), &tenant("planned", json!({"plan": "free"}))).await.unwrap();
    let to_gold = Patch::Merge(json!({"spec": {"plan": "gold"}}));
    change_refused(&tenants, "planned", &to_gold, message).await;
    let to_pro = Patch::Merge(json!({"spec": {"plan": "pro"}}));
    tenants.patch("planned", &PatchParams::default(), &to_pro).await.unwrap();
}

#[tokio::test]
async fn some_tenants_stay() {
    let cluster = installed().await;
    let (client, _report) = cluster.client_with_report().await.unwrap();
    let tenants: Api<Tenant> = Api::all(client);
    // As the operator creates it.
    let default = default_tenant::build("enterprise").unwrap();
    let default = tenants.create(&PostParams::default(), &default).await.unwrap();
    assert_eq!((default.spec.plan.as_str(), default.spec.prevent_deletion), ("enterprise", true));
    let try_delete = DeleteParams { dry_run: true, ..DeleteParams::default() };
    refused_call("tenant default can't be deleted while its spec.preventDeletion is true", || {
        tenants.delete(names::DEFAULT_TENANT, &try_delete)
    })
    .await;

    tenants.create(&PostParams::default(), &tenant("stays", json!({"preventDeletion": true}))).await.unwrap();
    let message = "tenant stays can't be deleted while its spec.preventDeletion is true";
    refused_call(message, || tenants.delete("stays", &try_delete)).await;
    let allow = Patch::Merge(json!({"spec": {"preventDeletion": false}}));
    tenants.patch("stays", &PatchParams::default(), &allow).await.unwrap();
    tenants.delete("stays", &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn job_pods_are_the_operators_alone() {
    let cluster = installed().await;
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    let operator = operator(cluster).await;
    let namespace = tenant_namespace(&operator, "tenant-pods").await;
    let theirs: Api<Pod> = Api::namespaced(admin, &namespace);
    let ours: Api<Pod> = Api::namespaced(operator, &namespace);

    // Other users create no pods with Crofter's labels or finalizer, and any other pods.
    let labels = LABELS;
    let finalizer = "only Crofter sets or removes the finalizer crofter.io/accounted";
    refused(&theirs, &job_pod("forged", "tenant-pods"), labels).await;
    let mut unlabelled = job_pod("forged", "tenant-pods");
    unlabelled.metadata.labels = None;
    refused(&theirs, &unlabelled, finalizer).await;
    unlabelled.metadata.finalizers = None;
    theirs.create(&PostParams::default(), &unlabelled).await.unwrap();

    // They change neither on a job's pod.
    ours.create(&PostParams::default(), &job_pod("job", "tenant-pods")).await.unwrap();
    for (change, message) in [
        (json!({"labels": {names::LABEL_JOB_UID: null}}), names::LABEL_JOB_UID),
        (json!({"labels": {names::LABEL_ATTEMPT: "2"}}), names::LABEL_ATTEMPT),
        (json!({"labels": {names::LABEL_TENANT: "other"}}), names::LABEL_TENANT),
        (json!({"finalizers": null}), finalizer),
    ] {
        let patch = Patch::Merge(json!({"metadata": change}));
        change_refused(&theirs, "job", &patch, message).await;
    }
    // Other changes of it are admitted, and the operator removes its own finalizer.
    let harmless = Patch::Merge(json!({"metadata": {"labels": {"example.com/note": "seen"}}}));
    theirs.patch("job", &PatchParams::default(), &harmless).await.unwrap();
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    ours.patch("job", &PatchParams::default(), &release).await.unwrap();
}

/// A pod with the marks of a job's is refused in every namespace, through whichever subresource the marks are to come.
#[tokio::test]
async fn no_pod_anywhere_is_marked_as_a_jobs() {
    let cluster = installed().await;
    let (client, _report) = cluster.client_with_report().await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client, "default");
    let mut forged = job_pod("forged", "tenant-pods");
    forged.spec.as_mut().unwrap().service_account_name = None;
    refused(&pods, &forged, LABELS).await;
    forged.metadata.labels = Some([(names::LABEL_MANAGED_BY.to_owned(), names::MANAGER.to_owned())].into());
    forged.metadata.finalizers = None;
    refused(&pods, &forged, names::LABEL_MANAGED_BY).await;
    forged.metadata.labels = Some([(names::LABEL_MANAGED_BY.to_owned(), "Helm".to_owned())].into());
    pods.create(&PostParams::default(), &forged).await.unwrap();

    let marks =
        json!({"metadata": {"labels": {names::LABEL_JOB_UID: "0b8e9a52", names::LABEL_ATTEMPT: "1"}}});
    let finalizer = json!({"metadata": {"finalizers": [names::FINALIZER_ACCOUNTED]}});
    let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
    for (change, message) in
        [(&marks, LABELS), (&finalizer, "only Crofter sets or removes the finalizer crofter.io/accounted")]
    {
        let change = Patch::Merge(change);
        refused_call(message, || pods.patch("forged", &dry_run, &change)).await;
        refused_call(message, || pods.patch_status("forged", &dry_run, &change)).await;
    }
    // What kubelets and others do to their own pods is no concern of the policy.
    let note = Patch::Merge(
        json!({"metadata": {"labels": {"example.com/note": "seen"}}, "status": {"message": "x"}}),
    );
    pods.patch_status("forged", &PatchParams::default(), &note).await.unwrap();
}

/// A paused object is left alone by the operator, so that its tenant could neither be drained nor deleted.
#[tokio::test]
async fn only_who_may_update_the_tenant_pauses_its_jobs_and_keys() {
    let cluster = installed().await;
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    let operator = operator(cluster).await;
    let name = tenant_namespace(&operator, "tenant-paused").await;
    let paul = tenant_admin(cluster, &name, "paul").await;

    let message =
        "crofter.io/paused is for who may update the Tenant: paul may not update Tenant tenant-paused";
    let pause = Patch::Merge(json!({"metadata": {"annotations": {names::ANNOTATION_PAUSED: "true"}}}));
    let annotations = json!({names::ANNOTATION_PAUSED: "true"});
    let jobs: Api<Job> = Api::namespaced(paul.clone(), &name);
    let job = |name: &str, annotations: Value| -> Job {
        object(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Job",
            "metadata": {"name": name, "annotations": annotations}, "spec": {"image": "none"},
        }))
    };
    let key: TenantApiKey = object(json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": {"name": "ci"},
        "spec": {"scopes": ["jobs:read"]},
    }));
    let keys: Api<TenantApiKey> = Api::namespaced(paul, &name);
    jobs.create(&PostParams::default(), &job("job", json!({}))).await.unwrap();
    keys.create(&PostParams::default(), &key).await.unwrap();
    refused(&jobs, &job("born-paused", annotations), message).await;
    change_refused(&jobs, "job", &pause, message).await;
    change_refused(&keys, "ci", &pause, message).await;

    // An administrator pauses; the tenant still changes what is paused, but does not resume it.
    Api::<Job>::namespaced(admin, &name).patch("job", &PatchParams::default(), &pause).await.unwrap();
    let cancel = Patch::Merge(json!({"spec": {"canceled": true}}));
    jobs.patch("job", &PatchParams::default(), &cancel).await.unwrap();
    let resume = Patch::Merge(json!({"metadata": {"annotations": {names::ANNOTATION_PAUSED: null}}}));
    change_refused(&jobs, "job", &resume, message).await;
}

#[tokio::test]
async fn a_job_keeps_the_finalizer_of_what_is_not_counted() {
    let cluster = installed().await;
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    let operator = operator(cluster).await;
    let namespace = tenant_namespace(&operator, "tenant-jobs").await;
    let theirs: Api<Job> = Api::namespaced(admin, &namespace);
    let ours: Api<Job> = Api::namespaced(operator, &namespace);

    let job: Job = object(json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": {"name": "job"}, "spec": {"image": "none"},
    }));
    theirs.create(&PostParams::default(), &job).await.unwrap();
    let hold = Patch::Merge(json!({"metadata": {"finalizers": [names::FINALIZER_ACCOUNTED]}}));
    ours.patch("job", &PatchParams::default(), &hold).await.unwrap();
    let release = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    let message = "it goes by itself once the run is counted";
    change_refused(&theirs, "job", &release, message).await;
    let cancel = Patch::Merge(json!({"spec": {"canceled": true}}));
    theirs.patch("job", &PatchParams::default(), &cancel).await.unwrap();
    ours.patch("job", &PatchParams::default(), &release).await.unwrap();
}

#[tokio::test]
async fn a_tenants_namespace_keeps_its_labels() {
    let cluster = installed().await;
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    let operator = operator(cluster).await;
    let name = tenant_namespace(&operator, "tenant-labels").await;
    let namespaces: Api<Namespace> = Api::all(admin);
    for (namespace, label, value) in [
        (name.as_str(), names::LABEL_TENANT, Value::Null),
        (name.as_str(), names::LABEL_TENANT, json!("other")),
        ("default", names::LABEL_TENANT_UID, json!("0b8e9a52")),
    ] {
        let patch = Patch::Merge(json!({"metadata": {"labels": {label: value}}}));
        change_refused(&namespaces, namespace, &patch, label).await;
    }
    let forged: Namespace =
        object(json!({"metadata": {"name": "forged", "labels": {names::LABEL_TENANT: "forged"}}}));
    refused(&namespaces, &forged, names::LABEL_TENANT).await;
    let note = Patch::Merge(json!({"metadata": {"labels": {"example.com/note": "seen"}}}));
    namespaces.patch(&name, &PatchParams::default(), &note).await.unwrap();
}

/// The operator's role holds in the whole cluster, so the policy is what keeps it out of other people's namespaces.
#[tokio::test]
async fn the_operator_reaches_only_tenants_namespaces() {
    let cluster = installed().await;
    let operator = operator(cluster).await;
    let namespaces: Api<Namespace> = Api::all(operator.clone());
    let message =
        |namespace: &str| format!("Crofter works in tenants' namespaces only, and {namespace} is none");

    refused(&namespaces, &object(json!({"metadata": {"name": "plain"}})), &message("plain")).await;
    let adopt = Patch::Merge(json!({"metadata": {"labels": {names::LABEL_TENANT: "acme"}}}));
    change_refused(&namespaces, "default", &adopt, &message("default")).await;
    let try_delete = DeleteParams { dry_run: true, ..DeleteParams::default() };
    refused_call(&message(NAMESPACE), || namespaces.delete(NAMESPACE, &try_delete)).await;
    let accounts: Api<ServiceAccount> = Api::namespaced(operator.clone(), "kube-system");
    refused(&accounts, &object(json!({"metadata": {"name": "x"}})), &message("kube-system")).await;
    refused_call(&message("kube-system"), || accounts.delete("default", &try_delete)).await;
    let pods: Api<Pod> = Api::namespaced(operator.clone(), "kube-system");
    let mut pod = job_pod("x", "acme");
    pod.spec.as_mut().unwrap().service_account_name = Some("default".to_owned());
    refused(&pods, &pod, &message("kube-system")).await;

    let name = tenant_namespace(&operator, "tenant-reach").await;
    let retain = Patch::Merge(json!({"metadata": {"labels": {names::LABEL_TENANT: null}}}));
    namespaces.patch(&name, &PatchParams::default(), &retain).await.unwrap();
    change_refused(&namespaces, &name, &adopt, &message(&name)).await;
}

/// The operator's role lets it write every Secret of a tenant; the policy leaves it those of API keys and the one of the peppers.
#[tokio::test]
async fn the_operator_writes_only_the_secrets_of_keys() {
    let cluster = installed().await;
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    let operator = operator(cluster).await;
    let name = tenant_namespace(&operator, "tenant-secrets").await;
    // What has an owner that there is none of is deleted by Kubernetes.
    let key: TenantApiKey = TenantApiKey::new("ci", object(json!({"scopes": ["jobs:read"]})));
    let keys: Api<TenantApiKey> = Api::namespaced(admin.clone(), &name);
    let uid = keys.create(&PostParams::default(), &key).await.unwrap().uid();
    let secret = |name: &str, owner: Option<&str>| -> Secret {
        let owners = owner.map(
            |kind| json!([{"apiVersion": "crofter.io/v1alpha1", "kind": kind, "name": "ci", "uid": uid}]),
        );
        object(json!({"metadata": {"name": name, "ownerReferences": owners}}))
    };
    // The operator creates and changes Secrets that a TenantApiKey owns, and no others.
    let only = "Crofter writes only the Secrets of API keys";
    let ours: Api<Secret> = Api::namespaced(operator.clone(), &name);
    refused(&ours, &secret("plain", None), only).await;
    refused(&ours, &secret("plain", Some("Job")), only).await;
    ours.create(&PostParams::default(), &secret("ci", Some("TenantApiKey"))).await.unwrap();
    let text = Patch::Merge(json!({"stringData": {"token": "x"}}));
    ours.patch("ci", &PatchParams::default(), &text).await.unwrap();
    // It neither changes nor adopts another user's Secret.
    let theirs: Api<Secret> = Api::namespaced(admin.clone(), &name);
    theirs.create(&PostParams::default(), &secret("theirs", None)).await.unwrap();
    change_refused(&ours, "theirs", &text, only).await;
    let adopt =
        json!({"metadata": {"ownerReferences": secret("x", Some("TenantApiKey")).metadata.owner_references}});
    change_refused(&ours, "theirs", &Patch::Merge(adopt), only).await;

    // In its own namespace it writes the pepper alone.
    let home: Api<Secret> = Api::namespaced(operator.clone(), NAMESPACE);
    home.create(&PostParams::default(), &secret(names::PEPPER_SECRET, None)).await.unwrap();
    let none = format!("Crofter works in tenants' namespaces only, and {NAMESPACE} is none");
    refused(&home, &secret("another", Some("TenantApiKey")), &none).await;
    Api::<Secret>::namespaced(admin, NAMESPACE)
        .delete(names::PEPPER_SECRET, &DeleteParams::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn what_surrounds_a_job_is_bounded() {
    let cluster = installed().await;
    let (client, _report) = cluster.client_with_report().await.unwrap();
    let jobs: Api<Job> = Api::namespaced(client, "default");
    let job = |metadata: Value| -> Job {
        let mut whole = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": metadata, "spec": {"image": "none"},
        });
        whole["metadata"]["name"] = json!("surrounded");
        object(whole)
    };
    let labels = |count: usize| -> Value {
        (0..count).map(|n| (format!("label-{n:04}"), json!(""))).collect::<serde_json::Map<_, _>>().into()
    };
    // A job with more labels, annotations or finalizers than the bound is refused with the numbers.
    let message = "there are 129 labels and annotations: give at most 128";
    refused(&jobs, &job(json!({"labels": labels(128), "annotations": {"note": ""}})), message).await;
    let annotations = json!({"note": "x".repeat(131_069)});
    let message = "labels and annotations have 131073 characters in all: give at most 131072";
    refused(&jobs, &job(json!({"annotations": annotations})), message).await;
    let owner =
        |room: usize| json!([{"apiVersion": "v1", "kind": "None", "name": "x".repeat(room - 7), "uid": "u"}]);
    let message = "finalizers and ownerReferences have 8193 characters in all: give at most 8192";
    refused(&jobs, &job(json!({"ownerReferences": owner(8_193)})), message).await;
    let finalizers: Vec<_> = (0..33).map(|n| format!("example.com/f{n}")).collect();
    let message = "there are 33 finalizers and ownerReferences: give at most 32";
    refused(&jobs, &job(json!({"finalizers": finalizers})), message).await;
    // A job at the bound is admitted.
    let note = json!({"note": "x".repeat(131_072 - 4 - 127 * 10)});
    let fits = job(json!({"labels": labels(127), "annotations": note, "ownerReferences": owner(8_192)}));
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    jobs.create(&dry_run, &fits).await.unwrap();
    // Each manager that applies it has a list of the fields.
    let apply = async |manager: usize, dry_run: bool| {
        let params = PatchParams { dry_run, ..PatchParams::apply(&format!("manager-{manager}")).force() };
        jobs.patch("surrounded", &params, &Patch::Apply(&job(json!({"labels": labels(100)})))).await
    };
    for manager in 1..=16 {
        apply(manager, false).await.unwrap();
    }
    let message = "there are 17 field managers (metadata.managedFields): apply with at most 16";
    refused_call(message, || apply(17, true)).await;
    apply(16, true).await.unwrap();
}
