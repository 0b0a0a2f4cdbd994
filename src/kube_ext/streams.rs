//! Channels as the streams that controllers are fed with. Each ends when its senders are dropped.

use std::{
    collections::{HashSet, VecDeque},
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{Stream, StreamExt, stream};
use tokio::sync::{Notify, mpsc, watch};

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

/// A queue in which each item waits at most once, as a work queue of client-go: a sender never waits, and a receiver that
/// does not take anything for a while finds each item once. So it holds no more than there are different items.
#[must_use]
pub fn distinct<T: Clone + Eq + Hash + Send + 'static>() -> (DistinctSender<T>, DistinctReceiver<T>) {
    let shared = Arc::new(Distinct::default());
    (DistinctSender(Arc::clone(&shared)), DistinctReceiver(shared))
}

/// Puts items into a [`distinct`] queue.
#[derive(Debug)]
pub struct DistinctSender<T: Eq + Hash>(Arc<Distinct<T>>);

/// Takes items out of a [`distinct`] queue.
#[derive(Debug)]
pub struct DistinctReceiver<T: Eq + Hash>(Arc<Distinct<T>>);

#[derive(Debug)]
struct Distinct<T: Eq + Hash> {
    waiting: Mutex<Waiting<T>>,
    changed: Notify,
}

#[derive(Debug)]
struct Waiting<T: Eq + Hash> {
    queue: VecDeque<T>,
    items: HashSet<T>,
    ended: bool,
}

impl<T: Eq + Hash> Default for Distinct<T> {
    fn default() -> Self {
        let waiting = Waiting { queue: VecDeque::new(), items: HashSet::new(), ended: false };
        Self { waiting: Mutex::new(waiting), changed: Notify::new() }
    }
}

impl<T: Eq + Hash> Distinct<T> {
    fn with<R>(&self, work: impl FnOnce(&mut Waiting<T>) -> R) -> R {
        work(&mut self.waiting.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl<T: Clone + Eq + Hash> DistinctSender<T> {
    /// Puts an item at the end, unless it is waiting already.
    pub fn send(&self, item: T) {
        self.0.with(|waiting| {
            if waiting.items.insert(item.clone()) {
                waiting.queue.push_back(item);
            }
        });
        self.0.changed.notify_one();
    }
}

impl<T: Eq + Hash> Drop for DistinctSender<T> {
    fn drop(&mut self) {
        self.0.with(|waiting| waiting.ended = true);
        self.0.changed.notify_one();
    }
}

impl<T: Eq + Hash + Send + 'static> DistinctReceiver<T> {
    /// The items in the order in which they were first put, until the sender is dropped.
    pub fn into_stream(self) -> impl Stream<Item = T> + Send + 'static {
        stream::unfold(self, |receiver| async move { Some((receiver.next().await?, receiver)) })
    }

    async fn next(&self) -> Option<T> {
        loop {
            let (item, ended) = self.0.with(|waiting| {
                let item = waiting.queue.pop_front();
                item.iter().for_each(|item| {
                    waiting.items.remove(item);
                });
                (item, waiting.ended)
            });
            if item.is_some() || ended {
                return item;
            }
            // One that was sent meanwhile has left its permit.
            self.0.changed.notified().await;
        }
    }
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

    #[tokio::test]
    async fn a_distinct_queue_never_makes_its_sender_wait_and_holds_each_item_once() {
        let (sender, receiver) = distinct();
        (0..100_000).for_each(|n| sender.send(n % 10));
        let mut items = Box::pin(receiver.into_stream());
        assert_eq!(items.next().await, Some(0));
        sender.send(0);
        let all: Vec<i32> = items.by_ref().take(10).collect().await;
        assert_eq!(all, [1, 2, 3, 4, 5, 6, 7, 8, 9, 0], "in their order, and again once it was taken");
        let mut next = items.next();
        assert_eq!((&mut next).now_or_never(), None);
        sender.send(7);
        assert_eq!(next.await, Some(7));
        sender.send(8);
        drop(sender);
        assert_eq!(items.collect::<Vec<_>>().await, [8], "what was sent is not lost");
    }
}
