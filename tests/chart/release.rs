//! A release in a registry of this machine: the image is pushed as an index and pulled by its digest, and the chart is
//! installed from `oci://` and names that digest.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crofter_test_cluster::{Cluster, image, process::Process, wait};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use serde_json::Value;
use tokio::process::Command as AsyncCommand;

use super::{NAMESPACE, RELEASE, operator::WAIT_TIMEOUT, succeeded, text};

/// A registry without TLS and without users.
struct Registry {
    address: String,
    _process: Process,
}

impl Registry {
    async fn start(cluster: &Cluster) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let (config, root) = (cluster.dir().join("registry.yml"), cluster.dir().join("registry"));
        let yaml = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
            root.display()
        );
        fs::write(&config, yaml).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(config);
        let process = cluster.start_process("registry", command).unwrap();
        wait::until(WAIT_TIMEOUT, "the registry", || tokio::net::TcpStream::connect(&address)).await.unwrap();
        Self { address, _process: process }
    }
}

/// Runs `program` in the repository with the test's helm.
async fn run(cluster: &Cluster, program: &str, arguments: &[&str]) -> Output {
    let mut dirs = cluster.bin_dirs().to_vec();
    dirs.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut command = AsyncCommand::new(program);
    command.args(arguments).env("PATH", std::env::join_paths(dirs).unwrap()).kill_on_drop(true);
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    tokio::time::timeout(2 * WAIT_TIMEOUT, command.output()).await.unwrap().unwrap()
}

/// The layout of an image. Its program is a small one: what is tested is the way to the registry and back.
fn layout(dir: &Path, version: &str) -> PathBuf {
    let details = image::Details { version, ..image::Details::default() };
    let program = which("busybox");
    let image =
        image::operator(&format!("crofter:{version}"), &program, "no certificates\n", details).unwrap();
    image.write_layout(&dir.join("oci")).unwrap().dir
}

fn which(program: &str) -> PathBuf {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&dirs).map(|dir| dir.join(program)).find(|path| path.exists()).unwrap()
}

#[tokio::test]
async fn a_release_is_installed_from_its_registry() {
    let cluster = Cluster::builder().postgres(false).start().unwrap();
    let registry = Registry::start(&cluster).await;
    let path = format!("{}/example", registry.address);
    let version = env!("CARGO_PKG_VERSION");

    // Step 1: the image is pushed, and comes back by the digest that was printed.
    let layout = layout(cluster.dir(), version);
    let pushed = run(&cluster, "scripts/release", &["image", &path, layout.to_str().unwrap()]).await;
    let digest = succeeded(&pushed).trim().to_owned();
    assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}: {}", text(&pushed.stderr));
    let named = format!("docker://{path}/crofter@{digest}");
    let index = run(&cluster, "skopeo", &["inspect", "--raw", "--tls-verify=false", &named]).await;
    let index: Value = serde_json::from_str(&succeeded(&index)).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1, "{index}");
    assert_eq!(index["manifests"][0]["platform"]["os"], "linux", "{index}");
    let pulled = format!("oci:{}:pulled", cluster.dir().join("pulled").display());
    succeeded(&run(&cluster, "skopeo", &["copy", "--src-tls-verify=false", &named, &pulled]).await);

    // Step 2: the chart is pushed, and installed from the registry alone.
    succeeded(&run(&cluster, "scripts/release", &["chart", &path, &digest]).await);
    let chart = format!("oci://{path}/charts/crofter");
    let install = [
        "install",
        RELEASE,
        &chart,
        "--version",
        version,
        "--plain-http",
        "--namespace",
        NAMESPACE,
        "--create-namespace",
    ];
    succeeded(&cluster.helm(install).await.unwrap());
    let deployments: Api<Deployment> = Api::namespaced(cluster.client().await.unwrap(), NAMESPACE);
    let pod = deployments.get(RELEASE).await.unwrap().spec.unwrap().template.spec.unwrap();
    assert_eq!(pod.containers[0].image.as_deref(), Some(format!("{path}/crofter@{digest}").as_str()));
}
