//! Follows a job to its end: its states, and the logs of its attempts.
//!
//! A log that is cut, because a server stops or a kubelet is away, is opened again where it was: what was printed of it is
//! skipped. A retry is one more log of the same job. Only an attempt whose pod is deleted loses the rest of its log, and that
//! is said, as is that a node has no log of it at all.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::Instant;

use super::{Session, output::Terminal};
use crate::client::{Error, Kind, LogOptions, Result, model::Job};

/// Logs in a row that end too early, without anything new, before it gives up.
const MAX_FAILURES: u32 = 10;
/// Time between two of them.
const PAUSE: Duration = Duration::from_secs(1);
/// How long after the end of its log an attempt may take to be seen to have ended.
const END_LIMIT: Duration = Duration::from_secs(15);
/// Exit codes of jobs that ended without one of their own: as of timeout(1), of a shell on SIGINT, and of a refusal.
const TIMED_OUT: u8 = 124;
const CANCELED: u8 = 130;

/// The exit code that says how a job ended: its own where it has one.
#[must_use]
pub fn exit_code(job: &Job) -> u8 {
    match job.state() {
        "completed" => 0,
        "timed_out" => TIMED_OUT,
        "canceled" => CANCELED,
        "rejected" => Kind::Refused.exit_code(),
        _ => match job.exit_code.map(u8::try_from) {
            Some(Ok(code)) if code > 0 => code,
            _ => Kind::Failed.exit_code(),
        },
    }
}

/// Where pieces of a log go.
type Print<'a> = &'a (dyn Fn(&[u8]) -> Result<()> + Send + Sync);

/// A job that is followed.
pub struct Follower<'a> {
    pub session: &'a Session,
    pub job: &'a Job,
    pub terminal: Terminal,
    /// Which part of each log is printed; without it none is.
    pub log: Option<LogOptions>,
    /// Whether changes of the state are said on standard error.
    pub says_states: bool,
    pub print: Print<'a>,
}

