//! The listener: its timeouts, the limit on connections, and a graceful shutdown.
//!
//! Each connection serves HTTP/1.1. [`connection`](super::connection) limits how long it may be idle and how long a head
//! may take. Connections over `MAX_CONNECTIONS` wait in the kernel's queue. The server disconnects a client that does not
//! read ([`write_timeout`](super::write_timeout)), and one that does not answer TCP keepalive probes, which the kernel
//! sends after `KEEPALIVE_TIME` without traffic. After the stop signal each response asks its client to close the
//! connection; then the server accepts no more connections and completes the requests in flight, for at most
//! `SHUTDOWN_TIMEOUT`; streaming responses end at the same signal ([`streams`](super::streams)).
//!
//! Where the listener has a certificate, each connection begins with a TLS handshake ([`tls`](super::tls)), and all of this
//! holds for what follows it.

use std::{convert::Infallible, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{HeaderValue, Request, Response, header},
};
use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tower::ServiceExt as _;

use super::{
    connection::{Connection, Exchange, HEAD_LIMIT, IDLE_LIMIT, LINGER, RequestBody, ResponseBody},
    request_id::RequestIds,
    tls::Tls,
    write_timeout::write_timeout,
};
use crate::random::Random;

/// Most connections at once.
const MAX_CONNECTIONS: usize = 16_384;
/// Longest time for requests in flight at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
/// How long after the stop signal the server still serves connections that are idle. The response to the next request on each
/// asks its client to close it: a request that is sent just as the server closes its connection is lost.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Time without traffic after which the kernel sends a TCP keepalive probe, and the time between probes.
const KEEPALIVE_TIME: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Longest head, in bytes.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Time between a failed accept (such as without free file descriptors) and the next one.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Where the server accepts connections.
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    /// What connections begin with, where they are not plain HTTP.
    tls: Option<Tls>,
}

impl Listener {
    /// Connections of this listener; where `tls` is given, they begin with a handshake.
    #[must_use]
    pub fn new(tcp: TcpListener, tls: Option<Tls>) -> Self {
        Self { tcp, tls }
    }
}

impl From<TcpListener> for Listener {
    fn from(tcp: TcpListener) -> Self {
        Self::new(tcp, None)
    }
}

/// Serves `routes` until `stop`, and then until the requests in flight have ended. `random` makes the ids of requests that
/// never reach the router.
pub async fn serve(listener: impl Into<Listener>, routes: Router, random: Random, stop: Stop) {
    let server = Server {
        listener: listener.into(),
        routes,
        ids: RequestIds::new(random),
        permits: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        open: Arc::default(),
        stop: stop.clone(),
    };
    server.accept_until(stop).await;
    server.accept_until(closed(&server.open, DRAIN_TIMEOUT).map(drop)).await;
    drop(server.listener);
    if !closed(&server.open, SHUTDOWN_TIMEOUT).await {
        tracing::warn!(
            seconds = SHUTDOWN_TIMEOUT.as_secs(),
            "some requests did not complete before the shutdown timeout"
        );
    }
}

struct Server {
    listener: Listener,
    routes: Router,
    ids: RequestIds,
    permits: Arc<Semaphore>,
    /// How many connections are open.
    open: Arc<watch::Sender<usize>>,
    stop: Stop,
}

/// The stop signal. Each connection receives it by itself: at the same moment as the streaming response on it.
pub type Stop = Shared<BoxFuture<'static, ()>>;

