//! Pages that need no container to run: the chart is installed, the operator is a process with the rights of the chart's account,
//! and the nodes and what runs on them are simulated.

use std::{net::TcpListener, path::Path, process::Command};

use crofter_test_cluster::{Cluster, NodeSpec, process::Process};

use super::{Page, Stage, type_pages};
use crate::{NAMESPACE, RELEASE, chart, helm, succeeded};

/// The nodes, which are no workers before a page labels them.
const NODES: [&str; 3] = ["n1", "n2", "n3"];

/// The pages in the order in which they are typed.
pub(super) const PAGES: &[Page] = &[
    Page { path: "docs/administrators.md", words: &[("worker-1", "n1"), ("worker-2", "n2")], given: "" },
    Page {
        path: "docs/best-practices.md",
        words: &[
            ("lint charts/crofter", "lint {repository}/charts/crofter"),
            ("template crofter charts/crofter", "template crofter {repository}/charts/crofter"),
            ("VALUES=examples/", "VALUES={repository}/examples/"),
        ],
        given: ACME,
    },
    Page { path: "docs/recipes/airflow.md", words: &[], given: ACME },
    Page { path: "docs/recipes/argo-workflows.md", words: RECIPES, given: "" },
    Page { path: "docs/recipes/autoscaling.md", words: &[], given: "" },
    Page { path: "docs/recipes/ci-runners.md", words: RECIPES, given: "" },
    Page { path: "docs/recipes/gpu-training.md", words: RECIPES, given: "" },
    Page { path: "docs/recipes/prometheus.md", words: &[], given: "" },
    Page { path: "docs/recipes/spot.md", words: RECIPES, given: ACME },
    Page {
        path: "docs/recipes/transcoding.md",
        words: &[("-f examples/recipes/", "-f {repository}/examples/recipes/"), ("worker-1", "n1")],
        given: "",
    },
];

/// The files of the recipes.
const RECIPES: &[(&str, &str)] = &[("-f examples/recipes/", "-f {repository}/examples/recipes/")];

/// A tenant without workers.
const ACME: &str = r#"echo '{"apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme"},
    "spec": {"plan": "basic"}}' | kubectl apply --filename -
    kubectl wait --for=condition=Ready tenant/acme
    "#;

/// Starts the operator as the chart would, as a process.
fn start_operator(cluster: &Cluster, kubeconfig: &Path, dir: &Path, ports: [u16; 2]) -> Process {
    let [metrics, api] = ports.map(|port| format!("127.0.0.1:{port}"));
    let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
    command.args(["run", "--metrics-addr", &metrics, "--api-addr", &api, "--default-tenant", "enterprise"]);
    command.args(["--service-account", &format!("{NAMESPACE}/{RELEASE}")]);
    command.arg("--scenarios").arg(dir.join("scenarios.yaml"));
    command.env("KUBECONFIG", kubeconfig).env("POD_NAME", "crofter-0");
    command.env("DATABASE_URL", cluster.database_url().unwrap());
    cluster.start_process("crofter", command).unwrap()
}

#[tokio::test]
async fn the_pages_of_simulated_nodes_say_what_happens() {
    // Given the chart on a control plane with nodes, and the operator with its rights.
    let cluster = Cluster::builder().start().unwrap();
    succeeded(&helm(&cluster, "install", &chart(), &["--create-namespace"]).await);
    let dir = cluster.dir().join("pages");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("scenarios.yaml"), "scenarios: {}").unwrap();
    let sockets = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let ports = sockets.map(|socket| socket.local_addr().unwrap().port());
    let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, RELEASE).await.unwrap();
    let _operator = start_operator(&cluster, &kubeconfig, &dir, ports);
    cluster.add_node(&NodeSpec::new("system").capacity("4", "16Gi")).await.unwrap();
    for node in NODES {
        cluster.add_node(&NodeSpec::new(node).capacity("8", "32Gi")).await.unwrap();
    }
    // Every page is what happens.
    let names = vec![
        ("{api}", format!("http://127.0.0.1:{}", ports[1])),
        ("{metrics}", format!("127.0.0.1:{}", ports[0])),
        ("{repository}", env!("CARGO_MANIFEST_DIR").to_owned()),
    ];
    let variables = vec![("DATABASE_URL".to_owned(), cluster.database_url().unwrap().to_owned())];
    let stage = Stage { cluster: &cluster, dir, names, variables };
    stage.type_in("kubectl wait --for=condition=Ready tenant/default --timeout=60s").await.unwrap();
    type_pages(&stage, PAGES).await;
}
