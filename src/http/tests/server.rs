use std::time::Duration;

use futures::FutureExt as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::http::{
    connection::IDLE_LIMIT,
    request_id::RequestIds,
    server::{Stop, serve, serve_one},
    write_timeout::write_timeout,
};

/// Runs this while time is paused, so that nothing in it can wait for a deadline. Tokio advances a paused clock only where
/// no thread blocks; this one blocks for at most half a minute.
pub(super) async fn at_once<T>(work: impl Future<Output = T>) -> T {
    let (_held, dropped) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || dropped.recv_timeout(Duration::from_secs(30)));
    tokio::time::pause();
    let done = tokio::time::timeout(Duration::from_millis(1), work).await.expect("this waits for a deadline");
    tokio::time::resume();
    done
}

pub(super) fn never() -> Stop {
    std::future::pending().boxed().shared()
}

pub(super) fn random() -> Random {
    Random::of(|bytes| {
        bytes.fill(1);
        Ok(())
    })
}

async fn open(address: std::net::SocketAddr, path: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: {KEY}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut first = [0; 64];
    let read = stream.read(&mut first).await.unwrap();
    assert!(first[..read].starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&first));
    stream
}

#[tokio::test]
async fn a_server_that_stops_does_not_wait_for_streams() {
    let lab = Lab::new();
    lab.job(1, json!({"phase": "Running", "attempt": 1}));
    let (pieces, receiver) = mpsc::channel(1);
    lab.logs.lock().unwrap().push_back(Ok(receiver));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut stop = lab.stop.subscribe();
    let stopped = async move {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let served = tokio::spawn(serve(
        listener,
        routes(lab.app.clone(), Metrics::default()),
        random(),
        stopped.boxed().shared(),
    ));
    // Step 1: a client follows events, and another one a log.
    let job = format!("/jobs/{JOB_UID}");
    let mut events = open(address, &format!("{job}/events")).await;
    let mut log = open(address, &format!("{job}/logs?follow")).await;
    pieces.send("one\n".to_owned()).await.unwrap();
    // Step 2: the server stops, and both streams end.
    lab.stop.send_replace(true);
    let (mut sent, mut printed) = (String::new(), String::new());
    at_once(async {
        events.read_to_string(&mut sent).await.unwrap();
        let _ = log.read_to_string(&mut printed).await;
        served.await.unwrap();
    })
    .await;
    assert!(sent.ends_with("0\r\n\r\n"), "events end properly, so that the client reconnects: {sent}");
    assert!(!printed.ends_with("0\r\n\r\n"), "a log that was cut shows it: {printed}");
}

#[tokio::test]
async fn a_connection_whose_handler_panics_does_not_count_as_open() {
    let routes =
        axum::Router::new().route("/", axum::routing::get(|| async { panic!("as a test wants it") as &str }));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async move { drop(stopped.await) };
    let served = tokio::spawn(serve(listener, routes, random(), stopped.boxed().shared()));
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(stream.read(&mut [0; 64]).await.unwrap_or(0), 0, "it is closed");
    stop.send(()).unwrap();
    at_once(served).await.unwrap();
}

#[tokio::test]
async fn a_server_that_stops_asks_its_clients_to_close_before_it_does() {
    let lab = Lab::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let stopped = async move { drop(stopped.await) };
    let served = tokio::spawn(serve(
        listener,
        routes(lab.app.clone(), Metrics::default()),
        random(),
        stopped.boxed().shared(),
    ));
    // Step 1: a connection that is kept open.
    let mut kept = open(address, "/healthz").await;
    let mut rest = [0; 4096];
    let _ = tokio::time::timeout(Duration::from_millis(200), kept.read(&mut rest)).await;
    stop.send(()).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    // Step 2: its next request is still served, and the response says that it is the last one; so is that on a new one.
    for mut stream in [kept, TcpStream::connect(address).await.unwrap()] {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        assert!(response.to_lowercase().contains("\r\nconnection: close\r\n"), "{response}");
    }
    // Step 3: with no connection left it ends at once.
    tokio::time::timeout(Duration::from_secs(5), served).await.expect("it waits for nothing").unwrap();
}

#[tokio::test]
async fn a_client_that_disconnects_returns_its_permit() {
    let lab = Lab::new();
    lab.job(1, json!({"phase": "Running", "attempt": 1}));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = routes(lab.app.clone(), Metrics::default());
    let served = tokio::spawn(serve(listener, routes, random(), never()));
    let path = format!("/jobs/{JOB_UID}/logs?follow");
    let mut open_now = Vec::new();
    for _ in 0..streams::Kind::Logs.limit_per_tenant() {
        let (pieces, receiver) = mpsc::channel::<String>(1);
        lab.logs.lock().unwrap().push_back(Ok(receiver));
        open_now.push((open(address, &path).await, pieces));
    }
    let full = || lab.app.streams.try_acquire(streams::Kind::Logs, TENANT_UID).is_err();
    assert!(full());
    let (client, pieces) = open_now.pop().unwrap();
    drop(client);
    // The server drops a log and its permit together.
    at_once(pieces.closed()).await;
    assert!(!full());
    served.abort();
}

/// A connection that is served in virtual time.
fn connected(lab: &Lab) -> tokio::io::DuplexStream {
    let (client, server) = tokio::io::duplex(1 << 16);
    let routes = routes(lab.app.clone(), Metrics::default());
    let address = "127.0.0.1:1".parse().unwrap();
    tokio::spawn(async move {
        let server = write_timeout(server);
        serve_one(server, address, routes, IDLE_LIMIT, RequestIds::new(random()), never()).await;
    });
    client
}

/// Sends a request and reads its response, which has a length.
pub(super) async fn exchange(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    head: &str,
) -> (String, Value) {
    client.write_all(head.as_bytes()).await.unwrap();
    response(client).await
}

pub(super) async fn response(client: &mut (impl AsyncRead + Unpin)) -> (String, Value) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        head.push(char::from(client.read_u8().await.unwrap()));
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
    let mut body = vec![0; length.unwrap_or_default()];
    client.read_exact(&mut body).await.unwrap();
    (head, serde_json::from_slice(&body).unwrap_or_default())
}