impl Server {
    /// Accepts connections until `end`.
    async fn accept_until(&self, end: impl Future<Output = ()> + Send) {
        let mut end = std::pin::pin!(end);
        loop {
            let accepted = async {
                let permit = Arc::clone(&self.permits).acquire_owned().await;
                (self.listener.tcp.accept().await, permit)
            };
            let (accepted, permit) = tokio::select! {
                biased;
                () = &mut end => return,
                accepted = accepted => accepted,
            };
            match accepted {
                Ok((stream, address)) => self.spawn(stream, address, permit),
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    /// Serves a connection, which counts with `permit`.
    fn spawn(&self, stream: TcpStream, address: SocketAddr, permit: impl Send + 'static) {
        let alive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
        if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&alive) {
            tracing::debug!(%error, "failed to enable TCP keepalive");
        }
        // A client with many idle connections does not keep other clients out.
        let is_crowded = self.permits.available_permits() < MAX_CONNECTIONS / 4;
        let idle = if is_crowded { HEAD_LIMIT } else { IDLE_LIMIT };
        let (routes, ids, stop) = (self.routes.clone(), self.ids.clone(), self.stop.clone());
        let (open, tls) = (Open::new(&self.open), self.listener.tls.clone());
        tokio::spawn(async move {
            match tls {
                None => serve_one(write_timeout(stream), address, routes, idle, ids, stop).await,
                Some(tls) => serve_tls(&tls, stream, address, routes, idle, ids, stop).await,
            }
            drop((permit, open));
        });
    }
}

/// Counts a connection as open until it is dropped, also where its task panics.
struct Open(Arc<watch::Sender<usize>>);

impl Open {
    fn new(count: &Arc<watch::Sender<usize>>) -> Self {
        count.send_modify(|open| *open += 1);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

/// [`serve_one`] after a TLS handshake, which the stop signal ends. The timeout of writes is below TLS, where it sees each
/// byte that the client takes.
async fn serve_tls(
    tls: &Tls,
    stream: TcpStream,
    address: SocketAddr,
    routes: Router,
    idle: Duration,
    ids: RequestIds,
    stop: Stop,
) {
    let stream = tokio::select! {
        biased;
        () = stop.clone() => return,
        stream = tls.accept(stream, &ids) => stream,
    };
    if let Some(stream) = stream {
        serve_one(stream, address, routes, idle, ids, stop).await;
    }
}

/// Waits until no connection is open; whether that is so within `limit`.
async fn closed(open: &watch::Sender<usize>, limit: Duration) -> bool {
    let mut open = open.subscribe();
    tokio::time::timeout(limit, open.wait_for(|open| *open == 0)).await.is_ok()
}

/// A response that a handler is working on.
type Responding = BoxFuture<'static, Result<Response<ResponseBody>, Infallible>>;

/// Serves one connection, which may be idle for `idle` and whose writes have a timeout, until its end.
pub(super) async fn serve_one<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    address: SocketAddr,
    routes: Router,
    idle: Duration,
    ids: RequestIds,
    stop: Stop,
) {
    let exchange = Exchange::default();
    let stream = TokioIo::new(Connection::new(stream, exchange.clone(), idle, ids));
    let (requests, stopping) = (exchange.clone(), stop.clone());
    let service = service_fn(move |request: Request<Incoming>| -> Responding {
        requests.begin();
        let body = |body| axum::body::Body::new(RequestBody::new(body, requests.clone()));
        let mut request = request.map(body);
        request.extensions_mut().insert(ConnectInfo::<SocketAddr>(address));
        let (response, exchange) = (routes.clone().oneshot(request), requests.clone());
        let stopping = stopping.clone();
        Box::pin(async move {
            let response = response.await?;
            let ends = stopping.peek().is_some() || exchange.is_unread();
            let mut response = response.map(|body| ResponseBody::new(body, exchange));
            if ends {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    });
    let mut http = http1::Builder::new();
    // For a head that the connection does not see begin: its first bytes came with the request before it.
    let limit = idle + HEAD_LIMIT;
    http.timer(TokioTimer::new()).header_read_timeout(limit).max_buf_size(MAX_HEAD_BYTES);
    let mut connection = http.serve_connection(stream, service);
    let served = async {
        tokio::select! {
            biased;
            () = stop => (),
            ended = &mut connection => return ended,
        }
        if exchange.is_awaited() {
            tokio::select! {
                ended = &mut connection => return ended,
                () = tokio::time::sleep(DRAIN_TIMEOUT) => (),
            }
        }
        Pin::new(&mut connection).graceful_shutdown();
        (&mut connection).await
    };
    // A client that disconnects early is not a failure of the server.
    drop(served.await);
    // After a request with `Upgrade` hyper leaves the shutdown to its caller; a second one does nothing.
    let mut stream = connection.into_parts().io.into_inner();
    drop(tokio::time::timeout(LINGER, stream.shutdown()).await);
}
