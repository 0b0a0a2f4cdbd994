//! `logs`: what a job has printed. With `-f` it continues over retries to the end of the job.

use futures::StreamExt;

use super::{Context, follow::Follower, output};
use crate::client::{LogOptions, Result};

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or id of the job
    #[arg(value_parser = output::named("job"))]
    job: String,
    /// Continue to the end of the job, over its retries
    #[arg(short, long)]
    follow: bool,
    /// Only this many lines from the end
    #[arg(long, value_name = "LINES")]
    tail: Option<u32>,
    /// Only what was printed in the last seconds
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    since: Option<u32>,
    /// Begin each line with its time
    #[arg(long)]
    timestamps: bool,
    /// Number of the attempt, from 1; by default the current or last one
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    attempt: Option<u32>,
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let session = context.session().await?;
    let job = session.transport.job(&session.scope, &args.job).await?;
    let terminal = context.terminal;
    let options = LogOptions {
        follow: false,
        tail: args.tail,
        since_seconds: args.since,
        timestamps: args.timestamps,
        attempt: args.attempt,
    };
    if args.follow {
        let print = |piece: &[u8]| terminal.bytes(piece);
        let log = Some(options);
        let follower =
            Follower { session: &session, job: &job, terminal, log, says_states: false, print: &print };
        follower.to_end().await?;
        return Ok(());
    }
    let mut log = session.transport.log(&session.scope, &job, &options).await?;
    while let Some(piece) = log.next().await {
        terminal.bytes(&piece?)?;
    }
    Ok(())
}
