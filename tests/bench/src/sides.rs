//! The two sides that are compared.

use std::{collections::BTreeMap, time::Duration};

use crofter::controllers::attempt::FINALIZER_DELAY;
use futures::{Stream, stream};
use serde::Serialize;

use crate::{
    audit::{Mark, Request},
    floor::{Floor, Pace, UNDER_WAY},
    follow::now,
    load::{Submitted, round_robin, scaled},
    measure::{Measured, Seen, seconds},
    process::{Reading, peak_memory},
    say,
    stage::{FLOOR, OPERATOR, Stage},
    stats::count,
};

/// Numbers of requests in flight that the bare client tries; the best is taken.
const IN_FLIGHT: [usize; 4] = [16, 32, 64, 128];
/// How long it leaves a pod that has ended when it tries. When it is measured it leaves it as long as the operator.
const TRIAL_LINGER: Duration = Duration::from_secs(10);
/// How long the last ends may take to be seen.
const SEEN: Duration = Duration::from_secs(30);

/// A run of the operator, and what the numbers were made of.
#[derive(Debug)]
pub struct OperatorRun {
    /// Its beginning, in microseconds since 1970.
    pub begun: i64,
    /// What it has asked of the API server.
    pub requests: Vec<Request>,
    /// The numbers.
    pub measured: Measured,
}

/// The bare client's numbers.
#[derive(Clone, Debug, Serialize)]
pub struct FloorRun {
    /// Requests that it had in flight at most.
    pub in_flight: usize,
    /// Jobs a second for each number in flight that was tried.
    pub tried: Vec<(usize, f64)>,
    /// The numbers.
    pub measured: Measured,
}

/// What another system did with as many jobs.
#[derive(Clone, Debug, Serialize)]
pub struct OtherRun {
    /// What it is.
    pub name: String,
    /// The numbers, of all whose writes a job costs.
    pub measured: Measured,
    /// Writes that were done for each job, by who made them.
    pub writes_per_job: BTreeMap<&'static str, f64>,
}

/// A generous bound for a number of jobs.
pub fn deadline(jobs: usize) -> Duration {
    Duration::from_secs_f64(120.0 + count(jobs) / 5.0)
}

/// The beginning of what is measured.
#[derive(Debug)]
pub struct Beginning {
    at: i64,
    mark: Mark,
    ended: usize,
    processors: Reading,
}

impl Beginning {
    /// It is now.
    ///
    /// # Errors
    /// When the audit log or the processes can't be read.
    pub fn now(stage: &Stage) -> anyhow::Result<Self> {
        let (mark, ended) = (stage.audit.end()?, stage.completions.count());
        Ok(Self { mark, ended, processors: Reading::of(&stage.processes())?, at: now() })
    }
}

/// Starts the operator on jobs that were submitted before, and follows it. It begins with the start of its process.
///
/// # Errors
/// When the operator ends, or the jobs don't in time.
pub async fn operator(stage: &mut Stage, jobs: &[Submitted]) -> anyhow::Result<OperatorRun> {
    say(&format!("  the operator: {} jobs", jobs.len()));
    let beginning = Beginning::now(stage)?;
    stage.start_operator()?;
    follow_operator(stage, beginning, jobs).await
}

/// Waits until all jobs have ended and all is written, and stops the operator.
///
/// # Errors
/// When the operator ends, or the jobs don't in time.
pub async fn follow_operator(
    stage: &mut Stage,
    beginning: Beginning,
    jobs: &[Submitted],
) -> anyhow::Result<OperatorRun> {
    let Beginning { at: begun, mark, ended, processors } = beginning;
    let deadline = deadline(jobs.len());
    let Stage { completions, operator, .. } = stage;
    let check = || Ok(operator.as_mut().map_or(Ok(()), |operator| operator.check())?);
    completions.until(ended + jobs.len(), deadline, check).await?;
    stage.until_quiet(OPERATOR).await?;
    let processor_seconds = Reading::of(&stage.processes())?.since(&processors);
    let peak_mib = peak_memory(stage.operator_pid()?)?;
    // They count as writes for each job, though not in the time that the jobs take.
    stage.until_released(OPERATOR, mark, jobs.len()).await?;
    stage.stop_operator()?;
    stage.clear().await?;
    let requests = stage.audit.of_user(OPERATOR, mark)?;
    let completed = stage.completions.times();
    let seen = Seen { begun, jobs, requests: &requests, completed: &completed };
    let measured = Measured { processor_seconds, peak_mib, ..seen.evaluate() };
    Ok(OperatorRun { begun, requests, measured })
}

