//! Everything goes when the owner goes.
//!
//! Destructors do not run for statics, nor on Ctrl-C, nor on `SIGKILL`, so they cannot be what cleans up. Every cluster
//! has a reaper instead: a small process in a process group of its own that waits at the reading end of a pipe. Only
//! the owner holds the writing end (it is closed on exec, so no child inherits it), and the system closes it however
//! the owner ends. Then the reaper runs the scripts in `teardown.d`, kills every process of the cluster, newest first,
//! and removes the directory. Dropping the [`Reaper`] does the same and waits for it.
//!
//! A panic anywhere in the owner's process keeps the logs: test harnesses catch panics, so this is where a failed test
//! can be noticed even if the cluster is a static shared by many tests.

use std::{
    io::{self, Write},
    panic,
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, Once, PoisonError, Weak},
};

use crate::layout::Layout;
use std::os::unix::process::CommandExt;

const SCRIPT: &str = include_str!("../assets/reaper.sh");

/// The pipe; `None` once it is closed.
type Lifeline = Mutex<Option<ChildStdin>>;

/// The process that takes one cluster down.
#[derive(Debug)]
pub(crate) struct Reaper {
    child: Child,
    lifeline: Arc<Lifeline>,
}

impl Reaper {
    /// Starts the reaper of a cluster, which must happen before anything it has to clean up.
    pub(crate) fn start(layout: &Layout, keep_logs_on_panic: bool) -> io::Result<Self> {
        let mut child = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "reaper"])
            .arg(layout.root())
            .arg(layout.id())
            .arg(kept_logs())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()?;
        let lifeline = Arc::new(Mutex::new(child.stdin.take()));
        if keep_logs_on_panic {
            keep_on_panic(&lifeline);
        }
        Ok(Self { child, lifeline })
    }

    /// Has the logs kept when the cluster goes.
    pub(crate) fn keep_logs(&self) {
        keep_logs(&self.lifeline);
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.lifeline.lock().unwrap_or_else(PoisonError::into_inner).take());
        // Without a reaper there is nothing left to wait for.
        drop(self.child.wait());
    }
}

/// Where the logs of failed clusters are kept, one directory per cluster.
pub fn kept_logs() -> PathBuf {
    std::env::temp_dir().join("crofter-test-cluster-logs")
}

fn keep_logs(lifeline: &Lifeline) {
    // No reason to fail: the reaper has ended, or is ending the cluster.
    if let Ok(mut pipe) = lifeline.try_lock()
        && let Some(pipe) = pipe.as_mut()
    {
        drop(pipe.write_all(b"keep\n"));
    }
}

fn keep_on_panic(lifeline: &Arc<Lifeline>) {
    static LIFELINES: Mutex<Vec<Weak<Lifeline>>> = Mutex::new(Vec::new());
    static HOOK: Once = Once::new();
    let mut all = LIFELINES.lock().unwrap_or_else(PoisonError::into_inner);
    all.retain(|known| known.strong_count() > 0);
    all.push(Arc::downgrade(lifeline));
    drop(all);
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            previous(info);
            let living: Vec<_> = LIFELINES
                .try_lock()
                .map(|all| all.iter().filter_map(Weak::upgrade).collect())
                .unwrap_or_default();
            living.iter().for_each(|lifeline| keep_logs(lifeline));
            if !living.is_empty() {
                eprintln!("the test cluster's logs will be kept in {}", kept_logs().display());
            }
        }));
    });
}
