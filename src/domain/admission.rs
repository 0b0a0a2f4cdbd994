//! Admission: which waiting jobs may start now, and why the others may not.
//!
//! A pure pass over everything that is known, in order of submission: a job is admitted when its tenant accepts work,
//! its quotas have room beside what already runs, and one node of a worker group that it may use has room for all of
//! it. What does not fit lets the next one try. Admitted jobs are counted at once, so that one pass never hands out
//! the same room twice.

use std::collections::HashMap;

use jiff::Timestamp;

use super::resources::{Resources, cores, gigabytes};
use crate::api_types::{
    Reason,
    job::OnQuota,
    plan::{EffectiveQuotas, Limit},
};

/// A tenant, as admission sees it.
#[derive(Clone, Debug)]
pub struct TenantView {
    /// Name.
    pub name: String,
    /// Name of its plan, for sentences.
    pub plan: String,
    /// Why it accepts nothing at the moment, if so.
    pub closed: Option<(Reason, String)>,
    /// Quotas in force.
    pub quotas: EffectiveQuotas,
    /// Worker groups that its jobs may use, its own first.
    pub groups: Vec<String>,
    /// Nodes are supplied by an autoscaler: room is not asked for.
    pub elastic: bool,
}

/// A worker node, as admission sees it.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// Name.
    pub name: String,
    /// Worker group that it is admitted to.
    pub group: String,
    /// What its pods may use in all.
    pub capacity: Resources,
    /// What live pods on it use.
    pub used: Resources,
    /// Ready and open to new pods.
    pub open: bool,
}

/// A job that has not ended, as admission sees it.
#[derive(Clone, Debug)]
pub struct JobView {
    /// UID.
    pub uid: String,
    /// When it was submitted.
    pub created: Timestamp,
    /// Its tenant, if its namespace is one's.
    pub tenant: Option<String>,
    /// What it asks for, or why that can't be read.
    pub asked: Result<Resources, String>,
    /// The only worker group that it may use, if it named one.
    pub group: Option<String>,
    /// What it wants when a quota is reached.
    pub on_quota: OnQuota,
    /// Where it is.
    pub state: JobStanding,
}

/// Where a job is, as admission sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JobStanding {
    /// Waits for admission; the attempt that it would be.
    Waiting(u32),
    /// Waits for its back-off to pass; not judged.
    BackingOff,
    /// Admitted, or its pod may still run: it counts against every quota.
    Active {
        /// The node that was reserved for it, while no pod of it is bound to one.
        reserved: Option<String>,
    },
}

/// What admission says of a waiting job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may start.
    Admit(Admission),
    /// It waits.
    Wait(Reason, String),
    /// It will never run.
    Reject(Reason, String),
}

/// A place to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Number of the attempt.
    pub attempt: u32,
    /// Worker group that its pod is bound to.
    pub group: String,
    /// Node whose room is reserved; kube-scheduler may place it elsewhere in the group. `None` on elastic groups.
    pub node: Option<String>,
}

/// What a tenant's jobs use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Jobs waiting or backing off.
    pub queued: u64,
    /// Jobs that count against the quotas.
    pub active: u64,
    /// What those ask for together.
    pub held: Resources,
}

/// The outcome of one pass.
#[derive(Debug, Default)]
pub struct Decision {
    /// Of every waiting job, in order of submission.
    pub verdicts: Vec<(String, Verdict)>,
    /// Of every tenant by name, after the admissions.
    pub usage: HashMap<String, Usage>,
}

/// Judges every waiting job.
#[must_use]
pub fn decide(
    tenants: &HashMap<String, TenantView>,
    workers: Vec<WorkerView>,
    mut jobs: Vec<JobView>,
) -> Decision {
    jobs.sort_by(|a, b| (a.created, &a.uid).cmp(&(b.created, &b.uid)));
    let mut ledger =
        Ledger { usage: tenants.keys().map(|t| (t.clone(), Usage::default())).collect(), workers };
    for job in &jobs {
        ledger.enter(job);
    }
    let mut ahead: HashMap<&str, u64> = HashMap::new();
    let mut verdicts = Vec::new();
    for job in &jobs {
        let JobStanding::Waiting(attempt) = job.state else { continue };
        let verdict = match job.tenant.as_deref().and_then(|t| tenants.get(t)) {
            None => Verdict::Wait(
                Reason::NotATenantNamespace,
                "this namespace is not that of a tenant".to_owned(),
            ),
            Some(tenant) => {
                let waiting = ahead.entry(&tenant.name).or_default();
                let verdict = ledger.judge(tenant, job, attempt, *waiting);
                if matches!(verdict, Verdict::Wait(..)) {
                    *waiting += 1;
                }
                verdict
            }
        };
        verdicts.push((job.uid.clone(), verdict));
    }
    Decision { verdicts, usage: ledger.usage }
}

