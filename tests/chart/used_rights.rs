//! The operator uses every right that the chart gives it, out of the audit log of a tenant's whole life: none is kept that a
//! holder of its account alone would have a use for.

use std::{collections::BTreeSet, process::Command};

use crofter::{
    api_types::{Job, JobPhase, Tenant, TenantApiKey, api_key::TenantApiKeySpec},
    names,
};
use crofter_test_cluster::{NodeSpec, wait};
use k8s_openapi::api::{
    core::v1::{LimitRange, Namespace, Node},
    networking::v1::NetworkPolicy,
    rbac::v1::RoleBinding,
};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    NAMESPACE, RELEASE,
    api::installed,
    object,
    operator::{WAIT_TIMEOUT, refusals},
    rights::{lines, rights, used},
};

/// What the API server checks besides the request itself: to apply an object that does not exist is to create it, to bind a
/// role is a right on that role, and to set an owner that blocks deletion one on the owner's finalizers. And what only
/// a rare event makes it do.
fn unseen() -> BTreeSet<String> {
    lines(&[
        ("limitranges.", "create"),
        ("networkpolicies.networking.k8s.io", "create"),
        ("resourcequotas.", "create"),
        ("rolebindings.rbac.authorization.k8s.io", "create"),
        ("serviceaccounts.", "create"),
        ("jobs/finalizers.crofter.io", "update"),
        ("tenants/finalizers.crofter.io", "update"),
        ("tenantapikeys/finalizers.crofter.io", "update"),
        // The same Event once more; a pod that exists already; a key that is none by its schema.
        ("events.events.k8s.io", "patch"),
        ("pods.", "get"),
        ("tenantapikeys.crofter.io", "get"),
    ])
}

/// One line for each verb.
fn single(lines: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    let verbs = |line: String| {
        let (resource, verbs) = line.split_once(": ").unwrap();
        verbs.split(' ').map(|verb| format!("{resource}: {verb}")).collect::<Vec<_>>()
    };
    lines.into_iter().flat_map(verbs).collect()
}

async fn job(client: &Client, name: &str, spec: Value) {
    let job: Job = object(json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": {"name": name}, "spec": spec,
    }));
    Api::namespaced(client.clone(), "tenant-acme").create(&PostParams::default(), &job).await.unwrap();
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    wait::until(WAIT_TIMEOUT, what, async || if is_so().await { Ok(()) } else { Err("not yet") })
        .await
        .unwrap();
}

