use super::*;
use crate::kube_ext::controller::{CONFLICT_REQUEUE, ReconcileError};

/// What a whole apply of a tenant without access grants asks of the API server.
const APPLY: [&str; 8] = [
    "PATCH /api/v1/namespaces/tenant-acme",
    "PATCH /api/v1/namespaces/tenant-acme/resourcequotas/crofter",
    "PATCH /api/v1/namespaces/tenant-acme/limitranges/crofter",
    "PATCH /apis/networking.k8s.io/v1/namespaces/tenant-acme/networkpolicies/crofter-default-deny",
    "PATCH /apis/networking.k8s.io/v1/namespaces/tenant-acme/networkpolicies/crofter-allow-dns",
    "PATCH /apis/networking.k8s.io/v1/namespaces/tenant-acme/networkpolicies/crofter-allow-internet",
    "PATCH /api/v1/namespaces/tenant-acme/serviceaccounts/crofter-job",
    "PATCH /apis/crofter.io/v1alpha1/tenants/acme/status",
];

#[tokio::test]
async fn a_new_tenant_gets_its_finalizer_first_then_all_children_then_its_status() {
    // First reconcile: the finalizer.
    let bench = bench();
    bench.tenant_with(json!({}), json!({}));
    let (action, calls) = bench.reconcile_once().await;
    assert_eq!(action.unwrap(), Action::await_change());
    assert_eq!(outline(&calls), ["PATCH /apis/crofter.io/v1alpha1/tenants/acme"]);
    assert_eq!(calls[0].body["metadata"]["finalizers"], json!(["crofter.io/tenant"]));
    assert_eq!(calls[0].body["metadata"]["uid"], json!("u-1"));

    // Second reconcile: the namespace, the children, the status and its Event.
    let (action, calls) = bench.reconcile_once().await;
    assert_eq!(action.unwrap(), Action::await_change());
    let made = ["GET /api/v1/namespaces/tenant-acme", "POST /api/v1/namespaces"];
    let expected: Vec<&str> = made.into_iter().chain(APPLY).chain(["Event Provisioned"]).collect();
    assert_eq!(outline(&calls), expected);
    let made = bench.fake.get(NAMESPACE)["metadata"]["uid"].clone();
    assert!(made.is_string());
    assert_eq!(calls[2].body["metadata"]["uid"], made, "applied only to the namespace that was made");
    assert!(
        calls[2..9]
            .iter()
            .all(|call| call.query.contains("fieldManager=crofter") && call.query.contains("force=true"))
    );
    let mut status = calls[9].body.clone();
    assert!(status["status"].as_object_mut().unwrap().remove("applied").is_some());
    insta::assert_json_snapshot!(
        "a_new_tenant_gets_its_finalizer_first_then_all_children_then_its_status",
        status
    );

    // Third reconcile: nothing, until a child drifts.
    let (_, calls) = bench.reconcile_once().await;
    assert_eq!(outline(&calls), [""; 0], "nothing changed, so nothing is asked or written");
    bench.context.state.observed("acme", "LimitRange", "crofter", None);
    let (_, calls) = bench.reconcile_once().await;
    assert_eq!(
        outline(&calls)[1..],
        [APPLY[2]],
        "drift of one child costs one write, and none of the status"
    );
}

#[tokio::test]
async fn a_restarted_operator_leaves_alone_what_is_as_it_was_left() {
    let mut bench = bench();
    bench.tenant(json!({}));
    bench.reconcile_once().await.0.unwrap();
    let stored = bench.fake.get(TENANT)["status"]["applied"].clone();
    assert_eq!(stored.as_str().map(str::len), Some(64), "{stored}");
    let all = APPLY.map(|call| bench.fake.get(call.strip_prefix("PATCH ").unwrap()));
    put(&mut bench.children.namespaces, all[0].clone());
    put(&mut bench.children.quotas, all[1].clone());
    put(&mut bench.children.limits, all[2].clone());
    all[3..6].iter().for_each(|policy| put(&mut bench.children.policies, policy.clone()));
    put(&mut bench.children.accounts, all[6].clone());
    bench.restart();
    assert_eq!(outline(&bench.reconcile_once().await.1), [""; 0]);
    let mut changed = all[2].clone();
    changed["metadata"]["resourceVersion"] = json!("foreign");
    put(&mut bench.children.limits, changed);
    bench.restart();
    assert_eq!(outline(&bench.reconcile_once().await.1)[1..], APPLY[..7], "another client has changed one");
}

