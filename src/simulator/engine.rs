//! The scheduler's own core under virtual time: a trace goes in, and what becomes of each job comes out.
//!
//! The engine is to the [`Dispatcher`] what the scheduler and the job controller are on a cluster: it gives it
//! arrivals, starts and ends, and starts what it admits. It decides nothing itself. Time jumps from one event to the
//! next; all that happens at the same millisecond is decided upon together. What a cluster adds is left out: a pod
//! starts in the instant in which it is admitted, and a node never fails but as the trace says.
//!
//! A job is forgotten by the dispatcher when it has ended, so memory follows the jobs that wait and run.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};

use super::{
    accounting::{Accounting, Cause, Series, Waiting},
    cluster::Cluster,
    estimator::{Estimated, Estimator},
    trace::Work,
};
use crate::{
    api_types::{
        Reason,
        plan::{EffectiveQuotas, Limit},
        quota::QuotaDimension,
    },
    clock::ClockReading,
    domain::{
        admission::{Admission, Dispatcher, JobInput, JobState, TenantInput, Usage, Verdict},
        estimate::JobTimes,
        job_flow,
        resources::Resources,
        retry,
    },
};

/// Reasons taken after each decision, as by the scheduler.
const TOLD: usize = 250;

/// What became of all.
#[derive(Debug, Default)]
pub struct Run {
    /// By job, in the order of the trace.
    pub outcomes: Vec<Outcome>,
    /// Usage and waiting over time.
    pub series: Series,
    /// When the last thing happened, in milliseconds from the start.
    pub end: i64,
    /// Decisions made.
    pub decisions: u64,
    /// By number of the job, when those that were asked about were estimated to start.
    pub estimated: Vec<Estimated>,
}

/// What became of a job; times in milliseconds from the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// When its first attempt began.
    pub started: Option<i64>,
    /// When it ended.
    pub ended: Option<i64>,
    /// How.
    pub end: End,
}

impl Outcome {
    /// Whether it was refused.
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        matches!(self.end, End::Rejected(_))
    }
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It did not: it waits for what never comes.
    Waits,
    /// Well.
    Completed,
    /// Badly.
    Failed,
    /// At its own or its plan's limit of running time.
    TimedOut,
    /// It was refused.
    Rejected(Reason),
}

/// A job that waits or runs.
struct Live {
    uid: Arc<str>,
    /// The attempt that it waits for or makes.
    attempt: u32,
    /// How long the attempts before took.
    ran: i64,
    /// Since when this one runs, and in which pool (`None`: on its tenant's own workers).
    started: i64,
    pool: Option<usize>,
    /// When its last back-off ends.
    back: i64,
}

/// What the jobs have in common that the quotas see.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Shape {
    asked: Resources,
    group: Option<Arc<str>>,
    fresh: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// The attempt ends.
    End,
    /// The pause before a retry is over.
    Back,
}

struct Engine<'a> {
    cluster: &'a Cluster,
    jobs: &'a [Work],
    dispatcher: Dispatcher,
    namespaces: Vec<Arc<str>>,
    now: i64,
    /// The next job that arrives.
    next: usize,
    events: BinaryHeap<Reverse<(i64, Event, usize)>>,
    live: HashMap<usize, Live>,
    /// By tenant.
    waiting: Vec<HashMap<Shape, u64>>,
    accounting: Accounting,
    /// Where starts are to be estimated.
    estimator: Option<Estimator>,
    run: Run,
}

/// Runs a trace on a cluster to its end. `plans` are the plans' names in the order in which the series
/// has them, `interval` is that of the series in milliseconds.
#[must_use]
pub fn run(cluster: &Cluster, plans: &[&str], jobs: &[Work], interval: i64) -> Run {
    play(Engine::new(cluster, plans, jobs, interval))
}

/// The same, and estimates when jobs start, by number, as soon as they wait.
#[must_use]
pub fn run_with_estimates(
    cluster: &Cluster,
    plans: &[&str],
    jobs: &[Work],
    interval: i64,
    estimator: Estimator,
) -> Run {
    let estimator = Some(estimator);
    play(Engine { estimator, ..Engine::new(cluster, plans, jobs, interval) })
}

