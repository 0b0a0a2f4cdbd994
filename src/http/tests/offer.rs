use super::*;

const CATALOGUE: &str = "scenarios: {train: {description: a model, image: registry/train:3, command: [/train], \
    env: [{name: PASSWORD, value: geheim}], resources: {cpu: 4, memory: 8Gi}, timeoutSeconds: 600}, render: {image: r}}";

#[tokio::test]
async fn scenarios_and_plans_are_listed_for_every_caller_and_without_secrets() {
    // Given: a catalogue with a variable that has a value.
    let mut lab = Lab::new();
    let parts = Arc::get_mut(&mut lab.app.0).unwrap();
    parts.scenarios = watch::channel(Arc::new(Scenarios::from_yaml(CATALOGUE).unwrap())).1;
    // Then: a key and each user of the cluster read it, without the value.
    for who in [KEY, ADMIN, "Bearer clerk"] {
        let (status, all) = lab.ask("GET", "/v1/scenarios", who, "").await;
        assert_eq!((status, &all["next_cursor"]), (200, &Value::Null), "{all}");
        assert_eq!(
            (&all["scenarios"][0]["name"], &all["scenarios"][1]["name"]),
            (&json!("render"), &json!("train"))
        );
        let train = &all["scenarios"][1];
        assert_eq!(
            (&train["env"], &train["resources"]["cpu"]),
            (&json!(["PASSWORD"]), &json!("4")),
            "{train}"
        );
        assert!(!all.to_string().contains("geheim"), "values of variables are never shown: {all}");
        let (status, all) = lab.ask("GET", "/v1/plans", who, "").await;
        let names: Vec<&Value> = all["plans"].as_array().unwrap().iter().map(|plan| &plan["name"]).collect();
        assert_eq!((status, json!(names)), (200, json!(["basic", "enterprise", "free", "pro"])));
        assert_eq!(
            (&all["plans"][2]["weight"], &all["plans"][2]["quotas"]["max_jobs"]),
            (&json!(1), &json!(5))
        );
    }
    // Then: no one else does.
    for path in ["/v1/scenarios", "/v1/plans", "/v1/pools"] {
        assert_eq!(lab.ask("GET", path, "Bearer nobody", "").await.1["code"], "invalid_token");
        assert_eq!(lab.open("GET", path, &[], "").await.status(), 401);
    }
}

/// A node that is admitted to this group.
fn node(name: &str, group: &str, ready: bool) -> Value {
    let ready = if ready { "True" } else { "False" };
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "uid": name, "labels": {names::NODE_ADMITTED: group}},
        "spec": {"taints": [{"key": names::NODE_ADMITTED, "value": group, "effect": "NoSchedule"}]},
        "status": {
            "allocatable": {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "1"},
            "conditions": [{"type": "Ready", "status": ready}],
        },
    })
}

#[tokio::test]
async fn pools_have_their_nodes_and_tenants_and_are_for_administrators() {
    // Given: a pool with two nodes, of which one is ready, and two tenants; and a pool that only a spec names.
    let mut lab = Lab::new();
    let (nodes, mut writer) = cache();
    for one in [node("n1", "pool.gpu", true), node("n2", "pool.gpu", false), node("n3", "acme", true)] {
        mock::put(&mut writer, one);
    }
    Arc::get_mut(&mut lab.app.0).unwrap().nodes = nodes;
    mock::put(&mut lab.tenants, tenant(json!({"plan": "free", "sharedPools": ["gpu", "later"]})));
    let mut other = tenant(json!({"plan": "free", "sharedPools": ["gpu"]}));
    other["metadata"] = json!({"name": "a1", "uid": "u-a1"});
    mock::put(&mut lab.tenants, other);
    // Then: an administrator sees them, and a key does not.
    let (status, all) = lab.ask("GET", "/v1/pools", "Bearer clerk", "").await;
    let gpu = json!({
        "name": "gpu", "tenants": ["a1", "acme"], "nodes": 2, "ready_nodes": 1,
        "cpu_millicores": 4000, "memory_bytes": 8_u64 << 30, "gpus": 1,
    });
    let later = json!({
        "name": "later", "tenants": ["acme"], "nodes": 0, "ready_nodes": 0,
        "cpu_millicores": 0, "memory_bytes": 0, "gpus": 0,
    });
    assert_eq!((status, &all), (200, &json!({"pools": [gpu, later], "next_cursor": null})), "{all}");
    assert_eq!(lab.ask("GET", "/v1/pools", KEY, "").await.1["code"], "forbidden");
}
