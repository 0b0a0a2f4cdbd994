//! `submit`: a job from a file or flags; with `--watch` it is followed to its end.

use super::{
    Context, Session,
    follow::{Follower, exit_code, sentence},
    output::{Format, names, structured},
    spec_flags::SpecFlags,
};
use crate::client::{LogOptions, Result};

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    spec: SpecFlags,
    /// Follow states and log to the end, and exit with the job's code. Ctrl-C ends the watching, not the job
    #[arg(short, long)]
    watch: bool,
}

pub async fn run(context: &Context, args: Args) -> Result<u8> {
    let submission = args.spec.submission()?;
    let session = context.session().await?;
    let (format, terminal) = (context.format(), context.terminal);
    let job = session.transport.submit(&session.scope, &submission).await.map_err(|error| {
        let next = if error.kind == crate::client::Kind::Refused { "can-run --help" } else { "status" };
        error.or_next(next)
    })?;
    let text = match structured(format, &job)? {
        Some(text) => text,
        None if format == Format::Name || !args.watch => names("job", [job.name.as_str()]),
        None => String::new(),
    };
    if !args.watch {
        terminal.print(&text)?;
        if matches!(format, Format::Table | Format::Wide) {
            terminal.remark(&sentence(&job));
        }
        return Ok(0);
    }
    watch(context, &session, &job).await
}

/// Follows a job to its end: its log on standard output, its states on standard error.
async fn watch(context: &Context, session: &Session, job: &crate::client::model::Job) -> Result<u8> {
    let terminal = context.terminal;
    let print = |piece: &[u8]| terminal.bytes(piece);
    let log = Some(LogOptions { attempt: Some(1), ..LogOptions::default() });
    let follower = Follower { session, job, terminal, log, says_states: true, print: &print };
    let end = follower.to_end().await?;
    if let Some(text) = structured(context.format(), &end)? {
        terminal.print(&text)?;
    }
    Ok(exit_code(&end))
}
