//! The live demo (`up`) and the development loop (`dev`): a cluster, the operator and the examples, on this machine.

mod dev;
mod example;
mod screen;
mod stage;
mod up;
mod world;

use std::{future::Future, io, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Crofter on this machine: a real control plane, workers, Postgres and the operator.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run the examples and show them until Ctrl-C.
    Up(up::Options),
    /// Keep a cluster up and rebuild and restart the operator whenever a source changes, until Ctrl-C.
    Dev(dev::Options),
}

fn main() -> ExitCode {
    run(Arguments::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(task: Task) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        match task {
            Task::Up(options) => until_asked_to_end(up::run(options)).await,
            Task::Dev(options) => until_asked_to_end(dev::run(options)).await,
        }
    });
    // A cluster that is still being started is left to its reaper, which ends it with this process.
    runtime.shutdown_background();
    result
}

/// Runs `task` until it is done or the user has enough of it. Dropping it ends whatever it has started.
async fn until_asked_to_end(
    task: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let mut signals =
        kinds.map(signal).into_iter().collect::<io::Result<Vec<_>>>().context("listening for signals")?;
    let asked = futures::future::select_all(signals.iter_mut().map(|signal| Box::pin(signal.recv())));
    tokio::select! {
        result = task => result,
        _ = asked => {
            eprintln!("stopping");
            Ok(ExitCode::SUCCESS)
        }
    }
}
