//! The state machine of jobs, as the API server enforces it.

use crofter::{
    api_types::{Job, JobPhase},
    domain::job_state::storable,
    names,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::json;
use strum::IntoEnumIterator;

use crate::{
    common::{Verbs, phase, refusal},
    world,
};

/// A job that the operator leaves alone.
async fn paused(verbs: &Verbs<'_>, jobs: &Api<Job>, name: &str) {
    let job = json!({"apiVersion": "crofter.io/v1alpha1", "kind": "Job",
        "metadata": {"name": name, "annotations": {(names::ANNOTATION_PAUSED): "true"}},
        "spec": {"image": "crofter.test/busybox:1"}});
    verbs.create(jobs, &job).await.unwrap();
}

async fn write(jobs: &Api<Job>, name: &str, status: serde_json::Value) -> Result<Job, kube::Error> {
    jobs.patch_status(name, &PatchParams::default(), &Patch::Merge(json!({"status": status}))).await
}

#[tokio::test]
async fn every_pair_of_phases_is_accepted_or_refused_as_the_table_says() {
    let verbs = world().verbs().await;
    let jobs = verbs.within::<Job>("default");
    let (mut accepted, mut refused) = (0, 0);
    for from in JobPhase::iter() {
        for to in JobPhase::iter() {
            let name = format!("{from}-{to}").to_lowercase();
            paused(&verbs, &jobs, &name).await;
            let before = write(&jobs, &name, json!({"phase": from})).await.unwrap();
            assert_eq!(phase(&before), from);
            let answer = write(&jobs, &name, json!({"phase": to, "message": "moved"})).await;
            if from == to || storable(from).contains(&to) {
                assert_eq!(phase(&answer.unwrap()), to);
                accepted += 1;
            } else {
                let said = refusal(answer);
                assert!(said.contains(&format!("a job can't go from {from} to {to}")), "{said}");
                assert!(said.contains("status.phase"), "{said}");
                assert_eq!(jobs.get(&name).await.unwrap(), before, "nothing of a refused write is stored");
                refused += 1;
            }
        }
    }
    assert_eq!((accepted, refused), (9 + 22, 81 - 9 - 22));
}

/// A job whose status is removed counts as one that was never reconciled: Queued.
#[tokio::test]
async fn a_status_can_not_be_removed_to_restart_a_job() {
    let verbs = world().verbs().await;
    let jobs = verbs.within::<Job>("default");
    paused(&verbs, &jobs, "emptied").await;
    let job = write(&jobs, "emptied", serde_json::Value::Null).await.unwrap();
    assert_eq!(job.status.unwrap().observed_generation, -1, "nothing was there yet");
    write(&jobs, "emptied", json!({"phase": "Completed"})).await.unwrap();
    for nothing in [serde_json::Value::Null, json!({"phase": null})] {
        let said = refusal(write(&jobs, "emptied", nothing).await);
        assert!(said.contains("a job can't go from Completed to Queued"), "{said}");
    }
}
