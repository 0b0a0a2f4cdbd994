use super::*;
use crate::controllers::tenant::invalid::{self, TenantMeta};

const GET_NAMESPACE: &str = "GET /api/v1/namespaces/tenant-acme";
const STATUS: &str = "PATCH /apis/crofter.io/v1alpha1/tenants/acme/status";
const FINALIZER: &str = "PATCH /apis/crofter.io/v1alpha1/tenants/acme";

fn terminating() -> Value {
    json!({"finalizers": ["x.io/other", "crofter.io/tenant"], "deletionTimestamp": "2030-01-01T00:00:00Z"})
}

fn own() -> Value {
    json!({"app.kubernetes.io/managed-by": "crofter", "crofter.io/tenant": "acme", "crofter.io/tenant-uid": "u-1"})
}

fn job(name: &str, namespace: &str, phase: &str, canceled: bool) -> Value {
    json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Job",
        "metadata": {"name": name, "namespace": namespace, "uid": format!("of-{name}")},
        "spec": {"image": "i", "canceled": canceled}, "status": {"phase": phase},
    })
}

fn key(name: &str, namespace: &str, revoked: bool) -> Value {
    json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey",
        "metadata": {"name": name, "namespace": namespace, "uid": format!("of-{name}")}, "spec": {"revoked": revoked},
    })
}

#[tokio::test]
async fn a_tenant_is_taken_down_step_by_step() {
    // Given: a deleted tenant with jobs, pods, workers and API keys.
    let mut bench = bench();
    bench.tenant_with(terminating(), json!({}));
    bench.namespace(own());
    let at = "/apis/crofter.io/v1alpha1/namespaces/tenant-acme/jobs/running";
    bench.fake.put(at, job("running", "tenant-acme", "Running", false));
    put(&mut bench.jobs, job("running", "tenant-acme", "Running", false));
    put(&mut bench.jobs, job("canceled", "tenant-acme", "Running", true));
    put(&mut bench.jobs, job("done", "tenant-acme", "Completed", false));
    put(&mut bench.jobs, job("foreign", "tenant-other", "Running", false));
    put(&mut bench.pods, json!({"metadata": {"name": "p", "namespace": "tenant-acme", "labels": own()}}));
    put(
        &mut bench.pods,
        json!({"metadata": {"name": "forged", "namespace": "tenant-other", "labels": own()}}),
    );
    put(&mut bench.nodes, json!({"metadata": {"name": "n", "labels": {names::NODE_ADMITTED: "acme"}}}));
    let key_at = "/apis/crofter.io/v1alpha1/namespaces/tenant-acme/tenantapikeys/ci";
    bench.fake.put(key_at, key("ci", "tenant-acme", false));
    put(&mut bench.keys, key("ci", "tenant-acme", false));
    put(&mut bench.keys, key("old", "tenant-acme", true));
    put(&mut bench.keys, key("foreign", "tenant-other", false));

    // Step 1: its jobs are canceled, and it waits for their pods.
    let (action, calls) = bench.reconcile_once().await;
    assert_eq!(action.unwrap(), Action::requeue(Duration::from_secs(30)));
    assert_eq!(outline(&calls), [GET_NAMESPACE, &format!("PATCH {at}"), STATUS, "Event Terminating"]);
    assert_eq!(calls[1].body, json!({"metadata": {"uid": "of-running"}, "spec": {"canceled": true}}));
    let expected = [
        ("Active", "False/Terminating"),
        ("Ready", "False/Terminating"),
        ("Reconciling", "True/Terminating"),
        ("WorkersAdmitted", "True/WorkersWithinQuota"),
    ];
    assert_eq!(bench.conditions(), conditions(&expected));
    assert_eq!(bench.message("Reconciling"), "waiting for pods to end: 1 (p)");
    assert_eq!(bench.fake.get(TENANT)["status"]["phase"], json!("Terminating"));

    drop_all(&mut bench.jobs);
    assert_eq!(outline(&bench.reconcile_once().await.1), [GET_NAMESPACE], "still waiting: nothing to say");

    // Step 2: its keys are revoked, and it waits for its workers.
    drop_all(&mut bench.pods);
    let (_, calls) = bench.reconcile_once().await;
    assert_eq!(outline(&calls), [GET_NAMESPACE, &format!("PATCH {key_at}"), STATUS]);
    assert_eq!(calls[1].body, json!({"metadata": {"uid": "of-ci"}, "spec": {"revoked": true}}));
    put(&mut bench.keys, key("ci", "tenant-acme", true));
    assert_eq!(bench.message("Reconciling"), "waiting for workers to be released: 1 (n)");

    // The label is removed first, the taint when the last pod has ended.
    let taints = json!([{"key": names::NODE_ADMITTED, "value": "acme", "effect": "NoSchedule"}]);
    put(&mut bench.nodes, json!({"metadata": {"name": "n"}, "spec": {"taints": taints}}));
    assert_eq!(outline(&bench.reconcile_once().await.1), [GET_NAMESPACE], "still waiting");

    // Step 3: its namespace is deleted.
    drop_all(&mut bench.nodes);
    let (_, calls) = bench.reconcile_once().await;
    assert_eq!(outline(&calls), [GET_NAMESPACE, "DELETE /api/v1/namespaces/tenant-acme", STATUS]);
    assert_eq!(calls[1].body["preconditions"], json!({"uid": "ns-1"}));
    assert_eq!(bench.message("Reconciling"), "waiting for namespace tenant-acme to be deleted");

    // Step 4: its finalizer is removed.
    let (action, calls) = bench.reconcile_once().await;
    assert_eq!(action.unwrap(), Action::await_change());
    assert_eq!(outline(&calls), [GET_NAMESPACE, FINALIZER]);
    assert_eq!(calls[1].body["metadata"]["finalizers"], json!(["x.io/other"]));
    assert_eq!(outline(&bench.reconcile_once().await.1), [""; 0], "the rest is foreign");
}

