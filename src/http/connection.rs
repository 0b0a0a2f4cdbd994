//! A connection as HTTP/1.1 uses it: how long it may be idle, how long a head may take, and a problem for the heads that
//! hyper refuses by itself.
//!
//! hyper has one time limit for an idle connection and for a head that comes slowly. Proxies keep idle connections for a
//! minute, and a request that is sent as the server closes one is lost, so an idle connection stays open for [`IDLE_LIMIT`]
//! (unless the server has too many) and a head has [`HEAD_LIMIT`] from its first byte. The first head has that from the
//! beginning: a client connects in order to send a request.
//!
//! A head that is malformed or too large never becomes a request, and hyper's response to it is a status alone. Where
//! nothing of an earlier response remains to be written, the connection replaces hyper's response by a [`Problem`] of the
//! same status, with an `X-Request-ID`.
//!
//! Before it closes, the connection reads on for a moment ([`LINGER`]) where the client may still be sending.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use axum::body::{Body, Bytes};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use super::{
    problem::{Code, Problem},
    request_id::{REQUEST_ID, RequestIds},
};

/// How long a connection may be idle: longer than the 60 s for which proxies keep theirs.
pub const IDLE_LIMIT: Duration = Duration::from_secs(75);
/// Within which the head of a request must have come.
pub const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// How long, and how many bytes, the connection reads after a refused head or body: a connection that is closed with unread
/// bytes is reset, and the client may never receive the response. `kubectl port-forward` even ends with the first that is.
pub const LINGER: Duration = Duration::from_secs(5);
const LINGER_BYTES: usize = 16 << 20;

/// The state of a connection between its requests and responses. Cheap to clone; all clones share it.
#[derive(Clone, Debug, Default)]
pub struct Exchange(Arc<Progress>);

#[derive(Debug, Default)]
struct Progress {
    state: AtomicU8,
    /// Requests so far.
    requests: AtomicU64,
    /// The body of the last request was dropped before its end.
    is_unread: AtomicBool,
}

/// The connection waits for the head of a request, and all earlier responses are written.
const AWAITED: u8 = 0;
/// A handler is working on a request, or its response is being sent.
const RESPONDING: u8 = 1;
/// The body of the response has ended; its last bytes may not be written yet.
const ENDED: u8 = 2;

impl Exchange {
    /// The head of a request is complete.
    pub fn begin(&self) {
        self.0.requests.fetch_add(1, Ordering::SeqCst);
        self.0.is_unread.store(false, Ordering::SeqCst);
        self.0.state.store(RESPONDING, Ordering::SeqCst);
    }

    fn end(&self) {
        self.0.state.store(ENDED, Ordering::SeqCst);
    }

    fn flushed(&self) {
        let _ = self.0.state.compare_exchange(ENDED, AWAITED, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Whether the connection is idle: all responses are written.
    pub fn is_awaited(&self) -> bool {
        self.is(AWAITED)
    }

    fn is(&self, state: u8) -> bool {
        self.0.state.load(Ordering::SeqCst) == state
    }

    fn requests(&self) -> u64 {
        self.0.requests.load(Ordering::SeqCst)
    }

    /// Whether the body of the last request was dropped before its end.
    pub fn is_unread(&self) -> bool {
        self.0.is_unread.load(Ordering::SeqCst)
    }
}

/// The body of a request. Where it is dropped before its end, the connection is closed with care.
#[derive(Debug)]
pub struct RequestBody {
    body: Incoming,
    exchange: Exchange,
    has_ended: bool,
}

impl RequestBody {
    /// The body of the request with which the exchange began.
    #[must_use]
    pub fn new(body: Incoming, exchange: Exchange) -> Self {
        Self { body, exchange, has_ended: false }
    }
}

impl hyper::body::Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.has_ended |= frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        // What came with the head is read: a short body that the handler left has ended so.
        let _ = Pin::new(&mut *self).poll_frame(&mut Context::from_waker(Waker::noop()));
        let is_unread = !self.has_ended && !self.is_end_stream();
        self.exchange.0.is_unread.store(is_unread, Ordering::SeqCst);
    }
}