struct Ledger {
    usage: HashMap<String, Usage>,
    workers: Vec<WorkerView>,
}

impl Ledger {
    fn enter(&mut self, job: &JobView) {
        let Some(usage) = job.tenant.as_ref().and_then(|t| self.usage.get_mut(t)) else { return };
        match &job.state {
            JobStanding::Waiting(_) | JobStanding::BackingOff => usage.queued += 1,
            JobStanding::Active { reserved } => {
                let asked = job.asked.clone().unwrap_or_default();
                usage.active += 1;
                usage.held += asked;
                let node =
                    reserved.as_deref().and_then(|name| self.workers.iter_mut().find(|w| w.name == name));
                if let Some(worker) = node {
                    worker.used += asked;
                }
            }
        }
    }

    fn judge(&mut self, tenant: &TenantView, job: &JobView, attempt: u32, ahead: u64) -> Verdict {
        let asked = match &job.asked {
            Ok(asked) => *asked,
            Err(error) => return Verdict::Reject(Reason::InvalidObject, error.clone()),
        };
        if let Some((reason, sentence)) = &tenant.closed {
            return Verdict::Wait(*reason, sentence.clone());
        }
        if let Some(sentence) = exceeds(tenant, &Resources::default(), &asked, None) {
            return Verdict::Reject(Reason::ExceedsQuota, sentence);
        }
        let groups: Vec<&str> = match &job.group {
            Some(wanted) if !tenant.groups.contains(wanted) => {
                let sentence = format!("tenant {} may not use the pool of group {wanted}", tenant.name);
                return Verdict::Reject(Reason::DoesNotFit, sentence);
            }
            Some(wanted) => vec![wanted],
            None => tenant.groups.iter().map(String::as_str).collect(),
        };
        let place = match self.place(tenant, &groups, &asked) {
            Ok(place) => place,
            Err(verdict @ Verdict::Reject(..)) => return verdict,
            Err(waiting) => return self.quota(tenant, job, &asked, ahead).unwrap_or(waiting),
        };
        if let Some(verdict) = self.quota(tenant, job, &asked, ahead) {
            return verdict;
        }
        let (group, node) = place;
        self.admit(&tenant.name, &asked, node.as_deref());
        Verdict::Admit(Admission { attempt, group, node })
    }

    /// The quota that holds the job back, if one does.
    fn quota(&self, tenant: &TenantView, job: &JobView, asked: &Resources, ahead: u64) -> Option<Verdict> {
        let usage = self.usage.get(&tenant.name)?;
        let rejects = job.on_quota == OnQuota::Reject;
        let counted = if rejects { usage.active + ahead } else { usage.active };
        let sentence = exceeds(tenant, &usage.held, asked, Some(counted))?;
        Some(match rejects {
            true => Verdict::Reject(Reason::WaitingForQuota, sentence),
            false => Verdict::Wait(Reason::WaitingForQuota, sentence),
        })
    }

    /// A group and node with room for all of it: the open node that is left with the least CPU.
    fn place(
        &self,
        tenant: &TenantView,
        groups: &[&str],
        asked: &Resources,
    ) -> Result<(String, Option<String>), Verdict> {
        let of = |group: &str| {
            let group = group.to_owned();
            self.workers.iter().filter(move |w| w.group == group)
        };
        for group in groups {
            let fitting = of(group).filter(|w| w.open && asked.fits(&(w.capacity - w.used)));
            let best = fitting.min_by_key(|w| ((w.capacity - w.used).cpu_milli, w.name.clone()));
            if let Some(worker) = best {
                return Ok(((*group).to_owned(), Some(worker.name.clone())));
            }
        }
        if let (true, Some(group)) = (tenant.elastic, groups.first()) {
            return Ok(((*group).to_owned(), None));
        }
        let all: Vec<&WorkerView> = groups.iter().flat_map(|g| of(g)).collect();
        if all.is_empty() {
            let sentence =
                format!("no worker is admitted to {}: label a node for the tenant", groups.join(" or "));
            return Err(Verdict::Wait(Reason::NoWorkers, sentence));
        }
        if !all.iter().any(|w| asked.fits(&w.capacity)) {
            return Err(Verdict::Reject(Reason::DoesNotFit, fits_nowhere(&all, asked)));
        }
        let open = all.iter().filter(|w| w.open).count();
        let sentence = format!("no worker has {} free: {open} of {} are open", sizes(asked), all.len());
        Err(Verdict::Wait(Reason::WaitingForCapacity, sentence))
    }

