//! The simulator: the scheduler's core under virtual time, without a cluster.
//!
//! A trace of jobs goes in ([`trace`], or one drawn by [`synthetic`]), with the tenants and workers ([`cluster`]) and
//! the same plan table that `crofter run` reads; [`engine`] runs it, [`report`] and [`chart`] say what came of it. The
//! decisions are those of [`crate::domain::admission`] itself, not of a model of it: what is seen here is what the
//! operator would decide, and the same input gives the same output to the last digit.

pub mod accounting;
pub mod chart;
pub mod cluster;
pub mod engine;
pub mod estimates;
pub mod estimator;
pub mod fairness;
pub mod report;
pub mod synthetic;
pub mod table;
#[cfg(test)]
mod tests;
pub mod trace;

use std::{
    fs::File,
    io::{BufReader, BufWriter},
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context as _;

use self::{
    cluster::{Cluster, ClusterFile},
    report::Report,
    synthetic::Synthetic,
    trace::Work,
};
use crate::{api_types::Plans, config};

/// What to simulate.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// A plan table (YAML), as for `run`; by default the built-in one.
    #[arg(long, env = "CROFTER_PLANS")]
    plans: Option<PathBuf>,
    /// A trace of jobs (CSV) instead of a synthetic load.
    #[arg(long, conflicts_with_all = ["tenants", "days", "load", "seed", "workers"])]
    trace: Option<PathBuf>,
    /// The tenants and workers (YAML) of the trace; by default the file of the same name that ends in .yaml.
    #[arg(long, requires = "trace")]
    cluster: Option<PathBuf>,
    #[command(flatten)]
    synthetic: Synthetic,
    /// Write the synthetic load into this file (CSV), and its tenants and workers into the one of the same name that
    /// ends in .yaml: to be edited, and read again with --trace.
    #[arg(long, conflicts_with = "trace")]
    write_trace: Option<PathBuf>,
    /// Where report.json and picture.svg go.
    #[arg(long, default_value = "target/simulate")]
    out: PathBuf,
    /// Minutes of one interval of what is shown over time.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=10_080))]
    interval: u32,
    /// Also estimates when jobs start, as `GET /jobs/{id}/why` does, for this many jobs when they begin to wait, and compares
    /// with what then happened. The simulation runs twice for it, and each estimate takes as long as for a request.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    estimates: u32,
}

/// Simulates, prints the table, and writes report and picture.
///
/// # Errors
/// What can't be read or written, and what is wrong with it.
pub async fn main(options: Options) -> anyhow::Result<()> {
    let (plans, _) = config::plans(options.plans.clone()).await?;
    let plans = plans.borrow().clone();
    let (cluster, jobs) = load(&options, &plans)?;
    let begun = Instant::now();
    let report = simulate(&cluster, &plans, &jobs, options.interval, options.estimates);
    let took = begun.elapsed().as_secs_f64();
    print!("{}", report.table());
    let (figures, picture) = (options.out.join("report.json"), options.out.join("picture.svg"));
    std::fs::create_dir_all(&options.out).with_context(|| format!("making {}", options.out.display()))?;
    let file = create(&figures)?;
    serde_json::to_writer(file, &report).with_context(|| format!("failed to write {}", figures.display()))?;
    let drawn = chart::svg(&report)?;
    std::fs::write(&picture, drawn).with_context(|| format!("failed to write {}", picture.display()))?;
    println!(
        "\n{} decisions in {took:.1} s; {} and {} have it all",
        report.decisions,
        figures.display(),
        picture.display()
    );
    Ok(())
}

/// Simulates jobs on a cluster; the report has figures over time, one for every `interval_minutes`, and compares the
/// estimated starts of as many jobs as `estimates` with what then happened.
#[must_use]
pub fn simulate(
    cluster: &Cluster,
    plans: &Plans,
    jobs: &[Work],
    interval_minutes: u32,
    estimates: u32,
) -> Report {
    let (names, interval) = (report::plan_order(plans), i64::from(interval_minutes) * 60_000);
    let run = engine::run(cluster, &names, jobs, interval);
    let report = report::report(cluster, plans, jobs, &run);
    if estimates == 0 {
        return report;
    }
    let max = usize::try_from(estimates).unwrap_or(usize::MAX);
    let estimator = estimates::of_waiting(jobs, &run.outcomes, max);
    let run = engine::run_with_estimates(cluster, &names, jobs, interval, estimator);
    let estimates = Some(estimates::report(&run.estimated, jobs, &run.outcomes));
    Report { estimates, ..report }
}

fn load(options: &Options, plans: &Plans) -> anyhow::Result<(Cluster, Vec<Work>)> {
    let Some(trace) = &options.trace else {
        let (file, jobs) = synthetic::draw(&options.synthetic, plans);
        if let Some(trace) = &options.write_trace {
            write(trace, &file, &jobs)?;
        }
        return Ok((file.resolve(plans)?, jobs));
    };
    let path = options.cluster.clone().unwrap_or_else(|| trace.with_extension("yaml"));
    let text = std::fs::read_to_string(&path).with_context(|| {
        format!("failed to read the tenants and workers from {} (--cluster)", path.display())
    })?;
    let within = || path.display().to_string();
    let file = ClusterFile::from_yaml(&text).with_context(within)?;
    let cluster = file.resolve(plans).with_context(within)?;
    let opened =
        File::open(trace).with_context(|| format!("failed to read the trace {}", trace.display()))?;
    let tenants = file.tenants.iter().map(|tenant| tenant.name.as_str());
    let jobs = trace::read(BufReader::new(opened), tenants).with_context(|| trace.display().to_string())?;
    Ok((cluster, jobs))
}

fn write(trace: &Path, cluster: &ClusterFile, jobs: &[Work]) -> anyhow::Result<()> {
    let tenants: Vec<&str> = cluster.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    trace::write(create(trace)?, jobs, &tenants)
        .with_context(|| format!("failed to write {}", trace.display()))?;
    let cluster_file = trace.with_extension("yaml");
    let text = crate::yaml::write(cluster)?;
    std::fs::write(&cluster_file, text).with_context(|| format!("failed to write {}", cluster_file.display()))
}

fn create(path: &Path) -> anyhow::Result<BufWriter<File>> {
    Ok(BufWriter::new(File::create(path).with_context(|| format!("failed to write {}", path.display()))?))
}
