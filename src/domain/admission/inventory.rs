//! The inventory of room: pools (a tenant's own group, or a shared one), their nodes, and what of them is free.
//!
//! A job goes to the first node that has room for all of it. A pool's nodes are in the order of their size, those
//! without GPUs before those with, and then by name: small jobs leave large nodes and GPUs alone as long as they can,
//! and load gathers on few nodes. A tree with the largest free amounts below each branch finds that node, or that none
//! has room, without reading every node.
//!
//! [`Inventory::take_changes`] says which pools have nodes of other sizes or states than before, and in which a node has
//! more room: only those can change a tenant's assessment.

mod node_sizes;

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use slotmap::SlotMap;

pub use self::node_sizes::LargerNode;
use self::node_sizes::NodeSizes;
use super::{
    ids::{NodeId, PoolId, TenantId},
    inputs::WorkerInput,
    max_free_tree::MaxFreeTree,
    pool_shares::{Nomination, PoolShares},
};
use crate::domain::resources::Resources;

/// All pools and nodes.
#[derive(Clone, Debug, Default)]
pub struct Inventory {
    pools: SlotMap<PoolId, Pool>,
    nodes: SlotMap<NodeId, Node>,
    pool_ids: HashMap<Arc<str>, PoolId>,
    node_ids: HashMap<Arc<str>, NodeId>,
    /// Nodes whose room has changed since the last [`Self::take_changes`].
    changed: Vec<NodeId>,
    /// Pools whose nodes have.
    unsorted: Vec<PoolId>,
}

/// What has changed since the last cycle. Each pool is named once.
#[derive(Clone, Debug, Default)]
pub struct CapacityChanges {
    /// Pools that have nodes of other sizes or states.
    pub changed: Vec<PoolId>,
    /// Pools in which a node has more room.
    pub freed: Vec<PoolId>,
    /// Tenants whose reserved node has more room.
    pub reservations: Vec<TenantId>,
}

#[derive(Clone, Debug, Default)]
struct Pool {
    name: Arc<str>,
    /// Tenants that may use it.
    shares: PoolShares,
    users: usize,
    /// An autoscaler supplies its nodes.
    elastic: bool,
    /// In the order in which they are filled.
    nodes: Vec<NodeId>,
    free: MaxFreeTree,
    open: usize,
    largest: Option<NodeId>,
    /// Nodes reserved for starving jobs.
    reserved: Vec<NodeId>,
    sizes: NodeSizes,
    unsorted: bool,
}

#[derive(Clone, Debug, Default)]
struct Node {
    name: Arc<str>,
    /// `None` for a node that is not a worker, on which pods are known.
    worker: Option<Worker>,
    used: Resources,
    /// Pods and admitted jobs that use it.
    users: usize,
    reserved: Option<Reserved>,
    /// Its room, and whether it was reserved, at the last [`Inventory::take_changes`].
    seen: (Option<Resources>, bool),
    changed: bool,
}

#[derive(Clone, Debug)]
struct Worker {
    input: WorkerInput,
    pool: PoolId,
    leaf: usize,
}

/// For whose starving job a node is reserved, in which pool.
#[derive(Clone, Copy, Debug)]
struct Reserved {
    tenant: TenantId,
    pool: PoolId,
}

impl Inventory {
    // --- pools

    /// The pool of a name, for a tenant that may use it, until [`Self::leave_pool`].
    pub fn join_pool(&mut self, name: &str) -> PoolId {
        let pool = self.pool(name);
        self.pools[pool].users += 1;
        pool
    }

    /// A tenant may not use the pool any more.
    pub fn leave_pool(&mut self, pool: PoolId) {
        self.pools[pool].users -= 1;
        self.drop_unused_pool(pool);
    }

    fn pool(&mut self, name: &str) -> PoolId {
        if let Some(pool) = self.pool_ids.get(name) {
            return *pool;
        }
        let name: Arc<str> = name.into();
        let pool = self.pools.insert(Pool { name: Arc::clone(&name), ..Pool::default() });
        self.pool_ids.insert(name, pool);
        pool
    }

    fn drop_unused_pool(&mut self, id: PoolId) {
        let pool = &self.pools[id];
        if pool.users == 0 && pool.nodes.is_empty() && !pool.unsorted && !pool.elastic {
            self.pool_ids.remove(&pool.name);
            self.pools.remove(id);
        }
    }

