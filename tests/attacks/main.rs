//! What must not get through, tried on a real API server with the chart installed by the real helm, and on the REST API of an
//! operator that has the chart's rights: every attack of `crofter check --attacks`, and what each wall holds.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which end where something is not as it should be")]

mod any_job;
mod walls;

use std::{net::TcpListener, path::Path, process::Command, time::Duration};

use crofter::{check::attacks::Site, config::Account};
use crofter_test_cluster::{Cluster, process::Process, wait};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::{Api, api::ListParams};

/// Where the chart is installed.
const HOME: &str = "crofter-system";
/// Name of the release and of the operator's account.
const RELEASE: &str = "crofter";
/// How long the operator may take to lead and to serve.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A cluster with the chart, and an operator with its rights.
struct Installed {
    cluster: Cluster,
    operator: Process,
    /// Port of the REST API.
    api: u16,
}

impl Installed {
    async fn new() -> Self {
        Self::on(Cluster::builder().postgres(false).start().unwrap()).await
    }

    async fn with_audit_log() -> Self {
        Self::on(Cluster::builder().postgres(false).audit_log(true).start().unwrap()).await
    }

    async fn on(cluster: Cluster) -> Self {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/crofter");
        let install =
            ["install", RELEASE, chart.to_str().unwrap(), "--namespace", HOME, "--create-namespace"];
        let output = cluster.helm(install).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let api = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
        command.args(["run", "--metrics-addr", "127.0.0.1:0", "--api-addr", &format!("127.0.0.1:{api}")]);
        command.args(["--service-account", &format!("{HOME}/{RELEASE}")]);
        let kubeconfig = cluster.kubeconfig_for_service_account(HOME, RELEASE).await.unwrap();
        command.env("KUBECONFIG", kubeconfig).env_remove("DATABASE_URL");
        let operator = cluster.start_process(RELEASE, command).unwrap();
        let lease = ["get", "lease/crofter", "--namespace", HOME];
        wait::until(START_TIMEOUT, "a leader", async || {
            let output = cluster.kubectl(lease).await.unwrap();
            if output.status.success() { Ok(()) } else { Err(output) }
        })
        .await
        .unwrap();
        Self { cluster, operator, api }
    }
}

fn site() -> Site {
    Site {
        home: HOME.to_owned(),
        account: Account { namespace: HOME.to_owned(), name: RELEASE.to_owned() },
        prefix: "tenant-".to_owned(),
    }
}

/// As an administrator runs it against an installation.
#[tokio::test]
async fn every_attack_is_refused_by_its_wall_and_nothing_is_left() {
    let installed = Installed::new().await;
    let cluster = &installed.cluster;
    let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
    let url = format!("http://127.0.0.1:{}", installed.api);
    command.args(["check", "--attacks", "--api-url", &url]).env_remove("DATABASE_URL");
    command.env("KUBECONFIG", cluster.kubeconfig());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed: Vec<&str> = printed.lines().filter(|line| !line.starts_with("ok: ")).collect();
    assert!(output.status.success() && failed.is_empty(), "{}", failed.join("\n"));
    assert!(printed.contains("attacks were refused"), "{printed}");
    assert!(printed.ends_with("ok: what was created for the attacks was deleted\n"), "{printed}");

    let (client, _report) = cluster.client_with_report().await.unwrap();
    let (all, namespaces): (_, Api<Namespace>) = (ListParams::default(), Api::all(client.clone()));
    let left = namespaces.list_metadata(&all).await.unwrap().items;
    let names: Vec<_> = left.into_iter().filter_map(|namespace| namespace.metadata.name).collect();
    assert!(!names.iter().any(|name| name.contains("crofter-attacks")), "{names:?}");
    assert!(Api::<Node>::all(client).list_metadata(&all).await.unwrap().items.is_empty());
}
