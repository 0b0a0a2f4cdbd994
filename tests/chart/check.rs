//! `helm test`: `crofter check` with the rights of its pod, on a cluster where all is well and on one where things are amiss.

use std::process::{Command, Output};

use crofter::{api_types::Tenant, names, yaml};
use crofter_test_cluster::{Cluster, NodeSpec};
use kube::Api;
use serde_json::{Value, json};

use super::{
    NAMESPACE, RELEASE, chart, helm,
    rendering::{helm_template, of_kind},
    succeeded, text,
};

/// The objects of the test, which Helm makes only while it runs.
fn hooks() -> Vec<Value> {
    hooks_with(&[])
}

fn hooks_with(values: &[&str]) -> Vec<Value> {
    let objects: Vec<Value> = yaml::read_all(&helm_template(values)).unwrap();
    objects.into_iter().filter(|object| object["metadata"]["annotations"]["helm.sh/hook"] == "test").collect()
}

/// A cluster with the chart and what Helm makes for a test but the pod, and a database.
async fn with_hooks() -> (Cluster, String) {
    let cluster = Cluster::builder().start().unwrap();
    succeeded(&helm(&cluster, "install", &chart(), &["--create-namespace"]).await);
    for mut object in hooks().into_iter().filter(|object| object["kind"] != "Pod") {
        object["metadata"].as_object_mut().unwrap().remove("annotations");
        let file = cluster.dir().join("hook.json");
        std::fs::write(&file, object.to_string()).unwrap();
        succeeded(&cluster.kubectl(["apply", "--filename", file.to_str().unwrap()]).await.unwrap());
    }
    let database = cluster.create_database("check").await.unwrap();
    (cluster, database)
}

/// Runs what the pod of the test runs, with its environment and rights.
async fn check(cluster: &Cluster, database: &str, step_seconds: &str) -> Output {
    let hooks = hooks();
    let pod = of_kind(&hooks, "Pod")[0];
    let account = pod["spec"]["serviceAccountName"].as_str().unwrap();
    let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, account).await.unwrap();
    let container = &pod["spec"]["containers"][0];
    let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
    command.args(container["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()));
    for variable in container["env"].as_array().unwrap() {
        command.env(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap());
    }
    command.env("KUBECONFIG", kubeconfig).env("DATABASE_URL", database);
    command.env("CROFTER_CHECK_STEP_SECONDS", step_seconds);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

/// Asserts that the lines begin as these.
fn assert_lines(output: &Output, expected: &[&str]) {
    let printed = text(&output.stdout);
    let lines: Vec<_> = printed.lines().collect();
    let fits = lines.len() == expected.len()
        && lines.iter().zip(expected).all(|(line, text)| line.starts_with(text));
    assert!(fits, "{printed}\n{}", text(&output.stderr));
}

#[tokio::test]
async fn it_finds_what_an_installation_lacks_and_leaves_nothing() {
    let (cluster, database) = with_hooks().await;
    let (client, _report) = cluster.client_with_report().await.unwrap();

    // Without an operator nothing leads, migrates or reconciles.
    let output = check(&cluster, &database, "3").await;
    assert_eq!(output.status.code(), Some(1));
    assert_lines(
        &output,
        &[
            "ok: the CRDs are those of version ",
            "ok: all 14 admission policies are in force",
            "failed: no replica has led in crofter-system; to mend it: kubectl --namespace crofter-system get pods",
            "failed: failed to read the database: ",
            "ok: the clocks of 0 nodes agree",
            "failed: Tenant crofter-check is not ready after 3 s: ",
            "ok: Tenant crofter-check was deleted, with its namespace",
        ],
    );
    let tenants: Api<Tenant> = Api::all(client);
    assert!(tenants.get_opt("crofter-check").await.unwrap().is_none());
}

#[tokio::test]
async fn where_all_is_well_a_job_runs_and_the_tenant_is_deleted() {
    let (cluster, database) = with_hooks().await;
    let (client, _report) = cluster.client_with_report().await.unwrap();
    cluster.add_node(&NodeSpec::new("w1").label(names::NODE_POOL, "shared")).await.unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
    command.args(["run", "--metrics-addr", "127.0.0.1:0", "--api-addr", "127.0.0.1:0"]);
    let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, RELEASE).await.unwrap();
    command.env("KUBECONFIG", kubeconfig).env("DATABASE_URL", &database);
    let _operator = cluster.start_process("crofter", command).unwrap();
    let leads = ["wait", "--for=create", "lease/crofter", "--namespace", NAMESPACE, "--timeout=60s"];
    succeeded(&cluster.kubectl(leads).await.unwrap());

    let output = check(&cluster, &database, "90").await;
    assert_lines(
        &output,
        &[
            "ok: the CRDs are those of version ",
            "ok: all 14 admission policies are in force",
            "ok: ",
            "ok: the database answers, and its schema is of this version",
            "ok: the clocks of 1 nodes agree with the API server's",
            "ok: Tenant crofter-check was created and is ready",
            "ok: a job has run in a shared pool and completed",
            "ok: Tenant crofter-check was deleted, with its namespace",
        ],
    );
    assert!(output.status.success());
    assert!(Api::<Tenant>::all(client).get_opt("crofter-check").await.unwrap().is_none());

    // A policy that is missing, and a CRD of another version, are found.
    succeeded(
        &cluster.kubectl(["delete", "validatingadmissionpolicybinding", "paused.crofter.io"]).await.unwrap(),
    );
    let patch = json!([{"op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/description", "value": "old"}]);
    let patch = format!("--patch={patch}");
    succeeded(&cluster.kubectl(["patch", "crd", "tenants.crofter.io", "--type=json", &patch]).await.unwrap());
    let output = check(&cluster, &database, "90").await;
    assert_eq!(output.status.code(), Some(1));
    let printed = text(&output.stdout);
    assert!(
        printed.contains("failed: CRD tenants.crofter.io is of another version; to mend it: "),
        "{printed}"
    );
    assert!(
        printed.contains(
            "failed: admission policies are missing, or don't deny: paused.crofter.io; to mend it: "
        ),
        "{printed}"
    );
}

#[test]
fn the_policies_that_it_expects_are_those_of_the_chart() {
    let objects: Vec<Value> = yaml::read_all(&helm_template(&[])).unwrap();
    let policies = of_kind(&objects, "ValidatingAdmissionPolicy");
    let mut names: Vec<_> =
        policies.iter().map(|policy| policy["metadata"]["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    let mut expected = crofter::kube_ext::policies::POLICIES;
    expected.sort_unstable();
    assert_eq!(names, expected);
}

#[test]
fn it_runs_no_job_whose_image_a_tenant_could_not_pull() {
    let variables = |values: &[&str]| {
        let hooks = hooks_with(values);
        let variables = of_kind(&hooks, "Pod")[0]["spec"]["containers"][0]["env"].as_array().unwrap().clone();
        variables
            .into_iter()
            .map(|variable| variable["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let image = "CROFTER_CHECK_IMAGE".to_owned();
    assert!(variables(&[]).contains(&image));
    assert!(!variables(&["--set", "imagePullSecrets[0].name=registry"]).contains(&image));
}
