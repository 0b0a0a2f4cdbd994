//! The command `crofter`.

use clap::Parser;
use crofter::cli;

// Objects of the API are thousands of small pieces: with the C library's allocator a quarter of the time under load went
// into `malloc` and `free`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    cli::main(cli::Cli::parse()).await
}
