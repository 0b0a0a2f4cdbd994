//! `GET /jobs/{id}/logs`: the output of a job, streamed from the kubelet through the API server.
//!
//! With `follow` the response begins at once and ends with the attempt. A response that ends properly is complete; one that
//! is cut (the server stops, the key is revoked, the kubelet fails) is aborted, so that a client can distinguish them. The
//! API server ends a log properly also where the kubelet has aborted it, so the end of a followed log counts only once its
//! container has ended ([`wait_until_ended`]).
//! The server sends each piece when the client has received the previous one: the kubelet waits for a slow client.

use std::{io, pin::Pin, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures::{AsyncBufRead, AsyncBufReadExt, future::BoxFuture, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::LogParams};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};
use tokio::time::Instant;

use super::{Id, cached_job, has_ended};
use crate::{
    api_types::{Job, JobPhase},
    domain::job_pod::JobPod,
    http::{
        App,
        by_tenant::{ByTenant, Context},
        jobs_index::{JobEvent, JobWatch},
        openapi::Operation,
        problem::{Code, Problem},
        query::Params,
        rights::ReadLog,
        streams::{self, End, Kind, StreamPermit},
    },
    kube_ext::{CallError, call::within_opt, within},
    names,
};

/// The header with which a proxy forwards each piece at once.
pub const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// How long after the end of a followed log the API server may take to report that its container has ended.
const CONTAINER_END_TIMEOUT: Duration = Duration::from_secs(15);
/// First and longest time between two reads of the pod.
const FIRST_POLL_INTERVAL: Duration = Duration::from_millis(250);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(4);

/// Parameters.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// Whether the response continues until the attempt ends. It waits for an attempt that has not started.
    #[serde(default, deserialize_with = "flag")]
    follow: bool,
    /// Only this many lines from the end are returned.
    #[schemars(range(max = i32::MAX))]
    tail_lines: Option<u32>,
    /// Only what was printed in the last given number of seconds is returned.
    #[schemars(range(min = 1, max = i32::MAX))]
    since_seconds: Option<u32>,
    /// Whether each line begins with its time.
    #[serde(default, deserialize_with = "flag")]
    timestamps: bool,
    /// This is the number of the attempt, from 1. By default it is the current or last one.
    #[schemars(range(min = 1, max = i32::MAX))]
    attempt: Option<u32>,
}

/// `?name`, `?name=true` or `?name=false`.
fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    match String::deserialize(deserializer)?.as_str() {
        "" | "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(de::Error::custom("give `true` or `false`")),
    }
}

impl LogQuery {
    /// Checks what the API server would refuse with other names.
    fn check(&self) -> Result<(), Problem> {
        const MAX: u32 = i32::MAX.unsigned_abs();
        let within = |name: &str, value: Option<u32>, least: u32| match value {
            Some(value) if !(least..=MAX).contains(&value) => {
                Err(Problem::new(Code::InvalidQuery, format!("{name} is {value}: give {least} to {MAX}")))
            }
            _ => Ok(()),
        };
        within("tail_lines", self.tail_lines, 0)?;
        within("since_seconds", self.since_seconds, 1)
    }

    fn params(&self) -> LogParams {
        LogParams {
            container: Some(names::JOB_CONTAINER.to_owned()),
            follow: self.follow,
            tail_lines: self.tail_lines.map(Into::into),
            since_seconds: self.since_seconds.map(Into::into),
            timestamps: self.timestamps,
            ..LogParams::default()
        }
    }
}

/// The log that a request selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Selected {
    /// The log of this attempt.
    Attempt(u32),
    /// The attempt has not started, so it has no log yet.
    Later,
    /// The job ended before it started, so it will have no log.
    Never,
    /// The job has no attempt of this number.
    Unknown,
}

fn select(job: &Job, query: &LogQuery) -> Selected {
    let status = job.status.clone().unwrap_or_default();
    let current = u32::try_from(status.attempt).unwrap_or_default();
    match query.attempt {
        Some(attempt) if attempt == 0 || attempt > current.max(1) => return Selected::Unknown,
        Some(attempt) if attempt < current => return Selected::Attempt(attempt),
        _ => (),
    }
    match status.phase {
        JobPhase::Running => Selected::Attempt(current),
        _ if current == 0 && has_ended(job) => Selected::Never,
        _ if current == 0 => Selected::Later,
        _ if has_ended(job) => Selected::Attempt(current),
        JobPhase::Assigned if query.follow => Selected::Later,
        // The container may have started, which only the kubelet knows.
        JobPhase::Assigned => Selected::Attempt(current),
        // Between two attempts: the log of the last one, unless the client waits for the next one.
        _ if query.attempt.is_some() || !query.follow => Selected::Attempt(current),
        _ => Selected::Later,
    }
}

/// A log that the kubelet is sending.
type Reader = Pin<Box<dyn AsyncBufRead + Send>>;

/// The log of one attempt.
struct OpenLog {
    reader: Reader,
    /// The pod, where the response follows the log to the end of its container.
    followed: Option<(Api<Pod>, String)>,
}

