//! `GET /jobs/{id}/events`: the job's state as server-sent events (the WHATWG HTML standard, 9.2), from memory.
//!
//! The first event is the state now, then comes each one that is new, and the end of the job ends the stream. What is told is
//! the latest state: a reader that is slower than the job misses states in between, never the last one, and holds up
//! nobody. An event's `id` is the object's version, so a client that comes back with `Last-Event-ID` is told what it has
//! not seen: nothing until the next change, or the state now. A replica that is behind the one it was at does not take it
//! back in time.

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

use super::{Id, ended::whole, get::past, has_ended, living, logs::UNBUFFERED, view::JobView};
use crate::{
    api_types::{Job, api_key::Scope},
    http::{
        App,
        auth::{ByKey, JobsRead},
        header::only,
        jobs_index::{Awaited, News},
        openapi::{Describes, Operation},
        problem::Problem,
        streams::{self, End, Kind, Place},
    },
};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Time without an event after which a comment is sent, so that nobody in between gives the connection up.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Name, and `id`, of the event that the job is gone.
const DELETED: &str = "deleted";

/// The `Last-Event-ID` of a client that comes back.
pub struct LastEventId(Option<String>);

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
    id: String,
}

/// Follows a job's state.
///
/// # Errors
/// `not_found`, `too_many_streams`.
pub async fn events(
    State(app): State<App>,
    ByKey(context, _): ByKey<JobsRead>,
    id: Id,
    LastEventId(seen): LastEventId,
) -> Result<Response, Problem> {
    let place = app.streams.enter(Kind::Events, &context.principal.tenant.uid)?;
    let tenant_uid = context.principal.tenant.uid.clone();
    let mut told = Told::new(tenant_uid, seen.clone());
    let Ok(job) = living(&app, &context, &id) else {
        let past = past(&app, &context, &id).await?;
        if seen.as_deref() == Some(DELETED) {
            return Ok(nothing_more());
        }
        told.event(None, &past);
        told.deleted(&id.0.to_string());
        let all = stream::iter(told.queue.into_iter().map(Ok::<_, Infallible>));
        return Ok(([UNBUFFERED], Sse::new(all)).into_response());
    };
    let namespace = &context.principal.tenant.namespace;
    let awaited = app.jobs.awaiting(namespace, &job.name_any());
    // What came before it was listened to.
    let job = living(&app, &context, &id).unwrap_or(job);
    told.state(&*whole(&app, &context.principal.tenant.uid, job).await);
    if told.over && told.queue.is_empty() {
        return Ok(nothing_more());
    }
    let end = streams::end(&app, &context, Scope::JobsRead);
    let feed = Feed { app, awaited, uid: id.0.to_string(), told, end, _place: place };
    let events = Sse::new(stream::unfold(feed, Feed::next));
    Ok(([UNBUFFERED], events.keep_alive(KeepAlive::new().interval(HEARTBEAT))).into_response())
}

/// By which a browser that has seen the end stops coming back.
fn nothing_more() -> Response {
    StatusCode::NO_CONTENT.into_response()
}

/// A job's events on their way.
struct Feed {
    app: App,
    awaited: Awaited,
    uid: String,
    told: Told,
    end: BoxFuture<'static, End>,
    _place: Place,
}

impl Feed {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.told.queue.pop_front() {
                return Some((Ok(event), self));
            }
            if self.told.over {
                return None;
            }
            let news = tokio::select! {
                biased;
                _ = &mut self.end => return None,
                news = self.awaited.next(&self.uid) => news,
            };
            match news {
                News::Is(job) => {
                    let job = whole(&self.app, &self.told.tenant_uid, job).await;
                    self.told.state(&job);
                }
                News::Gone(last) => {
                    if let Some(last) = last {
                        self.told.state(&*whole(&self.app, &self.told.tenant_uid, last).await);
                    }
                    self.told.deleted(&self.uid);
                }
            }
        }
    }
}

/// What a client has been told, and what it is to be told next.
struct Told {
    tenant_uid: String,
    /// Version of the newest state that it has seen.
    seen: Option<String>,
    /// That state, where it was told here.
    last: Option<String>,
    /// At most a state and the end.
    queue: VecDeque<Event>,
    over: bool,
}

impl Told {
    fn new(tenant_uid: String, seen: Option<String>) -> Self {
        Self { tenant_uid, seen, last: None, queue: VecDeque::new(), over: false }
    }

    /// The job is in this state.
    fn state(&mut self, job: &Job) {
        let version = job.resource_version().unwrap_or_default();
        let ended = has_ended(job);
        if self.is_news(&version, ended) {
            let view = JobView::of(job, &self.tenant_uid);
            self.event(Some(version), &view);
        }
        self.over |= ended;
    }

    /// Whether this version is newer than what was seen. The end is told though versions should say otherwise.
    fn is_news(&self, version: &str, ended: bool) -> bool {
        let Some(seen) = &self.seen else { return true };
        let is_older = match (version.parse::<u64>(), seen.parse::<u64>()) {
            (Ok(version), Ok(seen)) => version < seen,
            _ => false,
        };
        seen != version && (ended || !is_older)
    }

    fn event(&mut self, version: Option<String>, view: &JobView) {
        let text = json!(view).to_string();
        if self.last.as_ref() != Some(&text) {
            let event = Event::default().event("status").data(&text);
            self.queue.push_back(match &version {
                // Versions are digits: no line breaks, which an id can't have.
                Some(version) if version.bytes().all(|b| b.is_ascii_graphic()) => event.id(version),
                _ => event,
            });
        }
        (self.seen, self.last) = (version, Some(text));
    }

    fn deleted(&mut self, uid: &str) {
        let data = json!(Deleted { id: uid.to_owned() }).to_string();
        self.queue.push_back(Event::default().event(DELETED).id(DELETED).data(data));
        self.over = true;
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

    /// How many events each state gives, and whether that was the end.
    fn told(seen: Option<&str>, states: &[Job]) -> (Vec<usize>, bool) {
        let mut told = Told::new("t".to_owned(), seen.map(str::to_owned));
        let counts = states.iter().map(|job| {
            told.state(job);
            std::mem::take(&mut told.queue).len()
        });
        (counts.collect(), told.over)
    }

    #[test]
    fn the_state_now_comes_first_then_what_is_new_and_the_end_is_the_last() {
        let states = [job("5", "Queued", false), job("6", "Queued", false), job("7", "Running", false)];
        assert_eq!(
            told(None, &states),
            (vec![1, 0, 1], false),
            "a write that changes nothing shown is no news"
        );
        assert_eq!(told(None, &[job("9", "Completed", true)]), (vec![1], true));
    }

    #[test]
    fn who_comes_back_is_told_what_he_has_not_seen_and_never_goes_back_in_time() {
        let states = [job("7", "Running", false), job("9", "Completed", true)];
        assert_eq!(told(Some("7"), &states), (vec![0, 1], true), "nothing until the next change");
        assert_eq!(told(Some("5"), &states), (vec![1, 1], true), "the state now, where something was missed");
        assert_eq!(told(Some("8"), &states), (vec![0, 1], true), "from a replica that is ahead of this one");
        assert_eq!(told(Some("9"), &states[1..]), (vec![0], true), "the end was seen");
        let huge = u64::MAX.to_string();
        for odd in ["x", "", huge.as_str()] {
            assert_eq!(told(Some(odd), &states[1..]), (vec![1], true), "`{odd}`: the end is never missed");
        }
    }
}
