//! Messages about room on nodes, with the numbers of the moment.

use super::{ids::PoolId, inventory::Inventory};
use crate::domain::resources::{Resources, cores, gigabytes};

impl Inventory {
    /// That the pools have no node.
    pub fn no_workers(&self, pools: impl Iterator<Item = PoolId>) -> String {
        let names: Vec<_> = pools.map(|pool| self.pool_name(pool)).collect();
        format!("no worker is admitted to {}: label a node for the tenant", names.join(" or "))
    }

    /// That no node has room.
    pub fn no_room(&self, pools: impl Iterator<Item = PoolId> + Clone, asked: &Resources) -> String {
        let (open, all) = self.count(pools.clone());
        let message = format!("no worker has {} free: {open} of {all} are open", sizes(asked));
        match self.full_of_pods(pools, asked) {
            0 => message,
            full => format!("{message}, and {full} with room run as many pods as they take"),
        }
    }

    /// That no node could ever hold it.
    pub fn fits_nowhere(&self, pools: impl Iterator<Item = PoolId> + Clone, asked: &Resources) -> String {
        let largest = self.largest(pools.clone()).map_or_else(String::new, |(name, capacity)| {
            let pods = if asked.pods > capacity.pods { " and takes no pods" } else { "" };
            format!("; the largest, {name}, has {}{pods}", sizes(&capacity))
        });
        let (_, all) = self.count(pools);
        format!("asks for {}: none of the {all} workers could hold it, were it empty{largest}", sizes(asked))
    }
}

fn sizes(asked: &Resources) -> String {
    let mut parts =
        vec![format!("{} CPU", cores(asked.cpu_milli)), format!("{} GB", gigabytes(asked.memory_bytes))];
    if asked.gpus > 0 {
        parts.push(format!("{} GPUs", asked.gpus));
    }
    if asked.ephemeral_bytes > 0 {
        parts.push(format!("{} GB of disk", gigabytes(asked.ephemeral_bytes)));
    }
    parts.join(", ")
}
