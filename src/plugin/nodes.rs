//! `nodes list|assign|release`: the worker nodes of a tenant.

use serde_json::json;

use super::{
    Context, Session,
    output::{self, Format, names, structured},
    table::{Cell, of_state, table},
};
use crate::{
    client::{Error, Result, Scope, model::Node},
    domain::resources::{cores, gigabytes},
};

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List the nodes of a tenant
    #[command(visible_alias = "ls")]
    List,
    /// Assign a node to a tenant
    Assign {
        /// Name of the node
        #[arg(value_parser = output::named("node"))]
        node: String,
    },
    /// Release a node from a tenant; jobs that run there finish
    Release {
        /// Name of the node
        #[arg(value_parser = output::named("node"))]
        node: String,
    },
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let session = context.session().await?;
    let (format, terminal) = (context.format(), context.terminal);
    let text = match args.verb {
        Verb::List => {
            let nodes = session.transport.nodes(&session.scope).await?;
            match structured(format, &json!({"nodes": nodes}))? {
                Some(text) => text,
                None if format == Format::Name => names("node", nodes.iter().map(|node| node.name.as_str())),
                None if nodes.is_empty() => {
                    terminal.remark("no nodes");
                    String::new()
                }
                None => rendered(&nodes, terminal.color),
            }
        }
        Verb::Assign { node } => {
            let assigned = session.transport.assign_node(named(&session, "assign")?, &node).await?;
            match structured(format, &assigned)? {
                Some(text) => text,
                None if format == Format::Name => names("node", [assigned.name.as_str()]),
                None => rendered(std::slice::from_ref(&assigned), terminal.color),
            }
        }
        Verb::Release { node } => {
            session.transport.release_node(named(&session, "release")?, &node).await?;
            names("node", [node.as_str()])
        }
    };
    terminal.print(&text)
}

/// The tenant, which must be named: whose node it is, is no matter of a context.
fn named<'a>(session: &'a Session, verb: &str) -> Result<&'a str> {
    match &session.scope {
        Scope::Tenant(name) => Ok(name),
        _ => Err(Error::usage(format!("failed to {verb} the node: give the tenant with --tenant"))
            .next("tenants list")),
    }
}

/// Nodes as a table.
pub fn rendered(nodes: &[Node], color: bool) -> String {
    let row = |node: &Node| {
        vec![
            Cell::from(&node.name),
            Cell::styled(&node.status, of_state(&node.status)),
            cores(node.cpu_millicores).into(),
            gigabytes(node.memory_bytes).into(),
            node.gpus.to_string().into(),
        ]
    };
    table(&["WORKER", "STATUS", "CPU", "MEMORY GB", "GPUS"], nodes.iter().map(row).collect(), color)
}
