//! Pods that are stopped, deleted, or missing from the cache.

use super::*;

#[tokio::test]
async fn a_canceled_jobs_pod_is_stopped_as_it_is_known_and_stays() {
    let mut bench = bench(None);
    bench.at_work(json!({"canceled": true}));
    bench.at(9);
    let stored = pod(json!({}), running());
    bench.fake.put(POD, stored);
    put(&mut bench.pods, bench.fake.get(POD));
    let version = bench.fake.get(POD)["metadata"]["resourceVersion"].clone();
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::await_change(), vec![format!("PATCH {POD}")]));
    let asked = json!({"crofter.io/stop-requested": "2030-01-01T00:00:09Z Canceled"});
    let metadata = json!({"uid": "p1", "resourceVersion": version, "annotations": asked});
    assert_eq!(calls[0].body, json!({"metadata": metadata, "spec": {"activeDeadlineSeconds": 1}}));
    assert_eq!(bench.step().await.0.unwrap(), Action::requeue(CONFLICT_REQUEUE), "the cache is behind");

    put(&mut bench.pods, bench.fake.get(POD));
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(Duration::from_secs(60)), vec![]));
}

#[tokio::test]
async fn a_pod_that_can_not_be_stopped_is_deleted_by_uid_with_its_own_grace() {
    for (spec, now) in [(json!({"canceled": true}), 9), (json!({}), 5 + 30 * 60)] {
        // A pod that did not heed its deadline is deleted.
        let mut bench = bench(None);
        bench.at_work(spec);
        bench.at(now);
        bench.fake.put(
            POD,
            pod(
                json!({"annotations": {"crofter.io/stop-requested": "2029-12-31T23:00:00Z Canceled"}}),
                running(),
            ),
        );
        put(&mut bench.pods, bench.fake.get(POD));
        let (action, calls) = bench.step().await;
        assert_eq!(action.unwrap(), Action::await_change());
        assert_eq!(outline(&calls), [format!("DELETE {POD}")]);
        // No gracePeriodSeconds: the pod's own counts.
        assert_eq!(calls[0].body, json!({"propagationPolicy": "Background", "preconditions": {"uid": "p1"}}));

        // A pod of which the API server refuses the deadline is deleted.
        put(&mut bench.pods, pod(json!({"resourceVersion": "1"}), running()));
        bench.fake.refuse(POD, 422);
        let (_, calls) = bench.step().await;
        assert_eq!(outline(&calls), [format!("PATCH {POD}"), format!("DELETE {POD}")]);
        // Another pod has taken the name.
        bench.fake.refuse(POD, 409);
        assert_eq!(bench.step().await.0.unwrap(), Action::requeue(CONFLICT_REQUEUE));
        bench.fake.take(POD);
    }
}

#[tokio::test]
async fn a_pod_that_is_not_in_the_cache_is_asked_for() {
    let bench = bench(None);
    bench.at_work(json!({}));
    bench.fake.put(POD, pod(json!({}), running()));
    let (action, calls) = bench.step().await;
    assert_eq!(action.unwrap(), Action::requeue(CACHE_REQUEUE));
    assert_eq!(outline(&calls), [format!("GET {POD}")]);

    bench.fake.take(POD);
    let (_, calls) = bench.step().await;
    assert_eq!(outline(&calls), [&format!("GET {POD}"), STATUS, "Event PodDeleted"]);
    let status = bench.status();
    assert_eq!((&status["phase"], &status["disruptions"]), (&json!("Retrying"), &json!(1)));
    assert_eq!(status["message"], "the pod was deleted before its end was seen");
}

#[tokio::test]
async fn a_forged_pod_of_its_name_keeps_no_job_running() {
    let bench = bench(None);
    bench.at_work(json!({}));
    bench.fake.put(
        POD,
        pod(
            json!({"ownerReferences": [{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "render", "uid": "j1", "controller": true}]}),
            running(),
        ),
    );
    assert_eq!(outline(&bench.step().await.1), [&format!("GET {POD}"), STATUS, "Event PodDeleted"]);
    assert_eq!(bench.status()["phase"], "Retrying");
}
