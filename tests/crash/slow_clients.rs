//! Slow and malformed connections: they delay no other client, each ends in time, and the server's state is afterwards
//! as before.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crofter_test_cluster::wait;
use futures::{StreamExt, future::join_all, stream};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    OPERATOR_FAULTS,
    common::{
        WAIT_TIMEOUT, World,
        rest::{request, tenant},
    },
};

/// Connections at once, if the limit of open files allows them.
const FLOOD: usize = 10_000;
/// Other files that the test and the server need.
const OTHER_FILES: usize = 1000;
/// Requests with half a body that one tenant has under way: more than the server takes of all.
const HALVES: usize = 600;
/// Within which another client has each of its answers, and half of them: bounds that a busy machine keeps, too. Of a
/// flood of connections the kernel drops some that then wait for seconds.
const ANSWERED: Duration = Duration::from_secs(30);
const HALF_ANSWERED: Duration = Duration::from_secs(5);

/// Open files that a process may have.
fn most_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX)
}

/// What a process has open, and its memory in MiB.
fn held(pid: u32) -> (usize, usize) {
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    (files, line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024)
}

/// Asks again and again on new connections until `over`; how long each answer took. Where the server is too busy (503) it
/// tries again, as clients do.
async fn ordinary(world: &World, key: &str, over: &AtomicBool) -> Vec<Duration> {
    let mut took = Vec::new();
    while !over.load(Ordering::SeqCst) || took.len() < 10 {
        let begun = Instant::now();
        wait::until(WAIT_TIMEOUT, "an answer", async || {
            let answer = world.asked("GET", "/v1/jobs", key, None).await;
            assert!([200, 503].contains(&answer.status), "request {}: {answer:?}", took.len());
            if answer.status == 200 { Ok(()) } else { Err(answer) }
        })
        .await
        .unwrap();
        took.push(begun.elapsed());
    }
    took.sort();
    took
}

/// Runs `slow` and an ordinary client concurrently, and prints the latencies of the latter.
async fn with_ordinary_client<T>(world: &World, key: &str, what: &str, slow: impl Future<Output = T>) -> T {
    let over = AtomicBool::new(false);
    let slow = async {
        let result = slow.await;
        over.store(true, Ordering::SeqCst);
        result
    };
    let (result, took) = futures::join!(slow, ordinary(world, key, &over));
    let (half, most) = (took[took.len() / 2], took[took.len() - 1]);
    println!("{what}: {} ordinary requests, p50 {half:?}, at most {most:?}", took.len());
    assert!(most < ANSWERED && half < HALF_ANSWERED, "{what}: {took:?}");
    result
}

/// What comes until the connection is closed; `None` when it is not within that time.
async fn ended(mut stream: TcpStream, within: Duration) -> Option<String> {
    let mut bytes = Vec::new();
    // A reset is an end, too.
    let end = timeout(within, stream.read_to_end(&mut bytes)).await;
    end.ok().map(|_| String::from_utf8_lossy(&bytes).into_owned())
}

/// What comes until the server closes the connection, and when that was.
async fn until_closed(stream: TcpStream) -> (String, Duration) {
    let begun = Instant::now();
    let answer = ended(stream, WAIT_TIMEOUT).await;
    (answer.unwrap_or_else(|| panic!("still open after {WAIT_TIMEOUT:?}")), begun.elapsed())
}

fn status(answer: &str) -> Option<u16> {
    answer.split(' ').nth(1)?.parse().ok()
}

/// Whether it ended as it should: with nothing, or a refusal that is the client's fault.
fn refused(answer: &str) -> bool {
    answer.is_empty() || status(answer).is_some_and(|status| (400..500).contains(&status))
}

async fn sent(world: &World, bytes: &[u8]) -> TcpStream {
    let mut stream = world.connect().await.unwrap();
    // It may be refused before all of it is sent.
    drop(stream.write_all(bytes).await);
    stream
}

/// Sends a head byte by byte until the server closes the connection.
async fn drips(world: &World, head: &str) -> Duration {
    let (mut stream, begun) = (world.connect().await.unwrap(), Instant::now());
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    for byte in head.bytes().cycle() {
        tick.tick().await;
        let mut answer = [0; 64];
        let would_wait = |e: io::Error| e.kind() == io::ErrorKind::WouldBlock;
        let ended = !stream.try_read(&mut answer).is_err_and(would_wait);
        let closed = stream.write_all(&[byte]).await.is_err() || ended;
        if closed || begun.elapsed() > WAIT_TIMEOUT {
            break;
        }
    }
    begun.elapsed()
}

