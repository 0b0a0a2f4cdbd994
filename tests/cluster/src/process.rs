//! Supervised child processes.
//!
//! Guarantees: a [`Process`] writes to a log file of its own; it is in a process group of its own, so that a Ctrl-C at
//! the terminal reaches the owner only, who then stops things in order; it is killed and waited for when it is
//! dropped; and it is known to the reaper from the moment it exists, by a record of its pid and start
//! time (which together name one process for ever) and by an environment variable that its own children inherit.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::layout::Layout;

/// Carried by every process of a cluster; its value is the cluster's id.
pub const OWNER_VARIABLE: &str = "CROFTER_TEST_CLUSTER";

/// How long a dropped process may take to end when it is asked to by another signal than `SIGKILL`.
const LAST_GRACE: Duration = Duration::from_secs(5);

/// Why a process could not be started or controlled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program could not be started.
    #[error("starting {name} ({program})")]
    Start {
        /// The process.
        name: String,
        /// The program that was to run.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// Its log or its record could not be written.
    #[error("keeping the books of {name} in {path}")]
    Books {
        /// The process.
        name: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A signal could not be delivered, or the end not be waited for.
    #[error("signalling {name}")]
    Signal {
        /// The process.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// The process ended although it should be running.
    #[error("{name} ended by itself ({status}); the end of its log:\n{log}")]
    Ended {
        /// The process.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines it wrote.
        log: String,
    },
}

/// A running child with its log and its record.
#[derive(Debug)]
pub struct Process {
    name: String,
    layout: Layout,
    command: Command,
    child: Child,
    log: PathBuf,
    record: PathBuf,
    last_signal: Signal,
}

impl Process {
    /// Starts `command` as `name`, its output appended to `logs/<name>.log`.
    ///
    /// # Errors
    /// When the program cannot be started, or its log or record cannot be written.
    pub fn start(layout: &Layout, name: &str, command: Command) -> Result<Self, Error> {
        Self::start_stopped_by(layout, name, command, Signal::KILL)
    }

    /// Like [`Process::start`], for a program that `SIGKILL` would not let clean up: it gets another signal when it is
    /// dropped or the cluster goes.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn start_stopped_by(
        layout: &Layout,
        name: &str,
        mut command: Command,
        last_signal: Signal,
    ) -> Result<Self, Error> {
        let log = layout.logs().join(format!("{name}.log"));
        let (out, err) = open_log(&log).map_err(|source| Error::Books {
            name: name.to_owned(),
            path: log.clone(),
            source,
        })?;
        command
            .env(OWNER_VARIABLE, layout.id())
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0);
        let child = spawn(name, &mut command)?;
        let (name, layout) = (name.to_owned(), layout.clone());
        let mut process = Self { name, layout, command, child, log, record: PathBuf::new(), last_signal };
        process.keep_record()?;
        Ok(process)
    }

    /// Starts the same command again, its output appended to the same log. What still runs is killed first.
    ///
    /// # Errors
    /// As [`Process::start`].
    pub fn restart(&mut self) -> Result<(), Error> {
        self.kill()?;
        self.child = spawn(&self.name, &mut self.command)?;
        self.keep_record()
    }

    /// Makes the child known to the reaper; without that it must not run.
    fn keep_record(&mut self) -> Result<(), Error> {
        let (name, pid) = (&self.name, self.child.id());
        self.record = self.layout.pids().join(format!("{:06}-{name}", self.layout.next_sequence()));
        let line = start_time(pid).map(|started| format!("{pid} {started} {}\n", self.last_signal.as_raw()));
        // Complete or absent: the reaper may read at any moment.
        let partial = self.layout.pids().join(format!(".{name}"));
        let written =
            line.and_then(|l| fs::write(&partial, l)).and_then(|()| fs::rename(&partial, &self.record));
        if let Err(source) = written {
            self.kill()?;
            return Err(Error::Books { name: self.name.clone(), path: self.record.clone(), source });
        }
        Ok(())
    }

    /// The name it was started under.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that receives its output.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// [`Error::Ended`] when it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<(), Error> {
        // Once it is waited for, its pid may belong to another process.
        self.check()?;
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        let sent = pid.ok_or(rustix::io::Errno::SRCH).and_then(|pid| kill_process(pid, signal));
        sent.map_err(|e| self.failed(e.into()))
    }

    /// Says whether it is still running; an ended process is an error with the end of its log.
    ///
    /// # Errors
    /// [`Error::Ended`] when it has ended.
    pub fn check(&mut self) -> Result<(), Error> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => {
                Err(Error::Ended { name: self.name.clone(), status, log: tail(&self.log, 15) })
            }
            Err(source) => Err(self.failed(source)),
        }
    }

    /// Asks it to end (`SIGTERM`) and kills it when it has not ended after `grace`.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn stop(&mut self, grace: Duration) -> Result<(), Error> {
        self.end(Signal::TERM, grace)
    }

    /// Ends it as it would be if it were dropped: with no chance to finish anything.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn end_at_once(&mut self) -> Result<(), Error> {
        self.end(self.last_signal, LAST_GRACE)
    }

    fn end(&mut self, signal: Signal, grace: Duration) -> Result<(), Error> {
        let deadline = Instant::now() + grace;
        // It may have ended by itself, which is as good.
        drop(self.signal(signal));
        while self.check().is_ok() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
        }
        self.kill()
    }

    /// Kills it and waits for its end. Nothing happens when it has ended.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill(&mut self) -> Result<(), Error> {
        self.child.kill().and_then(|()| self.child.wait()).map_err(|e| self.failed(e))?;
        // Absent when the reaper has removed the whole directory, which is as good.
        drop(fs::remove_file(&self.record));
        Ok(())
    }

    fn failed(&self, source: io::Error) -> Error {
        Error::Signal { name: self.name.clone(), source }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // A failure can't be returned here; the reaper ends what is left.
        drop(self.end_at_once());
    }
}

fn spawn(name: &str, command: &mut Command) -> Result<Child, Error> {
    command.spawn().map_err(|source| Error::Start {
        name: name.to_owned(),
        program: command.get_program().to_string_lossy().into_owned(),
        source,
    })
}

fn open_log(path: &Path) -> io::Result<(File, File)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    Ok((file.try_clone()?, file))
}

/// Clock ticks between the boot of the machine and the start of the process: field 22 of `/proc/<pid>/stat`.
fn start_time(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, the program's name in parentheses, may itself hold spaces and parentheses.
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    after_name.split(' ').nth(19).and_then(|field| field.parse().ok()).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat holds no start time"))
    })
}

/// The last lines of a log, for error messages.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}
