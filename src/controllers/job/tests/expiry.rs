//! Jobs that have ended: their expiry, and the mirror that must have them first.

use super::*;

fn completed(bench: &Bench, metadata: Value) {
    let status = json!({"observedGeneration": 1, "phase": "Completed", "attempt": 1, "finishedAt": START});
    bench.job(metadata, json!({"ttlSecondsAfterFinished": 60}), status);
}

#[tokio::test]
async fn a_job_whose_time_is_up_is_deleted_by_uid() {
    let bench = bench(None);
    completed(&bench, json!({}));
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(Duration::from_secs(60)), vec![]));
    bench.at(60);
    let (_, calls) = bench.step().await;
    assert_eq!(outline(&calls), [format!("DELETE {JOB}")]);
    assert_eq!(calls[0].body["preconditions"], json!({"uid": "j1"}));
}

#[tokio::test]
async fn a_job_does_not_expire_before_the_mirror_has_it() {
    let bench = bench(None).with_mirror();
    completed(&bench, json!({}));
    bench.at(61);
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(MIRROR_POLL), vec![]));
    bench.in_mirror.store(true, Ordering::SeqCst);
    assert_eq!(outline(&bench.step().await.1), [format!("DELETE {JOB}")]);
}

#[tokio::test]
async fn a_job_that_was_held_for_the_mirror_is_released_once_the_mirror_has_it() {
    // While the mirror lacks the job, it keeps its finalizer.
    let held = || json!({"finalizers": ["x.io/other", "crofter.io/accounted"]});
    let bench = bench(None).with_mirror();
    completed(&bench, held());
    let (action, calls) = bench.step().await;
    assert_eq!(
        (action.unwrap(), outline(&calls)),
        (Action::requeue(MIRROR_POLL), vec![]),
        "no event requeues it"
    );
    bench.at(58);
    assert_eq!(
        bench.step().await.0.unwrap(),
        Action::requeue(Duration::from_secs(2)),
        "and its time is kept"
    );
    // Once the mirror has it, the finalizer is removed.
    bench.at(0);
    bench.in_mirror.store(true, Ordering::SeqCst);
    let (action, calls) = bench.step().await;
    assert_eq!(action.unwrap(), Action::requeue(Duration::from_secs(60)));
    assert_eq!(outline(&calls), [format!("PATCH {JOB}")]);
    assert_eq!(calls[0].body["metadata"]["finalizers"], json!(["x.io/other"]));

    // The same when its time is up: deleted with the finalizer on, it would stay for ever.
    bench.at(60);
    completed(&bench, held());
    assert_eq!(outline(&bench.step().await.1), [format!("PATCH {JOB}"), format!("DELETE {JOB}")]);
}
