//! Attempts that are ended from outside: by their time limit, and by a tenant that drains.

use super::*;

/// Why the next step is to stop the pod.
fn stopped(world: &World, seconds: i64) -> Reason {
    let Step::Stop { stop, .. } = world.step(seconds) else { panic!("{:?}", world.step(seconds)) };
    assert_eq!(stop.at, at(seconds));
    stop.reason
}

/// What a stop leaves on a pod.
fn stop(seconds: i64, reason: &str) -> Value {
    json!({"annotations": {"crofter.io/stop-requested": format!("{} {reason}", at(seconds))}})
}

#[test]
fn a_pod_that_has_started_is_stopped_and_not_deleted_so_that_its_log_stays() {
    for (spec, reason, phase) in [
        (json!({"timeoutSeconds": 5}), "DeadlineExceeded", JobPhase::TimedOut),
        (json!({"canceled": true}), "Canceled", JobPhase::Canceled),
    ] {
        // Given: a pod that runs, and is to end.
        let mut world = World::new(&spec);
        world.running(1, 0);
        if reason == "DeadlineExceeded" {
            world.write(0);
        }
        assert_eq!(stopped(&world, 6).as_str(), reason);
        let killed = |code: i32| json!({"terminated": {"exitCode": code, "startedAt": START, "finishedAt": at(9).to_string()}});
        // The kubelet says the same of both.
        let status = json!({"phase": "Failed", "reason": "DeadlineExceeded", "containerStatuses": [container(&killed(143))]});
        // When: it was asked to stop. Then: it is deleted only where the kubelet does not heed that.
        world.pod(
            1,
            0,
            &stop(6, reason),
            &json!({"phase": "Running", "containerStatuses": [
            container(&json!({"running": {"startedAt": START}}))]}),
        );
        assert_eq!(world.step(7), Step::Wait(Some(at(66))), "once is enough");
        assert!(matches!(world.step(66), Step::Delete { .. }), "a kubelet that does not heed the deadline");
        // When: it has ended. Then: it stays, and the reason is that of the stop.
        world.pod(1, 0, &stop(6, reason), &status);
        let ended = world.write(10);
        assert_eq!((ended.phase, ended.reason.as_deref(), ended.exit_code), (phase, Some(reason), Some(143)));
        assert_eq!((ended.running_millis, ended.attempts[0].reason.as_str()), (9000, reason));
        assert_eq!(world.step(11), Step::Wait(None), "the pod stays with its log");
    }
}

#[test]
fn what_ended_before_its_pod_was_stopped_is_kept() {
    for (code, phase) in [(0, JobPhase::Completed), (3, JobPhase::Failed)] {
        let mut world = World::new(&json!({"canceled": true}));
        let ended =
            json!({"terminated": {"exitCode": code, "startedAt": START, "finishedAt": at(5).to_string()}});
        let status = json!({"phase": "Failed", "reason": "DeadlineExceeded", "containerStatuses": [container(&ended)]});
        world.pod(1, 0, &stop(6, "Canceled"), &status);
        assert_eq!(world.write(7).phase, phase);
    }
    let mut saved = World::new(&json!({"canceled": true}));
    let ended = json!({"terminated": {"exitCode": 0, "startedAt": START, "finishedAt": at(8).to_string()}});
    saved.pod(
        1,
        0,
        &stop(6, "Canceled"),
        &json!({"phase": "Succeeded", "containerStatuses": [container(&ended)]}),
    );
    assert_eq!(saved.write(9).phase, JobPhase::Canceled, "it ended because of SIGTERM");
}

#[test]
fn a_pod_is_deleted_where_no_log_is_to_stay() {
    let mut waiting = World::new(&json!({"canceled": true}));
    waiting.pending(1, 0);
    assert!(matches!(waiting.step(1), Step::Delete { .. }), "it has none");
    let mut deleted = World::new(&json!({}));
    deleted.running(1, 0);
    deleted.job.metadata.deletion_timestamp = Some(Time(at(1)));
    assert!(matches!(deleted.step(1), Step::Delete { .. }), "it is deleted with its job");
}

#[test]
fn a_stop_on_a_node_that_is_lost_is_a_stop_all_the_same() {
    for (reason, phase) in [("DeadlineExceeded", JobPhase::TimedOut), ("Canceled", JobPhase::Canceled)] {
        let mut world = World::new(&json!({"canceled": reason == "Canceled"}));
        let lost = json!({"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
            "lastTransitionTime": at(90).to_string()});
        let status = json!({"phase": "Failed", "conditions": [lost],
            "containerStatuses": [container(&json!({"running": {"startedAt": START}}))]});
        world.pod(1, 0, &stop(6, reason), &status);
        assert_eq!(world.write(91).phase, phase);
    }
}

