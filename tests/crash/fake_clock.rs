//! A clock of one process that a test sets, by libfaketime.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The time of day of one process, which a test sets. Its steady clocks advance as those of the machine, as they do where
/// an administrator or NTP sets a clock.
pub struct FakeClock(PathBuf);

impl FakeClock {
    /// Debian's libfaketime; `make deps` installs it.
    const LIBRARY: &str = "faketime/libfaketime.so.1";

    pub fn new(dir: &Path, name: &str) -> Self {
        let clock = Self(dir.join(format!("{name}.clock")));
        clock.set("+0");
        clock
    }

    /// Sets it to this many seconds from that of the machine: `-3600`, `+3600`.
    pub fn set(&self, offset: &str) {
        // A process reads a whole file, never a half of one.
        let whole = self.0.with_extension("new");
        fs::write(&whole, offset).unwrap();
        fs::rename(whole, &self.0).unwrap();
    }

    /// Lets a process live by it.
    pub fn apply(&self, command: &mut Command) {
        let library = format!("/usr/lib/{}-linux-gnu/{}", std::env::consts::ARCH, Self::LIBRARY);
        assert!(Path::new(&library).exists(), "no {library}: run make deps");
        command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &self.0);
        let switches = ["FAKETIME_NO_CACHE", "FAKETIME_DONT_FAKE_MONOTONIC", "NO_FAKE_STAT"];
        command.envs(switches.map(|switch| (switch, "1")));
    }
}
