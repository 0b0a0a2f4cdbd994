//! Attempts that are ended from outside: by their time limit, and by a tenant that drains.

use super::*;

#[test]
fn exit_codes_and_timeouts_are_retried_only_on_demand() {
    for (policy, code_ends, time_ends) in [
        ("Infrastructure", JobPhase::Failed, JobPhase::TimedOut),
        ("Always", JobPhase::Retrying, JobPhase::Retrying),
    ] {
        let mut world = World::new(&json!({"retryPolicy": policy, "timeoutSeconds": 5}));
        world.running(1, 0);
        world.write(0);
        world.ended(1, 0, 1, 2, &json!({}));
        let Step::Write(status) = world.step(2) else { panic!() };
        assert_eq!(status.phase, code_ends, "{policy}");
        world.running(1, 0);
        assert!(matches!(world.step(5), Step::Delete { .. }), "the time is up");
        world.ended(1, 0, 6, 143, &deleted(5));
        let status = world.write(7);
        assert_eq!(
            (status.phase, status.reason.as_deref()),
            (time_ends, Some("DeadlineExceeded")),
            "{policy}"
        );
    }
}

#[test]
fn the_running_time_is_counted_over_attempts() {
    let mut world = World::new(&json!({"timeoutSeconds": 10}));
    let ran = json!({"terminated": {"exitCode": 137, "startedAt": START, "finishedAt": at(7).to_string()}});
    world.pod(1, 0, &json!({}), &evicted(&json!([container(&ran)])));
    assert_eq!(world.write(8).running_millis, 7000);
    world.pods.clear();
    world.write(60);
    assert_eq!(running_left(&world.view(60)), Some(SignedDuration::from_secs(3)));
    world.running(2, 60);
    world.write(60);
    assert_eq!(world.step(61), Step::Wait(Some(at(63))));
}

#[test]
fn draining_costs_no_retry_and_no_wait() {
    let mut world = World::new(&json!({"maxRetries": 0}));
    world.running(1, 0);
    world.write(0);
    world.drain = Some(Reason::TenantExpired);
    let stopping = world.write(1);
    assert_eq!((stopping.phase, stopping.reason.as_deref()), (JobPhase::Running, Some("TenantExpired")));
    assert_eq!(stopping.message.as_deref(), Some("attempt 1 is being stopped: the tenant is expired"));
    assert!(matches!(world.step(1), Step::Delete { .. }));
    // The tenant is opened again while the pod takes its time to end.
    world.drain = None;
    world.ended(1, 0, 2, 143, &deleted(1));
    let status = world.write(3);
    assert_eq!((status.phase, status.retries, status.not_before), (JobPhase::Retrying, 0, None));
    let record = &status.attempts[0];
    assert_eq!((status.reason.as_deref(), record.reason.as_str()), (Some("TenantExpired"), "TenantExpired"));
}

#[test]
fn a_pod_that_has_not_started_is_drained_as_well() {
    let mut world = World::new(&json!({"maxRetries": 0}));
    world.pending(1, 0);
    world.drain = Some(Reason::TenantSuspended);
    let stopping = world.write(1);
    assert_eq!((stopping.phase, stopping.attempt), (JobPhase::Assigned, 1));
    assert!(matches!(world.step(1), Step::Delete { .. }));
    world.pod(1, 0, &deleted(1), &json!({"phase": "Failed"}));
    let status = world.write(3);
    assert_eq!((status.phase, status.retries, status.not_before), (JobPhase::Retrying, 0, None));
}

#[test]
fn a_drain_that_is_called_off_is_forgotten() {
    let mut world = World::new(&json!({}));
    world.running(1, 0);
    world.write(0);
    world.drain = Some(Reason::TenantSuspended);
    world.write(1);
    world.drain = None;
    assert_eq!(world.write(2).reason.as_deref(), Some("Running"));
    world.ended(1, 0, 5, 143, &deleted(3));
    let status = world.write(6);
    assert_eq!((status.reason.as_deref(), status.disruptions), (Some("PodDeleted"), 1), "not by Crofter");

    let mut waiting = World::new(&json!({}));
    waiting.pending(1, 0);
    waiting.drain = Some(Reason::TenantSuspended);
    waiting.write(1);
    waiting.drain = None;
    assert_eq!(waiting.write(2).reason.as_deref(), Some("Admitted"));
}

#[test]
fn the_time_limit_of_an_attempt_is_that_of_its_start() {
    let mut world = World::new(&json!({}));
    world.running(1, 0);
    world.write(0);
    world.minutes = 1;
    assert_eq!(world.step(600), Step::Wait(Some(at(30 * 60))), "a cut ends nothing that runs");
    world.minutes = 60;
    assert!(matches!(world.step(30 * 60), Step::Delete { .. }), "nor can its pod be given more");
    world.ended(1, 0, 30 * 60, 143, &deleted(30 * 60));
    assert_eq!(world.write(1801).phase, JobPhase::TimedOut);
}

#[test]
fn a_retry_without_running_time_is_no_retry() {
    for (policy, phase, left) in [("Infrastructure", JobPhase::Failed, 0), ("Always", JobPhase::Queued, 300)]
    {
        let mut world = World::new(&json!({"retryPolicy": policy}));
        world.running(1, 0);
        world.write(0);
        let ran =
            json!({"terminated": {"exitCode": 137, "startedAt": START, "finishedAt": at(400).to_string()}});
        world.pod(1, 0, &json!({}), &evicted(&json!([container(&ran)])));
        assert_eq!(world.write(400).phase, JobPhase::Retrying);
        world.pods.clear();
        world.minutes = 5;
        let status = world.write(500);
        assert_eq!(status.phase, phase, "{policy}");
        assert_eq!(running_left(&world.view(500)), Some(SignedDuration::from_secs(left)), "{policy}");
        if phase == JobPhase::Failed {
            let sentence = "no running time is left for attempt 2: 6m 40s of 5m are used";
            assert_eq!(
                (status.reason.as_deref(), status.message.as_deref()),
                (Some("DeadlineExceeded"), Some(sentence))
            );
        }
    }
}

/// The plan is cut while a retry waits: its pod would be ended as it starts.
#[test]
fn a_retry_whose_time_a_cut_has_taken_while_it_waits_makes_no_pod() {
    for (policy, phase) in [("Infrastructure", JobPhase::Failed), ("Always", JobPhase::Queued)] {
        let mut world = World::new(&json!({"retryPolicy": policy}));
        world.running(1, 0);
        world.write(0);
        let ran =
            json!({"terminated": {"exitCode": 137, "startedAt": START, "finishedAt": at(400).to_string()}});
        world.pod(1, 0, &json!({}), &evicted(&json!([container(&ran)])));
        world.write(400);
        world.pods.clear();
        assert_eq!(world.write(500).phase, JobPhase::Queued);
        world.admit(2);
        world.minutes = 5;
        let status = world.write(501);
        assert_eq!((status.phase, status.attempts.len()), (phase, 1), "{policy}");
        if phase == JobPhase::Queued {
            assert!(matches!(world.step(502), Step::Create(_)), "with the whole time again");
        }
    }
}

/// `jobTimeoutMinutes: 0` says that no job may run: an admission from before makes no pod, and nothing ends as timed out.
#[test]
fn where_no_job_may_run_no_pod_is_made() {
    let mut world = World::new(&json!({}));
    world.admit(1);
    world.minutes = 0;
    assert_eq!(world.step(0), Step::Wait(None));
    world.minutes = 30;
    assert!(matches!(world.step(0), Step::Create(_)));
}
