//! What becomes of an admission whose pod is not created.

use super::*;

#[test]
fn a_pod_creation_that_fails_is_retried_quickly_and_then_its_room_is_given_to_others() {
    let mut dispatcher = decide(&[tenant("acme", "pro")], vec![("n1", worker("acme", 2))], vec![]);
    one_admitted(&mut dispatcher, "a");
    dispatcher.set_job(at(1, job("b", "acme", cpu(2))));
    let refused =
        |dispatcher: &mut Dispatcher| dispatcher.pod_create_failed("a", 1, Meaning::TryAgain, "no".into());
    let waits_ms: Vec<_> = (0..5).map(|_| refused(&mut dispatcher).unwrap().as_millis()).collect();
    assert_eq!(waits_ms, [100, 200, 400, 800, 1600]);
    assert_eq!(dispatcher.decide().decided.len(), 0, "the room is still its own");
    assert_eq!(refused(&mut dispatcher), None);
    assert_eq!(dispatcher.decide().decided, ["b".into()]);
    assert_eq!(waits(&dispatcher, "a"), (Reason::PodRefused, "no".to_owned()));
    assert_eq!(dispatcher.take_reason_updates(9), ["a".into()], "its status says so");
    assert_eq!(dispatcher.usage_snapshot("acme").unwrap().usage.queued, 1);
    let again = next_wakeup(&dispatcher).unwrap();
    assert!(again <= Timestamp::from_second(5).unwrap(), "{again}");
    dispatcher.remove_job("b");
    dispatcher.decide();
    dispatcher.tick(ClockReading::virtual_time(again));
    assert_eq!(dispatcher.decide().decided, ["a".into()]);
}

#[test]
fn a_job_that_is_paused_while_no_pod_of_it_could_be_created_holds_no_room() {
    for meaning in [Meaning::TryAgain, Meaning::Keep, Meaning::GiveBack] {
        let mut dispatcher = decide(&[tenant("acme", "pro")], vec![("n1", worker("acme", 2))], vec![]);
        let admitted = one_admitted(&mut dispatcher, "a");
        dispatcher.set_job(at(1, job("b", "acme", cpu(2))));
        let paused = JobInput { state: JobState::Inactive, ..admitted.clone() };
        // While the creation is under way a pod may come of it.
        assert!(dispatcher.claim("a", 1).is_some());
        dispatcher.set_job(paused.clone());
        assert!(dispatcher.decide().decided.is_empty(), "{meaning:?}");
        assert_eq!(dispatcher.pod_create_failed("a", 1, meaning, "exceeded quota".into()), None);
        assert_eq!(dispatcher.decide().decided, ["b".into()], "{meaning:?}");
        assert!(dispatcher.claim("a", 1).is_none(), "{meaning:?}");
        // Where it is no longer paused by then, it is tried again.
        dispatcher.remove_job("b");
        dispatcher.set_job(admitted.clone());
        assert_eq!(dispatcher.decide().decided, ["a".into()], "{meaning:?}");
        dispatcher.set_job(at(1, job("b", "acme", cpu(2))));
        assert!(dispatcher.claim("a", 1).is_some());
        dispatcher.set_job(paused.clone());
        dispatcher.set_job(admitted);
        let wait = dispatcher.pod_create_failed("a", 1, meaning, "exceeded quota".into());
        assert_eq!(wait.is_some(), meaning != Meaning::GiveBack, "{meaning:?}");
        // Between two tries it may go at once.
        dispatcher.set_job(paused);
        assert_eq!(dispatcher.decide().decided, ["b".into()], "{meaning:?}");
    }
}

#[test]
fn a_job_whose_tenant_has_closed_while_no_pod_of_it_could_be_created_is_not_tried_again() {
    let acme = tenant("acme", "pro");
    let mut dispatcher = decide(std::slice::from_ref(&acme), vec![("n1", worker("acme", 2))], vec![]);
    one_admitted(&mut dispatcher, "a");
    assert!(dispatcher.claim("a", 1).is_some());
    dispatcher.set_tenant(
        "acme",
        Some(TenantInput { closed: Some((Reason::TenantSuspended, "suspended".to_owned())), ..acme }),
    );
    assert_eq!(dispatcher.pod_create_failed("a", 1, Meaning::TryAgain, "exceeded quota".into()), None);
    dispatcher.decide();
    assert_eq!(waits(&dispatcher, "a").0, Reason::TenantSuspended);
}

#[test]
fn a_pod_that_a_dead_webhook_refuses_gives_its_room_back_at_once_and_waits_longer_each_time() {
    let mut dispatcher = decide(&[tenant("acme", "pro")], vec![("n1", worker("acme", 2))], vec![]);
    one_admitted(&mut dispatcher, "a");
    let mut now = Timestamp::UNIX_EPOCH;
    for longest in [5, 10, 20, 40] {
        assert_eq!(dispatcher.pod_create_failed("a", 1, Meaning::GiveBack, "webhook".into()), None);
        dispatcher.set_job(at(1, job("b", "acme", cpu(2))));
        assert_eq!(dispatcher.decide().decided, ["b".into()], "the room is free at once");
        assert_eq!(waits(&dispatcher, "a"), (Reason::PodRefused, "webhook".to_owned()));
        dispatcher.remove_job("b");
        dispatcher.decide();
        let again = next_wakeup(&dispatcher).unwrap();
        let pause = again.duration_since(now).as_secs_f64();
        assert!(pause <= f64::from(longest) && pause > 0.7 * f64::from(longest), "{pause} of {longest}");
        now = again;
        dispatcher.tick(ClockReading::virtual_time(now));
        assert_eq!(dispatcher.decide().decided, ["a".into()]);
    }
}

/// A pod that the API server refuses is tried again after a pause, whatever is done to the time of day meanwhile.

#[test]
fn the_pause_after_a_refused_pod_goes_by_the_steady_clock() {
    for set_by in [-3600, 3600] {
        let mut dispatcher = decide(&[tenant("acme", "pro")], vec![("n1", worker("acme", 2))], vec![]);
        let at = |wall: i64, steady: i64| ClockReading {
            wall: Timestamp::from_second(wall).unwrap(),
            steady: Timestamp::from_second(steady).unwrap(),
        };
        dispatcher.tick(at(10_000, 10_000));
        one_admitted(&mut dispatcher, "a");
        assert_eq!(dispatcher.pod_create_failed("a", 1, Meaning::GiveBack, "webhook".into()), None);
        dispatcher.decide();
        let set = at(10_000 + set_by, 10_000);
        let pause = dispatcher.next_wakeup(set).unwrap();
        assert!((0..=5).contains(&pause.as_secs()), "{pause:?} with a clock set by {set_by} s");
        dispatcher.tick(set);
        assert_eq!(dispatcher.decide().decided.len(), 0, "no time has passed");
        dispatcher.tick(at(10_005 + set_by, 10_005));
        assert_eq!(dispatcher.decide().decided, ["a".into()], "a clock set by {set_by} s");
    }
}
