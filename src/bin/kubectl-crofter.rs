//! The command `kubectl-crofter`, which kubectl runs as `kubectl crofter`.

use std::process::ExitCode;

fn main() -> ExitCode {
    crofter::plugin::main(std::env::args_os())
}
