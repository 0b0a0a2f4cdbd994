//! A connection whose client must keep reading: a write that waits for [`WRITE_TIMEOUT`] fails, and with it the connection,
//! which would otherwise keep its permit for ever.

use std::{pin::Pin, time::Duration};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_io_timeout::TimeoutStream;

/// Longest time for which a client may read none of a response.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(45);

/// A stream whose writes fail with `TimedOut` when they wait for [`WRITE_TIMEOUT`]. Reads have no timeout here.
pub type WriteTimeout<S> = Pin<Box<TimeoutStream<S>>>;

/// Gives the writes of a stream their timeout.
pub fn write_timeout<S: AsyncRead + AsyncWrite>(stream: S) -> WriteTimeout<S> {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    Box::pin(stream)
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, duplex},
        time::{Instant, sleep},
    };

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_slowly_is_served_and_one_that_does_not_read_is_disconnected() {
        let (mut client, server) = duplex(4);
        let mut server = write_timeout(server);
        let begun = Instant::now();
        let slow = async {
            let mut bytes = [0; 4];
            for _ in 0..5 {
                sleep(WRITE_TIMEOUT - Duration::from_secs(1)).await;
                client.read_exact(&mut bytes).await.unwrap();
            }
        };
        let (sent, ()) = futures::join!(server.write_all(&[7; 20]), slow);
        sent.unwrap();
        assert!(begun.elapsed() > 4 * WRITE_TIMEOUT);
        let begun = Instant::now();
        let error = server.write_all(&[7; 20]).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, WRITE_TIMEOUT));
        assert!(server.write_all(&[7]).await.is_err());
    }
}
