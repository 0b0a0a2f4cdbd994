//! The control groups of a cluster: one parent per node, so that two kubelets on one machine do not share `/kubepods`.
//!
//! Both layouts are served. In version 1 every controller is a hierarchy of its own; in version 2 there is one, and a
//! controller is available to a group's children only when the group enables it.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::Error;

const MOUNT: &str = "/sys/fs/cgroup";

/// What a kubelet asks of its parent group in version 2, as far as the machine has it.
const CONTROLLERS: [&str; 6] = ["cpu", "cpuset", "io", "memory", "hugetlb", "pids"];

/// Makes the parent group of a node and returns its path inside the hierarchies, as the kubelet wants it.
///
/// `teardown.sh` removes the group of the cluster with all below it.
pub(super) fn create(cluster: &str, node: &str) -> Result<String, Error> {
    let mount = Path::new(MOUNT);
    let made = if mount.join("cgroup.controllers").exists() {
        create_unified(mount, cluster, node)
    } else {
        hierarchies(mount)
            .and_then(|roots| roots.iter().try_for_each(|root| create_in_hierarchy(root, cluster, node)))
    };
    made.map_err(|source| Error::Cgroup { node: node.to_owned(), source })?;
    Ok(format!("/{cluster}/{node}"))
}

/// The roots of all version 1 hierarchies. Some are mounted once and linked under several names (`cpu`, `cpuacct`).
fn hierarchies(mount: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut roots = BTreeSet::new();
    for entry in fs::read_dir(mount)? {
        let path = entry?.path();
        // Only a version 1 group has a list of tasks; the version 2 tree of a hybrid machine has none.
        if path.join("tasks").exists() {
            roots.insert(path.canonicalize()?);
        }
    }
    Ok(roots)
}

fn create_in_hierarchy(root: &Path, cluster: &str, node: &str) -> io::Result<()> {
    let mut parent = root.to_owned();
    for name in [cluster, node] {
        let group = parent.join(name);
        fs::create_dir_all(&group)?;
        // A new cpuset is empty, and nothing can run in an empty one.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read(parent.join(file)) {
                fs::write(group.join(file), value)?;
            }
        }
        parent = group;
    }
    Ok(())
}

fn create_unified(root: &Path, cluster: &str, node: &str) -> io::Result<()> {
    let mut group = root.to_owned();
    enable_controllers(&group)?;
    for name in [cluster, node] {
        group.push(name);
        fs::create_dir_all(&group)?;
        enable_controllers(&group)?;
    }
    Ok(())
}

fn enable_controllers(group: &Path) -> io::Result<()> {
    let available = fs::read_to_string(group.join("cgroup.controllers"))?;
    let enabled = fs::read_to_string(group.join("cgroup.subtree_control"))?;
    let has = |list: &str, name: &str| list.split_whitespace().any(|word| word == name);
    for name in CONTROLLERS.iter().filter(|name| has(&available, name) && !has(&enabled, name)) {
        fs::write(group.join("cgroup.subtree_control"), format!("+{name}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &Path, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn linked_hierarchies_count_once_and_the_version_2_tree_does_not_count() {
        let mount = tempfile::tempdir().unwrap();
        file(&mount.path().join("cpu,cpuacct/tasks"), "");
        std::os::unix::fs::symlink("cpu,cpuacct", mount.path().join("cpu")).unwrap();
        file(&mount.path().join("memory/tasks"), "");
        file(&mount.path().join("unified/cgroup.procs"), "");
        let names: Vec<_> = hierarchies(mount.path()).unwrap().into_iter().collect();
        let root = mount.path().canonicalize().unwrap();
        assert_eq!(names, [root.join("cpu,cpuacct"), root.join("memory")]);
    }

    #[test]
    fn a_cpuset_is_filled_at_each_level() {
        let root = tempfile::tempdir().unwrap();
        file(&root.path().join("cpuset.cpus"), "0-1\n");
        file(&root.path().join("cpuset.mems"), "0\n");
        create_in_hierarchy(root.path(), "crofter-1", "real-1").unwrap();
        let read = |path: &str| fs::read_to_string(root.path().join(path)).unwrap();
        assert_eq!(read("crofter-1/cpuset.mems"), "0\n");
        assert_eq!(read("crofter-1/real-1/cpuset.cpus"), "0-1\n");
    }

    #[test]
    fn only_controllers_that_exist_and_are_off_are_enabled() {
        let group = tempfile::tempdir().unwrap();
        file(&group.path().join("cgroup.controllers"), "cpu memory rdma\n");
        file(&group.path().join("cgroup.subtree_control"), "cpu\n");
        enable_controllers(group.path()).unwrap();
        assert_eq!(fs::read_to_string(group.path().join("cgroup.subtree_control")).unwrap(), "+memory");
    }
}
