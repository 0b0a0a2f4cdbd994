//! Contended: more work than room, of jobs of three sizes, in tenants of all plans.
//!
//! Each tenant has as many jobs as its plan's weight says, so that with a fair share all have work left almost until
//! the end. Service is what a watch sees: cores times the time from Running to the end of a pod, while every tenant
//! still has jobs that wait for a pod. The pool is small against what the API server can do: here room is what limits.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use anyhow::Context;
use crofter::api_types::Plans;

use super::{Case, Terms};
use crate::{
    floor::Floor,
    follow::{Light, PODS, follow, key, lock, now},
    load::{Planned, Shape, Submitted, by_weight, scaled},
    measure::{Seen, job_of, seconds},
    sides::{self, OperatorRun},
    stage::{Setting, Stage},
    stats::{jain, overlap},
};

const JOBS: usize = 15_000;
const TENANTS: usize = 30;
const PLANS: [&str; 4] = ["free", "basic", "pro", "enterprise"];
const SECONDS: u32 = 4;
const SHAPES: [Shape; 3] = [
    Shape { cores: 1, seconds: SECONDS },
    Shape { cores: 2, seconds: SECONDS },
    Shape { cores: 4, seconds: SECONDS },
];
const NODES: u32 = 10;
const CORES: u32 = 32;

/// When a pod was seen to run and to have ended, in microseconds since 1970.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    running: Option<i64>,
    ended: Option<i64>,
}

/// By key of the job.
type Seats = Arc<Mutex<HashMap<String, Times>>>;

pub async fn run(
    terms: &Terms,
    done: &mut (dyn FnMut(Case) -> anyhow::Result<()> + Send),
) -> anyhow::Result<()> {
    let plans = Plans::built_in()?;
    let names = || PLANS.into_iter().cycle().take(TENANTS);
    let weights: Vec<u32> = names().map(|name| plans.get(name).map_or(1, |plan| plan.weight)).collect();
    let jobs = by_weight(scaled(JOBS, terms.scale, 300), &weights);
    let setting = Setting {
        tenants: Setting::tenants(names()),
        shapes: SHAPES.to_vec(),
        nodes: NODES,
        cores: CORES,
        postgres: false,
    };
    let mut stage = Stage::bring_up(terms.program.clone(), setting).await?;
    let case = measure(&mut stage, terms, &jobs, &weights).await;
    done(stage.explain(case)?)
}

async fn measure(stage: &mut Stage, terms: &Terms, jobs: &[usize], weights: &[u32]) -> anyhow::Result<Case> {
    let room = usize::try_from(NODES * CORES)?;
    let plan = mixed(jobs, terms.seed);
    let floor = Floor::new(stage).await?;
    let trials = sides::tune(stage, &floor, terms.scale, room).await?;
    let queued = stage.submitter.all("job", &plan).await?;
    let seats = Seats::default();
    let seen = Arc::clone(&seats);
    let watch = follow(
        stage.submitter.client.clone(),
        PODS,
        "labelSelector=app.kubernetes.io/managed-by%3Dcrofter",
        move |pod| note(&seen, &pod),
    )
    .await?;
    let run = sides::operator(stage, &queued).await?;
    drop(watch);
    let service = Service::of(stage, &run, &queued, &lock(&seats), weights)?;
    let again = stage.submitter.all("floor", &plan).await?;
    let floor = sides::floor(stage, &floor, sides::before(&again), again.len(), &trials).await?;
    let name = format!("contended {} jobs of {TENANTS} tenants", queued.len());
    let figures = [
        ("jain_running", service.jain_running),
        ("jain_held", service.jain_held),
        ("backlogged_seconds", service.window),
        ("utilisation_running", service.running / service.window / f64::from(NODES * CORES)),
        ("utilisation_held", service.held / service.window / f64::from(NODES * CORES)),
    ];
    Ok(Case { name, operator: run.measured, floor: Some(floor), others: Vec::new(), figures: figures.into() })
}

/// The jobs of all tenants, each size as often, in an order that is random and repeats.
fn mixed(jobs: &[usize], seed: u64) -> Vec<Planned> {
    let of = |(tenant, count): (usize, &usize)| {
        (0..*count).map(move |number| Planned { tenant, shape: number % SHAPES.len() })
    };
    let mut all: Vec<Planned> = jobs.iter().enumerate().flat_map(of).collect();
    fastrand::Rng::with_seed(seed).shuffle(&mut all);
    all
}

fn note(seats: &Seats, pod: &Light) {
    let mut seats = lock(seats);
    let times = seats.entry(key(&pod.metadata.namespace, job_of(&pod.metadata.name))).or_default();
    match pod.status.phase.as_str() {
        "Running" => times.running = times.running.or_else(|| Some(now())),
        "Succeeded" | "Failed" => times.ended = times.ended.or_else(|| Some(now())),
        _ => (),
    }
}

/// What the tenants got while all had work that waited.
struct Service {
    /// Seconds of it.
    window: f64,
    /// Core-seconds of pods that ran.
    running: f64,
    /// Core-seconds from the creation of a pod to its end: what no other job can use.
    held: f64,
    /// Jain's index of core-seconds that pods ran, by weight.
    jain_running: f64,
    /// Jain's index of core-seconds held, by weight.
    jain_held: f64,
}

impl Service {
    fn of(
        stage: &Stage,
        run: &OperatorRun,
        jobs: &[Submitted],
        seats: &HashMap<String, Times>,
        weights: &[u32],
    ) -> anyhow::Result<Self> {
        let completed = HashMap::new();
        let seen = Seen { begun: run.begun, jobs, requests: &run.requests, completed: &completed };
        let admitted = seen.admitted();
        let since = |at: i64| seconds(run.begun, at);
        let start = admitted.values().min().context("no pods")?;
        // A tenant's backlog ends with its last pod; the contended time ends with the first backlog.
        let mut last = vec![0; weights.len()];
        for job in jobs {
            let (at, tenant) = (admitted.get(&job.key()).copied(), last.get_mut(job.plan.tenant));
            if let (Some(at), Some(tenant)) = (at, tenant) {
                *tenant = at.max(*tenant);
            }
        }
        let window = (since(*start), since(last.iter().min().copied().unwrap_or_default()));
        let (mut ran, mut held) = (vec![0.0; weights.len()], vec![0.0; weights.len()]);
        for job in jobs {
            let key = job.key();
            let times = seats.get(&key).copied().unwrap_or_default();
            let (Some(made), Some(ended)) = (admitted.get(&key), times.ended) else { continue };
            let cores = stage.submitter.shapes.get(job.plan.shape).map_or(0, |shape| shape.cores);
            let of = |from: i64| f64::from(cores) * overlap((since(from), since(ended)), window);
            // A pod that was never seen running ran within one interval of the watch before its end.
            add(&mut ran, job.plan.tenant, of(times.running.unwrap_or(ended)));
            add(&mut held, job.plan.tenant, of(*made));
        }
        let index = |service: &[f64]| {
            let by_weight = service.iter().zip(weights).map(|(got, weight)| got / f64::from(*weight));
            jain(&by_weight.collect::<Vec<_>>()).unwrap_or_default()
        };
        Ok(Self {
            window: window.1 - window.0,
            running: ran.iter().sum(),
            held: held.iter().sum(),
            jain_running: index(&ran),
            jain_held: index(&held),
        })
    }
}

fn add(totals: &mut [f64], index: usize, amount: f64) {
    if let Some(total) = totals.get_mut(index) {
        *total += amount;
    }
}
