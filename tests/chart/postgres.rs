//! The Postgres that the chart can install: what its pod may do and is made of. Its server itself runs in no test here.

use std::process::Command;

use crofter_test_cluster::{Cluster, wait};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Namespace, Pod, Secret},
};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde_json::json;

use super::{NAMESPACE, PROPAGATION_TIMEOUT, chart, helm, object, succeeded, text};

/// Its StatefulSet, and what has the same name.
const POSTGRES: &str = "crofter-postgres";

/// Runs what the init container runs, with the rights that it has.
async fn init_container(cluster: &Cluster, client: &Client) {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), NAMESPACE);
    let pod = sets.get(POSTGRES).await.unwrap().spec.unwrap().template.spec.unwrap();
    let init = pod.init_containers.unwrap().remove(0);
    let kubeconfig =
        cluster.kubeconfig_for_service_account(NAMESPACE, &pod.service_account_name.unwrap()).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
    command.args(init.args.unwrap()).env("KUBECONFIG", kubeconfig.unwrap());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[tokio::test]
async fn its_secret_is_created_once_and_its_pod_is_restricted() {
    let cluster = Cluster::builder().postgres(false).start().unwrap();
    let (client, _report) = cluster.client_with_report().await.unwrap();
    let strict = json!({"metadata": {
        "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    }});
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object(strict)).await.unwrap();
    let bundled = ["--set", "database.bundled.enabled=true"];
    let notes = succeeded(&helm(&cluster, "install", &chart(), &bundled).await);
    assert!(notes.contains("WARNING: database.bundled is for a first try"), "{notes}");
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    wait::until(PROPAGATION_TIMEOUT, "its pod in a restricted namespace", || pods.get("crofter-postgres-0"))
        .await
        .unwrap();

    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    assert!(secrets.get_opt(POSTGRES).await.unwrap().is_none());
    init_container(&cluster, &client).await;
    let made = secrets.get(POSTGRES).await.unwrap();
    let data = made.data.as_ref().unwrap();
    let value = |key: &str| text(&data[key].0);
    assert_eq!(value("password").len(), 48);
    let url = format!("postgres://crofter:{}@crofter-postgres.crofter-system.svc/crofter", value("password"));
    assert_eq!(value("url"), url);
    init_container(&cluster, &client).await;
    assert_eq!(secrets.get(POSTGRES).await.unwrap(), made);

    // Its service account reads no Secret, and creates none elsewhere.
    let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, POSTGRES).await.unwrap();
    let postgres = cluster.client_for(&kubeconfig).await.unwrap();
    let code = |error: kube::Error| match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    };
    let own: Api<Secret> = Api::namespaced(postgres.clone(), NAMESPACE);
    assert_eq!(code(own.get(POSTGRES).await.unwrap_err()), 403);
    assert_eq!(code(own.list(&ListParams::default()).await.unwrap_err()), 403);
    let other: Secret = object(json!({"metadata": {"name": "other"}}));
    let elsewhere: Api<Secret> = Api::namespaced(postgres, "default");
    assert_eq!(code(elsewhere.create(&PostParams::default(), &other).await.unwrap_err()), 403);

    // An uninstall leaves the Secret with the volume that needs it.
    let uninstall = ["uninstall", "crofter", "--namespace", NAMESPACE];
    succeeded(&cluster.helm(uninstall).await.unwrap());
    assert_eq!(secrets.get(POSTGRES).await.unwrap().data, made.data);
}
