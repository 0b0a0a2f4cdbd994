//! The command `crofter`.

use clap::Parser;
use crofter::cli;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    cli::main(cli::Cli::parse()).await
}
