//! When a status is written, with which fields, and over which version of the job.

use super::*;

#[tokio::test]
async fn the_reason_of_a_waiting_job_is_written_once() {
    let verdict = Verdict::Wait(Reason::WaitingForQuota, "free allows 5 jobs at once: 5 admitted".into());
    let bench = bench(Some(verdict));
    bench.queued();
    let (_, calls) = bench.step().await;
    assert_eq!(outline(&calls), [STATUS]);
    assert_eq!(calls[0].body["status"]["message"], "free allows 5 jobs at once: 5 admitted");
    assert_eq!(outline(&bench.step().await.1), [""; 0]);
}

#[tokio::test]
async fn while_the_cache_is_behind_the_next_step_is_taken_from_what_was_written() {
    let mut bench = bench(admitted());
    bench.queued();
    let cached: Job = serde_json::from_value(bench.fake.get(JOB)).unwrap();
    put(&mut bench.pods, pod(json!({}), running()));
    assert_eq!(outline(&bench.step_with(cached.clone()).await.1), [STATUS]);
    put(&mut bench.pods, pod(json!({}), ended(0)));
    let version = bench.fake.get(JOB)["metadata"]["resourceVersion"].clone();
    let (_, calls) = bench.step_with(cached).await;
    assert_eq!(outline(&calls), [STATUS]);
    assert_eq!(calls[0].body["metadata"], json!({"resourceVersion": version}));
    assert_eq!(bench.status()["phase"], "Completed");
}

#[tokio::test]
async fn a_running_pod_is_written_over_the_version_it_was_computed_from() {
    let mut bench = bench(admitted());
    bench.queued();
    bench.at(6);
    put(&mut bench.pods, pod(json!({}), running()));
    let version = bench.fake.get(JOB)["metadata"]["resourceVersion"].clone();
    let (_, calls) = bench.step().await;
    assert_eq!(outline(&calls), [STATUS]);
    assert_eq!(calls[0].body["metadata"], json!({"resourceVersion": version}));
    let condition = json!({
        "type": "Reconciling", "status": "True", "reason": "Running", "message": "attempt 1 runs on n1",
        "observedGeneration": 1, "lastTransitionTime": time(6),
    });
    let expected = json!({
        "observedGeneration": 1, "phase": "Running", "reason": "Running", "message": "attempt 1 runs on n1",
        "attempt": 1, "pod": "render-j1-1", "node": "n1", "workerGroup": "acme",
        "assignedAt": START, "startedAt": time(5), "conditions": [condition],
    });
    assert_eq!(calls[0].body["status"], expected);

    // 30 minutes from when the container started.
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(Duration::from_secs(1799)), vec![]));
}

#[tokio::test(start_paused = true)]
async fn running_is_written_later_while_the_controller_is_saturated_and_just_after() {
    let mut bench = bench(admitted());
    bench.queued();
    put(&mut bench.pods, pod(json!({}), running()));
    bench.at(6);
    let others: Vec<_> = (0..BUSY).map(|_| bench.context.inflight.begin().unwrap()).collect();
    drop(others);
    tokio::time::advance(BUSY_FOR / 2).await;
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(Duration::from_secs(7)), vec![]));
    tokio::time::advance(BUSY_FOR).await;
    let few: Vec<_> = (1..BUSY).map(|_| bench.context.inflight.begin().unwrap()).collect();
    assert_eq!(outline(&bench.step().await.1), [STATUS]);
    drop(few);
}

#[tokio::test]
async fn an_ended_pod_ends_its_job() {
    for (code, phase, event) in [(0, "Completed", None), (3, "Failed", Some("Event NonZeroExit".to_owned()))]
    {
        let mut bench = bench(None);
        bench.at_work(json!({}));
        bench.at(10);
        put(&mut bench.pods, pod(json!({}), ended(code)));
        let (_, calls) = bench.step().await;
        assert_eq!(outline(&calls), [vec![STATUS.to_owned()], event.into_iter().collect()].concat());
        assert!(calls[0].body["metadata"]["resourceVersion"].is_string());
        let status = &calls[0].body["status"];
        assert_eq!((&status["phase"], &status["exitCode"]), (&json!(phase), &json!(code)));
        assert_eq!((&status["finishedAt"], &status["runningMillis"]), (&json!(time(9)), &json!(4000)));
        let record = &status["attempts"][0];
        assert_eq!((&record["attempt"], &record["cpuMillicores"]), (&json!(1), &json!(1500)));
        assert!(bench.fake.get(POD).is_null() && outline(&bench.step().await.1).is_empty(), "the pod stays");
    }
}

#[tokio::test]
async fn a_status_computed_from_an_old_job_is_refused_and_computed_again() {
    let mut bench = bench(None);
    bench.at_work(json!({}));
    let cached: Job = serde_json::from_value(bench.fake.get(JOB)).unwrap();
    bench.at_work(json!({"canceled": true}));
    put(&mut bench.pods, pod(json!({}), ended(0)));
    let (result, calls) = bench.step_with(cached).await;
    assert_eq!(result.unwrap(), Action::requeue(CONFLICT_REQUEUE));
    assert_eq!(outline(&calls), [STATUS], "no Event of a status that was not written");
    assert_eq!(bench.status()["phase"], "Running");
    bench.step().await.0.unwrap();
    assert_eq!(bench.status()["phase"], "Completed", "the end that came first counts");
}
