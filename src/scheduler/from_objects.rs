//! The dispatcher's inputs, made from API objects.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::{
    api_types::{
        Job, JobPhase, Plans, Reason, Tenant,
        job::{OnQuota, Priority, Queue},
        plan::EffectiveQuotas,
    },
    domain::{
        admission::{JobInput, JobState, TenantInput},
        attempt,
        job_state::is_terminal,
        pod_requests::of_pod,
        resources::{AskError, Resources},
        retry, tenant_state,
    },
    kube_ext::{finalizer, is_paused},
    names,
};

/// The input of a tenant at a time, and when it changes by itself.
pub(super) fn tenant(tenant: &Tenant, plans: &Plans, now: Timestamp) -> (TenantInput, Option<Timestamp>) {
    let phase = tenant_state::decide(tenant, now);
    let closed = (!phase.accepts()).then_some((phase.reason, phase.message));
    let plan = plans.get(&tenant.spec.plan);
    let unknown =
        || (Reason::UnknownPlan, format!("the tenant's plan `{}` does not exist", tenant.spec.plan));
    let pools = tenant.spec.shared_pools.iter().map(|pool| names::pool_group(pool));
    let input = TenantInput {
        name: tenant.name_any(),
        plan: tenant.spec.plan.clone(),
        closed: closed.or_else(|| plan.is_none().then(unknown)),
        quotas: plan.map_or_else(EffectiveQuotas::default, |p| p.effective(&tenant.spec.quotas)),
        weight: plan.map_or(1, |p| p.weight),
        groups: std::iter::once(tenant.name_any()).chain(pools).collect(),
        elastic: tenant.spec.elastic,
    };
    (input, phase.changes_at)
}

/// What scheduling needs to know of a pod of a job.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PodState {
    pub(super) namespace: Arc<str>,
    pub(super) attempt: u32,
    /// It can't run any more.
    pub(super) ended: bool,
    pub(super) node: Option<String>,
    /// The worker group that it is bound to.
    pub(super) group: Option<Arc<str>>,
    pub(super) asked: Resources,
    pub(super) created: Timestamp,
    /// It has the finalizer that holds it until its job is charged.
    pub(super) held: bool,
}

impl PodState {
    /// Reads a pod that is an attempt of a job; returns the job's UID, too.
    pub(super) fn of(pod: &Pod, gpu_resource: &str) -> Option<(Arc<str>, Self)> {
        let state = Self {
            namespace: pod.namespace()?.into(),
            attempt: attempt::number(pod)?,
            ended: attempt::is_over(pod),
            node: attempt::node(pod).map(str::to_owned),
            group: pod.labels().get(names::LABEL_GROUP).map(|group| group.as_str().into()),
            asked: of_pod(pod, gpu_resource),
            created: attempt::created(pod),
            held: finalizer::has(pod, names::FINALIZER_ACCOUNTED),
        };
        Some((attempt::job_uid(pod)?.into(), state))
    }

    /// Where it runs and what it uses there, while it does.
    pub(super) fn usage_on_node(&self) -> Option<(&str, Resources)> {
        Some((self.node.as_deref().filter(|_| !self.ended)?, self.asked))
    }
}

/// The pods of jobs, by UID of the job and of the pod.
#[derive(Default)]
pub(super) struct JobPods(HashMap<Arc<str>, Vec<(Arc<str>, PodState)>>);

impl JobPods {
    /// Sets the state of a pod; false where that has not changed.
    pub(super) fn put(&mut self, job: &Arc<str>, pod: &Arc<str>, state: PodState) -> bool {
        let pods = self.0.entry(Arc::clone(job)).or_default();
        match pods.iter_mut().find(|(uid, _)| uid == pod) {
            Some((_, registered)) if *registered == state => return false,
            Some((_, registered)) => *registered = state,
            None => pods.push((Arc::clone(pod), state)),
        }
        true
    }

