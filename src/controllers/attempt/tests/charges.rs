//! Pods that wait for their tenant's hourly window, or for their time.

use super::*;

#[tokio::test]
async fn a_first_pod_is_held_until_its_tenants_status_counts_it() {
    let mut bench = bench(false);
    bench.job_with_record(json!({}));
    bench.tenant(json!({}), json!({}));
    let (action, calls) = bench.release().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(CHARGE_POLL), vec![]));
    assert_eq!(bench.asked(), ["tenant-acme/j1"]);
    assert_eq!(bench.freed(), [""; 0]);
    bench.tenant(json!({}), counted(&["j0"]));
    assert_eq!(bench.freed(), [""; 0], "others were counted");

    bench.tenant(json!({}), counted(&["j0", "j1"]));
    assert_eq!((bench.freed(), bench.freed()), (vec!["render-j1-1".to_owned()], vec![]), "requeued once");
    assert_eq!(outline(&bench.release().await.1), [format!("PATCH {POD}")]);
    assert_eq!(bench.asked(), [""; 0]);
}

#[tokio::test]
async fn a_first_pod_that_is_being_deleted_is_to_be_counted_soon() {
    let mut bench = bench(false);
    bench.job_with_record(json!({}));
    bench.tenant(json!({}), json!({}));
    bench.pod(json!({"deletionTimestamp": "2030-01-01T00:09:00Z"}), succeeded("00:00:09"));
    assert_eq!(outline(&bench.release().await.1), [""; 0]);
    assert_eq!(bench.asked(), ["tenant-acme/j1 soon"]);
}

#[tokio::test]
async fn a_first_pod_whose_window_is_over_is_released() {
    let mut bench = bench(false);
    bench.job_with_record(json!({}));
    bench.tenant(json!({}), counted(&[]));
    assert_eq!(outline(&bench.release().await.1), [""; 0]);
    *bench.now.lock().unwrap() = at("01:00:02");
    assert_eq!(outline(&bench.release().await.1), [format!("PATCH {POD}")]);
}

#[tokio::test]
async fn a_retry_is_charged_as_well_and_no_other_attempt() {
    let mut bench = bench(false);
    let record = json!({
        "attempt": 2, "pod": "render-j1-1", "finishedAt": "2030-01-01T00:00:09Z", "reason": "Succeeded",
        "cpuMillicores": 1, "memoryBytes": 1, "gpus": 0, "bandwidthMbps": 0,
    });
    bench.job(json!({}), json!({"phase": "Completed", "attempt": 2, "attempts": [record]}));
    let retry = json!({"crofter.io/attempt": "2", "crofter.io/retry": "1"});
    bench.pod(json!({"labels": retry}), succeeded("00:00:09"));
    bench.tenant(json!({}), counted(&["j1"]));
    assert_eq!(outline(&bench.release().await.1), [""; 0], "its job was counted, the retry was not");
    assert_eq!(bench.asked(), ["tenant-acme/j1/1"]);
    bench.tenant(json!({}), counted(&["j1/1"]));
    assert_eq!(outline(&bench.release().await.1), [format!("PATCH {POD}")]);

    bench
        .pod(json!({"labels": {"crofter.io/attempt": "2", "crofter.io/retry": null}}), succeeded("00:00:09"));
    bench.tenant(json!({}), json!({}));
    assert_eq!(outline(&bench.release().await.1), [format!("PATCH {POD}")]);
    assert_eq!(bench.asked(), [""; 0]);
}

#[tokio::test]
async fn nothing_is_counted_for_a_tenant_that_is_deleted_or_replaced_or_invalid() {
    // Given: a pod whose charge is requested from its tenant.
    let mut bench = bench(false);
    bench.job_with_record(json!({}));
    let deleted = json!({"deletionTimestamp": "2030-01-01T00:00:05Z"});
    let waits = |bench: &mut Bench| {
        bench.pod(json!({}), succeeded("00:00:09"));
        bench.tenant(json!({}), json!({}));
    };
    // When: the tenant is deleted, replaced, or can't be read any more.
    type Change = fn(&mut Bench, Value);
    let changes: [(&str, Change); 3] = [
        ("is deleted", |bench, deleted| bench.tenant(deleted, json!({}))),
        ("is replaced", |bench, _| bench.tenant(json!({"uid": "t2"}), json!({}))),
        ("is invalid", |bench, _| {
            let meta = json!({"metadata": {"name": "acme", "uid": "t1"}});
            put(&mut bench.invalid, meta);
        }),
    ];
    // Then: the pod is requeued, and its finalizer removed without a charge.
    for (what, change) in changes {
        waits(&mut bench);
        assert_eq!(outline(&bench.release().await.1), [""; 0], "{what}");
        assert_eq!(bench.asked(), ["tenant-acme/j1"], "{what}");
        change(&mut bench, deleted.clone());
        assert_eq!(bench.freed(), ["render-j1-1"], "{what}");
        assert_eq!(outline(&bench.release().await.1), [format!("PATCH {POD}")], "{what}");
        assert_eq!(bench.asked(), [""; 0], "{what}");
    }
    // The same where the tenant does not exist any more.
    mock::drop_all(&mut bench.invalid);
    waits(&mut bench);
    assert_eq!(outline(&bench.release().await.1), [""; 0]);
    mock::drop_all(&mut bench.tenants);
    assert_eq!(outline(&bench.release().await.1), [format!("PATCH {POD}")], "it does not exist");
}