#[tokio::test]
async fn while_the_cache_is_behind_a_tenant_is_reconciled_as_it_was_written() {
    let bench = bench();
    bench.tenant(json!({}));
    let cached: Arc<Tenant> = Arc::new(serde_json::from_value(bench.fake.get(TENANT)).unwrap());
    reconcile(Arc::clone(&cached), Arc::clone(&bench.context)).await.unwrap();
    bench.context.dependencies.events.flush(Duration::from_secs(1)).await;
    assert_eq!(bench.conditions()["Ready"], "True/Provisioned");
    bench.fake.calls();
    reconcile(cached, Arc::clone(&bench.context)).await.unwrap();
    assert_eq!(outline(&bench.fake.calls()), [""; 0], "no status that would be refused");
}

#[tokio::test]
async fn a_changed_plan_costs_the_quota_and_the_status() {
    let mut bench = bench();
    bench.tenant(json!({"plan": "free"}));
    bench.reconcile_once().await.0.unwrap();
    for restarted in [false, true] {
        if restarted {
            let get = |path: &str| bench.fake.get(path.split_once(' ').unwrap().1);
            let all: Vec<_> = APPLY[..7].iter().map(|call| get(call)).collect();
            put(&mut bench.children.namespaces, all[0].clone());
            put(&mut bench.children.quotas, all[1].clone());
            put(&mut bench.children.limits, all[2].clone());
            all[3..6].iter().for_each(|policy| put(&mut bench.children.policies, policy.clone()));
            put(&mut bench.children.accounts, all[6].clone());
            bench.restart();
            assert_eq!(outline(&bench.reconcile_once().await.1), [""; 0], "as it was left");
        }
        let plan = if restarted { "pro" } else { "basic" };
        let mut tenant = bench.fake.get(TENANT);
        tenant["spec"]["plan"] = json!(plan);
        bench.fake.put(TENANT, tenant);
        let (_, calls) = bench.reconcile_once().await;
        let writes: Vec<String> =
            outline(&calls).into_iter().filter(|call| !call.starts_with("GET")).collect();
        assert_eq!(writes, [APPLY[1], APPLY[7]], "{plan}");
    }
}

#[tokio::test]
async fn a_deleted_child_costs_one_write() {
    let bench = bench();
    bench.tenant(json!({}));
    bench.reconcile_once().await.0.unwrap();
    bench.context.state.observed("acme", "NetworkPolicy", "crofter-allow-dns", None);
    let writes = outline(&bench.reconcile_once().await.1);
    assert_eq!(
        writes[1..],
        [APPLY.iter().find(|call| call.ends_with("crofter-allow-dns")).unwrap().to_string()]
    );
}

#[tokio::test]
async fn the_number_of_jobs_is_bounded_from_when_kubernetes_counts_them_and_stays_so() {
    const OBJECTS: &str = "/api/v1/namespaces/tenant-acme/resourcequotas/crofter-objects";
    let mut bench = bench();
    bench.tenant(json!({}));
    let (_, calls) = bench.reconcile_once().await;
    assert!(calls.iter().all(|call| call.path != OBJECTS), "the API server would refuse every job");
    bench.count.send_replace(true);
    let (_, calls) = bench.reconcile_once().await;
    assert!(outline(&calls).contains(&format!("PATCH {OBJECTS}")), "{:?}", outline(&calls));
    put(&mut bench.children.quotas, bench.fake.get(OBJECTS));
    bench.count.send_replace(false);
    bench.restart();
    let (_, calls) = bench.reconcile_once().await;
    assert!(!outline(&calls).contains(&format!("DELETE {OBJECTS}")), "{:?}", outline(&calls));
    assert_eq!(bench.fake.get(OBJECTS)["spec"]["hard"]["count/jobs.crofter.io"], "1055");
}

#[tokio::test]
async fn an_unknown_plan_leaves_everything_as_it_was() {
    let bench = bench();
    bench.tenant(json!({"plan": "gold"}));
    let (action, calls) = bench.reconcile_once().await;
    assert_eq!(action.unwrap(), Action::await_change());
    assert_eq!(outline(&calls), [APPLY[7], "Event UnknownPlan"]);
    let expected = [
        ("Active", "False/UnknownPlan"),
        ("Ready", "False/UnknownPlan"),
        ("Stalled", "True/UnknownPlan"),
        ("WorkersAdmitted", "True/WorkersWithinQuota"),
    ];
    assert_eq!(bench.conditions(), conditions(&expected));
    assert_eq!(
        bench.message("Stalled"),
        "there is no plan `gold`: the plans are basic, enterprise, free, pro; nothing was changed"
    );
    assert_eq!(bench.fake.get(TENANT)["status"]["observedGeneration"], json!(1));
    assert_eq!(bench.fake.get(TENANT)["status"]["phase"], json!("Stalled"));
    assert_eq!(outline(&bench.reconcile_once().await.1), [""; 0]);
}

