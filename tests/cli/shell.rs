//! A shell with the plugin on its PATH, and nothing else of this machine's settings.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

use crate::world;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_kubectl-crofter");

/// What a command has printed.
#[derive(Debug)]
pub struct Printed {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Printed {
    /// The result of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.out
    }

    /// The same as JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        let out = self.ok();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// What a command that must have failed with this code has said.
    #[track_caller]
    pub fn failed(self, code: i32) -> String {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.err.starts_with("error: "), "{self:?}");
        let next = self.err.lines().last().unwrap();
        assert!(next.starts_with("next: kubectl crofter "), "{self:?}");
        self.err
    }
}

/// A shell of a user.
pub struct Shell {
    home: TempDir,
    variables: Vec<(String, String)>,
}

impl Shell {
    /// One that knows no server.
    pub fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap(), variables: Vec::new() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// That of the cluster's administrator.
    pub fn administrator() -> Self {
        Self::of(world().cluster.kubeconfig())
    }

    /// That of whom a kubeconfig is.
    pub fn of(kubeconfig: &Path) -> Self {
        Self::new().with("KUBECONFIG", kubeconfig.to_str().unwrap())
    }

    /// That of the holder of a key.
    pub fn key(key: &str) -> Self {
        Self::new().with("CROFTER_URL", &world().rest_url("")).with("CROFTER_KEY", key)
    }

    pub fn home(&self) -> &Path {
        self.home.path()
    }

    fn path(&self) -> String {
        let own = Path::new(PROGRAM).parent().unwrap().to_owned();
        let system = ["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from);
        let all = [own].into_iter().chain(world().cluster.bin_dirs().to_vec()).chain(system);
        std::env::join_paths(all).unwrap().into_string().unwrap()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", self.path())
            .env("HOME", self.home.path())
            .env("TERM", "xterm-256color");
        command.envs(self.variables.iter().cloned()).current_dir(self.home.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    async fn finished(mut command: Command, input: Option<&str>) -> Printed {
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().unwrap();
        if let (Some(input), Some(mut stdin)) = (input, child.stdin.take()) {
            stdin.write_all(input.as_bytes()).await.unwrap();
        }
        let output = child.wait_with_output();
        let output =
            tokio::time::timeout(crate::common::WAIT_TIMEOUT * 2, output).await.expect("it hangs").unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Printed {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// Runs the plugin as kubectl would, with its output in a pipe.
    pub async fn run(&self, arguments: &[&str]) -> Printed {
        self.run_with(arguments, None).await
    }

    /// The same with standard input.
    pub async fn run_with(&self, arguments: &[&str], input: Option<&str>) -> Printed {
        let mut command = self.command(PROGRAM);
        command.args(arguments);
        Self::finished(command, input).await
    }

    /// Types a line into a shell.
    pub async fn type_in(&self, line: &str) -> Printed {
        let mut command = self.command("/bin/bash");
        command.args(["-c", line]);
        Self::finished(command, None).await
    }

    /// Runs the plugin at a terminal, which has both of its outputs.
    pub async fn at_terminal(&self, arguments: &[&str]) -> Printed {
        let line = [&["kubectl-crofter"], arguments].concat().join(" ");
        let mut command = self.command("script");
        // `-e` returns the program's exit code.
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        Self::finished(command, None).await
    }

    /// Runs the plugin at a terminal; once it has shown these words, `then` happens, and what it returns is typed.
    pub async fn at_terminal_until(
        &self,
        arguments: &[&str],
        words: &str,
        then: impl Future<Output = Option<String>>,
    ) -> Printed {
        let line = [&["kubectl-crofter"], arguments].concat().join(" ");
        let mut command = self.command("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (mut then, mut out, mut bytes) = (Some(then), String::new(), [0; 1024]);
        let dialogue = async {
            loop {
                let read = stdout.read(&mut bytes).await.unwrap();
                if read == 0 {
                    return out;
                }
                out += &String::from_utf8_lossy(&bytes[..read]);
                if out.contains(words)
                    && let Some(then) = then.take()
                    && let Some(typed) = then.await
                {
                    stdin.write_all(typed.as_bytes()).await.unwrap();
                }
            }
        };
        let out = tokio::time::timeout(crate::common::WAIT_TIMEOUT * 2, dialogue).await.expect("it hangs");
        let status = child.wait().await.unwrap();
        Printed { code: status.code().unwrap_or(-1), out, err: String::new() }
    }
}
