//! The REST API over TLS: handshakes good and bad, and the certificate that is replaced meanwhile.

mod pki;
mod reload;

use futures::FutureExt as _;
use std::{net::SocketAddr, time::Duration};

use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, date_time_ymd};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::Instant,
};
use tokio_rustls::{
    client::TlsStream,
    rustls::{ProtocolVersion, pki_types::ServerName, version::TLS12},
};

use self::pki::{Authority, Issued, Mounted, server};
use super::{
    captured::capture,
    server::{GOOD, at_once, exchange, random},
    *,
};
use crate::{
    clock::Clock,
    http::{
        server::{Listener, serve},
        tls::{Files, Reload, Tls},
    },
};

/// A server with this pair.
struct Served {
    address: SocketAddr,
    mounted: Mounted,
    /// Follows the files once it runs.
    reload: Option<Reload>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Served {
    async fn with(pair: &Issued) -> Self {
        let mounted = Mounted::new(pair);
        let (tls, reload) = Tls::load(mounted.files(), Clock::system()).await.unwrap();
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let (stop, mut stopped) = watch::channel(false);
        let stopped = async move { drop(stopped.wait_for(|stop| *stop).await) };
        let routes = routes(Lab::new().app.clone(), Metrics::default());
        let task =
            tokio::spawn(serve(Listener::new(tcp, Some(tls)), routes, random(), stopped.boxed().shared()));
        Self { address, mounted, reload: Some(reload), stop, task }
    }

    async fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    async fn connect(&self, client: &pki::Client, name: &str) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        client.connector().connect(name, self.tcp().await).await
    }
}

async fn works<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(stream: &mut S) {
    let (head, problem) = exchange(stream, GOOD).await;
    assert!(head.starts_with("HTTP/1.1 404 ") && problem["code"] == "not_found", "{head} {problem}");
}

#[tokio::test]
async fn each_kind_of_key_is_served_over_tls_1_2_and_1_3_with_its_whole_chain() {
    let authority = Authority::new();
    let intermediate = authority.intermediate();
    for kind in [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519] {
        let served = Served::with(&intermediate.issue(&server(), kind)).await;
        for (versions, expected) in [
            (authority.client().versions, ProtocolVersion::TLSv1_3),
            (vec![&TLS12], ProtocolVersion::TLSv1_2),
        ] {
            let client = pki::Client { versions, ..authority.client() };
            for name in ["localhost", "127.0.0.1"] {
                let mut stream = served.connect(&client, name).await.unwrap();
                let session = stream.get_ref().1;
                assert_eq!(
                    (session.protocol_version(), session.alpn_protocol()),
                    (Some(expected), Some(&b"http/1.1"[..]))
                );
                assert_eq!(session.peer_certificates().unwrap().len(), 3, "{kind:?}");
                works(&mut stream).await;
                works(&mut stream).await;
            }
        }
    }
}

/// As cert-manager writes RSA keys by default: PKCS #1.
#[tokio::test]
async fn an_rsa_key_is_served() {
    let (chain, key) = (include_str!("tls/rsa.crt").to_owned(), include_str!("tls/rsa.key").to_owned());
    let root = crate::pem::certificates(chain.as_bytes()).unwrap().remove(0);
    let served = Served::with(&Issued { chain, key }).await;
    let client = pki::Client { root, ..Authority::new().client() };
    works(&mut served.connect(&client, "localhost").await.unwrap()).await;
}