    /// Removes a deleted pod.
    pub(super) fn remove(&mut self, job: &str, pod: &str) {
        if let Some(pods) = self.0.get_mut(job) {
            pods.retain(|(uid, _)| **uid != *pod);
            if pods.is_empty() {
                self.0.remove(job);
            }
        }
    }

    /// The jobs that have pods, by UID.
    pub(super) fn jobs(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(|job| &**job)
    }

    /// UID of the pod of a job that may still run.
    pub(super) fn live(&self, namespace: &str, job: &str) -> Option<&Arc<str>> {
        let mut live = self.0.get(job)?.iter().filter(|(_, pod)| !pod.ended && *pod.namespace == *namespace);
        live.next_back().map(|(uid, _)| uid)
    }

    /// The input of a job without an object: its pod counts, until that has ended.
    pub(super) fn orphan(&self, job: &str) -> Option<JobInput> {
        let pods = self.0.get(job)?;
        let pod = pods.iter().map(|(_, pod)| pod).rfind(|pod| !pod.ended)?;
        Some(JobInput {
            uid: job.into(),
            namespace: Arc::clone(&pod.namespace),
            created: pod.created,
            queue: Queue::default(),
            priority: Priority::default(),
            asked: Ok(pod.asked),
            group: None,
            on_quota: OnQuota::default(),
            state: active(pod),
            charged_retry: false,
            reported: None,
        })
    }

    /// The pods of a job by UID, in its own namespace only: pods elsewhere may have forged labels.
    fn of(&self, namespace: &str, job: &str) -> Summary<'_> {
        let mut summary = Summary::default();
        let pods = self.0.get(job).into_iter().flatten();
        for (_, pod) in pods.filter(|(_, pod)| *pod.namespace == *namespace) {
            if pod.ended {
                summary.ended = summary.ended.max(Some(pod.attempt));
            } else {
                summary.live = Some(pod);
            }
        }
        summary
    }
}

/// The pods of one job.
#[derive(Default)]
struct Summary<'a> {
    /// The one that may still run.
    live: Option<&'a PodState>,
    /// The newest attempt that was seen to end.
    ended: Option<u32>,
}

/// The input of a job, from its object and its pods.
pub(super) fn job(
    job: &Job,
    pods: &JobPods,
    asked: impl FnOnce(&Job) -> Result<Resources, AskError>,
) -> Option<JobInput> {
    let (uid, namespace) = (job.uid()?, job.namespace()?);
    let summary = pods.of(&namespace, &uid);
    let reported = job.status.as_ref().and_then(|status| status.reason.as_deref()?.parse().ok());
    let state = job_state(job, &summary);
    let next = if let JobState::Waiting(attempt) = state { attempt } else { 0 };
    Some(JobInput {
        state,
        charged_retry: next > 1 && job.status.as_ref().and_then(retry::to_charge).is_some(),
        asked: summary.live.map_or_else(|| asked(job), |pod| Ok(pod.asked)),
        uid: uid.into(),
        namespace: namespace.into(),
        created: job.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        queue: job.spec.queue,
        priority: job.spec.priority,
        group: job.spec.pool.as_deref().map(|pool| names::pool_group(pool).into()),
        // A job that has run is no new one that its submitter would rather have back.
        on_quota: if next > 1 { OnQuota::Queue } else { job.spec.on_quota },
        reported,
    })
}

fn active(pod: &PodState) -> JobState {
    JobState::Active { group: pod.group.clone(), bound: pod.node.is_some() }
}

