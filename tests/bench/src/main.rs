//! Load and measurements: how fast the release-built operator is on a real control plane, compared with a bare client
//! that makes the same writes in the same run on the same API server.
//!
//! Everything is seen from outside, by watches and by the API server's audit log, never by the operator's metrics or
//! word. Numbers are printed and never asserted: they are this machine's. `docs/benchmarks.md` says how to read them.

mod audit;
mod floor;
mod follow;
mod kueue;
mod load;
mod measure;
mod plot;
mod process;
mod recipe;
mod report;
mod scenario;
mod sides;
mod stage;
mod stats;

use std::{
    io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context, bail};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    report::Report,
    scenario::{Scenario, Terms},
};

// The operator's, so that the bare client is not the slower for its allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the operator, and a bare client that makes the same writes.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; everything but `kueue` when none is named.
    #[arg(value_enum)]
    scenarios: Vec<Scenario>,
    /// The part of the full size, at most 1.
    #[arg(long, default_value_t = 1.0, value_parser = part)]
    scale: f64,
    /// Seed of all that is random.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Drain only queues of this many jobs (before scaling).
    #[arg(long, value_parser = clap::value_parser!(usize))]
    jobs: Vec<usize>,
    /// Drain only queues of this many tenants (before scaling).
    #[arg(long)]
    tenants: Vec<usize>,
    /// Directory of the JSON and the picture; by default `bench`, next to the directory of this program.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Be the bare handler that the REST API is compared with, and respond with this file.
    #[arg(long, hide = true)]
    bare_handler: Option<PathBuf>,
}

fn part(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(part) if part > 0.0 && part <= 1.0 => Ok(part),
        _ => Err(format!("`{text}`: give a number above 0 and at most 1")),
    }
}

fn main() -> ExitCode {
    let result =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Into::into).and_then(
            |runtime| {
                let result = runtime.block_on(until_asked_to_end(run(Arguments::parse())));
                // A cluster that is still being started is left to its reaper, which ends it with this process.
                runtime.shutdown_background();
                result
            },
        );
    result.unwrap_or_else(|error: anyhow::Error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs `task` until it is done or the user has enough of it. Dropping it ends whatever it has started.
async fn until_asked_to_end(task: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<ExitCode> {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let mut signals =
        kinds.map(signal).into_iter().collect::<io::Result<Vec<_>>>().context("listening for signals")?;
    let asked = futures::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv())));
    tokio::select! {
        result = task => result.map(|()| ExitCode::SUCCESS),
        _ = asked => {
            say("stopping");
            Ok(ExitCode::from(130))
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    if let Some(file) = arguments.bare_handler {
        return scenario::bare_handler(&file).await;
    }
    let own = std::env::current_exe().context("finding this program")?;
    let program = own.with_file_name("crofter");
    if !program.exists() {
        bail!("{} is not there: use `make bench`, which builds it", program.display());
    }
    let default = own.parent().and_then(Path::parent).map(|target| target.join("bench"));
    let out = arguments.out.or(default).context("where to? Give --out")?;
    let Arguments { scale, seed, jobs, tenants, .. } = arguments;
    let terms = Terms { program, scale, seed, out: out.clone(), jobs, tenants };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let mut report = Report { processors, scale, seed, cases: Vec::new() };
    let mut chosen = arguments.scenarios;
    if chosen.is_empty() {
        chosen.extend(Scenario::all());
    }
    for scenario in chosen {
        let mut done = |case| {
            print!("{}", report::text(&case));
            report.cases.push(case);
            // Rewritten after each, so that a run that is ended early leaves what it had.
            report.write(&out).map(drop)
        };
        scenario.run(&terms, &mut done).await?;
    }
    say(&format!("the numbers and the picture are in {}", out.display()));
    Ok(())
}

/// Says what is going on, where it does not get into the way of what is printed.
fn say(line: &str) {
    eprintln!("{line}");
}
