//! `GET /jobs/{id}/logs`: what a job printed, from the kubelet through the API server, as it comes.
//!
//! With `follow` the answer begins at once and ends with the attempt. An answer that ends properly is whole; one that had to
//! be cut (the server stops, the key was revoked, the kubelet went away) is broken off, so that a client can tell. The
//! API server ends a log properly also where the kubelet has broken it off, so the end of a followed one counts only
//! once its container has ended ([`until_ended`]).
//! Each piece is passed on when the client has taken the one before: the kubelet waits for a slow reader.

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

use super::{Id, has_ended, living};
use crate::{
    api_types::{Job, JobPhase, api_key::Scope},
    domain::job_pod::JobPod,
    http::{
        App,
        auth::{ByKey, Context, JobsRead},
        jobs_index::{Awaited, News},
        problem::{Code, Problem},
        query::Params,
        streams::{self, End, Kind, Place},
    },
    kube_ext::{call::within_opt, within},
    names,
};

/// Has a proxy in between pass pieces on as they come.
pub const UNBUFFERED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// How long after the end of a followed log the API server may take to know that its container has ended, and between
/// two questions, at first and at most.
const END_KNOWN: Duration = Duration::from_secs(15);
const ASK_FIRST: Duration = Duration::from_millis(250);
const ASK_LAST: Duration = Duration::from_secs(4);

/// Parameters.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    /// Whether the response continues until the attempt ends. It waits for an attempt that has not started.
    #[serde(default, deserialize_with = "flag")]
    follow: bool,
    /// Only this many lines from the end are returned.
    #[schemars(range(max = i32::MAX))]
    tail_lines: Option<u32>,
    /// Only what was printed in the last so many seconds is returned.
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
        _ => Err(de::Error::custom("a switch is `true` or `false`")),
    }
}

