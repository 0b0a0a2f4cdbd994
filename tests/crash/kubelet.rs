//! The container statuses that a test writes instead of a kubelet, at the moment that it chooses.
//!
//! The jobs run for ever, or have the outcome `Pending`: then kwok says nothing of their pods before they are deleted.

use crofter::{api_types::Job, names};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::common::{Verbs, namespace, now};

/// A job whose container starts, and ends, only when it is said.
pub fn silent() -> Value {
    json!({"parameters": {"outcome": "Pending", "run-seconds": "forever"}})
}

/// A job that runs until it is stopped.
pub fn endless() -> Value {
    json!({"parameters": {"run-seconds": "forever"}})
}

/// The same with more fields.
pub fn with(mut spec: Value, more: Value) -> Value {
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

fn container(state: Value) -> Value {
    json!([{"name": names::JOB_CONTAINER, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}])
}

/// The container runs.
pub fn running() -> Value {
    let state = json!({"running": {"startedAt": now()}});
    json!({"phase": "Running", "startTime": now(), "containerStatuses": container(state)})
}

/// It has ended, after a second.
pub fn ended(code: i32) -> Value {
    let begun = now() - jiff::SignedDuration::from_secs(1);
    let state = json!({"terminated": {"exitCode": code, "startedAt": begun, "finishedAt": now(),
        "reason": if code == 0 { "Completed" } else { "Error" }}});
    json!({"phase": if code == 0 { "Succeeded" } else { "Failed" }, "containerStatuses": container(state)})
}

/// It was killed because its node was short of something.
pub fn evicted() -> Value {
    let words = "The node was low on resource: memory.";
    let target = json!({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
        "message": words, "lastTransitionTime": now()});
    with(ended(137), json!({"reason": "Evicted", "message": words, "conditions": [target]}))
}

/// It was killed by the pod's own deadline.
pub fn past_its_deadline() -> Value {
    with(ended(137), json!({"reason": "DeadlineExceeded", "message": "Pod was active on the node too long"}))
}

impl Verbs<'_> {
    /// Says something of the pod of a job's current attempt. An evicted container started when the job says: on a busy
    /// machine the operator writes that it runs seconds later, and the pause of a retry begins with the end.
    pub async fn kubelet(&self, job: &Job, mut status: Value) {
        let of_job = job.status.as_ref().unwrap();
        let pod = of_job.pod.clone().unwrap();
        let is_evicted = status["reason"] == "Evicted";
        let ended = status.pointer_mut("/containerStatuses/0/state/terminated").filter(|_| is_evicted);
        if let (Some(ended), Some(start)) = (ended, &of_job.started_at) {
            ended["startedAt"] = json!(start);
        }
        let api = self.within::<Pod>(job.metadata.namespace.as_deref().unwrap());
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(&pod, &PatchParams::default(), &patch).await.unwrap();
    }

    /// Deletes the pod of a job's current attempt, as any user may.
    pub async fn delete_pod(&self, tenant: &str, job: &Job) {
        let pod = job.status.as_ref().unwrap().pod.clone().unwrap();
        self.within::<Pod>(&namespace(tenant))
            .delete(&pod, &kube::api::DeleteParams::default())
            .await
            .unwrap();
    }
}
