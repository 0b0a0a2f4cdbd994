//! `retry`: submits the spec of a job that has ended again, as a new job.

use super::{
    Context,
    output::{self, Format, names, structured},
};
use crate::client::Result;

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or id of the job
    #[arg(value_parser = output::named("job"))]
    job: String,
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let session = context.session().await?;
    let job = session.transport.job(&session.scope, &args.job).await?;
    let again = session.transport.retry(&session.scope, &job).await?;
    let text = match structured(context.format(), &again)? {
        Some(text) => text,
        None => names("job", [again.name.as_str()]),
    };
    context.terminal.print(&text)?;
    if matches!(context.format(), Format::Table | Format::Wide) {
        context.terminal.remark(&format!("the new job of the spec of {} is {}", job.name, again.name));
    }
    Ok(())
}
