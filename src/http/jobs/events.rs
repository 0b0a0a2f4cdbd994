//! `GET /jobs/{id}/events`: the job's state as server-sent events (the WHATWG HTML standard, 9.2), from memory.
//!
//! The first event has the current state, each later event has a new one, and the stream ends with the job. An event has the
//! latest state: a client that is slower than the job misses states in between, never the last one, and delays no other
//! client. An event's `id` is the object's version, so a client that reconnects with `Last-Event-ID` receives what it has
//! not seen: nothing until the next change, or the current state. A replica with an older cache than the previous one sends
//! no older state.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use axum::{
    extract::{FromRequestParts, State},
    http::{HeaderName, StatusCode, request::Parts},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{future::BoxFuture, stream};
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::{Found, Id, ended::with_stored_payload, find_job, has_ended, logs::UNBUFFERED, view::JobView};
use crate::{
    api_types::Job,
    http::{
        App,
        by_tenant::ByTenant,
        header::only,
        jobs_index::{JobEvent, JobWatch},
        openapi::{Describes, Operation},
        problem::{Code, Problem},
        rights::WatchJob,
        streams::{self, End, Kind, StreamPermit},
    },
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Time without an event after which the server sends a comment, so that no proxy closes the connection.
pub const HEARTBEAT: Duration = Duration::from_secs(15);
/// Name, and `id`, of the event that says that the job is deleted.
pub const DELETED: &str = "deleted";

/// The `Last-Event-ID` of a client that reconnects.
pub struct LastEventId(pub Option<String>);

impl<S: Send + Sync> FromRequestParts<S> for LastEventId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        only(&parts.headers, &LAST_EVENT_ID).map(|id| Self(id.map(str::to_owned)))
    }
}

impl Describes for LastEventId {
    fn describe(operation: &mut Operation) {
        let schema = json!({"type": "string", "pattern": "^[\\t -~]*$"});
        let description = "This is the `id` of the last event that the client has received.";
        operation.takes_header("Last-Event-ID", description, &schema);
    }
}

/// This is the data of the last event of a job that is deleted from the cluster.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "DeletedJob")]
pub struct Deleted {
    /// This is the UID of the job.
    pub id: String,
}

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new(
        "watchJob",
        "Watch a job",
        "Sends the state of a job now and after each change, as server-sent events, until the job has ended.",
    )
    .text(
        200,
        "The data of each event `status` is a `Job`. The data of the last event is a `DeletedJob` where its name is `deleted`.",
        "text/event-stream",
    )
    .event::<JobView>(200, "status")
    .event::<Deleted>(200, "deleted")
    .empty(204, "The client has received the last event.")
    .problems([Code::TooManyStreams, Code::HistoryUnavailable])
}

/// Streams a job's state.
///
/// # Errors
/// `not_found`, `too_many_streams`.
pub async fn events(
    State(app): State<App>,
    ByTenant(context, _): ByTenant<WatchJob>,
    id: Id,
    LastEventId(last_event): LastEventId,
) -> Result<Response, Problem> {
    let permit = app.streams.try_acquire(Kind::Events, &context.of.uid)?;
    let tenant_uid = context.of.uid.clone();
    let mut events = EventQueue::new(tenant_uid, last_event.clone());
    let job = match find_job(&app, &context, &id).await? {
        Found::Cached(job) => job,
        Found::Recorded(_) if last_event.as_deref() == Some(DELETED) => return Ok(no_more_events()),
        Found::Recorded(recorded) => {
            events.push(None, &recorded);
            events.push_deleted(&id.0.to_string());
            let all = stream::iter(events.queue.into_iter().map(Ok::<_, Infallible>));
            return Ok(([UNBUFFERED], Sse::new(all)).into_response());
        }
    };
    let namespace = &context.of.namespace;
    let watch = app.jobs.watch(namespace, &job.name_any());
    // The job may have changed before the watch began.
    let job = app.jobs.get(namespace, id.0).unwrap_or(job);
    events.push_state(&*with_stored_payload(&app, &context.of.uid, job).await);
    if events.is_complete && events.queue.is_empty() {
        return Ok(no_more_events());
    }
    let end = streams::end(&app, &context);
    let source = EventStream { app, watch, uid: id.0.to_string(), events, end, _permit: permit };
    let stream = Sse::new(stream::unfold(source, EventStream::next));
    Ok(([UNBUFFERED], stream.keep_alive(KeepAlive::new().interval(HEARTBEAT))).into_response())
}

/// The response to a client that has received the last event. With it a browser stops reconnecting.
fn no_more_events() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// The stream of a job's events.
struct EventStream {
    app: App,
    watch: JobWatch,
    uid: String,
    events: EventQueue,
    end: BoxFuture<'static, End>,
    _permit: StreamPermit,
}

