//! What the machine must have before real nodes can run on it.
//!
//! Each requirement is tried rather than read from a list where that is possible: a kernel may have overlayfs and still
//! refuse it on the disk that the cluster would use.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::Command,
};

use super::command;
use crate::requirements::find_program;

/// The Debian packages that real nodes need; the file has one name per line and comments.
pub const PACKAGES: &str = include_str!("../../packages.txt");

/// Something that real nodes need and this machine does not have.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Missing {
    /// What it is, and what was tried.
    pub what: String,
    /// The Debian package that brings it, if one does.
    pub package: Option<&'static str>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.package {
            Some(package) => write!(f, "{} (apt-get install {package})", self.what),
            None => f.write_str(&self.what),
        }
    }
}

/// Whether real nodes can run here, and if not, why: everything at once, so that it can be put right in one go.
///
/// # Errors
/// What is missing.
pub fn available() -> Result<(), Vec<Missing>> {
    if !rustix::process::geteuid().is_root() {
        // Nothing below could be tried.
        return Err(missing("not root: namespaces, mounts and control groups need it", None));
    }
    let mut lacking = Vec::new();
    for (name, _) in PROGRAMS {
        lacking.extend(program(name).err().into_iter().flatten());
    }
    lacking.extend(cni_plugins().err().into_iter().flatten());
    if lacking.is_empty() {
        for (what, attempt) in ATTEMPTS {
            lacking.extend(attempt_fails(what, attempt));
        }
    }
    if lacking.is_empty() { Ok(()) } else { Err(lacking) }
}

/// Whether tests on real nodes run here. Where the machine cannot run such nodes, each test prints the reasons and is
/// skipped.
///
/// # Panics
/// When the machine cannot run real nodes and `CROFTER_REQUIRE_REAL_NODES` is set.
#[must_use]
pub fn available_to_tests() -> bool {
    let Err(missing) = available() else { return true };
    assert!(
        std::env::var_os("CROFTER_REQUIRE_REAL_NODES").is_none(),
        "real nodes are required and cannot run: {missing:?}"
    );
    for reason in missing {
        eprintln!("skipped, no real nodes: {reason}");
    }
    false
}

const PROGRAMS: [(&str, &str); 8] = [
    ("busybox", "busybox"),
    ("ip", "iproute2"),
    ("mount", "mount"),
    ("nft", "nftables"),
    ("nsenter", "util-linux"),
    ("runc", "runc"),
    ("tc", "iproute2"),
    ("unshare", "util-linux"),
];

/// Tried in namespaces of their own, in a directory where the clusters will be: `$1`.
const ATTEMPTS: [(&str, &str); 3] = [
    (
        "network namespaces with bridges, device pairs and nftables",
        "ip link add probe0 type bridge; ip link add probe1 type veth peer name probe2; nft add table ip probe",
    ),
    (
        "overlayfs on the temporary directory",
        "cd \"$1\"; mkdir lower upper work merged
         mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work overlay merged",
    ),
    (
        "control groups that can be made at the top",
        "for top in /sys/fs/cgroup /sys/fs/cgroup/memory; do
             if [ -e $top/cgroup.procs ]; then mkdir $top/crofter-probe-$$; rmdir $top/crofter-probe-$$; exit; fi
         done
         echo 'there are none in /sys/fs/cgroup' >&2; exit 1",
    ),
];

fn attempt_fails(what: &str, script: &str) -> Option<Missing> {
    let tried = tempfile::tempdir().map_err(|error| error.to_string()).and_then(|dir| {
        let mut command = Command::new("unshare");
        command
            .args(["--net", "--mount", "--propagation", "private", "sh", "-euc", script, "sh"])
            .arg(dir.path());
        command::output(&mut command).map_err(|error| match error {
            super::Error::Failed { output, .. } => output,
            other => other.to_string(),
        })
    });
    tried.err().map(|reason| Missing { what: format!("{what}: {reason}"), package: None })
}

/// The path of a program of the machine.
pub(super) fn program(name: &'static str) -> Result<PathBuf, Vec<Missing>> {
    find_program(name).ok_or_else(|| {
        let package = PROGRAMS.iter().find(|(program, _)| *program == name).map(|(_, package)| *package);
        missing(&format!("the program {name}"), package)
    })
}

/// The directory of the network plugins.
pub(super) fn cni_plugins() -> Result<PathBuf, Vec<Missing>> {
    let complete =
        |dir: &&Path| ["bridge", "host-local", "loopback", "bandwidth"].iter().all(|p| dir.join(p).exists());
    // Debian's, and where the plugins' own archive is unpacked by custom.
    ["/usr/lib/cni", "/opt/cni/bin"]
        .map(Path::new)
        .iter()
        .find(|dir| complete(dir))
        .map(|dir| dir.to_path_buf())
        .ok_or_else(|| {
            missing("the CNI plugins in /usr/lib/cni or /opt/cni/bin", Some("containernetworking-plugins"))
        })
}

fn missing(what: &str, package: Option<&'static str>) -> Vec<Missing> {
    vec![Missing { what: what.to_owned(), package }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_program_is_in_a_package_of_the_list() {
        let listed: Vec<&str> = PACKAGES.lines().filter(|line| !line.starts_with('#')).collect();
        for (program, package) in PROGRAMS {
            assert!(listed.contains(&package), "{program} is in {package}, which packages.txt does not have");
        }
    }

    #[test]
    fn what_the_machine_refuses_is_reported_with_its_reason() {
        let refused = attempt_fails("a thing", "echo 'not here' >&2; exit 3").unwrap();
        if rustix::process::geteuid().is_root() {
            assert_eq!(refused.what, "a thing: not here");
        }
        assert_eq!(refused.package, None);
    }
}