/// Requests much and reads nothing: the server must not wait for ever.
async fn unread(world: &World, key: &str) -> Duration {
    let bearer = format!("Bearer {key}");
    let question = request("GET", "/problems", &[("authorization", &bearer)], None).repeat(2000);
    let (mut stream, begun) = (world.connect().await.unwrap(), Instant::now());
    // It ends in an error when the server gives up; it must not end well, or there was room for all.
    let written =
        timeout(WAIT_TIMEOUT, async { while stream.write_all(question.as_bytes()).await.is_ok() {} });
    assert!(written.await.is_ok(), "the server still waits after {WAIT_TIMEOUT:?}");
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_odd_connections_end_and_delay_no_other_client() {
    let (world, _exclusive) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    world.start_operator();
    world.until_ready().await;
    // Given requests that never end.
    let key = tenant(&verbs, "patient", json!({"plan": "basic"})).await;
    let slow = tenant(&verbs, "dawdler", json!({"plan": "basic"})).await;
    let auth = format!("host: x\r\nauthorization: Bearer {slow}\r\ncontent-type: application/json\r\n");
    let half = format!("POST /v1/jobs HTTP/1.1\r\n{auth}content-length: 100\r\n\r\n{{\"image\": ");
    let chunk = format!("POST /v1/jobs HTTP/1.1\r\n{auth}transfer-encoding: chunked\r\n\r\n5\r\n{{\"ima");
    let drip = "GET /v1/jobs HTTP/1.1\r\nhost: x\r\nx-slow: ".to_owned() + &"a".repeat(500);

    // When hundreds of them are open at once.
    let (halves, dripping, reading) = with_ordinary_client(world, &key, "slow clients", async {
        let halves = stream::iter(0..HALVES).map(async |n| {
            let bytes = if n % 2 == 0 { &half } else { &chunk };
            until_closed(sent(world, bytes.as_bytes()).await).await
        });
        let dripping = join_all((0..20).map(|_| drips(world, &drip)));
        let reading = join_all((0..4).map(|_| unread(world, &slow)));
        futures::join!(halves.buffer_unordered(HALVES).collect::<Vec<_>>(), dripping, reading)
    })
    .await;
    // Then each ends: with a timeout, or at once when too many are open.
    let timed_out = halves.iter().filter(|(answer, _)| status(answer) == Some(408)).count();
    let overloaded = halves.iter().filter(|(answer, _)| status(answer) == Some(503)).count();
    assert_eq!(
        timed_out + overloaded,
        HALVES,
        "{:?}",
        halves.iter().map(|(a, _)| status(a)).collect::<Vec<_>>()
    );
    assert!(timed_out >= 100 && overloaded >= 100, "{timed_out} given up, {overloaded} not begun");
    let longest = |all: &[Duration]| all.iter().max().copied().unwrap();
    assert!(longest(&dripping) < WAIT_TIMEOUT, "{dripping:?}");
    let given_up = halves.iter().map(|(_, took)| *took).max().unwrap();
    println!(
        "half bodies given up after {given_up:?} ({timed_out} of {HALVES}; the others were not served), heads after {:?}, \
         who does not read after {:?}",
        longest(&dripping),
        longest(&reading)
    );

    // Given malformed requests.
    let long = |n: usize| "x".repeat(n);
    let odd: Vec<Vec<u8>> = vec![
        b"\r\n\r\n\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(20),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        [0; 5000].to_vec(),
        vec![0xff; 100_000],
        format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", long(100_000)).into_bytes(),
        format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", long(1_000_000)).into_bytes(),
        format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(1000)).into_bytes(),
        b"GET / HTTP/1.1\r\nhost: x\r\n folded: y\r\n\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nhost : x\r\nna me: y\r\n\r\n".to_vec(),
        format!("POST /v1/jobs HTTP/1.1\r\n{auth}content-length: 5\r\ncontent-length: 6\r\n\r\n{{}}")
            .into_bytes(),
        format!("POST /v1/jobs HTTP/1.1\r\n{auth}content-length: -1\r\n\r\n{{}}").into_bytes(),
        format!("POST /v1/jobs HTTP/1.1\r\n{auth}transfer-encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n")
            .into_bytes(),
        format!("POST /v1/jobs HTTP/1.1\r\n{auth}transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n{{}}")
            .into_bytes(),
        format!("POST /v1/jobs HTTP/1.1\r\n{auth}transfer-encoding: gzip\r\n\r\n{{}}").into_bytes(),
    ];
    // Then each is refused or its connection closed.
    with_ordinary_client(world, &key, "what is no request", async {
        for bytes in &odd {
            let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(60)]).into_owned();
            let (answer, took) = until_closed(sent(world, bytes).await).await;
            assert!(refused(&answer), "{shown:?} after {took:?}: {answer}");
        }
    })
    .await;
    world.kill_operator();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_connections_at_once_are_survived() {
    let (world, _exclusive) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    world.start_operator();
    world.until_ready().await;
    let key = tenant(&verbs, "crowded", json!({"plan": "basic"})).await;
    let pid = world.operator_pid();
    let before = held(pid);
    let count = FLOOD.min(most_files().saturating_sub(OTHER_FILES));
    let begun = Instant::now();
    let (peak, ends) = with_ordinary_client(world, &key, "a flood of connections", async {
        // A third sends nothing, a third half a head, a third a whole request with a key that is none.
        let guess = request("GET", "/v1/whoami", &[("x-api-key", "crft_guess")], None);
        let bytes = ["", "GET /v1/jobs HTTP/1.1\r\nhost", guess.as_str()];
        let open = stream::iter(0..count).map(|n| sent(world, bytes[n % 3].as_bytes()));
        let open: Vec<TcpStream> = open.buffer_unordered(256).collect().await;
        let peak = held(pid);
        println!("{count} connections opened in {:?}", begun.elapsed());
        (peak, join_all(open.into_iter().map(|stream| ended(stream, WAIT_TIMEOUT / 2))).await)
    })
    .await;
    // The kernel drops what comes faster than the server accepts it, and who sends nothing does not hear of that.
    let unheard = ends.iter().filter(|answer| answer.is_none()).count();
    println!("closed after {:?}, but for {unheard} that the server never had", begun.elapsed());
    for answer in ends.iter().flatten() {
        assert!(refused(answer) || status(answer) == Some(503), "{answer}");
    }
    let after = wait::until(WAIT_TIMEOUT, "the server to close its connections", async || {
        let now = held(pid);
        if now.0 < before.0 + 100 { Ok(now) } else { Err(now) }
    })
    .await
    .unwrap();
    println!("files and MiB of the server: {before:?} before, {peak:?} at the height, {after:?} after");
    // The server closes the first connections while the last are opened.
    assert!(peak.0 > count / 4, "{} files open: there was no crowd", peak.0);
    with_ordinary_client(world, &key, "afterwards", std::future::ready(())).await;
    world.kill_operator();
}
