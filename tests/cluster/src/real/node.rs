//! One real node: the process that holds its namespaces, and the programs inside.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    ControlPlane, Error, STEP_WITHIN, cgroups, command,
    containerd::{Containerd, PAUSE_IMAGE},
    kubelet::{self, KubeletSettings},
    lan::Lan,
    marked, namespaces, requirements, wait_for,
};
use crate::{
    image::{Archive, Image},
    layout::Layout,
    pki::Credentials,
    process::Process,
};

/// What the examples and the tests run jobs from.
const BUSYBOX_IMAGE: &str = "crofter.test/busybox:1";

const HOLDER: &str = include_str!("node-holder.sh");

/// A running node. Its programs are killed when it is dropped; what they leave behind, the reaper finds.
#[derive(Debug)]
pub(super) struct Node {
    name: String,
    layout: Layout,
    containerd: Containerd,
    ctr: PathBuf,
    kubelet: KubeletCommand,
    // Dropped in this order: what uses the namespaces before what holds them.
    kubelet_process: Option<Process>,
    _proxy: Process,
    _containerd: Process,
    holder: Process,
}

/// How the kubelet is started, and started again.
#[derive(Debug)]
struct KubeletCommand {
    program: PathBuf,
    arguments: Vec<String>,
}

impl Node {
    /// Starts the programs of a node; it registers itself and becomes ready a little later.
    pub(super) fn start(
        index: u8,
        lan: &Lan,
        plane: &ControlPlane<'_>,
        images: &[Archive],
        proxy_kubeconfig: &Path,
    ) -> Result<Self, Error> {
        let layout = plane.layout;
        let name = format!("real-{}", index + 1);
        let dir = layout.nodes().join(&name);
        create_dir(&dir)?;
        let cgroup_root = cgroups::create(&format!("crofter-{}", layout.id()), &name)?;
        let holder = hold_namespaces(layout, &name, &dir)?;
        lan.connect_node(index, holder.pid())?;
        let addresses = lan.node(index);

        let containerd = Containerd::new(&dir);
        let plugins = requirements::cni_plugins().map_err(Error::Unavailable)?;
        let runc = requirements::program("runc").map_err(Error::Unavailable)?;
        let authority = &plane.pki.authority().certificate;
        containerd.configure(&runc, &plugins, authority, addresses, can_shape(layout, holder.pid()))?;
        let ctr = plane.tools.path("ctr")?;
        let containerd_process = start_containerd(&containerd, &name, holder.pid(), plane)?;
        for image in images {
            containerd.import(&mut inside(layout, holder.pid(), &ctr), image)?;
        }

        let kubelet = configure_kubelet(&name, &dir, plane, &containerd, &cgroup_root, addresses)?;
        let proxy_config = dir.join("proxy.json");
        write(&proxy_config, &kubelet::proxy(&name, proxy_kubeconfig, &lan.cidr()).to_string())?;
        let mut proxy = inside(layout, holder.pid(), &plane.tools.path("kube-proxy")?);
        proxy.arg("--config").arg(&proxy_config);
        let proxy = Process::start(layout, &format!("{name}-proxy"), proxy)?;

        let mut node = Self {
            name,
            layout: layout.clone(),
            containerd,
            ctr,
            kubelet,
            kubelet_process: None,
            _proxy: proxy,
            _containerd: containerd_process,
            holder,
        };
        node.start_kubelet()?;
        Ok(node)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// A process in the node's namespaces.
    pub(super) fn pid(&self) -> u32 {
        self.holder.pid()
    }

    /// An error when the kubelet has ended by itself; else its log.
    pub(super) fn check(&mut self) -> Result<PathBuf, Error> {
        match &mut self.kubelet_process {
            Some(process) => {
                process.check()?;
                Ok(process.log().to_owned())
            }
            None => Ok(PathBuf::new()),
        }
    }

    pub(super) fn kill_kubelet(&mut self) -> Result<(), Error> {
        if let Some(mut process) = self.kubelet_process.take() {
            process.kill()?;
        }
        Ok(())
    }

    pub(super) fn start_kubelet(&mut self) -> Result<(), Error> {
        if self.kubelet_process.is_none() {
            let mut command = inside(&self.layout, self.holder.pid(), &self.kubelet.program);
            command.args(&self.kubelet.arguments);
            self.kubelet_process =
                Some(Process::start(&self.layout, &format!("{}-kubelet", self.name), command)?);
        }
        Ok(())
    }

    pub(super) fn import(&self, image: &Archive) -> Result<(), Error> {
        self.containerd.import(&mut inside(&self.layout, self.holder.pid(), &self.ctr), image)
    }
}

/// The images that every node has from the start: the sandbox and busybox.
pub(super) fn base_images(plane: &ControlPlane<'_>) -> Result<Vec<Archive>, Error> {
    let dir = plane.layout.nodes().join("images");
    create_dir(&dir)?;
    let pause = Image::new(PAUSE_IMAGE).program("pause", &plane.tools.path("pause")?)?.user("65535:65535");
    let busybox = busybox(&requirements::program("busybox").map_err(Error::Unavailable)?)?;
    let images = [(pause, dir.join("pause.tar")), (busybox, dir.join("busybox.tar"))];
    images.into_iter().map(|(image, archive)| Ok(image.write(&archive)?)).collect()
}

/// The machine's busybox with all its applets, run as `nobody` unless the pod says otherwise.
fn busybox(busybox: &Path) -> Result<Image, Error> {
    let list = command::output(Command::new(busybox).arg("--list"))?;
    let image = Image::new(BUSYBOX_IMAGE)
        .libraries_of(busybox)?
        .executable("bin/busybox", busybox)
        .directory("tmp", 0o1777)
        .text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
        .text("etc/group", "root:x:0:\nnogroup:x:65534:\n")
        .user("65534:65534")
        .command(&["/bin/sh"]);
    let applets = list.lines().filter(|&applet| applet != "busybox");
    Ok(applets.fold(image, |image, applet| image.link(format!("bin/{applet}"), "busybox")))
}

/// The client configuration that all kube-proxies share; the API server's built-in roles know the user.
pub(super) fn proxy_kubeconfig(plane: &ControlPlane<'_>) -> Result<PathBuf, Error> {
    let identity = plane.pki.issue("kube-proxy", "system:kube-proxy", &[], &[])?;
    let path = plane.layout.kubeconfigs().join("kube-proxy");
    plane.pki.write_kubeconfig(&path, plane.api_url, &Credentials::Certificate(&identity))?;
    Ok(path)
}

fn hold_namespaces(layout: &Layout, name: &str, dir: &Path) -> Result<Process, Error> {
    let ready = dir.join("ready");
    let mut unshare = marked(layout, "unshare");
    unshare
        .args(["--net", "--mount", "--propagation", "private", "sh", "-c", HOLDER, "node-holder.sh"])
        .arg(dir);
    let mut holder = Process::start(layout, &format!("{name}-holder"), unshare)?;
    wait_for(&mut holder, STEP_WITHIN, || ready.exists())?;
    Ok(holder)
}

fn start_containerd(
    containerd: &Containerd,
    name: &str,
    pid: u32,
    plane: &ControlPlane<'_>,
) -> Result<Process, Error> {
    let program = plane.tools.path("containerd")?;
    // containerd searches its shim on the path.
    let shims = plane.tools.path("containerd-shim-runc-v2")?;
    let mut path = shims.parent().map(Path::as_os_str).unwrap_or_default().to_owned();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = inside(plane.layout, pid, &program);
    command.env("PATH", path).arg("--config").arg(containerd.config_file());
    let mut process = Process::start(plane.layout, &format!("{name}-containerd"), command)?;
    let ctr = plane.tools.path("ctr")?;
    wait_for(&mut process, STEP_WITHIN, || {
        containerd.socket().exists()
            && Command::new(&ctr)
                .arg("--address")
                .arg(containerd.socket())
                .args(["--connect-timeout", "1s", "version"])
                .output()
                .is_ok_and(|output| output.status.success())
    })?;
    Ok(process)
}

fn configure_kubelet(
    name: &str,
    dir: &Path,
    plane: &ControlPlane<'_>,
    containerd: &Containerd,
    cgroup_root: &str,
    addresses: super::lan::NodeAddresses,
) -> Result<KubeletCommand, Error> {
    let ip = addresses.node.to_string();
    let identity = plane.pki.issue(
        &format!("node-{name}"),
        &format!("system:node:{name}"),
        &["system:nodes"],
        &[name, &ip],
    )?;
    let kubeconfig = plane.layout.kubeconfigs().join(format!("node-{name}"));
    plane.pki.write_kubeconfig(&kubeconfig, plane.api_url, &Credentials::Certificate(&identity))?;
    let config = dir.join("kubelet.json");
    let settings = KubeletSettings {
        dir,
        addresses,
        cgroup_root,
        containerd_socket: &containerd.socket(),
        identity: &identity,
        client_authority: &plane.pki.authority().certificate,
    };
    write(&config, &kubelet::kubelet(settings).to_string())?;
    let arguments = vec![
        format!("--config={}", config.display()),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--hostname-override={name}"),
        format!("--node-ip={ip}"),
        format!("--root-dir={}", dir.join("kubelet").display()),
        format!("--cert-dir={}", dir.join("kubelet-certificates").display()),
    ];
    Ok(KubeletCommand { program: plane.tools.path("kubelet")?, arguments })
}

/// Whether the kernel can limit a pod's bandwidth; a network plugin that cannot do so would keep every pod that asks
/// for it from starting.
fn can_shape(layout: &Layout, pid: u32) -> bool {
    let probe = "ip link add probe type ifb && tc qdisc add dev probe root tbf rate 1mbit burst 32kbit latency 10ms; \
                 made=$?; ip link delete probe; exit $made";
    command::output(inside(layout, pid, Path::new("sh")).args(["-c", probe])).is_ok()
}

fn inside(layout: &Layout, pid: u32, program: &Path) -> Command {
    namespaces(layout, pid, &["--net", "--mount"], program)
}

fn create_dir(path: &Path) -> Result<(), Error> {
    fs::create_dir_all(path).map_err(|source| Error::File { path: path.to_owned(), source })
}

fn write(path: &Path, text: &str) -> Result<(), Error> {
    fs::write(path, text).map_err(|source| Error::File { path: path.to_owned(), source })
}
