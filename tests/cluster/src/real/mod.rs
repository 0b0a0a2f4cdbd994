//! Real worker nodes: kubelet, containerd, kube-proxy and DNS on this machine, where it is root on Linux.
//!
//! A node is a pair of namespaces (network and mounts) that a sleeping process holds and the node's programs enter, and
//! a parent control group. What a node would change of the machine it changes inside: mounts, network devices, routes
//! of pods, packet filters and sysctls end with the namespaces. The rest (processes, control groups, the one device
//! that connects the machine) carries the cluster's id and is undone by `teardown.sh`, which the reaper runs, so
//! nothing remains even when the owner was killed.
//!
//! Not enforced: NetworkPolicy, which the bridge plugin does not know.

mod cgroups;
mod command;
mod containerd;
mod dns;
mod kubelet;
mod lan;
mod node;
mod requirements;

use std::{
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use self::node::Node;
pub use self::{
    lan::{Lan, MAX_NODES},
    requirements::{Missing, PACKAGES, available, available_to_tests},
};
use crate::{
    image::{self, Archive},
    layout::Layout,
    pki::{self, Pki},
    process::{self, Process},
    tools::{self, GoModule, Tools},
};

/// containerd, CoreDNS and the pause process.
pub const NODE_TOOLS: GoModule = GoModule {
    dir: "tools-node",
    ldflags: "-s -w",
    renamed: &[],
    mends: &[],
    what: "the programs of real nodes",
};

/// The service address of the cluster's DNS, in the service range of the control plane.
const CLUSTER_DNS: &str = "10.96.0.10";

/// How long a node may take from nothing to ready: seconds, on a busy machine a few times that.
const READY_WITHIN: Duration = Duration::from_secs(90);

/// The same for one of the processes below a node's kubelet.
const STEP_WITHIN: Duration = Duration::from_secs(60);

/// Between two tries of a request.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Why real nodes did not start, or did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something.
    #[error("this machine cannot run real nodes: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Unavailable(Vec<Missing>),
    /// More nodes than addresses.
    #[error("{0} real nodes were asked for, a cluster has addresses for {MAX_NODES}")]
    TooMany(usize),
    /// All blocks of addresses are taken.
    #[error("all address blocks in 198.18.0.0/15 are in use; other clusters with real nodes hold them")]
    NoBlock,
    /// The nodes hide this directory from their programs.
    #[error(
        "{0} is below /run, /var/lib or /var/log, which nodes replace by empty ones: set TMPDIR and XDG_CACHE_HOME to other places"
    )]
    Hidden(PathBuf),
    /// There is no such node.
    #[error("no real node is called {0}")]
    UnknownNode(String),
    /// A control group could not be made.
    #[error("making the control groups of {node}")]
    Cgroup {
        /// The node.
        node: String,
        /// What the system said.
        source: io::Error,
    },
    /// An image could not be written.
    #[error(transparent)]
    Image(#[from] image::Error),
    /// A file could not be read or written.
    #[error("accessing {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A program could not be run.
    #[error("running {program}")]
    Run {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// A program ran and failed.
    #[error("`{command}` failed ({status}): {output}")]
    Failed {
        /// The program and its arguments.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// What it wrote to its standard error.
        output: String,
    },
    /// Something did not happen in time.
    #[error("{what} was not ready within {seconds} s; the end of its log:\n{log}")]
    NotReady {
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// The end of the log.
        log: String,
    },
    /// A long-running program could not be started or controlled.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// A credential could not be made.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// A program could not be found or built.
    #[error(transparent)]
    Tools(#[from] tools::Error),
}

/// What the nodes need to know of the control plane they join.
#[derive(Clone, Copy, Debug)]
pub struct ControlPlane<'a> {
    /// Where the cluster keeps its files.
    pub layout: &'a Layout,
    /// The programs, from the module [`tools`](mod@tools).
    pub tools: &'a Tools,
    /// The authority that the API server trusts.
    pub pki: &'a Pki,
    /// The API server's address, on [`Lan::host_ip`].
    pub api_url: &'a str,
    /// The administrator's client configuration.
    pub admin_kubeconfig: &'a Path,
}

impl ControlPlane<'_> {
    fn kubectl(&self) -> Result<Command, Error> {
        let mut kubectl = Command::new(self.tools.path("kubectl")?);
        // Not in the home directory.
        kubectl.env("KUBECACHEDIR", self.layout.nodes().join("kubectl-cache"));
        kubectl.arg("--kubeconfig").arg(self.admin_kubeconfig).arg("--request-timeout=30s");
        Ok(kubectl)
    }

    /// Applies objects; an API server that is too busy to take them is asked again.
    fn apply(&self, objects: &Value) -> Result<(), Error> {
        let (deadline, objects) = (Instant::now() + READY_WITHIN, objects.to_string());
        loop {
            match command::output_of_input(self.kubectl()?.args(["apply", "-f", "-"]), &objects) {
                Err(Error::Failed { .. }) if Instant::now() < deadline => thread::sleep(RETRY_PAUSE),
                result => return result.map(drop),
            }
        }
    }
}

/// The real nodes of one cluster.
#[derive(Debug)]
pub struct RealNodes {
    nodes: Vec<(String, Mutex<Node>)>,
    _dns: Process,
    lan: Lan,
}