fn play(mut engine: Engine<'_>) -> Run {
    while let Some(next) = engine.next_time() {
        while engine.accounting.next_sample() <= next {
            engine.sample();
        }
        engine.now = next;
        engine.step();
    }
    let Engine { accounting, mut run, now, .. } = engine;
    run.series = accounting.finish(now);
    run.end = now;
    run
}

fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX)
}

impl<'a> Engine<'a> {
    fn new(cluster: &'a Cluster, plans: &[&str], jobs: &'a [Work], interval: i64) -> Self {
        let mut dispatcher = Dispatcher::new(cluster.elastic.iter().map(String::as_str));
        dispatcher.tick(ClockReading::virtual_time(at(0)));
        for (name, view) in &cluster.workers {
            dispatcher.set_worker(name, Some(view.clone()));
        }
        for tenant in &cluster.tenants {
            dispatcher.set_tenant(&tenant.name, Some(tenant.clone()));
        }
        Self {
            cluster,
            jobs,
            dispatcher,
            namespaces: cluster.tenants.iter().map(|tenant| tenant.name.as_str().into()).collect(),
            now: 0,
            next: 0,
            events: BinaryHeap::new(),
            live: HashMap::new(),
            waiting: vec![HashMap::new(); cluster.tenants.len()],
            accounting: Accounting::new(cluster, plans, interval),
            estimator: None,
            run: Run {
                outcomes: vec![Outcome { started: None, ended: None, end: End::Waits }; jobs.len()],
                ..Run::default()
            },
        }
    }

    fn next_time(&self) -> Option<i64> {
        let arrival = self.jobs.get(self.next).map(|job| job.submitted);
        let event = self.events.peek().map(|Reverse((at, ..))| *at);
        // While no job waits, none is to be assessed again.
        let now = ClockReading::virtual_time(at(self.now));
        let wake = self.dispatcher.next_wakeup(now).filter(|_| !self.live.is_empty());
        // The next millisecond, where it comes between two.
        let wake = wake.map(|wait| {
            let millis = wait.as_nanos().div_euclid(1_000_000) + i128::from(wait.as_nanos() % 1_000_000 != 0);
            self.now.saturating_add(i64::try_from(millis).unwrap_or(i64::MAX))
        });
        [arrival, event, wake].into_iter().flatten().min().map(|next| next.max(self.now))
    }

    /// Gives all events up to now to the dispatcher, and starts what it admits.
    fn step(&mut self) {
        self.dispatcher.tick(ClockReading::virtual_time(at(self.now)));
        while let Some(Reverse((_, event, number))) =
            self.events.peek().copied().filter(|Reverse((at, ..))| *at <= self.now)
        {
            self.events.pop();
            match event {
                Event::End => self.attempt_ended(number),
                Event::Back => self.wait(number),
            }
        }
        let first = self.next;
        while self.jobs.get(self.next).is_some_and(|job| job.submitted <= self.now) {
            let uid = format!("{:09}", self.next).into();
            self.live.insert(self.next, Live { uid, attempt: 1, ran: 0, started: 0, pool: None, back: 0 });
            self.wait(self.next);
            self.next += 1;
        }
        self.run.decisions += 1;
        for uid in self.dispatcher.decide().decided {
            if let Ok(number) = uid.parse() {
                self.decided(number);
            }
        }
        self.dispatcher.take_reason_updates(TOLD);
        if let Some(estimator) = &mut self.estimator {
            let waits = (first..self.next).filter(|number| {
                self.live.contains_key(number) && self.run.outcomes[*number].started.is_none()
            });
            let now = ClockReading::virtual_time(at(self.now));
            for number in waits {
                self.run.estimated.extend(estimator.ask(
                    number,
                    &self.live[&number].uid,
                    &self.dispatcher,
                    now,
                ));
            }
        }
    }

