//! Second step: whether a Job may be changed now, and whether a pod can be made of it. Pure.

use std::borrow::Cow;

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt, runtime::controller::Action};

use super::{dereference::Dereferenced, outcome::requeue_at};
use crate::{
    api_types::{Job, JobSpec, Reason, Scenarios, Tenant, tenant::PodSecurity},
    domain::{
        environment::{self, EnvironmentError},
        job_flow::{self, View},
        resources::{AskError, Resources},
        retry, tenant_state,
    },
    kube_ext::{invalid::InvalidObjects, is_paused},
};

/// What to do with a job that is not to be changed now: one that can't be read, of which the cache holds an earlier
/// state (`invalid` reports it), and one that is paused and does not have to end.
pub(super) fn exempt(found: &Dereferenced, view: &View<'_>, invalid: &InvalidObjects<Job>) -> Option<Action> {
    if invalid.contains(view.job) {
        return Some(Action::await_change());
    }
    let is_exempt = is_paused(view.job) && !must_end(view, found.tenant.as_deref());
    is_exempt.then(|| requeue_at(job_flow::time_is_up(view), view.steady))
}

/// Whether the job has to end, which being paused does not prevent: its tenant is deleted or drains, it is canceled or
/// deleted, or its time is up.
fn must_end(view: &View<'_>, tenant: Option<&Tenant>) -> bool {
    job_flow::canceled(view.job)
        || tenant.is_some_and(tenant_state::terminating)
        || view.drain.is_some()
        || view.pods.iter().any(|pod| pod.metadata.deletion_timestamp.is_some())
        || job_flow::time_is_up(view).is_some_and(|at| at <= view.steady)
}

/// A job whose every field was read.
pub(super) struct ValidJob<'a> {
    /// With all that its scenario supplies.
    pub(super) spec: Cow<'a, JobSpec>,
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) owner: OwnerReference,
    pub(super) tenant: String,
    pub(super) tenant_uid: String,
    pub(super) pod_security: PodSecurity,
    pub(super) image: String,
    pub(super) asked: Resources,
    /// Running time that is left.
    pub(super) left: Option<SignedDuration>,
    /// The number of the retry that the next attempt is, where the hourly window is to count it.
    pub(super) retry: Option<u32>,
}

/// Why no pod can be made of a job.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// Its requests can't be read.
    #[error(transparent)]
    Asks(#[from] AskError),
    /// The kernel could not execute it.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// It asks for what the tenant's namespace never allows.
    #[error(
        "spec.runAsUser is 0, and PodSecurity `restricted` lets no process run as root: give another user id"
    )]
    Root,
    /// Neither the job nor its scenario has one.
    #[error("no image: give spec.image")]
    NoImage,
    /// It was never stored.
    #[error("the job has no UID yet")]
    NoUid,
    /// It would pass an API key to its container.
    #[error("Secret {0} holds an API key: a job can't refer to it")]
    KeySecret(String),
}

impl Refusal {
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Asks(error) => error.reason(),
            Self::Environment(_) | Self::Root | Self::NoImage | Self::NoUid | Self::KeySecret(_) => {
                Reason::PodRefused
            }
        }
    }
}

