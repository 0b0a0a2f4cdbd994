//! A cluster in virtual time: jobs that last, tenants and nodes, judged at every arrival and every end.
//!
//! After each decision it is checked that no node and no quota is over, and that nothing waits that had room.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use super::{Decision, JobStanding, JobView, Memory, TenantView, Verdict, WorkerView, decide};
use crate::{
    api_types::{
        Reason,
        job::{OnQuota, Priority, Queue},
        plan::EffectiveQuotas,
    },
    domain::resources::Resources,
};

pub(super) const POOL: &str = "pool.shared";

#[derive(Default)]
pub(super) struct World {
    pub(super) tenants: HashMap<String, TenantView>,
    workers: Vec<WorkerView>,
    pub(super) jobs: Vec<Job>,
    memory: Memory,
    pub(super) now: i64,
}

pub(super) struct Job {
    view: JobView,
    submitted: i64,
    seconds: i64,
    node: Option<String>,
    pub(super) started: Option<i64>,
}

pub(super) fn unlimited() -> EffectiveQuotas {
    EffectiveQuotas {
        max_jobs: -1,
        max_queued_jobs: -1,
        max_cpu_cores: -1,
        max_memory_gb: -1,
        max_gpus: -1,
        max_bandwidth_mbps: -1,
        ..EffectiveQuotas::default()
    }
}

pub(super) fn cpu(cores: u64) -> Resources {
    Resources { cpu_milli: cores * 1000, memory_bytes: cores << 30, ..Resources::default() }
}

impl World {
    /// A tenant that shares the pool, without quotas.
    pub(super) fn tenant(&mut self, name: &str, weight: u32) -> &mut TenantView {
        self.tenants.entry(name.to_owned()).or_insert(TenantView {
            name: name.to_owned(),
            plan: "pro".to_owned(),
            closed: None,
            quotas: unlimited(),
            weight,
            groups: vec![name.to_owned(), POOL.to_owned()],
            elastic: false,
        })
    }

    pub(super) fn workers(&mut self, group: &str, count: usize, cores: u64) {
        for n in 0..count {
            self.workers.push(WorkerView {
                name: format!("{group}-{n}"),
                group: group.to_owned(),
                capacity: cpu(cores),
                used: Resources::default(),
                open: true,
            });
        }
    }

    pub(super) fn submit(&mut self, at: i64, tenant: &str, cores: u64, seconds: i64) -> &mut JobView {
        let view = JobView {
            uid: format!("{:06}", self.jobs.len()),
            created: Timestamp::from_second(at).unwrap(),
            queue: Queue::Default,
            priority: Priority::Medium,
            tenant: Some(tenant.to_owned()),
            asked: Ok(cpu(cores)),
            group: None,
            on_quota: OnQuota::Queue,
            state: JobStanding::Waiting(1),
        };
        self.jobs.push(Job { view, submitted: at, seconds, node: None, started: None });
        &mut self.jobs.last_mut().unwrap().view
    }

    /// Lets time pass, and returns at `end` or when `until` says so after a decision.
    pub(super) fn run(&mut self, end: i64, mut until: impl FnMut(&Self) -> bool) {
        while self.now <= end {
            self.decide();
            if until(self) {
                return;
            }
            let times = self.jobs.iter().map(|job| match job.started {
                None => job.submitted,
                Some(at) => at + job.seconds,
            });
            let Some(next) = times.filter(|at| *at > self.now).min() else { return };
            self.now = next;
        }
        self.now = end;
    }

    pub(super) fn running(&self, tenant: &str) -> usize {
        self.jobs.iter().filter(|job| job.is_of(tenant) && job.runs(self.now)).count()
    }

    /// Core seconds that a tenant got in a span of time.
    pub(super) fn service(&self, tenant: &str, from: i64, to: i64) -> f64 {
        let one = |job: &Job| {
            let Some(started) = job.started.filter(|_| job.is_of(tenant)) else { return 0 };
            let seconds = (started + job.seconds).min(to) - started.max(from);
            seconds.max(0) * i64::try_from(job.asked().cpu_milli / 1000).unwrap()
        };
        self.jobs.iter().map(one).sum::<i64>() as f64
    }

