//! Pods with containers besides the job container.

use super::*;

/// A job container and one that a webhook added, which runs on.
fn with_sidecar(state: &Value) -> Value {
    let mut sidecar = container(&json!({"running": {"startedAt": START}}));
    sidecar["name"] = json!("mesh");
    json!({"phase": "Running", "containerStatuses": [sidecar, container(state)]})
}

#[test]
fn the_job_container_alone_decides_the_end_and_the_rest_of_its_pod_is_ended() {
    for (code, phase) in [(0, JobPhase::Completed), (3, JobPhase::Failed)] {
        let mut world = World::new(&json!({}));
        world.pod(1, 0, &json!({}), &with_sidecar(&json!({"running": {"startedAt": START}})));
        assert_eq!(world.write(1).phase, JobPhase::Running);
        let ended =
            json!({"terminated": {"exitCode": code, "startedAt": START, "finishedAt": at(7).to_string()}});
        world.pod(1, 0, &json!({}), &with_sidecar(&ended));
        let done = world.write(8);
        assert_eq!((done.phase, done.exit_code, done.running_millis), (phase, Some(code), 7000));
        assert_eq!(done.attempts.len(), 1);
        assert!(matches!(world.step(8), Step::Stop { .. }), "the sidecar is ended");
        // It was killed, which makes the pod one that failed.
        let stop = json!({"annotations": {"crofter.io/stop-requested": format!("{} Succeeded", at(8))}});
        let mut over = with_sidecar(&ended);
        (over["phase"], over["reason"]) = (json!("Failed"), json!("DeadlineExceeded"));
        over["containerStatuses"][0]["state"] = json!({"terminated": {"exitCode": 137}});
        world.pod(1, 0, &stop, &over);
        assert_eq!(world.step(9), Step::Wait(None));
        let attempt::Observed::Ended(again) = attempt::observe(&world.pods[0]) else { panic!() };
        assert_eq!(again.exit_code, Some(code), "a later reconcile sees the same end: {again:?}");
        assert_eq!(again.cause, if code == 0 { Cause::Success } else { Cause::Job });
    }
}

#[test]
fn no_attempt_starts_while_a_sidecar_of_the_one_before_may_run() {
    let mut world = World::new(&json!({"retryPolicy": "Always"}));
    let ended = json!({"terminated": {"exitCode": 3, "startedAt": START, "finishedAt": at(7).to_string()}});
    world.pod(1, 0, &json!({}), &with_sidecar(&ended));
    assert_eq!(world.write(8).phase, JobPhase::Retrying);
    assert!(matches!(world.step(60), Step::Delete { .. }));
    world.pod(1, 0, &deleted(60), &with_sidecar(&ended));
    assert_eq!(world.step(90), Step::Wait(None));
    world.pods.clear();
    assert_eq!(world.write(100).phase, JobPhase::Queued);
}

#[test]
fn a_sidecar_that_kubernetes_ends_by_itself_is_left_to_it() {
    let mut world = World::new(&json!({}));
    let ended = container(
        &json!({"terminated": {"exitCode": 0, "startedAt": START, "finishedAt": at(7).to_string()}}),
    );
    let mut native = container(&json!({"running": {"startedAt": START}}));
    native["name"] = json!("mesh");
    let status = json!({"phase": "Running", "containerStatuses": [ended], "initContainerStatuses": [native]});
    world.pod(1, 0, &json!({}), &status);
    assert_eq!(world.write(8).phase, JobPhase::Completed);
    assert_eq!(world.step(8), Step::Wait(None));
}
