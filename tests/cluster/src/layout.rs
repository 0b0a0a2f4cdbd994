//! Where one cluster keeps its files.
//!
//! Every cluster has one directory under the system's temporary directory, named after a random id. Everything the
//! cluster writes is below it, so that removing it (which the reaper does) leaves nothing behind,
//! and any number of clusters can live side by side. The id is short and lower-case, so that it can also name network
//! devices and control groups.

use std::{
    fs,
    hash::{BuildHasher, Hasher, RandomState},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

/// The directories of one cluster. Clones speak of the same cluster.
#[derive(Clone, Debug)]
pub struct Layout {
    id: String,
    root: PathBuf,
    started: Arc<AtomicU32>,
}

impl Layout {
    /// Makes the directories of a new cluster.
    ///
    /// # Errors
    /// When the temporary directory cannot be written.
    pub fn create() -> io::Result<Self> {
        let id = random_hex().split_off(8);
        let root = std::env::temp_dir().join(format!("crofter-{id}"));
        fs::DirBuilder::new().mode(0o755).create(&root)?;
        // Whatever the umask: Postgres, which refuses to run as root, must be able to reach its own directory.
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755))?;
        let layout = Self { id, root, started: Arc::default() };
        for dir in [layout.logs(), layout.nodes(), layout.kubeconfigs(), layout.teardown()] {
            fs::create_dir(dir)?;
        }
        for private in [layout.pki(), layout.pids()] {
            fs::DirBuilder::new().mode(0o700).create(private)?;
        }
        Ok(layout)
    }

    /// Eight lower-case hexadecimal digits, unique among the clusters of this machine.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The directory of the cluster; everything else is below it.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// One log file per process.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// One record per running process, read by the reaper.
    #[must_use]
    pub fn pids(&self) -> PathBuf {
        self.root.join("pids")
    }

    /// Certificates and keys; readable by the owner only.
    #[must_use]
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// Client configurations.
    #[must_use]
    pub fn kubeconfigs(&self) -> PathBuf {
        self.root.join("kubeconfigs")
    }

    /// One directory per real node.
    #[must_use]
    pub fn nodes(&self) -> PathBuf {
        self.root.join("nodes")
    }

    /// Shell scripts that the reaper runs, in the order of their names, before it stops the control plane. Each gets
    /// the cluster's directory as `$1` and its id as `$2`, must work whatever state the cluster is in, and must be
    /// there before the first thing is made that it has to undo.
    #[must_use]
    pub fn teardown(&self) -> PathBuf {
        self.root.join("teardown.d")
    }

    /// Numbers the processes in the order of their start, so that the reaper can stop the latest first.
    pub(crate) fn next_sequence(&self) -> u32 {
        self.started.fetch_add(1, Ordering::Relaxed)
    }
}

/// Sixteen hexadecimal digits from the operating system's random source.
pub(crate) fn random_hex() -> String {
    // `RandomState` is seeded by the operating system once per thread and differs in every instance.
    format!("{:016x}", RandomState::new().build_hasher().finish())
}
