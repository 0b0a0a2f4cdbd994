//! What tenants' keys and administrators do: `keys`, `tenants`, `nodes` and `usage`.

use std::{os::unix::fs::PermissionsExt, path::Path};

use crofter::api_types::JobPhase;
use crofter_test_cluster::{NodeSpec, wait};
use k8s_openapi::api::{core::v1::ServiceAccount, rbac::v1::ClusterRoleBinding};
use kube::{Api, api::PostParams};
use serde_json::json;

use crate::{
    common::{Verbs, WAIT_TIMEOUT, rest},
    shell::Shell,
    world,
};

fn token(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap().trim().to_owned()
}

#[tokio::test]
async fn cli_a_key_is_created_rotated_and_revoked_with_a_key() {
    // Given a key that may make keys.
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "cli-keys", json!({"plan": "basic"})).await;
    let shell = Shell::key(&key);
    // The REST API shows a token once: without a place for it nothing is created.
    let lost = shell.run(&["keys", "create", "ci", "--scope", "jobs:read"]).await.failed(2);
    assert!(lost.contains("give --token-file FILE or --show-token"), "{lost}");
    let file = shell.home().join("token");
    let created = shell
        .run(&[
            "keys",
            "create",
            "ci",
            "--scope",
            "jobs:read,jobs:write",
            "--token-file",
            file.to_str().unwrap(),
        ])
        .await;
    assert_eq!(
        (created.code, std::fs::metadata(&file).unwrap().permissions().mode() & 0o777),
        (0, 0o600),
        "{created:?}"
    );
    let first = token(&file);
    assert!(!format!("{created:?}").contains(&first), "the token is in its file alone");
    // It works, is listed without its token, and is rotated to standard output.
    assert!(Shell::key(&first).run(&["whoami"]).await.ok().contains("scopes: jobs:read, jobs:write"));
    let list = shell.run(&["keys", "list"]).await.ok();
    assert!(list.contains("jobs:read,jobs:write") && !list.contains(&first), "{list}");
    let rotated = shell.run(&["keys", "rotate", "ci", "--show-token"]).await.ok();
    let second = rotated.trim();
    assert!(second.starts_with("crft_") && second != first, "{rotated:?}");
    world().until_answered(second, 200).await;
    // A file that exists is not replaced.
    let exists = shell.run(&["keys", "rotate", "ci", "--token-file", file.to_str().unwrap()]).await.failed(2);
    assert!(exists.contains("exists: give the name of a new file"), "{exists}");
    // Revoked, it is refused.
    shell.run(&["keys", "revoke", "ci"]).await.ok();
    world().until_answered(second, 401).await;
    shell.run(&["keys", "revoke", "ci"]).await.failed(3);
}

#[tokio::test]
async fn cli_a_key_is_created_rotated_and_revoked_with_a_kubeconfig() {
    let verbs = world().verbs().await;
    verbs.tenant("cli-kubekeys", json!({"plan": "basic"})).await;
    let shell = Shell::administrator().with("CROFTER_TENANT", "cli-kubekeys");
    // The token stays in the key's Secret unless it is asked for.
    let created = shell.run(&["keys", "create", "ci", "--scope", "jobs:read"]).await;
    assert!(created.err.contains("Secret crofter-key-ci in tenant-cli-kubekeys"), "{created:?}");
    assert_eq!(created.out, "key/ci\n");
    let rotated = shell.run(&["keys", "rotate", "ci", "--show-token"]).await.ok();
    let token = rotated.trim();
    assert!(Shell::key(token).run(&["whoami"]).await.ok().contains("tenant: cli-kubekeys"));
    shell.run(&["keys", "revoke", "ci"]).await.ok();
    world().until_answered(token, 401).await;
    let list = shell.run(&["keys", "list", "-o", "json"]).await.json();
    assert_eq!(
        (&list["keys"][0]["name"], &list["keys"][0]["revoked"]),
        (&json!("ci"), &json!(true)),
        "{list}"
    );
}

