//! `dev`: the cluster stays up, and the operator is rebuilt and restarted whenever a source changes.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::{ExitCode, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::Context;
use tokio::process::Command;

use crate::{
    example,
    stage::{Nodes, Place, Stage, built_operator, say},
};

/// The interval between two scans of the sources. A save is complete when two scans in a row see the same.
const GLANCE: Duration = Duration::from_millis(300);

/// What the operator is built from.
const SOURCES: [&str; 4] = ["src", ".sqlx", "Cargo.toml", "Cargo.lock"];

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The nodes to run on; simulated ones start soonest.
    #[arg(long, value_enum, default_value_t = Nodes::Kwok)]
    nodes: Nodes,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let program = built_operator()?;
    let (nodes, operator) = (options.nodes, program.clone());
    let bring_up = move || Stage::bring_up(nodes, &operator, Place::Process);
    let mut stage = tokio::task::spawn_blocking(bring_up).await??;
    let result = develop(&mut stage, &program).await;
    stage.explain(result)
}

async fn develop(stage: &mut Stage, program: &Path) -> anyhow::Result<ExitCode> {
    stage.set_up(program).await?;
    stage.invitation().iter().for_each(|line| say(line));
    say("a change below src/ rebuilds and restarts the operator; its log follows");

    let mut log = Tail::of(stage.operator_log());
    let mut built = Fingerprint::of(&example::project());
    let mut seen = built.clone();
    let mut ticks = tokio::time::interval(GLANCE);
    let mut running = true;
    loop {
        ticks.tick().await;
        log.copy(&mut io::stderr())?;
        if running && let Err(error) = stage.check_operator() {
            say(&format!("{error}\nthe next change of a source starts it again"));
            running = false;
        }
        let now = Fingerprint::of(&example::project());
        let settled = now == seen;
        seen = now;
        if settled && seen != built {
            built = seen.clone();
            // A failed build has printed its errors; the running operator keeps running.
            if build().await? {
                install_new_crds(stage, program).await?;
                stage.start_operator(program)?;
                running = true;
                say("the operator is restarted");
            }
        }
    }
}

/// Builds the operator; says whether that worked.
async fn build() -> anyhow::Result<bool> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--bin", "crofter"])
        .current_dir(example::project())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .context("running cargo")?;
    Ok(status.success())
}

/// Installs the CRDs as the operator that was just built wants them.
async fn install_new_crds(stage: &Stage, program: &Path) -> anyhow::Result<()> {
    let dir = stage.dir().join("crds");
    let status = Command::new(program).arg("crd").arg("--dir").arg(&dir).status().await;
    anyhow::ensure!(status.context("writing the CRDs")?.success(), "`crofter crd` failed");
    stage.install_crds(&dir.display().to_string()).await
}

/// What distinguishes two states of the sources: the number of files, and when the newest was written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Fingerprint {
    files: usize,
    newest: Option<SystemTime>,
}

impl Fingerprint {
    fn of(project: &Path) -> Self {
        let mut fingerprint = Self::default();
        SOURCES.iter().for_each(|source| fingerprint.add(&project.join(source)));
        fingerprint
    }

    /// What can't be read is just being replaced; the next scan sees it.
    fn add(&mut self, path: &Path) {
        if let Ok(entries) = fs::read_dir(path) {
            entries.flatten().for_each(|entry| self.add(&entry.path()));
        } else if let Ok(modified) = fs::metadata(path).and_then(|metadata| metadata.modified()) {
            self.files += 1;
            self.newest = self.newest.max(Some(modified));
        }
    }
}

/// Follows a file that grows.
struct Tail {
    path: PathBuf,
    file: Option<File>,
}

impl Tail {
    fn of(path: PathBuf) -> Self {
        Self { path, file: None }
    }

    /// Copies what is new in the file.
    fn copy(&mut self, out: &mut impl io::Write) -> io::Result<()> {
        if self.file.is_none() {
            self.file = File::open(&self.path).ok();
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut new = Vec::new();
        file.read_to_end(&mut new)?;
        out.write_all(&new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_comes_changes_or_goes_is_noticed() {
        let project = std::env::temp_dir().join(format!("crofter-dev-{}", std::process::id()));
        let module = project.join("src/deep/module.rs");
        fs::create_dir_all(module.parent().unwrap()).unwrap();
        let empty = Fingerprint::of(&project);
        fs::write(&module, "a").unwrap();
        let created = Fingerprint::of(&project);
        assert_ne!(created, empty);
        assert_eq!(Fingerprint::of(&project), created);
        let later = created.newest.unwrap() + Duration::from_secs(1);
        File::options().write(true).open(&module).unwrap().set_modified(later).unwrap();
        assert_ne!(Fingerprint::of(&project), created);
        fs::remove_file(&module).unwrap();
        assert_eq!(Fingerprint::of(&project), empty);
        fs::remove_dir_all(&project).unwrap();
    }

    #[test]
    fn a_tail_copies_each_byte_once() {
        let path = std::env::temp_dir().join(format!("crofter-tail-{}", std::process::id()));
        let mut tail = Tail::of(path.clone());
        let mut out = Vec::new();
        tail.copy(&mut out).unwrap();
        for part in ["one ", "two"] {
            io::Write::write_all(
                &mut File::options().append(true).create(true).open(&path).unwrap(),
                part.as_bytes(),
            )
            .unwrap();
            tail.copy(&mut out).unwrap();
            tail.copy(&mut out).unwrap();
        }
        assert_eq!(out, b"one two");
        fs::remove_file(&path).unwrap();
    }
}
