//! Churn: jobs come at a fixed rate for a time, whatever becomes of those before them.
//!
//! What the pool can take is what the bare client makes of jobs that are submitted as fast as it does them: its rate is
//! 100 %. At 80 % jobs should hardly wait; at 110 % the queue grows as long as jobs come, and admissions should go on
//! at the full rate. Both sides have the same jobs come at the same times.

use futures::{StreamExt, channel::mpsc, future::try_join};

use super::{Case, Terms};
use crate::{
    floor::Floor,
    load::{Planned, Shape, Submitted, arrivals, round_robin, scaled},
    say,
    sides::{self, Beginning, FloorRun, OperatorRun, Trials},
    stage::{OPERATOR, Setting, Stage},
    stats::{Quantiles, count},
};

const TENANTS: usize = 30;
const SHAPE: Shape = Shape { cores: 1, seconds: 2 };
const NODES: u32 = 4;
const CORES: u32 = 20;
/// How long jobs come, in seconds.
const SECONDS: usize = 120;
/// Jobs from which the bare client's rate is taken: about as many as come.
const JOBS: usize = 2_500;
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
    let bare = Floor::new(stage).await?;
    let trials = sides::tune(stage, &bare, terms.scale, room).await?;
    let plan = round_robin(scaled(JOBS, terms.scale, 300), TENANTS);
    let as_taken = stage.submitter.as_taken("capacity", &plan);
    let alone = sides::floor(stage, &bare, as_taken, plan.len(), &trials).await?;
    let capacity = alone.measured.completions_per_second;
    let seconds = count(scaled(SECONDS, terms.scale, 20));
    for load in LOADS {
        let rate = capacity * f64::from(load) / 100.0;
        let mut random = fastrand::Rng::with_seed(terms.seed + u64::from(load));
        let times = arrivals(rate, seconds, &mut random);
        let jobs: Vec<(f64, Planned)> = times
            .into_iter()
            .map(|at| (at, Planned { tenant: random.usize(0..TENANTS), shape: 0 }))
            .collect();
        say(&format!("  the operator: {rate:.1} jobs/s ({load} % of {capacity:.1}) for {seconds} s"));
        let (operator, late) = operator(stage, &format!("load{load}x"), &jobs).await?;
        let (floor, floor_late) = floor(stage, &bare, &format!("floor{load}x"), &jobs, &trials).await?;
        let name = format!("churn at {load} % of capacity, {seconds} s");
        let figures = [
            ("capacity_per_second", capacity),
            ("arrivals_per_second", rate),
            ("submitted_late_p99", late.p99),
            ("submitted_late_p99_to_the_bare_client", floor_late.p99),
        ];
        done(Case {
            name,
            operator: operator.measured,
            floor: Some(floor),
            others: Vec::new(),
            figures: figures.into(),
        })?;
    }
    Ok(())
}

async fn operator(
    stage: &mut Stage,
    prefix: &str,
    jobs: &[(f64, Planned)],
) -> anyhow::Result<(OperatorRun, Quantiles)> {
    stage.start_operator()?;
    stage.until_quiet(OPERATOR).await?;
    let beginning = Beginning::now(stage)?;
    let (sender, come) = mpsc::unbounded();
    let late = stage.submitter.at_times(prefix, jobs, sender).await?;
    let submitted: Vec<Submitted> = come.collect().await;
    let run = sides::follow_operator(stage, beginning, &submitted).await?;
    Ok((run, Quantiles::of(late)))
}

async fn floor(
    stage: &Stage,
    bare: &std::sync::Arc<Floor>,
    prefix: &str,
    jobs: &[(f64, Planned)],
    trials: &Trials,
) -> anyhow::Result<(FloorRun, Quantiles)> {
    let (sender, come) = mpsc::unbounded();
    let run = sides::floor(stage, bare, come.map(Ok), jobs.len(), trials);
    let (run, late) = try_join(run, stage.submitter.at_times(prefix, jobs, sender)).await?;
    Ok((run, Quantiles::of(late)))
}