    fn admit(&mut self, tenant: &str, asked: &Resources, node: Option<&str>) {
        if let Some(usage) = self.usage.get_mut(tenant) {
            usage.queued = usage.queued.saturating_sub(1);
            usage.active += 1;
            usage.held += *asked;
        }
        if let Some(worker) = node.and_then(|name| self.workers.iter_mut().find(|w| w.name == name)) {
            worker.used += *asked;
        }
    }
}

/// The first quota that `asked` on top of `held` goes over, as a sentence with numbers. `active` counts jobs, where
/// jobs are to be counted.
fn exceeds(tenant: &TenantView, held: &Resources, asked: &Resources, active: Option<u64>) -> Option<String> {
    /// 10^9 bytes.
    const GB: u64 = 1_000_000_000;
    let quotas = &tenant.quotas;
    let limit = |quota: i64, unit: u64| Limit::from_quota(quota).times(unit);
    if let Some(active) = active
        && !Limit::from_quota(quotas.max_jobs).allows(active + 1)
    {
        return Some(format!("{} allows {} jobs at once: {active} admitted", tenant.plan, quotas.max_jobs));
    }
    let plain = |n: u64| n.to_string();
    let rows = [
        (
            limit(quotas.max_cpu_cores, 1000),
            held.cpu_milli,
            asked.cpu_milli,
            "CPU cores",
            cores as fn(u64) -> String,
        ),
        (limit(quotas.max_memory_gb, GB), held.memory_bytes, asked.memory_bytes, "GB of memory", gigabytes),
        (limit(quotas.max_gpus, 1), held.gpus, asked.gpus, "GPUs", plain),
        (limit(quotas.max_bandwidth_mbps, 1), held.bandwidth_mbps, asked.bandwidth_mbps, "Mbit/s", plain),
    ];
    for (limit, held, asked, what, write) in rows {
        if asked > 0 && !limit.allows(held.saturating_add(asked)) {
            let allowed = limit.at_most().map_or_else(|| limit.to_string(), write);
            let plan = &tenant.plan;
            return Some(match active {
                Some(_) => format!(
                    "{plan} allows {allowed} {what}: {} in use, this job asks for {}",
                    write(held),
                    write(asked)
                ),
                None => format!("{plan} allows {allowed} {what}: this job asks for {}", write(asked)),
            });
        }
    }
    if active.is_none() && quotas.max_jobs == 0 {
        return Some(format!("{} allows 0 jobs at once", tenant.plan));
    }
    None
}

fn sizes(asked: &Resources) -> String {
    let mut parts =
        vec![format!("{} CPU", cores(asked.cpu_milli)), format!("{} GB", gigabytes(asked.memory_bytes))];
    if asked.gpus > 0 {
        parts.push(format!("{} GPUs", asked.gpus));
    }
    if asked.ephemeral_bytes > 0 {
        parts.push(format!("{} GB of disk", gigabytes(asked.ephemeral_bytes)));
    }
    parts.join(", ")
}

