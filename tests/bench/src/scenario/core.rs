//! The scheduler's core by itself: how long a decision takes, from a thousand waiting jobs to a million.
//!
//! No cluster and no IO: a `Dispatcher` gets the events that the operator would deliver. All tenants are backlogged, a
//! tenth as many as jobs, and the shared pool is full, which is when deciding is the most work: whoever gets the room
//! that becomes free has to be found among all waiting jobs. A *wake-up* is one event and the scheduling cycle after
//! it; the clock advances by a second between two events, so that the order of the tenants changes each time.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use crofter::{
    api_types::{JobPhase, plan::EffectiveQuotas},
    clock::ClockReading,
    domain::{
        admission::{Dispatcher, JobInput, JobState, TenantInput, Verdict, WorkerInput},
        resources::Resources,
    },
};
use jiff::Timestamp;
use serde::Serialize;

use super::Terms;
use crate::{load::scaled, stats::Quantiles};

/// Waiting jobs at full size.
const SIZES: [usize; 4] = [1_000, 10_000, 100_000, 1_000_000];
/// Events of each kind.
const EVENTS: usize = 200;
/// Arrivals in a burst.
const BURST: usize = 100;
/// Cores of each node of the pool.
const NODE_CORES: u64 = 16;
/// Wanted of a wake-up at 100,000 waiting jobs, at most.
const WANTED_MS: f64 = 5.0;
const POOL: &str = "pool.shared";

/// What waiting jobs ask for.
#[derive(Clone, Copy, Debug, Serialize)]
enum Load {
    /// All the same: one core.
    Equal,
    /// One, two or four cores.
    Mixed,
    /// About a thousand sizes.
    Distinct,
}

/// What was measured with a number of jobs, in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub struct Growth {
    load: Load,
    waiting: usize,
    tenants: usize,
    nodes: usize,
    /// Delivery of all objects after a restart.
    loaded: f64,
    /// The first decision.
    first: f64,
    /// Wake-ups by the end of one job.
    one_ends: Quantiles,
    /// Wake-ups by the start of the job that was admitted for it.
    one_starts: Quantiles,
    /// Wake-ups by a hundred new jobs at once.
    burst: Quantiles,
}

/// Measures all sizes, and says so as it goes.
///
/// # Errors
/// When the results can't be written.
pub fn run(terms: &Terms) -> anyhow::Result<()> {
    let mut rows = Vec::new();
    print!(
        "\ndecisions of the core, in milliseconds (wanted of a wake-up at 100,000: at most {WANTED_MS})\n{}",
        head()
    );
    for load in [Load::Equal, Load::Mixed, Load::Distinct] {
        for size in SIZES {
            let growth = measure(load, scaled(size, terms.scale, 100));
            print!("{}", line(&growth));
            rows.push(growth);
        }
    }
    fs::create_dir_all(&terms.out).with_context(|| format!("making {}", terms.out.display()))?;
    let path = terms.out.join("core.json");
    fs::write(&path, serde_json::to_vec_pretty(&rows)?).with_context(|| format!("writing {}", path.display()))
}

fn head() -> String {
    let names = [
        "load",
        "waiting",
        "tenants",
        "loaded",
        "first",
        "one ends p50",
        "p99",
        "one starts p50",
        "p99",
        "100 come p50",
        "p99",
    ];
    names.iter().fold(String::from(" "), |line, name| line + &format!(" {name:>14}")) + "\n"
}

fn line(growth: &Growth) -> String {
    let mut line =
        format!("  {:>14} {:>14} {:>14}", format!("{:?}", growth.load), growth.waiting, growth.tenants);
    let Growth { one_ends, one_starts, burst, .. } = growth;
    for value in [
        growth.loaded,
        growth.first,
        one_ends.p50,
        one_ends.p99,
        one_starts.p50,
        one_starts.p99,
        burst.p50,
        burst.p99,
    ] {
        // Writing into a String can't fail.
        let _ = write!(line, " {value:>14.3}");
    }
    line + "\n"
}

