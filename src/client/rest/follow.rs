//! Streams of the REST API: a job's states and its log.
//!
//! The states survive a server that stops: the stream connects again, and the server repeats the current state. A log that is
//! cut ends with an error, so that whoever prints it can connect again where it was.

use std::time::Duration;

use axum::http::Method;
use futures::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use kube::client::Body;

use super::{Rest, exchange::path, sse};
use crate::client::{
    Log, LogOptions, Scope,
    error::{Error, Kind, Result},
    model::Job,
};

/// Connections in a row that deliver nothing before the stream gives up.
const MAX_FAILURES: u32 = 10;
/// Time between two of them.
const PAUSE: Duration = Duration::from_secs(1);
/// The server sends a comment every 15 s: a connection on which nothing comes for so long is dead.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

struct Open {
    body: Body,
    parser: sse::Parser,
    events: std::vec::IntoIter<sse::Event>,
}

enum Next {
    Event(sse::Event),
    Closed,
}

impl Open {
    async fn next(&mut self) -> Next {
        loop {
            if let Some(event) = self.events.next() {
                return Next::Event(event);
            }
            match tokio::time::timeout(SILENCE_LIMIT, self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    let piece = frame.into_data().unwrap_or_default();
                    self.events = self.parser.push(&piece).into_iter();
                }
                _ => return Next::Closed,
            }
        }
    }
}

struct Following<'a> {
    rest: &'a Rest,
    scope: &'a Scope,
    job: &'a Job,
    open: Option<Open>,
    failures: u32,
    is_over: bool,
}

impl Following<'_> {
    async fn connect(&mut self) -> Result<Open> {
        let what = format!("follow the job {}", self.job.name);
        let path = path(&["jobs", &self.job.id, "events"], &[]);
        let headers = Rest::header(self.scope);
        let response = self.rest.exchange.send(&what, Method::GET, &path, &headers, None).await?;
        let body = response.into_body();
        Ok(Open { body, parser: sse::Parser::default(), events: Vec::new().into_iter() })
    }

    /// The next state; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Result<Option<Job>>> {
        while !self.is_over {
            if self.open.is_none() {
                match self.connect().await {
                    Ok(open) => self.open = Some(open),
                    Err(error) if self.may_retry(&error) => {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                    Err(error) => {
                        self.is_over = true;
                        return Some(Err(error));
                    }
                }
            }
            let next = match &mut self.open {
                Some(open) => open.next().await,
                None => Next::Closed,
            };
            match next {
                Next::Event(event) => {
                    self.failures = 0;
                    if let Some(state) = self.state(&event) {
                        return Some(state);
                    }
                }
                Next::Closed => {
                    self.open = None;
                    let cut = Error::new(
                        Kind::Unreachable,
                        format!(
                            "failed to follow the job {}: the server keeps ending the connection",
                            self.job.name
                        ),
                    );
                    if !self.may_retry(&cut) {
                        self.is_over = true;
                        return Some(Err(cut));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        None
    }

    fn may_retry(&mut self, error: &Error) -> bool {
        self.failures += 1;
        matches!(error.kind, Kind::Unreachable | Kind::Failed) && self.failures < MAX_FAILURES
    }

    fn state(&mut self, event: &sse::Event) -> Option<Result<Option<Job>>> {
        match event.name.as_str() {
            "deleted" => {
                self.is_over = true;
                Some(Ok(None))
            }
            "status" => {
                let job = serde_json::from_str::<Job>(&event.data).map_err(|error| {
                    Error::new(
                        Kind::Failed,
                        format!("failed to read an event of the job {}: {error}", self.job.name),
                    )
                });
                self.is_over = job.as_ref().map_or(true, Job::has_ended);
                Some(job.map(Some))
            }
            // Of a newer server.
            _ => None,
        }
    }
}

/// The states of a job.
pub fn changes<'a>(
    rest: &'a Rest,
    scope: &'a Scope,
    job: &'a Job,
) -> impl Stream<Item = Result<Option<Job>>> + Send + 'a {
    let following = Following { rest, scope, job, open: None, failures: 0, is_over: false };
    stream::unfold(following, |mut following| async move {
        let next = following.next().await?;
        Some((next, following))
    })
}

/// The log of one attempt.
pub async fn log<'a>(
    rest: &'a Rest,
    scope: &'a Scope,
    job: &'a Job,
    options: &'a LogOptions,
) -> Result<Log<'a>> {
    let flag = |set: bool| set.then(|| "true".to_owned());
    let query = [
        ("follow", flag(options.follow)),
        ("tail_lines", options.tail.map(|lines| lines.to_string())),
        ("since_seconds", options.since_seconds.map(|seconds| seconds.to_string())),
        ("timestamps", flag(options.timestamps)),
        ("attempt", options.attempt.map(|attempt| attempt.to_string())),
    ];
    let what = format!("read the log of the job {}", job.name);
    let path = path(&["jobs", &job.id, "logs"], &query);
    let response =
        rest.exchange.send(&what, Method::GET, &path, &Rest::header(scope), None).await.map_err(|error| {
            let next = match error.code.as_deref() {
                Some("not_started") => format!("logs -f {}", job.name),
                _ => format!("jobs {}", job.name),
            };
            error.or_next(next)
        })?;
    let pieces = response.into_body().into_data_stream();
    let pieces = pieces.map(move |piece| {
        let piece = piece.map_err(|_| {
            Error::new(
                Kind::Unreachable,
                format!("failed to read the log of the job {}: it was cut", job.name),
            )
        });
        Ok(piece?.to_vec())
    });
    Ok(pieces.boxed())
}
