use super::*;

const NODES: &str = "/v1/tenants/acme/nodes";
const N1: &str = "/api/v1/nodes/n1";

fn node(name: &str, labels: Value, admitted: Option<&str>) -> Value {
    let mut labels = labels;
    let mut taints = json!([]);
    if let Some(group) = admitted {
        labels[names::NODE_ADMITTED] = json!(group);
        taints = json!([{"key": names::NODE_ADMITTED, "value": group, "effect": "NoSchedule"}]);
    }
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "uid": format!("uid-{name}"), "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"taints": taints},
        "status": {
            "capacity": {"cpu": "4", "memory": "8Gi"}, "allocatable": {"cpu": "3900m", "memory": "7Gi"},
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    })
}

fn of(tenant: &str) -> Value {
    json!({(names::NODE_TENANT): tenant})
}

async fn add(lab: &Lab, who: &str) -> (u16, Value) {
    lab.ask("POST", NODES, who, r#"{"node": "n1"}"#).await
}

fn labels(lab: &Lab) -> Value {
    lab.fake.get(N1)["metadata"]["labels"].clone()
}

#[tokio::test]
async fn a_node_is_labelled_shown_when_admitted_and_given_back_once() {
    let lab = Lab::new();
    // Admitted already, as its label was taken off a moment ago: the verdict is there at once.
    lab.fake.put(N1, node("n1", json!({}), Some("acme")));
    let (status, shown) = add(&lab, ADMIN).await;
    assert_eq!(status, 201, "{shown}");
    let expected = json!({
        "id": "uid-n1", "name": "n1", "tenant_id": TENANT_UID, "status": "ready",
        "cpu_millicores": 3900, "memory_bytes": 7_516_192_768_u64, "gpus": 0,
    });
    assert_eq!(shown, expected);
    assert_eq!(labels(&lab)[names::NODE_TENANT], "acme");
    let writes: Vec<Call> = lab.fake.calls().into_iter().filter(|call| call.method == "PATCH").collect();
    assert_eq!(writes.len(), 1);
    assert!(writes[0].query.contains("fieldManager=crofter-api"), "{writes:?}");
    assert_eq!(writes[0].body["metadata"]["uid"], "uid-n1");
    assert_eq!(add(&lab, ADMIN).await.0, 200, "again it is the same");

    let one = format!("{NODES}/n1");
    assert_eq!(lab.ask("DELETE", &one, ADMIN, "").await.0, 204);
    assert_eq!(labels(&lab)[names::NODE_TENANT], Value::Null);
    let (status, problem) = lab.ask("DELETE", &one, ADMIN, "").await;
    assert_eq!((status, &problem["code"]), (404, &json!("not_found")));
}

#[tokio::test]
async fn a_verdict_is_waited_for() {
    let lab = Lab::new();
    lab.fake.put(N1, node("n1", json!({}), None));
    lab.admits.store(true, Ordering::SeqCst);
    let (status, shown) = add(&lab, ADMIN).await;
    assert_eq!((status, &shown["status"]), (201, &json!("ready")), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn without_a_verdict_the_answer_is_202() {
    let lab = Lab::new();
    lab.fake.put(N1, node("n1", json!({}), None));
    let (status, shown) = add(&lab, ADMIN).await;
    assert_eq!((status, &shown["status"]), (202, &json!("pending")), "{shown}");
    assert_eq!(labels(&lab)[names::NODE_TENANT], "acme", "it may still come");
}

#[tokio::test]
async fn what_does_not_fit_is_refused_in_the_seeds_words_and_not_labelled() {
    let cases = [
        (json!({"plan": "free"}), "max workers limit reached (1/1)"),
        (json!({"plan": "free", "quotas": {"maxWorkers": 2}}), "max CPU cores limit reached (4+4 > 4)"),
        (json!({"plan": "free", "suspended": true}), "tenant is not active"),
        (json!({"plan": "free", "expiresAt": "2029-01-01T00:00:00Z"}), "tenant is not active"),
    ];
    for (spec, words) in cases {
        let mut lab = Lab::new();
        mock::put(&mut lab.tenants, tenant(spec));
        lab.fake.put("/api/v1/nodes/n0", node("n0", of("acme"), Some("acme")));
        lab.fake.put(N1, node("n1", json!({}), None));
        let (status, problem) = add(&lab, ADMIN).await;
        assert_eq!((status, &problem["code"]), (429, &json!("quota_exceeded")), "{problem}");
        assert_eq!(problem["detail"], words);
        assert_eq!(labels(&lab)[names::NODE_TENANT], Value::Null);
    }
}

#[tokio::test]
async fn a_node_that_is_too_much_by_itself_is_refused_for_good() {
    for (quotas, words) in [
        (json!({"maxWorkers": 0}), "the tenant's quotas allow 0 workers"),
        (
            json!({"maxWorkers": 9, "maxCpuCores": 3}),
            "the node has 4 CPU cores: the tenant's quotas allow 3 in all",
        ),
    ] {
        let mut lab = Lab::new();
        mock::put(&mut lab.tenants, tenant(json!({"plan": "free", "quotas": quotas})));
        lab.fake.put("/api/v1/nodes/n0", node("n0", of("acme"), Some("acme")));
        lab.fake.put(N1, node("n1", json!({}), None));
        let (status, problem) = add(&lab, ADMIN).await;
        assert_eq!((status, &problem["code"]), (422, &json!("node_rejected")), "{problem}");
        assert_eq!(problem["detail"], words);
        assert_eq!(labels(&lab)[names::NODE_TENANT], Value::Null);
    }
}

#[tokio::test]
async fn what_is_somebody_elses_or_absent_stays_so() {
    let lab = Lab::new();
    for (labels_now, name) in [(of("umbra"), "umbra"), (json!({(names::NODE_POOL): "gpu"}), "gpu")] {
        lab.fake.put(N1, node("n1", labels_now.clone(), None));
        let (status, problem) = add(&lab, ADMIN).await;
        assert_eq!((status, &problem["code"]), (409, &json!("conflict")), "{problem}");
        assert!(problem["detail"].as_str().unwrap().contains(name), "{problem}");
        assert_eq!(lab.ask("DELETE", &format!("{NODES}/n1"), ADMIN, "").await.0, 404);
        assert_eq!(labels(&lab), labels_now);
    }
    lab.fake.take(N1);
    assert_eq!(add(&lab, ADMIN).await.1["detail"], "there is no such node");
    for path in [format!("{NODES}/n1%2fstatus"), format!("{NODES}/.."), format!("{NODES}/%ff")] {
        assert_eq!(lab.ask("DELETE", &path, ADMIN, "").await.0, 404, "{path}");
    }
    let body = r#"{"node": "n1", "force": true}"#;
    assert_eq!(lab.ask("POST", NODES, ADMIN, body).await.1["code"], "invalid_body");
}

#[tokio::test]
async fn rights_on_both_tenant_and_node_are_needed() {
    let lab = Lab::new();
    lab.fake.put(N1, node("n1", json!({}), None));
    for who in ["Bearer clerk", KEY] {
        let (status, problem) = add(&lab, who).await;
        assert_eq!((status, &problem["code"]), (403, &json!("forbidden")), "{problem}");
        assert_eq!(lab.ask("DELETE", &format!("{NODES}/n1"), who, "").await.0, 403);
    }
    let (_, problem) = add(&lab, "Bearer clerk").await;
    assert_eq!(problem["detail"], "your rights in the cluster do not allow to patch nodes");
    assert_eq!(lab.fake.calls().len(), 0, "the node is not even looked at");
}

#[tokio::test(start_paused = true)]
async fn one_that_was_labelled_before_and_does_not_fit_keeps_its_label() {
    let lab = Lab::new();
    lab.fake.put("/api/v1/nodes/n0", node("n0", of("acme"), Some("acme")));
    lab.fake.put(N1, node("n1", of("acme"), None));
    let (status, problem) = add(&lab, ADMIN).await;
    assert_eq!((status, &problem["detail"]), (429, &json!("max workers limit reached (1/1)")));
    assert_eq!(labels(&lab)[names::NODE_TENANT], "acme");
}

#[tokio::test]
async fn a_node_that_changes_meanwhile_is_looked_at_again() {
    let lab = Lab::new();
    lab.fake.put(N1, node("n1", json!({}), Some("acme")));
    lab.fake.refuse(N1, 409);
    let (status, problem) = add(&lab, ADMIN).await;
    // The fake refuses the reading, too: what the API server says of the object is passed on.
    assert_eq!((status, &problem["code"]), (409, &json!("conflict")), "{problem}");
    lab.fake.refuse(N1, 0);
    assert_eq!(add(&lab, ADMIN).await.0, 201);
}

#[tokio::test]
async fn a_tenant_whose_spec_can_not_be_carried_out_is_not_shown_as_active() {
    let mut lab = Lab::new();
    let mut status = async |spec: Value, phase: &str| {
        let mut tenant = tenant(spec);
        tenant["status"]["phase"] = json!(phase);
        mock::put(&mut lab.tenants, tenant);
        let (code, shown) = lab.ask("GET", "/v1/tenants/acme", ADMIN, "").await;
        assert_eq!(code, 200, "{shown}");
        let (_, stats) = lab.ask("GET", "/v1/tenants/acme/stats", ADMIN, "").await;
        assert_eq!(shown["status"], stats["status"]);
        shown["status"].clone()
    };
    assert_eq!(status(json!({"plan": "gold"}), "Stalled").await, "stalled");
    assert_eq!(status(json!({"plan": "free"}), "Active").await, "active");
    let suspended = json!({"plan": "gold", "suspended": true});
    assert_eq!(
        status(suspended, "Stalled").await,
        "suspended",
        "what an administrator asked for comes first"
    );
}
