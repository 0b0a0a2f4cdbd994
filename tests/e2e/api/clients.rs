//! Clients that the field's generators make of the document: generated, compiled, and one job run by each.
//!
//! `scripts/clients` generates and compiles, with every tool pinned; a tool's warning is a failure. Each program
//! (`tests/clients`) asks who it is, has a submit refused with 422, submits a job, waits for its end, lists it, and has the
//! next submit refused with 429, all by the types of its client, and prints what it saw.

use std::{path::Path, process::Output, time::Duration};

use serde_json::{Value, json};
use tokio::process::Command;

use super::{ask, tenant};
use crate::world;

/// The longest that generating and compiling may take, the first installation included.
const LONGEST_BUILD: Duration = Duration::from_secs(900);
/// The longest that a program may run.
const LONGEST_RUN: Duration = Duration::from_secs(120);

async fn ended(command: &mut Command, longest: Duration) -> Output {
    let run = command.kill_on_drop(true).output();
    tokio::time::timeout(longest, run).await.expect("the command did not end").unwrap()
}

/// Runs `scripts/clients` and returns what it prints.
async fn script(what: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("client-{what}"));
    let out = ended(Command::new(root.join("scripts/clients")).arg(what).arg(&dir), LONGEST_BUILD).await;
    assert!(out.status.success(), "scripts/clients {what}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Has a generated client run a job, and compares what it saw with what there is.
async fn runs_a_job(language: &str) {
    let name = format!("api-{language}");
    let verbs = world().verbs().await;
    let key = tenant(&verbs, &name, json!({"plan": "free", "quotas": {"maxJobsPerHour": 1}})).await;
    verbs.worker(&format!("{name}-1"), &name, "4").await;
    let program = script(language).await;
    let mut words = program.split(' ');
    let mut command = Command::new(words.next().unwrap());
    command.args(words).env("CROFTER_URL", world().rest_url("")).env("CROFTER_KEY", &key);
    let out = ended(&mut command, LONGEST_RUN).await;
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{language}: {said}\n{}", String::from_utf8_lossy(&out.stdout));
    let saw: Value = serde_json::from_slice(&out.stdout).unwrap();
    let id = saw["job"].as_str().unwrap();
    let expected = json!({
        "caller": "key",
        "invalid": [422, "invalid_object"],
        "job": id,
        "status": "completed",
        "cpu": "100m",
        "listed": [id],
        "next_cursor": null,
        "refused": [429, "rate_limited"],
    });
    assert_eq!(saw, expected, "{language}");
    let job = ask("GET", &format!("/jobs/{id}"), &key, None).await;
    assert_eq!((job.status, &job.body["status"]), (200, &json!("completed")), "{job:?}");
}

#[tokio::test]
async fn api_a_generated_python_client_runs_a_job() {
    runs_a_job("python").await;
}

#[tokio::test]
async fn api_a_generated_typescript_client_runs_a_job() {
    runs_a_job("typescript").await;
}

#[tokio::test]
async fn api_a_generated_go_client_runs_a_job() {
    runs_a_job("go").await;
}

#[tokio::test]
async fn api_the_linters_of_documents_have_no_finding() {
    assert_eq!(script("lint").await, "");
}
