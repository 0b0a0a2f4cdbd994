//! TLS of the REST API: the handshake, and the certificate, which is replaced when its files change.
//!
//! The server speaks TLS 1.2 and 1.3, and in them HTTP/1.1. It presents its one certificate whatever name a client asks
//! for. A handshake has [`HANDSHAKE_LIMIT`], and its connection counts among the server's from the accept on.
//!
//! Every `READ_INTERVAL` the files are read. A new pair serves the handshakes that begin then: open connections keep
//! what they negotiated, and no session of the pair before is resumed. A pair that can't be served is logged, counted
//! and not taken.

mod pair;

use std::{fmt, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture};
use tokio::{io, net::TcpStream, sync::watch};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig, server::TlsStream};

use self::pair::Pair;
pub use self::pair::{Error, Files};
use super::{
    connection::{HEAD_LIMIT, refuse_plaintext},
    request_id::RequestIds,
    write_timeout::{WriteTimeout, write_timeout},
};
use crate::{clock::Clock, metrics::Metrics};

/// Within which a handshake must be complete.
pub const HANDSHAKE_LIMIT: Duration = HEAD_LIMIT;
/// How often the files are read for a new pair.
const READ_INTERVAL: Duration = Duration::from_secs(10);

/// The certificate in force. Cheap to clone; all clones share it.
#[derive(Clone)]
pub struct Tls(watch::Receiver<Arc<ServerConfig>>);

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// Takes the pair again whenever its files have changed.
pub struct Reload {
    files: Files,
    /// What is in force.
    pair: Pair,
    sender: watch::Sender<Arc<ServerConfig>>,
    clock: Clock,
}

impl Tls {
    /// The pair of these files, and what follows them.
    ///
    /// # Errors
    /// The pair can't be served; the error names the file, the cause and what to do. An expired certificate is served,
    /// with a warning: the client decides whether it accepts that.
    pub async fn load(files: Files, clock: Clock) -> Result<(Self, Reload), Error> {
        let pair = files.load().await?;
        let (sender, receiver) = watch::channel(Arc::clone(&pair.config));
        let reload = Reload { files, pair, sender, clock };
        reload.announce();
        Ok((Self(receiver), reload))
    }

    /// The connection, once its handshake is complete. `None` where the client does not complete one: a client that
    /// speaks plain HTTP gets a problem with status 400.
    pub(super) async fn accept(
        &self,
        stream: TcpStream,
        ids: &RequestIds,
    ) -> Option<TlsStream<WriteTimeout<TcpStream>>> {
        let config = Arc::clone(&self.0.borrow());
        match tokio::time::timeout(HANDSHAKE_LIMIT, handshake(config, stream, ids)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%error, "a client did not complete its TLS handshake");
                None
            }
            Err(_) => {
                tracing::debug!(
                    seconds = HANDSHAKE_LIMIT.as_secs(),
                    "a client did not complete its TLS handshake in time"
                );
                None
            }
        }
    }
}

async fn handshake(
    config: Arc<ServerConfig>,
    stream: TcpStream,
    ids: &RequestIds,
) -> io::Result<TlsStream<WriteTimeout<TcpStream>>> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    // A handshake begins with the byte 22, and a request with the first letter of its method.
    if read > 0 && first[0].is_ascii_alphabetic() {
        refuse_plaintext(write_timeout(stream), ids).await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the client speaks plain HTTP"));
    }
    TlsAcceptor::from(config).accept(write_timeout(stream)).await
}

impl Reload {
    /// Follows the files until no server uses the pair any more.
    pub fn run(self, metrics: Metrics) -> BoxFuture<'static, ()> {
        let Self { files, mut pair, sender, clock } = self;
        async move {
            metrics.show_certificate(pair.not_after.as_second());
            let mut trouble = None;
            while !sender.is_closed() {
                tokio::time::sleep(READ_INTERVAL).await;
                match files.load_unless(&pair).await {
                    Ok(None) => trouble = None,
                    Ok(Some(new)) => {
                        trouble = None;
                        pair = new;
                        sender.send_replace(Arc::clone(&pair.config));
                        metrics.show_certificate(pair.not_after.as_second());
                        announce(&pair, &files, &clock);
                    }
                    Err(error) => {
                        metrics.certificate_refused();
                        let error = error.to_string();
                        if trouble.as_ref() != Some(&error) {
                            tracing::error!(
                                error,
                                "the new TLS certificate is not taken; the one before stays"
                            );
                            trouble = Some(error);
                        }
                    }
                }
            }
        }
        .boxed()
    }

    fn announce(&self) {
        announce(&self.pair, &self.files, &self.clock);
    }
}

/// Logs what is served from now on.
fn announce(pair: &Pair, files: &Files, clock: &Clock) {
    let (file, names) = (files.certificate.display(), pair.names.join(" "));
    let Pair { not_before, not_after, .. } = pair;
    tracing::info!(%file, names, %not_after, "serving the REST API with this TLS certificate");
    let now = clock.now();
    if *not_after <= now {
        tracing::warn!(%file, %not_after, "the TLS certificate has expired: clients refuse it; renew it");
    } else if *not_before > now {
        tracing::warn!(%file, %not_before, "the TLS certificate is not valid yet: clients refuse it until then");
    }
}