    /// Notes that an autoscaler supplies the nodes of a pool.
    pub fn set_elastic(&mut self, name: &str) {
        let pool = self.pool(name);
        self.pools[pool].elastic = true;
    }

    pub fn is_elastic(&self, pool: PoolId) -> bool {
        self.pools[pool].elastic
    }

    pub fn pool_name(&self, pool: PoolId) -> Arc<str> {
        Arc::clone(&self.pools[pool].name)
    }

    /// The tenants of the pool and what they use of it.
    pub fn shares(&self, pool: PoolId) -> &PoolShares {
        &self.pools[pool].shares
    }

    pub fn shares_mut(&mut self, pool: PoolId) -> &mut PoolShares {
        &mut self.pools[pool].shares
    }

    /// The blocked classes of a pool that may have room now, in no order.
    pub fn nominations(&self, pool: PoolId, now: Timestamp) -> impl Iterator<Item = Nomination> {
        let Pool { shares, free, .. } = &self.pools[pool];
        free.max().into_iter().flat_map(move |room| shares.nominations(room, now))
    }

    /// What has changed since the last call.
    pub fn take_changes(&mut self, now: Timestamp) -> CapacityChanges {
        self.sort_pools(now);
        let mut changes =
            CapacityChanges { changed: std::mem::take(&mut self.unsorted), ..CapacityChanges::default() };
        for id in std::mem::take(&mut self.changed) {
            let node = &mut self.nodes[id];
            let ((before, was_reserved), now) = (node.seen, node.open_room());
            (node.seen, node.changed) = ((now, node.reserved.is_some()), false);
            let has_more = now.is_some_and(|now| before.is_none_or(|before| !now.fits(&before)));
            match node.reserved {
                Some(reserved) if has_more => changes.reservations.push(reserved.tenant),
                None if has_more || was_reserved => changes.freed.extend(self.pool_of(id)),
                _ => (),
            }
            self.drop_unused_node(id);
        }
        changes.freed.sort_unstable();
        changes.freed.dedup();
        changes.freed.retain(|pool| !changes.changed.contains(pool));
        changes.changed.retain(|pool| {
            self.drop_unused_pool(*pool);
            self.pools.get(*pool).is_some()
        });
        changes
    }

    /// Sorts the nodes of the pools in which some have changed, before jobs are assessed by them.
    pub fn sort_pools(&mut self, now: Timestamp) {
        for id in self.unsorted.clone() {
            if let Some(pool) = self.pools.get_mut(id).filter(|pool| pool.unsorted) {
                pool.sort(&mut self.nodes, now);
            }
        }
    }

    fn mark_unsorted(&mut self, pool: PoolId) {
        if !std::mem::replace(&mut self.pools[pool].unsorted, true) {
            self.unsorted.push(pool);
        }
    }

    // --- nodes

    fn node(&mut self, name: &str) -> NodeId {
        if let Some(node) = self.node_ids.get(name) {
            return *node;
        }
        let name: Arc<str> = name.into();
        let node = self.nodes.insert(Node { name: Arc::clone(&name), ..Node::default() });
        self.node_ids.insert(name, node);
        node
    }

    /// Sets the input of a worker; `None` for a node that is no worker, or is deleted.
    pub fn set_worker(&mut self, name: &str, input: Option<WorkerInput>) {
        let id = match (&input, self.node_ids.get(name)) {
            (_, Some(id)) => *id,
            (Some(_), None) => self.node(name),
            (None, None) => return,
        };
        if self.nodes[id].worker.as_ref().map(|worker| &worker.input) == input.as_ref() {
            return;
        }
        let old_pool = self.nodes[id].worker.take().map(|worker| worker.pool);
        if let Some(pool) = old_pool {
            self.pools[pool].nodes.retain(|node| *node != id);
            self.unreserve(id);
            self.mark_unsorted(pool);
        }
        if let Some(input) = input {
            let pool = self.pool(&input.group);
            self.nodes[id].worker = Some(Worker { input, pool, leaf: 0 });
            self.pools[pool].sizes.joined |= old_pool != Some(pool);
            self.pools[pool].nodes.push(id);
            self.mark_unsorted(pool);
        }
        self.drop_unused_node(id);
    }

    fn drop_unused_node(&mut self, id: NodeId) {
        let node = &self.nodes[id];
        if node.worker.is_none() && node.users == 0 && !node.changed {
            self.node_ids.remove(&node.name);
            self.nodes.remove(id);
        }
    }