/// Reads a job; the error is a message for its owner.
pub(super) fn validate<'a>(
    job: &'a Job,
    tenant: &Tenant,
    scenarios: &Scenarios,
    left: Option<SignedDuration>,
) -> Result<ValidJob<'a>, Refusal> {
    if let Some(secret) = job.spec.key_secret() {
        return Err(Refusal::KeySecret(secret.to_owned()));
    }
    let asked = Resources::of_job(&job.spec, scenarios)?;
    let spec = scenarios.complete(&job.spec).map_err(AskError::from)?;
    environment::check(&spec)?;
    if tenant.spec.pod_security == PodSecurity::Restricted && spec.run_as_user == Some(0) {
        return Err(Refusal::Root);
    }
    Ok(ValidJob {
        name: job.name_any(),
        namespace: job.namespace().unwrap_or_default(),
        uid: job.uid().unwrap_or_default(),
        owner: job.controller_owner_ref(&()).ok_or(Refusal::NoUid)?,
        tenant: tenant.name_any(),
        tenant_uid: tenant.uid().unwrap_or_default(),
        pod_security: tenant.spec.pod_security,
        image: spec.image.clone().ok_or(Refusal::NoImage)?,
        spec,
        asked,
        left,
        retry: job.status.as_ref().and_then(retry::to_charge),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in super::super) fn job(spec: serde_json::Value) -> Job {
        let metadata = json!({"name": "render", "namespace": "tenant-acme", "uid": "0b8e9a52-6a5e-4d5c-9c0e-6a1f6c0a9f11"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    pub(in super::super) fn tenant(spec: serde_json::Value) -> Tenant {
        serde_json::from_value(json!({"metadata": {"name": "acme", "uid": "t"}, "spec": spec})).unwrap()
    }

    pub(in super::super) fn catalogue() -> Scenarios {
        Scenarios::from_yaml(
            "scenarios:
              train:
                image: registry/train:3
                command: [/train]
                args: [--epochs, '10']
                env: [{name: DATA, value: /data}, {name: LOG, value: info}]
                resources: {cpu: 4, memory: 8Gi, gpus: 1, ephemeralStorage: 1Gi, bandwidthMbps: 50}
                runAsUser: 1000",
        )
        .unwrap()
    }

    #[test]
    fn no_reference_to_the_secret_of_an_api_key_reaches_a_pod() {
        for spec in [
            json!({"envFrom": [{"secret": "crofter-key-ci"}]}),
            json!({"env": [{"name": "A", "secretKeyRef": {"name": "crofter-key-ci", "key": "token"}}]}),
            json!({"imagePullSecrets": ["mine", "crofter-key-ci"]}),
        ] {
            let mut spec = spec;
            spec["image"] = json!("a");
            let job = job(spec);
            let refusal = validate(&job, &tenant(json!({})), &Scenarios::default(), None).err().unwrap();
            assert_eq!(refusal.reason(), Reason::PodRefused);
            assert_eq!(
                refusal.to_string(),
                "Secret crofter-key-ci holds an API key: a job can't refer to it"
            );
        }
    }

    #[test]
    fn a_job_of_which_no_pod_can_be_built_is_refused_with_the_cause() {
        let refused = |spec, scenarios: &Scenarios| {
            let refusal = validate(&job(spec), &tenant(json!({})), scenarios, None).err().unwrap();
            (refusal.reason(), refusal.to_string())
        };
        let none = Scenarios::default();
        let (reason, message) = refused(json!({"scenario": "infer"}), &catalogue());
        assert_eq!(reason, Reason::UnknownScenario);
        assert_eq!(message, "the catalogue has no scenario `infer`: it has train");
        let (_, message) = refused(json!({"scenario": "train", "image": "a"}), &none);
        assert_eq!(message, "the catalogue has no scenario `train`: it is empty");
        assert_eq!(refused(json!({}), &none), (Reason::PodRefused, "no image: give spec.image".to_owned()));
        let (reason, message) = refused(json!({"image": "a", "runAsUser": 0}), &none);
        assert!(reason == Reason::PodRefused && message.contains("PodSecurity"), "{message}");
        let parameters: std::collections::BTreeMap<_, _> =
            (0..32).map(|n| (format!("p{n}"), "x".repeat(4096))).collect();
        let (reason, message) = refused(json!({"image": "a", "parameters": parameters}), &none);
        assert!(reason == Reason::PodRefused && message.contains("at most 131071"), "{message}");
        let (reason, message) = refused(json!({"image": "a", "resources": {"cpu": "many"}}), &none);
        assert_eq!(reason, Reason::PodRefused);
        assert!(message.starts_with("spec.resources.cpu: `many`"), "{message}");
    }
}