#[tokio::test]
async fn a_foreign_namespace_is_never_touched() {
    for labels in [json!({}), json!({"crofter.io/tenant": "acme", "crofter.io/tenant-uid": "u-0"})] {
        let bench = bench();
        bench.tenant(json!({}));
        bench.namespace(labels);
        let (_, calls) = bench.reconcile_once().await;
        assert_eq!(
            outline(&calls),
            ["GET /api/v1/namespaces/tenant-acme", APPLY[7], "Event NamespaceConflict"]
        );
        assert_eq!(bench.conditions()["Stalled"], "True/NamespaceConflict");
        assert_eq!(bench.conditions()["Active"], "False/NamespaceConflict");
        // Once it is out of the way, the tenant gets its own.
        bench.fake.take(NAMESPACE);
        bench.reconcile_once().await.0.unwrap();
        assert_eq!(bench.conditions()["Ready"], "True/Provisioned");
        assert!(!bench.conditions().contains_key("Stalled"));
    }
}

#[tokio::test]
async fn a_namespace_that_appears_in_between_is_not_adopted() {
    let bench = bench();
    bench.tenant(json!({}));
    bench.fake.refuse("/api/v1/namespaces", 409);
    let (action, calls) = bench.reconcile_once().await;
    assert_eq!(action.unwrap(), Action::requeue(CONFLICT_REQUEUE));
    assert_eq!(outline(&calls), ["GET /api/v1/namespaces/tenant-acme", "POST /api/v1/namespaces"]);
}

