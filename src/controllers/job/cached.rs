//! What of a Job enters the cache: the fields that a part of the operator reads, and so no more than its spec and status
//! may have.
//!
//! The cache holds every Job, ended ones for as long as they are kept, and nothing bounds metadata but the size of an
//! object: an annotation of kubectl's alone is the spec once more. Of a job that has ended no pod will be made, so that the
//! values of its environment variables, which no answer shows and no row has, are not kept. What needs all of a job that
//! has ended (running it again) reads it from the API server.

use crate::{
    api_types::Job,
    domain::job_state::is_terminal,
    names::{LABEL_MANAGED_BY, PREFIX},
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
        job.spec.env.iter_mut().for_each(|variable| variable.value = None);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(phase: &str) -> Job {
        let (spec, large) = (json!({"image": "i", "args": ["x"]}), "x".repeat(30_000));
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
    fn a_job_that_has_ended_is_cached_without_the_values_of_its_variables() {
        for phase in ["Completed", "Failed", "TimedOut", "Canceled", "Rejected"] {
            let (job, size) = cached(phase);
            let env = json!([{"name": "A"}, {"name": "B", "secretKeyRef": {"name": "s", "key": "k"}}]);
            assert_eq!((&job["spec"]["env"], &job["spec"]["args"]), (&env, &json!(["x"])));
            assert_eq!(job["metadata"]["annotations"], json!({"crofter.io/paused": "true"}));
            assert_eq!(job["metadata"]["labels"], json!({"app.kubernetes.io/managed-by": "crofter"}));
            assert_eq!(job["metadata"]["finalizers"], json!(["crofter.io/accounted"]));
            assert!(
                size < 1000,
                "{size} bytes of {}",
                serde_json::to_string(&super::tests::job(phase)).unwrap().len()
            );
        }
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