fn job_state(job: &Job, pods: &Summary<'_>) -> JobState {
    let status = job.status.as_ref();
    let current = status.map_or(0, |s| u32::try_from(s.attempt).unwrap_or(0));
    let phase = status.map_or(JobPhase::Queued, |s| s.phase);
    if let Some(pod) = pods.live {
        return active(pod);
    }
    match phase {
        JobPhase::Queued if pods.ended == Some(current + 1) => JobState::Inactive,
        JobPhase::Queued => {
            let wanted = !job.spec.canceled && job.metadata.deletion_timestamp.is_none() && !is_paused(job);
            if wanted { JobState::Waiting(current + 1) } else { JobState::Inactive }
        }
        JobPhase::Retrying => JobState::BackingOff,
        phase if is_terminal(phase) => JobState::Ended(phase),
        _ if pods.ended == Some(current) => JobState::Inactive,
        // A pod that is not in the cache may still run.
        _ => {
            let group = status.and_then(|s| s.worker_group.as_deref());
            JobState::Active { group: group.map(Into::into), bound: status.is_some_and(|s| s.node.is_some()) }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(attempt: u32, ended: bool, node: Option<&str>) -> PodState {
        PodState {
            namespace: "n".into(),
            attempt,
            ended,
            node: node.map(str::to_owned),
            group: Some("p".into()),
            asked: Resources { cpu_milli: 7, ..Resources::default() },
            created: Timestamp::UNIX_EPOCH,
            held: true,
        }
    }

    fn seen(metadata: Value, spec: Value, status: Value, pods: &[PodState]) -> JobInput {
        let mut whole = json!({"metadata": {"uid": "j", "namespace": "n"}, "spec": {"image": "i"}});
        crate::kube_ext::mock::merge(
            &mut whole,
            &json!({"metadata": metadata, "spec": spec, "status": status}),
        );
        let mut all = JobPods::default();
        for (n, pod) in pods.iter().enumerate() {
            assert!(all.put(&"j".into(), &n.to_string().into(), pod.clone()));
        }
        job(&serde_json::from_value(whole).unwrap(), &all, |_| Ok(Resources::default())).unwrap()
    }

    fn active(group: Option<&str>, bound: bool) -> JobState {
        JobState::Active { group: group.map(Into::into), bound }
    }

    #[test]
    fn a_queued_job_waits_unless_it_is_unwanted_or_has_its_pod() {
        let queued = |metadata, spec, pods: &[PodState]| {
            seen(metadata, spec, json!({"phase": "Queued", "reason": "NoWorkers"}), pods)
        };
        let plain = queued(json!({}), json!({}), &[]);
        assert_eq!((plain.state, plain.reported), (JobState::Waiting(1), Some(Reason::NoWorkers)));
        assert_eq!(queued(json!({}), json!({"canceled": true}), &[]).state, JobState::Inactive);
        let paused = json!({"annotations": {(names::ANNOTATION_PAUSED): "true"}});
        assert_eq!(queued(paused, json!({}), &[]).state, JobState::Inactive, "it would not use its room");
        let live = queued(json!({}), json!({}), &[pod(1, false, None)]);
        assert_eq!(live.state, active(Some("p"), false));
        assert_eq!(live.asked.unwrap().cpu_milli, 7, "what its pod asks for");
        assert_eq!(queued(json!({}), json!({}), &[pod(1, false, Some("n"))]).state, active(Some("p"), true));
        assert_eq!(queued(json!({}), json!({}), &[pod(1, true, Some("n"))]).state, JobState::Inactive);
    }

    #[test]
    fn a_retry_is_charged_once_and_what_follows_a_disruption_is_not() {
        let next = |phase: &str, retries, charged| {
            let status = json!({"phase": phase, "attempt": 2, "retries": retries, "chargedRetries": charged});
            seen(json!({}), json!({"onQuota": "Reject"}), status, &[])
        };
        assert!(next("Queued", 1, json!(null)).charged_retry && next("Queued", 2, json!(1)).charged_retry);
        assert!(!next("Queued", 1, json!(1)).charged_retry && !next("Queued", 0, json!(null)).charged_retry);
        assert!(!next("Running", 1, json!(null)).charged_retry, "it waits for nothing");
        assert_eq!(next("Queued", 1, json!(1)).on_quota, OnQuota::Queue, "it was accepted before");
        let new = seen(json!({}), json!({"onQuota": "Reject"}), json!({"phase": "Queued"}), &[]);
        assert_eq!((new.on_quota, new.charged_retry), (OnQuota::Reject, false));
    }

    #[test]
    fn a_job_at_work_counts_until_its_pod_has_ended() {
        let at_work = |phase: &str, pods: &[PodState]| {
            let status = json!({"phase": phase, "attempt": 1, "workerGroup": "g", "node": "n"});
            seen(json!({}), json!({}), status, pods).state
        };
        let (live, ended) = (pod(1, false, Some("n")), pod(1, true, Some("n")));
        assert_eq!(at_work("Running", std::slice::from_ref(&live)), active(Some("p"), true));
        assert_eq!(
            at_work("Running", &[]),
            active(Some("g"), true),
            "a pod that is not in the cache may still run"
        );
        assert_eq!(at_work("Running", std::slice::from_ref(&ended)), JobState::Inactive);
        assert_eq!(at_work("Retrying", std::slice::from_ref(&live)), active(Some("p"), true));
        assert_eq!(at_work("Retrying", &[ended]), JobState::BackingOff);
        assert_eq!(at_work("Completed", &[]), JobState::Ended(JobPhase::Completed));
        assert_eq!(at_work("Canceled", &[live]), active(Some("p"), true), "whatever the status says");
    }

    #[test]
    fn an_orphan_counts_until_its_pod_has_ended() {
        let mut pods = JobPods::default();
        assert!(pods.put(&"j".into(), &"p".into(), pod(1, false, Some("n"))));
        let left = pods.orphan("j").unwrap();
        assert_eq!((&*left.namespace, left.asked.unwrap().cpu_milli), ("n", 7));
        assert_eq!(left.state, active(Some("p"), true));
        assert!(pods.put(&"j".into(), &"p".into(), pod(1, true, Some("n"))));
        assert_eq!(pods.orphan("j"), None);
    }

    #[test]
    fn a_pod_of_another_namespace_holds_no_job_active() {
        let status = json!({"phase": "Completed", "attempt": 1});
        let forged = PodState { namespace: "tenant-b".into(), ..pod(1, false, Some("n")) };
        let seen = seen(json!({}), json!({}), status, &[forged]);
        assert_eq!(seen.state, JobState::Ended(JobPhase::Completed));
    }

    #[test]
    fn a_pod_whose_sidecar_still_runs_keeps_its_room() {
        let state = |name: &str, state: Value| json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state});
        let ended =
            state("job", json!({"terminated": {"exitCode": 0, "finishedAt": "2026-01-01T00:00:09Z"}}));
        let status =
            json!({"phase": "Running", "containerStatuses": [ended, state("mesh", json!({"running": {}}))]});
        let labels = json!({"crofter.io/attempt": "1", "crofter.io/job-uid": "j"});
        let pod = |phase: &str| -> Pod {
            let mut status = status.clone();
            status["phase"] = json!(phase);
            let metadata = json!({"name": "p", "namespace": "n", "labels": labels});
            let spec = json!({"nodeName": "n1", "containers": []});
            serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
        };
        let usage = |phase: &str| PodState::of(&pod(phase), "gpu").unwrap().1.usage_on_node().is_some();
        assert!(usage("Running") && !usage("Succeeded"));
    }

    #[test]
    fn pods_are_forgotten_with_the_last_of_a_job() {
        let mut pods = JobPods::default();
        let (job, one, two) = ("j".into(), "1".into(), "2".into());
        assert!(pods.put(&job, &one, pod(1, false, None)));
        assert!(!pods.put(&job, &one, pod(1, false, None)), "nothing new");
        assert!(pods.put(&job, &one, pod(1, true, None)));
        assert!(pods.put(&job, &two, pod(2, false, None)));
        let found = pods.of("n", "j");
        assert_eq!((found.live.unwrap().attempt, found.ended), (2, Some(1)));
        pods.remove("j", "2");
        pods.remove("j", "1");
        assert!(pods.0.is_empty());
    }
}
