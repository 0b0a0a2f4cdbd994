//! Profiles, completion, and what helps when something is wrong: `login`, `completion`, `can-run`, `trace`, `top`, `check` and
//! `report`.

use std::os::unix::fs::PermissionsExt;

use crofter::api_types::JobPhase;
use serde_json::json;

use crate::{common::rest, shell::Shell, world};

#[tokio::test]
async fn cli_a_profile_is_used_until_another_server_is_named_and_its_key_is_never_shown() {
    // Given a key in a file, and a shell that knows no server.
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "cli-login", json!({"plan": "basic"})).await;
    let shell = Shell::new();
    let url = world().rest_url("");
    // A key that the server refuses is not stored.
    let wrong = shell.run_with(&["login", "--server", &url], Some("crft_wrong\n")).await.failed(4);
    assert!(!wrong.contains("crft_wrong"), "{wrong}");
    shell.run(&["status"]).await.failed(2);
    // Logged in, every verb uses the profile.
    let login = shell.run_with(&["login", "--server", &url], Some(&format!("{key}\n"))).await;
    assert!(login.code == 0 && login.err.contains("as key all"), "{login:?}");
    let file = shell.home().join(".config/crofter/config.yaml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let status = shell.run(&["-v", "status"]).await;
    assert!(status.out.contains("tenant cli-login") && status.err.contains("GET /whoami 200"), "{status:?}");
    let report = shell.run(&["report", "--file", "-"]).await.ok();
    assert!(report.contains("cli-login"), "{report}");
    for shown in [format!("{login:?}"), format!("{status:?}"), report] {
        assert!(!shown.contains(&key[20..]), "{shown}");
    }
    // A kubeconfig that is named comes first, and a profile that is not there is an error.
    let kubeconfig = world().cluster.kubeconfig().to_str().unwrap();
    let who = shell.run(&["whoami", "--kubeconfig", kubeconfig]).await.ok();
    assert!(who.contains("user: "), "{who}");
    shell.run(&["whoami", "--profile", "other"]).await.failed(2);
    // So does a flag before a variable.
    let variable = Shell::key(&key).run(&["whoami", "--kubeconfig", kubeconfig]).await.ok();
    assert!(variable.contains("user: "), "{variable}");
    // What others may read is not used.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let open = shell.run(&["whoami"]).await.failed(2);
    assert!(open.contains("its mode is 644") && open.contains("chmod 600"), "{open}");
}

#[tokio::test]
async fn cli_a_key_that_is_typed_at_a_terminal_is_not_shown() {
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "cli-prompt", json!({"plan": "basic"})).await;
    let shell = Shell::new();
    let url = world().rest_url("");
    let typed = async { Some(format!("{key}\n")) };
    let typed = shell.at_terminal_until(&["login", "--server", &url], "API key or token: ", typed).await;
    assert!(typed.out.contains("as key all"), "{typed:?}");
    assert!(!typed.out.contains(&key[20..]), "{typed:?}");
    assert!(shell.run(&["whoami"]).await.ok().contains("tenant: cli-prompt"));
}

#[tokio::test]
async fn cli_kubectl_and_bash_complete_it() {
    // Given a tenant with a job, and the program that kubectl asks.
    let verbs = world().verbs().await;
    rest::tenant(&verbs, "cli-complete", json!({"plan": "basic"})).await;
    verbs.job("cli-complete", "render", json!({})).await;
    let shell = Shell::administrator();
    let install =
        "mkdir -p bin && kubectl-crofter completion kubectl >bin/kubectl_complete-crofter && chmod +x bin/*";
    assert_eq!(shell.type_in(install).await.code, 0);
    // kubectl offers verbs, and names of jobs from the cluster.
    let kubectl = "PATH=$PWD/bin:$PATH kubectl __complete crofter";
    let verbs_offered = shell.type_in(&format!("{kubectl} sta")).await;
    assert!(verbs_offered.out.starts_with("status\t"), "{verbs_offered:?}");
    let jobs = shell.type_in(&format!("{kubectl} why -t cli-complete ''")).await;
    assert!(jobs.out.lines().any(|line| line == "render") && jobs.out.contains(":4"), "{jobs:?}");
    // Without a server there is nothing to offer, and no error in the middle of a command line.
    let away = Shell::new().run(&["__complete", "--", "why", ""]).await;
    assert_eq!((away.code, away.out.as_str(), away.err.as_str()), (0, ":4\n", ""));
    // A script that bash reads without an error.
    let bash =
        shell.type_in("source <(kubectl-crofter completion bash) && complete -p kubectl-crofter").await.ok();
    assert!(bash.contains("kubectl-crofter"), "{bash}");
}

