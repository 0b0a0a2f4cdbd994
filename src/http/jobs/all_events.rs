//! `GET /events`: the states of all of a tenant's jobs as server-sent events, from memory.
//!
//! The stream begins with the event `reset`, which says that the current states of all jobs in the cluster follow; each
//! later event has a new state, or the deletion, of one job. A client that is slower than the jobs misses states in between,
//! never the last one, and costs no memory meanwhile: the stream keeps its place in the cache's log of changes. An event's
//! `id` is the version of the change, so a client that reconnects with `Last-Event-ID`, also at another replica, receives
//! what has changed since. Where the server may not know every deletion since (the replica has just started, or too many
//! jobs were deleted), it begins with `reset` again, so that a client never keeps a job that does not exist.
//!
//! Unlike the events of one job, these never wait for the database or the API server: a job that has ended is without its
//! submitted fields.

use std::{collections::VecDeque, convert::Infallible};

use axum::{
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{FutureExt, future::BoxFuture, stream};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;

use super::{
    events::{DELETED, Deleted, HEARTBEAT, LastEventId},
    logs::UNBUFFERED,
    view::JobView,
};
use crate::http::{
    App,
    by_tenant::ByTenant,
    jobs_index::{JobChange, TenantWatch},
    openapi::Operation,
    problem::{Code, Problem},
    rights::WatchJobs,
    streams::{self, End, Kind, StreamPermit},
};

/// This is the data of the event after which the states of all jobs follow.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "JobsReset")]
struct Reset {
    /// This is the UID of the tenant. The client forgets all jobs of the tenant that it has.
    tenant_id: String,
}

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new(
        "watchJobs",
        "Watch all jobs",
        "Sends the states of all of the tenant's jobs in the cluster, then each change, as server-sent events. A job that has \
         ended is without its submitted fields.",
    )
    .text(
        200,
        "The data of each event `status` is a `Job`, and the data of `deleted` is a `DeletedJob`. The data of `reset` is a \
         `JobsReset`: the states of all jobs follow.",
        "text/event-stream",
    )
    .event::<JobView>(200, "status")
    .event::<Deleted>(200, DELETED)
    .event::<Reset>(200, "reset")
    .problems([Code::TooManyStreams])
}

/// Streams the states of all jobs of the caller's tenant.
///
/// # Errors
/// `too_many_streams`; `cluster_unavailable` before the cache of jobs is complete.
pub async fn events(
    State(app): State<App>,
    ByTenant(context, _): ByTenant<WatchJobs>,
    LastEventId(last_event): LastEventId,
) -> Result<Response, Problem> {
    let tenant = &context.of;
    let permit = app.streams.try_acquire(Kind::Events, &tenant.uid)?;
    if !app.jobs.is_synced() {
        let detail = "this replica has not read all jobs yet: try again";
        return Err(Problem::new(Code::ClusterUnavailable, detail));
    }
    let version = last_event.and_then(|version| version.parse().ok());
    let resumed = version.and_then(|version| app.jobs.resume_tenant(&tenant.namespace, version));
    let source = EventStream {
        first: resumed.is_none().then(|| reset(&tenant.uid)),
        changes: VecDeque::new(),
        watch: resumed.unwrap_or_else(|| app.jobs.watch_tenant(&tenant.namespace)),
        tenant_uid: tenant.uid.clone(),
        tenant_since: context.tenant.metadata.creation_timestamp.as_ref().map(|time| time.0),
        end: streams::end(&app, &context),
        _permit: permit,
    };
    let stream = Sse::new(stream::unfold(source, EventStream::next));
    Ok(([UNBUFFERED], stream.keep_alive(KeepAlive::new().interval(HEARTBEAT))).into_response())
}

fn reset(tenant_uid: &str) -> Event {
    let data = json!(Reset { tenant_id: tenant_uid.to_owned() }).to_string();
    Event::default().event("reset").data(data)
}

/// The stream of the events of all jobs.
struct EventStream {
    watch: TenantWatch,
    tenant_uid: String,
    /// When the tenant was created. Jobs that are older belonged to an earlier tenant of the same name.
    tenant_since: Option<Timestamp>,
    /// The event before all changes.
    first: Option<Event>,
    /// Changes that are to be sent: at most those that the watch returns at a time. Their events, which are larger than they
    /// are, are made one by one.
    changes: VecDeque<(u64, JobChange)>,
    end: BoxFuture<'static, End>,
    _permit: StreamPermit,
}

impl EventStream {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if (&mut self.end).now_or_never().is_some() {
                return None;
            }
            if let Some(event) = self.first.take() {
                return Some((Ok(event), self));
            }
            while let Some((version, change)) = self.changes.pop_front() {
                if let Some(event) = self.event(version, &change) {
                    return Some((Ok(event), self));
                }
            }
            self.changes = tokio::select! {
                biased;
                _ = &mut self.end => return None,
                changes = self.watch.next() => changes.into(),
            };
        }
    }

    /// The event of a change; `None` where it is of an earlier tenant.
    fn event(&self, version: u64, change: &JobChange) -> Option<Event> {
        let (name, data) = match change {
            JobChange::Updated(job) => ("status", json!(JobView::of(job, &self.tenant_uid))),
            JobChange::Deleted(created, _) if self.tenant_since.is_some_and(|since| *created < since) => {
                return None;
            }
            JobChange::Deleted(_, uid) => (DELETED, json!(Deleted { id: uid.to_string() })),
        };
        Some(Event::default().event(name).id(version.to_string()).data(data.to_string()))
    }
}
