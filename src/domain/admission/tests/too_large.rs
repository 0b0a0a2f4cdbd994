//! Jobs that no node of their groups could hold, were it empty.

use super::{reservation::with_a_starving_job, *};

fn second(n: i64) -> Timestamp {
    Timestamp::from_second(n).unwrap()
}

fn hour(n: i64) -> Timestamp {
    second(n * 3600)
}

fn is_rejected(dispatcher: &Dispatcher, uid: &str) -> bool {
    matches!(verdict(dispatcher, uid), Verdict::Reject(Reason::DoesNotFit, _))
}

/// Submits a job and decides at a time.
fn submit(dispatcher: &mut Dispatcher, now: Timestamp, job: JobInput) {
    dispatcher.tick(ClockReading::virtual_time(now));
    dispatcher.set_job(JobInput { created: now, ..job });
    dispatcher.decide();
}

/// A small and a large node; the large one is full, and five jobs wait for it.
fn five_wait_for_the_large_node() -> Dispatcher {
    let workers = vec![("small", worker("acme", 4)), ("large", worker("acme", 16))];
    let mut dispatcher = decide(&[tenant("acme", "pro")], workers, vec![]);
    running(&mut dispatcher, "large", job("running", "acme", cpu(16)));
    for n in 0..5 {
        submit(&mut dispatcher, hour(1), job(&format!("w{n}"), "acme", cpu(8)));
    }
    (0..5).for_each(|n| assert_eq!(waits(&dispatcher, &format!("w{n}")).0, Reason::WaitingForCapacity));
    dispatcher
}

#[test]
fn what_waits_for_a_deleted_node_keeps_waiting_with_the_message() {
    let mut dispatcher = five_wait_for_the_large_node();
    dispatcher.tick(ClockReading::virtual_time(hour(2)));
    dispatcher.set_worker("large", None);
    assert_eq!(dispatcher.decide().decided.len(), 0);
    let message = "asks for 8 CPU, 0.001 GB: none of the 1 workers could hold it, were it empty; the largest, small, \
                    has 4 CPU, 68.719 GB";
    for n in 0..5 {
        assert_eq!(waits(&dispatcher, &format!("w{n}")), (Reason::DoesNotFit, message.to_owned()));
    }
    assert_eq!(dispatcher.waiting()[&Reason::DoesNotFit], 5);
    // However long it takes, and whatever else the nodes do meanwhile.
    for day in 1..4 {
        dispatcher.tick(ClockReading::virtual_time(hour(24 * day)));
        dispatcher.set_worker("small", Some(worker("acme", 4 - day.unsigned_abs() % 2)));
        assert_eq!(dispatcher.decide().decided.len(), 0);
    }
    ended(&mut dispatcher, job("running", "acme", cpu(16)));
    dispatcher.set_worker("new", Some(worker("acme", 16)));
    assert_eq!(dispatcher.decide().decided, ["w0".into(), "w1".into()]);
}

#[test]
fn a_job_is_rejected_as_too_large_at_its_first_assessment_only() {
    let mut dispatcher = decide(&[tenant("acme", "pro")], vec![("n1", worker("acme", 4))], vec![]);
    submit(&mut dispatcher, hour(1), job("new", "acme", cpu(8)));
    assert!(is_rejected(&dispatcher, "new"));
    let ran = JobInput { state: JobState::Waiting(2), ..job("ran", "acme", cpu(8)) };
    submit(&mut dispatcher, hour(1), ran);
    assert_eq!(waits(&dispatcher, "ran").0, Reason::DoesNotFit);
    // Another input of the tenant has all jobs assessed again.
    let mut acme = tenant("acme", "pro");
    acme.quotas.max_jobs = 7;
    dispatcher.set_tenant("acme", Some(acme));
    dispatcher.decide();
    assert_eq!(waits(&dispatcher, "ran").0, Reason::DoesNotFit);
}

#[test]
fn nothing_is_rejected_while_nodes_come_one_after_another() {
    let mut dispatcher = decide(&[tenant("acme", "pro")], vec![("n1", worker("acme", 4))], vec![]);
    submit(&mut dispatcher, second(5), job("eight", "acme", cpu(8)));
    submit(&mut dispatcher, second(5), job("sixty", "acme", cpu(60)));
    assert_eq!(waits(&dispatcher, "sixty").0, Reason::DoesNotFit);
    dispatcher.tick(ClockReading::virtual_time(second(30)));
    dispatcher.set_worker("n2", Some(worker("acme", 4)));
    assert_eq!(dispatcher.decide().decided.len(), 0);
    dispatcher.tick(ClockReading::virtual_time(second(50)));
    dispatcher.set_worker("n3", Some(worker("acme", 8)));
    assert_eq!(dispatcher.decide().decided, ["eight".into()]);
    // Its first assessment is concluded once, whatever came meanwhile.
    assert_eq!(next_wakeup(&dispatcher), Some(second(60)));
    dispatcher.tick(ClockReading::virtual_time(second(60)));
    assert_eq!(dispatcher.decide().decided, ["sixty".into()]);
    assert!(is_rejected(&dispatcher, "sixty"));
}