impl Follower<'_> {
    /// Follows the job to its end, and returns its last state.
    ///
    /// # Errors
    /// The job is deleted, the server stays away, or the output is closed.
    pub async fn to_end(&self) -> Result<Job> {
        let mut changes = self.session.transport.changes(&self.session.scope, self.job);
        let (mut said, mut printed) = (String::new(), 0);
        let mut last = None;
        while let Some(change) = changes.next().await {
            let Some(job) = change? else { return Err(self.deleted()) };
            self.say(&job, &mut said);
            if self.log.is_some() {
                printed = self.logs_until(&job, printed).await?;
            }
            let has_ended = job.has_ended();
            last = Some(job);
            if has_ended {
                break;
            }
        }
        last.filter(Job::has_ended).ok_or_else(|| {
            let message = format!(
                "failed to follow the job {}: the server ended the stream before the job",
                self.job.name
            );
            Error::new(Kind::Unreachable, message).next(format!("wait {}", self.job.name))
        })
    }

    fn deleted(&self) -> Error {
        let message = format!("failed to follow the job {}: it was deleted", self.job.name);
        Error::new(Kind::NotFound, message).next("jobs")
    }

    fn say(&self, job: &Job, said: &mut String) {
        let text = sentence(job);
        if self.says_states && text != *said {
            self.terminal.remark(&text);
            *said = text;
        }
    }

    /// Prints the logs of the attempts that have started and were not printed yet; returns the number of the last one.
    async fn logs_until(&self, job: &Job, printed: u32) -> Result<u32> {
        let first = match self.log.as_ref().and_then(|log| log.attempt) {
            Some(attempt) => attempt,
            // From now on, not from the beginning of the job.
            None if printed == 0 => job.attempt.max(1),
            None => printed + 1,
        };
        let mut printed = printed;
        for attempt in first.max(printed + 1)..=job.attempt {
            if attempt == job.attempt && !job.has_started() {
                break;
            }
            if printed > 0 {
                self.terminal.remark(&format!("{}: attempt {attempt}", job.name));
            }
            self.attempt(attempt).await?;
            printed = attempt;
        }
        Ok(printed)
    }

    /// Prints the log of an attempt to its end.
    async fn attempt(&self, attempt: u32) -> Result<()> {
        let whole = self.log.clone().unwrap_or_default();
        let (mut sent, mut failures) = (0_usize, 0);
        let mut last_piece = Instant::now();
        loop {
            let mut options = LogOptions { follow: true, attempt: Some(attempt), ..whole.clone() };
            // A part of a log has no beginning to count from: by time, at the cost of a line that is printed twice.
            let is_part = whole.tail.is_some() || whole.since_seconds.is_some();
            if is_part && sent > 0 {
                let since = last_piece.elapsed().as_secs() + 1;
                (options.tail, options.since_seconds) = (None, u32::try_from(since).ok());
            }
            let skipped = if is_part { 0 } else { sent };
            let before = sent;
            let read = self.read(&options, skipped, &mut sent, &mut last_piece).await;
            match read {
                Ok(()) if self.is_over(attempt).await? => return Ok(()),
                Ok(()) => (),
                Err(error) if error.code.as_deref() == Some("log_gone") => {
                    let left = if sent > 0 { "no more" } else { "no" };
                    self.terminal
                        .remark(&format!("{}: {left} log of attempt {attempt}: {error}", self.job.name));
                    return Ok(());
                }
                Err(error)
                    if error.code.as_deref() == Some("not_started") && self.is_over(attempt).await? =>
                {
                    return Ok(());
                }
                Err(error) if is_passing(&error) && failures < MAX_FAILURES => (),
                // Who watches the job wants its end most.
                Err(error) if self.says_states && !is_closed(&error) => {
                    self.terminal.remark(&format!(
                        "{}: the log of attempt {attempt} can't be read: {error}",
                        self.job.name
                    ));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            failures = if sent > before { 0 } else { failures + 1 };
            if failures > MAX_FAILURES {
                let message = format!(
                    "failed to read the log of the job {}: it ends before the attempt",
                    self.job.name
                );
                return Err(Error::new(Kind::Unreachable, message).next(format!("logs -f {}", self.job.name)));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Prints what a log has after its first `skipped` bytes, and counts all of it.
    async fn read(
        &self,
        options: &LogOptions,
        skipped: usize,
        sent: &mut usize,
        last_piece: &mut Instant,
    ) -> Result<()> {
        let Session { transport, scope } = self.session;
        let mut left = skipped;
        let mut log = transport.log(scope, self.job, options).await?;
        while let Some(piece) = log.next().await {
            let piece = piece?;
            let new = &piece[left.min(piece.len())..];
            left -= left.min(piece.len());
            if !new.is_empty() {
                (self.print)(new)?;
                *sent += new.len();
                *last_piece = Instant::now();
            }
        }
        Ok(())
    }

    /// Whether an attempt has ended, once its log has: a log may end before its container.
    async fn is_over(&self, attempt: u32) -> Result<bool> {
        let Session { transport, scope } = self.session;
        let end = Instant::now() + END_LIMIT;
        loop {
            match transport.job(scope, &self.job.id).await {
                Ok(job) if job.attempt > attempt || job.has_ended() || job.is_waiting() => return Ok(true),
                Ok(_) => (),
                Err(error) if error.kind == Kind::NotFound => return Err(self.deleted()),
                Err(error) if is_passing(&error) => (),
                Err(error) => return Err(error),
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Whether the reader of the output has gone.
fn is_closed(error: &Error) -> bool {
    error.code.as_deref() == Some(super::CLOSED)
}

/// Whether the same request may succeed a moment later.
fn is_passing(error: &Error) -> bool {
    matches!(error.kind, Kind::Unreachable | Kind::Failed) && !is_closed(error)
        || matches!(error.code.as_deref(), Some("not_started" | "too_many_streams"))
}

/// The state of a job in one line.
#[must_use]
pub fn sentence(job: &Job) -> String {
    let mut text = format!("{}: {}", job.name, job.state().replace('_', " "));
    if job.state() == "running" && job.attempt > 1 {
        text += &format!(", attempt {}", job.attempt);
    }
    if let Some(node) = job.node.as_ref().filter(|_| job.state() == "running") {
        text += &format!(" on {node}");
    }
    if let Some(code) = job.exit_code.filter(|_| job.has_ended()) {
        text += &format!(" with exit code {code}");
    }
    let reason = job.reason.as_deref().filter(|_| !matches!(job.state(), "running" | "completed"));
    if let Some(reason) = reason {
        text += &format!(": {reason}");
    }
    if let Some(message) = job.message.as_deref().filter(|_| reason.is_some()) {
        text += &format!(": {message}");
    }
    text
}

#[cfg(test)]
mod tests;
