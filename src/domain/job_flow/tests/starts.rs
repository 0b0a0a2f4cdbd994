//! An attempt that can never start ends with the kubelet's words; one that may start later waits.

use super::*;

fn waits(world: &mut World, reason: &str, message: &str) {
    let waiting = container(&json!({"waiting": {"reason": reason, "message": message}}));
    world.pod(1, 0, &json!({}), &json!({"phase": "Pending", "containerStatuses": [waiting]}));
}

#[test]
fn an_image_whose_name_is_none_ends_its_job_at_once_with_the_kubelets_words() {
    let words = "couldn't parse image name \"UPPER/Case:tag\"";
    for policy in ["Infrastructure", "Always"] {
        for seen in [0, 3] {
            // Given: a pod with an image that has no valid name, seen at once or after a while.
            let mut world = World::new(&json!({"retryPolicy": policy}));
            if seen > 0 {
                world.pending(1, 0);
                assert_eq!(world.write(2).phase, JobPhase::Assigned);
            }
            waits(&mut world, "InvalidImageName", words);
            // Then: the reason is written, the pod deleted, and the job fails without a retry.
            let status = world.write(seen);
            assert_eq!(
                (status.phase, status.reason.as_deref()),
                (JobPhase::Assigned, Some("InvalidImageName"))
            );
            assert!(matches!(world.step(seen), Step::Delete { .. }));
            world.pod(1, 0, &deleted(seen), &json!({"phase": "Failed"}));
            let failed = world.write(seen + 1);
            assert_eq!(
                (failed.phase, failed.reason.as_deref()),
                (JobPhase::Failed, Some("InvalidImageName"))
            );
            assert_eq!(failed.message, Some(format!("InvalidImageName: {words}")));
            assert_eq!((failed.attempt, failed.retries, failed.running_millis), (1, 0, 0));
            assert_eq!((failed.attempts.len(), failed.attempts[0].reason.as_str()), (1, "InvalidImageName"));
            assert_eq!(world.step(seen + 2), Step::Wait(None), "no other attempt");
        }
    }
}

#[test]
fn a_secret_may_be_created_within_a_minute_of_the_pod() {
    // Within a minute the attempt waits.
    let words = "secret \"db\" not found";
    let mut world = World::new(&json!({}));
    waits(&mut world, "CreateContainerConfigError", words);
    let status = world.write(3);
    assert_eq!(
        (status.phase, status.message.as_deref()),
        (JobPhase::Assigned, Some("CreateContainerConfigError: secret \"db\" not found"))
    );
    assert_eq!(world.step(59), Step::Wait(Some(at(60))));
    // After it the attempt is given up.
    let mut late = World { job: world.job.clone(), ..World::new(&json!({})) };
    waits(&mut late, "CreateContainerConfigError", words);
    let message =
        "CreateContainerConfigError: secret \"db\" not found; it was not created within 1m of the pod";
    let status = late.write(60);
    assert_eq!((status.phase, status.message.as_deref()), (JobPhase::Assigned, Some(message)));
    assert!(matches!(late.step(60), Step::Delete { .. }));
    late.pods.clear();
    let Step::Write(failed) = lost(&late.view(62), Resources::default()).unwrap() else { panic!() };
    assert_eq!(
        (failed.phase, failed.reason.as_deref()),
        (JobPhase::Failed, Some("CreateContainerConfigError"))
    );
    assert_eq!(failed.message.as_deref(), Some(message), "though its pod was not seen to end");
    // Where it was created in time, the job runs.
    world.running(1, 0);
    assert_eq!(world.write(61).phase, JobPhase::Running);
}

#[test]
fn an_image_that_can_not_be_pulled_waits_and_is_tried_again() {
    let mut world = World::new(&json!({}));
    waits(&mut world, "ErrImagePull", "no such host");
    assert_eq!(world.write(3).phase, JobPhase::Assigned);
    assert_eq!(world.step(299), Step::Wait(Some(at(300))));
    assert!(matches!(world.step(300), Step::Delete { .. }));
}

#[test]
fn a_container_that_starts_after_all_runs_on_and_one_ended_meanwhile_is_run_again() {
    let waiting = || {
        let mut world = World::new(&json!({}));
        waits(&mut world, "CreateContainerConfigError", "secret \"db\" not found");
        assert_eq!(world.write(60).reason.as_deref(), Some("CreateContainerConfigError"));
        world
    };
    let mut created = waiting();
    waits(&mut created, "ContainerCreating", "");
    let status = created.write(61);
    assert_eq!((status.phase, status.reason.as_deref()), (JobPhase::Assigned, Some("Admitted")));
    let mut runs = waiting();
    runs.running(1, 61);
    assert_eq!(runs.write(61).phase, JobPhase::Running);
    let mut killed = waiting();
    killed.ended(1, 61, 2, 143, &deleted(62));
    let status = killed.write(64);
    assert_eq!((status.phase, status.running_millis, status.disruptions), (JobPhase::Retrying, 2000, 1));
}
