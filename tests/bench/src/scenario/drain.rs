//! Drain: a queue that exists before the operator starts, until it is empty.
//!
//! The jobs are submitted while the operator is stopped, and its start is the beginning: so nothing is written about a
//! job before, and what it costs to judge a whole queue at once is part of what is measured. All tenants use one pool
//! that has room for more than the API server can make pods for, so that room is not what limits.

use super::{Case, Terms};
use crate::{
    floor::Floor,
    load::{Shape, round_robin, scaled},
    sides,
    stage::{Setting, Stage},
};

const JOBS: [usize; 2] = [3_000, 10_000];
const TENANTS: [usize; 3] = [1, 30, 1_000];
const SHAPE: Shape = Shape { cores: 1, seconds: 1 };
const NODES: u32 = 20;
const CORES: u32 = 100;

pub async fn run(
    terms: &Terms,
    done: &mut (dyn FnMut(Case) -> anyhow::Result<()> + Send),
) -> anyhow::Result<()> {
    let chosen =
        |wanted: &[usize], all: &[usize]| if wanted.is_empty() { all.to_vec() } else { wanted.to_vec() };
    for tenants in chosen(&terms.tenants, &TENANTS) {
        for jobs in chosen(&terms.jobs, &JOBS) {
            let tenants = if tenants > 100 { scaled(tenants, terms.scale, 100) } else { tenants };
            done(one(terms, scaled(jobs, terms.scale, 100), tenants).await?)?;
        }
    }
    Ok(())
}

async fn one(terms: &Terms, jobs: usize, tenants: usize) -> anyhow::Result<Case> {
    let tenant_list = Setting::tenants(std::iter::repeat_n("enterprise", tenants));
    let setting =
        Setting { tenants: tenant_list, shapes: vec![SHAPE], nodes: NODES, cores: CORES, postgres: false };
    let mut stage = Stage::bring_up(terms.program.clone(), setting).await?;
    let measured = measure(&mut stage, terms, jobs).await;
    let (operator, floor) = stage.explain(measured)?;
    let name = format!("drain {jobs} jobs of {tenants} tenants");
    Ok(Case { name, operator: operator.measured, floor: Some(floor), others: Vec::new(), figures: [].into() })
}

async fn measure(
    stage: &mut Stage,
    terms: &Terms,
    jobs: usize,
) -> anyhow::Result<(sides::OperatorRun, sides::FloorRun)> {
    let room = usize::try_from(NODES * CORES)?;
    let plan = round_robin(jobs, stage.submitter.tenants.len());
    let floor = Floor::new(stage).await?;
    let trials = sides::tune(stage, &floor, terms.scale, room).await?;
    let queued = stage.submitter.all("job", &plan).await?;
    let operator = sides::operator(stage, &queued).await?;
    let again = stage.submitter.all("floor", &plan).await?;
    let floor = sides::floor(stage, &floor, sides::before(&again), again.len(), &trials).await?;
    Ok((operator, floor))
}
