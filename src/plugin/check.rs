//! `check`: `crofter check` by the plugin, with the plugin's kubeconfig. Its flags follow `check`.

use std::ffi::OsString;

use clap::Parser;
use kube::Client;

use super::Context;
use crate::{
    check::{self, Options},
    client::{Error, Kind, Result},
};

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Flags of `crofter check`, after `--`: kubectl crofter check -- --attacks; `-- --help` lists them
    #[arg(last = true, value_name = "FLAGS")]
    flags: Vec<OsString>,
}

/// The flags of `crofter check`, as a command line of their own.
#[derive(Debug, Parser)]
#[command(name = "crofter check", bin_name = "kubectl crofter check --")]
struct Line {
    #[command(flatten)]
    options: Options,
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let line = [OsString::from("check")].into_iter().chain(args.flags);
    let line = match Line::try_parse_from(line) {
        Ok(line) => line,
        Err(error) => {
            drop(error.print());
            let failed = Error::usage("failed to read the flags of check").next("check -- --help");
            return if error.exit_code() == 0 { Ok(()) } else { Err(failed) };
        }
    };
    let config = context.global.connection.kubeconfig().await?;
    let client = Client::try_from(config)
        .map_err(|error| Error::new(Kind::Usage, format!("failed to use the kubeconfig: {error}")))?;
    let checked = check::run(client, line.options).await;
    checked.map_err(|error| Error::new(Kind::Failed, format!("failed to check: {error}")).next("report"))
}
