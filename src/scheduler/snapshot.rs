//! From the watch caches to what admission looks at.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::{Board, Caches, board::Names};
use crate::{
    api_types::{
        Job, JobPhase, Plans, Reason, Scenarios, Tenant,
        plan::EffectiveQuotas,
        tenant::{EndedJobs, TenantUsage},
    },
    domain::{
        admission::{Admission, JobStanding, JobView, TenantView, Usage, Verdict, WorkerView},
        attempt::{self, Observed},
        job_state::is_terminal,
        resources::Resources,
        tenant_state,
        worker::{Worker, worker},
    },
    kube_ext::is_paused,
    names,
};

/// What one decision is made from.
pub(super) struct Snapshot {
    pub(super) tenants: HashMap<String, TenantView>,
    pub(super) workers: Vec<WorkerView>,
    pub(super) jobs: Vec<JobView>,
    pub(super) names: Names,
    /// What is known of tenants beside their jobs, by name.
    totals: HashMap<String, Totals>,
    /// When a tenant's standing changes by itself.
    pub(super) next: Option<Timestamp>,
}

struct Totals {
    uid: String,
    workers: i64,
    ended: EndedJobs,
}

/// The pods of one job that could still run.
#[derive(Default)]
struct Pods {
    live: Option<u32>,
    bound: bool,
    /// The worker group of the live one.
    group: Option<String>,
    /// The newest attempt that was seen to end.
    ended: Option<u32>,
}

pub(super) fn take(
    caches: &Caches,
    board: &Board,
    plans: &Plans,
    scenarios: &Scenarios,
    gpu_resource: &str,
    now: Timestamp,
) -> Snapshot {
    let (mut by_namespace, mut tenants, mut next) = (HashMap::new(), HashMap::new(), None);
    let all = caches.tenants.state();
    for tenant in &all {
        let standing = tenant_state::judge(tenant, now);
        next = [next, standing.next].into_iter().flatten().min();
        if let Some(namespace) = tenant.status.as_ref().and_then(|s| s.namespace.clone()) {
            by_namespace.insert(namespace, tenant.name_any());
        }
        let closed = (!standing.accepts()).then_some((standing.reason, standing.message));
        tenants.insert(tenant.name_any(), view(tenant, plans, closed));
    }
    let (pods, used) = pods(&caches.pods.state(), gpu_resource);
    let workers = workers(caches, &used, gpu_resource);
    let mut names = Names::default();
    let mut ended: HashMap<String, EndedJobs> = HashMap::new();
    let mut jobs = Vec::new();
    for job in caches.jobs.state() {
        let (Some(uid), Some(namespace)) = (job.uid(), job.namespace()) else { continue };
        let tenant = by_namespace.get(&namespace).cloned();
        match job.status.as_ref().map_or(JobPhase::Queued, |s| s.phase) {
            phase if is_terminal(phase) => {
                count_end(ended.entry(tenant.unwrap_or_default()).or_default(), phase)
            }
            _ => {
                if let Some(state) = standing(&job, pods.get(&uid), board.verdict(&uid)) {
                    names.jobs.insert(uid.clone(), ObjectRef::from_obj(&*job));
                    jobs.push(job_view(&job, uid, tenant, state, scenarios));
                }
            }
        }
    }
    let total = |tenant: &Arc<Tenant>| {
        let (name, uid) = (tenant.name_any(), tenant.uid().unwrap_or_default());
        let count = workers.iter().filter(|w| w.group == name).count();
        let ended = ended.remove(&name).unwrap_or_default();
        (name, Totals { uid, workers: signed(count as u64), ended })
    };
    let totals: HashMap<String, Totals> = all.iter().map(total).collect();
    names.tenants = totals.iter().map(|(name, total)| (total.uid.clone(), name.clone())).collect();
    Snapshot { tenants, workers, jobs, names, totals, next }
}