#[test]
fn a_gpu_that_is_registered_after_its_node_is_ready_is_waited_for() {
    let gpus = |gpus| {
        let plain = worker("acme", 8);
        WorkerInput { capacity: Resources { gpus, ..plain.capacity }, ..plain }
    };
    let mut dispatcher = decide(&[tenant("acme", "pro")], vec![("n1", worker("acme", 8))], vec![]);
    dispatcher.tick(ClockReading::virtual_time(hour(1)));
    dispatcher.set_worker("n2", Some(gpus(0)));
    dispatcher.decide();
    submit(&mut dispatcher, hour(1), job("a", "acme", Resources { gpus: 1, ..cpu(1) }));
    assert_eq!(waits(&dispatcher, "a").0, Reason::DoesNotFit);
    dispatcher.set_worker("n2", Some(gpus(4)));
    assert_eq!(dispatcher.decide().decided, ["a".into()]);
    // The kubelet is restarted and shows none for a while: what is submitted now waits for it.
    dispatcher.tick(ClockReading::virtual_time(hour(3)));
    dispatcher.set_worker("n2", Some(gpus(0)));
    dispatcher.decide();
    submit(&mut dispatcher, hour(4), job("b", "acme", Resources { gpus: 4, ..cpu(1) }));
    assert_eq!(waits(&dispatcher, "b").0, Reason::DoesNotFit);
    submit(&mut dispatcher, hour(10), job("c", "acme", Resources { gpus: 4, ..cpu(1) }));
    assert!(is_rejected(&dispatcher, "c"), "none was there for hours");
    assert_eq!(waits(&dispatcher, "b").0, Reason::DoesNotFit);
}

#[test]
fn a_node_that_is_away_may_come_back_larger() {
    let away = WorkerInput { open: false, ..worker("acme", 1) };
    let workers = vec![("n1", worker("acme", 2)), ("n2", away)];
    let mut dispatcher = decide(&[tenant("acme", "basic")], workers, vec![]);
    submit(&mut dispatcher, hour(1), job("a", "acme", cpu(3)));
    assert_eq!(waits(&dispatcher, "a").0, Reason::DoesNotFit);
    dispatcher.set_worker("n2", Some(worker("acme", 1)));
    assert_eq!(dispatcher.decide().decided.len(), 0, "it came back as small, and has waited");
    dispatcher.set_worker("n2", Some(worker("acme", 3)));
    assert_eq!(dispatcher.decide().decided, ["a".into()]);
}

#[test]
fn after_a_restart_the_status_gives_the_same_assessment() {
    let known = |uid: &str, reported| JobInput { reported, ..job(uid, "acme", cpu(8)) };
    let jobs = vec![
        known("waited", Some(Reason::WaitingForCapacity)),
        known("oversized", Some(Reason::DoesNotFit)),
        known("closed", Some(Reason::TenantSuspended)),
        known("new", None),
    ];
    let mut dispatcher = decide(&[tenant("acme", "pro")], vec![("n1", worker("acme", 4))], jobs);
    settled(&mut dispatcher);
    assert_eq!(waits(&dispatcher, "waited").0, Reason::DoesNotFit);
    assert_eq!(waits(&dispatcher, "oversized").0, Reason::DoesNotFit);
    assert!(is_rejected(&dispatcher, "closed") && is_rejected(&dispatcher, "new"), "never assessed before");
}

#[test]
fn nothing_is_reserved_for_a_job_that_no_node_can_hold() {
    let mut dispatcher = with_a_starving_job(&[tenant("acme", "pro")]);
    assert_eq!(dispatcher.reserved_nodes(), ["n1"]);
    let mut acme = tenant("acme", "pro");
    // With what it asks for set aside no other job of its tenant would start any more.
    acme.quotas.max_cpu_cores = 8;
    dispatcher.set_worker("n1", Some(worker("acme", 6)));
    dispatcher.set_job(at(1, job("small", "acme", cpu(1))));
    dispatcher.decide();
    assert_eq!(dispatcher.reserved_nodes(), [""; 0]);
    assert_eq!(waits(&dispatcher, "large").0, Reason::DoesNotFit);
    assert!(is_admitted(&dispatcher, "small"));
    dispatcher.set_tenant("acme", Some(acme));
    for n in 0..2 * BACKFILL_LIMIT {
        let small = at(2, job(&format!("t{n}"), "acme", cpu(1)));
        dispatcher.set_job(small.clone());
        dispatcher.decide();
        assert!(is_admitted(&dispatcher, &small.uid), "{n}");
        dispatcher.remove_job(&small.uid);
    }
    assert_eq!(waits(&dispatcher, "large").0, Reason::DoesNotFit);
}

#[test]
fn a_pool_that_is_taken_from_a_tenant_for_a_while_is_waited_for() {
    let mut acme = tenant("acme", "pro");
    let alone = acme.clone();
    acme.groups.push("pool.p".to_owned());
    let of = |uid: &str| JobInput { group: Some("pool.p".into()), ..job(uid, "acme", cpu(2)) };
    let mut dispatcher = decide(std::slice::from_ref(&acme), vec![], vec![of("waits")]);
    assert_eq!(waits(&dispatcher, "waits").0, Reason::NoWorkers);
    dispatcher.set_tenant("acme", Some(alone));
    dispatcher.set_job(of("new"));
    dispatcher.decide();
    let message = "tenant acme may not use the pool of group pool.p".to_owned();
    assert_eq!(waits(&dispatcher, "waits"), (Reason::DoesNotFit, message.clone()));
    assert_eq!(verdict(&dispatcher, "new"), Verdict::Reject(Reason::DoesNotFit, message));
    dispatcher.remove_job("new");
    dispatcher.set_tenant("acme", Some(acme));
    dispatcher.set_worker("p1", Some(worker("pool.p", 2)));
    assert_eq!(dispatcher.decide().decided, ["waits".into()]);
}
