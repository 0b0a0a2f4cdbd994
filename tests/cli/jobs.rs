//! What is done with jobs: `submit`, `wait`, `cancel`, `retry`, and `logs` as far as they need no container (`tests/real` has
//! those, and the tests of `src/plugin/follow` the rest).

use crofter::api_types::JobPhase;
use serde_json::json;

use crate::{common::rest, shell::Shell, world};

#[tokio::test]
async fn cli_a_job_is_submitted_from_a_file_or_flags_and_followed_to_its_end() {
    // Given a tenant with a worker, and both kinds of clients.
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "cli-submit", json!({"plan": "basic"})).await;
    verbs.worker("cli-submit-1", "cli-submit", "8").await;
    let (by_key, by_kubeconfig) =
        (Shell::key(&key), Shell::administrator().with("CROFTER_TENANT", "cli-submit"));
    let manifest = "apiVersion: crofter.io/v1alpha1\nkind: Job\nmetadata: {name: from-file}\nspec:\n  image: crofter.test/busybox:1\n";
    let small =
        ["--image", "crofter.test/busybox:1", "--cpu", "100m", "--memory", "64Mi", "-p", "RUN_SECONDS=0.2"];
    for (name, shell) in [("rest", &by_key), ("kubeconfig", &by_kubeconfig)] {
        // A manifest on standard input: its name is printed, for scripts.
        let printed = shell.run_with(&["submit", "-f", "-", "--name", name], Some(manifest)).await.ok();
        let job = printed.trim().strip_prefix("job/").unwrap();
        assert_eq!(
            shell.run(&["wait", job, "--timeout", "60s"]).await.ok(),
            format!("{job}: completed with exit code 0\n")
        );
        // Flags, and the end of a job that fails is the end of the command.
        let arguments = [&["submit", "--watch"], &small[..], &["-p", "EXIT_CODE=3"]].concat();
        let watched = shell.run(&arguments).await;
        assert_eq!(watched.code, 3, "{watched:?}");
        assert!(watched.err.contains("failed with exit code 3: NonZeroExit"), "{watched:?}");
        let arguments = [&["submit", "-w"], &small[..]].concat();
        let watched = shell.run(&arguments).await;
        assert_eq!(watched.code, 0, "{watched:?}");
    }
    // With a kubeconfig the name is the Job's.
    verbs.until_phase("cli-submit", "kubeconfig", JobPhase::Completed).await;
}

#[tokio::test]
async fn cli_what_no_job_has_is_refused_by_name_and_what_can_never_run_at_once() {
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "cli-refused", json!({"plan": "free"})).await;
    let by_kubeconfig = Shell::administrator().with("CROFTER_TENANT", "cli-refused");
    for shell in [Shell::key(&key), by_kubeconfig] {
        let bad =
            shell.run_with(&["submit", "-f", "-"], Some("image: i\nhostNetwork: true\n")).await.failed(5);
        assert!(bad.to_lowercase().replace('_', "").contains("hostnetwork"), "{bad}");
    }
    let large = Shell::key(&key).run(&["submit", "--image", "i", "--cpu", "64"]).await.failed(5);
    assert!(large.contains("ExceedsQuota") && large.contains("64"), "{large}");
    let nothing = Shell::key(&key).run(&["submit"]).await.failed(2);
    assert!(nothing.contains("give a file with -f, or --image, or --scenario"), "{nothing}");
    // The same name twice is one job over the REST API, and a conflict for the cluster.
    let once = ["submit", "--image", "i", "--name", "once"];
    let (first, second) = (Shell::key(&key).run(&once).await.ok(), Shell::key(&key).run(&once).await.ok());
    assert_eq!(first, second);
}

#[tokio::test]
async fn cli_a_job_is_canceled_and_submitted_again() {
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "cli-cancel", json!({"plan": "basic"})).await;
    let by_kubeconfig = Shell::administrator().with("CROFTER_TENANT", "cli-cancel");
    for (name, shell) in [("by-key", Shell::key(&key)), ("by-kubeconfig", by_kubeconfig)] {
        // Given a job that waits: it can't be submitted again before it has ended.
        verbs.job("cli-cancel", name, json!({})).await;
        verbs.until_reason("cli-cancel", name, "NoWorkers").await;
        let early = shell.run(&["retry", name]).await.failed(5);
        assert!(early.ends_with(&format!("next: kubectl crofter wait {name}\n")), "{early}");
        let unfinished = shell.run(&["wait", name, "--timeout", "100ms"]).await.failed(7);
        assert!(unfinished.ends_with(&format!("next: kubectl crofter why {name}\n")), "{unfinished}");
        // Canceled, its end is not a success of `wait`.
        assert_eq!(shell.run(&["cancel", name]).await.ok(), format!("job/{name}\n"));
        let end = shell.run(&["wait", name]).await;
        assert_eq!((end.code, end.out.starts_with(&format!("{name}: canceled"))), (130, true), "{end:?}");
        // Again, it is a new job.
        let again = shell.run(&["retry", name, "-o", "json"]).await.json();
        assert_ne!(again["name"], name, "{again}");
        assert_eq!(again["status"], "queued", "{again}");
    }
}

#[tokio::test]
async fn cli_a_log_that_is_not_there_has_its_reason() {
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "cli-logs", json!({"plan": "basic"})).await;
    verbs.job("cli-logs", "waits", json!({})).await;
    verbs.until_reason("cli-logs", "waits", "NoWorkers").await;
    let by_kubeconfig = Shell::administrator().with("CROFTER_TENANT", "cli-logs");
    for shell in [Shell::key(&key), by_kubeconfig] {
        let early = shell.run(&["logs", "waits"]).await.failed(5);
        assert!(early.ends_with("next: kubectl crofter logs -f waits\n"), "{early}");
    }
    // A log that is waited for ends with the job, also where it never starts.
    let shell = Shell::key(&key);
    let (log, ()) = tokio::join!(shell.run(&["logs", "-f", "waits"]), async {
        shell.run(&["cancel", "waits"]).await.ok();
    });
    assert_eq!((log.code, log.out.as_str()), (0, ""), "{log:?}");
}

#[tokio::test]
async fn cli_waiting_moves_at_a_terminal_and_is_silent_in_a_pipe() {
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "cli-wait", json!({"plan": "basic"})).await;
    verbs.job("cli-wait", "a", json!({})).await;
    verbs.until_reason("cli-wait", "a", "NoWorkers").await;
    let shell = Shell::key(&key);
    // At a terminal the reason is shown while it waits, until there is a worker.
    let work = async {
        verbs.worker("cli-wait-1", "cli-wait", "8").await;
        None
    };
    let at_terminal = shell.at_terminal_until(&["wait", "a"], "NoWorkers", work).await.ok();
    assert!(at_terminal.contains("a: completed"), "{at_terminal:?}");
    verbs.until_phase("cli-wait", "a", JobPhase::Completed).await;
    let piped = shell.run(&["wait", "a"]).await;
    assert_eq!(
        (piped.code, piped.out.as_str(), piped.err.as_str()),
        (0, "a: completed with exit code 0\n", "")
    );
}
