//! What the machine must bring along, and what to install where it does not.

use std::{
    env,
    path::{Path, PathBuf},
};

/// One thing the cluster needs from the machine.
#[derive(Clone, Debug)]
pub struct Requirement {
    /// What it is.
    pub name: &'static str,
    /// Where it was found, if it was.
    pub found: Option<String>,
    /// The Debian package that brings it; empty where it is nothing that one installs.
    pub package: &'static str,
}

impl Requirement {
    /// A program on `PATH` or in the system's administrative directories.
    #[must_use]
    pub fn program(name: &'static str, package: &'static str) -> Self {
        Self { name, found: find_program(name).map(|path| path.display().to_string()), package }
    }
}

/// What control plane and Postgres need.
#[must_use]
pub fn control_plane() -> Vec<Requirement> {
    let postgres = crate::postgres::find_binaries().map(|dir| dir.display().to_string());
    let mut all = vec![
        // Debian's own is too old for what it has to build.
        Requirement { name: "go 1.26 or newer, from https://go.dev/dl", ..Requirement::program("go", "") },
        Requirement { name: "postgres", found: postgres, package: "postgresql" },
    ];
    if rustix::process::geteuid().is_root() {
        all.push(Requirement::program("setpriv", "util-linux"));
    }
    all
}

/// The path of a program, as a shell would find it, and in the directories that only root has on its `PATH`.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/go/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok()
}
