//! A cluster in virtual time: tenants, nodes, and jobs that run for a while, with a decision at every arrival and end.
//!
//! After each decision it checks that no node and no quota is exceeded, and that no job waits that has room: by counts of its
//! own, not by those of the dispatcher.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;

use super::{Dispatcher, JobInput, JobState, TenantInput, Verdict, WorkerInput};
use crate::{
    api_types::{JobPhase, Reason, plan::EffectiveQuotas},
    clock::ClockReading,
    domain::resources::Resources,
};

pub(super) const POOL: &str = "pool.shared";

#[derive(Default)]
pub(super) struct World {
    pub(super) tenants: BTreeMap<String, TenantInput>,
    workers: BTreeMap<String, WorkerInput>,
    pub(super) jobs: Vec<Job>,
    pub(super) dispatcher: Dispatcher,
    pub(super) now: i64,
    /// Jobs that are to come.
    arrivals: BTreeSet<(i64, usize)>,
    /// Ends of running jobs.
    ends: BTreeSet<(i64, usize)>,
    /// Tenants of which something was started by the last decision.
    starting: BTreeSet<Arc<str>>,
}

pub(super) struct Job {
    pub(super) input: JobInput,
    seconds: i64,
    pub(super) node: Option<String>,
    pub(super) started: Option<i64>,
    pub(super) rejected: bool,
}

