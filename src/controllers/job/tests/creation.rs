//! What comes of each answer to a pod's creation.

use super::*;

#[tokio::test]
async fn an_admitted_job_gets_its_pod() {
    let bench = bench(admitted());
    bench.queued();
    let (action, calls) = bench.step().await;
    assert_eq!(action.unwrap(), Action::await_change());
    assert_eq!(outline(&calls), [format!("POST {PODS}")]);
    let pod = &calls[0].body;
    assert_eq!(pod["metadata"]["name"], "render-j1-1");
    assert_eq!(pod["metadata"]["finalizers"], json!(["crofter.io/accounted"]));
    assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "j1");
    // The free plan's 30 minutes, and 5 to start.
    assert_eq!(pod["spec"]["activeDeadlineSeconds"], 35 * 60);
    assert_eq!(bench.admissions(), "1");
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_not_created_twice_while_its_event_is_pending() {
    let bench = bench(admitted());
    bench.queued();
    assert_eq!(outline(&bench.step().await.1), [format!("POST {PODS}")]);
    tokio::time::advance(Duration::from_secs(10)).await;
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(Duration::from_secs(20)), vec![]));
    tokio::time::advance(Duration::from_secs(20)).await;
    assert_eq!(outline(&bench.step().await.1)[0], format!("POST {PODS}"), "it may be deleted");
}

#[tokio::test]
async fn a_pod_that_is_there_already_is_the_jobs_own() {
    let bench = bench(admitted());
    bench.queued();
    bench.fake.put(POD, pod(json!({}), json!({})));
    let (action, calls) = bench.step().await;
    assert_eq!(action.unwrap(), Action::await_change());
    assert_eq!(outline(&calls), [format!("POST {PODS}"), format!("GET {POD}")]);
    assert_eq!(bench.admissions(), "0", "created once, counted once");
    assert!(bench.step().await.1.is_empty(), "its event is pending");
}

#[tokio::test]
async fn a_foreign_pod_of_that_name_is_what_the_job_waits_for() {
    let bench = bench(admitted());
    bench.queued();
    bench.fake.put(POD, pod(json!({"labels": {"crofter.io/job-uid": "other"}}), json!({})));
    let (result, calls) = bench.step().await;
    assert_eq!(result.unwrap(), Action::await_change());
    assert_eq!(outline(&calls), [format!("POST {PODS}"), format!("GET {POD}")]);
    assert_eq!(outline(&bench.step().await.1), [STATUS, "Event PodRefused"], "its room is for others");
    let words = "the pod name render-j1-1 is taken by a pod of another owner: delete that pod";
    assert_eq!(bench.status()["message"], words);
}

#[tokio::test]
async fn a_conflict_without_a_pod_is_the_quotas_and_is_tried_again() {
    let bench = bench(admitted());
    bench.queued();
    bench.fake.refuse(PODS, 409);
    let (action, calls) = bench.step().await;
    assert_eq!(action.unwrap(), Action::requeue(Duration::from_millis(100)));
    assert_eq!(outline(&calls), [format!("POST {PODS}"), format!("GET {POD}")]);
}

#[tokio::test]
async fn a_quota_that_lags_is_asked_again_and_nothing_is_charged() {
    let bench = bench(admitted());
    bench.queued();
    bench.fake.refuse_with(
        PODS,
        403,
        "pods \"render-j1-1\" is forbidden: exceeded quota: crofter, used: pods=5",
    );
    let (action, calls) = bench.step().await;
    assert_eq!(action.unwrap(), Action::requeue(Duration::from_millis(100)));
    assert_eq!(outline(&calls), [format!("POST {PODS}")], "no status, no Event");
    assert_eq!(bench.admissions(), "0");
    bench.fake.refuse(PODS, 0);
    assert_eq!(bench.step().await.0.unwrap(), Action::await_change());
    assert_eq!(bench.admissions(), "1");
}

#[tokio::test]
async fn a_pod_that_will_never_be_accepted_rejects_its_job() {
    let refusals = [
        (422, "Pod \"render-j1-1\" is invalid: spec.containers[0].env[0].name: Invalid value: \"=\""),
        (400, "Pod in version \"v1\" cannot be handled as a Pod"),
        (500, "etcdserver: request is too large"),
    ];
    for (code, words) in refusals {
        let bench = bench(admitted());
        bench.queued();
        bench.fake.refuse_with(PODS, code, words);
        let version = bench.fake.get(JOB)["metadata"]["resourceVersion"].clone();
        let (action, calls) = bench.step().await;
        assert_eq!(action.unwrap(), Action::await_change());
        assert_eq!(outline(&calls), [&format!("POST {PODS}"), STATUS, "Event PodRefused"], "{code}");
        assert_eq!(calls[1].body["metadata"], json!({"resourceVersion": version}));
        let status = &calls[1].body["status"];
        assert_eq!((&status["phase"], &status["reason"]), (&json!("Rejected"), &json!("PodRefused")));
        assert_eq!(status["message"], format!("the API server refuses the pod: {words}"));
        assert_eq!(status["finishedAt"], START);
        assert_eq!(bench.admissions(), "0");
    }
}

