//! `version`: of this program, and of what answers.

use serde_json::{Map, Value, json};

use super::{
    Context,
    output::{Format, structured},
    table::clean,
};
use crate::client::Result;

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only of this program, without a request
    #[arg(long)]
    client: bool,
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let own = env!("CARGO_PKG_VERSION");
    if args.client || context.format() == Format::Name {
        return context.terminal.print(&format!("kubectl-crofter {own}\n"));
    }
    // Without a server the version of this program is a result, too.
    let server = async {
        let session = context.session().await?;
        session.transport.server_version().await
    };
    let server = server.await;
    let versions = server.as_deref().unwrap_or_default();
    let all: Map<String, Value> =
        versions.iter().map(|(name, version)| (name.clone(), json!(version))).collect();
    let text = match structured(context.format(), &json!({"client": own, "server": all}))? {
        Some(text) => text,
        None => {
            let lines =
                versions.iter().map(|(name, version)| format!("{}: {}\n", clean(name), clean(version)));
            format!("kubectl-crofter {own}\n{}", lines.collect::<String>())
        }
    };
    context.terminal.print(&text)?;
    server.map(drop)
}