pub(super) fn cpu(cores: u64) -> Resources {
    Resources { cpu_milli: cores * 1000, memory_bytes: cores << 30, ..Resources::default() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

impl World {
    /// A tenant that shares the pool, without quotas.
    pub(super) fn tenant(&mut self, name: &str, weight: u32) -> &mut TenantInput {
        self.tenants.entry(name.to_owned()).or_insert(TenantInput {
            name: name.to_owned(),
            plan: "pro".to_owned(),
            closed: None,
            quotas: EffectiveQuotas::unlimited(),
            weight,
            groups: vec![name.to_owned(), POOL.to_owned()],
            elastic: false,
        })
    }

    pub(super) fn workers(&mut self, group: &str, count: usize, cores: u64) {
        for n in 0..count {
            let input = WorkerInput { group: group.to_owned(), capacity: cpu(cores), open: true };
            self.workers.insert(format!("{group}-{n}"), input);
        }
    }

    pub(super) fn submit(&mut self, at: i64, tenant: &str, cores: u64, seconds: i64) -> &mut JobInput {
        let input = JobInput {
            uid: format!("{:06}", self.jobs.len()).into(),
            namespace: tenant.into(),
            created: self::at(at),
            asked: Ok(cpu(cores)),
            ..JobInput::default()
        };
        self.arrivals.insert((at, self.jobs.len()));
        self.jobs.push(Job { input, seconds, node: None, started: None, rejected: false });
        &mut self.jobs.last_mut().unwrap().input
    }

    /// Lets time pass, and returns at `end` or when `until` says so after a decision.
    pub(super) fn run(&mut self, end: i64, mut until: impl FnMut(&Self) -> bool) {
        while self.now <= end {
            self.decide();
            if until(self) {
                return;
            }
            let reading = ClockReading::virtual_time(at(self.now));
            let next = [
                self.arrivals.first().map(|(at, _)| *at),
                self.ends.first().map(|(at, _)| *at),
                self.dispatcher.next_wakeup(reading).map(|wait| self.now + wait.as_secs()),
            ];
            let Some(next) = next.into_iter().flatten().min() else { break };
            self.now = next.max(self.now);
        }
        self.now = end;
    }

    /// Replaces the dispatcher by a new one, which gets the present objects as inputs.
    pub(super) fn restart(&mut self) {
        self.dispatcher = Dispatcher::default();
        self.dispatcher.tick(ClockReading::virtual_time(at(self.now)));
        for job in self.jobs.iter().filter(|job| job.input.created <= at(self.now) && !job.rejected) {
            let node = job.node.as_deref().filter(|_| job.runs(self.now));
            self.dispatcher.set_pod(&job.input.uid, node.map(|node| (node, job.asked())));
            self.dispatcher.set_job(job.input.clone());
        }
    }

    /// Opens or closes a worker to new pods.
    pub(super) fn open(&mut self, worker: &str, open: bool) {
        self.workers.get_mut(worker).unwrap().open = open;
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
        let by_weight =
            |tenant: &TenantInput| self.service(&tenant.name, from, to) / f64::from(tenant.weight);
        let all: Vec<f64> = self.tenants.values().map(by_weight).collect();
        let (sum, squares) = (all.iter().sum::<f64>(), all.iter().map(|x| x * x).sum::<f64>());
        sum * sum / (all.len() as f64 * squares)
    }

    /// Gives all changes to the dispatcher, decides, and starts what was admitted.
    fn decide(&mut self) {
        let now = self.now;
        self.dispatcher.tick(ClockReading::virtual_time(at(now)));
        for (name, input) in &self.tenants {
            self.dispatcher.set_tenant(name, Some(input.clone()));
        }
        for (name, input) in &self.workers {
            self.dispatcher.set_worker(name, Some(input.clone()));
        }
        while let Some((_, number)) = self.ends.first().copied().filter(|(at, _)| *at <= now) {
            self.ends.pop_first();
            let job = &mut self.jobs[number];
            self.dispatcher.set_pod(&job.input.uid, None);
            job.input.state = JobState::Ended(JobPhase::Completed);
            self.dispatcher.set_job(job.input.clone());
        }
        while let Some((_, number)) = self.arrivals.first().copied().filter(|(at, _)| *at <= now) {
            self.arrivals.pop_first();
            self.dispatcher.set_job(self.jobs[number].input.clone());
        }
        self.starting.clear();
        for uid in self.dispatcher.decide().decided {
            let number: usize = uid.parse().unwrap();
            match self.dispatcher.verdict(&uid).unwrap() {
                Verdict::Admit(admission) => self.start(number, &admission),
                Verdict::Reject(..) => self.jobs[number].rejected = true,
                Verdict::Wait(..) => panic!("{uid} was decided to wait"),
            }
        }
        self.check();
    }

    fn start(&mut self, number: usize, admission: &super::Admission) {
        let (now, job) = (self.now, &mut self.jobs[number]);
        assert!(self.dispatcher.claim(&job.input.uid, 1).is_some());
        job.started = Some(now);
        self.starting.insert(Arc::clone(&job.input.namespace));
        job.node.clone_from(&admission.node);
        // The pod is bound at once.
        let node = admission.node.as_deref().map(|node| (node, job.input.asked.clone().unwrap()));
        self.dispatcher.set_pod(&job.input.uid, node);
        self.dispatcher.charge(&job.input.namespace, &job.input.uid, at(now));
        job.input.state = JobState::Active { group: Some(admission.group.as_str().into()), bound: true };
        self.dispatcher.set_job(job.input.clone());
        self.ends.insert((now + job.seconds, number));
    }

    fn check(&self) {
        let mut free: HashMap<&str, Resources> =
            self.workers.iter().map(|(name, input)| (name.as_str(), input.capacity)).collect();
        let mut active: BTreeMap<&str, (u64, Resources)> = BTreeMap::new();
        for (_, number) in &self.ends {
            let job = &self.jobs[*number];
            if let Some(node) = &job.node {
                let room = free.get_mut(node.as_str()).unwrap();
                assert!(job.asked().fits(room), "{node} is over");
                *room = *room - job.asked();
            }
            let sum = active.entry(&job.input.namespace).or_default();
            *sum = (sum.0 + 1, sum.1 + job.asked());
        }
        for (name, tenant) in &self.tenants {
            let (jobs, held) = active.get(name.as_str()).copied().unwrap_or_default();
            let started = self.starting.contains(name.as_str());
            assert!(!started || tenant.closed.is_none(), "{name}: started while closed");
            // A quota that is cut evicts nothing.
            let within = |used: u64, quota: i64| !started || quota < 0 || used <= quota as u64;
            assert!(within(jobs, tenant.quotas.max_jobs), "{name}: {jobs}");
            assert!(within(held.cpu_milli.div_ceil(1000), tenant.quotas.max_cpu_cores), "{name}: {held:?}");
            let usage_snapshot = self.dispatcher.usage_snapshot(name).unwrap();
            assert_eq!(
                (usage_snapshot.usage.active, usage_snapshot.usage.held),
                (jobs, held),
                "{name}: ledger and truth"
            );
        }
        self.check_waiting(&free);
    }

    fn check_waiting(&self, free: &HashMap<&str, Resources>) {
        let reserved = self.dispatcher.reserved_nodes();
        let mut seen = BTreeSet::new();
        let come = |job: &&Job| job.input.created <= at(self.now) && job.started.is_none() && !job.rejected;
        for job in self.jobs.iter().filter(come) {
            let name: &Arc<str> = &job.input.namespace;
            if !seen.insert((name, job.asked().cpu_milli)) {
                continue;
            }
            let verdict = self.dispatcher.current_verdict(&job.input.uid);
            let Some(Verdict::Wait(reason, _)) = &verdict else { panic!("{verdict:?} of {}", job.input.uid) };
            if *reason != Reason::WaitingForCapacity {
                continue;
            }
            let mut workers = self.workers.iter().filter(|(_, input)| input.open);
            let idle = workers.find(|(worker, input)| {
                self.tenants[&**name].groups.contains(&input.group)
                    && !reserved.contains(&worker.as_str())
                    && job.asked().fits(&free[worker.as_str()])
            });
            assert!(idle.is_none(), "{} of {name} waits while it has room on {idle:?}", job.input.uid);
        }
    }
}

impl Job {
    pub(super) fn is_of(&self, tenant: &str) -> bool {
        *self.input.namespace == *tenant
    }

    pub(super) fn asked(&self) -> Resources {
        self.input.asked.clone().unwrap()
    }

    fn runs(&self, now: i64) -> bool {
        self.started.is_some_and(|at| at + self.seconds > now)
    }
}
