//! Canceled jobs.

use super::*;

#[test]
fn cancel_works_in_every_phase_and_the_end_that_came_first_counts() {
    // While it is queued.
    let mut queued = World::new(&json!({"canceled": true}));
    queued.admit(1);
    assert_eq!(queued.write(0).phase, JobPhase::Canceled);
    queued.pending(1, 0);
    assert!(matches!(queued.step(1), Step::Delete { .. }), "a pod that was already on its way");

    // While it runs.
    let mut running = World::new(&json!({}));
    running.running(1, 0);
    running.write(0);
    running.job.spec.canceled = true;
    assert!(matches!(running.step(1), Step::Stop { stop: Stop { reason: Reason::Canceled, .. }, .. }));
    running.ended(1, 0, 5, 143, &deleted(1));
    let canceled = running.write(6);
    assert_eq!(canceled.phase, JobPhase::Canceled);
    let kinds: Vec<_> = canceled.conditions.iter().map(|c| c.type_.as_str()).collect();
    assert_eq!(kinds, ["Finished"], "what `kubectl wait` waits for");

    // The end that came before the deletion counts.
    let mut won = World::new(&json!({"canceled": true}));
    won.ended(1, 0, 3, 0, &deleted(4));
    assert_eq!(won.write(6).phase, JobPhase::Completed);
    let mut saved = World::new(&json!({"canceled": true}));
    saved.ended(1, 0, 5, 0, &deleted(4));
    let canceled = saved.write(6);
    assert_eq!(
        (canceled.phase, canceled.exit_code),
        (JobPhase::Canceled, Some(0)),
        "it ended because of SIGTERM"
    );
    let mut failed_first = World::new(&json!({"canceled": true}));
    failed_first.ended(1, 0, 1, 3, &deleted(4));
    assert_eq!(failed_first.write(6).phase, JobPhase::Failed);
}

#[test]
fn an_attempt_that_ran_after_all_is_recorded() {
    let mut world = World::new(&json!({"canceled": true}));
    assert_eq!(world.write(0).phase, JobPhase::Canceled, "while its pod is made and not in the cache yet");
    world.running(1, 0);
    assert!(matches!(world.step(1), Step::Delete { .. }));
    world.ended(1, 0, 3, 143, &deleted(2));
    let recorded = world.write(3);
    assert_eq!((recorded.phase, recorded.attempt, recorded.running_millis), (JobPhase::Canceled, 1, 3000));
    assert_eq!((recorded.attempts.len(), recorded.attempts[0].reason.as_str()), (1, "PodDeleted"));
    assert!(on_record(&recorded, 1) && !on_record(&recorded, 2));
    assert_eq!(world.step(4), Step::Wait(None), "once");
}