    fn decided(&mut self, number: usize) {
        let Some(live) = self.live.get(&number) else { return };
        if let Some(admission) = self.dispatcher.claim(&live.uid, live.attempt) {
            self.start(number, &admission);
        } else if let Some(Verdict::Reject(reason, _)) = self.dispatcher.verdict(&live.uid) {
            self.count_waiting(number, false);
            self.end(number, End::Rejected(reason));
        }
    }

    fn start(&mut self, number: usize, admission: &Admission) {
        self.count_waiting(number, false);
        let (job, now) = (&self.jobs[number], self.now);
        let Some(live) = self.live.get_mut(&number) else { return };
        live.started = now;
        live.pool = self.cluster.pools.iter().position(|pool| **pool == *admission.group);
        self.accounting.change(job.tenant, live.pool, |held| held + job.asked, now);
        self.run.outcomes[number].started.get_or_insert(now);
        let ends = now.saturating_add(runs(job, &self.cluster.tenants[job.tenant].quotas, live.ran).0);
        self.events.push(Reverse((ends, Event::End, number)));
        let (uid, namespace) = (Arc::clone(&live.uid), &self.namespaces[job.tenant]);
        // The pod has a node at once.
        self.dispatcher.set_pod(&uid, admission.node.as_deref().map(|node| (node, job.asked)));
        if live.attempt == 1 {
            self.dispatcher.charge(namespace, &uid, at(now));
        }
        self.update(number, JobState::Active { group: Some(admission.group.as_str().into()), bound: true });
    }