#[tokio::test]
async fn what_delays_a_namespace_is_reported_and_a_foreign_one_is_left_alone() {
    let bench = bench();
    bench.tenant_with(terminating(), json!({"plan": "unheard-of"}));
    bench.namespace(own());
    let mut namespace = bench.fake.get(NAMESPACE);
    namespace["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    let hold = json!({"type": "NamespaceContentRemaining", "status": "True", "reason": "x", "message": "pods. has 1"});
    namespace["status"] = json!({"conditions": [hold]});
    bench.fake.put(NAMESPACE, namespace);
    assert_eq!(outline(&bench.reconcile_once().await.1), [GET_NAMESPACE, STATUS, "Event Terminating"]);
    assert_eq!(bench.message("Ready"), "waiting for namespace tenant-acme to be deleted; pods. has 1");
    bench.namespace(json!({}));
    assert_eq!(outline(&bench.reconcile_once().await.1), [GET_NAMESPACE, FINALIZER]);
    assert_eq!(bench.fake.get(NAMESPACE)["metadata"]["uid"], json!("ns-1"));
}

#[tokio::test]
async fn a_retained_namespace_stays_without_anything_of_ours() {
    let mut bench = bench();
    bench.tenant_with(terminating(), json!({"deletionPolicy": "Retain"}));
    let mut labels = own();
    labels["team"] = json!("a");
    bench.namespace(labels);
    put(
        &mut bench.children.bindings,
        json!({"metadata": {"name": "crofter-admin", "namespace": "tenant-acme", "uid": "b"}}),
    );
    put(
        &mut bench.children.quotas,
        json!({"metadata": {"name": "crofter", "namespace": "tenant-acme", "uid": "q"}}),
    );
    let (_, calls) = bench.reconcile_once().await;
    assert_eq!(
        outline(&calls),
        [
            GET_NAMESPACE,
            "DELETE /apis/rbac.authorization.k8s.io/v1/namespaces/tenant-acme/rolebindings/crofter-admin",
            "DELETE /api/v1/namespaces/tenant-acme/resourcequotas/crofter",
            "PATCH /api/v1/namespaces/tenant-acme",
            FINALIZER,
        ]
    );
    assert_eq!(bench.fake.get(NAMESPACE)["metadata"]["labels"], json!({"team": "a"}));
}

#[tokio::test]
async fn a_prevented_deletion_is_reported_and_the_tenant_stays_active() {
    let bench = bench();
    bench.tenant_with(terminating(), json!({"preventDeletion": true}));
    let (_, calls) = bench.reconcile_once().await;
    assert!(outline(&calls).contains(&"Event DeletionPrevented".to_owned()), "{calls:?}");
    assert!(calls.iter().all(|call| call.method != "DELETE"));
    assert_eq!(bench.conditions()["Ready"], "True/Provisioned");
    assert_eq!(bench.conditions()["Active"], "True/Accepting");
    assert_eq!(bench.conditions()["Stalled"], "True/DeletionPrevented");
}

async fn invalid_pass(bench: &Bench) -> Vec<String> {
    let meta: TenantMeta = serde_json::from_value(bench.fake.get(TENANT)).unwrap();
    bench.fake.calls();
    invalid::reconcile(Arc::new(meta), Arc::clone(&bench.context)).await.unwrap();
    bench.context.dependencies.events.flush(Duration::from_secs(1)).await;
    outline(&bench.fake.calls())
}

#[tokio::test]
async fn an_invalid_tenant_is_reported_and_can_be_deleted() {
    let bench = bench();
    bench.tenant(json!({"plan": 7, "deletionPolicy": "Delete"}));
    bench.namespace(own());
    let get = "GET /apis/crofter.io/v1alpha1/tenants/acme";
    assert_eq!(invalid_pass(&bench).await, [get, STATUS, "Event InvalidObject"]);
    let expected = [
        ("Active", "False/InvalidObject"),
        ("Ready", "False/InvalidObject"),
        ("Stalled", "True/InvalidObject"),
    ];
    assert_eq!(bench.conditions(), conditions(&expected));
    assert_eq!(bench.fake.get(TENANT)["status"]["phase"], json!("Stalled"));
    assert!(bench.message("Stalled").contains("invalid type: integer `7`"), "{}", bench.message("Stalled"));
    assert_eq!(invalid_pass(&bench).await, [get], "said once");

    let mut object = bench.fake.get(TENANT);
    object["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    bench.fake.put(TENANT, object);
    let deletes = [get, GET_NAMESPACE, "DELETE /api/v1/namespaces/tenant-acme", STATUS, "Event Terminating"];
    assert_eq!(invalid_pass(&bench).await, deletes);
    assert_eq!(bench.fake.get(TENANT)["status"]["phase"], json!("Terminating"));
    assert_eq!(invalid_pass(&bench).await, [get, GET_NAMESPACE, FINALIZER]);
    assert_eq!(bench.fake.get(TENANT)["metadata"].get("finalizers"), Some(&json!([])));
}