    /// The pool of a worker; `None` for a node that is none, or does not exist any more.
    pub fn pool_of(&self, node: NodeId) -> Option<PoolId> {
        self.nodes.get(node)?.worker.as_ref().map(|worker| worker.pool)
    }

    pub fn node_name(&self, node: NodeId) -> &str {
        &self.nodes[node].name
    }

    /// Uses room of a node by name, which need not be a worker, until [`Self::give_back`].
    pub fn take_by_name(&mut self, name: &str, asked: Resources) -> NodeId {
        let node = self.node(name);
        self.take(node, asked);
        node
    }

    /// Uses room of a node, until [`Self::give_back`].
    pub fn take(&mut self, id: NodeId, asked: Resources) {
        let node = &mut self.nodes[id];
        node.used += asked;
        node.users += 1;
        self.update_free(id);
    }

    pub fn give_back(&mut self, id: NodeId, asked: Resources) {
        let node = &mut self.nodes[id];
        node.used = node.used - asked;
        node.users -= 1;
        self.update_free(id);
        self.drop_unused_node(id);
    }

    /// Reserves what is free on a worker for a tenant's starving job: [`Self::find`] finds it no more.
    pub fn reserve(&mut self, node: NodeId, tenant: TenantId) {
        if let Some(pool) = self.pool_of(node).filter(|_| self.nodes[node].reserved.is_none()) {
            self.nodes[node].reserved = Some(Reserved { tenant, pool });
            self.pools[pool].reserved.push(node);
            self.update_free(node);
        }
    }

    pub fn unreserve(&mut self, id: NodeId) {
        let Some(reserved) = self.nodes.get_mut(id).and_then(|node| node.reserved.take()) else { return };
        if let Some(pool) = self.pools.get_mut(reserved.pool) {
            pool.reserved.retain(|other| *other != id);
        }
        self.update_free(id);
    }

    fn update_free(&mut self, id: NodeId) {
        let node = &mut self.nodes[id];
        let Some(worker) = &node.worker else { return };
        let pool = &mut self.pools[worker.pool];
        if !pool.unsorted {
            pool.free.set(worker.leaf, node.free_room());
            if !std::mem::replace(&mut node.changed, true) {
                self.changed.push(id);
            }
        }
    }

    // --- questions about pools and nodes

    /// Whether a node of the pool may have room; `false` is certain, and found at once.
    pub fn may_fit(&self, pool: PoolId, asked: &Resources) -> bool {
        self.pools[pool].free.max().is_some_and(|room| asked.fits(&room))
    }

    /// A node of the pool with room for all of it that is not reserved.
    pub fn find(&self, pool: PoolId, asked: &Resources) -> Option<NodeId> {
        let pool = &self.pools[pool];
        pool.free.first(asked).map(|leaf| pool.nodes[leaf])
    }

    /// Whether a worker has room for it now, reserved or not.
    pub fn fits(&self, node: NodeId, asked: &Resources) -> bool {
        self.nodes.get(node).and_then(Node::open_room).is_some_and(|room| asked.fits(&room))
    }

    /// Whether a node is an open worker that could hold it, were it empty.
    pub fn could_hold(&self, node: NodeId, asked: &Resources) -> bool {
        self.nodes.get(node).is_some_and(|node| node.is_open() && asked.fits(&node.capacity()))
    }

    /// Whether these pools have any node.
    pub fn has_nodes(&self, mut pools: impl Iterator<Item = PoolId>) -> bool {
        pools.any(|pool| !self.pools[pool].nodes.is_empty())
    }

    /// Whether any node of these pools could hold it, were it empty.
    pub fn could_ever_fit(&self, mut pools: impl Iterator<Item = PoolId>, asked: &Resources) -> bool {
        pools.any(|pool| self.pools[pool].sizes.could_hold(asked))
    }

    /// A node of these pools that has room for it, but is reserved.
    pub fn reserved_with_room(
        &self,
        pools: impl Iterator<Item = PoolId>,
        asked: &Resources,
    ) -> Option<NodeId> {
        let mut reserved = pools.flat_map(|pool| &self.pools[pool].reserved).copied();
        reserved.find(|node| self.fits(*node, asked))
    }