fn measure(load: Load, waiting: usize) -> Growth {
    let tenants = (waiting / 10).max(1);
    let nodes = (waiting / 100).max(1);
    let begun = Instant::now();
    let mut world = World::new(load, waiting, tenants, nodes);
    let loaded = millis(begun.elapsed());
    let first = world.decide();
    world.dispatcher.take_reason_updates(usize::MAX / 64);
    let mut growth = Growth {
        load,
        waiting,
        tenants,
        nodes,
        loaded,
        first: millis(first),
        one_ends: Quantiles::default(),
        one_starts: Quantiles::default(),
        burst: Quantiles::default(),
    };
    let (mut ends, mut starts, mut bursts) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..EVENTS {
        world.now += 1;
        ends.push(millis(world.end_one()));
        starts.push(millis(world.start_admitted()));
    }
    for _ in 0..EVENTS / 10 {
        world.now += 1;
        bursts.push(millis(world.burst()));
    }
    (growth.one_ends, growth.one_starts, growth.burst) =
        (Quantiles::of(ends), Quantiles::of(starts), Quantiles::of(bursts));
    growth
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// A dispatcher, and the jobs that run.
struct World {
    dispatcher: Dispatcher,
    load: Load,
    tenants: usize,
    now: i64,
    jobs: usize,
    running: Vec<(JobInput, String)>,
    admitted: Vec<Arc<str>>,
    waiting: HashMap<Arc<str>, JobInput>,
    random: fastrand::Rng,
}

impl World {
    fn new(load: Load, waiting: usize, tenants: usize, nodes: usize) -> Self {
        let mut world = Self {
            dispatcher: Dispatcher::default(),
            load,
            tenants,
            now: 0,
            jobs: 0,
            running: Vec::new(),
            admitted: Vec::new(),
            waiting: HashMap::new(),
            random: fastrand::Rng::with_seed(1),
        };
        (0..tenants).for_each(|number| world.dispatcher.set_tenant(&namespace(number), Some(tenant(number))));
        let capacity = cores(NODE_CORES * 1000);
        for node in 0..nodes {
            let view = WorkerInput { group: POOL.to_owned(), capacity, open: true };
            world.dispatcher.set_worker(&format!("node-{node}"), Some(view));
            for _ in 0..NODE_CORES {
                let job = world.job(cores(1000));
                world.start(job, &format!("node-{node}"));
            }
        }
        (0..waiting).for_each(|_| world.submit());
        world.now += 1;
        world
    }

    fn job(&mut self, asked: Resources) -> JobInput {
        self.jobs += 1;
        JobInput {
            uid: format!("{:08}", self.jobs).into(),
            namespace: namespace(self.jobs % self.tenants).into(),
            created: at(self.now),
            asked: Ok(asked),
            ..JobInput::default()
        }
    }

    fn submit(&mut self) {
        let asked = match self.load {
            Load::Equal => cores(1000),
            Load::Mixed => cores([1000, 1000, 2000, 4000][self.random.usize(0..4)]),
            Load::Distinct => cores(500 + self.jobs as u64 % 500 + 1000 * self.random.u64(0..2)),
        };
        let job = self.job(asked);
        self.waiting.insert(Arc::clone(&job.uid), job.clone());
        self.dispatcher.set_job(job);
    }

    fn start(&mut self, mut job: JobInput, node: &str) {
        if let Ok(asked) = &job.asked {
            self.dispatcher.set_pod(&job.uid, Some((node, *asked)));
        }
        job.state = JobState::Active { group: Some(POOL.into()), bound: true };
        self.dispatcher.set_job(job.clone());
        self.running.push((job, node.to_owned()));
    }

    fn decide(&mut self) -> Duration {
        let begun = Instant::now();
        self.dispatcher.tick(ClockReading::virtual_time(at(self.now)));
        self.admitted.extend(self.dispatcher.decide().decided);
        begun.elapsed()
    }

    fn end_one(&mut self) -> Duration {
        let begun = Instant::now();
        let (mut job, _) = self.running.swap_remove(self.random.usize(0..self.running.len()));
        self.dispatcher.set_pod(&job.uid, None);
        job.state = JobState::Ended(JobPhase::Completed);
        self.dispatcher.set_job(job);
        self.decide();
        begun.elapsed()
    }

    fn start_admitted(&mut self) -> Duration {
        let begun = Instant::now();
        for uid in std::mem::take(&mut self.admitted) {
            let Some(Verdict::Admit(admission)) = self.dispatcher.verdict(&uid) else { continue };
            self.dispatcher.claim(&uid, admission.attempt);
            if let (Some(job), Some(node)) = (self.waiting.remove(&uid), admission.node) {
                self.start(job, &node);
            }
        }
        self.decide();
        begun.elapsed()
    }

    fn burst(&mut self) -> Duration {
        let begun = Instant::now();
        (0..BURST).for_each(|_| self.submit());
        self.decide();
        begun.elapsed()
    }
}

fn namespace(tenant: usize) -> String {
    format!("tenant-{tenant:06}")
}

fn tenant(number: usize) -> TenantInput {
    TenantInput {
        name: format!("{number:06}"),
        plan: "pro".to_owned(),
        closed: None,
        quotas: EffectiveQuotas::unlimited(),
        weight: [1, 2, 4, 8][number % 4],
        groups: vec![namespace(number), POOL.to_owned()],
        elastic: false,
    }
}

fn cores(milli: u64) -> Resources {
    Resources { cpu_milli: milli, memory_bytes: milli << 20, ..Resources::default() }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_used_again_at_every_event() {
        for load in [Load::Equal, Load::Mixed, Load::Distinct] {
            let mut world = World::new(load, 100, 10, 1);
            world.decide();
            assert!(world.admitted.is_empty(), "{load:?}: the pool is full");
            for _ in 0..32 {
                world.now += 1;
                world.end_one();
                world.start_admitted();
            }
            let used: u64 =
                world.running.iter().filter_map(|(job, _)| Some(job.asked.as_ref().ok()?.cpu_milli)).sum();
            assert!((NODE_CORES * 1000 - used) < 4000, "{load:?}: {used} of {NODE_CORES} cores are used");
        }
    }
}
