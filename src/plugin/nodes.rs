//! The worker nodes of a tenant.

use super::table::{Cell, of_state, table};
use crate::{
    client::model::Node,
    domain::resources::{cores, gigabytes},
};

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
