//! The two sides that are compared, each over jobs that were submitted before it begins.

use std::time::Duration;

use serde::Serialize;

use crate::{
    audit::Request,
    floor::{Floor, Pace, UNDER_WAY},
    follow::now,
    load::{Submitted, in_turn, scaled},
    measure::{Measured, Seen, seconds},
    process::{Reading, peak_memory},
    say,
    stage::{FLOOR, OPERATOR, Stage},
    stats::count,
};

/// Numbers of requests in flight that the bare client tries; the best is taken.
const IN_FLIGHT: [usize; 4] = [16, 32, 64, 128];

/// A run of the operator, and what the numbers were made of.
#[derive(Debug)]
pub struct OperatorRun {
    /// When its process was started, in microseconds since 1970.
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

/// A generous bound for so many jobs.
pub fn deadline(jobs: usize) -> Duration {
    Duration::from_secs_f64(120.0 + count(jobs) / 5.0)
}

/// Starts the operator on the jobs, waits until all have ended and all is written, and stops it. It begins with the start of its process.
///
/// # Errors
/// When the operator ends, or the jobs don't in time.
pub async fn operator(stage: &mut Stage, jobs: &[Submitted]) -> anyhow::Result<OperatorRun> {
    say(&format!("  the operator: {} jobs", jobs.len()));
    let (mark, ended) = (stage.audit.end()?, stage.completions.count());
    let before = Reading::of(&stage.processes())?;
    let begun = stage.start_operator()?;
    until_ended(stage, ended + jobs.len(), deadline(jobs.len())).await?;
    stage.until_quiet(OPERATOR).await?;
    let processor_seconds = Reading::of(&stage.processes())?.since(&before);
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

/// Waits until so many jobs have ended in all, while the operator runs.
///
/// # Errors
/// When the operator ends, or the jobs don't in time.
pub async fn until_ended(stage: &mut Stage, wanted: usize, deadline: Duration) -> anyhow::Result<()> {
    let Stage { completions, operator, .. } = stage;
    let check = || Ok(operator.as_mut().map_or(Ok(()), |operator| operator.check())?);
    completions.until(wanted, deadline, check).await
}

/// Tries a few numbers of requests in flight; the operator is stopped.
///
/// Each on twice the jobs that are under way with it: the first of them meet an API server that has nothing else to do, and
/// say nothing of what is too many.
///
/// # Errors
/// As [`Floor::run`].
pub async fn tune(
    stage: &Stage,
    floor: &std::sync::Arc<Floor>,
    scale: f64,
    cores: usize,
) -> anyhow::Result<Vec<(usize, f64)>> {
    let mut tried = Vec::new();
    for in_flight in IN_FLIGHT {
        let jobs = scaled(2 * UNDER_WAY * in_flight, scale, 100);
        let plan = in_turn(jobs, stage.submitter.tenants.len());
        let jobs = stage.submitter.all(&format!("try{in_flight}x"), &plan).await?;
        let (begun, ended) = (now(), stage.completions.count());
        floor.run(&jobs, Pace { in_flight, cores, deadline: deadline(jobs.len()) }).await?;
        // Not until it has let the last pod go, which it is in no hurry to.
        stage.completions.until(ended + jobs.len(), Duration::from_secs(30), || Ok(())).await?;
        let times = stage.completions.times();
        let last = jobs.iter().filter_map(|job| times.get(&job.key())).max().copied();
        tried.push((in_flight, count(jobs.len()) / seconds(begun, last.unwrap_or_else(now))));
    }
    stage.clear().await?;
    let shown: Vec<String> = tried.iter().map(|(n, rate)| format!("{n}: {rate:.0}/s")).collect();
    say(&format!("  the bare client with requests in flight {}", shown.join(", ")));
    Ok(tried)
}

/// Has the bare client do the jobs; the operator is stopped.
///
/// # Errors
/// As [`Floor::run`].
pub async fn floor(
    stage: &Stage,
    floor: &std::sync::Arc<Floor>,
    jobs: &[Submitted],
    tried: Vec<(usize, f64)>,
    cores: usize,
) -> anyhow::Result<FloorRun> {
    say(&format!("  the bare client: {} jobs", jobs.len()));
    let best = tried.iter().max_by(|(_, a), (_, b)| a.total_cmp(b));
    let in_flight = best.map_or(IN_FLIGHT[0], |(n, _)| *n);
    let (mark, ended) = (stage.audit.end()?, stage.completions.count());
    let before = Reading::of(&stage.processes())?;
    let begun = now();
    floor.run(jobs, Pace { in_flight, cores, deadline: deadline(jobs.len()) }).await?;
    stage.completions.until(ended + jobs.len(), Duration::from_secs(30), || Ok(())).await?;
    let processor_seconds = Reading::of(&stage.processes())?.since(&before);
    stage.clear().await?;
    let requests = stage.audit.of_user(FLOOR, mark)?;
    let completed = stage.completions.times();
    let seen = Seen { begun, jobs, requests: &requests, completed: &completed };
    let measured = Measured { processor_seconds, ..seen.evaluate() };
    Ok(FloorRun { in_flight, tried, measured })
}