fn fits_nowhere(workers: &[&WorkerView], asked: &Resources) -> String {
    let largest = workers.iter().max_by_key(|w| (w.capacity.cpu_milli, w.capacity.memory_bytes));
    let largest = largest
        .map_or_else(String::new, |w| format!("; the largest, {}, has {}", w.name, sizes(&w.capacity)));
    format!("asks for {}: no worker could ever hold it ({}){largest}", sizes(asked), workers.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api_types::Plans;

    fn tenant(name: &str, plan: &str) -> (String, TenantView) {
        let quotas =
            Plans::built_in().unwrap().get(plan).unwrap().effective(&crate::api_types::Quotas::default());
        let view = TenantView {
            name: name.to_owned(),
            plan: plan.to_owned(),
            closed: None,
            quotas,
            groups: vec![name.to_owned()],
            elastic: false,
        };
        (name.to_owned(), view)
    }

    fn cpu(cores: u64) -> Resources {
        Resources { cpu_milli: cores * 1000, memory_bytes: 1 << 20, ..Resources::default() }
    }

    fn worker(name: &str, group: &str, cores: u64) -> WorkerView {
        let capacity = Resources { cpu_milli: cores * 1000, memory_bytes: 64 << 30, ..Resources::default() };
        WorkerView {
            name: name.into(),
            group: group.into(),
            capacity,
            used: Resources::default(),
            open: true,
        }
    }

    fn job(uid: &str, tenant: &str, asked: Resources) -> JobView {
        JobView {
            uid: uid.to_owned(),
            created: Timestamp::UNIX_EPOCH,
            tenant: Some(tenant.to_owned()),
            asked: Ok(asked),
            group: None,
            on_quota: OnQuota::Queue,
            state: JobStanding::Waiting(1),
        }
    }

    fn verdict(decision: &Decision, uid: &str) -> Verdict {
        decision.verdicts.iter().find(|(u, _)| u == uid).map(|(_, v)| v.clone()).unwrap()
    }

    #[test]
    fn quotas_are_counted_with_numbers() {
        let tenants = HashMap::from([tenant("acme", "pro")]);
        let mut running = job("a", "acme", cpu(62));
        running.state = JobStanding::Active { reserved: Some("n1".into()) };
        let workers = vec![worker("n1", "acme", 64), worker("n2", "acme", 64)];
        let decision =
            decide(&tenants, workers, vec![running, job("b", "acme", cpu(4)), job("c", "acme", cpu(2))]);
        let sentence = "pro allows 64 CPU cores: 62 in use, this job asks for 4".to_owned();
        assert_eq!(verdict(&decision, "b"), Verdict::Wait(Reason::WaitingForQuota, sentence));
        let place = Admission { attempt: 1, group: "acme".into(), node: Some("n1".into()) };
        assert_eq!(
            verdict(&decision, "c"),
            Verdict::Admit(place),
            "a smaller one behind it passes, to the fuller node"
        );
        assert_eq!(decision.usage["acme"], Usage { queued: 1, active: 2, held: cpu(62) + cpu(2) });
    }

    #[test]
    fn what_can_never_run_is_refused_at_once() {
        let tenants = HashMap::from([tenant("acme", "free")]);
        let gpu = Resources { gpus: 1, ..cpu(1) };
        let decision = decide(
            &tenants,
            vec![worker("n1", "acme", 2)],
            vec![job("a", "acme", gpu), job("b", "acme", cpu(3))],
        );
        let sentence = "free allows 0 GPUs: this job asks for 1".to_owned();
        assert_eq!(verdict(&decision, "a"), Verdict::Reject(Reason::ExceedsQuota, sentence));
        assert!(
            matches!(verdict(&decision, "b"), Verdict::Reject(Reason::DoesNotFit, s) if s.contains("n1, has 2 CPU"))
        );
    }

    #[test]
    fn no_node_is_a_wait_and_a_foreign_node_is_none() {
        let tenants = HashMap::from([tenant("acme", "basic"), tenant("umbra", "basic")]);
        let decision = decide(&tenants, vec![worker("n1", "umbra", 8)], vec![job("a", "acme", cpu(1))]);
        assert!(matches!(verdict(&decision, "a"), Verdict::Wait(Reason::NoWorkers, _)));
    }

    #[test]
    fn reject_counts_the_queue_too() {
        let tenants = HashMap::from([tenant("acme", "free")]);
        let workers = vec![worker("n1", "acme", 4)];
        let mut jobs: Vec<_> = (0..6).map(|n| job(&n.to_string(), "acme", cpu(2))).collect();
        jobs[5].on_quota = OnQuota::Reject;
        let decision = decide(&tenants, workers, jobs);
        let sentence = "free allows 5 jobs at once: 5 admitted".to_owned();
        assert_eq!(verdict(&decision, "5"), Verdict::Reject(Reason::WaitingForQuota, sentence));
    }

    proptest! {
        /// Whatever is asked for: never over a quota, never more on a node than it has, and never on a foreign node.
        #[test]
        fn never_over(asks in proptest::collection::vec((0_u64..6, 0_usize..2, any::<bool>()), 0..40)) {
            let tenants = HashMap::from([tenant("a", "free"), tenant("b", "basic")]);
            let workers = vec![worker("a1", "a", 3), worker("b1", "b", 5), worker("b2", "b", 2)];
            let jobs: Vec<_> = asks.iter().enumerate().map(|(n, (cores, who, reject))| {
                let mut job = job(&n.to_string(), ["a", "b"][*who], cpu(*cores));
                job.on_quota = if *reject { OnQuota::Reject } else { OnQuota::Queue };
                job
            }).collect();
            let decision = decide(&tenants, workers.clone(), jobs.clone());
            let mut nodes: HashMap<String, Resources> = HashMap::new();
            for (uid, verdict) in &decision.verdicts {
                let Verdict::Admit(place) = verdict else { continue };
                let job = jobs.iter().find(|j| &j.uid == uid).unwrap();
                prop_assert_eq!(Some(&place.group), job.tenant.as_ref());
                *nodes.entry(place.node.clone().unwrap()).or_default() += job.asked.clone().unwrap();
            }
            for worker in &workers {
                let used = nodes.get(&worker.name).copied().unwrap_or_default();
                prop_assert!(used.fits(&worker.capacity), "{} holds {:?}", worker.name, used);
            }
            for (name, usage) in &decision.usage {
                let quotas = &tenants[name].quotas;
                prop_assert!(Limit::from_quota(quotas.max_jobs).allows(usage.active));
                prop_assert!(Limit::from_quota(quotas.max_cpu_cores).times(1000).allows(usage.held.cpu_milli));
            }
        }
    }
}
