//! Where there is room: the worker groups, their nodes, and what of them is free.
//!
//! A job goes to the first node that has room for all of it. A group's nodes are in the order of their size, those
//! without GPUs before those with, and then by name: small jobs leave large nodes and GPUs alone as long as they can,
//! and load gathers on few nodes. A tree over the nodes with the largest free amounts of each branch finds that node,
//! or that there is none, without looking at every node.

use std::collections::HashMap;

use super::views::WorkerView;
use crate::domain::resources::{Resources, cores, gigabytes};

/// All groups and nodes. Groups and nodes are named by number.
pub(super) struct Rooms {
    groups: Vec<Group>,
    nodes: Vec<Node>,
    group_numbers: HashMap<String, usize>,
    node_numbers: HashMap<String, usize>,
}

struct Group {
    name: String,
    /// In the order in which they are filled.
    members: Vec<usize>,
    free: Tree,
    capacity: Resources,
    /// The sizes of node that it has, each once.
    sizes: Vec<Resources>,
    largest: Option<usize>,
    open: usize,
    /// Nodes kept free for a job that is due.
    kept: Vec<usize>,
}

struct Node {
    view: WorkerView,
    group: usize,
    leaf: usize,
    kept: bool,
}

impl Rooms {
    /// Room of the workers as they are.
    pub(super) fn new(workers: Vec<WorkerView>) -> Self {
        let mut rooms = Self {
            groups: Vec::new(),
            nodes: Vec::with_capacity(workers.len()),
            group_numbers: HashMap::new(),
            node_numbers: HashMap::with_capacity(workers.len()),
        };
        for view in workers {
            let group = rooms.group(&view.group);
            rooms.groups[group].members.push(rooms.nodes.len());
            rooms.node_numbers.insert(view.name.clone(), rooms.nodes.len());
            rooms.nodes.push(Node { view, group, leaf: 0, kept: false });
        }
        for group in 0..rooms.groups.len() {
            rooms.arrange(group);
        }
        rooms
    }

    fn arrange(&mut self, number: usize) {
        let group = &mut self.groups[number];
        let nodes = &mut self.nodes;
        group.members.sort_by(|a, b| {
            let key = |n: &usize| (nodes[*n].view.capacity.gpus, nodes[*n].view.capacity.cpu_milli);
            key(a).cmp(&key(b)).then_with(|| nodes[*a].view.name.cmp(&nodes[*b].view.name))
        });
        group.free = Tree::new(group.members.len());
        for (leaf, member) in group.members.iter().enumerate() {
            let node = &mut nodes[*member];
            node.leaf = leaf;
            group.capacity += node.view.capacity;
            group.open += usize::from(node.view.open);
            group.free.set(leaf, node.open_room());
        }
        let mut sizes: Vec<_> = group.members.iter().map(|n| nodes[*n].view.capacity).collect();
        sizes.sort_unstable_by_key(|r| (r.cpu_milli, r.memory_bytes, r.gpus, r.ephemeral_bytes));
        sizes.dedup();
        group.sizes = sizes;
        let size = |n: &usize| (nodes[*n].view.capacity.cpu_milli, nodes[*n].view.capacity.memory_bytes);
        group.largest = group.members.iter().copied().max_by_key(size);
    }

    /// The number of a group; one that has no node gets one too.
    pub(super) fn group(&mut self, name: &str) -> usize {
        if let Some(number) = self.group_numbers.get(name) {
            return *number;
        }
        let number = self.groups.len();
        self.group_numbers.insert(name.to_owned(), number);
        self.groups.push(Group {
            name: name.to_owned(),
            members: Vec::new(),
            free: Tree::new(0),
            capacity: Resources::default(),
            sizes: Vec::new(),
            largest: None,
            open: 0,
            kept: Vec::new(),
        });
        number
    }

    /// How many groups there are.
    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    /// The number of a node.
    pub(super) fn node(&self, name: &str) -> Option<usize> {
        self.node_numbers.get(name).copied()
    }

    /// The group of a node.
    pub(super) fn group_of(&self, node: usize) -> usize {
        self.nodes[node].group
    }

    pub(super) fn group_name(&self, group: usize) -> &str {
        &self.groups[group].name
    }

    pub(super) fn node_name(&self, node: usize) -> &str {
        &self.nodes[node].view.name
    }

    /// What the group's nodes have in all.
    pub(super) fn capacity(&self, group: usize) -> Resources {
        self.groups[group].capacity
    }

    /// A node of the group with room for all of it that is not kept for another.
    pub(super) fn find(&self, group: usize, asked: &Resources) -> Option<usize> {
        let group = &self.groups[group];
        group.free.first(asked).map(|leaf| group.members[leaf])
    }

    /// Whether a node has room for it now, kept or not.
    pub(super) fn fits(&self, node: usize, asked: &Resources) -> bool {
        self.nodes[node].open_room().is_some_and(|room| asked.fits(&room))
    }

    /// Whether a node could hold it, were it empty and open.
    pub(super) fn could_hold(&self, node: usize, asked: &Resources) -> bool {
        asked.fits(&self.nodes[node].view.capacity)
    }

    /// Whether a node is ready and open to new pods.
    pub(super) fn is_open(&self, node: usize) -> bool {
        self.nodes[node].view.open
    }

    /// Whether every node of the groups is ready and open to new pods.
    pub(super) fn all_open(&self, groups: &[usize]) -> bool {
        groups.iter().all(|g| self.groups[*g].open == self.groups[*g].members.len())
    }

