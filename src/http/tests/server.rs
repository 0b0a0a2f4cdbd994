use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::http::server::serve;

/// What comes of this while time stands still, so that nothing in it can wait for a deadline. Tokio moves a paused clock
/// on only where nothing blocks; where all wait for time, it does so in half a minute.
async fn at_once<T>(work: impl Future<Output = T>) -> T {
    let (_held, dropped) = std::sync::mpsc::channel::<()>();
    tokio::task::spawn_blocking(move || dropped.recv_timeout(Duration::from_secs(30)));
    tokio::time::pause();
    let done = tokio::time::timeout(Duration::from_millis(1), work).await.expect("this waits for a deadline");
    tokio::time::resume();
    done
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
async fn a_server_that_stops_does_not_wait_for_what_goes_on() {
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
    let served = tokio::spawn(serve(listener, routes(lab.app.clone(), Metrics::default()), stopped));
    let job = format!("/jobs/{JOB_UID}");
    let mut events = open(address, &format!("{job}/events")).await;
    let mut log = open(address, &format!("{job}/logs?follow")).await;
    pieces.send("one\n".to_owned()).await.unwrap();
    lab.stop.send_replace(true);
    let (mut told, mut printed) = (String::new(), String::new());
    at_once(async {
        events.read_to_string(&mut told).await.unwrap();
        let _ = log.read_to_string(&mut printed).await;
        served.await.unwrap();
    })
    .await;
    assert!(told.ends_with("0\r\n\r\n"), "events end properly, the client comes back: {told}");
    assert!(!printed.ends_with("0\r\n\r\n"), "a log that was cut shows it: {printed}");
}

#[tokio::test]
async fn a_client_that_goes_away_gives_its_place_back() {
    let lab = Lab::new();
    lab.job(1, json!({"phase": "Running", "attempt": 1}));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let routes = routes(lab.app.clone(), Metrics::default());
    let served = tokio::spawn(serve(listener, routes, std::future::pending()));
    let path = format!("/jobs/{JOB_UID}/logs?follow");
    let mut open_now = Vec::new();
    for _ in 0..streams::Kind::Logs.of_tenant() {
        let (pieces, receiver) = mpsc::channel::<String>(1);
        lab.logs.lock().unwrap().push_back(Ok(receiver));
        open_now.push((open(address, &path).await, pieces));
    }
    let full = || lab.app.streams.enter(streams::Kind::Logs, TENANT_UID).is_err();
    assert!(full());
    let (client, pieces) = open_now.pop().unwrap();
    drop(client);
    // The server lets go of a log and of its place in one step.
    at_once(pieces.closed()).await;
    assert!(!full());
    served.abort();
}
