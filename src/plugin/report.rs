//! `report`: a support bundle, one text file that its owner can read before it is sent.
//!
//! It has only what is named here (an allowlist): never a Secret, an environment variable's or a parameter's value, a command
//! line, a note of a tenant, or an annotation that is not Crofter's. What is free text, such as a message or a line of the
//! operator's log, has what looks like a credential replaced.

mod collect;
mod scrub;

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::PathBuf};

use serde_json::{Map, Value, json};

use self::scrub::scrubbed;
use super::{
    Context,
    output::{Format, structured},
};
use crate::{
    client::{Error, JobFilter, Kind, Result, Scope},
    names,
};

/// Jobs of the report.
const MAX_JOBS: usize = 500;

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File to write, which must be new; `-` for standard output [default: crofter-report-TIME.yaml]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Namespace of the operator
    #[arg(long, value_name = "NAMESPACE", default_value = names::DEFAULT_NAMESPACE)]
    operator_namespace: String,
}

/// A section: what was read, or why it was not.
fn section(parts: &mut Map<String, Value>, name: &str, read: Result<Value>) {
    let value = read.unwrap_or_else(|error| json!({"not_read": error.message}));
    parts.insert(name.to_owned(), value);
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let session = context.session().await?;
    let (transport, scope) = (session.transport.as_ref(), &session.scope);
    let now = context.clock.now();
    let mut parts = Map::new();
    parts.insert(
        "report".to_owned(),
        json!({"made_at": now, "kubectl_crofter": env!("CARGO_PKG_VERSION"), "server": transport.address()}),
    );
    section(&mut parts, "versions", transport.server_version().await.map(|all| json!(all)));
    section(&mut parts, "whoami", transport.whoami().await.map(|who| json!(who)));
    let filter = JobFilter { limit: MAX_JOBS, ..JobFilter::default() };
    let jobs = transport.jobs(scope, &filter).await;
    section(
        &mut parts,
        "jobs",
        jobs.map(|jobs| jobs.jobs.iter().map(|job| collect::job(&json!(job))).collect()),
    );
    if *scope != Scope::All {
        section(
            &mut parts,
            "tenant",
            transport.tenant(scope).await.map(|tenant| collect::tenant(&json!(tenant))),
        );
        section(&mut parts, "nodes", transport.nodes(scope).await.map(|nodes| json!(nodes)));
        let keys = transport.keys(scope).await;
        section(
            &mut parts,
            "keys",
            keys.map(|keys| keys.iter().map(|key| collect::key(&json!(key))).collect()),
        );
    }
    if let Some(cluster) = transport.cluster() {
        let namespace = match scope {
            Scope::Tenant(name) => Some(names::namespace(&context.global.connection.namespace_prefix, name)),
            _ => None,
        };
        parts.extend(
            collect::cluster(&cluster.client(), &args.operator_namespace, namespace.as_deref()).await,
        );
    }
    let whole = scrubbed(Value::Object(parts));
    let text = structured(Format::Yaml, &whole)?.unwrap_or_default();
    let file = args.file.unwrap_or_else(|| format!("crofter-report-{}.yaml", now.as_second()).into());
    if file.as_os_str() == "-" {
        return context.terminal.print(&text);
    }
    let written = || {
        let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&file)?;
        new.write_all(text.as_bytes())
    };
    written().map_err(|error: std::io::Error| {
        Error::new(Kind::Failed, format!("failed to write the report into {}: {error}", file.display()))
            .next("report --help")
    })?;
    context.terminal.remark(&format!("the report is in {}: read it before you send it", file.display()));
    Ok(())
}

#[cfg(test)]
mod tests;