#[tokio::test]
async fn a_pod_that_no_client_deletes_keeps_its_finalizer_for_a_minute() {
    let mut bench = bench(false);
    bench.job_with_record(json!({}));
    let seconds = |seconds| Action::requeue(Duration::from_secs(seconds));
    for (now, action) in [("00:00:09", seconds(60)), ("00:01:08", seconds(1)), ("00:00:00", seconds(69))] {
        *bench.now.lock().unwrap() = at(now);
        let (done, calls) = bench.release().await;
        assert_eq!((done.unwrap(), outline(&calls)), (action, vec![]), "at {now}");
    }
    assert_eq!(bench.freed(), [""; 0], "a change of the tenant is nothing to it");
    *bench.now.lock().unwrap() = at("00:01:09");
    assert_eq!(outline(&bench.release().await.1), [format!("PATCH {POD}")]);
}

#[tokio::test]
async fn who_is_waited_for_does_not_linger() {
    let mut bench = bench(false);
    bench.job_with_record(json!({}));
    *bench.now.lock().unwrap() = at("00:00:10");
    bench.pod(json!({"deletionTimestamp": "2030-01-01T00:00:10Z"}), succeeded("00:00:09"));
    assert_eq!(outline(&bench.release().await.1), [format!("PATCH {POD}")], "it is being deleted");

    bench.pod(json!({}), succeeded("00:00:09"));
    assert_eq!(outline(&bench.release().await.1), [""; 0]);
    bench.tenant(json!({"deletionTimestamp": "2030-01-01T00:00:10Z"}), json!({}));
    assert_eq!(bench.freed(), ["render-j1-1"]);
    assert_eq!(outline(&bench.release().await.1), [format!("PATCH {POD}")], "its tenant is being deleted");

    bench.tenant(json!({}), counted(&["j1"]));
    bench.pod(json!({}), succeeded("00:05:00"));
    assert_eq!(outline(&bench.release().await.1), [format!("PATCH {POD}")], "a node far ahead of us");
}

#[tokio::test]
async fn a_job_is_not_held_for_a_pod_that_has_to_stay() {
    let mut bench = bench(true);
    bench.job_with_record(json!({}));
    bench.mirror.behind.store(true, Ordering::SeqCst);
    bench.tenant(json!({}), json!({}));
    assert_eq!(outline(&bench.release().await.1), [""; 0]);
    assert_eq!(bench.finalizers(JOB), Value::Null);
}

#[tokio::test]
async fn deleted_pods_are_forgotten() {
    let mut bench = bench(false);
    bench.job_with_record(json!({}));
    bench.tenant(json!({}), json!({}));
    bench.release().await.0.unwrap();
    mock::drop_all(&mut bench.pods);
    assert_eq!(bench.freed(), [""; 0]);
    bench.pod(json!({}), succeeded("00:00:09"));
    bench.tenant(json!({}), counted(&["j1"]));
    assert_eq!(bench.freed(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_tenants_change_lets_its_pods_go() {
    let mut bench = bench(false);
    bench.job_with_record(json!({}));
    bench.tenant(json!({}), json!({}));
    let pod = bench.context.pods.state().remove(0);
    let (mut sender, tenants) = futures::channel::mpsc::channel(1);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let known = bench.context.tenants.known.clone();
    let running = tokio::spawn(run(
        Arc::new(bench.context),
        stream::iter([pod]).chain(stream::pending()),
        stream::pending(),
        tenants,
        stream::pending(),
        async { drop(stopped.await) },
    ));
    tokio::time::sleep(CHARGE_POLL - Duration::from_secs(1)).await;
    assert_eq!(*bench.asked.0.lock().unwrap(), ["tenant-acme/j1"]);
    let mut status = counted(&["j1"]);
    status["namespace"] = json!("tenant-acme");
    put(&mut bench.tenants, json!({"metadata": {"name": "acme", "uid": "t1"}, "spec": {}, "status": status}));
    sender.try_send(known.state().remove(0)).unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(outline(&bench.fake.calls()), [format!("PATCH {POD}")]);
    stop.send(()).unwrap();
    running.await.unwrap();
}
