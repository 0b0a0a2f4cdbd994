//! A registry of images and charts on this machine: Debian's `docker-registry`.
//!
//! It speaks TLS with a certificate of the cluster's authority, as the registries of releases do with one of a public
//! authority: so programs and nodes are given an authority, and no exception for plain HTTP. Nodes trust it for every
//! registry; other programs do with the file [`Cluster::authority`] in `SSL_CERT_FILE`.

use std::{fs, net::Ipv4Addr, path::PathBuf, process::Command, time::Duration};

use crate::{
    cluster::{Cluster, Error},
    ports::Port,
    process::Process,
    wait,
};

const READY_WITHIN: Duration = Duration::from_secs(30);

/// A running registry, without users. It is stopped when it is dropped, and its content is removed with the cluster.
#[derive(Debug)]
pub struct Registry {
    address: String,
    // Dropped after the server that listens on it.
    _port: Port,
    process: Process,
}

impl Registry {
    /// Host and port, as a reference begins with.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it has logged: one line for each request.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.process.log().to_owned()
    }
}

impl Cluster {
    /// Starts a registry that has nothing yet, on the address at which real nodes reach the machine, or else on
    /// loopback.
    ///
    /// # Errors
    /// When `docker-registry` is not installed, or does not come up.
    pub async fn start_registry(&self) -> Result<Registry, Error> {
        let ip = self.real_nodes().map_or(Ipv4Addr::LOCALHOST, |nodes| nodes.host_ip());
        let port = Port::reserve(ip).map_err(Error::Prepare)?;
        let address = format!("{ip}:{}", port.number());
        let identity = self.pki().issue("registry", "registry", &[], &[&ip.to_string()])?;
        let (config, content) = (self.dir().join("registry.yml"), self.dir().join("registry"));
        let [certificate, key, content] =
            [&identity.certificate, &identity.key, &content].map(|path| path.display().to_string());
        let yaml = format!(
            "version: 0.1\n\
             storage: {{filesystem: {{rootdirectory: {content}}}}}\n\
             http: {{addr: '{address}', tls: {{certificate: {certificate}, key: {key}}}}}\n"
        );
        fs::write(&config, yaml).map_err(Error::Prepare)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(config);
        let mut process = self.start_process("registry", command)?;
        wait::until(READY_WITHIN, "the registry", || {
            let running = process.check();
            async {
                match running {
                    Ok(()) => tokio::net::TcpStream::connect(&address).await.map(|_| Ok(())),
                    Err(ended) => Ok(Err(ended)),
                }
            }
        })
        .await??;
        Ok(Registry { address, _port: port, process })
    }
}