    /// Uses room of a node.
    pub(super) fn take(&mut self, node: usize, asked: Resources) {
        self.nodes[node].view.used += asked;
        self.show(node);
    }

    /// Keeps what is free on a node from everybody who asks with [`Self::find`].
    pub(super) fn keep(&mut self, node: usize) {
        if !self.nodes[node].kept {
            self.nodes[node].kept = true;
            self.groups[self.nodes[node].group].kept.push(node);
            self.show(node);
        }
    }

    /// Takes [`Self::keep`] back.
    pub(super) fn release(&mut self, node: usize) {
        self.nodes[node].kept = false;
        self.groups[self.nodes[node].group].kept.retain(|kept| *kept != node);
        self.show(node);
    }

    /// Whether this node is kept for a job.
    pub(super) fn is_kept(&self, node: usize) -> bool {
        self.nodes[node].kept
    }

    fn show(&mut self, node: usize) {
        let node = &self.nodes[node];
        let room = if node.kept { None } else { node.open_room() };
        self.groups[node.group].free.set(node.leaf, room);
    }

    /// The node that lacks least of having room for it, among those that could hold it and are kept for nobody.
    pub(super) fn nearest(&self, group: usize, asked: &Resources) -> Option<usize> {
        let members = self.groups[group].members.iter().copied();
        let could = members.filter(|n| self.is_open(*n) && !self.is_kept(*n) && self.could_hold(*n, asked));
        could.min_by_key(|n| {
            let node = &self.nodes[*n];
            let lacks = *asked - (node.view.capacity - node.view.used);
            (lacks.gpus, lacks.cpu_milli, lacks.memory_bytes, lacks.ephemeral_bytes, node.leaf)
        })
    }

    /// Whether these groups have any node.
    pub(super) fn any(&self, groups: &[usize]) -> bool {
        groups.iter().any(|g| !self.groups[*g].members.is_empty())
    }

    /// Whether any node of these groups could hold it, were it empty.
    pub(super) fn ever(&self, groups: &[usize], asked: &Resources) -> bool {
        groups.iter().any(|g| self.groups[*g].sizes.iter().any(|size| asked.fits(size)))
    }

    /// A node of these groups that has room for it, but is kept.
    pub(super) fn kept_with_room(&self, groups: &[usize], asked: &Resources) -> Option<usize> {
        let mut kept = groups.iter().flat_map(|g| &self.groups[*g].kept).copied();
        kept.find(|node| self.fits(*node, asked))
    }

    /// That there is no node, as a sentence.
    pub(super) fn no_workers(&self, groups: &[usize]) -> String {
        let names: Vec<&str> = groups.iter().map(|g| self.group_name(*g)).collect();
        format!("no worker is admitted to {}: label a node for the tenant", names.join(" or "))
    }

    /// That no node has room, as a sentence.
    pub(super) fn no_room(&self, groups: &[usize], asked: &Resources) -> String {
        let sum = |count: fn(&Group) -> usize| groups.iter().map(|g| count(&self.groups[*g])).sum::<usize>();
        let (open, all) = (sum(|g| g.open), sum(|g| g.members.len()));
        format!("no worker has {} free: {open} of {all} are open", sizes(asked))
    }

    /// That no node could ever hold it, as a sentence.
    pub(super) fn fits_nowhere(&self, groups: &[usize], asked: &Resources) -> String {
        let nodes = groups.iter().filter_map(|g| self.groups[*g].largest).map(|n| &self.nodes[n].view);
        let largest = nodes.max_by_key(|w| (w.capacity.cpu_milli, w.capacity.memory_bytes));
        let largest = largest
            .map_or_else(String::new, |w| format!("; the largest, {}, has {}", w.name, sizes(&w.capacity)));
        let all: usize = groups.iter().map(|g| self.groups[*g].members.len()).sum();
        format!("asks for {}: no worker could ever hold it ({all}){largest}", sizes(asked))
    }
}

impl Node {
    fn open_room(&self) -> Option<Resources> {
        self.view.open.then(|| self.view.capacity - self.view.used)
    }
}

/// The largest free amounts, of each resource by itself, below every branch; leaves are nodes. `None`: nothing goes there.
struct Tree {
    largest: Vec<Option<Resources>>,
    leaves: usize,
}

impl Tree {
    fn new(leaves: usize) -> Self {
        let leaves = leaves.next_power_of_two();
        Self { largest: vec![None; 2 * leaves], leaves }
    }

    fn set(&mut self, leaf: usize, room: Option<Resources>) {
        let mut branch = self.leaves + leaf;
        self.largest[branch] = room;
        while branch > 1 {
            branch /= 2;
            let (left, right) = (self.largest[2 * branch], self.largest[2 * branch + 1]);
            self.largest[branch] = match (left, right) {
                (Some(a), Some(b)) => Some(a.max_each(&b)),
                (one, other) => one.or(other),
            };
        }
    }

    /// The first leaf with room for all of it.
    fn first(&self, asked: &Resources) -> Option<usize> {
        self.below(1, asked)
    }

    fn below(&self, branch: usize, asked: &Resources) -> Option<usize> {
        if !self.largest[branch].is_some_and(|room| asked.fits(&room)) {
            return None;
        }
        if branch >= self.leaves {
            return Some(branch - self.leaves);
        }
        self.below(2 * branch, asked).or_else(|| self.below(2 * branch + 1, asked))
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