impl OpenLog {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let piece = Bytes::copy_from_slice(self.reader.fill_buf().await?);
        self.reader.as_mut().consume(piece.len());
        if !piece.is_empty() {
            return Ok(Some(piece));
        }
        if let Some((api, pod)) = &self.followed {
            wait_until_ended(api, pod).await?;
        }
        Ok(None)
    }
}

/// Waits until the container of a job's pod has ended, or the pod is deleted; fails where it runs after
/// [`CONTAINER_END_TIMEOUT`].
async fn wait_until_ended(api: &Api<Pod>, pod: &str) -> io::Result<()> {
    let (end, mut wait) = (Instant::now() + CONTAINER_END_TIMEOUT, FIRST_POLL_INTERVAL);
    loop {
        match within_opt("failed to read a pod", api.get(pod)).await {
            Ok(None) => return Ok(()),
            Ok(Some(pod)) if container_has_ended(&pod) => return Ok(()),
            // Not reported yet, or the API server does not answer.
            Ok(Some(_)) | Err(_) => (),
        }
        if Instant::now() + wait > end {
            return Err(io::Error::other("the log ended before its container"));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(MAX_POLL_INTERVAL);
    }
}

/// Whether the job's container has ended, so that the log is complete.
fn container_has_ended(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let containers = status.container_statuses.iter().flatten();
    let mut job = containers.filter(|container| container.name == names::JOB_CONTAINER);
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
        || job.any(|job| job.state.as_ref().is_some_and(|state| state.terminated.is_some()))
}

/// Opens the log of one attempt.
async fn open(app: &App, job: &Job, attempt: u32, query: &LogQuery) -> Result<OpenLog, Problem> {
    let pod = names::pod(&job.name_any(), &job.uid().unwrap_or_default(), attempt);
    let api: Api<Pod> = Api::namespaced(app.client.clone(), &job.namespace().unwrap_or_default());
    let prefix = &app.settings.namespace_prefix;
    let exists = async || -> Result<bool, Problem> {
        let found = within_opt("failed to read the pod of a log", api.get_metadata(&pod)).await?;
        let found = found.as_ref().and_then(|found| JobPod::of(&found.metadata, prefix));
        Ok(found.is_some_and(|found| found.is_of_job(job)))
    };
    if !exists().await? {
        return Err(log_deleted(attempt));
    }
    let opened = within("failed to open a log", api.log_stream(&pod, &query.params())).await;
    let is_absent = opened.as_ref().is_err_and(CallError::is_not_found);
    let is_deleted = is_absent && !exists().await?;
    let reader = opened.map_err(|error| match error.code() {
        Some(404) if is_deleted => log_deleted(attempt).with_cause(error),
        Some(404) => {
            let detail = format!("the node has no log of attempt {attempt}");
            Problem::new(Code::LogGone, detail).with_cause(error)
        }
        Some(400) => not_started().with_cause(error),
        None | Some(429 | 500..) => {
            let detail = "the node does not return the log at the moment";
            Problem::new(Code::ClusterUnavailable, detail).with_cause(error)
        }
        Some(422) => {
            Problem::new(Code::InvalidQuery, "the kubelet refuses these parameters").with_cause(error)
        }
        Some(_) => error.into(),
    })?;
    Ok(OpenLog { reader: Box::pin(reader), followed: query.follow.then_some((api, pod)) })
}

fn log_deleted(attempt: u32) -> Problem {
    let detail = format!("the log of attempt {attempt} was deleted with its pod");
    Problem::new(Code::LogGone, detail)
}

fn not_started() -> Problem {
    let detail = "the job has not started, so it has no log yet: `follow` waits for it";
    Problem::new(Code::NotStarted, detail)
}

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new(
        "getJobLogs",
        "Read the log of a job",
        "Returns what an attempt of the job printed. With `follow` the response continues until the attempt ends. A response \
         that had to be cut is aborted.",
    )
    .text(200, "This is the log.", "text/plain; charset=utf-8")
    .problems([Code::NotStarted, Code::LogGone, Code::TooManyStreams])
}

/// Reads or follows a log.
///
/// # Errors
/// `not_started`, `log_gone`, `too_many_streams`, `cluster_unavailable`.
pub async fn logs(
    State(app): State<App>,
    ByTenant(context, _): ByTenant<ReadLog>,
    id: Id,
    Params(query): Params<LogQuery>,
) -> Result<Response, Problem> {
    query.check()?;
    let job = cached_job(&app, &context, &id).await?;
    let permit = app.streams.try_acquire(Kind::Logs, &context.of.uid)?;
    let end = streams::end(&app, &context);
    let source = match select(&job, &query) {
        Selected::Attempt(attempt) => Source::Open(Box::new(open(&app, &job, attempt, &query).await?)),
        Selected::Later if query.follow => {
            Source::Waiting(Box::new(AttemptWait::of(app, &context, &job, query)))
        }
        Selected::Later => return Err(not_started()),
        Selected::Never => {
            return Err(Problem::new(Code::LogGone, "the job ended before it started, so it has no log"));
        }
        Selected::Unknown => return Err(Problem::not_found("attempt")),
    };
    let body =
        Body::from_stream(stream::try_unfold(LogStream { source, end, _permit: permit }, LogStream::next));
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(([kind, UNBUFFERED], body).into_response())
}