#[tokio::test]
async fn a_pair_that_can_not_be_served_is_refused_with_its_file_and_the_cure() {
    let authority = Authority::new();
    let (good, other) = (authority.server(), authority.server());
    let reversed = {
        let (own, rest) = good.chain.split_at(good.chain.find("-----END").unwrap() + 26);
        format!("{rest}{own}")
    };
    let junk = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned();
    let encrypted = good.key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let unsupported = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_owned();
    // Each case: certificate, key, the file that the error names, and its words.
    for (chain, key, file, words) in [
        ("", good.key.as_str(), "tls.crt", "it has no certificate"),
        (&good.key, &good.key, "tls.crt", "it has no certificate"),
        (&good.chain, &good.chain, "tls.key", "it has no private key"),
        (&good.chain, "", "tls.key", "it has no private key"),
        (&good.chain, &encrypted, "tls.key", "openssl pkey -in"),
        (&good.chain, &other.key, "tls.key", "does not belong to the first certificate in"),
        (&reversed, &good.key, "tls.crt", "the server's own certificate before"),
        (&good.chain[..good.chain.len() - 60], &good.key, "tls.crt", "half-written"),
        (&junk, &good.key, "tls.crt", "its first certificate is malformed"),
        (&good.chain, &unsupported, "tls.key", "use ECDSA P-256 or P-384"),
    ] {
        let mounted = Mounted::new(&Issued { chain: chain.to_owned(), key: key.to_owned() });
        let error = Tls::load(mounted.files(), Clock::system()).await.err().unwrap();
        let text = error.to_string();
        assert!(text.contains(words) && text.contains(file), "{words}: {text}");
        let secret = key.lines().nth(1).filter(|line| line.len() > 10);
        assert!(secret.is_none_or(|line| !format!("{text} {error:?}").contains(line)), "{text}");
    }
    let absent = Files { certificate: "/nowhere/tls.crt".into(), key: "/nowhere/tls.key".into() };
    let error = Tls::load(absent, Clock::system()).await.err().unwrap().to_string();
    assert!(error.starts_with("failed to read /nowhere/tls.crt: No such file"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_is_not_valid_now_is_served_with_a_warning() {
    let authority = Authority::new();
    for (from, to, words) in [(2000, 2001, "has expired"), (4000, 9999, "is not valid yet")] {
        let (log, _guard) = capture();
        let mut params = server();
        (params.not_before, params.not_after) = (date_time_ymd(from, 1, 1), date_time_ymd(to, 12, 31));
        let served = Served::with(&authority.issue(&params, &PKCS_ECDSA_P256_SHA256)).await;
        let text = log.all();
        assert!(
            text.contains("WARN") && text.contains(words) && text.contains("localhost 127.0.0.1"),
            "{text}"
        );
        let error = served.connect(&authority.client(), "localhost").await.unwrap_err().to_string();
        assert!(error.contains("invalid peer certificate: certificate "), "the client decides: {error}");
    }
}

#[tokio::test]
async fn any_name_gets_the_one_certificate() {
    let authority = Authority::new();
    let served = Served::with(&authority.server()).await;
    let error = served.connect(&authority.client(), "other.example").await.unwrap_err().to_string();
    assert!(error.contains("not valid for name \"other.example\""), "{error}");
}

#[tokio::test]
async fn a_client_that_writes_byte_by_byte_is_served() {
    let authority = Authority::new();
    let served = Served::with(&authority.server()).await;
    let (near, far) = tokio::io::duplex(1 << 16);
    let mut tcp = served.tcp().await;
    tokio::spawn(async move {
        let ((mut from_near, mut to_near), (mut from_tcp, mut to_tcp)) = (tokio::io::split(far), tcp.split());
        let there = async {
            let mut byte = [0];
            while from_near.read_exact(&mut byte).await.is_ok() {
                to_tcp.write_all(&byte).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        drop(futures::join!(there, tokio::io::copy(&mut from_tcp, &mut to_near)));
    });
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = authority.client().connector().connect(name, near).await.unwrap();
    works(&mut stream).await;
}

/// The first bytes of a handshake: a record that announces 512 bytes.
const HELLO: [u8; 9] = [22, 3, 1, 2, 0, 1, 0, 1, 252];

#[tokio::test]
async fn a_handshake_has_10_s() {
    let served = Served::with(&Authority::new().server()).await;
    for bytes in [&[][..], &HELLO[..1], &HELLO] {
        let begun = Instant::now();
        let mut stream = served.tcp().await;
        stream.write_all(bytes).await.unwrap();
        tokio::time::pause();
        drop(stream.read_to_end(&mut Vec::new()).await);
        assert_eq!(begun.elapsed().as_secs(), 10, "{bytes:?}");
        tokio::time::resume();
    }
    // One that drips has no more time.
    let mut stream = served.tcp().await;
    let begun = Instant::now();
    tokio::time::pause();
    for byte in HELLO.into_iter().chain(std::iter::repeat(0)) {
        if stream.write_all(&[byte]).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
    assert!((10..13).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn over_tls_a_head_has_10_s_and_an_idle_connection_75() {
    let authority = Authority::new();
    let served = Served::with(&authority.server()).await;
    for (requests, expected) in [(0, 10), (2, 75)] {
        let mut begun = Instant::now();
        let mut stream = served.connect(&authority.client(), "localhost").await.unwrap();
        for _ in 0..requests {
            begun = Instant::now();
            works(&mut stream).await;
        }
        tokio::time::pause();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap_or_default();
        assert_eq!((begun.elapsed().as_secs(), rest.len()), (expected, 0));
        tokio::time::resume();
    }
}

#[tokio::test]
async fn plain_http_on_the_port_of_https_is_answered() {
    let served = Served::with(&Authority::new().server()).await;
    let post =
        format!("POST /jobs HTTP/1.1\r\nhost: x\r\ncontent-length: 99999\r\n\r\n{}", "x".repeat(99_999));
    for request in [GOOD, &post, "G"] {
        let mut stream = served.tcp().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 400 ") && head.contains("connection: close"), "{head}");
        let problem: Value = serde_json::from_str(body).unwrap();
        assert_eq!(problem["code"], "malformed_request");
        assert!(problem["detail"].as_str().unwrap().contains("HTTPS"), "{problem}");
    }
}

#[tokio::test]
async fn older_versions_and_other_protocols_are_refused_by_an_alert() {
    let authority = Authority::new();
    let served = Served::with(&authority.server()).await;
    // TLS 1.0 and 1.1: a hello with one cipher suite and no extension.
    for minor in [1, 2] {
        let mut hello = vec![22, 3, 1, 0, 45, 1, 0, 0, 41, 3, minor];
        hello.extend([7; 32]);
        hello.extend([0, 0, 2, 0, 0x2f, 1, 0]);
        let mut stream = served.tcp().await;
        stream.write_all(&hello).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        // A fatal alert: handshake_failure or protocol_version.
        let [.., level, description] = answer[..] else { panic!("{answer:?}") };
        assert!(answer[0] == 21 && level == 2 && [40, 70].contains(&description), "{answer:?}");
    }
    // A client that speaks HTTP/2 only.
    let client = pki::Client { protocols: vec![b"h2".to_vec()], ..authority.client() };
    let error = served.connect(&client, "localhost").await.unwrap_err().to_string();
    assert!(error.contains("NoApplicationProtocol"), "{error}");
    // One that names no protocol, and one that prefers another one, are served.
    for protocols in [vec![], vec![b"h2".to_vec(), b"http/1.1".to_vec()], vec![b"http/1.0".to_vec()]] {
        let client = pki::Client { protocols, ..authority.client() };
        works(&mut served.connect(&client, "localhost").await.unwrap()).await;
    }
    // What is neither TLS nor HTTP is closed.
    let mut stream = served.tcp().await;
    stream.write_all(&[0x80, 1, 2, 3, 4, 5, 6, 7]).await.unwrap();
    at_once(async { drop(stream.read_to_end(&mut Vec::new()).await) }).await;
}

#[tokio::test]
async fn a_server_that_stops_waits_for_no_handshake() {
    let authority = Authority::new();
    let mut served = Served::with(&authority.server()).await;
    let mut used = served.connect(&authority.client(), "localhost").await.unwrap();
    works(&mut used).await;
    let mut begun = served.tcp().await;
    begun.write_all(&HELLO).await.unwrap();
    served.stop.send_replace(true);
    let mut rest = Vec::new();
    at_once(async { drop(begun.read_to_end(&mut rest).await) }).await;
    // An idle connection is closed 2 s later, before a handshake would have ended by itself.
    let ended = tokio::time::timeout(Duration::from_secs(5), async {
        (&mut served.task).await.unwrap();
        used.read_to_end(&mut rest).await.unwrap();
    });
    ended.await.unwrap();
    assert!(rest.is_empty());
}