#[tokio::test]
async fn a_namespace_on_its_way_out_is_waited_for() {
    let bench = bench();
    bench.tenant(json!({}));
    bench.namespace(json!({"crofter.io/tenant-uid": "u-0"}));
    let mut terminating = bench.fake.get(NAMESPACE);
    terminating["metadata"]["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
    bench.fake.put(NAMESPACE, terminating);
    let (action, _) = bench.reconcile_once().await;
    assert_eq!(action.unwrap(), Action::requeue(Duration::from_secs(30)));
    assert_eq!(bench.conditions()["Ready"], "False/Provisioning");
    assert_eq!(bench.conditions()["Reconciling"], "True/Provisioning");
}

#[tokio::test]
async fn suspended_or_expired_by_its_spec_is_ready_and_not_active() {
    let bench = bench();
    bench.tenant(json!({"expiresAt": "2030-01-01T00:10:00Z"}));
    let (action, _) = bench.reconcile_once().await;
    assert_eq!(action.unwrap(), Action::requeue(Duration::from_secs(600)), "it wakes up when it expires");
    assert_eq!(bench.conditions()["Active"], "True/Accepting");
    bench.at("2030-01-01T00:10:00Z");
    let (action, calls) = bench.reconcile_once().await;
    assert_eq!(action.unwrap(), Action::await_change());
    assert_eq!(outline(&calls), [APPLY[7], "Event TenantExpired"]);
    assert_eq!(bench.fake.get(TENANT)["status"]["phase"], json!("Expired"));
    assert_eq!(bench.conditions()["Ready"], "True/Provisioned");
    assert_eq!(bench.conditions()["Active"], "False/TenantExpired");
    let mut tenant = bench.fake.get(TENANT);
    tenant["spec"]["expiresAt"] = json!("2031-01-01T00:00:00Z");
    bench.fake.put(TENANT, tenant);
    let (action, calls) = bench.reconcile_once().await;
    assert_eq!(
        action.unwrap(),
        Action::requeue(Duration::from_secs(3600)),
        "no timer is longer than an hour"
    );
    assert_eq!(outline(&calls), [APPLY[7], "Event Accepting"]);
    assert_eq!(bench.fake.get(TENANT)["status"]["phase"], json!("Active"));
}

#[tokio::test]
async fn a_role_without_subjects_loses_its_binding() {
    let mut bench = bench();
    let object = |name: &str, namespace: &str| json!({"metadata": {"name": name, "namespace": namespace, "uid": format!("of-{name}")}});
    bench.tenant(json!({"access": [{"kind": "User", "name": "ann", "role": "admin"}]}));
    put(&mut bench.children.bindings, object("crofter-admin", "tenant-acme"));
    put(&mut bench.children.bindings, object("crofter-viewer", "tenant-acme"));
    put(&mut bench.children.bindings, object("crofter-viewer", "tenant-other"));
    let (_, calls) = bench.reconcile_once().await;
    let bindings: Vec<&Call> = calls.iter().filter(|call| call.path.contains("rolebindings")).collect();
    let at = "/apis/rbac.authorization.k8s.io/v1/namespaces/tenant-acme/rolebindings";
    let seen: Vec<String> = bindings.iter().map(|call| format!("{} {}", call.method, call.path)).collect();
    assert_eq!(seen, [format!("PATCH {at}/crofter-admin"), format!("DELETE {at}/crofter-viewer")]);
    assert_eq!(bindings[1].body["preconditions"]["uid"], json!("of-crofter-viewer"));
}

#[tokio::test]
async fn a_binding_that_names_another_role_is_replaced() {
    let mut bench = bench();
    let binding = "/apis/rbac.authorization.k8s.io/v1/namespaces/tenant-acme/rolebindings/crofter-admin";
    bench.tenant(json!({"access": [{"kind": "User", "name": "ann", "role": "admin"}]}));
    put(
        &mut bench.children.bindings,
        json!({"metadata": {"name": "crofter-admin", "namespace": "tenant-acme", "uid": "b-1"}}),
    );
    bench.fake.refuse(binding, 422);
    let (result, calls) = bench.reconcile_once().await;
    assert_eq!(result.unwrap_err().category(), "invalid");
    assert!(calls.iter().any(|call| call.method == "DELETE" && call.path == binding));
    bench.fake.refuse(binding, 0);
    bench.reconcile_once().await.0.unwrap();
    assert_eq!(bench.conditions()["Ready"], "True/Provisioned");
}

#[tokio::test]
async fn a_failure_that_lasts_is_reported_once() {
    let bench = bench();
    bench.tenant(json!({}));
    bench.fake.refuse("/api/v1/namespaces/tenant-acme/limitranges/crofter", 500);
    let mut events = Vec::new();
    for _ in 0..5 {
        let (result, calls) = bench.reconcile_once().await;
        let error = result.unwrap_err();
        let tenant = Arc::new(serde_json::from_value(bench.fake.get(TENANT)).unwrap());
        error_policy(tenant, &error, Arc::clone(&bench.context));
        events.push(outline(&calls).into_iter().filter(|call| call.starts_with("Event")).count());
    }
    assert_eq!(events, [0, 0, 1, 0, 0]);
    assert_eq!(bench.conditions()["Reconciling"], "True/ApiError");
    assert!(
        bench.message("Ready").contains("failed to apply LimitRange crofter"),
        "{}",
        bench.message("Ready")
    );
    bench.fake.refuse("/api/v1/namespaces/tenant-acme/limitranges/crofter", 0);
    bench.reconcile_once().await.0.unwrap();
    assert!(!bench.conditions().contains_key("Reconciling"));
    let tenant: Tenant = serde_json::from_value(bench.fake.get(TENANT)).unwrap();
    assert_eq!(bench.context.reconciler.failures(&tenant), 0);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_set_back_does_not_hold_status_up() {
    let bench = bench();
    let usage = |active_jobs| {
        let usage = TenantUsage { active_jobs, ..TenantUsage::default() };
        Some(UsageSnapshot { usage, ..UsageSnapshot::default() })
    };
    bench.tenant(json!({}));
    *bench.snapshot.lock().unwrap() = usage(1);
    bench.reconcile_once().await.0.unwrap();
    bench.at("2029-12-31T22:00:00Z");
    *bench.snapshot.lock().unwrap() = usage(2);
    tokio::time::advance(Duration::from_secs(5)).await;
    let (action, calls) = bench.reconcile_once().await;
    assert_eq!((action.unwrap(), calls.len()), (Action::requeue(Duration::from_secs(10)), 0));
    tokio::time::advance(Duration::from_secs(10)).await;
    let (_, calls) = bench.reconcile_once().await;
    assert_eq!(calls[0].body["status"]["usage"], json!({"activeJobs": 2}));
}

#[tokio::test(start_paused = true)]
async fn usage_is_written_now_and_then_and_storage_comes_from_the_quota() {
    // Given: a tenant with usage by the scheduler and storage by its quota.
    let mut bench = bench();
    let usage = |active_jobs| {
        let usage = TenantUsage { active_jobs, cpu_millicores: 1500, ..TenantUsage::default() };
        Some(UsageSnapshot { usage, ..UsageSnapshot::default() })
    };
    bench.tenant(json!({}));
    *bench.snapshot.lock().unwrap() = usage(1);
    put(
        &mut bench.children.quotas,
        json!({
            "metadata": {"name": "crofter", "namespace": "tenant-acme"},
            "status": {"used": {"requests.storage": "2Gi"}},
        }),
    );
    // Both are in its status.
    bench.reconcile_once().await.0.unwrap();
    let status = bench.fake.get(TENANT)["status"].clone();
    assert_eq!(status["usage"]["storageBytes"], json!(2_147_483_648_i64));
    assert_eq!(status["summary"]["jobs"], json!("1/5"));
    assert_eq!(status["summary"]["cpu"], json!("1.5/4"));
    // A change within 15 s is deferred.
    *bench.snapshot.lock().unwrap() = usage(2);
    tokio::time::advance(Duration::from_secs(5)).await;
    let (action, calls) = bench.reconcile_once().await;
    assert_eq!((action.unwrap(), calls.len()), (Action::requeue(Duration::from_secs(10)), 0));
    // A limit that is reached is written at once.
    *bench.snapshot.lock().unwrap() = usage(5);
    assert_eq!(outline(&bench.reconcile_once().await.1), [APPLY[7]], "maxJobs is reached");
    // What is below the limit again is written after 15 s.
    *bench.snapshot.lock().unwrap() = usage(3);
    tokio::time::advance(Duration::from_secs(15)).await;
    let (_, calls) = bench.reconcile_once().await;
    assert_eq!(outline(&calls), [APPLY[7]]);
    assert_eq!(calls[0].body["status"], json!({"usage": {"activeJobs": 3}, "summary": {"jobs": "3/5"}}));
}

#[tokio::test(start_paused = true)]
async fn the_hourly_window_is_written_when_pods_wait_for_it_and_kept_otherwise() {
    // Given: a tenant whose hourly window has one charge.
    let bench = bench();
    bench.tenant(json!({}));
    let counts = |settled: usize, settling: &[&str], awaited: bool| {
        let usage = TenantUsage { jobs_this_hour: 3, ..TenantUsage::default() };
        let window = json!({"resetsAt": "2030-01-01T01:00:00Z", "settled": settled, "settling": settling});
        Some(UsageSnapshot { usage, window: serde_json::from_value(window).unwrap(), awaited })
    };
    let window = |settled, settling: &[&str]| counts(settled, settling, true);
    *bench.snapshot.lock().unwrap() = window(1, &["a"]);
    bench.reconcile_once().await.0.unwrap();
    let stored = || bench.fake.get(TENANT)["status"].clone();
    let written = json!({"resetsAt": "2030-01-01T01:00:00Z", "settled": 1, "settling": ["a"]});
    assert_eq!((&stored()["jobWindow"], &stored()["summary"]["jobsThisHour"]), (&written, &json!("3/10")));
    // A window that is unknown, or only forgets deleted pods, is not written.
    *bench.snapshot.lock().unwrap() = None;
    tokio::time::advance(Duration::from_secs(600)).await;
    assert_eq!(outline(&bench.reconcile_once().await.1), [""; 0], "the scheduler knows nothing yet");
    *bench.snapshot.lock().unwrap() = window(1, &[]);
    assert_eq!(outline(&bench.reconcile_once().await.1), [""; 0], "a pod is deleted");
    // A charge that a client waits for is written, at most every 2 s.
    *bench.snapshot.lock().unwrap() = window(2, &["b"]);
    let (_, calls) = bench.reconcile_once().await;
    assert_eq!(calls[0].body["status"], json!({"jobWindow": {"settled": 2, "settling": ["b"]}}));
    *bench.snapshot.lock().unwrap() = window(3, &["b", "c"]);
    let (action, calls) = bench.reconcile_once().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(Duration::from_secs(2)), vec![]));
    tokio::time::advance(Duration::from_secs(2)).await;
    assert_eq!(outline(&bench.reconcile_once().await.1), [APPLY[7]]);
    // A charge that no client waits for is written with usage.
    *bench.snapshot.lock().unwrap() = counts(4, &["b", "c", "d"], false);
    let (action, calls) = bench.reconcile_once().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(Duration::from_secs(15)), vec![]));
}

#[tokio::test]
async fn a_paused_tenant_is_left_alone() {
    let bench = bench();
    let metadata = json!({"finalizers": ["crofter.io/tenant"], "annotations": {"crofter.io/paused": "true"}});
    bench.tenant_with(metadata, json!({"suspended": true}));
    let (_, calls) = bench.reconcile_once().await;
    assert_eq!(outline(&calls), [APPLY[7]]);
    assert_eq!(bench.fake.get(TENANT)["status"]["observedGeneration"], json!(-1));
    assert_eq!(bench.fake.get(TENANT)["status"]["phase"], json!("Suspended"));
}