/// The stream of a log.
struct LogStream {
    source: Source,
    end: BoxFuture<'static, End>,
    _permit: StreamPermit,
}

enum Source {
    Waiting(Box<AttemptWait>),
    Open(Box<OpenLog>),
}

impl LogStream {
    /// The next piece. A stream that ends early ends with an error, which aborts the connection.
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let source = &mut self.source;
        let piece = async {
            if let Source::Waiting(wait) = source {
                match wait.opened().await? {
                    Some(opened) => *source = Source::Open(Box::new(opened)),
                    None => return Ok(None),
                }
            }
            let Source::Open(opened) = source else { return Ok(None) };
            opened.next().await
        };
        let piece = tokio::select! {
            biased;
            end = &mut self.end => Err(io::Error::other(end)),
            piece = piece => piece,
        };
        Ok(piece?.map(|piece| (piece, self)))
    }
}

/// A request that waits for the next attempt of its job.
struct AttemptWait {
    app: App,
    watch: JobWatch,
    uid: String,
    namespace: String,
    query: LogQuery,
}

impl AttemptWait {
    fn of(app: App, context: &Context, job: &Job, query: LogQuery) -> Self {
        let namespace = context.of.namespace.clone();
        let watch = app.jobs.watch(&namespace, &job.name_any());
        Self { watch, uid: job.uid().unwrap_or_default(), namespace, query, app }
    }

    /// The log of the attempt, once it has started; `None` where none will start.
    async fn opened(&mut self) -> io::Result<Option<OpenLog>> {
        let uid = self.uid.parse().map_err(io::Error::other)?;
        // The attempt may have started before the watch began.
        let mut change =
            self.app.jobs.get(&self.namespace, uid).map_or(JobEvent::Deleted(None), JobEvent::Updated);
        loop {
            let JobEvent::Updated(job) = change else { return Ok(None) };
            match select(&job, &self.query) {
                Selected::Attempt(attempt) => {
                    let opened = open(&self.app, &job, attempt, &self.query).await;
                    return opened.map(Some).map_err(|problem| {
                        tracing::info!(
                            code = problem.code.as_str(),
                            "failed to open the log of a new attempt"
                        );
                        io::Error::other(problem.code.as_str())
                    });
                }
                Selected::Never | Selected::Unknown => return Ok(None),
                Selected::Later => change = self.watch.next(&self.uid).await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(phase: &str, attempt: i32, ended: bool) -> Job {
        let mut status = json!({"phase": phase, "attempt": attempt});
        if ended {
            status["finishedAt"] = json!("2030-01-01T00:00:00Z");
        }
        serde_json::from_value(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Job",
            "metadata": {"name": "j", "namespace": "tenant-a", "uid": "u"}, "spec": {"image": "i"}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn the_selected_log_is_that_of_an_attempt_that_has_one() {
        let of =
            |job: &Job, follow, attempt| select(job, &LogQuery { follow, attempt, ..LogQuery::default() });
        let cases = [
            (job("Queued", 0, false), [Selected::Later, Selected::Later]),
            (job("Assigned", 1, false), [Selected::Attempt(1), Selected::Later]),
            (job("Running", 1, false), [Selected::Attempt(1), Selected::Attempt(1)]),
            (job("Completed", 1, true), [Selected::Attempt(1), Selected::Attempt(1)]),
            (job("Retrying", 1, false), [Selected::Attempt(1), Selected::Later]),
            (job("Queued", 1, false), [Selected::Attempt(1), Selected::Later]),
            (job("Canceled", 0, true), [Selected::Never, Selected::Never]),
        ];
        for (job, expected) in cases {
            assert_eq!([false, true].map(|follow| of(&job, follow, None)), expected, "{job:?}");
        }
        let third = job("Running", 3, false);
        assert_eq!(of(&third, true, Some(2)), Selected::Attempt(2));
        assert_eq!(of(&third, false, Some(4)), Selected::Unknown);
        assert_eq!(of(&third, false, Some(0)), Selected::Unknown);
        assert_eq!(of(&job("Retrying", 1, false), true, Some(1)), Selected::Attempt(1));
        assert_eq!(of(&job("Assigned", 1, false), true, Some(1)), Selected::Later);
    }

    #[test]
    fn switches_are_given_by_their_name_alone_too() {
        let of = |text: &str| serde_json::from_str::<LogQuery>(text).map(|query| query.follow);
        assert!(of(r#"{"follow": ""}"#).unwrap() && of(r#"{"follow": "true"}"#).unwrap());
        assert!(!of(r#"{"follow": "false"}"#).unwrap() && !of("{}").unwrap());
        assert!(of(r#"{"follow": "yes"}"#).is_err());
    }
}
