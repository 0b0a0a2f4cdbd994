//! The listener: its timeouts, the limit on connections, and a graceful shutdown.
//!
//! Each connection serves HTTP/1.1. [`connection`](super::connection) limits how long it may be idle and how long a head
//! may take. Connections over `MAX_CONNECTIONS` wait in the kernel's queue. The server disconnects a client that does not
//! read ([`write_timeout`](super::write_timeout)), and one that does not answer TCP keepalive probes, which the kernel
//! sends after `KEEPALIVE_TIME` without traffic. At the stop signal the server accepts no more connections and completes
//! the requests in flight, for at most `SHUTDOWN_TIMEOUT`; streaming responses end at the same signal
//! ([`streams`](super::streams)).
//!
//! Where the listener has a certificate, each connection begins with a TLS handshake ([`tls`](super::tls)), and all of this
//! holds for what follows it.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::ConnectInfo,
    http::{Request, Response},
};
use futures::future::BoxFuture;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::{GracefulShutdown, Watcher},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tower::ServiceExt as _;

use super::{
    connection::{Connection, Exchange, HEAD_LIMIT, IDLE_LIMIT, ResponseBody},
    request_id::RequestIds,
    tls::Tls,
    write_timeout::write_timeout,
};
use crate::random::Random;

/// Most connections at once.
const MAX_CONNECTIONS: usize = 16_384;
/// Longest time for requests in flight at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
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
pub async fn serve(
    listener: impl Into<Listener>,
    routes: Router,
    random: Random,
    stop: impl Future<Output = ()> + Send,
) {
    let Listener { tcp: listener, tls } = listener.into();
    let mut stop = std::pin::pin!(stop);
    let ids = RequestIds::new(random);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let graceful = GracefulShutdown::new();
    // A handshake that is not complete at the stop signal is dropped, as is a connection without a request.
    let (handshaking, _) = watch::channel(());
    loop {
        let accepted = async {
            let permit = Arc::clone(&permits).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
                continue;
            }
        };
        let alive = TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
        if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&alive) {
            tracing::debug!(%error, "failed to enable TCP keepalive");
        }
        // A client with many idle connections does not keep other clients out.
        let is_crowded = permits.available_permits() < MAX_CONNECTIONS / 4;
        let idle = if is_crowded { HEAD_LIMIT } else { IDLE_LIMIT };
        let accepted = Accepted { stream, address, idle, routes: routes.clone(), ids: ids.clone() };
        let (tls, stopping, watcher) = (tls.clone(), handshaking.subscribe(), graceful.watcher());
        tokio::spawn(async move {
            match tls {
                None => accepted.serve(watcher).await,
                Some(tls) => accepted.serve_tls(&tls, stopping, watcher).await,
            }
            drop(permit);
        });
    }
    drop((listener, handshaking));
    if tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await.is_err() {
        tracing::warn!(
            seconds = SHUTDOWN_TIMEOUT.as_secs(),
            "some requests did not complete before the shutdown timeout"
        );
    }
}

/// A connection that was accepted.
struct Accepted {
    stream: TcpStream,
    address: SocketAddr,
    /// How long it may be idle.
    idle: Duration,
    routes: Router,
    ids: RequestIds,
}

impl Accepted {
    async fn serve(self, watcher: Watcher) {
        let Self { stream, address, idle, routes, ids } = self;
        let connection = serve_one(write_timeout(stream), address, routes, idle, ids);
        // A client that disconnects early is not a failure of the server.
        drop(watcher.watch(connection).await);
    }

    /// The same after a TLS handshake. The timeout of writes is below TLS, where it sees each byte that the client takes.
    async fn serve_tls(self, tls: &Tls, mut stopping: watch::Receiver<()>, watcher: Watcher) {
        let Self { stream, address, idle, routes, ids } = self;
        let stream = tokio::select! {
            biased;
            _ = stopping.changed() => return,
            stream = tls.accept(stream, &ids) => stream,
        };
        if let Some(stream) = stream {
            let connection = serve_one(stream, address, routes, idle, ids);
            drop(watcher.watch(connection).await);
        }
    }
}

/// A response that a handler is working on.
type Responding = BoxFuture<'static, Result<Response<ResponseBody>, Infallible>>;

/// A connection with its service.
type Served<S, A> = http1::Connection<TokioIo<Connection<S>>, A>;

/// Serves one connection, which may be idle for `idle`, and whose writes have a timeout.
pub(super) fn serve_one<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    address: SocketAddr,
    routes: Router,
    idle: Duration,
    ids: RequestIds,
) -> Served<
    S,
    impl Service<Request<Incoming>, Response = Response<ResponseBody>, Error = Infallible, Future = Responding>,
> {
    let exchange = Exchange::default();
    let stream = TokioIo::new(Connection::new(stream, exchange.clone(), idle, ids));
    let service = service_fn(move |request: Request<Incoming>| -> Responding {
        exchange.begin();
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(ConnectInfo::<SocketAddr>(address));
        let (response, exchange) = (routes.clone().oneshot(request), exchange.clone());
        Box::pin(async move { Ok(response.await?.map(|body| ResponseBody::new(body, exchange))) })
    });
    let mut http = http1::Builder::new();
    // For a head that the connection does not see begin: its first bytes came with the request before it.
    let limit = idle + HEAD_LIMIT;
    http.timer(TokioTimer::new()).header_read_timeout(limit).max_buf_size(MAX_HEAD_BYTES);
    http.serve_connection(stream, service)
}