    /// Jain's index of the service by weight: 1 where everybody gets the same.
    pub(super) fn jain(&self, from: i64, to: i64) -> f64 {
        let by_weight = |tenant: &TenantView| self.service(&tenant.name, from, to) / f64::from(tenant.weight);
        let all: Vec<f64> = self.tenants.values().map(by_weight).collect();
        let (sum, squares) = (all.iter().sum::<f64>(), all.iter().map(|x| x * x).sum::<f64>());
        sum * sum / (all.len() as f64 * squares)
    }

    fn used(&self) -> Vec<WorkerView> {
        let mut workers = self.workers.clone();
        let numbers: HashMap<String, usize> =
            workers.iter().enumerate().map(|(n, w)| (w.name.clone(), n)).collect();
        for job in self.jobs.iter().filter(|job| job.runs(self.now)) {
            workers[numbers[job.node.as_ref().unwrap()]].used += job.asked();
        }
        workers
    }

    fn decide(&mut self) {
        let now = self.now;
        let open = self.jobs.iter().filter(|job| job.submitted <= now && !job.has_ended(now));
        let views = open.map(|job| job.view.clone()).collect();
        let memory = std::mem::take(&mut self.memory);
        let decision =
            decide(&self.tenants, self.used(), views, memory, Timestamp::from_second(now).unwrap());
        for (uid, verdict) in &decision.verdicts {
            if let Verdict::Admit(place) = verdict {
                let job = &mut self.jobs[uid.parse::<usize>().unwrap()];
                job.started = Some(now);
                job.node.clone_from(&place.node);
                // The pod is bound at once: `used` counts it, and no reservation.
                job.view.state = JobStanding::Active { group: Some(place.group.clone()), reserved: None };
            }
        }
        self.check(&decision);
        self.memory = decision.memory;
    }

    fn check(&self, decision: &Decision) {
        let workers = self.used();
        for worker in &workers {
            assert!(worker.used.fits(&worker.capacity), "{} is over: {:?}", worker.name, worker.used);
        }
        for (name, usage) in &decision.usage {
            let quotas = &self.tenants[name].quotas;
            assert!(quotas.max_jobs < 0 || usage.active <= quotas.max_jobs as u64, "{name}: {usage:?}");
            let cores = quotas.max_cpu_cores;
            assert!(cores < 0 || usage.held.cpu_milli <= cores as u64 * 1000, "{name}: {usage:?}");
        }
        let waiting = || decision.verdicts.iter().filter(|(_, verdict)| matches!(verdict, Verdict::Wait(..)));
        let kept: BTreeSet<&str> =
            waiting().filter_map(|(uid, _)| decision.memory.skipped.node(uid)).collect();
        let mut seen = BTreeSet::new();
        for (uid, verdict) in waiting() {
            let Verdict::Wait(reason, _) = verdict else { continue };
            let job = &self.jobs[uid.parse::<usize>().unwrap()];
            let tenant = &self.tenants[job.view.tenant.as_ref().unwrap()];
            if *reason != Reason::WaitingForCapacity || !seen.insert((&tenant.name, job.asked().cpu_milli)) {
                continue;
            }
            let idle = workers.iter().find(|w| {
                tenant.groups.contains(&w.group)
                    && !kept.contains(w.name.as_str())
                    && job.asked().fits(&(w.capacity - w.used))
            });
            assert!(idle.is_none(), "{uid} of {} waits beside {idle:?}", tenant.name);
        }
    }
}

impl Job {
    pub(super) fn is_of(&self, tenant: &str) -> bool {
        self.view.tenant.as_deref() == Some(tenant)
    }

    fn asked(&self) -> Resources {
        self.view.asked.clone().unwrap()
    }

    fn has_ended(&self, now: i64) -> bool {
        self.started.is_some_and(|at| at + self.seconds <= now)
    }

    fn runs(&self, now: i64) -> bool {
        self.started.is_some() && !self.has_ended(now)
    }
}