/// The body of a response. The exchange ends when it is dropped.
#[derive(Debug)]
pub struct ResponseBody {
    body: Body,
    exchange: Exchange,
}

impl ResponseBody {
    /// The body of the response to the request with which the exchange began.
    #[must_use]
    pub fn new(body: Body, exchange: Exchange) -> Self {
        Self { body, exchange }
    }
}

impl hyper::body::Body for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.exchange.end();
    }
}

/// A stream with these limits.
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    exchange: Exchange,
    /// Longest time without a request.
    idle: Duration,
    /// When the time for a head ends.
    deadline: Option<Pin<Box<Sleep>>>,
    /// The head has begun.
    begun: bool,
    /// Requests when `deadline` and `begun` were reset.
    requests: u64,
    /// The response that replaces hyper's refusal, and how many of its bytes are written.
    refusal: Option<(Vec<u8>, usize)>,
    /// When reading after a refusal ends, and how many more bytes it takes.
    linger: Option<(Pin<Box<Sleep>>, usize)>,
    ids: RequestIds,
}

impl<S> Connection<S> {
    /// A new connection, which may be idle for `idle`. `ids` gives the ids of refusals.
    pub fn new(stream: S, exchange: Exchange, idle: Duration, ids: RequestIds) -> Self {
        let deadline = Some(Box::pin(sleep(HEAD_LIMIT)));
        Self { stream, exchange, idle, deadline, begun: true, requests: 0, refusal: None, linger: None, ids }
    }

    /// Updates the deadline; whether it has passed.
    fn is_late(&mut self, cx: &mut Context<'_>, has_read: bool) -> bool {
        let requests = self.exchange.requests();
        if self.requests != requests {
            (self.requests, self.deadline, self.begun) = (requests, None, false);
        }
        if self.exchange.is(RESPONDING) {
            return false;
        }
        let begins = has_read && !self.begun;
        self.begun |= has_read;
        let idle = self.idle;
        let deadline = self.deadline.get_or_insert_with(|| Box::pin(sleep(idle)));
        if begins {
            deadline.as_mut().reset(Instant::now() + HEAD_LIMIT);
        }
        deadline.as_mut().poll(cx).is_ready()
    }

    /// Prepares the response that replaces these bytes, if they are hyper's own refusal of a head.
    fn refuse(&mut self, bytes: &[u8]) {
        if self.refusal.is_none() && self.exchange.is(AWAITED) {
            self.refusal = refusal(bytes, &self.ids).map(|text| (text, 0));
        }
    }
}

/// The problem that replaces hyper's refusal.
fn refusal(bytes: &[u8], ids: &RequestIds) -> Option<Vec<u8>> {
    let status = bytes.strip_prefix(b"HTTP/1.1 ").or_else(|| bytes.strip_prefix(b"HTTP/1.0 "))?.get(..3)?;
    let problem = match status {
        b"400" => Problem::new(Code::MalformedRequest, "the head is not one of an HTTP/1.1 request"),
        b"431" => Problem::new(Code::HeadTooLarge, "the head has more than 32 KiB, or more than 100 fields"),
        _ => return None,
    };
    Some(last_response(&problem, ids))
}