pub(super) const GOOD: &str = "GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n";

/// Seconds until the server closes the connection, and what it sends before.
async fn closed(client: &mut tokio::io::DuplexStream) -> (u64, String) {
    let begun = tokio::time::Instant::now();
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    (begun.elapsed().as_secs(), rest)
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_lives_75_s_and_a_head_10() {
    // Step 1: a connection without a request, and one that is idle between requests.
    let lab = Lab::new();
    assert_eq!(closed(&mut connected(&lab)).await, (10, String::new()), "the client sends nothing");
    let mut client = connected(&lab);
    for idle in [0, 9, 60, 74] {
        tokio::time::sleep(Duration::from_secs(idle)).await;
        assert!(exchange(&mut client, GOOD).await.0.starts_with("HTTP/1.1 404 "), "after {idle} s");
    }
    assert_eq!(closed(&mut client).await, (75, String::new()));
    // Step 2: a head that drips on a used connection, and one that is sent late and slowly.
    let mut client = connected(&lab);
    exchange(&mut client, GOOD).await;
    tokio::time::sleep(Duration::from_secs(70)).await;
    let begun = tokio::time::Instant::now();
    for byte in GOOD.bytes().cycle() {
        if client.write_all(&[byte, b'x']).await.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
    assert!((10..12).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    let mut client = connected(&lab);
    exchange(&mut client, GOOD).await;
    tokio::time::sleep(Duration::from_secs(74)).await;
    client.write_all(&GOOD.as_bytes()[..10]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(exchange(&mut client, &GOOD[10..]).await.0.starts_with("HTTP/1.1 404 "));
}

/// Also of a server that accepts connections: its limit is longer while it has capacity than when it is crowded.
#[tokio::test]
async fn a_server_with_capacity_keeps_an_idle_connection_for_longer_than_a_proxy_does() {
    let lab = Lab::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = routes(lab.app.clone(), Metrics::default());
    let served = tokio::spawn(serve(listener, routes, random(), never()));
    let mut client = TcpStream::connect(address).await.unwrap();
    for _ in 0..3 {
        assert!(exchange(&mut client, GOOD).await.0.starts_with("HTTP/1.1 404 "));
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(60)).await;
        tokio::time::resume();
    }
    served.abort();
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_a_streaming_response_is_not_idle() {
    let lab = Lab::new();
    lab.job(1, json!({"phase": "Running", "attempt": 1}));
    let mut client = connected(&lab);
    let head = format!("GET /jobs/{JOB_UID}/events HTTP/1.1\r\nhost: x\r\nauthorization: {KEY}\r\n\r\n");
    assert!(exchange(&mut client, &head).await.0.starts_with("HTTP/1.1 200 "));
    let mut bytes = [0; 4096];
    let begun = tokio::time::Instant::now();
    while begun.elapsed() < Duration::from_secs(300) {
        assert!(client.read(&mut bytes).await.unwrap() > 0, "after {:?}", begun.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn the_response_to_a_malformed_head_is_a_problem_with_a_request_id() {
    let lab = Lab::new();
    let large = format!("GET / HTTP/1.1\r\nhost: x\r\nx-large: {}\r\n\r\n", "x".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nhost: x\r\n{}\r\n", "x: y\r\n".repeat(101));
    // Each case: a head, and the expected status and code; on a new connection and on a used one.
    for (bytes, status, code) in [
        ("GET / HTTP/1.1\r\nna me: y\r\n\r\n", 400, "malformed_request"),
        ("GET / HTTP/9.9\r\n\r\n", 400, "malformed_request"),
        ("\u{16}\u{3}\u{1}\u{2}\r\n\r\n", 400, "malformed_request"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "malformed_request"),
        (large.as_str(), 431, "head_too_large"),
        (many.as_str(), 431, "head_too_large"),
    ] {
        for after in [0, 2] {
            let mut client = connected(&lab);
            for _ in 0..after {
                exchange(&mut client, GOOD).await;
            }
            // The server may respond before it has received everything.
            let _ = client.write_all(bytes.as_bytes()).await;
            let (head, problem) = response(&mut client).await;
            let shown = bytes.chars().take(30).collect::<String>();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?}: {head}");
            assert!(head.contains("content-type: application/problem+json\r\n"), "{shown:?}: {head}");
            assert!(head.contains(&format!("x-request-id: {}\r\n", "01".repeat(16))), "{shown:?}: {head}");
            assert_eq!((&problem["code"], &problem["status"]), (&json!(code), &json!(status)), "{shown:?}");
            assert_eq!(problem["type"], format!("/problems/{code}"));
        }
    }
}

#[tokio::test]
async fn a_client_that_sends_a_body_which_is_refused_receives_the_response() {
    let lab = Lab::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server =
        tokio::spawn(serve(listener, routes(lab.app.clone(), Metrics::default()), random(), never()));
    let piece = vec![b' '; 64 << 10];
    let pieces = 128;
    let length = format!("content-length: {}", piece.len() * pieces);
    // Each case: who sends it, a further header, what comes before and after each piece, and the status.
    let chunk = (format!("{:x}\r\n", piece.len()), "\r\n", "0\r\n\r\n");
    let plain = (String::new(), "", "");
    for (who, header, (before, after, end), status) in [
        (KEY, length.as_str(), &plain, 413),
        (KEY, "transfer-encoding: chunked", &chunk, 413),
        ("unknown", length.as_str(), &plain, 401),
        // hyper leaves the end of such a connection to the server.
        ("unknown", &format!("{length}\r\nupgrade: h2c"), &plain, 401),
    ] {
        let mut client = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: {who}\r\ncontent-type: application/json\r\n{header}\r\n\r\n"
        );
        client.write_all(head.as_bytes()).await.unwrap();
        // A server that had closed the connection by now would reset it.
        tokio::time::sleep(Duration::from_millis(100)).await;
        for _ in 0..pieces {
            for bytes in [before.as_bytes(), &piece, after.as_bytes()] {
                client.write_all(bytes).await.unwrap_or_else(|error| panic!("{who} {header}: {error}"));
            }
        }
        client.write_all(end.as_bytes()).await.unwrap();
        let mut all = String::new();
        client.read_to_string(&mut all).await.unwrap_or_else(|error| panic!("{who} {header}: {error}"));
        assert!(all.starts_with(&format!("HTTP/1.1 {status} ")), "{who} {header}: {all}");
        assert!(all.contains("\r\nconnection: close\r\n"), "{who} {header}: {all}");
    }
    server.abort();
}

#[tokio::test(start_paused = true)]
async fn a_refused_body_that_came_with_its_head_ends_no_connection() {
    let lab = Lab::new();
    let mut client = connected(&lab);
    let post = "POST /v1/jobs HTTP/1.1\r\nhost: x\r\nauthorization: unknown\r\ncontent-length: 2\r\n\r\n{}";
    for _ in 0..2 {
        let (head, _) = exchange(&mut client, post).await;
        assert!(head.starts_with("HTTP/1.1 401 "), "{head}");
        assert!(!head.contains("connection: close"), "{head}");
    }
    // Nor is it kept any longer than one that is idle.
    assert_eq!(closed(&mut client).await, (75, String::new()));
    let end = tokio::time::timeout(Duration::from_secs(1), client.write_all(b"x")).await;
    assert!(end.is_ok_and(|written| written.is_err()), "the server still reads");
}

/// The status of the response to a request with this body, which may not end.
async fn sent(routes: axum::Router, method: &str, who: &str, path: &str, body: Body) -> u16 {
    let request =
        Request::builder().method(method).uri(path).header("host", "x").header("authorization", who);
    let request = request.header("content-type", "application/json").body(body).unwrap();
    routes.oneshot(request).await.unwrap().status().as_u16()
}

async fn posted(routes: axum::Router, who: &'static str, path: &'static str, body: Body) -> u16 {
    sent(routes, "POST", who, path, body).await
}

#[tokio::test]
async fn a_user_without_the_right_to_a_route_sends_it_no_body_and_has_no_place_of_administrators() {
    let lab = Lab::new();
    let routes = routes(lab.app.clone(), Metrics::default());
    let endless = || Body::from_stream(stream::pending::<Result<Vec<u8>, Infallible>>());
    // Given: administrators who have all places of administrators.
    let held: Vec<_> = (0..places::MAX_OF_ADMINISTRATORS)
        .map(|n| {
            let place = places::Place::default();
            place.take(&lab.app.places.administrators, &format!("administrator {}", n % 4)).unwrap();
            place
        })
        .collect();
    let document = crate::http::document();
    let paths = document["paths"].as_object().unwrap();
    let with_body = paths.iter().flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.filter(|(_, route)| !route["requestBody"].is_null()).map(move |(method, _)| (method, path))
    });
    let mut tried = Vec::new();
    for (method, path) in with_body {
        let is_of_administrators = path.starts_with("/v1/tenants");
        let tenant = if is_of_administrators { "" } else { "?tenant=acme" };
        let (method, path) = (method.to_uppercase(), format!("{}{tenant}", path.replace("{id}", "acme")));
        // When: a user without rights sends a body that does not come. Then: the response does not wait for it.
        let refused = sent(routes.clone(), &method, "Bearer stranger", &path, endless());
        assert_eq!(at_once(refused).await, 403, "{method} {path}");
        // With the right the request would have needed a place.
        if is_of_administrators {
            assert_eq!(sent(routes.clone(), &method, ADMIN, &path, endless()).await, 503, "{method} {path}");
        }
        tried.push(path);
    }
    assert!(tried.len() >= 6, "{tried:?}");
    drop(held);
    assert_eq!(posted(routes.clone(), ADMIN, "/v1/tenants", Body::from(r#"{"name": "new"}"#)).await, 201);
}

#[tokio::test]
async fn users_without_rights_keep_no_administrator_out() {
    let lab = Lab::new();
    let list = async |who: &str| lab.ask("GET", "/v1/tenants", who, "").await.0;
    assert_eq!(list(ADMIN).await, 200);
    // Given: users whose rights are being reviewed, as many at once as there may be.
    let held: Vec<_> = (0..places::MAX_IN_FLIGHT)
        .map(|n| {
            let place = places::Place::default();
            place.take(&lab.app.places.users, &format!("stranger {}", n % 16)).unwrap();
            place
        })
        .collect();
    // Then: one who was not reviewed before finds no place, and an administrator does.
    assert_eq!(list("Bearer clerk").await, 503);
    assert_eq!(list(ADMIN).await, 200);
    drop(held);
    assert_eq!(list("Bearer clerk").await, 200);
}

#[tokio::test]
async fn bodies_that_do_not_come_keep_no_one_out() {
    let lab = Lab::new();
    let routes = routes(lab.app.clone(), Metrics::default());
    let asked = async |who: &str, path: &str| {
        let request = Request::get(path).header("host", "x").header("authorization", who);
        let request = request.body(Body::empty()).unwrap();
        routes.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    let endless = || Body::from_stream(stream::pending::<Result<Vec<u8>, Infallible>>());
    // Given: as many bodies that do not come as the server receives of one tenant, and of one administrator.
    let mut open: Vec<BoxFuture<'static, u16>> = Vec::new();
    let receives = async |who: &'static str, path: &'static str, open: &mut Vec<BoxFuture<'static, u16>>| {
        for count in 0.. {
            let mut one: BoxFuture<'static, u16> = Box::pin(posted(routes.clone(), who, path, endless()));
            match futures::poll!(&mut one) {
                std::task::Poll::Pending => open.push(one),
                std::task::Poll::Ready(status) => return (count, status),
            }
        }
        unreachable!("there is no bound");
    };
    assert_eq!(receives(KEY, "/v1/jobs", &mut open).await, (places::MAX_BLOCKS_PER_TENANT, 503));
    // The server knows the clerk's right.
    assert_eq!(posted(routes.clone(), "Bearer clerk", "/v1/tenants", Body::from("{}")).await, 422);
    let (clerks, status) = receives("Bearer clerk", "/v1/tenants", &mut open).await;
    assert!(clerks >= 16 && status == 503, "{clerks} and then {status}");
    // Then: all else is served.
    assert_eq!(asked(KEY, "/v1/jobs").await, 200);
    assert_eq!(posted(routes.clone(), KEY, "/v1/jobs", Body::from("{}")).await, 422, "a body that comes");
    assert_eq!(asked("Bearer clerk", "/v1/whoami").await, 200);
    assert_eq!(posted(routes.clone(), ADMIN, "/v1/tenants", Body::from(r#"{"name": "new"}"#)).await, 201);

    // Given: tenants that have all places of tenants. Then: they keep out neither probes nor administrators.
    let held: Vec<_> = (0..places::MAX_IN_FLIGHT)
        .map(|n| {
            let place = places::Place::default();
            place.take(&lab.app.places.tenants, &format!("tenant {}", n % 2)).unwrap();
            place
        })
        .collect();
    assert_eq!(asked(KEY, "/v1/jobs").await, 503);
    assert_eq!(asked("", "/healthz").await, 200);
    assert_eq!(asked(ADMIN, "/v1/whoami").await, 200);
    drop(held);
    assert_eq!(asked(KEY, "/v1/jobs").await, 200);
}
