//! The pod of one attempt, from a Job that `validate::validate` has checked; `create` calls it. Pure.
//!
//! The pod runs on the admitted nodes of one worker group and nowhere else, asks for exactly what it may use, and has
//! no token and no rights. Its finalizer keeps it until what it used is counted.

mod container;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Affinity, LocalObjectReference, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    Pod, PodSecurityContext, PodSpec, PreferredSchedulingTerm, SeccompProfile, Toleration,
};
use kube::api::ObjectMeta;

use self::container::{container, volumes};
use super::validate::ValidJob;
use crate::{
    api_types::tenant::PodSecurity,
    config::Settings,
    domain::{admission::Admission, attempt::START_ALLOWANCE, pod_requests::BANDWIDTH_ANNOTATION},
    names,
};

/// User of a Restricted pod that names none; the `nonroot` user of distroless images.
const DEFAULT_USER: i64 = 65_532;
/// Keeps Karpenter and the cluster autoscaler from consolidating a node away under a job: what it has computed would be
/// lost.
const UNDISTURBED: [(&str, &str); 2] =
    [("karpenter.sh/do-not-disrupt", "true"), ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false")];
/// Seconds between SIGTERM and SIGKILL.
const GRACE_SECONDS: i64 = 30;

/// The pod of an admitted attempt.
pub(super) fn pod(job: &ValidJob<'_>, admission: &Admission, settings: &Settings) -> Pod {
    Pod { metadata: metadata(job, admission), spec: Some(spec(job, admission, settings)), status: None }
}

fn metadata(job: &ValidJob<'_>, admission: &Admission) -> ObjectMeta {
    let mut labels = BTreeMap::from([
        (names::LABEL_MANAGED_BY.to_owned(), names::MANAGER.to_owned()),
        (names::LABEL_TENANT.to_owned(), job.tenant.clone()),
        (names::LABEL_TENANT_UID.to_owned(), job.tenant_uid.clone()),
        (names::LABEL_JOB_UID.to_owned(), job.uid.clone()),
        (names::LABEL_ATTEMPT.to_owned(), admission.attempt.to_string()),
        (names::LABEL_GROUP.to_owned(), admission.group.clone()),
    ]);
    if let Some(retry) = job.retry {
        labels.insert(names::LABEL_RETRY.to_owned(), retry.to_string());
    }
    // A label's value is at most 63 characters, an object's name up to 253.
    if job.name.len() <= 63 {
        labels.insert(names::LABEL_JOB.to_owned(), job.name.clone());
    }
    let bandwidth = job.asked.bandwidth_mbps;
    let directions =
        [BANDWIDTH_ANNOTATION, "kubernetes.io/ingress-bandwidth"].map(|d| (d, format!("{bandwidth}M")));
    let annotations = directions.into_iter().filter(|_| bandwidth > 0);
    let annotations = annotations.chain(UNDISTURBED.map(|(name, value)| (name, value.to_owned())));
    ObjectMeta {
        name: Some(names::pod(&job.name, &job.uid, admission.attempt)),
        namespace: Some(job.namespace.clone()),
        labels: Some(labels),
        annotations: Some(annotations.map(|(name, value)| (name.to_owned(), value)).collect()),
        finalizers: Some(vec![names::FINALIZER_ACCOUNTED.to_owned()]),
        owner_references: Some(vec![job.owner.clone()]),
        ..ObjectMeta::default()
    }
}

fn spec(job: &ValidJob<'_>, admission: &Admission, settings: &Settings) -> PodSpec {
    let secrets = job.spec.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
    let secrets: Vec<_> = secrets.collect();
    PodSpec {
        active_deadline_seconds: job.left.map(|left| left.saturating_add(START_ALLOWANCE).as_secs()),
        affinity: Some(affinity(admission)),
        automount_service_account_token: Some(false),
        containers: vec![container(job, admission, settings)],
        enable_service_links: Some(false),
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        restart_policy: Some("Never".to_owned()),
        security_context: Some(pod_security(job)),
        service_account_name: Some(names::JOB_SERVICE_ACCOUNT.to_owned()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        tolerations: Some(vec![Toleration {
            key: Some(names::NODE_ADMITTED.to_owned()),
            operator: Some("Equal".to_owned()),
            value: Some(admission.group.clone()),
            effect: Some("NoSchedule".to_owned()),
            toleration_seconds: None,
        }]),
        volumes: volumes(job),
        ..PodSpec::default()
    }
}

/// The group's nodes only, and among them rather the one whose room was reserved: where kube-scheduler spreads what was
/// packed together, a large job that was admitted finds its room taken.
fn affinity(admission: &Admission) -> Affinity {
    let among = |key: &str, value: &str| NodeSelectorRequirement {
        key: key.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![value.to_owned()]),
    };
    let group = NodeSelectorTerm {
        match_expressions: Some(vec![among(names::NODE_ADMITTED, &admission.group)]),
        match_fields: None,
    };
    let reserved = admission.node.as_deref().map(|node| PreferredSchedulingTerm {
        preference: NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![among("metadata.name", node)]),
        },
        weight: 100,
    });
    let node_affinity = NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector {
            node_selector_terms: vec![group],
        }),
        preferred_during_scheduling_ignored_during_execution: reserved.map(|term| vec![term]),
    };
    Affinity { node_affinity: Some(node_affinity), ..Affinity::default() }
}

fn pod_security(job: &ValidJob<'_>) -> PodSecurityContext {
    let restricted = job.pod_security == PodSecurity::Restricted;
    let user = job.spec.run_as_user.or(restricted.then_some(DEFAULT_USER));
    PodSecurityContext {
        run_as_non_root: restricted.then_some(true),
        run_as_user: user,
        // Without a group of its own a process is in root's, and can't write to a claim that is not its user's.
        run_as_group: user,
        fs_group: user,
        fs_group_change_policy: user.map(|_| "OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}