#[tokio::test]
async fn cli_a_quota_is_raised_with_one_command() {
    let verbs = world().verbs().await;
    verbs.tenant("cli-quota", json!({"plan": "basic"})).await;
    let shell = Shell::administrator();
    let set = shell
        .run(&["tenants", "set", "cli-quota", "--quota", "maxJobs=30", "--quota", "max_gpus=2"])
        .await
        .ok();
    assert_eq!(set, "tenant/cli-quota\n");
    verbs
        .until_tenant("cli-quota", "the quotas", |tenant| {
            let quotas =
                tenant.status.as_ref().and_then(|status| status.effective_quotas.clone()).unwrap_or_default();
            (quotas.max_jobs, quotas.max_gpus, quotas.max_cpu_cores) == (30, 2, 16)
        })
        .await;
    // `plan` takes the plan's again; a suspension shows in the list.
    shell.run(&["tenants", "set", "cli-quota", "--quota", "maxJobs=plan", "--suspend"]).await.ok();
    verbs
        .until_tenant("cli-quota", "the plan's quota", |tenant| {
            tenant.spec.suspended
                && tenant
                    .status
                    .as_ref()
                    .and_then(|s| s.effective_quotas.as_ref())
                    .is_some_and(|q| q.max_jobs == 20)
        })
        .await;
    wait::until(WAIT_TIMEOUT, "the list to say it", async || {
        let list = shell.run(&["tenants", "list"]).await.ok();
        let line = list.lines().find(|line| line.starts_with("cli-quota ")).map(str::to_owned);
        if line.as_ref().is_some_and(|line| line.contains("suspended")) { Ok(()) } else { Err(line) }
    })
    .await
    .unwrap();
    let unknown = shell.run(&["tenants", "set", "cli-quota", "--quota", "maxJob=1"]).await;
    assert!(
        unknown.code == 2 && unknown.err.contains("maxJob is no quota: give one of maxJobs"),
        "{unknown:?}"
    );
    shell.run(&["tenants", "get", "no-such-tenant"]).await.failed(3);
}

/// The token of a service account with every right.
async fn administrators_token(verbs: &Verbs<'_>, name: &str) -> String {
    let account = json!({"metadata": {"name": name}});
    let accounts: Api<ServiceAccount> = verbs.within("crofter-system");
    verbs.create::<ServiceAccount, _>(&accounts, &account).await.unwrap();
    let binding = json!({
        "metadata": {"name": name}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": "crofter-system"}],
    });
    verbs.create::<ClusterRoleBinding, _>(&verbs.all(), &binding).await.unwrap();
    let request =
        serde_json::from_value(json!({"spec": {"audiences": [], "expirationSeconds": 3600}})).unwrap();
    let made = accounts.create_token_request(name, &PostParams::default(), &request).await.unwrap();
    made.status.unwrap().token
}

#[tokio::test]
async fn cli_an_administrators_token_does_over_rest_what_a_kubeconfig_does() {
    // Given a token, which is read from a file, and a tenant with a waiting job.
    let verbs = world().verbs().await;
    verbs.tenant("cli-token", json!({"plan": "basic"})).await;
    verbs.job("cli-token", "waits", json!({})).await;
    world().cluster.add_node(&NodeSpec::new("cli-token-node").capacity("4", "8Gi")).await.unwrap();
    let token = administrators_token(&verbs, "cli-administrator").await;
    let shell = Shell::new().with("CROFTER_URL", &world().rest_url("")).with("CROFTER_TENANT", "cli-token");
    std::fs::write(shell.home().join("token"), format!("{token}\n")).unwrap();
    let shell = shell.with("CROFTER_KEY_FILE", "token");
    // It reads, and changes quotas, keys and nodes.
    assert!(
        shell.run(&["whoami"]).await.ok().contains("system:serviceaccount:crofter-system:cli-administrator")
    );
    assert!(shell.run(&["status"]).await.ok().contains("tenant cli-token, plan basic"));
    assert!(shell.run(&["jobs"]).await.ok().contains("waits"));
    assert!(shell.run(&["jobs", "-A"]).await.ok().starts_with("TENANT"));
    shell.run(&["tenants", "set", "cli-token", "--quota", "maxJobs=7"]).await.ok();
    assert!(shell.run(&["tenants", "list"]).await.ok().contains("0/7"));
    let created = shell.run(&["keys", "create", "ci", "--scope", "jobs:read", "--show-token"]).await.ok();
    assert!(created.starts_with("crft_"), "{created}");
    assert!(shell.run(&["keys", "list"]).await.ok().contains("jobs:read"));
    assert!(shell.run(&["nodes", "assign", "cli-token-node"]).await.ok().contains("cli-token-node"));
    verbs.until_admitted("cli-token-node", Some("cli-token")).await;
    shell.run(&["nodes", "release", "cli-token-node"]).await.ok();
}

