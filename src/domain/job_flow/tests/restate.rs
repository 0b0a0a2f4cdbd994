//! Statuses that contradict the job: they are written again.

use super::*;

#[test]
fn a_job_in_a_namespace_of_no_tenant_is_stalled_until_it_is_one() {
    let mut world = World { foreign: true, ..World::new(&json!({})) };
    let status = world.write(0);
    assert_eq!((status.phase, status.reason.as_deref()), (JobPhase::Queued, Some("NotATenantNamespace")));
    let condition = &status.conditions[0];
    assert_eq!((condition.type_.as_str(), status.observed_generation), ("Stalled", 1), "kstatus: failed");
    assert_eq!(world.step(1), Step::Wait(None), "once");
    world.job.metadata.generation = Some(2);
    assert_eq!(world.write(2).observed_generation, 2);
    world.foreign = false;
    let status = world.write(3);
    assert_eq!(
        (status.reason.as_deref(), status.conditions[0].type_.as_str()),
        (Some("Queued"), "Reconciling")
    );
    world.foreign = true;
    world.job.spec.canceled = true;
    assert_eq!(world.write(4).phase, JobPhase::Canceled);
}

#[test]
fn a_job_that_can_be_read_again_gets_its_whole_status() {
    let mut world = World::new(&json!({}));
    let broken = json!({"observedGeneration": 1, "phase": "Queued", "reason": "InvalidObject", "conditions": [{
        "type": "Stalled", "status": "True", "reason": "InvalidObject", "message": "m", "lastTransitionTime": START}]});
    world.job.status = Some(serde_json::from_value(broken.clone()).unwrap());
    world.admit(1);
    let status = world.write(1);
    assert_eq!((status.phase, status.reason.as_deref()), (JobPhase::Queued, Some("Queued")));
    assert_eq!(status.conditions[0].type_, "Reconciling");
    assert!(matches!(world.step(1), Step::Create(_)));

    let ended = JobStatus {
        phase: JobPhase::Completed,
        reason: Some("Succeeded".into()),
        ..serde_json::from_value(broken).unwrap()
    };
    world.job.status = Some(ended);
    let status = world.write(2);
    assert_eq!((status.phase, status.conditions[1].type_.as_str()), (JobPhase::Completed, "Complete"));
    assert_eq!(world.step(2), Step::Wait(None));
}

#[test]
fn a_spec_that_changes_after_the_end_is_observed_and_changes_nothing() {
    let mut world = World::new(&json!({}));
    let ended = json!({"observedGeneration": 1, "phase": "Completed", "reason": "Succeeded"});
    world.job.status = Some(serde_json::from_value(ended).unwrap());
    assert_eq!(world.step(1), Step::Wait(None));
    world.job.spec.canceled = true;
    world.job.metadata.generation = Some(2);
    let status = world.write(2);
    assert_eq!((status.phase, status.observed_generation), (JobPhase::Completed, 2));
    assert_eq!(world.step(2), Step::Wait(None));
}
