//! The REST API over TLS, by a process of its own that has its certificate and the URL of the database in files.

use std::{
    net::TcpListener,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use crofter_test_cluster::{
    pki::{Identity, Pki},
    process::{self, Process, Signal},
    wait,
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject},
    },
};

use crate::{
    common::{
        WAIT_TIMEOUT,
        rest::{request, tenant},
    },
    world,
};

/// Part of the URL, in a parameter that Crofter does not know.
const HIDDEN: &str = "hidden-parameter";

/// `crofter api` with the files of mounted Secrets.
struct Api {
    process: Mutex<Process>,
    dir: PathBuf,
    pki: Pki,
    address: u16,
    metrics: u16,
}

/// Replaces the files of the mounted Secret as a kubelet does: by one link.
fn mount(dir: &Path, certificate: &Path, key: &Path) {
    let version = tempfile::tempdir_in(dir).unwrap().keep();
    std::fs::copy(certificate, version.join("tls.crt")).unwrap();
    std::fs::copy(key, version.join("tls.key")).unwrap();
    symlink(version.file_name().unwrap(), dir.join("..data_tmp")).unwrap();
    std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

fn first(certificate: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(certificate).unwrap()
}

impl Api {
    fn start() -> (Self, Identity) {
        let dir = world().cluster.dir().join("tls");
        std::fs::create_dir(&dir).unwrap();
        let pki = Pki::create(&dir).unwrap();
        let identity = pki.issue("v1", "crofter", &[], &["localhost"]).unwrap();
        mount(&dir, &identity.certificate, &identity.key);
        for file in ["tls.crt", "tls.key"] {
            symlink(format!("..data/{file}"), dir.join(file)).unwrap();
        }
        let url = format!("{}?sslpassword={HIDDEN}\n", world().database_url().unwrap());
        std::fs::write(dir.join("url"), url).unwrap();
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, metrics) = (free(), free());
        let [address, metrics] = [address, metrics].map(|socket| socket.local_addr().unwrap().port());
        let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
        command.args(["api", "--metrics-addr", &format!("127.0.0.1:{metrics}")]);
        command.args(["--api-addr", &format!("127.0.0.1:{address}")]);
        for (flag, file) in
            [("--tls-cert", "tls.crt"), ("--tls-key", "tls.key"), ("--database-url-file", "url")]
        {
            command.arg(flag).arg(dir.join(file));
        }
        command.env("KUBECONFIG", world().cluster.kubeconfig()).env_remove("DATABASE_URL");
        command.env("RUST_LOG", "trace");
        let process = Mutex::new(world().cluster.start_process("crofter-tls", command).unwrap());
        (Self { process, dir, pki, address, metrics }, identity)
    }

    /// A connection, by a client that trusts the authority of the certificate alone.
    async fn connect(&self) -> Result<TlsStream<TcpStream>, String> {
        let mut roots = RootCertStore::empty();
        roots.add(first(&self.pki.authority().certificate)).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().unwrap();
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        let tcp = TcpStream::connect(("127.0.0.1", self.address)).await.map_err(|error| error.to_string())?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.map_err(|error| error.to_string())
    }

    /// What the process answers on its own port, over plain HTTP.
    async fn own(&self, path: &str) -> Result<String, String> {
        let exchange = async {
            let mut stream = TcpStream::connect(("127.0.0.1", self.metrics)).await?;
            stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.map(|_| answer)
        };
        let answer = exchange.await.map_err(|error| error.to_string())?;
        if answer.contains(" 200 ") { Ok(answer) } else { Err(answer) }
    }

    /// Waits until new connections get this certificate.
    async fn until_served(&self, certificate: &Path) {
        let check = async || {
            let stream = self.connect().await?;
            let presented = &stream.get_ref().1.peer_certificates().unwrap()[0];
            if *presented == first(certificate) { Ok(()) } else { Err("another certificate".to_owned()) }
        };
        wait::until(WAIT_TIMEOUT, "the certificate", check).await.unwrap();
    }

    fn log(&self) -> String {
        let log = self.process.lock().unwrap().log().to_owned();
        String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned()
    }
}

