//! Jobs of tenants that drain, and jobs that are paused.

use super::*;

#[tokio::test]
async fn a_draining_tenants_job_is_stopped_and_requeued_without_a_charge() {
    let mut bench = bench(None);
    bench.tenant(json!({"suspended": true, "suspendPolicy": "Drain"}));
    bench.at_work(json!({}));
    bench.at(10);
    put(&mut bench.pods, pod(json!({}), running()));
    assert_eq!(outline(&bench.step().await.1), [STATUS]);
    assert_eq!(bench.status()["reason"], "TenantSuspended");
    assert_eq!(outline(&bench.step().await.1), [format!("DELETE {POD}")]);

    let terminating = json!({"deletionTimestamp": time(36), "deletionGracePeriodSeconds": 30});
    put(&mut bench.pods, pod(terminating, ended(143)));
    assert_eq!(outline(&bench.step().await.1), [STATUS, "Event TenantSuspended"]);
    let status = bench.status();
    assert_eq!((&status["phase"], &status["retries"]), (&json!("Retrying"), &json!(0)));
    assert!(status["notBefore"].is_null(), "no back-off: {status}");

    mock::drop_all(&mut bench.pods);
    bench.step().await.0.unwrap();
    assert_eq!(bench.status()["phase"], "Queued");
}

#[tokio::test]
async fn a_holding_tenants_job_runs_on() {
    let mut bench = bench(None);
    bench.tenant(json!({"suspended": true}));
    bench.at_work(json!({}));
    put(&mut bench.pods, pod(json!({}), running()));
    assert_eq!(outline(&bench.step().await.1), [""; 0]);
}

#[tokio::test]
async fn a_paused_job_is_left_alone() {
    let mut bench = bench(admitted());
    put(&mut bench.pods, pod(json!({}), ended(0)));
    let job = |paused: &str| {
        bench.job(json!({"annotations": {"crofter.io/paused": paused}}), json!({}), json!({}));
    };
    job("true");
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::await_change(), vec![]));
    job("false");
    assert_eq!(outline(&bench.step().await.1), [STATUS]);
}

/// Only an administrator pauses a job, and a pause keeps no tenant from its deletion.
#[tokio::test]
async fn being_paused_keeps_no_job_from_its_end() {
    // A paused job that is canceled or deleted ends.
    const PAUSED: &str = "crofter.io/paused";
    let paused = || json!({"annotations": {PAUSED: "true"}});
    let deleted = json!({
        "annotations": {PAUSED: "true"}, "deletionTimestamp": "2030-01-01T00:00:00Z", "finalizers": ["x.io/x"],
    });
    for (metadata, spec) in [(paused(), json!({"canceled": true})), (deleted, json!({}))] {
        let bench = bench(None);
        bench.job(metadata, spec, json!({}));
        bench.step().await.0.unwrap();
        assert_eq!(bench.status()["phase"], "Canceled");
    }
    // A paused job of a tenant that drains is stopped.
    let running = json!({"phase": "Running", "attempt": 1, "reason": "Running"});
    let mut draining = bench(None);
    draining.tenant(json!({"suspended": true, "suspendPolicy": "Drain"}));
    draining.job(paused(), json!({}), running.clone());
    put(&mut draining.pods, pod(json!({}), self::running()));
    draining.step().await.0.unwrap();
    assert_eq!(draining.status()["reason"], "TenantSuspended");

    // A paused job whose time is up is stopped.
    let mut late = bench(None);
    late.job(
        paused(),
        json!({}),
        json!({"phase": "Running", "attempt": 1, "reason": "Running", "node": "n1"}),
    );
    put(&mut late.pods, pod(json!({}), self::running()));
    late.at(6);
    let (action, calls) = late.step().await;
    let left = Duration::from_secs(30 * 60 - 1);
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(left), vec![]));
    *late.now.lock().unwrap() = time(5 + 30 * 60).parse().unwrap();
    assert_eq!(outline(&late.step().await.1), [format!("PATCH {POD}")]);
}

#[tokio::test]
async fn being_paused_keeps_no_end_from_the_status_where_the_tenant_or_the_pod_is_deleted() {
    let deleted = || json!({"deletionTimestamp": time(8), "finalizers": ["x.io/x"]});
    for (of_tenant, of_pod, calls) in [
        (json!({}), json!({}), vec![]),
        (deleted(), json!({}), vec![STATUS]),
        (json!({}), deleted(), vec![STATUS]),
    ] {
        let mut bench = bench(None);
        let mut tenant = json!({
            "metadata": {"name": "acme", "uid": "t1"}, "spec": {},
            "status": {"observedGeneration": 1, "namespace": "tenant-acme"},
        });
        mock::merge(&mut tenant, &json!({"metadata": of_tenant}));
        put(&mut bench.tenants, tenant);
        bench.job(
            json!({"annotations": {"crofter.io/paused": "true"}}),
            json!({}),
            json!({"phase": "Running", "attempt": 1, "reason": "Running", "node": "n1"}),
        );
        put(&mut bench.pods, pod(of_pod.clone(), ended(0)));
        bench.at(10);
        assert_eq!(outline(&bench.step().await.1), calls, "{of_tenant} {of_pod}");
        let phase = if calls.is_empty() { "Running" } else { "Completed" };
        assert_eq!(bench.status()["phase"], phase);
    }
}
