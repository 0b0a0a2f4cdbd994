//! What is read: `status`, `jobs`, `why`, `whoami` and `version`.

use crofter::api_types::JobPhase;
use crofter_test_cluster::wait;
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::json;

use crate::{
    common::{
        Verbs, WAIT_TIMEOUT,
        rest::{self, ALL},
    },
    shell::Shell,
    world,
};

/// A tenant with a running, a completed and a waiting job, and a key.
async fn tenant(verbs: &Verbs<'_>, name: &str) -> String {
    let spec = json!({"plan": "basic", "quotas": {"maxJobs": 1}});
    let key = rest::tenant(verbs, name, spec).await;
    verbs.worker(&format!("{name}-1"), name, "8").await;
    verbs.job(name, "done", json!({})).await;
    verbs.until_phase(name, "done", JobPhase::Completed).await;
    verbs.job(name, "runs", json!({"parameters": {"RUN_SECONDS": "forever"}})).await;
    verbs.until_phase(name, "runs", JobPhase::Running).await;
    verbs.later_job(name, "waits", json!({})).await;
    verbs.until_reason(name, "waits", "WaitingForQuota").await;
    key
}

#[tokio::test]
async fn cli_a_tenant_is_one_page_with_a_kubeconfig_and_with_a_key() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "cli-status").await;
    let (by_key, by_kubeconfig) = (Shell::key(&key), Shell::administrator());
    for (shell, arguments) in [
        (&by_key, &["status"][..]),
        (&by_kubeconfig, &["status", "cli-status"]),
        (&by_kubeconfig, &["status", "-n", "tenant-cli-status"]),
        (&by_kubeconfig, &["status", "-t", "cli-status"]),
    ] {
        let page = shell.run(arguments).await.ok();
        for expected in [
            "tenant cli-status, plan basic, status active",
            "jobs at once",
            "cli-status-1",
            "waits",
            "WaitingForQuota",
        ] {
            assert!(page.contains(expected), "{arguments:?} lacks {expected}: {page}");
        }
        // A pipe gets neither colors nor anything else that is for a terminal.
        assert!(!page.contains('\u{1b}'), "{page:?}");
    }
    // A flag has precedence over the variable.
    let other = Shell::administrator().with("CROFTER_TENANT", "no-such-tenant");
    assert!(other.run(&["status", "-n", "tenant-cli-status"]).await.ok().contains("tenant cli-status"));
    other.run(&["status"]).await.failed(3);
    let page = by_key.run(&["status", "-o", "json"]).await.json();
    assert_eq!(page["tenant"]["quotas"]["max_jobs"], 1, "{page}");
    assert_eq!(page["waiting_jobs"][0]["name"], "waits", "{page}");
}

#[tokio::test]
async fn cli_a_terminal_has_colors_unless_no_color_is_set() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "cli-colors").await;
    let at_terminal = Shell::key(&key).at_terminal(&["jobs"]).await.ok();
    assert!(at_terminal.contains("\u{1b}[") && at_terminal.contains("waits"), "{at_terminal:?}");
    let plain = Shell::key(&key).with("NO_COLOR", "1").at_terminal(&["jobs"]).await.ok();
    assert!(!plain.contains('\u{1b}') && plain.contains("waits"), "{plain:?}");
    let names = Shell::key(&key).run(&["jobs", "-o", "name"]).await.ok();
    assert_eq!(names.lines().count(), 3, "{names}");
}

#[tokio::test]
async fn cli_both_transports_say_the_same_of_a_job() {
    // Given the same job, read with a kubeconfig and with a key.
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "cli-same").await;
    let by_key = Shell::key(&key).run(&["jobs", "done", "-o", "json"]).await.json();
    let cluster = Shell::administrator();
    let by_kubeconfig = cluster.run(&["jobs", "done", "-n", "tenant-cli-same", "-o", "json"]).await.json();
    // Every field that the cluster has is the REST API's.
    for (field, value) in by_kubeconfig.as_object().unwrap() {
        // Where it is, only the cluster knows.
        if field != "namespace" && field != "tenant" {
            assert_eq!(&by_key[field], value, "{field}");
        }
    }
    // A job is found by its id, too, and all tenants' jobs are listed by an administrator.
    let id = by_key["id"].as_str().unwrap();
    let found = cluster.run(&["jobs", id, "-A", "-o", "name"]).await.ok();
    assert_eq!(found, "job/done\n");
    let all = cluster.run(&["jobs", "-A", "--limit", "1000"]).await.ok();
    assert!(all.starts_with("TENANT") && all.contains("cli-same"), "{all}");
    let yaml = Shell::key(&key).run(&["jobs", "--status", "completed", "-o", "yaml"]).await.ok();
    assert!(yaml.contains("name: done") && !yaml.contains("waits"), "{yaml}");
}

#[tokio::test]
async fn cli_why_is_a_checklist() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "cli-why").await;
    // An estimate that is too long in the making is left out.
    let with_estimate = || async {
        let shown = Shell::key(&key).run(&["why", "waits"]).await.ok();
        if shown.contains("starts in about ") { Ok(shown) } else { Err(shown) }
    };
    let by_key = wait::until(WAIT_TIMEOUT, "an estimate", with_estimate).await.unwrap();
    for expected in
        ["job waits is queued: WaitingForQuota", "number 1 of", "NO    job quota", "limit 1 (jobs at once)"]
    {
        assert!(by_key.contains(expected), "{expected}: {by_key}");
    }
    assert!(by_key.contains("(9 of 10 times within "), "{by_key}");
    let by_kubeconfig = Shell::administrator().run(&["why", "waits", "-t", "cli-why"]).await.ok();
    assert!(
        by_kubeconfig.contains("NO    quota") && by_kubeconfig.contains("from the job's last status"),
        "{by_kubeconfig}"
    );
    let running = Shell::key(&key).run(&["why", "runs"]).await.ok();
    assert!(running.contains("it does not wait"), "{running}");
}