    fn attempt_ended(&mut self, number: usize) {
        let (job, now) = (&self.jobs[number], self.now);
        let Some(live) = self.live.get_mut(&number) else { return };
        let (_, in_time) = runs(job, &self.cluster.tenants[job.tenant].quotas, live.ran);
        live.ran += now - live.started;
        self.accounting.change(job.tenant, live.pool, |held| held - job.asked, now);
        self.dispatcher.set_pod(&live.uid, None);
        if live.attempt == 1 {
            self.dispatcher.finalizer_removed(&self.namespaces[job.tenant], &live.uid);
        }
        if !in_time {
            self.end(number, End::TimedOut);
        } else if live.attempt <= job.retries {
            let pause = retry::backoff(&live.uid, live.attempt);
            live.attempt += 1;
            let back = now.saturating_add(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX));
            live.back = back;
            self.events.push(Reverse((back, Event::Back, number)));
            self.update(number, JobState::BackingOff);
        } else {
            self.end(number, if job.fails { End::Failed } else { End::Completed });
        }
    }

    fn wait(&mut self, number: usize) {
        self.count_waiting(number, true);
        let attempt = self.live.get(&number).map_or(1, |live| live.attempt);
        self.update(number, JobState::Waiting(attempt));
    }

    fn end(&mut self, number: usize, end: End) {
        let outcome = &mut self.run.outcomes[number];
        (outcome.ended, outcome.end) = (Some(self.now), end);
        let outcome = *outcome;
        if let Some(live) = self.live.remove(&number) {
            self.dispatcher.remove_job(&live.uid);
            if let Some(estimator) = self.estimator.as_mut().filter(|_| !outcome.is_rejected()) {
                let namespace = &self.namespaces[self.jobs[number].tenant];
                estimator.ended(namespace, &live.uid, live.attempt, at(live.started), at(self.now));
            }
        }
    }

    fn update(&mut self, number: usize, state: JobState) {
        let (Some(live), job) = (self.live.get(&number), &self.jobs[number]) else { return };
        let input = JobInput {
            uid: Arc::clone(&live.uid),
            namespace: Arc::clone(&self.namespaces[job.tenant]),
            created: at(job.submitted),
            queue: job.queue,
            priority: job.priority,
            asked: Ok(job.asked),
            group: job.group.clone(),
            on_quota: job.on_quota,
            state,
            // An attempt that is lost with its node is no retry.
            charged_retry: false,
            reported: None,
        };
        if let Some(estimator) = &mut self.estimator {
            let times = JobTimes {
                kinds: vec![Estimator::kind(&self.namespaces[job.tenant])],
                timeout_seconds: job.timeout_seconds,
                ran_before: SignedDuration::from_millis(live.ran),
                started: matches!(input.state, JobState::Active { .. }).then(|| at(live.started)),
                not_before: (input.state == JobState::BackingOff).then(|| at(live.back)),
                next_attempt: (live.attempt, false),
                pod: None,
            };
            estimator.outlook.set(&input, times);
        }
        self.dispatcher.set_job(input);
    }

    // --- what jobs wait for

    fn count_waiting(&mut self, number: usize, waits: bool) {
        let job = &self.jobs[number];
        let fresh = self.live.get(&number).is_some_and(|live| live.attempt == 1);
        let shape = Shape { asked: job.asked, group: job.group.clone(), fresh };
        let counts = &mut self.waiting[job.tenant];
        if waits {
            *counts.entry(shape).or_default() += 1;
        } else if let Some(count) = counts.get_mut(&shape) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&shape);
            }
        }
    }

    fn sample(&mut self) {
        let now = self.accounting.next_sample();
        self.dispatcher.tick(ClockReading::virtual_time(at(now)));
        let tenants: Vec<Waiting> = self
            .cluster
            .tenants
            .iter()
            .zip(&self.waiting)
            .map(|(tenant, waiting)| {
                let snapshot =
                    (!waiting.is_empty()).then(|| self.dispatcher.usage_snapshot(&tenant.name)).flatten();
                snapshot.map_or_else(Waiting::default, |snapshot| {
                    self.waits_for(tenant, waiting, &snapshot.usage, snapshot.started)
                })
            })
            .collect();
        self.accounting.sample(now, &tenants, &self.dispatcher.waiting());
    }

    fn waits_for(
        &self,
        tenant: &TenantInput,
        waiting: &HashMap<Shape, u64>,
        usage: &Usage,
        started: u64,
    ) -> Waiting {
        let hour = Limit::from_quota(tenant.quotas.max_jobs_per_hour).allows(started + 1);
        let mut cause = Cause::Quota;
        let mut pools = Vec::new();
        for shape in waiting.keys() {
            if shape.fresh && !hour {
                cause = if cause == Cause::Quota { Cause::Hour } else { cause };
            } else if within(&tenant.quotas, usage, &shape.asked) {
                cause = Cause::Room;
                let may_use = |pool: &str| shape.group.as_deref().is_none_or(|group| group == pool);
                let listed = tenant.groups.iter().filter(|group| may_use(group));
                pools.extend(
                    listed.filter_map(|group| self.cluster.pools.iter().position(|pool| **pool == **group)),
                );
            }
        }
        Waiting { cause: Some(cause), pools }
    }
}

/// How long an attempt runs after those before took `ran` milliseconds, and whether it is let to its end.
fn runs(job: &Work, quotas: &EffectiveQuotas, ran: i64) -> (i64, bool) {
    let limit = job_flow::running_limit(job.timeout_seconds, Limit::from_quota(quotas.job_timeout_minutes));
    let left =
        limit.map(|limit| i64::try_from(limit.as_millis()).unwrap_or(i64::MAX).saturating_sub(ran).max(0));
    match left.filter(|left| *left < job.millis) {
        Some(left) => (left, false),
        None => (job.millis, true),
    }
}

/// Whether a job keeps within its tenant's quotas on top of what is in use.
fn within(quotas: &EffectiveQuotas, usage: &Usage, asked: &Resources) -> bool {
    let then = usage.held + *asked;
    let allows = |of: QuotaDimension| match (asked.amount(of), then.amount(of)) {
        (Some(1..), Some(then)) => of.limit(quotas).allows(then),
        _ => true,
    };
    Limit::from_quota(quotas.max_jobs).allows(usage.active + 1) && QuotaDimension::all().all(allows)
}