    /// The node that lacks least of having room for it, among those that could hold it and are not reserved.
    pub fn nearest(&self, pool: PoolId, asked: &Resources) -> Option<NodeId> {
        let nodes = self.pools[pool].nodes.iter().copied().enumerate();
        let could = nodes.filter(|(_, id)| self.nodes[*id].reserved.is_none() && self.could_hold(*id, asked));
        let nearest = could.min_by_key(|(position, id)| {
            let node = &self.nodes[*id];
            let lacks = *asked - (node.capacity() - node.used);
            (lacks.gpus, lacks.cpu_milli, lacks.memory_bytes, lacks.ephemeral_bytes, lacks.pods, *position)
        });
        nearest.map(|(_, node)| node)
    }

    /// Whether these pools may get a node that is large enough for it.
    pub fn larger_node(
        &self,
        pools: impl Iterator<Item = PoolId> + Clone,
        asked: &Resources,
        now: Timestamp,
    ) -> LargerNode {
        let mut all = pools.clone().map(|pool| &self.pools[pool]);
        if all.any(|pool| pool.open < pool.nodes.len() || pool.sizes.had_lately(asked, now)) {
            return LargerNode::Possible;
        }
        let until = pools.filter_map(|pool| self.pools[pool].sizes.grows_until()).max();
        until.filter(|at| *at > now).map_or(LargerNode::Unlikely, LargerNode::ExpectedUntil)
    }

    // --- numbers for messages

    /// How many nodes of the pools are open, and how many there are.
    pub fn count(&self, pools: impl Iterator<Item = PoolId>) -> (usize, usize) {
        pools
            .map(|pool| &self.pools[pool])
            .fold((0, 0), |(open, all), p| (open + p.open, all + p.nodes.len()))
    }

    /// The largest node of the pools, and what it has.
    pub fn largest(&self, pools: impl Iterator<Item = PoolId>) -> Option<(&str, Resources)> {
        let nodes = pools.filter_map(|pool| self.pools[pool].largest).map(|node| &self.nodes[node]);
        let largest = nodes.max_by_key(|node| node.size());
        largest.map(|node| (&*node.name, node.capacity()))
    }

    /// How many open nodes of the pools would have room for it, but for the number of their pods.
    pub fn full_of_pods(&self, pools: impl Iterator<Item = PoolId>, asked: &Resources) -> usize {
        let slim = Resources { pods: 0, ..*asked };
        let rooms =
            pools.flat_map(|pool| &self.pools[pool].nodes).filter_map(|node| self.nodes[*node].open_room());
        rooms.filter(|room| slim.fits(room) && asked.pods > room.pods).count()
    }

    /// Whether nothing is left of any pool or node.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.nodes.is_empty()
    }

    /// The name of a worker's pool.
    #[cfg(test)]
    pub fn pool_of_worker(&self, name: &str) -> Option<Arc<str>> {
        self.node_ids.get(name).and_then(|node| self.pool_of(*node)).map(|pool| self.pool_name(pool))
    }
}

impl Pool {
    fn sort(&mut self, nodes: &mut SlotMap<NodeId, Node>, now: Timestamp) {
        self.nodes.sort_by(|a, b| {
            let (a, b) = (&nodes[*a], &nodes[*b]);
            let key = |node: &Node| (node.capacity().gpus, node.capacity().cpu_milli);
            key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
        });
        (self.free, self.open) = (MaxFreeTree::new(self.nodes.len()), 0);
        let mut capacity = Resources::default();
        for (leaf, id) in self.nodes.iter().enumerate() {
            let node = &mut nodes[*id];
            if let Some(worker) = &mut node.worker {
                worker.leaf = leaf;
            }
            capacity += node.capacity();
            self.open += usize::from(node.is_open());
            node.seen = (node.open_room(), node.reserved.is_some());
            self.free.set(leaf, node.free_room());
        }
        self.shares.set_capacity(capacity, now);
        self.largest = self.nodes.iter().copied().max_by_key(|node| nodes[*node].size());
        self.sizes.set(self.nodes.iter().map(|node| nodes[*node].capacity()), now);
        self.unsorted = false;
    }
}

impl Node {
    fn capacity(&self) -> Resources {
        self.worker.as_ref().map_or_else(Resources::default, |worker| worker.input.capacity)
    }

    fn size(&self) -> (u64, u64) {
        (self.capacity().cpu_milli, self.capacity().memory_bytes)
    }

    fn is_open(&self) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.input.open)
    }

    fn open_room(&self) -> Option<Resources> {
        self.is_open().then(|| self.capacity() - self.used)
    }

    /// What is open to every job.
    fn free_room(&self) -> Option<Resources> {
        if self.reserved.is_some() { None } else { self.open_room() }
    }
}
