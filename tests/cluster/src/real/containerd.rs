//! A node's container runtime: its configuration, and the import of images.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::json;

use super::{Error, command, lan::NodeAddresses};
use crate::image::Archive;

/// The sandbox image, made from our own `pause`.
pub(super) const PAUSE_IMAGE: &str = "crofter.test/pause:1";

/// Where a node's containerd keeps its things.
#[derive(Clone, Debug)]
pub(super) struct Containerd {
    dir: PathBuf,
}

impl Containerd {
    /// Below the node's directory.
    pub(super) fn new(node: &Path) -> Self {
        Self { dir: node.join("containerd") }
    }

    pub(super) fn config_file(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.dir.join("containerd.sock")
    }

    fn registries(&self) -> PathBuf {
        self.dir.join("registries")
    }

    /// Writes the configuration of containerd and of its network plugins, which are in `plugins`. Registries are
    /// trusted by the certificates of `authority`.
    pub(super) fn configure(
        &self,
        runc: &Path,
        plugins: &Path,
        authority: &Path,
        addresses: NodeAddresses,
        shaping: bool,
    ) -> Result<(), Error> {
        let networks = self.dir.join("cni");
        // What containerd reads for a registry that has no directory of its own, which none has.
        let registries = self.registries().join("_default");
        let write = |path: PathBuf, text: String| {
            fs::write(&path, text).map_err(|source| Error::File { path, source })
        };
        for dir in [&networks, &registries] {
            fs::create_dir_all(dir).map_err(|source| Error::File { path: dir.clone(), source })?;
        }
        write(registries.join("hosts.toml"), format!("ca = '{}'\n", authority.display()))?;
        write(self.config_file(), self.config(runc, plugins, &networks))?;
        write(networks.join("10-pods.conflist"), self.network(addresses, shaping))
    }

    fn config(&self, runc: &Path, plugins: &Path, networks: &Path) -> String {
        let [dir, socket, registries, runc, plugins, networks] =
            [&self.dir, &self.socket(), &self.registries(), runc, plugins, networks]
                .map(|path| path.display().to_string());
        format!(
            r"version = 3
root = '{dir}/root'
state = '{dir}/state'
disabled_plugins = ['io.containerd.nri.v1.nri']
[grpc]
  address = '{socket}'
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs'
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = '{PAUSE_IMAGE}'
  [plugins.'io.containerd.cri.v1.images'.registry]
    config_path = '{registries}'
[plugins.'io.containerd.cri.v1.runtime']
  disable_apparmor = true
  # Machines without CAP_SYS_RESOURCE cannot lower the score.
  restrict_oom_score_adj = true
  # In the node's own mount namespace, with which they go.
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['{plugins}']
    conf_dir = '{networks}'
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = false
      BinaryName = '{runc}'
      Root = '{dir}/runc'
[plugins.'io.containerd.internal.v1.opt']
  path = '{dir}/opt'
"
        )
    }

    /// Pods talk to each other and to the machine, and to nothing else: there is no address translation.
    fn network(&self, addresses: NodeAddresses, shaping: bool) -> String {
        let mut plugins = vec![json!({
            "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
            "ipam": {
                "type": "host-local",
                "dataDir": self.dir.join("addresses"),
                "ranges": [[{ "subnet": format!("{}/24", addresses.pods) }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        })];
        if shaping {
            plugins.push(json!({ "type": "bandwidth", "capabilities": { "bandwidth": true } }));
        }
        json!({ "cniVersion": "1.0.0", "name": "pods", "plugins": plugins }).to_string()
    }

    /// Makes the image in an archive known to the node, by its tag and by its digest; `ctr` is a command of the node's
    /// namespaces.
    pub(super) fn import(&self, ctr: &mut Command, image: &Archive) -> Result<(), Error> {
        ctr.arg("--address")
            .arg(self.socket())
            // Through the transfer API, containerd gives a named image no name by its digest.
            .args(["--namespace", "k8s.io", "images", "import", "--local", "--digests", "--base-name"])
            .args([&image.repository])
            .arg(&image.path);
        command::output(ctr)?;
        Ok(())
    }
}
