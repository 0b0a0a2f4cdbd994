//! `cancel`: requests the end of jobs.

use super::{
    Context,
    output::{self, Format, names, structured},
};
use crate::client::Result;

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names or ids of jobs
    #[arg(required = true, value_parser = output::named("job"))]
    jobs: Vec<String>,
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let session = context.session().await?;
    let mut canceled = Vec::new();
    for name in &args.jobs {
        let job = session.transport.job(&session.scope, name).await?;
        canceled.push(session.transport.cancel(&session.scope, &job).await?);
    }
    let text = match structured(context.format(), &canceled)? {
        Some(text) => text,
        None => names("job", canceled.iter().map(|job| job.name.as_str())),
    };
    context.terminal.print(&text)?;
    if matches!(context.format(), Format::Table | Format::Wide) {
        context.terminal.remark("their end is requested: a running job gets a moment to stop");
    }
    Ok(())
}