impl RealNodes {
    /// Brings up `count` nodes called `real-1`, `real-2`, …, with DNS, and waits until they are ready.
    ///
    /// # Errors
    /// When the machine lacks something, or a program of a node does not come up; its log is in the error.
    pub fn start(lan: Lan, count: usize, plane: &ControlPlane<'_>) -> Result<Self, Error> {
        available().map_err(Error::Unavailable)?;
        let indexes = u8::try_from(count).ok().filter(|_| count <= MAX_NODES).ok_or(Error::TooMany(count))?;
        for path in plane.tools.dirs().iter().map(PathBuf::as_path).chain([plane.layout.root()]) {
            if ["/run", "/var/run", "/var/lib", "/var/log"].iter().any(|hidden| path.starts_with(hidden)) {
                return Err(Error::Hidden(path.to_owned()));
            }
        }
        let images = node::base_images(plane)?;
        let proxy = node::proxy_kubeconfig(plane)?;
        let (lan_ref, images, proxy) = (&lan, &images, &proxy);
        let (dns, nodes) = thread::scope(|scope| {
            let starting: Vec<_> = (0..indexes)
                .map(|index| scope.spawn(move || Node::start(index, lan_ref, plane, images, proxy)))
                .collect();
            let dns = dns::start(lan_ref, plane);
            // A panic in a thread is passed on, not swallowed.
            let join = |thread: thread::ScopedJoinHandle<'_, Result<Node, Error>>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            (dns, starting.into_iter().map(join).collect::<Vec<_>>())
        });
        let mut nodes = nodes.into_iter().collect::<Result<Vec<_>, _>>()?;
        for (from, to) in (0..indexes).flat_map(|from| (0..indexes).map(move |to| (from, to))) {
            if from != to
                && let Some(node) = nodes.get(usize::from(from))
            {
                lan.route_pods(node.pid(), to)?;
            }
        }
        wait_until_ready(&mut nodes, plane)?;
        let nodes = nodes.into_iter().map(|node| (node.name().to_owned(), Mutex::new(node))).collect();
        Ok(Self { nodes, _dns: dns?, lan })
    }

    /// The names of the nodes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|(name, _)| name.as_str())
    }

    /// Kills the kubelet of a node, as a crash would: its pods run on, and the cluster finds out by its silence.
    ///
    /// # Errors
    /// When there is no such node.
    pub fn kill_kubelet(&self, node: &str) -> Result<(), Error> {
        self.with(node, Node::kill_kubelet)
    }

    /// Starts the kubelet of a node again. Nothing happens when it runs.
    ///
    /// # Errors
    /// When there is no such node, or the program cannot be started.
    pub fn start_kubelet(&self, node: &str) -> Result<(), Error> {
        self.with(node, Node::start_kubelet)
    }

    /// Makes the image in an archive (see [`Image::write`](image::Image::write)) present on every node, by its tag and
    /// by its digest.
    ///
    /// # Errors
    /// When containerd refuses it.
    pub fn import_image(&self, image: &Archive) -> Result<(), Error> {
        self.names().try_for_each(|name| self.with(name, |node| node.import(image)))
    }

    /// The address at which pods reach the machine, and with it what [`Builder::postgres`](crate::Builder::postgres)
    /// starts.
    #[must_use]
    pub fn host_ip(&self) -> Ipv4Addr {
        self.lan.host_ip()
    }

    fn with<T>(&self, name: &str, act: impl FnOnce(&mut Node) -> Result<T, Error>) -> Result<T, Error> {
        let (_, node) =
            self.nodes.iter().find(|(n, _)| n == name).ok_or_else(|| Error::UnknownNode(name.to_owned()))?;
        // A panic under the lock left a node whose programs are as they were.
        act(&mut node.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Adds what real nodes run to the control plane's programs, building what is not there.
///
/// # Errors
/// When something had to be built and that failed.
pub fn tools(control_plane: Tools) -> Result<Tools, tools::Error> {
    control_plane
        .and(&tools::CONTROL_PLANE, &["kubelet", "kube-proxy"])?
        .and(&NODE_TOOLS, &["containerd", "containerd-shim-runc-v2", "ctr", "coredns", "pause"])
}

fn wait_until_ready(nodes: &mut [Node], plane: &ControlPlane<'_>) -> Result<(), Error> {
    let deadline = Instant::now() + READY_WITHIN;
    let ready = r#"jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}"#;
    loop {
        // An API server that is too busy to say so is asked again.
        let states = command::output(plane.kubectl()?.args(["get", "nodes", "-o", ready]));
        let says = |line: &str| states.as_ref().is_ok_and(|states| states.lines().any(|it| it == line));
        let is_ready = |node: &Node| says(&format!("{}=True", node.name()));
        let Some(waiting) = nodes.iter_mut().find(|node| !is_ready(node)) else {
            return Ok(());
        };
        let log = waiting.check()?;
        if Instant::now() > deadline {
            states?;
            return Err(not_ready(waiting.name(), READY_WITHIN, &log));
        }
        thread::sleep(Duration::from_millis(150));
    }
}

/// Waits until something that a process does has happened; an error when the process ends first.
fn wait_for(process: &mut Process, limit: Duration, mut happened: impl FnMut() -> bool) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    while !happened() {
        process.check()?;
        if Instant::now() > deadline {
            return Err(not_ready(process.name(), limit, process.log()));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn not_ready(what: &str, limit: Duration, log: &Path) -> Error {
    Error::NotReady { what: what.to_owned(), seconds: limit.as_secs(), log: process::tail(log, 15) }
}

/// A command whose process, with all it leaves behind, is found by `teardown.sh`.
fn marked(layout: &Layout, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("CROFTER_REAL_NODES", layout.id());
    command
}

/// A command that runs in namespaces of another process.
fn namespaces(layout: &Layout, pid: u32, which: &[&str], program: &Path) -> Command {
    let mut command = marked(layout, "nsenter");
    command.args(["--target", &pid.to_string()]).args(which).arg("--").arg(program);
    command
}
