//! etcd, kube-apiserver, kube-controller-manager and kube-scheduler.
//!
//! Configured as a cluster of today is: RBAC and the node authorizer, service account admission, NodeRestriction, the
//! API aggregator's certificates. Only durability is off. etcd and the API server keep their ports when restarted.

use std::{
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    layout::Layout,
    pki::{self, Credentials, Identity, Pki},
    ports::Port,
    process::{self, Process},
    tools::{self, Tools},
};

/// The range of service addresses; each cluster's is visible to its own pods only.
const SERVICE_RANGE: &str = "10.96.0.0/16";
/// The address of the `kubernetes` service: the first of the range.
const API_SERVICE: &str = "10.96.0.1";

/// Every request, once it is answered. Rules for single namespaces go before the last one.
const AUDIT_POLICY: &str = "apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
";

/// Why there is no control plane.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A certificate or client configuration could not be made.
    #[error(transparent)]
    Pki(#[from] pki::Error),
    /// A process could not be started or stopped.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// A program is missing.
    #[error(transparent)]
    Tools(#[from] tools::Error),
    /// No port is free.
    #[error("finding a free port")]
    Port(#[source] io::Error),
    /// A configuration file could not be written.
    #[error("writing {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// How long a node may be silent until it counts as lost: longer than a busy machine stalls.
pub(crate) const NODE_GRACE: Duration = Duration::from_secs(40);

/// What differs between clusters.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The address that real nodes reach the API server at; `None` keeps it to the loopback address.
    pub(crate) node_facing: Option<Ipv4Addr>,
    /// Whether the API server writes an audit log.
    pub(crate) audit_log: bool,
    /// The namespace whose requests are logged with their bodies.
    pub(crate) audit_bodies_in: Option<String>,
    /// Whether it is to bear tens of thousands of pods in minutes.
    pub(crate) heavy_load: bool,
}

/// The running processes, except kwok.
#[derive(Debug)]
pub(crate) struct ControlPlane {
    layout: Layout,
    tools: Tools,
    options: Options,
    ports: Ports,
    certificates: Certificates,
    pub(crate) etcd: Process,
    /// `None` while it is stopped by request.
    pub(crate) api: Option<Process>,
    pub(crate) rest: Vec<Process>,
}

#[derive(Debug)]
struct Ports {
    etcd: Port,
    etcd_peer: Port,
    api: Port,
}

#[derive(Debug)]
struct Certificates {
    server: Identity,
    kubelet_client: Identity,
    front_proxy: Identity,
    service_account_private: PathBuf,
    service_account_public: PathBuf,
    authority: Identity,
}

impl ControlPlane {
    /// Starts etcd and the API server, which may not answer yet, and writes the administrator's client configuration.
    pub(crate) fn start(layout: &Layout, pki: &Pki, tools: &Tools, options: Options) -> Result<Self, Error> {
        let loopback = Ipv4Addr::LOCALHOST;
        let api_address = options.node_facing.unwrap_or(loopback);
        let ports = Ports {
            etcd: Port::reserve(loopback).map_err(Error::Port)?,
            etcd_peer: Port::reserve(loopback).map_err(Error::Port)?,
            api: Port::reserve(api_address).map_err(Error::Port)?,
        };
        let certificates = Certificates::issue(pki, options.node_facing)?;
        let etcd = Process::start(layout, "etcd", etcd_command(layout, tools, &ports, options.heavy_load)?)?;
        let mut plane = Self {
            layout: layout.clone(),
            tools: tools.clone(),
            options,
            ports,
            certificates,
            etcd,
            api: None,
            rest: Vec::new(),
        };
        plane.start_api()?;
        plane.user(pki, "admin", "crofter-test-admin", &["system:masters"])?;
        Ok(plane)
    }

    /// Starts the controllers; the API server should answer.
    pub(crate) fn start_controllers(&mut self, pki: &Pki) -> Result<(), Error> {
        for (name, user, command) in [
            ("kube-controller-manager", "system:kube-controller-manager", self.controller_manager_command()?),
            ("kube-scheduler", "system:kube-scheduler", self.scheduler_command()?),
        ] {
            let kubeconfig = self.user(pki, name, user, &[])?;
            let mut command = command;
            command.arg(format!("--kubeconfig={}", kubeconfig.display()));
            self.rest.push(Process::start(&self.layout, name, command)?);
        }
        Ok(())
    }

    /// Starts the API server, unless it runs.
    pub(crate) fn start_api(&mut self) -> Result<(), Error> {
        if self.api.is_none() {
            self.api = Some(Process::start(&self.layout, "kube-apiserver", self.api_command()?)?);
        }
        Ok(())
    }

    /// Kills the API server, as a crash of its machine would.
    pub(crate) fn kill_api(&mut self) -> Result<(), Error> {
        if let Some(mut api) = self.api.take() {
            api.kill()?;
        }
        Ok(())
    }

    pub(crate) fn api_url(&self) -> String {
        format!("https://{}:{}", self.api_address(), self.ports.api.number())
    }

    fn api_address(&self) -> Ipv4Addr {
        self.options.node_facing.unwrap_or(Ipv4Addr::LOCALHOST)
    }

    pub(crate) fn admin_kubeconfig(&self) -> PathBuf {
        self.kubeconfig_path("admin")
    }

    /// Issues a client certificate and returns the client configuration that uses it.
    pub(crate) fn user(&self, pki: &Pki, file: &str, user: &str, groups: &[&str]) -> Result<PathBuf, Error> {
        let identity = pki.issue(file, user, groups, &[])?;
        let path = self.kubeconfig_path(file);
        pki.write_kubeconfig(&path, &self.api_url(), &Credentials::Certificate(&identity))?;
        Ok(path)
    }

    pub(crate) fn kubeconfig_path(&self, file: &str) -> PathBuf {
        self.layout.kubeconfigs().join(format!("{file}.kubeconfig"))
    }

    pub(crate) fn audit_log(&self) -> Option<PathBuf> {
        self.options.audit_log.then(|| self.layout.logs().join("audit.log"))
    }

    /// What runs, except kwok where that is not started yet.
    pub(crate) fn running(&self) -> impl Iterator<Item = &Process> {
        [&self.etcd].into_iter().chain(self.api.as_ref()).chain(&self.rest)
    }

    /// An error with the end of the log for the first process that should run and does not.
    pub(crate) fn check(&mut self) -> Result<(), process::Error> {
        let mut processes = [&mut self.etcd].into_iter().chain(self.api.as_mut()).chain(&mut self.rest);
        processes.try_for_each(Process::check)
    }

    fn api_command(&self) -> Result<Command, Error> {
        let certificates = &self.certificates;
        let mut command = Command::new(self.tools.path("kube-apiserver")?);
        command.current_dir(self.layout.root());
        command.arg(format!("--etcd-servers=http://127.0.0.1:{}", self.ports.etcd.number()));
        command.arg(format!("--secure-port={}", self.ports.api.number()));
        match self.options.node_facing {
            // Without an endpoint to reach from pods there is none to announce.
            None => command.args(["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none"]),
            Some(address) => {
                command.arg("--bind-address=0.0.0.0").arg(format!("--advertise-address={address}"))
            }
        };
        command.args([
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--enable-aggregator-routing=true",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--kubelet-preferred-address-types=InternalIP",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        ]);
        command.arg(format!("--service-cluster-ip-range={SERVICE_RANGE}"));
        for (flag, path) in [
            ("--tls-cert-file", &certificates.server.certificate),
            ("--tls-private-key-file", &certificates.server.key),
            ("--client-ca-file", &certificates.authority.certificate),
            ("--requestheader-client-ca-file", &certificates.authority.certificate),
            ("--kubelet-client-certificate", &certificates.kubelet_client.certificate),
            ("--kubelet-client-key", &certificates.kubelet_client.key),
            ("--proxy-client-cert-file", &certificates.front_proxy.certificate),
            ("--proxy-client-key-file", &certificates.front_proxy.key),
            ("--service-account-key-file", &certificates.service_account_public),
            ("--service-account-signing-key-file", &certificates.service_account_private),
        ] {
            command.arg(format!("{flag}={}", path.display()));
        }
        if let Some(log) = self.audit_log() {
            let policy = self.layout.root().join("audit-policy.yaml");
            fs::write(&policy, audit_policy(self.options.audit_bodies_in.as_deref()))
                .map_err(|source| Error::File { path: policy.clone(), source })?;
            command.arg(format!("--audit-policy-file={}", policy.display()));
            command.arg(format!("--audit-log-path={}", log.display()));
            // Readers follow one file.
            command.arg("--audit-log-maxsize=0");
        }
        Ok(command)
    }

    fn controller_manager_command(&self) -> Result<Command, Error> {
        let Certificates { authority, service_account_private, .. } = &self.certificates;
        let mut command = Command::new(self.tools.path("kube-controller-manager")?);
        command.current_dir(self.layout.root()).args([
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--secure-port=0",
            "--concurrent-namespace-syncs=10",
            "--concurrent-serviceaccount-token-syncs=10",
            "--node-monitor-period=1s",
        ]);
        command.args(self.client_limits());
        if self.options.heavy_load {
            command.arg("--concurrent-job-syncs=32");
        }
        command.arg(format!("--node-monitor-grace-period={}s", NODE_GRACE.as_secs()));
        for (flag, path) in [
            ("--service-account-private-key-file", service_account_private),
            ("--root-ca-file", &authority.certificate),
            ("--cluster-signing-cert-file", &authority.certificate),
            ("--cluster-signing-key-file", &authority.key),
        ] {
            command.arg(format!("{flag}={}", path.display()));
        }
        Ok(command)
    }

    fn scheduler_command(&self) -> Result<Command, Error> {
        let mut command = Command::new(self.tools.path("kube-scheduler")?);
        command.current_dir(self.layout.root()).args(["--leader-elect=false", "--secure-port=0"]);
        command.args(self.client_limits());
        Ok(command)
    }

    /// How fast a component lets itself ask the API server.
    fn client_limits(&self) -> [&'static str; 2] {
        match self.options.heavy_load {
            false => ["--kube-api-qps=300", "--kube-api-burst=600"],
            true => ["--kube-api-qps=5000", "--kube-api-burst=10000"],
        }
    }
}

impl Certificates {
    fn issue(pki: &Pki, node_facing: Option<Ipv4Addr>) -> Result<Self, pki::Error> {
        let node_facing = node_facing.map(|address| address.to_string());
        let names: Vec<&str> = [
            "127.0.0.1",
            API_SERVICE,
            "localhost",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
        ]
        .into_iter()
        .chain(node_facing.as_deref())
        .collect();
        let (service_account_private, service_account_public) = pki.service_account_keys()?;
        Ok(Self {
            server: pki.issue("kube-apiserver", "kube-apiserver", &[], &names)?,
            kubelet_client: pki.issue("kubelet-client", "kube-apiserver", &["system:masters"], &[])?,
            front_proxy: pki.issue("front-proxy-client", "front-proxy-client", &[], &[])?,
            service_account_private,
            service_account_public,
            authority: pki.authority().clone(),
        })
    }
}

fn etcd_command(layout: &Layout, tools: &Tools, ports: &Ports, heavy_load: bool) -> Result<Command, Error> {
    let client = format!("http://127.0.0.1:{}", ports.etcd.number());
    let peer = format!("http://127.0.0.1:{}", ports.etcd_peer.number());
    let data: &Path = &layout.root().join("etcd");
    let mut command = Command::new(tools.path("etcd")?);
    command.current_dir(layout.root()).arg(format!("--data-dir={}", data.display()));
    command.arg(format!("--listen-client-urls={client}")).arg(format!("--advertise-client-urls={client}"));
    command.arg(format!("--listen-peer-urls={peer}")).arg(format!("--initial-advertise-peer-urls={peer}"));
    command.arg(format!("--initial-cluster=default={peer}"));
    // Nothing of it has to survive the machine.
    command.args(["--unsafe-no-fsync", "--log-level=warn"]);
    let room: u64 = if heavy_load { 8 << 30 } else { 4 << 30 };
    command.arg(format!("--quota-backend-bytes={room}"));
    Ok(command)
}

fn audit_policy(bodies_in: Option<&str>) -> String {
    let bodies = bodies_in.map(|namespace| {
        format!("- level: Request\n  namespaces: [{namespace}]\n  verbs: [create, update, patch, delete]\n")
    });
    format!("{AUDIT_POLICY}{}- level: Metadata\n", bodies.unwrap_or_default())
}