#[tokio::test]
async fn cli_a_user_without_rights_and_a_key_of_another_tenant_are_refused() {
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "cli-other", json!({"plan": "basic"})).await;
    let nothing = world().cluster.kubeconfig_for_user("cli-stranger", &[]).unwrap();
    let refused = Shell::of(&nothing).run(&["jobs", "-t", "cli-other"]).await.failed(4);
    assert!(refused.contains("failed to list the jobs: ") && refused.contains("cli-stranger"), "{refused}");
    // A key that names another tenant is refused by the server, and does not return jobs of its own.
    let mismatch = Shell::key(&key).run(&["jobs", "-t", "someone-else"]).await.failed(4);
    assert!(mismatch.ends_with("next: kubectl crofter whoami\n"), "{mismatch}");
}

#[tokio::test]
async fn cli_a_viewer_of_a_tenant_sees_its_quotas_and_jobs() {
    // Given the role of the chart, and a member of a tenant who has it.
    let verbs = world().verbs().await;
    let read = ["get", "list", "watch"];
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "crofter:tenant-viewer"},
        "rules": [{"apiGroups": ["crofter.io"], "resources": ["jobs"], "verbs": read},
                  {"apiGroups": [""], "resources": ["resourcequotas", "limitranges"], "verbs": read}],
    });
    verbs.create::<ClusterRole, _>(&verbs.all(), &role).await.unwrap();
    let access = json!([{"kind": "User", "name": "vera", "role": "viewer"}]);
    verbs.tenant("cli-viewer", json!({"plan": "basic", "access": access})).await;
    verbs.job("cli-viewer", "waits", json!({})).await;
    verbs.until_reason("cli-viewer", "waits", "NoWorkers").await;
    let vera = Shell::of(&world().cluster.kubeconfig_for_user("vera", &[]).unwrap());
    // The page has what Kubernetes counts, and names what she may not read.
    let page = vera.run(&["status", "-n", "tenant-cli-viewer"]).await.ok();
    for expected in ["jobs at once", "CPU cores", "NoWorkers", "not shown: workers: ", "not shown: keys: "] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    assert!(!page.contains("hourly window"), "{page}");
    assert!(vera.run(&["why", "waits", "-t", "cli-viewer"]).await.ok().contains("NO    node fit"));
}

#[tokio::test]
async fn cli_an_error_has_its_exit_code_and_the_command_to_run_next() {
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "cli-errors", json!({"plan": "basic"})).await;
    let shell = Shell::key(&key);
    // Not found, refused credentials, no server, no configuration, and a word that is none.
    let absent = shell.run(&["why", "no-such-job"]).await.failed(3);
    assert!(absent.contains("no job has this name"), "{absent}");
    let wrong = "crft_AAAAAAAAAAAA_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let denied = Shell::key(wrong).run(&["jobs"]).await.failed(4);
    assert!(denied.ends_with("next: kubectl crofter login --server URL\n"), "{denied}");
    assert!(!denied.contains(wrong), "{denied}");
    let away = shell.run(&["jobs", "--server", "http://127.0.0.1:1"]).await.failed(6);
    assert!(away.contains("no answer from http://127.0.0.1:1"), "{away}");
    let unknown = Shell::new().run(&["jobs"]).await.failed(2);
    assert!(unknown.contains("no profile, no --server and no kubeconfig"), "{unknown}");
    assert_eq!(shell.run(&["jobs", "--limit", "0"]).await.code, 2);
    // A reader that has gone is no error worth words.
    let closed = shell.type_in("kubectl-crofter version --client | true; echo ${PIPESTATUS[0]}").await;
    assert!(closed.err.is_empty(), "{closed:?}");
}

#[tokio::test]
async fn cli_it_says_who_is_asking_and_what_answers() {
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "cli-whoami", json!({"plan": "basic"})).await;
    let who = Shell::key(&key).run(&["whoami"]).await.ok();
    assert!(who.contains("key: all\ntenant: cli-whoami\nscopes: jobs:read"), "{who}");
    assert!(!who.contains(&key), "{who}");
    assert_eq!(Shell::key(&key).run(&["whoami", "-o", "json"]).await.json()["scopes"], json!(ALL));
    let user = world().cluster.kubeconfig_for_user("ann", &["staff"]).unwrap();
    let who = Shell::of(&user).run(&["whoami"]).await.ok();
    assert!(who.contains("user: ann\ngroups: staff, system:authenticated\n"), "{who}");
    let version = env!("CARGO_PKG_VERSION");
    let of_rest = Shell::key(&key).run(&["version"]).await.ok();
    assert_eq!(of_rest, format!("kubectl-crofter {version}\nREST API: {version}\n"));
    let of_cluster = Shell::administrator().run(&["version"]).await.ok();
    assert!(of_cluster.contains("Crofter's API: crofter.io/v1alpha1"), "{of_cluster}");
}

#[tokio::test]
async fn cli_kubectl_runs_it_as_a_plugin() {
    let shell = Shell::administrator();
    let help = shell.type_in("kubectl crofter --help").await.ok();
    assert!(help.contains("Usage: kubectl crofter [OPTIONS] <COMMAND>"), "{help}");
    assert_eq!(
        shell.type_in("kubectl crofter version --client").await.ok(),
        format!("kubectl-crofter {}\n", env!("CARGO_PKG_VERSION"))
    );
}
