//! The listener: how long a client may take, how many may be connected, and an end in which no request is lost.
//!
//! One connection serves HTTP/1.1. A client that does not send its head in [`HEAD_LIMIT`] is let go, so is one that does
//! not read ([`patience`](super::patience)), and those over
//! [`MOST_CONNECTED`] wait in the kernel's queue. At the stop signal nobody new is accepted, and what is under way is
//! answered, for at most [`FINISH`].

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, extract::ConnectInfo, http::Request};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tower::ServiceExt as _;

use super::patience::Patient;

/// Within which a client must have sent the head of a request.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Connections at once.
const MOST_CONNECTED: usize = 16_384;
/// Time for what is under way at the end.
const FINISH: Duration = Duration::from_secs(10);
/// Longest head, in bytes.
const LONGEST_HEAD: usize = 32 * 1024;
/// After a failure to accept (no more file descriptors), before the next try.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Serves `routes` until `stop`, and then until what is under way has ended.
pub async fn serve(listener: TcpListener, routes: Router, stop: impl Future<Output = ()> + Send) {
    let mut stop = std::pin::pin!(stop);
    let places = Arc::new(Semaphore::new(MOST_CONNECTED));
    let graceful = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(LONGEST_HEAD);
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
        let service = routes.clone().map_request(move |mut request: Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(ConnectInfo::<SocketAddr>(address));
            request.map(axum::body::Body::new)
        });
        let connection =
            http.serve_connection(TokioIo::new(Patient::new(stream)), TowerToHyperService::new(service));
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