impl Snapshot {
    /// What tenants use after a decision, by UID, as their status shows it.
    pub(super) fn usage(&self, decided: &HashMap<String, Usage>) -> HashMap<String, TenantUsage> {
        let one = |(name, total): (&String, &Totals)| {
            let usage = decided.get(name).cloned().unwrap_or_default();
            let shown = TenantUsage {
                queued_jobs: signed(usage.queued),
                active_jobs: signed(usage.active),
                cpu_millicores: signed(usage.held.cpu_milli),
                memory_bytes: signed(usage.held.memory_bytes),
                gpus: signed(usage.held.gpus),
                bandwidth_mbps: signed(usage.held.bandwidth_mbps),
                workers: total.workers,
                ended: total.ended.clone(),
                ..TenantUsage::default()
            };
            (total.uid.clone(), shown)
        };
        self.totals.iter().map(one).collect()
    }
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn view(tenant: &Tenant, plans: &Plans, closed: Option<(Reason, String)>) -> TenantView {
    let plan = plans.get(&tenant.spec.plan);
    let unknown =
        || (Reason::UnknownPlan, format!("the tenant's plan `{}` does not exist", tenant.spec.plan));
    let pools = tenant.spec.shared_pools.iter().map(|pool| names::pool_group(pool));
    TenantView {
        name: tenant.name_any(),
        plan: tenant.spec.plan.clone(),
        closed: closed.or_else(|| plan.is_none().then(unknown)),
        quotas: plan.map_or_else(EffectiveQuotas::default, |p| p.effective(&tenant.spec.quotas)),
        weight: plan.map_or(1, |p| p.weight),
        groups: std::iter::once(tenant.name_any()).chain(pools).collect(),
        elastic: tenant.spec.elastic,
    }
}

fn pods(all: &[Arc<Pod>], gpu_resource: &str) -> (HashMap<String, Pods>, HashMap<String, Resources>) {
    let (mut by_job, mut used): (HashMap<String, Pods>, HashMap<String, Resources>) = Default::default();
    for pod in all {
        let (Some(uid), Some(number)) = (attempt::job_uid(pod), attempt::number(pod)) else { continue };
        let entry = by_job.entry(uid.to_owned()).or_default();
        if let Observed::Ended(_) = attempt::observe(pod) {
            entry.ended = entry.ended.max(Some(number));
            continue;
        }
        entry.live = entry.live.max(Some(number));
        entry.group = pod.labels().get(names::LABEL_GROUP).cloned();
        if let Some(node) = attempt::node(pod) {
            entry.bound = true;
            *used.entry(node.to_owned()).or_default() += attempt::requests(pod, gpu_resource);
        }
    }
    (by_job, used)
}

fn workers(caches: &Caches, used: &HashMap<String, Resources>, gpu_resource: &str) -> Vec<WorkerView> {
    let nodes = caches.nodes.state();
    let admitted = nodes.iter().filter_map(|node| worker(node, gpu_resource));
    let view = |worker: Worker| WorkerView {
        used: used.get(&worker.name).copied().unwrap_or_default(),
        capacity: worker.allocatable,
        open: worker.ready,
        name: worker.name,
        group: worker.group,
    };
    admitted.map(view).collect()
}

/// Where a job that has not ended stands; `None` where nothing is to be decided: it is canceled or paused, or its
/// pod has just ended.
fn standing(job: &Job, pods: Option<&Pods>, verdict: Option<Verdict>) -> Option<JobStanding> {
    let status = job.status.as_ref();
    let current = status.map_or(0, |s| u32::try_from(s.attempt).unwrap_or(0));
    let (live, ended) = pods.map_or((None, None), |p| (p.live, p.ended));
    let bound = pods.is_some_and(|p| p.bound);
    let reserved = match (verdict, bound) {
        (Some(Verdict::Admit(admission)), false) => Some(admission),
        _ => None,
    };
    let of_pod = pods.and_then(|p| p.group.clone());
    let active = |reserved: Option<Admission>| {
        let (group, node) = reserved.map_or((None, None), |a| (Some(a.group), a.node));
        Some(JobStanding::Active { group: of_pod.or(group), reserved: node })
    };
    match status.map_or(JobPhase::Queued, |s| s.phase) {
        JobPhase::Queued => {
            let next = current + 1;
            let reserved = reserved.filter(|a| a.attempt == next);
            if ended == Some(next) {
                None
            } else if live == Some(next) || reserved.is_some() {
                active(reserved)
            } else {
                let wanted = !job.spec.canceled && job.metadata.deletion_timestamp.is_none();
                (wanted && !is_paused(job)).then_some(JobStanding::Waiting(next))
            }
        }
        JobPhase::Retrying if live.is_none() => Some(JobStanding::BackingOff),
        JobPhase::Retrying => active(None),
        _ if live.is_none() && ended == Some(current) => None,
        _ => active(reserved.filter(|a| a.attempt == current)),
    }
}

fn job_view(
    job: &Job,
    uid: String,
    tenant: Option<String>,
    state: JobStanding,
    scenarios: &Scenarios,
) -> JobView {
    JobView {
        uid,
        created: job.creation_timestamp().map_or(Timestamp::UNIX_EPOCH, |t| t.0),
        queue: job.spec.queue,
        priority: job.spec.priority,
        tenant,
        asked: Resources::of_job(&job.spec, scenarios),
        group: job.spec.pool.as_deref().map(names::pool_group),
        on_quota: job.spec.on_quota,
        state,
    }
}

fn count_end(ended: &mut EndedJobs, phase: JobPhase) {
    match phase {
        JobPhase::Completed => ended.completed += 1,
        JobPhase::Failed => ended.failed += 1,
        JobPhase::Canceled => ended.canceled += 1,
        JobPhase::Rejected => ended.rejected += 1,
        JobPhase::TimedOut => ended.timed_out += 1,
        JobPhase::Queued | JobPhase::Assigned | JobPhase::Running | JobPhase::Retrying => (),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn standing_of(
        metadata: Value,
        spec: Value,
        status: Value,
        pods: &Pods,
        admitted: bool,
    ) -> Option<JobStanding> {
        let mut job = json!({"metadata": metadata, "spec": {"image": "i"}, "status": status});
        crate::kube_ext::mock::merge(&mut job, &json!({"spec": spec}));
        let admission = Admission { attempt: 1, group: "g".into(), node: Some("n".into()) };
        let verdict = admitted.then_some(Verdict::Admit(admission));
        standing(&serde_json::from_value(job).unwrap(), Some(pods), verdict)
    }

    #[test]
    fn a_queued_job_waits_unless_it_is_unwanted_or_has_its_place() {
        let queued = |metadata, spec, pods: &Pods, admitted| {
            standing_of(metadata, spec, json!({"phase": "Queued"}), pods, admitted)
        };
        let (none, plain) = (Pods::default(), || json!({"name": "j"}));
        let admitted =
            || Some(JobStanding::Active { group: Some("g".to_owned()), reserved: Some("n".to_owned()) });
        let of_pod = || Some(JobStanding::Active { group: Some("p".to_owned()), reserved: None });
        assert_eq!(queued(plain(), json!({}), &none, false), Some(JobStanding::Waiting(1)));
        assert_eq!(queued(plain(), json!({"canceled": true}), &none, false), None);
        let paused = || json!({"annotations": {(names::ANNOTATION_PAUSED): "true"}});
        assert_eq!(queued(paused(), json!({}), &none, false), None, "it would hold a place and not use it");
        assert_eq!(queued(paused(), json!({}), &none, true), admitted(), "its pod may be on the way");
        assert_eq!(queued(plain(), json!({}), &none, true), admitted());
        let live = Pods { live: Some(1), group: Some("p".to_owned()), ..Pods::default() };
        assert_eq!(queued(plain(), json!({}), &live, false), of_pod());
        let bound = Pods { bound: true, group: Some("p".to_owned()), ..live };
        assert_eq!(queued(plain(), json!({}), &bound, true), of_pod(), "the pod counts on its node now");
        let ended = Pods { ended: Some(1), ..Pods::default() };
        assert_eq!(queued(plain(), json!({}), &ended, true), None);
    }

    #[test]
    fn a_job_at_work_counts_until_its_pod_has_ended() {
        let at_work = |phase: &str, pods: &Pods| {
            standing_of(json!({}), json!({}), json!({"phase": phase, "attempt": 1}), pods, false)
        };
        let (none, live) = (Pods::default(), Pods { live: Some(1), bound: true, ..Pods::default() });
        let ended = Pods { ended: Some(1), ..Pods::default() };
        let active = Some(JobStanding::Active { group: None, reserved: None });
        assert_eq!(at_work("Running", &live), active);
        assert_eq!(at_work("Running", &none), active, "a pod that is not in the cache may still run");
        assert_eq!(at_work("Running", &ended), None);
        assert_eq!(at_work("Retrying", &live), active);
        assert_eq!(at_work("Retrying", &ended), Some(JobStanding::BackingOff));
    }
}
