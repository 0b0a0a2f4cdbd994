//! Short-lived programs: run to their end, with an error unless they succeed.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use super::Error;

/// Runs a program and returns what it printed.
pub(super) fn output(command: &mut Command) -> Result<String, Error> {
    let program = name(command);
    let output = command.stdin(Stdio::null()).output().map_err(|source| Error::Run { program, source })?;
    printed(command, output)
}

/// Runs a program that reads `input`.
pub(super) fn output_of_input(command: &mut Command, input: &str) -> Result<String, Error> {
    let run = |command: &mut Command| {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        // The inputs are smaller than a pipe, so that writing cannot wait for reading.
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = run(command).map_err(|source| Error::Run { program: name(command), source })?;
    printed(command, output)
}

fn printed(command: &Command, output: Output) -> Result<String, Error> {
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let arguments = command.get_args().map(|argument| argument.to_string_lossy());
    Err(Error::Failed {
        command: [name(command).into()].into_iter().chain(arguments).collect::<Vec<_>>().join(" "),
        status: output.status,
        output: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}