impl Wanted {
    /// Refuses what the API server would refuse in words of its own.
    fn check(&self) -> Result<(), Problem> {
        const MOST: u32 = i32::MAX.unsigned_abs();
        let within = |name: &str, value: Option<u32>, least: u32| match value {
            Some(value) if !(least..=MOST).contains(&value) => {
                Err(Problem::new(Code::InvalidQuery, format!("{name}: give {least} to {MOST}")))
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

/// Which log there is to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// That of this attempt.
    Attempt(u32),
    /// None yet: the attempt has not started.
    Later,
    /// None, and there will be none: it ended before it started.
    Never,
    /// There is no such attempt.
    Unknown,
}

fn which(job: &Job, wanted: &Wanted) -> Which {
    let status = job.status.clone().unwrap_or_default();
    let current = u32::try_from(status.attempt).unwrap_or_default();
    match wanted.attempt {
        Some(attempt) if attempt == 0 || attempt > current.max(1) => return Which::Unknown,
        Some(attempt) if attempt < current => return Which::Attempt(attempt),
        _ => (),
    }
    match status.phase {
        JobPhase::Running => Which::Attempt(current),
        _ if current == 0 && has_ended(job) => Which::Never,
        _ if current == 0 => Which::Later,
        _ if has_ended(job) => Which::Attempt(current),
        JobPhase::Assigned if wanted.follow => Which::Later,
        // Its container may have started: the kubelet knows.
        JobPhase::Assigned => Which::Attempt(current),
        // Between two attempts: the last one's, unless what comes is waited for.
        _ if wanted.attempt.is_some() || !wanted.follow => Which::Attempt(current),
        _ => Which::Later,
    }
}

/// A log as it comes.
type Reader = Pin<Box<dyn AsyncBufRead + Send>>;

/// The log of one attempt.
struct Opened {
    reader: Reader,
    /// The pod, where the log is followed to the end of its container.
    followed: Option<(Api<Pod>, String)>,
}

impl Opened {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        let piece = Bytes::copy_from_slice(self.reader.fill_buf().await?);
        self.reader.as_mut().consume(piece.len());
        if !piece.is_empty() {
            return Ok(Some(piece));
        }
        if let Some((api, pod)) = &self.followed {
            until_ended(api, pod).await?;
        }
        Ok(None)
    }
}

/// Waits until the container of a job's pod has ended, or the pod is gone; fails where it still runs after [`END_KNOWN`].
async fn until_ended(api: &Api<Pod>, pod: &str) -> io::Result<()> {
    let (end, mut wait) = (Instant::now() + END_KNOWN, ASK_FIRST);
    loop {
        match within_opt("failed to read a pod", api.get(pod)).await {
            Ok(None) => return Ok(()),
            Ok(Some(pod)) if is_over(&pod) => return Ok(()),
            // Not known yet, or not to be had at the moment.
            Ok(Some(_)) | Err(_) => (),
        }
        if Instant::now() + wait > end {
            return Err(io::Error::other("the log has ended before its container"));
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(ASK_LAST);
    }
}

/// Whether nothing more is printed: the job's container has ended.
fn is_over(pod: &Pod) -> bool {
    let Some(status) = &pod.status else { return false };
    let containers = status.container_statuses.iter().flatten();
    let mut job = containers.filter(|container| container.name == names::JOB_CONTAINER);
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
        || job.any(|job| job.state.as_ref().is_some_and(|state| state.terminated.is_some()))
}

/// Opens the log of one attempt.
async fn open(app: &App, job: &Job, attempt: u32, wanted: &Wanted) -> Result<Opened, Problem> {
    let pod = names::pod(&job.name_any(), &job.uid().unwrap_or_default(), attempt);
    let api: Api<Pod> = Api::namespaced(app.client.clone(), &job.namespace().unwrap_or_default());
    let found = within_opt("failed to read the pod of a log", api.get_metadata(&pod)).await?;
    let prefix = &app.settings.namespace_prefix;
    let found = found.as_ref().and_then(|found| JobPod::of(&found.metadata, prefix));
    if !found.is_some_and(|found| found.is_of_job(job)) {
        return Err(gone(attempt));
    }
    let opened = within("failed to open a log", api.log_stream(&pod, &wanted.params())).await;
    let reader = opened.map_err(|error| match error.code() {
        Some(404) => gone(attempt).inside(error),
        Some(400) => not_started().inside(error),
        None | Some(429 | 500..) => {
            let detail = "the log can't be had from the node at the moment";
            Problem::new(Code::ClusterUnavailable, detail).inside(error)
        }
        Some(422) => {
            Problem::new(Code::InvalidQuery, "the log can't be read with these parameters").inside(error)
        }
        Some(_) => error.into(),
    })?;
    Ok(Opened { reader: Box::pin(reader), followed: wanted.follow.then_some((api, pod)) })
}

fn gone(attempt: u32) -> Problem {
    let detail = format!("the log of attempt {attempt} is gone: it stays no longer than its pod");
    Problem::new(Code::LogGone, detail)
}

fn not_started() -> Problem {
    let detail = "the job has not started, so it has no log yet; `follow` waits for it";
    Problem::new(Code::NotStarted, detail)
}

/// Reads or follows a log.
///
/// # Errors
/// `not_started`, `log_gone`, `too_many_streams`, `cluster_unavailable`.
pub async fn logs(
    State(app): State<App>,
    ByKey(context, _): ByKey<JobsRead>,
    id: Id,
    Params(wanted): Params<Wanted>,
) -> Result<Response, Problem> {
    wanted.check()?;
    let job = living(&app, &context, &id)?;
    let place = app.streams.enter(Kind::Logs, &context.principal.tenant.uid)?;
    let end = streams::end(&app, &context, Scope::JobsRead);
    let source = match which(&job, &wanted) {
        Which::Attempt(attempt) => Source::Open(Box::new(open(&app, &job, attempt, &wanted).await?)),
        Which::Later if wanted.follow => Source::Awaited(Box::new(Waiting::of(app, &context, &job, wanted))),
        Which::Later => return Err(not_started()),
        Which::Never => {
            return Err(Problem::new(Code::LogGone, "the job ended before it started, so it has no log"));
        }
        Which::Unknown => return Err(Problem::not_found("attempt")),
    };
    let body = Body::from_stream(stream::try_unfold(Log { source, end, _place: place }, Log::next));
    let kind = (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(([kind, UNBUFFERED], body).into_response())
}

/// A log on its way.
struct Log {
    source: Source,
    end: BoxFuture<'static, End>,
    _place: Place,
}

enum Source {
    Awaited(Box<Waiting>),
    Open(Box<Opened>),
}

impl Log {
    /// The next piece. What ends early ends with an error, by which the connection is broken off.
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        let source = &mut self.source;
        let piece = async {
            if let Source::Awaited(waiting) = source {
                match waiting.started().await? {
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

/// A job whose next attempt is waited for.
struct Waiting {
    app: App,
    awaited: Awaited,
    uid: String,
    namespace: String,
    wanted: Wanted,
}

impl Waiting {
    fn of(app: App, context: &Context, job: &Job, wanted: Wanted) -> Self {
        let namespace = context.principal.tenant.namespace.clone();
        let awaited = app.jobs.awaiting(&namespace, &job.name_any());
        Self { awaited, uid: job.uid().unwrap_or_default(), namespace, wanted, app }
    }

    /// The log, as soon as there is one; `None` where there will be none.
    async fn started(&mut self) -> io::Result<Option<Opened>> {
        let uid = self.uid.parse().map_err(io::Error::other)?;
        // It may have started before it was listened to.
        let mut news = self.app.jobs.get(&self.namespace, uid).map_or(News::Gone(None), News::Is);
        loop {
            let News::Is(job) = news else { return Ok(None) };
            match which(&job, &self.wanted) {
                Which::Attempt(attempt) => {
                    let opened = open(&self.app, &job, attempt, &self.wanted).await;
                    return opened.map(Some).map_err(|problem| {
                        tracing::info!(
                            code = problem.code.as_str(),
                            "a log that was waited for can't be read"
                        );
                        io::Error::other(problem.code.as_str())
                    });
                }
                Which::Never | Which::Unknown => return Ok(None),
                Which::Later => news = self.awaited.next(&self.uid).await,
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
    fn the_log_is_that_of_the_attempt_that_has_one() {
        let of = |job: &Job, follow, attempt| which(job, &Wanted { follow, attempt, ..Wanted::default() });
        let cases = [
            (job("Queued", 0, false), [Which::Later, Which::Later]),
            (job("Assigned", 1, false), [Which::Attempt(1), Which::Later]),
            (job("Running", 1, false), [Which::Attempt(1), Which::Attempt(1)]),
            (job("Completed", 1, true), [Which::Attempt(1), Which::Attempt(1)]),
            (job("Retrying", 1, false), [Which::Attempt(1), Which::Later]),
            (job("Queued", 1, false), [Which::Attempt(1), Which::Later]),
            (job("Canceled", 0, true), [Which::Never, Which::Never]),
        ];
        for (job, expected) in cases {
            assert_eq!([false, true].map(|follow| of(&job, follow, None)), expected, "{job:?}");
        }
        let third = job("Running", 3, false);
        assert_eq!(of(&third, true, Some(2)), Which::Attempt(2));
        assert_eq!(of(&third, false, Some(4)), Which::Unknown);
        assert_eq!(of(&third, false, Some(0)), Which::Unknown);
        assert_eq!(of(&job("Retrying", 1, false), true, Some(1)), Which::Attempt(1));
        assert_eq!(of(&job("Assigned", 1, false), true, Some(1)), Which::Later);
    }

    #[test]
    fn switches_are_given_by_their_name_alone_too() {
        let of = |query: &str| serde_json::from_str::<Wanted>(query).map(|wanted| wanted.follow);
        assert!(of(r#"{"follow": ""}"#).unwrap() && of(r#"{"follow": "true"}"#).unwrap());
        assert!(!of(r#"{"follow": "false"}"#).unwrap() && !of("{}").unwrap());
        assert!(of(r#"{"follow": "yes"}"#).is_err());
    }
}