impl EventStream {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.events.queue.pop_front() {
                return Some((Ok(event), self));
            }
            if self.events.is_complete {
                return None;
            }
            let change = tokio::select! {
                biased;
                _ = &mut self.end => return None,
                change = self.watch.next(&self.uid) => change,
            };
            match change {
                JobEvent::Updated(job) => {
                    let job = with_stored_payload(&self.app, &self.events.tenant_uid, job).await;
                    self.events.push_state(&job);
                }
                JobEvent::Deleted(last) => {
                    if let Some(last) = last {
                        let last = with_stored_payload(&self.app, &self.events.tenant_uid, last).await;
                        self.events.push_state(&last);
                    }
                    self.events.push_deleted(&self.uid);
                }
            }
        }
    }
}

/// The events that a client has not received, and what it has received.
struct EventQueue {
    tenant_uid: String,
    /// Version of the newest state that the client has received.
    last_version: Option<String>,
    /// Data of the last state that this stream has sent.
    last_data: Option<String>,
    /// At most a state and the event `deleted`.
    queue: VecDeque<Event>,
    /// Whether no further event follows those of the queue.
    is_complete: bool,
}

impl EventQueue {
    fn new(tenant_uid: String, last_version: Option<String>) -> Self {
        Self { tenant_uid, last_version, last_data: None, queue: VecDeque::new(), is_complete: false }
    }

    /// Adds an event with the state of the job, where that is new.
    fn push_state(&mut self, job: &Job) {
        let version = job.resource_version().unwrap_or_default();
        let ended = has_ended(job);
        if self.is_newer(&version, ended) {
            let view = JobView::of(job, &self.tenant_uid);
            self.push(Some(version), &view);
        }
        self.is_complete |= ended;
    }

    /// Whether this version is newer than the last one. The end of a job counts as newer whatever the versions say.
    fn is_newer(&self, version: &str, ended: bool) -> bool {
        let Some(last) = &self.last_version else { return true };
        let is_older = match (version.parse::<u64>(), last.parse::<u64>()) {
            (Ok(version), Ok(last)) => version < last,
            _ => false,
        };
        last != version && (ended || !is_older)
    }

    fn push(&mut self, version: Option<String>, view: &JobView) {
        let data = json!(view).to_string();
        if self.last_data.as_ref() != Some(&data) {
            let event = Event::default().event("status").data(&data);
            self.queue.push_back(match &version {
                // Versions are digits, and have none of the line breaks that an id can't have.
                Some(version) if version.bytes().all(|b| b.is_ascii_graphic()) => event.id(version),
                _ => event,
            });
        }
        (self.last_version, self.last_data) = (version, Some(data));
    }

    fn push_deleted(&mut self, uid: &str) {
        let data = json!(Deleted { id: uid.to_owned() }).to_string();
        self.queue.push_back(Event::default().event(DELETED).id(DELETED).data(data));
        self.is_complete = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(version: &str, phase: &str, ended: bool) -> Job {
        let mut status = json!({"phase": phase});
        if ended {
            status["finishedAt"] = json!("2030-01-01T00:00:00Z");
        }
        serde_json::from_value(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Job",
            "metadata": {"name": "j", "uid": "u", "resourceVersion": version}, "spec": {"image": "i"}, "status": status,
        }))
        .unwrap()
    }

    /// The number of events for each state, and whether the stream is complete after them.
    fn sent(last_version: Option<&str>, states: &[Job]) -> (Vec<usize>, bool) {
        let mut events = EventQueue::new("t".to_owned(), last_version.map(str::to_owned));
        let counts = states.iter().map(|job| {
            events.push_state(job);
            std::mem::take(&mut events.queue).len()
        });
        (counts.collect(), events.is_complete)
    }

    #[test]
    fn the_first_event_is_the_current_state_and_the_last_is_the_end() {
        let states = [job("5", "Queued", false), job("6", "Queued", false), job("7", "Running", false)];
        assert_eq!(
            sent(None, &states),
            (vec![1, 0, 1], false),
            "a write that changes nothing in the view has no event"
        );
        assert_eq!(sent(None, &[job("9", "Completed", true)]), (vec![1], true));
    }

    #[test]
    fn a_client_that_reconnects_receives_what_it_has_not_seen_and_nothing_older() {
        let states = [job("7", "Running", false), job("9", "Completed", true)];
        assert_eq!(sent(Some("7"), &states), (vec![0, 1], true), "nothing until the next change");
        assert_eq!(
            sent(Some("5"), &states),
            (vec![1, 1], true),
            "the current state, where the client missed something"
        );
        assert_eq!(
            sent(Some("8"), &states),
            (vec![0, 1], true),
            "the previous replica was ahead of this one"
        );
        assert_eq!(sent(Some("9"), &states[1..]), (vec![0], true), "the client has received the end");
        let huge = u64::MAX.to_string();
        for odd in ["x", "", huge.as_str()] {
            assert_eq!(sent(Some(odd), &states[1..]), (vec![1], true), "`{odd}`: the end is never missed");
        }
    }
}
