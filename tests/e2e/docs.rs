//! What the documents say to type, typed.

use std::{fs, path::Path, process::Output};

use crofter::api_types::Job;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::{
    common::{WAIT_TIMEOUT, rest},
    world,
};

/// The first block of a page of docs/ that contains `words`.
fn block(page: &str, words: &str) -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(page)).unwrap();
    let mut blocks = text.split("```").skip(1).step_by(2);
    let block = blocks.find(|block| block.contains(words)).expect("the page has such a block");
    block.split_once('\n').unwrap().1.to_owned()
}

/// Types commands into a shell at the project's root, with kubectl for this cluster.
async fn type_in(commands: &str, env: &[(&str, &str)]) -> Output {
    let cluster = &world().cluster;
    let mut dirs = cluster.bin_dirs().to_vec();
    dirs.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let mut shell = Command::new("bash");
    shell.args(["-euo", "pipefail", "-c", commands]).envs(env.iter().copied()).kill_on_drop(true);
    shell.current_dir(env!("CARGO_MANIFEST_DIR"));
    shell.env("KUBECONFIG", cluster.kubeconfig()).env("PATH", std::env::join_paths(dirs).unwrap());
    let output =
        tokio::time::timeout(WAIT_TIMEOUT, shell.output()).await.expect("the commands to end").unwrap();
    assert!(output.status.success(), "{commands}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[tokio::test]
async fn the_first_request_of_the_rest_page_makes_a_job() {
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "curl", json!({})).await;
    let address = format!("http://127.0.0.1:{}", world().api_port);
    let command = block("rest-api.md", "Idempotency-Key: order-66").replace("http://crofter", &address);
    let answer = type_in(&command, &[("KEY", &key)]).await.stdout;
    let job: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(job["status"], "queued", "{job}");
    assert_eq!((&job["queue"], &job["priority"]), (&json!("live"), &json!("high")));
}

#[tokio::test]
async fn the_wait_of_the_page_of_jobs_ends_at_every_end() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/jobs.md")).unwrap();
    let command = page.lines().find(|line| line.contains(" wait tjob/")).unwrap();
    let verbs = world().verbs().await;
    verbs.tenant("awaited", json!({"plan": "basic"})).await;
    verbs.worker("awaited-1", "awaited", "2").await;
    verbs.job("awaited", "good", json!({})).await;
    verbs.job("awaited", "bad", json!({"parameters": {"exit-code": "3"}})).await;
    verbs
        .job("awaited", "late", json!({"timeoutSeconds": 1, "parameters": {"run-seconds": "forever"}}))
        .await;
    verbs.job("awaited", "unwanted", json!({"canceled": true})).await;
    verbs.job("awaited", "refused", json!({"resources": {"cpu": "1000"}})).await;
    for (name, phase) in [
        ("good", "Completed"),
        ("bad", "Failed"),
        ("late", "TimedOut"),
        ("unwanted", "Canceled"),
        ("refused", "Rejected"),
    ] {
        let command = command.replace("tenant-acme", "tenant-awaited").replace("nightly-report", name);
        type_in(&command, &[]).await;
        let job = verbs.within::<Job>("tenant-awaited").get(name).await.unwrap();
        assert_eq!(job.status.unwrap().phase.to_string(), phase, "{name}");
    }
}

#[tokio::test]
async fn the_examples_apply_as_they_say() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tenants.yaml")).unwrap();
    let typed =
        page.lines().filter_map(|line| line.strip_prefix("#   ")).filter(|line| !line.contains("NODE"));
    let commands: Vec<&str> = typed.collect();
    assert!(commands.iter().any(|command| command.ends_with("examples/")), "{commands:?}");
    type_in(&commands.join("\n"), &[]).await;
    let verbs = world().verbs().await;
    for tenant in ["acme", "globex"] {
        let jobs =
            verbs.within::<Job>(&format!("tenant-{tenant}")).list(&kube::api::ListParams::default()).await;
        assert!(!jobs.unwrap().items.is_empty(), "{tenant}");
    }
}