#[tokio::test]
async fn cli_a_job_is_judged_without_being_submitted() {
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "cli-judge", json!({"plan": "free"})).await;
    let by_kubeconfig = Shell::administrator().with("CROFTER_TENANT", "cli-judge");
    for shell in [Shell::key(&key), by_kubeconfig] {
        let small = shell.run(&["can-run", "--image", "i", "--cpu", "1", "--memory", "1Gi"]).await.ok();
        assert!(
            small.contains("as a job of cli-judge it would start") && small.contains("not checked: "),
            "{small}"
        );
        let large = shell.run(&["can-run", "--image", "i", "--cpu", "5", "-o", "json"]).await;
        assert_eq!(large.code, 5, "{large:?}");
        assert!(
            large.out.contains("\"outlook\": \"rejected\"") && large.out.contains("it can never run"),
            "{large:?}"
        );
    }
    // What the API server would refuse is seen with a kubeconfig, where it checks the job.
    let invalid =
        Shell::administrator().run(&["can-run", "-t", "cli-judge", "--image", "i", "--cpu", "0"]).await;
    assert!(invalid.code == 5 && invalid.out.contains("NO    valid"), "{invalid:?}");
    assert_eq!(Shell::key(&key).run(&["jobs", "-o", "name"]).await.ok(), "");
}

#[tokio::test]
async fn cli_what_a_tenant_owns_is_a_tree() {
    // Given a tenant with a worker, a key and a running job.
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "cli-trace", json!({"plan": "basic"})).await;
    verbs.worker("cli-trace-1", "cli-trace", "8").await;
    verbs.job("cli-trace", "runs", json!({"parameters": {"RUN_SECONDS": "forever"}})).await;
    verbs.until_phase("cli-trace", "runs", JobPhase::Running).await;
    // The tree has all of it.
    let shell = Shell::administrator();
    let tree = shell.run(&["trace", "tenant/cli-trace"]).await.ok();
    for expected in [
        "tenant/cli-trace (active)\n",
        "├─ namespace/tenant-cli-trace",
        "resourcequota/",
        "networkpolicy/",
        "secret/crofter-key-all (its token)",
        "job/runs (Running",
        "pod/runs-",
        "└─ node/cli-trace-1 (admitted)",
    ] {
        assert!(tree.contains(expected), "{expected}: {tree}");
    }
    let job = shell.run(&["trace", "job/runs", "-t", "cli-trace"]).await.ok();
    assert!(job.starts_with("job/runs (Running") && job.contains("on cli-trace-1"), "{job}");
    let top = shell.run(&["top", "--sort", "jobs"]).await.ok();
    assert!(top.starts_with("TENANT") && top.contains("cli-trace"), "{top}");
    // A key has no part of it.
    let by_key = Shell::key(&key).run(&["trace", "tenant/cli-trace"]).await.failed(2);
    assert!(by_key.contains("only the cluster's API has"), "{by_key}");
    assert!(Shell::key(&key).run(&["top"]).await.ok().contains("cli-trace"));
}

#[tokio::test]
async fn cli_a_report_has_nothing_secret_in_it() {
    // Given canaries in whatever a tenant can write.
    const CANARY: &str = "kanarienvogel";
    let verbs = world().verbs().await;
    let spec = json!({"plan": "basic", "metadata": {"note": CANARY}, "displayName": CANARY});
    let key = rest::tenant(&verbs, "cli-report", spec).await;
    let job = json!({
        "env": [{"name": "PASSWORD", "value": CANARY}], "parameters": {"p": CANARY}, "command": [CANARY], "args": [CANARY],
    });
    verbs.job("cli-report", "secretive", job).await;
    let note = json!({"metadata": {"annotations": {"note": CANARY}}});
    verbs.patch_job("cli-report", "secretive", note).await.unwrap();
    verbs.until_reason("cli-report", "secretive", "NoWorkers").await;
    // Neither report has one, nor a token, and both say what is wrong.
    let administrator = Shell::administrator();
    let of_cluster = administrator.run(&["report", "-t", "cli-report", "--file", "r.yaml"]).await;
    assert!(of_cluster.code == 0 && of_cluster.err.contains("read it before you send it"), "{of_cluster:?}");
    let file = administrator.home().join("r.yaml");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let of_cluster = std::fs::read_to_string(file).unwrap();
    let of_rest = Shell::key(&key).run(&["report", "-f", "-"]).await.ok();
    for report in [&of_cluster, &of_rest] {
        assert!(report.contains("secretive") && report.contains("NoWorkers"), "{report}");
        assert!(!report.contains(CANARY) && !report.contains(&key[20..]), "{report}");
    }
    assert!(of_cluster.contains("operator_leases") && of_cluster.contains("holderIdentity"), "{of_cluster}");
    // A file that exists is not replaced.
    administrator.run(&["report", "-t", "cli-report", "--file", "r.yaml"]).await.failed(1);
}

#[tokio::test]
async fn cli_check_is_that_of_the_operator() {
    let shell = Shell::administrator();
    let help = shell.run(&["check", "--", "--help"]).await.ok();
    assert!(help.contains("--attacks"), "{help}");
    let bad = shell.run(&["check", "--", "--no-such-flag"]).await;
    assert_eq!(bad.code, 2, "{bad:?}");
    // Without the chart its policies are missing: the check fails, and says how to mend it.
    let checked = shell.run(&["check", "--", "--step-seconds", "30"]).await;
    assert_eq!(checked.code, 1, "{checked:?}");
    assert!(checked.out.contains("ok: ") && checked.out.contains("to mend it: "), "{checked:?}");
    assert!(checked.err.ends_with("next: kubectl crofter report\n"), "{checked:?}");
}
