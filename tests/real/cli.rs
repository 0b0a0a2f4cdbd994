//! `kubectl crofter` on containers that run: logs as they are printed, over a retry, and the exit code of a job.

use std::{net::TcpListener, process::Output};

use crofter_test_cluster::wait;

use crate::{NODE_LOCK, common::WAIT_TIMEOUT, forward, world};

const TENANT: &str = "alpha";
/// Prints lines, and fails at its first attempt only.
const TWICE: &str =
    "for i in 1 2 3; do echo attempt $CROFTER_ATTEMPT line $i; sleep 1; done; test $CROFTER_ATTEMPT = 2";

/// Runs the plugin without blocking the test's runtime.
async fn run(variables: &[(&str, String)], arguments: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_kubectl-crofter"));
    command.env_clear().args(arguments).envs(variables.iter().cloned()).kill_on_drop(true);
    let output = tokio::time::timeout(WAIT_TIMEOUT * 2, command.output()).await;
    output.expect("it hangs").unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn cli_a_job_is_followed_over_a_retry_with_a_kubeconfig_and_with_a_key() {
    // Given a kubeconfig, and a key for the REST API behind a port forward.
    let Some(world) = world() else { return };
    let _shared = NODE_LOCK.read().await;
    let kubeconfig = world.cluster.kubeconfig().to_str().unwrap().to_owned();
    let by_kubeconfig = [("KUBECONFIG", kubeconfig), ("CROFTER_TENANT", TENANT.to_owned())];
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let _forward = forward(&world.cluster, "port-forward-cli", port).await;
    let scopes = ["keys", "create", "cli", "--scope", "jobs:read,jobs:write", "--show-token"];
    let created = run(&by_kubeconfig, &scopes).await;
    let key = text(&created.stdout).trim().to_owned();
    assert!(key.starts_with("crft_"), "{created:?}");
    let by_key = [("CROFTER_URL", format!("http://127.0.0.1:{port}")), ("CROFTER_KEY", key)];
    wait::until(WAIT_TIMEOUT, "the key to be accepted", async || {
        let who = run(&by_key, &["whoami"]).await;
        if who.status.success() { Ok(()) } else { Err(text(&who.stderr)) }
    })
    .await
    .unwrap();

    let file = world.cluster.dir().join("cli-job.yaml");
    std::fs::write(&file, "image: crofter.test/busybox:1\nmaxRetries: 1\nretryPolicy: Always\n").unwrap();
    for variables in [&by_kubeconfig[..], &by_key[..]] {
        // When it is submitted and watched, each line of both attempts comes once, and the end is the job's.
        let submit = ["submit", "--watch", "-f", file.to_str().unwrap(), "--", "sh", "-c", TWICE];
        let watched = run(variables, &submit).await;
        let (out, err) = (text(&watched.stdout), text(&watched.stderr));
        assert_eq!(watched.status.code(), Some(0), "{out}\n{err}");
        let lines = |attempt: u32| (1..=3).map(move |i| format!("attempt {attempt} line {i}\n"));
        assert_eq!(out, lines(1).chain(lines(2)).collect::<String>(), "{err}");
        assert!(err.contains("running") && err.contains("completed"), "{err}");
        // A job that fails ends the command with its code, and its log can be read afterwards.
        let fails = [
            "submit",
            "-w",
            "--image",
            "crofter.test/busybox:1",
            "-o",
            "json",
            "--",
            "sh",
            "-c",
            "echo first; echo last; exit 7",
        ];
        let failed = run(variables, &fails).await;
        assert_eq!(failed.status.code(), Some(7), "{failed:?}");
        let out = text(&failed.stdout);
        let job: serde_json::Value =
            serde_json::from_str(out.strip_prefix("first\nlast\n").unwrap()).unwrap();
        let logs = ["logs", job["name"].as_str().unwrap(), "--tail", "1"];
        assert_eq!(text(&run(variables, &logs).await.stdout), "last\n");
    }
}
