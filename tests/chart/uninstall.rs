//! Removing Crofter as docs/install.md says, with the page's own commands: nothing of it is left, and nothing is stuck.

use std::process::Command;

use crofter::{
    api_types::{Job, JobPhase, Tenant},
    names,
};
use crofter_test_cluster::{Cluster, NodeSpec, wait};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::json;

use super::{
    NAMESPACE, RELEASE, block_after, chart, helm, object, operator::WAIT_TIMEOUT, succeeded, type_in,
};

#[tokio::test]
async fn to_remove_everything_leaves_nothing_and_hangs_nowhere() {
    let cluster = Cluster::builder().postgres(false).start().unwrap();
    succeeded(&helm(&cluster, "install", &chart(), &["--create-namespace"]).await);
    let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, RELEASE).await.unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
    command.args(["run", "--metrics-addr", "127.0.0.1:0", "--api-addr", "127.0.0.1:0"]);
    command.env("KUBECONFIG", kubeconfig).env_remove("DATABASE_URL");
    let mut operator = cluster.start_process("crofter", command).unwrap();

    // A tenant that may not be deleted yet, with a worker of its own, one of a pool, a job that runs and one that has
    // just ended.
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    cluster.add_node(&NodeSpec::new("own").label(names::NODE_TENANT, "acme")).await.unwrap();
    cluster.add_node(&NodeSpec::new("shared").label(names::NODE_POOL, "gpu")).await.unwrap();
    let tenants: Api<Tenant> = Api::all(admin.clone());
    let acme = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme"},
        "spec": {"plan": "basic", "sharedPools": ["gpu"], "preventDeletion": true},
    });
    tenants.create(&PostParams::default(), &object(acme)).await.unwrap();
    let jobs: Api<Job> = Api::namespaced(admin.clone(), "tenant-acme");
    let job = |name: &str, seconds: &str| -> Job {
        object(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": {"name": name},
            "spec": {"image": "none", "parameters": {"run-seconds": seconds}},
        }))
    };
    let (plainly, running, ended) = (PostParams::default(), job("running", "forever"), job("ended", "1"));
    wait::until(WAIT_TIMEOUT, "the namespace", || jobs.create(&plainly, &running)).await.unwrap();
    jobs.create(&plainly, &ended).await.unwrap();
    for (name, phase) in [("running", JobPhase::Running), ("ended", JobPhase::Completed)] {
        wait::until(WAIT_TIMEOUT, name, || async {
            let status = jobs.get(name).await.unwrap().status;
            if status.as_ref().is_some_and(|s| s.phase == phase) { Ok(()) } else { Err(status) }
        })
        .await
        .unwrap();
    }
    let pods: Api<Pod> = Api::namespaced(admin.clone(), "tenant-acme");
    let held = pods.list(&ListParams::default()).await.unwrap().items;
    assert!(held.iter().all(|pod| pod.finalizers().contains(&names::FINALIZER_ACCOUNTED.to_owned())));
    assert_eq!(held.len(), 2);

    // The operator runs in no pod here, so it is ended where helm would end its pod.
    let commands = block_after("To remove everything", "sh");
    let (before, after) = commands.split_once("helm uninstall").unwrap();
    type_in(&cluster, before).await;
    operator.kill().unwrap();
    type_in(&cluster, &format!("helm uninstall{after}")).await;

    let namespaces = Api::<Namespace>::all(admin.clone()).list(&ListParams::default()).await.unwrap().items;
    let left: Vec<_> = namespaces.iter().map(ResourceExt::name_any).collect();
    let ours = |name: &&String| name.starts_with("tenant-") || name.as_str() == NAMESPACE;
    assert_eq!(left.iter().find(ours), None);
    let crds = cluster.kubectl(["get", "crd", "--output=name"]).await.unwrap();
    assert!(!succeeded(&crds).contains("crofter.io"));
    for node in Api::<Node>::all(admin).list(&ListParams::default()).await.unwrap() {
        let labels: Vec<_> = node.labels().keys().filter(|key| key.starts_with("crofter.")).collect();
        assert_eq!(labels, Vec::<&String>::new(), "{}", node.name_any());
        let taints = node.spec.unwrap_or_default().taints.unwrap_or_default();
        assert_eq!(taints.iter().find(|taint| taint.key == names::NODE_ADMITTED), None);
    }
}
