//! The pair is replaced while the server runs.

use super::*;

/// A little more than the time between two reads of the files.
const READ_INTERVAL: Duration = Duration::from_millis(10_010);

/// Time that does not pass by itself, until it is dropped: a clock that is paused moves on only where no thread blocks.
struct HeldTime(#[expect(dead_code, reason = "its drop ends the thread")] std::sync::mpsc::Sender<()>);

fn hold_time() -> HeldTime {
    let (held, dropped) = std::sync::mpsc::channel();
    tokio::task::spawn_blocking(move || dropped.recv_timeout(Duration::from_secs(60)));
    tokio::time::pause();
    HeldTime(held)
}

/// Waits until this holds once so much time has passed.
async fn until_after(time: Duration, what: &str, mut holds: impl AsyncFnMut() -> bool) {
    // What waits for that time has to wait already.
    tokio::task::yield_now().await;
    tokio::time::advance(time).await;
    let begun = std::time::Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(1));
        tokio::task::yield_now().await;
    }
}

/// Waits until this holds after the next read of the files.
async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    until_after(READ_INTERVAL, what, holds).await;
}

fn failures(metrics: &Metrics) -> String {
    let text = metrics.text().unwrap();
    let line = text.lines().find(|line| line.starts_with("crofter_tls_reload_failures_total ")).unwrap();
    line.rsplit_once(' ').unwrap().1.to_owned()
}

impl Served {
    /// Begins to follow the files.
    fn follow(&mut self) -> Metrics {
        let metrics = Metrics::default();
        tokio::spawn(self.reload.take().unwrap().run(metrics.clone()));
        metrics
    }

    /// Whether a new connection is served with this pair.
    async fn serves(&self, client: &pki::Client, pair: &Issued) -> bool {
        let stream = self.connect(client, "localhost").await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0]
            == crate::pem::certificates(pair.chain.as_bytes()).unwrap()[0]
    }
}

#[tokio::test]
async fn a_renewed_pair_serves_new_connections_and_open_ones_stay() {
    // Step 1: a connection with the first pair.
    let authority = Authority::new();
    let (first, client) = (authority.server(), authority.client());
    let mut served = Served::with(&first).await;
    let (_time, metrics) = (hold_time(), served.follow());
    let mut old = served.connect(&client, "localhost").await.unwrap();
    works(&mut old).await;
    // Step 2: the pair is renewed, three times in a row.
    for year in [2100, 2200, 2300] {
        let mut params = server();
        params.not_after = date_time_ymd(year, 1, 1);
        let renewed = authority.issue(&params, &PKCS_ECDSA_P256_SHA256);
        served.mounted.replace(&renewed);
        until("the renewed pair", async || served.serves(&client, &renewed).await).await;
        works(&mut old).await;
        let expiry = params.not_after.unix_timestamp();
        let sample = format!("crofter_tls_certificate_expiry_timestamp_seconds{{}} {expiry}\n");
        assert!(metrics.text().unwrap().contains(&sample), "{sample}");
    }
    assert_eq!(failures(&metrics), "0");
}

#[tokio::test]
async fn a_pair_that_is_not_whole_is_not_taken_until_it_is() {
    let (log, _guard) = capture();
    let authority = Authority::new();
    let (first, next, client) = (authority.server(), authority.server(), authority.client());
    let mut served = Served::with(&first).await;
    let (_time, metrics) = (hold_time(), served.follow());
    // Step 1: half of a certificate, then the whole of one whose key is not written yet, for two reads.
    for (number, certificate, words) in [
        ("1", &next.chain[..300], "half-written"),
        ("2", &next.chain, "does not belong to"),
        ("3", &next.chain, "does not belong to"),
    ] {
        served.mounted.write_certificate(certificate);
        until("a refused pair", async || failures(&metrics) == number).await;
        assert!(served.serves(&client, &first).await, "{number}");
        let text = log.all();
        assert!(text.contains(words) && text.contains("tls.crt"), "{text}");
    }
    // Step 2: both are whole.
    served.mounted.replace(&next);
    until("the whole pair", async || served.serves(&client, &next).await).await;
    // Step 3: files that are deleted change nothing either.
    let files = served.mounted.files();
    std::fs::remove_file(&files.key).unwrap();
    until("a read of an absent file", async || failures(&metrics) == "4").await;
    assert!(served.serves(&client, &next).await);
    let text = log.all();
    assert!(text.contains("failed to read") && text.contains("tls.key: No such file"), "{text}");
    assert_eq!(text.matches("is not taken").count(), 3, "once for each cause: {text}");
    for pair in [&first, &next] {
        assert!(!text.contains(pair.key.lines().nth(1).unwrap()), "a key is in the log");
    }
}

/// No new connection resumes a session that was negotiated with the pair before.
#[tokio::test]
async fn a_session_of_the_pair_before_is_not_resumed() {
    use tokio_rustls::rustls::HandshakeKind;
    let authority = Authority::new();
    let mut served = Served::with(&authority.server()).await;
    let (_time, metrics) = (hold_time(), served.follow());
    let connector = authority.client().connector();
    let kind = async || {
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, served.tcp().await).await.unwrap();
        // Reading the response takes the ticket.
        works(&mut stream).await;
        stream.get_ref().1.handshake_kind().unwrap()
    };
    assert_eq!(kind().await, HandshakeKind::Full);
    assert_eq!(kind().await, HandshakeKind::Resumed);
    let mut params = server();
    params.not_after = date_time_ymd(2100, 1, 1);
    served.mounted.replace(&authority.issue(&params, &PKCS_ECDSA_P256_SHA256));
    let taken = format!("{{}} {}\n", params.not_after.unix_timestamp());
    until("the renewed pair", async || metrics.text().unwrap().contains(&taken)).await;
    assert_eq!(kind().await, HandshakeKind::Full);
    assert_eq!(kind().await, HandshakeKind::Resumed);
}

#[tokio::test]
async fn a_handshake_under_way_is_completed_with_the_pair_it_began_with() {
    const HALF: usize = 100;
    let authority = Authority::new();
    let (first, next) = (authority.server(), authority.server());
    let mut served = Served::with(&first).await;
    let (_time, _metrics) = (hold_time(), served.follow());
    // Step 1: the first half of a handshake arrives, a while before the next read.
    let half_way = READ_INTERVAL / 2;
    until_after(half_way, "the first pair", async || served.serves(&authority.client(), &first).await).await;
    let (near, mut far) = tokio::io::duplex(1 << 16);
    let mut tcp = served.tcp().await;
    let (arrived, arrives) = tokio::sync::oneshot::channel();
    let (proceed, proceeds) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let mut bytes = [0; HALF];
        far.read_exact(&mut bytes).await.unwrap();
        tcp.write_all(&bytes).await.unwrap();
        arrived.send(()).unwrap();
        proceeds.await.unwrap();
        drop(tokio::io::copy_bidirectional(&mut far, &mut tcp).await);
    });
    let name = ServerName::try_from("localhost").unwrap();
    let connector = authority.client().connector();
    let handshake = tokio::spawn(async move { connector.connect(name, near).await });
    arrives.await.unwrap();
    // Step 2: the pair is replaced, and the second half arrives after that.
    served.mounted.replace(&next);
    until_after(half_way, "the next pair", async || served.serves(&authority.client(), &next).await).await;
    proceed.send(()).unwrap();
    let mut stream = handshake.await.unwrap().unwrap();
    let presented = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_eq!(presented, crate::pem::certificates(first.chain.as_bytes()).unwrap()[0]);
    works(&mut stream).await;
}