#[tokio::test]
async fn cli_a_node_is_assigned_and_released() {
    let verbs = world().verbs().await;
    verbs.tenant("cli-nodes", json!({"plan": "basic"})).await;
    world().cluster.add_node(&NodeSpec::new("cli-node").capacity("4", "8Gi")).await.unwrap();
    let shell = Shell::administrator().with("CROFTER_TENANT", "cli-nodes");
    let assigned = shell.run(&["nodes", "assign", "cli-node"]).await.ok();
    assert!(assigned.contains("cli-node"), "{assigned}");
    verbs.until_admitted("cli-node", Some("cli-nodes")).await;
    wait::until(WAIT_TIMEOUT, "the node to be ready", async || {
        let list = shell.run(&["nodes", "list", "-o", "json"]).await.json();
        if list["nodes"][0]["status"] == "ready" { Ok(()) } else { Err(list) }
    })
    .await
    .unwrap();
    // It is no other tenant's before it is released.
    let other = shell.run(&["nodes", "assign", "cli-node", "-t", "cli-nodes-2"]).await.failed(3);
    assert!(other.contains("there is no such tenant"), "{other}");
    verbs.tenant("cli-nodes-2", json!({"plan": "basic"})).await;
    let taken = shell.run(&["nodes", "assign", "cli-node", "-t", "cli-nodes-2"]).await.failed(5);
    assert!(taken.ends_with("next: kubectl crofter nodes release cli-node --tenant cli-nodes\n"), "{taken}");
    assert_eq!(shell.run(&["nodes", "release", "cli-node"]).await.ok(), "node/cli-node\n");
    verbs.until_admitted("cli-node", None).await;
    shell.run(&["nodes", "release", "cli-node"]).await.failed(3);
}

#[tokio::test]
async fn cli_a_months_usage_is_csv_and_needs_the_rest_api() {
    // Given a job that has run.
    let verbs = world().verbs().await;
    let key = rest::tenant(&verbs, "cli-usage", json!({"plan": "basic"})).await;
    verbs.worker("cli-usage-1", "cli-usage", "8").await;
    verbs.job("cli-usage", "one", json!({})).await;
    verbs.until_phase("cli-usage", "one", JobPhase::Completed).await;
    let month = crate::common::now().to_string()[..7].to_owned();
    let shell = Shell::key(&key);
    // Its day is a line of the month, once the mirror has it.
    let csv = wait::until(WAIT_TIMEOUT, "a line of usage", async || {
        let csv = shell.run(&["usage", "--month", &month, "-o", "csv"]).await.ok();
        if csv.lines().count() > 1 { Ok(csv) } else { Err(csv) }
    })
    .await
    .unwrap();
    assert!(
        csv.starts_with(
            "start,running_hours,cpu_core_hours,memory_gb_hours,gpu_hours,bandwidth_mbps_hours\n"
        ),
        "{csv}"
    );
    assert!(csv.lines().nth(1).unwrap().starts_with(&month), "{csv}");
    assert!(shell.run(&["usage"]).await.ok().contains("TOTAL"));
    // The cluster has no history: the error says which command to run.
    let refused = Shell::administrator().run(&["usage", "-t", "cli-usage"]).await.failed(8);
    assert!(refused.ends_with("next: kubectl crofter login --server URL\n"), "{refused}");
}
