//! The listener: how long a client may take, how many may be connected, and an end in which no request is lost.
//!
//! One connection serves HTTP/1.1. How long it may be idle, and a head may take, is [`connection`](super::connection)'s;
//! connections over `MOST_CONNECTED` wait in the kernel's queue. A client that takes nothing of its answer is let go ([`Patient`]), and so is
//! one that is no longer there, which the kernel asks when nothing was said for `QUIET`. At the stop signal nobody new is
//! accepted, and what is under way is answered, for at most `FINISH`; answers that go on end at that signal
//! themselves ([`streams`](super::streams)).

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
    server::graceful::GracefulShutdown,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::Semaphore,
};
use tower::ServiceExt as _;

use super::{
    connection::{Answer, Connection, Exchange, HEAD_LIMIT, IDLE_LIMIT},
    patience::Patient,
};

/// Connections at once.
const MOST_CONNECTED: usize = 16_384;
/// Time for what is under way at the end.
const FINISH: Duration = Duration::from_secs(10);
/// Quiet time after which the kernel asks whether the other side is still there, and between its questions.
const QUIET: Duration = Duration::from_secs(60);
const ASK_AGAIN: Duration = Duration::from_secs(15);
/// Longest head, in bytes.
const LONGEST_HEAD: usize = 32 * 1024;
/// After a failure to accept (no more file descriptors), before the next try.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves `routes` until `stop`, and then until what is under way has ended.
pub async fn serve(listener: TcpListener, routes: Router, stop: impl Future<Output = ()> + Send) {
    let mut stop = std::pin::pin!(stop);
    let places = Arc::new(Semaphore::new(MOST_CONNECTED));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = accepted => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let alive = TcpKeepalive::new().with_time(QUIET).with_interval(ASK_AGAIN);
        if let Err(error) = SockRef::from(&stream).set_tcp_keepalive(&alive) {
            tracing::debug!(%error, "a connection is not watched by the kernel");
        }
        // Who keeps many connections idle takes no other client's place.
        let is_crowded = places.available_permits() < MOST_CONNECTED / 4;
        let idle = if is_crowded { HEAD_LIMIT } else { IDLE_LIMIT };
        let connection = serve_one(stream, address, routes.clone(), idle);
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            // A client that goes away in the middle is no failure of ours.
            drop(watched.await);
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(FINISH, graceful.shutdown()).await.is_err() {
        tracing::warn!(seconds = FINISH.as_secs(), "some requests did not end in time");
    }
}

/// An answer on its way.
type Answered = BoxFuture<'static, Result<Response<Answer>, Infallible>>;

/// A connection that is served.
type Served<S, A> = http1::Connection<TokioIo<Connection<Patient<S>>>, A>;

/// Serves one connection, which may be idle for so long.
pub(super) fn serve_one<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    address: SocketAddr,
    routes: Router,
    idle: Duration,
) -> Served<
    S,
    impl Service<Request<Incoming>, Response = Response<Answer>, Error = Infallible, Future = Answered>,
> {
    let exchange = Exchange::default();
    let stream = TokioIo::new(Connection::new(Patient::new(stream), exchange.clone(), idle));
    let service = service_fn(move |request: Request<Incoming>| -> Answered {
        exchange.begin();
        let mut request = request.map(axum::body::Body::new);
        request.extensions_mut().insert(ConnectInfo::<SocketAddr>(address));
        let (answer, exchange) = (routes.clone().oneshot(request), exchange.clone());
        Box::pin(async move { Ok(answer.await?.map(|body| Answer::new(body, exchange))) })
    });
    let mut http = http1::Builder::new();
    // Of what the connection does not see: a head whose beginning came with the request before it.
    let limit = idle + HEAD_LIMIT;
    http.timer(TokioTimer::new()).header_read_timeout(limit).max_buf_size(LONGEST_HEAD);
    http.serve_connection(stream, service)
}
