//! Channels as the streams that controllers are fed with. Each ends when its senders are gone.

use futures::{Stream, stream};
use tokio::sync::{mpsc, watch};

/// What comes through a channel.
pub fn received<T: Send + 'static>(receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> + Send + 'static {
    stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) })
}

/// One item whenever the value was replaced; nothing for the value at the start.
pub fn replaced<T>(value: watch::Receiver<T>) -> impl Stream<Item = ()> + Send + 'static
where
    T: Send + Sync + 'static,
{
    stream::unfold(value, |mut value| async move { value.changed().await.ok().map(|()| ((), value)) })
}
