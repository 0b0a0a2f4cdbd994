//! The chart's life on a cluster: install, upgrade, uninstall and install again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crofter::{api_types::Tenant, names};
use crofter_test_cluster::{Cluster, process::Process, wait};
use k8s_openapi::{
    api::{
        admissionregistration::v1::ValidatingAdmissionPolicy,
        core::v1::{Namespace, Pod},
        rbac::v1::ClusterRole,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{
    NAMESPACE, PROPAGATION_TIMEOUT, RELEASE, chart, helm, object, operator::WAIT_TIMEOUT, succeeded,
};

const TENANTS: &str = "tenants.crofter.io";

/// The chart of an earlier version, whose CRD of tenants had one short name more.
fn earlier_chart(dir: &Path) -> PathBuf {
    let copy = dir.join("earlier-chart");
    copy_dir(&chart(), &copy);
    for (file, now, then) in [
        ("files/crds/tenants.yaml", "    - ten\n", "    - ten\n    - farm\n"),
        ("Chart.yaml", "version: 0.1.0\n", "version: 0.0.9\n"),
    ] {
        let text = fs::read_to_string(copy.join(file)).unwrap();
        assert!(text.contains(now), "{file}");
        fs::write(copy.join(file), text.replacen(now, then, 1)).unwrap();
    }
    copy
}

/// Copies a directory and all below it.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

async fn short_names(client: &Client) -> Vec<String> {
    let crd = Api::<CustomResourceDefinition>::all(client.clone()).get(TENANTS).await.unwrap();
    crd.spec.names.short_names.unwrap()
}

/// The objects of the release besides the CRDs: policies and cluster roles.
async fn leftovers(client: &Client) -> Vec<String> {
    let ours = ListParams::default().labels("app.kubernetes.io/instance=crofter");
    let policies = Api::<ValidatingAdmissionPolicy>::all(client.clone()).list(&ours).await.unwrap();
    let roles = Api::<ClusterRole>::all(client.clone()).list(&ours).await.unwrap();
    let names =
        policies.items.into_iter().map(|p| p.metadata).chain(roles.items.into_iter().map(|r| r.metadata));
    names.filter_map(|m| m.name).collect()
}

/// The operator, with the default tenant that the chart configures.
async fn operator(cluster: &Cluster) -> Process {
    let env = "jsonpath={.spec.template.spec.containers[0].env[?(@.name=='CROFTER_DEFAULT_TENANT')].value}";
    let get = ["get", "deployment", RELEASE, "--namespace", NAMESPACE, "--output", env];
    let plan = succeeded(&cluster.kubectl(get).await.unwrap());
    let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, RELEASE).await.unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
    command.args([
        "run",
        "--metrics-addr",
        "127.0.0.1:0",
        "--api-addr",
        "127.0.0.1:0",
        "--default-tenant",
        &plan,
    ]);
    command.env("KUBECONFIG", kubeconfig).env_remove("DATABASE_URL");
    cluster.start_process("crofter", command).unwrap()
}

#[tokio::test]
async fn installs_upgrades_and_leaves_tenants_behind() {
    let cluster = Cluster::builder().postgres(false).start().unwrap();
    let (client, _report) = cluster.client_with_report().await.unwrap();
    let tenants: Api<Tenant> = Api::all(client.clone());

    // The namespace demands what the operator's pod must therefore fulfil.
    let strict = json!({"metadata": {
        "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    }});
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object(strict)).await.unwrap();
    let notes = succeeded(&helm(&cluster, "install", &earlier_chart(cluster.dir()), &[]).await);
    assert!(notes.contains("kubectl -n crofter-system rollout status deployment/crofter"), "{notes}");
    wait::until(PROPAGATION_TIMEOUT, "the operator's pods in a restricted namespace", || async {
        let labelled = ListParams::default().labels("app.kubernetes.io/name=crofter");
        let pods = Api::<Pod>::namespaced(client.clone(), NAMESPACE).list(&labelled).await.unwrap();
        if pods.items.len() == 2 { Ok(()) } else { Err(pods.items.len()) }
    })
    .await
    .unwrap();
    assert_eq!(short_names(&client).await, ["ten", "farm"]);
    assert!(
        tenants.get_opt(names::DEFAULT_TENANT).await.unwrap().is_none(),
        "it is the operator's to create"
    );
    let mut first = operator(&cluster).await;
    wait::until(WAIT_TIMEOUT, "the default tenant", || tenants.get(names::DEFAULT_TENANT)).await.unwrap();
    first.kill().unwrap();
    let made = tenants.get(names::DEFAULT_TENANT).await.unwrap();
    assert_eq!((made.spec.plan.as_str(), made.spec.prevent_deletion), ("enterprise", true));

    // An upgrade brings the CRDs up to date and leaves the administrator's changes in the default tenant alone.
    let change = Patch::Merge(json!({"spec": {"displayName": "House", "plan": "pro"}}));
    tenants.patch(names::DEFAULT_TENANT, &PatchParams::default(), &change).await.unwrap();
    succeeded(&helm(&cluster, "upgrade", &chart(), &["--set", "namespacePrefix=team-"]).await);
    assert_eq!(short_names(&client).await, ["ten"]);
    // The operator that was upgraded leads, and has seen the tenant as the administrator left it.
    let mut second = operator(&cluster).await;
    wait::until(WAIT_TIMEOUT, "the default tenant to be reconciled", || async {
        let tenant = tenants.get(names::DEFAULT_TENANT).await.unwrap();
        let observed = tenant.status.as_ref().map(|status| status.observed_generation);
        if observed == tenant.metadata.generation { Ok(()) } else { Err(tenant.status) }
    })
    .await
    .unwrap();
    second.kill().unwrap();
    let kept = tenants.get(names::DEFAULT_TENANT).await.unwrap();
    assert_eq!((kept.spec.display_name.as_deref(), kept.spec.plan.as_str()), (Some("House"), "pro"));

    // What an uninstall leaves is what holds data.
    assert!(!leftovers(&client).await.is_empty());
    let uninstall = ["uninstall", "crofter", "--namespace", NAMESPACE, "--wait"];
    succeeded(&cluster.helm(uninstall).await.unwrap());
    assert_eq!(leftovers(&client).await, Vec::<String>::new());
    let kept = tenants.get(names::DEFAULT_TENANT).await.unwrap();
    assert_eq!(kept.metadata.uid, made.metadata.uid);

    // And the next install takes it up again.
    succeeded(&helm(&cluster, "install", &chart(), &[]).await);
    let kept = tenants.get(names::DEFAULT_TENANT).await.unwrap();
    assert_eq!(kept.metadata.uid, made.metadata.uid);
    assert_eq!(kept.spec.display_name.as_deref(), Some("House"));
}
