//! The shell in which a page is typed: one for the whole page, so that directory, variables and commands in the background stay
//! from block to block.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command as Kill, Stdio},
};

use crofter_test_cluster::Cluster;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use crate::COMMANDS_TIMEOUT;

/// What commands have printed, and how they ended.
#[derive(Debug)]
pub(super) struct Printed {
    /// The exit code; `None` where the shell has ended with them.
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

/// A shell that waits for commands.
pub(super) struct Session {
    shell: Child,
    group: Option<u32>,
    input: ChildStdin,
    ends: Lines<BufReader<ChildStdout>>,
    /// Where what is typed and printed is kept.
    files: PathBuf,
    typed: usize,
}

impl Session {
    /// A shell in `dir`, which is its home as well, with the cluster's kubectl and helm and the programs under test.
    pub(super) fn start(cluster: &Cluster, dir: &Path, variables: &[(String, String)]) -> Self {
        let programs = Path::new(env!("CARGO_BIN_EXE_crofter")).parent().unwrap().to_owned();
        let mut dirs = vec![patient_kubectl(cluster, dir), programs];
        dirs.extend(cluster.bin_dirs().to_vec());
        dirs.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-s"]).current_dir(dir).process_group(0).kill_on_drop(true);
        shell.env("KUBECONFIG", cluster.kubeconfig()).env("PATH", std::env::join_paths(dirs).unwrap());
        shell.env("SSL_CERT_FILE", cluster.authority()).env("HOME", dir);
        shell.env_remove("XDG_CONFIG_HOME").env_remove("DATABASE_URL").env_remove("RUST_BACKTRACE");
        shell.envs(variables.iter().cloned());
        shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut shell = shell.spawn().unwrap();
        let (input, ends) = (shell.stdin.take().unwrap(), shell.stdout.take().unwrap());
        let files = dir.join(".typed");
        fs::create_dir_all(&files).unwrap();
        let ends = BufReader::new(ends).lines();
        Self { group: shell.id(), shell, input, ends, files, typed: 0 }
    }

    /// Types commands and waits until they have ended; where one fails the shell ends with it.
    pub(super) async fn run(&mut self, commands: &str) -> Printed {
        self.typed += 1;
        let file = |kind: &str| self.files.join(format!("{}.{kind}", self.typed));
        let (script, out, err) = (file("sh"), file("out"), file("err"));
        fs::write(&script, commands).unwrap();
        let [script, out, err] = [&script, &out, &err].map(|path| path.to_str().unwrap());
        let line = format!(". '{script}' >'{out}' 2>'{err}' </dev/null\necho ended 0\n");
        let code = self.end_of(&line, commands).await;
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        Printed { code, out: read(out), err: read(err) }
    }

    /// The same for commands that end with another code than 0, in a shell below this one. Both outputs are one, as in a
    /// terminal.
    pub(super) async fn run_to_a_failure(&mut self, commands: &str) -> Printed {
        self.typed += 1;
        let file = |kind: &str| self.files.join(format!("{}.{kind}", self.typed));
        let (script, out) = (file("sh"), file("out"));
        fs::write(&script, commands).unwrap();
        let [script, out] = [&script, &out].map(|path| path.to_str().unwrap());
        let below = format!("(set -e; . '{script}') >'{out}' 2>&1 </dev/null");
        let line = format!("set +e; {below}; code=$?; set -e; echo ended $code\n");
        let code = self.end_of(&line, commands).await;
        Printed { code, out: fs::read_to_string(out).unwrap_or_default(), err: String::new() }
    }

    /// Gives the shell a line that reports the end, and returns the code.
    async fn end_of(&mut self, line: &str, commands: &str) -> Option<i32> {
        // A shell that has ended reads nothing, and reports nothing.
        drop(self.input.write_all(line.as_bytes()).await);
        let end = tokio::time::timeout(COMMANDS_TIMEOUT, self.ends.next_line()).await;
        assert!(end.is_ok(), "stuck in:\n{commands}");
        let end = end.unwrap().unwrap();
        end.and_then(|end| end.strip_prefix("ended ").and_then(|code| code.parse().ok()))
    }
}

/// A kubectl whose `wait` takes as long as all else here, but for its end: the 30 s of its own are few for a busy machine.
const PATIENT: &str = r#"#!/bin/sh
case " $* " in
  *" crofter "* | *" --timeout"*) ;;
  *" wait "*) set -- "$@" --timeout=120s ;;
esac
exec "#;

/// The directory of that kubectl.
fn patient_kubectl(cluster: &Cluster, dir: &Path) -> PathBuf {
    let mut programs = cluster.bin_dirs().iter().map(|dir| dir.join("kubectl"));
    let kubectl = programs.find(|path| path.exists()).unwrap();
    let patient = dir.join(".patient");
    fs::create_dir_all(&patient).unwrap();
    let path = patient.join("kubectl");
    fs::write(&path, format!("{PATIENT}'{}' \"$@\"\n", kubectl.display())).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    patient
}

impl Drop for Session {
    /// Ends the commands in the background, too.
    fn drop(&mut self) {
        if let Some(group) = self.group {
            let _ =
                Kill::new("kill").args(["-KILL", "--", &format!("-{group}")]).stderr(Stdio::null()).status();
        }
        let _ = self.shell.start_kill();
    }
}
