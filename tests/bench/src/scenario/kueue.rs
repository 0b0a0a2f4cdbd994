//! Kueue compared with the operator: the same queue is worked off by each, in one run on one API server.
//!
//! As in `drain` the jobs are submitted while nothing runs that could admit them, and the start of the process is the
//! beginning: so what each writes about a job before it admits it (Kueue a Workload) is part of what is measured. Nodes,
//! room, and what a job asks for are the same. The side that comes later meets an API server with more behind it: which
//! one that is depends on the seed, so that two runs can have either order.

use super::{Case, Terms};
use crate::{
    floor::Floor,
    kueue::{Kueue, manifests::Setup},
    load::{Shape, round_robin, scaled},
    sides,
    stage::{Setting, Stage},
};

const JOBS: usize = 3_000;
const TENANTS: usize = 30;
const SHAPE: Shape = Shape { cores: 1, seconds: 1 };
const NODES: u32 = 20;
const CORES: u32 = 100;

pub async fn run(
    terms: &Terms,
    done: &mut (dyn FnMut(Case) -> anyhow::Result<()> + Send),
) -> anyhow::Result<()> {
    let tenants = Setting::tenants(std::iter::repeat_n("enterprise", TENANTS));
    let setting = Setting { tenants, shapes: vec![SHAPE], nodes: NODES, cores: CORES, postgres: false };
    let mut stage = Stage::bring_up(terms.program.clone(), setting).await?;
    let case = measure(&mut stage, terms).await;
    done(stage.explain(case)?)
}

async fn measure(stage: &mut Stage, terms: &Terms) -> anyhow::Result<Case> {
    let room = NODES * CORES;
    let jobs = scaled(JOBS, terms.scale, 100);
    let plan = round_robin(jobs, TENANTS);
    let mut kueue = Kueue::set_up(stage, room).await?;
    let floor = Floor::new(stage).await?;
    let trials = sides::tune(stage, &floor, terms.scale, usize::try_from(room)?).await?;
    let mut others = Vec::new();
    let kueue_first = terms.seed.is_multiple_of(2);
    if kueue_first {
        others.push(kueue.drain(stage, Setup::Tuned, "tuned", &plan).await?);
    }
    let queued = stage.submitter.all("job", &plan).await?;
    let operator = sides::operator(stage, &queued).await?;
    if !kueue_first {
        others.push(kueue.drain(stage, Setup::Tuned, "tuned", &plan).await?);
    }
    let again = stage.submitter.all("floor", &plan).await?;
    let floor = sides::floor(stage, &floor, sides::before(&again), again.len(), &trials).await?;
    others.push(kueue.drain(stage, Setup::Shipped, "shipped", &plan).await?);
    let name = format!("compared with Kueue, {jobs} jobs of {TENANTS} tenants");
    Ok(Case { name, operator: operator.measured, floor: Some(floor), others, figures: [].into() })
}