/// What the bare client did when it tried.
#[derive(Clone, Debug)]
pub struct Trials {
    /// Cores that its pods hold at once.
    cores: usize,
    /// Jobs a second for each number of requests in flight.
    tried: Vec<(usize, f64)>,
}

impl Trials {
    /// The number of requests in flight with which it did most.
    fn best(&self) -> usize {
        let best = self.tried.iter().max_by(|(_, a), (_, b)| a.total_cmp(b));
        best.map_or(IN_FLIGHT[0], |(n, _)| *n)
    }
}

/// Tries a few numbers of requests in flight; the operator is stopped.
///
/// Each on twice the jobs that are under way with it: the first of them meet an API server that has nothing else to do,
/// and say nothing of what is too many.
///
/// # Errors
/// As [`Floor::run`].
pub async fn tune(
    stage: &Stage,
    floor: &std::sync::Arc<Floor>,
    scale: f64,
    cores: usize,
) -> anyhow::Result<Trials> {
    let mut tried = Vec::new();
    for in_flight in IN_FLIGHT {
        let jobs = scaled(2 * UNDER_WAY * in_flight, scale, 100);
        let plan = round_robin(jobs, stage.submitter.tenants.len());
        let jobs = stage.submitter.all(&format!("try{in_flight}x"), &plan).await?;
        let (begun, ended) = (now(), stage.completions.count());
        let pace = Pace { in_flight, cores, linger: TRIAL_LINGER, deadline: deadline(jobs.len()) };
        floor.run(before(&jobs), pace).await?;
        stage.completions.until(ended + jobs.len(), SEEN, || Ok(())).await?;
        // Not the time at which it has let the last pod go, which it is in no hurry to.
        let times = stage.completions.times();
        let last = jobs.iter().filter_map(|job| times.get(&job.key())).max().copied();
        tried.push((in_flight, count(jobs.len()) / seconds(begun, last.unwrap_or_else(now))));
    }
    stage.clear().await?;
    let shown: Vec<String> = tried.iter().map(|(n, rate)| format!("{n}: {rate:.0}/s")).collect();
    say(&format!("  the bare client with requests in flight {}", shown.join(", ")));
    Ok(Trials { cores, tried })
}

/// Jobs that were submitted before the bare client begins.
pub fn before(jobs: &[Submitted]) -> impl Stream<Item = anyhow::Result<Submitted>> {
    stream::iter(jobs.iter().cloned().map(Ok))
}

/// Has the bare client do `number` jobs as they come; the operator is stopped.
///
/// # Errors
/// As [`Floor::run`].
pub async fn floor(
    stage: &Stage,
    floor: &std::sync::Arc<Floor>,
    jobs: impl Stream<Item = anyhow::Result<Submitted>>,
    number: usize,
    trials: &Trials,
) -> anyhow::Result<FloorRun> {
    say(&format!("  the bare client: {number} jobs"));
    let (in_flight, cores) = (trials.best(), trials.cores);
    let Beginning { at: begun, mark, ended, processors } = Beginning::now(stage)?;
    let pace = Pace { in_flight, cores, linger: FINALIZER_DELAY.unsigned_abs(), deadline: deadline(number) };
    let until_ended = async {
        stage.completions.until(ended + number, pace.deadline + SEEN, || Ok(())).await?;
        Ok(Reading::of(&stage.processes())?.since(&processors))
    };
    let (jobs, processor_seconds) = tokio::try_join!(floor.run(jobs, pace), until_ended)?;
    stage.clear().await?;
    let requests = stage.audit.of_user(FLOOR, mark)?;
    let completed = stage.completions.times();
    let seen = Seen { begun, jobs: &jobs, requests: &requests, completed: &completed };
    let measured = Measured { processor_seconds, ..seen.evaluate() };
    Ok(FloorRun { in_flight, tried: trials.tried.clone(), measured })
}
