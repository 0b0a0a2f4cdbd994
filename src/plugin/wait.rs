//! `wait`: until jobs have ended, or have started.

use std::time::Duration;

use futures::StreamExt;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::SignedDuration;

use super::{
    Context, Session,
    follow::{exit_code, sentence},
    output::{self, Format, names, structured},
    table::clean,
};
use crate::client::{Error, Kind, Result, model::Job};

/// How often the progress moves.
const TICK: Duration = Duration::from_millis(120);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Until {
    /// The job has ended
    End,
    /// The job runs, or has ended
    Start,
}

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids of jobs
    #[arg(required = true, value_parser = output::named("job"))]
    jobs: Vec<String>,
    /// What to wait for
    #[arg(long = "for", value_enum, default_value = "end", value_name = "WHAT")]
    until: Until,
    /// Longest time, such as 90s, 10m or 2h; by default it has no end
    #[arg(long, value_parser = duration, value_name = "TIME")]
    timeout: Option<Duration>,
}

/// A time such as `90s`, `10m` or `1h30m`.
fn duration(text: &str) -> std::result::Result<Duration, String> {
    let parsed: SignedDuration = text.parse().map_err(|_| "give a time such as 90s, 10m or 2h".to_owned())?;
    Duration::try_from(parsed).map_err(|_| "give a time that is not negative".to_owned())
}

pub async fn run(context: &Context, args: Args) -> Result<u8> {
    let session = context.session().await?;
    let mut jobs = Vec::new();
    for name in &args.jobs {
        jobs.push(session.transport.job(&session.scope, name).await?);
    }
    let progress = progress(context);
    let waited = async {
        let mut ended = Vec::new();
        for job in &jobs {
            ended.push(one(&session, job, args.until, &progress).await?);
        }
        Ok(ended)
    };
    let ended = match args.timeout {
        None => waited.await,
        Some(limit) => tokio::time::timeout(limit, waited).await.unwrap_or_else(|_| {
            let message =
                format!("failed to wait for {}: not within {} s", args.jobs.join(", "), limit.as_secs());
            Err(Error::new(Kind::TimedOut, message).next(format!("why {}", args.jobs[0])))
        }),
    };
    progress.finish_and_clear();
    let ended: Vec<Job> = ended?;
    let text = match structured(context.format(), &ended)? {
        Some(text) => text,
        None if context.format() == Format::Name => names("job", ended.iter().map(|job| job.name.as_str())),
        None => ended.iter().map(|job| format!("{}\n", clean(&sentence(job)))).collect(),
    };
    context.terminal.print(&text)?;
    let failed = ended.iter().filter(|job| job.has_ended()).map(exit_code).find(|code| *code != 0);
    Ok(failed.unwrap_or(0))
}

/// A line that moves, at a terminal only.
fn progress(context: &Context) -> ProgressBar {
    let target =
        if context.terminal.progress { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(None, target);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(TICK);
    bar
}

async fn one(session: &Session, job: &Job, until: Until, progress: &ProgressBar) -> Result<Job> {
    let mut changes = session.transport.changes(&session.scope, job);
    while let Some(change) = changes.next().await {
        let Some(state) = change? else {
            let message = format!("failed to wait for the job {}: it was deleted", job.name);
            return Err(Error::new(Kind::NotFound, message).next("jobs"));
        };
        progress.set_message(clean(&sentence(&state)));
        if state.has_ended() || until == Until::Start && state.state() == "running" {
            return Ok(state);
        }
    }
    let message = format!("failed to wait for the job {}: the server ended the stream", job.name);
    Err(Error::new(Kind::Unreachable, message).next(format!("wait {}", job.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_kubectl() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        for bad in ["", "5", "-5s", "soon"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
