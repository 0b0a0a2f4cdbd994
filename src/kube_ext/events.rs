//! Events on objects, for people who run `kubectl describe`.
//!
//! An Event is a courtesy, so it holds nothing up: callers put it into a bounded queue and go on, and a task of its own
//! writes what the queue holds. While the API server takes no Events (they often have an etcd of their own) the queue
//! fills, and what does not fit into it is dropped and counted; so is what has become old in it, because an Event carries
//! the time at which it is written. A failure to write one is logged, counted, and not repeated.
//!
//! Each is an object of its own: kube's recorder would count a second one of the same reason within six minutes on the
//! first and drop its text, and it is the numbers in the text that change. Callers publish changes only, so there is no
//! flood.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{call::within, streams::received};
use crate::{api_types::Reason, metrics::Metrics, names};

/// Most Events that wait to be written.
const QUEUE: usize = 1024;
/// Events that are written at once.
const WRITERS: usize = 4;
/// What has waited longer is dropped.
const OLD: Duration = Duration::from_secs(60);

/// Publishes Events in Crofter's name. Cheap to clone; all clones share one queue.
#[derive(Clone)]
pub struct Events {
    queue: mpsc::Sender<Queued>,
    /// How many are in the queue or being written.
    pending: Arc<watch::Sender<usize>>,
    /// Whether the last one found no room.
    full: Arc<AtomicBool>,
    metrics: Metrics,
}

struct Queued {
    since: Instant,
    event: Event,
    object: ObjectReference,
}

/// A publisher, and the task that writes with `client` what is published. The task ends with the last clone of the
/// publisher.
pub fn start(client: Client, metrics: Metrics) -> (Events, impl Future<Output = ()> + Send + 'static) {
    let (queue, queued) = mpsc::channel(QUEUE);
    let pending = Arc::new(watch::Sender::new(0));
    let events =
        Events { queue, pending: Arc::clone(&pending), full: Arc::default(), metrics: metrics.clone() };
    let writing = received(queued).for_each_concurrent(WRITERS, move |queued| {
        let (client, metrics, pending) = (client.clone(), metrics.clone(), Arc::clone(&pending));
        async move {
            metrics.event(write(client, queued).await);
            pending.send_modify(|pending| *pending = pending.saturating_sub(1));
        }
    });
    (events, writing)
}

impl Events {
    /// Publishes that something happened to `object`.
    pub fn normal<K>(&self, object: &K, reason: Reason, note: String)
    where
        K: Resource<DynamicType = ()>,
    {
        self.publish(object, EventType::Normal, reason, note);
    }

    /// Publishes that something about `object` needs attention.
    pub fn warning<K>(&self, object: &K, reason: Reason, note: String)
    where
        K: Resource<DynamicType = ()>,
    {
        self.publish(object, EventType::Warning, reason, note);
    }

    /// Waits until all that was published is written, at most for `longest`; how many are left then.
    pub async fn flush(&self, longest: Duration) -> usize {
        let mut pending = self.pending.subscribe();
        let written = pending.wait_for(|pending| *pending == 0);
        let done = tokio::time::timeout(longest, written).await.is_ok();
        if done { 0 } else { *self.pending.borrow() }
    }

    fn publish<K>(&self, object: &K, type_: EventType, reason: Reason, mut note: String)
    where
        K: Resource<DynamicType = ()>,
    {
        /// The API server refuses a longer note.
        const LONGEST_NOTE: usize = 1024;
        if note.len() > LONGEST_NOTE {
            note = note.chars().take(LONGEST_NOTE / 4).collect();
        }
        let reason = reason.as_str().to_owned();
        let event = Event { type_, action: reason.clone(), reason, note: Some(note), secondary: None };
        self.pending.send_modify(|pending| *pending += 1);
        let queued = Queued { since: Instant::now(), event, object: object.object_ref(&()) };
        let dropped = self.queue.try_send(queued).is_err();
        if dropped {
            self.pending.send_modify(|pending| *pending = pending.saturating_sub(1));
            self.metrics.event("dropped");
        }
        if dropped != self.full.swap(dropped, Ordering::Relaxed) && dropped {
            tracing::warn!(queue = QUEUE, "the queue of Events is full: further ones are dropped");
        }
    }
}

/// Writes one; in one word, what came of it.
async fn write(client: Client, Queued { since, event, object }: Queued) -> &'static str {
    if since.elapsed() >= OLD {
        return "dropped";
    }
    let reporter = Reporter { controller: names::MANAGER.to_owned(), instance: None };
    let recorder = Recorder::new(client, reporter);
    match within("failed to write an Event", recorder.publish(&event, &object)).await {
        Ok(()) => "written",
        Err(error) => {
            tracing::warn!(%error, event.reason, "failed to write an Event");
            "failed"
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::future;
    use http::{Request, Response};
    use kube::client::Body;

    use super::*;
    use crate::{api_types::Job, kube_ext::mock};

    fn job() -> Job {
        let mut job = Job::new("render", serde_json::from_value(serde_json::json!({"image": "i"})).unwrap());
        job.metadata.namespace = Some("tenant-acme".to_owned());
        job
    }

    fn counted(metrics: &Metrics, result: &str) -> String {
        let text = metrics.text().unwrap();
        let name = format!("crofter_events_total{{result=\"{result}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or("0").to_owned()
    }

    /// An API server that takes no Events and says nothing.
    fn silent() -> Client {
        let service =
            tower::service_fn(|_: Request<Body>| future::pending::<Result<Response<Body>, Infallible>>());
        Client::new(service, "default")
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_an_api_server_that_takes_no_events() {
        let metrics = Metrics::default();
        let (events, writing) = start(silent(), metrics.clone());
        tokio::spawn(writing);
        let begun = Instant::now();
        for _ in 0..QUEUE + WRITERS + 100 {
            events.warning(&job(), Reason::PodRefused, "no".to_owned());
            tokio::task::yield_now().await;
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        assert_eq!(counted(&metrics, "dropped"), "100");
        assert_eq!(
            events.flush(Duration::from_secs(2)).await,
            QUEUE + WRITERS,
            "and the end waits for a while only"
        );
        assert_eq!(begun.elapsed(), Duration::from_secs(2));
        assert_eq!(events.flush(Duration::from_secs(120)).await, 0, "what has become old is dropped");
        assert_eq!((counted(&metrics, "failed"), counted(&metrics, "written")), ("12".into(), "0".into()));
        assert_eq!(counted(&metrics, "dropped"), (100 + QUEUE + WRITERS - 12).to_string());
    }

    #[tokio::test]
    async fn what_was_published_is_written_before_the_end() {
        let (fake, metrics) = (mock::Fake::default(), Metrics::default());
        let (events, writing) = start(fake.client(), metrics.clone());
        tokio::spawn(writing);
        events.normal(&job(), Reason::Accepting, "x".repeat(2000));
        events.warning(&job(), Reason::PodRefused, "no".to_owned());
        assert_eq!(events.flush(Duration::from_secs(2)).await, 0);
        let calls = fake.calls();
        let mut types: Vec<_> = calls.iter().map(|call| call.body["type"].as_str().unwrap()).collect();
        types.sort_unstable();
        assert_eq!((types, counted(&metrics, "written")), (vec!["Normal", "Warning"], "2".to_owned()));
    }
}