/// Sends a request on a connection that stays open, and returns the response, which has a length.
async fn ask(stream: &mut TlsStream<TcpStream>, path: &str, key: &str) -> String {
    stream.write_all(request("GET", path, &[("x-api-key", key)], None).as_bytes()).await.unwrap();
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        answer.push(char::from(stream.read_u8().await.unwrap()));
    }
    let length = answer.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.unwrap();
    answer + std::str::from_utf8(&body).unwrap()
}

#[tokio::test]
async fn api_over_tls_a_renewed_certificate_is_served_and_no_connection_dropped() {
    // Step 1: over TLS the API answers as over plain HTTP, the history included.
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "api-tls", json!({"plan": "basic"})).await;
    let (api, identity) = Api::start();
    wait::until(WAIT_TIMEOUT, "the process to be ready", || api.own("/readyz")).await.unwrap();
    api.until_served(&identity.certificate).await;
    let mut open = api.connect().await.unwrap();
    let known = async || {
        let answer = ask(&mut api.connect().await?, "/v1/jobs", &key).await;
        let from_history = answer.starts_with("HTTP/1.1 200 ") && !answer.contains("x-crofter-source");
        if from_history { Ok(()) } else { Err(answer) }
    };
    wait::until(WAIT_TIMEOUT, "jobs of the history", known).await.unwrap();
    assert!(ask(&mut open, "/v1/whoami", &key).await.contains("\"api-tls\""));
    // Step 2: the certificate is renewed; the open connection keeps the one it has.
    let second = api.pki.issue("v2", "crofter", &[], &["localhost"]).unwrap();
    mount(&api.dir, &second.certificate, &second.key);
    api.until_served(&second.certificate).await;
    assert!(ask(&mut open, "/v1/whoami", &key).await.starts_with("HTTP/1.1 200 "));
    // Step 3: a pair whose halves do not belong together is counted, and not served.
    let third = api.pki.issue("v3", "crofter", &[], &["localhost"]).unwrap();
    mount(&api.dir, &third.certificate, &second.key);
    let counted = async || {
        let metrics = api.own("/metrics").await?;
        let zero = "\ncrofter_tls_reload_failures_total 0\n";
        if metrics.contains(zero) { Err("no failure".to_owned()) } else { Ok(metrics) }
    };
    let metrics = wait::until(WAIT_TIMEOUT, "the failure to be counted", counted).await.unwrap();
    assert!(metrics.contains("\ncrofter_tls_certificate_expiry_timestamp_seconds{} "), "{metrics}");
    api.until_served(&second.certificate).await;
    assert!(ask(&mut open, "/v1/whoami", &key).await.starts_with("HTTP/1.1 200 "));
    // Step 4: plain HTTP is answered with a problem.
    let mut plain = TcpStream::connect(("127.0.0.1", api.address)).await.unwrap();
    plain.write_all(request("GET", "/v1/whoami", &[], None).as_bytes()).await.unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("HTTPS"), "{answer}");
    // Step 5: it stops in order, with an open connection, and no secret is in its log.
    api.process.lock().unwrap().signal(Signal::TERM).unwrap();
    let ended = async || match api.process.lock().unwrap().check() {
        Err(process::Error::Ended { status, .. }) => Ok(status),
        other => Err(other.map_err(|error| error.to_string())),
    };
    let status = wait::until(Duration::from_secs(15), "the process to end", ended).await.unwrap();
    assert!(status.success(), "{status}");
    let log = api.log();
    assert!(log.contains("tls.key does not belong to the first certificate in"), "the cause is logged");
    assert!(log.contains("sslpassword"), "the parameter without effect is logged");
    let password = world().database_url().unwrap().split([':', '@']).nth(2).unwrap().to_owned();
    let lines = [&identity, &second, &third].map(|identity| {
        let pem = std::fs::read_to_string(&identity.key).unwrap();
        pem.lines().nth(1).unwrap().to_owned()
    });
    for secret in lines.iter().chain([&password, &HIDDEN.to_owned()]) {
        assert!(!log.contains(secret.as_str()), "a secret is in the log");
    }
}
