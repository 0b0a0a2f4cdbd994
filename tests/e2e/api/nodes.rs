//! Nodes that an administrator gives to tenants over REST.

use crofter_test_cluster::{NodeSpec, wait};
use serde_json::{Value, json};

use super::{ask, code, tenant};
use crate::{
    common::{Verbs, WAIT_TIMEOUT},
    world,
};

const LABEL: &str = "crofter.node-restriction.kubernetes.io/tenant";

async fn kubectl(args: &[&str]) -> String {
    let out = world().cluster.kubectl(args.iter().copied()).await.unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// The token of a service account that may do this.
async fn account(name: &str, rules: &[(&str, &str)]) -> String {
    kubectl(&["create", "serviceaccount", name]).await;
    for (at, (verb, resource)) in rules.iter().enumerate() {
        let role = format!("{name}-{at}");
        let (verb, resource) = (format!("--verb={verb}"), format!("--resource={resource}"));
        kubectl(&["create", "clusterrole", &role, &verb, &resource]).await;
        let (of, subject) = (format!("--clusterrole={role}"), format!("--serviceaccount=default:{name}"));
        kubectl(&["create", "clusterrolebinding", &role, &of, &subject]).await;
    }
    kubectl(&["create", "token", name]).await
}

async fn bare(name: &str) {
    world().cluster.add_node(&NodeSpec::new(name).capacity("4", "32Gi")).await.unwrap();
}

async fn label(verbs: &Verbs<'_>, node: &str) -> Option<String> {
    use kube::ResourceExt;
    verbs.all::<k8s_openapi::api::core::v1::Node>().get(node).await.unwrap().labels().get(LABEL).cloned()
}

#[tokio::test]
async fn api_nodes_are_given_within_the_quota_and_taken_back() {
    let verbs = world().verbs().await;
    // Given two nodes, an account that may label nodes and one that may not.
    let key = tenant(&verbs, "api-nodes", json!({"plan": "free"})).await;
    verbs.tenant("api-nodes-2", json!({"plan": "free"})).await;
    let boss = account("api-nodes-boss", &[("patch", "tenants.crofter.io"), ("patch", "nodes")]).await;
    let clerk = account("api-nodes-clerk", &[("patch", "tenants.crofter.io")]).await;
    for node in ["api-nodes-a", "api-nodes-b"] {
        bare(node).await;
    }
    let path = "/v1/tenants/api-nodes/nodes";
    let give =
        async |who: &str, path: &str, node: &str| ask("POST", path, who, Some(&json!({"node": node}))).await;
    // The first one assigns a node, which is ready and listed; a repetition changes nothing.
    let refused = give(&clerk, path, "api-nodes-a").await;
    assert_eq!((refused.status, code(&refused).as_str()), (403, "forbidden"), "{refused:?}");
    let given = give(&boss, path, "api-nodes-a").await;
    // On a busy machine the node is admitted after the answer (202).
    let is_ready = given.body["status"] == "ready";
    assert!((given.status == 201 && is_ready) || given.status == 202, "{given:?}");
    verbs.until_admitted("api-nodes-a", Some("api-nodes")).await;
    let mut view = given.body.clone();
    view["status"] = json!("ready");
    wait::until(WAIT_TIMEOUT, "the node to be listed with the same view", || async {
        let list = ask("GET", path, &key, None).await;
        if list.body["nodes"] == json!([view]) { Ok(()) } else { Err(list) }
    })
    .await
    .unwrap();
    assert_eq!(give(&boss, path, "api-nodes-a").await.status, 200);

    // A second node exceeds the quotas: first the workers, then the cores.
    let over = give(&boss, path, "api-nodes-b").await;
    assert_eq!((over.status, code(&over).as_str()), (429, "quota_exceeded"), "{over:?}");
    assert_eq!(over.body["detail"], "max workers limit reached (1/1)");
    verbs.patch_tenant("api-nodes", json!({"spec": {"quotas": {"maxWorkers": 2}}})).await.unwrap();
    wait::until(WAIT_TIMEOUT, "the new quota to count", || async {
        let over = give(&boss, path, "api-nodes-b").await;
        if over.body["detail"] == "max CPU cores limit reached (4+4 > 4)" { Ok(()) } else { Err(over) }
    })
    .await
    .unwrap();
    assert_eq!(label(&verbs, "api-nodes-b").await, None, "refused before it was labelled");
    // A node of another tenant and an unknown one are refused.
    let taken = give(&boss, "/tenants/api-nodes-2/nodes", "api-nodes-a").await;
    assert_eq!((taken.status, code(&taken).as_str()), (409, "conflict"), "{taken:?}");
    assert!(taken.body["detail"].as_str().unwrap().ends_with("tenant api-nodes"), "{taken:?}");
    assert_eq!(give(&boss, path, "api-nodes-nowhere").await.status, 404);

    // A node is released by its own tenant's path alone, and once.
    let one = format!("{path}/api-nodes-a");
    assert_eq!(ask("DELETE", "/tenants/api-nodes-2/nodes/api-nodes-a", &boss, None).await.status, 404);
    assert_eq!(ask("DELETE", &one, &boss, None).await.status, 204);
    verbs.until_admitted("api-nodes-a", None).await;
    assert_eq!(ask("DELETE", &one, &boss, None).await.status, 404);
    // The audit log has the assignment.
    let log = world().operator_log();
    let status = format!("status={}", given.status);
    let parts = ["crofter::audit", "api-nodes-boss", "POST /tenants/{id}/nodes", "api-nodes-a", &status];
    let mut lines = log.lines().filter(|line| line.contains("api-nodes-boss"));
    assert!(lines.any(|line| parts.iter().all(|part| line.contains(part))), "a line with {parts:?}");
}

#[tokio::test]
async fn api_of_nodes_given_at_once_as_many_are_kept_as_fit() {
    let verbs = world().verbs().await;
    verbs.tenant("api-rush", json!({"plan": "free"})).await;
    let boss = account("api-rush-boss", &[("patch", "tenants.crofter.io"), ("patch", "nodes")]).await;
    let nodes = ["api-rush-a", "api-rush-b", "api-rush-c"];
    for node in nodes {
        bare(node).await;
    }
    let bodies = nodes.map(|node| json!({"node": node}));
    let asked = bodies.iter().map(|body: &Value| ask("POST", "/tenants/api-rush/nodes", &boss, Some(body)));
    let answers = futures::future::join_all(asked).await;
    let given = answers.iter().filter(|answer| answer.is_made()).count();
    let over = answers.iter().filter(|answer| answer.status == 429).count();
    assert_eq!((given, over), (1, 2), "{answers:?}");
    for (node, answer) in nodes.iter().zip(&answers) {
        let expected = answer.is_made().then(|| "api-rush".to_owned());
        assert_eq!(label(&verbs, node).await, expected, "{node}");
    }
}
