//! Pages that need no container to run: the chart is installed, the operator is a process with the rights of the chart's account,
//! and the nodes and what runs on them are simulated.

use std::{net::TcpListener, path::Path, process::Command};

use crofter_test_cluster::{Cluster, NodeSpec, process::Process};

use super::{List, Stage, type_pages};
use crate::{NAMESPACE, RELEASE, chart, helm, succeeded};

/// The nodes, with their cores, memory and GPUs. None is a worker before a page labels it.
const NODES: [(&str, &str, &str, u32); 11] = [
    ("system", "4", "16Gi", 0),
    ("m1", "2", "8Gi", 0),
    ("m2", "2", "8Gi", 0),
    ("m3", "2", "8Gi", 0),
    ("m4", "2", "8Gi", 0),
    ("n1", "8", "32Gi", 0),
    ("n2", "8", "32Gi", 0),
    ("n3", "8", "32Gi", 0),
    ("n6", "2", "8Gi", 0),
    ("large", "8", "64Gi", 1),
    ("huge", "32", "128Gi", 0),
];

/// Waits for the operator, and makes an administrator whose token the REST API takes.
const PREPARE: &str = "until kubectl wait --for=condition=Ready tenant/default --timeout=60s; do sleep 0.2; done
kubectl create serviceaccount administrator
kubectl create clusterrolebinding administrator --clusterrole cluster-admin --serviceaccount default:administrator
";

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
async fn pages_on_simulated_nodes_say_what_happens() {
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
    for (name, cpu, memory, gpus) in NODES {
        cluster.add_node(&NodeSpec::new(name).capacity(cpu, memory).gpus(gpus)).await.unwrap();
    }
    let database = cluster.database_url().unwrap();
    let (server, _) = database.rsplit_once('/').unwrap();
    // Every page is what happens.
    let names = vec![
        ("{api}", format!("http://127.0.0.1:{}", ports[1])),
        ("{metrics}", format!("127.0.0.1:{}", ports[0])),
        ("{database}", database.to_owned()),
        ("{old database}", format!("{server}/old")),
        ("{repository}", env!("CARGO_MANIFEST_DIR").to_owned()),
    ];
    let variables = Vec::new();
    let stage = Stage { cluster: &cluster, dir, names, variables };
    stage.type_in(PREPARE).await.unwrap();
    let list = List::read();
    type_pages(&stage, &list, &list.simulated).await;
}