#[tokio::test]
async fn every_right_of_the_operator_is_used() {
    let cluster = installed().await;
    let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, RELEASE).await.unwrap();
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
        command.args(["run", "--no-api", "--metrics-addr", "127.0.0.1:0", "--default-tenant", "free"]);
        command.args(["--service-account", &format!("{NAMESPACE}/{RELEASE}")]);
        command.env("KUBECONFIG", &kubeconfig).env_remove("DATABASE_URL");
        cluster.start_process(RELEASE, command).unwrap()
    };
    let mut operator = start();
    let (client, _report) = cluster.client_with_report().await.unwrap();
    let tenants: Api<Tenant> = Api::all(client.clone());
    let change = async |spec: Value| {
        let patch = Patch::Merge(json!({"spec": spec}));
        tenants.patch("acme", &PatchParams::default(), &patch).await.unwrap();
    };
    let jobs: Api<Job> = Api::namespaced(client.clone(), "tenant-acme");
    let phase = async |name: &str| {
        jobs.get_opt(name).await.unwrap().and_then(|job| job.status).map(|status| status.phase)
    };
    until("the default tenant", async || tenants.get_opt(names::DEFAULT_TENANT).await.unwrap().is_some())
        .await;

    // A tenant with a worker, a key and jobs: one ends and is deleted by its time to live, one is stopped.
    cluster.add_node(&NodeSpec::new("w1").label(names::NODE_TENANT, "acme")).await.unwrap();
    let acme: Tenant = object(json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme"},
        "spec": {"plan": "basic", "access": [{"kind": "User", "name": "alice", "role": "developer"}]},
    }));
    tenants.create(&PostParams::default(), &acme).await.unwrap();
    until("the tenant to be ready", async || {
        let status = tenants.get("acme").await.unwrap().status.unwrap_or_default();
        status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
    })
    .await;
    let keys: Api<TenantApiKey> = Api::namespaced(client.clone(), "tenant-acme");
    keys.create(&PostParams::default(), &TenantApiKey::new("ci", TenantApiKeySpec::default())).await.unwrap();
    job(&client, "short", json!({"image": "none", "ttlSecondsAfterFinished": 1})).await;
    job(&client, "long", json!({"image": "none", "parameters": {"run-seconds": "forever"}})).await;
    until("a job to run", async || phase("long").await == Some(JobPhase::Running)).await;
    until("an ended job to be deleted", async || phase("short").await.is_none()).await;
    change(json!({"suspended": true, "suspendPolicy": "Drain"})).await;
    until("the job to be stopped", async || phase("long").await == Some(JobPhase::Queued)).await;

    // Another leader finds all of it, and takes what is no longer wanted.
    operator.kill().unwrap();
    let lease: Api<k8s_openapi::api::coordination::v1::Lease> = Api::namespaced(client.clone(), NAMESPACE);
    lease.delete(names::LEASE, &DeleteParams::default()).await.unwrap();
    let _operator = start();
    let all = ListParams::default();
    change(json!({"access": [], "networkIsolation": "None"})).await;
    let policies: Api<NetworkPolicy> = Api::namespaced(client.clone(), "tenant-acme");
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), "tenant-acme");
    until("policies and bindings to be removed", async || {
        let bindings = bindings.list_metadata(&all).await.unwrap().items;
        let of_people =
            bindings.iter().any(|binding| binding.metadata.name.as_deref() == Some("crofter-developer"));
        policies.list_metadata(&all).await.unwrap().items.is_empty() && !of_people
    })
    .await;
    let release = Patch::Merge(json!({"metadata": {"labels": {names::NODE_TENANT: null}}}));
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.patch("w1", &PatchParams::default(), &release).await.unwrap();
    change(json!({"deletionPolicy": "Retain"})).await;
    tenants.delete("acme", &DeleteParams::default()).await.unwrap();
    let limits: Api<LimitRange> = Api::namespaced(client.clone(), "tenant-acme");
    until("the tenant to be deleted and its namespace to be kept", async || {
        let is_kept = Api::<Namespace>::all(client.clone()).get_opt("tenant-acme").await.unwrap().is_some();
        tenants.get_opt("acme").await.unwrap().is_none()
            && is_kept
            && limits.list(&all).await.unwrap().items.is_empty()
    })
    .await;
    // A tenant whose namespace goes with it.
    let brief: Tenant = object(json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "brief"}, "spec": {"plan": "free"},
    }));
    tenants.create(&PostParams::default(), &brief).await.unwrap();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    until("a namespace", async || namespaces.get_opt("tenant-brief").await.unwrap().is_some()).await;
    tenants.delete("brief", &DeleteParams::default()).await.unwrap();
    until("the namespace to be deleted", async || {
        namespaces.get_opt("tenant-brief").await.unwrap().is_none()
    })
    .await;

    // It was refused nothing, and has no right that it did not use.
    assert_eq!(refusals(&cluster, RELEASE), Vec::<String>::new());
    let account = cluster.client_for(&kubeconfig).await.unwrap();
    let granted =
        single(rights(&account, NAMESPACE).await.into_iter().filter(|line| !line.ends_with(": bind")));
    let used = single(used(&cluster, RELEASE, &[names::PEPPER_SECRET, names::DEFAULT_TENANT_RECORD]));
    let unused: BTreeSet<_> = granted.difference(&used).cloned().collect();
    assert_eq!(unused.difference(&unseen()).collect::<Vec<_>>(), Vec::<&String>::new());
}