#[tokio::test]
async fn a_job_that_makes_no_pod_is_rejected_without_asking() {
    let bench = bench(admitted());
    bench.job(json!({}), json!({"image": null, "scenario": "train"}), json!({}));
    let (_, calls) = bench.step().await;
    assert_eq!(outline(&calls), [STATUS, "Event UnknownScenario"]);
    assert_eq!(bench.status()["message"], "the catalogue has no scenario `train`: it is empty");
}

#[tokio::test]
async fn a_refusal_by_others_gives_the_admission_back_and_is_reported_once() {
    let refusals = [
        (500, "Internal error occurred: failed calling webhook \"w.example.com\": connection refused"),
        (400, "admission webhook \"w.example.com\" denied the request: not in this minute"),
        (422, "pods \"x\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no"),
        (403, "pods \"x\" is forbidden: violates PodSecurity \"restricted:v1.34\": runAsNonRoot != true"),
        (500, "etcdserver: leader changed"),
    ];
    for (code, words) in refusals {
        let bench = bench(admitted());
        bench.queued();
        bench.fake.refuse_with(PODS, code, words);
        let (action, calls) = bench.step().await;
        assert_eq!(
            (action.unwrap(), outline(&calls)),
            (Action::await_change(), vec![format!("POST {PODS}")])
        );
        assert_eq!(outline(&bench.step().await.1), [STATUS, "Event PodRefused"], "{code} {words}");
        let status = bench.status();
        assert_eq!((&status["phase"], &status["reason"]), (&json!("Queued"), &json!("PodRefused")));
        assert_eq!(status["message"], format!("the API server refuses the pod for the moment: {words}"));
        assert_eq!(outline(&bench.step().await.1), [""; 0], "once");
    }
}

#[tokio::test(start_paused = true)]
async fn while_a_webhook_is_down_one_job_of_a_namespace_tries_and_the_others_wait() {
    let bench = bench(admitted());
    bench.queued();
    let words =
        "Internal error occurred: failed calling webhook \"w.example.com\": context deadline exceeded";
    bench.fake.refuse_with(PODS, 500, words);
    let again = || bench.context.scheduler.show("j1", admitted().unwrap());
    assert_eq!(outline(&bench.step().await.1), [format!("POST {PODS}")]);
    again();
    assert_eq!(outline(&bench.step().await.1), [""; 0], "answered already");
    let message = format!("the API server refuses the pod for the moment: {words}");
    assert_eq!(bench.context.scheduler.verdict("j1"), Some(Verdict::Wait(Reason::PodRefused, message)));
    bench.fake.refuse(PODS, 0);
    tokio::time::advance(Duration::from_secs(5)).await;
    again();
    assert_eq!(outline(&bench.step().await.1), [format!("POST {PODS}")]);
    assert_eq!(bench.admissions(), "1");
}

#[tokio::test]
async fn an_api_server_that_can_not_be_reached_is_tried_again_and_the_admission_is_kept() {
    let mut bench = bench(admitted());
    bench.queued();
    let unreachable = tower::service_fn(|_: http::Request<kube::client::Body>| async {
        Err::<http::Response<kube::client::Body>, _>(std::io::Error::other("connection refused"))
    });
    bench.context.client = Client::new(unreachable, "default");
    assert_eq!(bench.step().await.0.unwrap(), Action::requeue(Duration::from_secs(5)));
    assert!(matches!(bench.context.scheduler.verdict("j1"), Some(Verdict::Admit(_))));
}

#[tokio::test]
async fn no_pod_is_made_in_a_namespace_that_is_not_the_tenants() {
    let mut bench = bench(admitted());
    let mut tenant = |status: Value| {
        let tenant = json!({"metadata": {"name": "acme", "uid": "t1"}, "spec": {}, "status": status});
        put(&mut bench.tenants, tenant);
    };
    tenant(json!({}));
    bench.queued();
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(CACHE_REQUEUE), vec![]), "it will be");
    let conflict = json!({"type": "Stalled", "status": "True", "reason": "NamespaceConflict", "message": "m",
        "lastTransitionTime": START});
    put(
        &mut bench.tenants,
        json!({"metadata": {"name": "acme", "uid": "t1"}, "spec": {}, "status": {"conditions": [conflict]}}),
    );
    assert_eq!(outline(&bench.step().await.1), [STATUS]);
    assert_eq!(
        (&bench.status()["phase"], &bench.status()["reason"]),
        (&json!("Queued"), &json!("NotATenantNamespace"))
    );
    bench.queued();
    mock::drop_all(&mut bench.tenants);
    assert_eq!(outline(&bench.step().await.1), [STATUS]);
    assert_eq!(bench.status()["conditions"][0]["type"], "Stalled");
    assert_eq!(outline(&bench.step().await.1), [""; 0]);
}
