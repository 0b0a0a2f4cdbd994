//! A clock that is set changes no running time and no back-off.

use super::*;

/// A bench whose time of day is set by hand, and whose time for differences is [`Bench::at`].
fn bench_with_a_clock_that_steps() -> (Bench, Arc<Mutex<Timestamp>>) {
    let mut bench = bench(None);
    let set = Arc::new(Mutex::new(START.parse().unwrap()));
    let shown = Arc::clone(&set);
    bench.context.clock = bench.context.clock.clone().set_to(move || *shown.lock().unwrap());
    (bench, set)
}

#[tokio::test]
async fn a_clock_that_jumps_ends_no_attempt_and_keeps_none_running() {
    let (mut bench, set) = bench_with_a_clock_that_steps();
    let set = |seconds: i64| *set.lock().unwrap() = time(seconds).parse().unwrap();
    bench.at_work(json!({}));
    put(&mut bench.pods, pod(json!({}), running()));
    bench.at(6);
    set(6);
    assert_eq!(bench.step().await.0.unwrap(), Action::requeue(Duration::from_secs(1799)));
    for hours in [1, -1] {
        set(hours * 3600 + 16);
        bench.at(16);
        let (action, calls) = bench.step().await;
        assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(Duration::from_secs(1789)), vec![]));
    }
    bench.at(1805);
    assert_eq!(
        outline(&bench.step().await.1),
        [format!("PATCH {POD}")],
        "its time is up, whatever the clock shows"
    );
}

#[tokio::test]
async fn a_clock_that_jumps_neither_fails_a_start_nor_holds_a_retry_up() {
    // The clock jumps an hour ahead while a pod starts.
    let (mut bench, set) = bench_with_a_clock_that_steps();
    let set = |seconds: i64| *set.lock().unwrap() = time(seconds).parse().unwrap();
    let status = json!({"phase": "Assigned", "attempt": 1, "pod": "render-j1-1", "message": "attempt 1 is admitted to acme"});
    bench.job(json!({}), json!({}), status);
    put(&mut bench.pods, pod(json!({}), json!({"phase": "Pending"})));
    bench.at(10);
    set(10);
    assert_eq!(bench.step().await.0.unwrap(), Action::requeue(Duration::from_secs(290)));
    set(3610);
    assert_eq!(outline(&bench.step().await.1), [""; 0], "five minutes have not passed");

    // The attempt ends, and its retry waits while the clock is set back.
    mock::drop_all(&mut bench.pods);
    set(10);
    bench.job(
        json!({}),
        json!({}),
        json!({"phase": "Retrying", "attempt": 1, "retries": 1, "notBefore": time(40)}),
    );
    assert_eq!(bench.step().await.0.unwrap(), Action::requeue(Duration::from_secs(30)));
    set(-3600);
    bench.at(40);
    assert_eq!(outline(&bench.step().await.1), [STATUS]);
    assert_eq!(bench.status()["phase"], "Queued");
    // What has ended, or is deleted, leaves nothing behind.
    let job: Job = serde_json::from_value(bench.fake.get(JOB)).unwrap();
    bench.step().await.0.unwrap();
    let again = bench.context.ages.now(&job, &[], &bench.context.clock);
    assert_eq!(again, time(-3600).parse::<Timestamp>().unwrap());
}