/// The response with which a connection ends.
fn last_response(problem: &Problem, ids: &RequestIds) -> Vec<u8> {
    let (status, body, id) = (problem.code.status(), problem.text(), ids.random());
    let id = id.to_str().unwrap_or_default();
    tracing::debug!(id, status = status.as_u16(), "refused what is no request");
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\n\
         {REQUEST_ID}: {id}\r\ncache-control: no-store\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

/// Refuses the plain HTTP of a client where the connection should begin with TLS.
///
/// # Errors
/// The connection's.
pub async fn refuse_plaintext(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    ids: &RequestIds,
) -> io::Result<()> {
    let problem =
        Problem::new(Code::MalformedRequest, "this port speaks HTTPS, and the request is plain HTTP");
    stream.write_all(&last_response(&problem, ids)).await?;
    stream.shutdown().await?;
    let rest = async { tokio::io::copy(&mut stream.take(LINGER_BYTES as u64), &mut tokio::io::sink()).await };
    drop(tokio::time::timeout(LINGER, rest).await);
    Ok(())
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = to.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, to);
        let has_read = to.filled().len() > before;
        let was_idle = !this.begun && !has_read;
        if !this.is_late(cx, has_read) {
            return read;
        }
        to.set_filled(before);
        Poll::Ready(match was_idle {
            // As if the client had closed it.
            true => Ok(()),
            false => Err(io::Error::new(io::ErrorKind::TimedOut, "the head of a request took too long")),
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Writes the refusal; hyper counts its own bytes as written.
    fn poll_refusal(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<io::Result<usize>> {
        while let Some((text, written)) = &mut self.refusal
            && *written < text.len()
        {
            let count = ready!(Pin::new(&mut self.stream).poll_write(cx, &text[*written..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            *written += count;
        }
        Poll::Ready(Ok(length))
    }

    /// Reads what the client still sends, for at most [`LINGER`].
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (end, left) = self.linger.get_or_insert_with(|| (Box::pin(sleep(LINGER)), LINGER_BYTES));
        let mut scratch = [0; 4096];
        while *left > 0 && end.as_mut().poll(cx).is_pending() {
            let mut to = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut to)) {
                Ok(()) if !to.filled().is_empty() => *left = left.saturating_sub(to.filled().len()),
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.refuse(bytes);
        match self.refusal {
            Some(_) => self.poll_refusal(cx, bytes.len()),
            None => Pin::new(&mut self.stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.refuse(bytes.first().map(|first| &**first).unwrap_or_default());
        match self.refusal {
            Some(_) => self.poll_refusal(cx, bytes.iter().map(|one| one.len()).sum()),
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes when its own buffer is empty.
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(cx));
        self.exchange.flushed();
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
        if self.refusal.is_some() || self.exchange.is_unread() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    fn ids() -> RequestIds {
        RequestIds::new(Random::of(|bytes| {
            bytes.fill(1);
            Ok(())
        }))
    }

    #[test]
    fn only_a_refusal_of_a_head_is_replaced() {
        let text = |bytes: &[u8]| refusal(bytes, &ids()).map(|text| String::from_utf8(text).unwrap());
        let malformed = text(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").unwrap();
        assert!(malformed.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{malformed}");
        let (head, body) = malformed.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert!(head.contains("\r\nx-request-id: 01010101010101010101010101010101\r\n"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["code"], &body["status"]), (&"malformed_request".into(), &400.into()));
        let large = text(b"HTTP/1.1 431 Request Header Fields Too Large\r\n\r\n").unwrap();
        assert!(large.contains("head_too_large"), "{large}");
        for other in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 4", b""] {
            assert_eq!(text(other), None);
        }
    }

    #[tokio::test]
    async fn an_exchange_is_over_when_the_end_of_its_response_is_flushed() {
        let exchange = Exchange::default();
        let mut connection = Connection::new((), exchange.clone(), IDLE_LIMIT, ids());
        let refuses = |connection: &mut Connection<()>| {
            connection.refuse(b"HTTP/1.1 400 Bad Request\r\n\r\n");
            connection.refusal.take().is_some()
        };
        assert!(refuses(&mut connection));
        exchange.begin();
        exchange.flushed();
        assert!(!refuses(&mut connection), "the bytes may be a job's output");
        drop(ResponseBody::new(Body::empty(), exchange.clone()));
        assert!(!refuses(&mut connection), "hyper's buffer may have the end of the response");
        exchange.flushed();
        assert!(refuses(&mut connection));
    }
}