#[test]
fn a_node_that_is_ten_minutes_behind_has_no_job_killed_as_it_starts() {
    let mut world = World::new(&json!({"timeoutSeconds": 300}));
    let behind = |seconds: i64| at(seconds - 600).to_string();
    let running = json!({"running": {"startedAt": behind(2)}});
    world.pod(1, 0, &json!({}), &json!({"phase": "Running", "containerStatuses": [container(&running)]}));
    let status = world.write(3);
    assert_eq!((status.phase, status.started_at), (JobPhase::Running, Some(Time(at(3)))));
    assert_eq!(world.step(4), Step::Wait(Some(at(303))));
    assert_eq!(stopped(&world, 303), Reason::DeadlineExceeded);

    let ended = json!({"terminated": {"exitCode": 0, "startedAt": behind(2), "finishedAt": behind(10)}});
    world.pod(1, 0, &json!({}), &json!({"phase": "Succeeded", "containerStatuses": [container(&ended)]}));
    let done = world.write(12);
    assert_eq!((done.phase, done.running_millis), (JobPhase::Completed, 8000));
    let record = &done.attempts[0];
    assert_eq!((record.started_at.clone(), record.finished_at.clone()), (Some(Time(at(3))), Time(at(11))));
    assert_eq!(done.finished_at, Some(Time(at(11))));
}

#[test]
fn a_killed_container_of_a_node_that_is_behind_is_known_as_killed() {
    let mut world = World::new(&json!({"canceled": true}));
    let behind = |seconds: i64| at(seconds - 600).to_string();
    let killed = json!({"terminated": {"exitCode": 143, "startedAt": behind(2), "finishedAt": behind(30)}});
    world.job.status.as_mut().unwrap().attempt = 1;
    world.job.status.as_mut().unwrap().phase = JobPhase::Running;
    world.job.status.as_mut().unwrap().started_at = Some(Time(at(3)));
    let status =
        json!({"phase": "Failed", "reason": "DeadlineExceeded", "containerStatuses": [container(&killed)]});
    world.pod(1, 0, &stop(29, "Canceled"), &status);
    let ended = world.write(32);
    assert_eq!((ended.phase, ended.running_millis), (JobPhase::Canceled, 28000));
}

#[test]
fn a_run_that_only_the_status_has_is_charged_where_the_node_has_forgotten_it() {
    let mut world = World::new(&json!({}));
    world.running(1, 0);
    world.write(0);
    let status = json!({"phase": "Failed", "reason": "Terminated", "message": "node shutdown", "containerStatuses": []});
    world.pod(1, 0, &json!({}), &status);
    let record = world.write(8).attempts.remove(0);
    assert_eq!((record.started_at.clone(), record.running_millis()), (Some(Time(at(0))), 8000));
}

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
        assert_eq!(stopped(&world, 5), Reason::DeadlineExceeded, "the time is up");
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

/// A day's grace would keep the pod from its timeout, its tenant's state and its job's end.
#[test]
fn a_pod_that_was_deleted_with_more_grace_than_its_own_is_deleted_with_its_own() {
    let mut world = World::new(&json!({}));
    let deleted =
        |grace: i64| json!({"deletionTimestamp": at(1 + grace), "deletionGracePeriodSeconds": grace});
    let running = json!({"phase": "Running", "containerStatuses":
        [container(&json!({"running": {"startedAt": at(0)}}))]});
    world.running(1, 0);
    world.write(0);
    world.pod(1, 0, &deleted(30), &running);
    assert_eq!(world.step(2), Step::Wait(None));
    world.pod(1, 0, &deleted(86_400), &running);
    assert!(matches!(world.step(2), Step::Delete { grace: Some(30), .. }));
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
    assert_eq!(stopped(&world, 30 * 60), Reason::DeadlineExceeded, "nor can its pod be given more");
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
            let message = "no running time is left for attempt 2: 6m 40s of 5m are used";
            assert_eq!(
                (status.reason.as_deref(), status.message.as_deref()),
                (Some("DeadlineExceeded"), Some(message))
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

/// `jobTimeoutMinutes: 0` says that no job may run: an admission from before makes no pod, and nothing ends as timed
/// out.
#[test]
fn where_no_job_may_run_no_pod_is_made() {
    let mut world = World::new(&json!({}));
    world.admit(1);
    world.minutes = 0;
    assert_eq!(world.step(0), Step::Wait(None));
    world.minutes = 30;
    assert!(matches!(world.step(0), Step::Create(_)));
}
