//! Churn: jobs come at a fixed rate for a time, whatever becomes of those before them.
//!
//! What the pool can take is what the bare client makes of it, from a full queue: its rate is 100 %. At 80 % jobs
//! should hardly wait; at 110 % the queue grows as long as jobs come, and admissions should go on at the full rate.

use super::{Case, Terms};
use crate::{
    floor::Floor,
    follow::now,
    load::{Planned, Shape, Submitted, arrivals, in_turn, scaled},
    measure::{Measured, Seen},
    process::{Reading, peak_memory},
    say, sides,
    stage::{OPERATOR, Setting, Stage},
    stats::{Quantiles, count},
};

const TENANTS: usize = 30;
const SHAPE: Shape = Shape { cores: 1, seconds: 2 };
const NODES: u32 = 4;
const CORES: u32 = 20;
/// How long jobs come, in seconds.
const SECONDS: usize = 120;
/// Jobs from which the bare client's rate is taken.
const JOBS: usize = 2_000;
/// Parts of its rate at which jobs come, in percent.
const LOADS: [u32; 2] = [80, 110];

pub async fn run(
    terms: &Terms,
    done: &mut (dyn FnMut(Case) -> anyhow::Result<()> + Send),
) -> anyhow::Result<()> {
    let tenants = Setting::tenants(std::iter::repeat_n("enterprise", TENANTS));
    let setting = Setting { tenants, shapes: vec![SHAPE], nodes: NODES, cores: CORES, postgres: false };
    let mut stage = Stage::bring_up(terms.program.clone(), setting).await?;
    let measured = measure(&mut stage, terms, done).await;
    stage.explain(measured)
}

async fn measure(
    stage: &mut Stage,
    terms: &Terms,
    done: &mut (dyn FnMut(Case) -> anyhow::Result<()> + Send),
) -> anyhow::Result<()> {
    let room = usize::try_from(NODES * CORES)?;
    let floor = Floor::new(stage).await?;
    let tried = sides::tune(stage, &floor, terms.scale, room).await?;
    let queued = stage.submitter.all("floor", &in_turn(scaled(JOBS, terms.scale, 300), TENANTS)).await?;
    let floor = sides::floor(stage, &floor, &queued, tried, room).await?;
    let capacity = floor.measured.completions_per_second;
    let seconds = count(scaled(SECONDS, terms.scale, 20));
    for load in LOADS {
        let rate = capacity * f64::from(load) / 100.0;
        let mut random = fastrand::Rng::with_seed(terms.seed + u64::from(load));
        let times = arrivals(rate, seconds, &mut random);
        let jobs: Vec<(f64, Planned)> = times
            .into_iter()
            .map(|at| (at, Planned { tenant: random.usize(0..TENANTS), shape: 0 }))
            .collect();
        say(&format!("  the operator: {rate:.1} jobs/s ({load} %) for {seconds} s"));
        let (operator, late) = side(stage, &format!("load{load}x"), &jobs).await?;
        let name = format!("churn at {load} % of capacity, {seconds} s");
        let figures = [
            ("capacity_per_second", capacity),
            ("arrivals_per_second", rate),
            ("submitted_late_p99", late.p99),
        ];
        done(Case { name, operator, floor: Some(floor.clone()), figures: figures.into() })?;
    }
    Ok(())
}

async fn side(
    stage: &mut Stage,
    prefix: &str,
    jobs: &[(f64, Planned)],
) -> anyhow::Result<(Measured, Quantiles)> {
    stage.start_operator()?;
    stage.until_quiet(OPERATOR).await?;
    let (mark, ended) = (stage.audit.end()?, stage.completions.count());
    let before = Reading::of(&stage.processes())?;
    let begun = now();
    let (submitted, late): (Vec<Submitted>, _) = stage.submitter.at_times(prefix, jobs).await?;
    sides::until_ended(stage, ended + jobs.len(), sides::deadline(jobs.len())).await?;
    stage.until_quiet(OPERATOR).await?;
    let processor_seconds = Reading::of(&stage.processes())?.since(&before);
    let peak_mib = peak_memory(stage.operator_pid()?)?;
    stage.stop_operator()?;
    let requests = stage.audit.of_user(OPERATOR, mark)?;
    let completed = stage.completions.times();
    let seen = Seen { begun, jobs: &submitted, requests: &requests, completed: &completed };
    Ok((Measured { processor_seconds, peak_mib, ..seen.evaluate() }, Quantiles::of(late)))
}
