//! What of a Job enters the cache: the fields that a part of the operator reads, and so no more than its spec and
//! status may have.
//!
//! The cache holds every Job, ended ones for as long as they are kept, and nothing bounds metadata but the size of an
//! object: an annotation of kubectl's alone is the spec once more. No pod will be made of a job that has ended, so that
//! the fields of its spec of which one is made, up to 64 KiB, are not kept. The REST API reads them in the history or
//! from the API server, the mirror has them from the time when the job ran, else it reads them from the API server.
//! Which jobs ran the same is kept in a few bytes: estimates of starts go by how long those ran.

use crate::{
    api_types::Job,
    domain::{estimate::history::Kind, job_state::is_terminal},
    names::{JOB_KINDS, LABEL_MANAGED_BY, PREFIX},
};

/// Drops from a Job what is never read from the cache.
pub fn prepare(job: &mut Job) {
    let metadata = &mut job.metadata;
    metadata.owner_references = None;
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|name, _| name.starts_with(PREFIX));
    }
    if let Some(labels) = &mut metadata.labels {
        labels.retain(|name, _| name.starts_with(PREFIX) || name == LABEL_MANAGED_BY);
    }
    if job.status.as_ref().is_some_and(|status| is_terminal(status.phase)) {
        let kinds = Kind::of_spec(&job.spec);
        let annotations = job.metadata.annotations.get_or_insert_default();
        annotations.insert(JOB_KINDS.to_owned(), Kind::format_all(&kinds));
        job.spec.drop_payload();
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(phase: &str) -> Job {
        let large = "x".repeat(30_000);
        let spec = json!({
            "image": "i", "scenario": "s", "command": ["c"], "args": [large], "workingDir": "/", "runAsUser": 5,
            "parameters": {"p": "q"}, "envFrom": [{"secret": "s"}], "imagePullSecrets": ["s"],
            "volumes": [{"name": "v", "mountPath": "/v", "scratch": "1Gi"}],
            "queue": "live", "priority": "low", "maxRetries": 7, "retryPolicy": "Always", "onQuota": "Reject",
            "timeoutSeconds": 60, "ttlSecondsAfterFinished": 5, "pool": "p", "canceled": true,
            "resources": {"cpu": "2"},
        });
        let applied = json!({"spec": spec, "large": large}).to_string();
        let metadata = json!({
            "name": "render", "namespace": "tenant-acme", "uid": "j1", "finalizers": ["crofter.io/accounted"],
            "annotations": {
                "kubectl.kubernetes.io/last-applied-configuration": applied, "crofter.io/paused": "true",
            },
            "labels": {"app.kubernetes.io/managed-by": "crofter", "team": "a"},
        });
        let env = [
            json!({"name": "A", "value": large}),
            json!({"name": "B", "secretKeyRef": {"name": "s", "key": "k"}}),
        ];
        let mut spec = spec;
        spec["env"] = json!(env);
        serde_json::from_value(json!({
            "metadata": metadata, "spec": spec, "status": {"observedGeneration": 1, "phase": phase},
        }))
        .unwrap()
    }

    fn cached(phase: &str) -> (Value, usize) {
        let mut job = job(phase);
        prepare(&mut job);
        let value = serde_json::to_value(&job).unwrap();
        let size = value.to_string().len();
        (value, size)
    }

    #[test]
    fn a_job_that_has_ended_is_cached_without_its_payload() {
        for phase in ["Completed", "Failed", "TimedOut", "Canceled", "Rejected"] {
            let (cached, size) = cached(phase);
            let kinds = Kind::format_all(&[Kind::scenario("s"), Kind::image("i")]);
            let annotations = json!({"crofter.io/paused": "true", "crofter.io/kinds": kinds});
            assert_eq!(cached["metadata"]["annotations"], annotations);
            assert_eq!(cached["metadata"]["labels"], json!({"app.kubernetes.io/managed-by": "crofter"}));
            assert_eq!(cached["metadata"]["finalizers"], json!(["crofter.io/accounted"]));
            assert_eq!(cached["status"], json!(job(phase))["status"]);
            let spec = json!({
                "queue": "live", "priority": "low", "maxRetries": 7, "retryPolicy": "Always", "onQuota": "Reject",
                "timeoutSeconds": 60, "ttlSecondsAfterFinished": 5, "pool": "p", "canceled": true,
                "resources": {"cpu": "2"},
            });
            assert_eq!(cached["spec"], spec, "all that is read of an ended job");
            let whole = json!(job(phase)).to_string().len();
            assert!(size < 1000 && whole > 100_000, "{size} bytes of {whole}");
        }
    }

    #[test]
    fn the_payload_of_a_job_comes_back_with_what_was_changed_since() {
        let (whole, mut ended) = (job("Queued").spec, job("Completed"));
        prepare(&mut ended);
        assert!(whole.has_payload() && !ended.spec.has_payload());
        ended.spec.queue = crate::api_types::job::Queue::Batch;
        let mut expected = whole.clone();
        expected.queue = ended.spec.queue;
        assert_eq!(ended.spec.with_payload_of(whole), expected);
    }

    #[test]
    fn a_job_of_which_a_pod_may_be_made_keeps_its_whole_spec() {
        for phase in ["Queued", "Assigned", "Running", "Retrying"] {
            let mut prepared = job(phase);
            prepare(&mut prepared);
            assert_eq!(prepared.spec, job(phase).spec);
        }
    }
}
