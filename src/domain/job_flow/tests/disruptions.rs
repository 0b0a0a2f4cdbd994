//! Attempts that the cluster ended are counted, bounded and paced apart from `maxRetries`.

use super::*;
use crate::domain::retry::{self, MAX_DISRUPTIONS};

/// Runs an attempt from the queue until something has ended it; what its job says then, and how long it pauses.
fn attempt(world: &mut World, number: u32, status: Option<&Value>) -> (JobStatus, SignedDuration) {
    let start = i64::from(number) * 1000;
    world.running(number, start);
    world.write(start);
    match status {
        Some(status) => world.pod(number, start, &json!({}), status),
        None => world.ended(number, start, 10, 3, &json!({})),
    }
    let ended = world.write(start + 10);
    let Some(Time(until)) = ended.not_before.clone() else { return (ended, SignedDuration::ZERO) };
    world.pods.clear();
    world.write(start + 900);
    (ended, until.duration_since(at(start + 10)))
}

fn evicted_running(start: i64) -> Value {
    let terminated = json!({"terminated": {"exitCode": 143, "reason": "Error", "startedAt": at(start).to_string(),
        "finishedAt": at(start + 10).to_string()}});
    evicted(&json!([container(&terminated)]))
}

#[test]
fn a_job_that_is_well_survives_more_drains_than_it_has_retries_and_one_that_kills_its_node_ends() {
    let mut world =
        World { minutes: 1_000_000, ..World::new(&json!({"maxRetries": 1, "retryPolicy": "Always"})) };
    let mut number = 0;
    for disruption in 1..=MAX_DISRUPTIONS {
        number += 1;
        let (status, pause) = attempt(&mut world, number, Some(&evicted_running(i64::from(number) * 1000)));
        assert_eq!((status.phase, status.retries, status.disruptions), (JobPhase::Retrying, 0, disruption));
        let full = (5 << (disruption - 1).min(10)).min(300);
        let pause = pause.as_secs_f64();
        assert!(pause <= f64::from(full) && pause > 0.7 * f64::from(full), "{disruption}: {pause} of {full}");
    }
    // Its own failures are counted, and paced, by themselves.
    number += 1;
    let (status, pause) = attempt(&mut world, number, None);
    assert_eq!((status.phase, status.retries, status.disruptions), (JobPhase::Retrying, 1, 16));
    assert!(pause <= SignedDuration::from_secs(5), "{pause:#}");
    number += 1;
    let (status, _) = attempt(&mut world, number, Some(&evicted_running(i64::from(number) * 1000)));
    assert_eq!((status.phase, status.reason.as_deref()), (JobPhase::Failed, Some("Evicted")));
    assert_eq!(
        status.message.as_deref(),
        Some("disk; the cluster has ended 16 attempts before, and no other follows")
    );
}

/// The hourly window counts a retry by the label of its pod, and the status says that it did.
#[test]
fn a_retry_is_to_be_charged_until_its_pod_exists() {
    let spec = json!({"maxRetries": 5, "retryPolicy": "Always"});
    let mut world = World { minutes: 1_000_000, ..World::new(&spec) };
    let next = |world: &World| retry::to_charge(world.job.status.as_ref().unwrap());
    assert_eq!(next(&world), None, "the first attempt");
    attempt(&mut world, 1, None);
    assert_eq!(next(&world), Some(1));
    // Its pod is evicted before anything was written of it.
    let retried = json!({"labels": {"crofter.io/attempt": "2", "crofter.io/retry": "1"}});
    world.pod(2, 2000, &retried, &evicted_running(2000));
    assert_eq!(world.write(2010).disruptions, 1);
    world.pods.clear();
    world.write(2900);
    assert_eq!(next(&world), None, "attempt 3 follows a disruption");
    attempt(&mut world, 3, None);
    assert_eq!(next(&world), Some(2));
}

#[test]
fn what_the_cluster_ends_is_a_disruption_whatever_the_policy() {
    let lost = json!({"phase": "Failed", "reason": "NodeLost", "message": "lost"});
    let shutdown = json!({"phase": "Failed", "reason": "NodeShutdown", "message": "spot"});
    let collected = json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True",
        "reason": "DeletionByPodGC", "message": "no such node"}]});
    let preempted = json!({"phase": "Failed", "conditions": [{"type": "DisruptionTarget", "status": "True",
        "reason": "PreemptionByScheduler", "message": "for another"}]});
    for status in [lost, shutdown, collected, preempted] {
        let mut world = World::new(&json!({}));
        let (ended, _) = attempt(&mut world, 1, Some(&status));
        assert_eq!((ended.phase, ended.retries, ended.disruptions), (JobPhase::Retrying, 0, 1), "{status}");
    }
    let mut world = World::new(&json!({}));
    world.running(1, 0);
    world.write(0);
    world.ended(1, 0, 5, 143, &deleted(4));
    let ended = world.write(6);
    assert_eq!((ended.reason.as_deref(), ended.retries, ended.disruptions), (Some("PodDeleted"), 0, 1));
}

#[test]
fn a_job_that_wants_no_retries_is_not_run_again_after_a_disruption() {
    let mut world = World::new(&json!({"maxRetries": 0}));
    let (ended, _) = attempt(&mut world, 1, Some(&evicted_running(1000)));
    assert_eq!((ended.phase, ended.disruptions), (JobPhase::Failed, 0));
    assert_eq!(ended.message.as_deref(), Some("disk; no retry is left (0 of 0)"));
}
