//! The Helm chart, with the real helm on a real API server: what it renders and refuses, its life from install to
//! uninstall, what the operator and tenants may do by its roles, what its policies refuse, the operator in the pods that
//! it makes on real nodes, and the pages of the documentation as they are typed.

#![expect(clippy::unwrap_used, reason = "helpers of tests, which end where something is not as it should be")]

mod alerts;
mod api;
mod check;
mod generated;
mod key_secrets;
mod lifecycle;
mod operator;
#[path = "../common/page.rs"]
mod page;
mod pages;
mod policies;
mod postgres;
mod real_nodes;
mod recipes;
mod release;
mod rendering;
mod rights;
mod schemas;
mod site;
mod tenant_policies;
mod uninstall;
mod used_rights;
mod values;
mod worker_policies;

use std::{
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use crofter_test_cluster::{Cluster, wait};
use kube::{Api, Client, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{OnceCell, Semaphore, SemaphorePermit};

/// The release's name and that of everything named after it.
const RELEASE: &str = "crofter";
/// Where it is installed.
const NAMESPACE: &str = "crofter-system";
/// How long the API server may take to act on what it was given: policies and aggregated roles come with a delay.
const PROPAGATION_TIMEOUT: Duration = Duration::from_secs(90);

/// How long commands may take that wait for pods, which pull their images.
const COMMANDS_TIMEOUT: Duration = Duration::from_secs(300);

/// The chart as it is checked in.
fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/crofter")
}

/// What a command printed when it succeeded; the test ends when it did not.
fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}\n{}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// What a command said when it failed; the test ends when it did not.
fn failed(output: &Output) -> String {
    assert!(!output.status.success(), "it succeeded:\n{}", text(&output.stdout));
    text(&output.stderr)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `helm <verb> crofter <chart> -n crofter-system <more>`.
async fn helm(cluster: &Cluster, verb: &str, chart: &Path, more: &[&str]) -> Output {
    let chart = chart.to_str().unwrap();
    let command = [verb, RELEASE, chart, "--namespace", NAMESPACE];
    cluster.helm(command.iter().chain(more)).await.unwrap()
}

/// Runs commands in a shell in `dir` whose kubectl and helm are the cluster's, and whose registries are those that its
/// authority vouches for.
async fn shell(cluster: &Cluster, dir: &Path, commands: &str) -> Output {
    let mut dirs = cluster.bin_dirs().to_vec();
    dirs.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut shell = tokio::process::Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", commands]).current_dir(dir).kill_on_drop(true);
    shell.env("KUBECONFIG", cluster.kubeconfig()).env("PATH", std::env::join_paths(dirs).unwrap());
    shell.env("SSL_CERT_FILE", cluster.authority());
    let output = tokio::time::timeout(COMMANDS_TIMEOUT, shell.output()).await;
    assert!(output.is_ok(), "stuck in:\n{commands}");
    output.unwrap().unwrap()
}

/// Types commands into a [`shell`], and ends the test where one fails; returns what they printed.
async fn type_in_at(cluster: &Cluster, dir: &Path, commands: &str) -> String {
    let output = shell(cluster, dir, commands).await;
    assert!(output.status.success(), "{commands}\n{}\n{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The same at the root of the repository.
async fn type_in(cluster: &Cluster, commands: &str) -> String {
    type_in_at(cluster, Path::new(env!("CARGO_MANIFEST_DIR")), commands).await
}

/// The first block of a language in docs/install.md after these words.
fn block_after(words: &str, language: &str) -> String {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/install.md")).unwrap();
    let (_, rest) = page.split_once(words).unwrap();
    let (_, block) = rest.split_once(&format!("```{language}\n")).unwrap();
    block.split_once("```").unwrap().0.to_owned()
}

/// Waits for the turn of a cluster of real nodes: of three at once the kubelets would use up the instances of inotify that the
/// kernel gives a user (128 by default).
async fn turn_of_real_nodes() -> SemaphorePermit<'static> {
    static TURNS: Semaphore = Semaphore::const_new(2);
    TURNS.acquire().await.unwrap()
}

/// A cluster with the chart installed as it is, shared by the tests that only read it.
async fn installed() -> &'static Cluster {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTER
        .get_or_init(|| async {
            let cluster = Cluster::builder().postgres(false).start().unwrap();
            succeeded(&helm(&cluster, "install", &chart(), &["--create-namespace"]).await);
            cluster
        })
        .await
}

/// A client with the operator's own rights.
async fn operator(cluster: &Cluster) -> Client {
    let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, RELEASE).await.unwrap();
    cluster.client_for(&kubeconfig).await.unwrap()
}

/// An object written as JSON.
fn object<K: DeserializeOwned>(json: serde_json::Value) -> K {
    serde_json::from_value(json).unwrap()
}

/// Creates an object without keeping it, until that is refused; the reason given must contain `message`.
async fn refused<K>(api: &Api<K>, what: &K, message: &str)
where
    K: Clone + DeserializeOwned + Serialize + Debug,
{
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    refused_call(message, || api.create(&dry_run, what)).await;
}

/// Makes a call that changes nothing until it is refused; the reason given must contain `message`.
async fn refused_call<T: Debug, F>(message: &str, call: impl Fn() -> F) -> kube::Error
where
    F: Future<Output = kube::Result<T>>,
{
    let error = wait::until(PROPAGATION_TIMEOUT, &format!("a refusal: {message}"), || async {
        match call().await {
            Ok(accepted) => Err(format!("accepted: {accepted:?}")),
            Err(error) => Ok(error),
        }
    })
    .await
    .unwrap();
    assert!(error.to_string().contains(message), "{error}");
    error
}

/// The same, where the refusal must be 403 (Forbidden).
async fn forbidden<T: Debug>(message: &str, call: impl AsyncFn() -> kube::Result<T>) {
    let error = refused_call(message, || call()).await;
    assert!(matches!(&error, kube::Error::Api(status) if status.code == 403), "{error}");
}
