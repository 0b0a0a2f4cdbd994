//! Channels as the streams that controllers are fed with. Each ends when its senders are gone.

use futures::{Stream, StreamExt, stream};
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

/// The items of `stream`, in their order, and none before `ready`: what comes until then is kept here.
pub fn held_until<T>(
    stream: impl Stream<Item = T> + Send + 'static,
    ready: impl Future<Output = ()> + Send + 'static,
) -> impl Stream<Item = T> + Send + 'static
where
    T: Send + 'static,
{
    let mut later = Box::pin(stream.fuse());
    let all = async move {
        let early: Vec<T> = later.by_ref().take_until(ready).collect().await;
        stream::iter(early).chain(later)
    };
    stream::once(all).flatten()
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_comes_early_is_taken_and_kept() {
        let (sender, receiver) = mpsc::channel(1);
        let (ready, is_ready) = oneshot::channel();
        let mut held = Box::pin(held_until(received(receiver), is_ready.map(|_| ())));
        for item in 1..=3 {
            sender.try_send(item).unwrap();
            assert_eq!(held.next().now_or_never(), None, "{item}");
        }
        ready.send(()).unwrap();
        assert_eq!(held.next().await, Some(1));
        sender.try_send(4).unwrap();
        drop(sender);
        assert_eq!(held.collect::<Vec<_>>().await, [2, 3, 4]);
    }

    #[tokio::test]
    async fn a_stream_that_ends_early_loses_nothing() {
        let held = held_until(stream::iter([1, 2]), async { tokio::task::yield_now().await });
        assert_eq!(held.collect::<Vec<_>>().await, [1, 2]);
    }
}
