//! The command line.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::{
    api_types::crd,
    check,
    config::Config,
    http, import,
    operator::{self, DatabaseSecret},
    simulator::{self, Options},
    telemetry::{self, LogFormat},
};

/// A Kubernetes operator for multi-tenant job processing.
#[derive(Debug, Parser)]
#[command(name = "crofter", version)]
pub struct Cli {
    /// Form of log lines on standard error.
    #[arg(long, env = "CROFTER_LOG_FORMAT", value_enum, default_value = "text", global = true)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the operator until SIGTERM or Ctrl-C.
    Run(Box<Run>),
    /// Run the REST API alone until SIGTERM or Ctrl-C, for an operator that runs elsewhere.
    Api(Box<Config>),
    /// Bring the database's schema up to date, and end. `run` does the same when it connects.
    Migrate(Box<Config>),
    /// Say whether the installation works, and how to mend what does not: one line for each check.
    Check(Box<check::Options>),
    /// Create the Secret of the Postgres that the chart installs, with a new password; an existing Secret stays.
    DatabaseSecret(DatabaseSecret),
    /// Import tenants and waiting jobs from the database of the job service that Crofter replaces.
    Import(Box<import::Options>),
    /// Print the CustomResourceDefinitions, or write them into a directory.
    Crd {
        /// Write a file for each into this directory instead of printing them.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Print the OpenAPI document of the REST API.
    Openapi,
    /// Try a plan table: run the scheduler on a trace or a synthetic load in virtual time, without a cluster.
    Simulate(Box<Options>),
    /// Print the version.
    Version,
}

#[derive(Debug, clap::Args)]
struct Run {
    /// Do not serve the REST API, because `crofter api` does.
    #[arg(long, env = "CROFTER_NO_API")]
    no_api: bool,
    #[command(flatten)]
    config: Config,
}

/// Does what the command line says.
///
/// # Errors
/// Whatever keeps it from being done, as a chain of causes.
pub async fn main(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Run(run) => {
            telemetry::log(cli.log_format);
            operator::run(run.config, !run.no_api).await
        }
        Command::Api(config) => {
            telemetry::log(cli.log_format);
            operator::api(*config).await
        }
        Command::Migrate(config) => {
            telemetry::log(cli.log_format);
            operator::migrate(*config).await
        }
        Command::Check(options) => {
            telemetry::log(cli.log_format);
            check::main(*options).await
        }
        Command::DatabaseSecret(wanted) => {
            telemetry::log(cli.log_format);
            operator::database_secret(wanted).await
        }
        Command::Import(options) => import::main(*options).await,
        Command::Crd { dir } => write_crds(dir),
        Command::Openapi => {
            print!("{}", http::openapi::to_text(&http::document())?);
            Ok(())
        }
        Command::Simulate(options) => simulator::main(*options).await,
        Command::Version => {
            println!("crofter {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}

fn write_crds(dir: Option<PathBuf>) -> anyhow::Result<()> {
    for (file, crd) in crd::all() {
        let yaml = crd::to_yaml(&crd)?;
        match &dir {
            None => println!("---\n{yaml}"),
            Some(dir) => {
                std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
                let path = dir.join(file);
                std::fs::write(&path, yaml).with_context(|| format!("failed to write {}", path.display()))?;
            }
        }
    }
    Ok(())
}
