//! Where there is room: the worker groups, their nodes, and what of them is free.
//!
//! A job goes to the first node that has room for all of it. A group's nodes are in the order of their size, those
//! without GPUs before those with, and then by name: small jobs leave large nodes and GPUs alone as long as they can,
//! and load gathers on few nodes. A tree over the nodes with the largest free amounts of each branch finds that node,
//! or that there is none, without looking at every node.
//!
//! Kept up to date change by change. A group in which a node has more room than before is *stirred*, and one whose nodes
//! are others, by size or state, is another *edition*: so it is known whose judgement is out of date.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use slab::Slab;

use super::views::WorkerView;
use crate::domain::{
    resources::{Resources, cores, gigabytes},
    skip_ahead::Admissions,
};

/// All groups and nodes. Groups and nodes are named by number.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    groups: Slab<Group>,
    nodes: Slab<Node>,
    group_numbers: HashMap<Arc<str>, usize>,
    node_numbers: HashMap<Arc<str>, usize>,
    /// Nodes whose room has changed since the last [`Self::take_stirred`].
    changed: Vec<usize>,
    unsorted: Vec<usize>,
}

#[derive(Debug)]
struct Group {
    name: Arc<str>,
    /// Tenants that may use it.
    users: usize,
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
    unsorted: bool,
    edition: u64,
    /// Weights of the tenants that hold or want something of it.
    weights: u64,
    /// Tenants of which a job waits that may go there, by number.
    waiting: BTreeSet<usize>,
    /// Jobs admitted to it so far.
    admissions: Admissions,
    /// An autoscaler supplies its nodes.
    elastic: bool,
}

#[derive(Debug)]
struct Node {
    name: Arc<str>,
    /// `None` for a node that is not a worker (any more), on which pods are known.
    worker: Option<Worker>,
    used: Resources,
    /// Pods and reservations that use it.
    holders: usize,
    kept: bool,
    /// Its room, and whether it was kept, when last looked at.
    seen: (Option<Resources>, bool),
    changed: bool,
}

#[derive(Debug)]
struct Worker {
    view: WorkerView,
    group: usize,
    leaf: usize,
}

impl Rooms {
    // --- groups

    /// The number of a group, for a tenant that may use it; to be given back with [`Self::leave_group`].
    pub(super) fn join_group(&mut self, name: &str) -> usize {
        let number = self.group(name);
        self.groups[number].users += 1;
        number
    }

    /// A tenant does not use the group any more.
    pub(super) fn leave_group(&mut self, number: usize) {
        self.groups[number].users -= 1;
        self.forget_group(number);
    }

    fn group(&mut self, name: &str) -> usize {
        if let Some(number) = self.group_numbers.get(name) {
            return *number;
        }
        let name: Arc<str> = name.into();
        let number = self.groups.insert(Group::new(Arc::clone(&name)));
        self.group_numbers.insert(name, number);
        number
    }

    fn forget_group(&mut self, number: usize) {
        let group = &self.groups[number];
        if group.users == 0 && group.members.is_empty() && !group.unsorted && !group.elastic {
            let group = self.groups.remove(number);
            self.group_numbers.remove(&group.name);
        }
    }

    /// Says of a group that an autoscaler supplies its nodes.
    pub(super) fn set_elastic(&mut self, name: &str) {
        let number = self.group(name);
        self.groups[number].elastic = true;
    }

    /// Whether an autoscaler supplies its nodes.
    pub(super) fn is_elastic(&self, group: usize) -> bool {
        self.groups[group].elastic
    }

    pub(super) fn group_name(&self, group: usize) -> &str {
        &self.groups[group].name
    }

    /// What the group's nodes have in all.
    pub(super) fn capacity(&self, group: usize) -> &Resources {
        &self.groups[group].capacity
    }

    /// Changes whenever nodes come, go, or are of another size or state.
    pub(super) fn edition(&self, group: usize) -> u64 {
        self.groups[group].edition
    }

    /// The weights of those who hold or want something of it.
    pub(super) fn weights(&mut self, group: usize) -> &mut u64 {
        &mut self.groups[group].weights
    }

    /// What a weight is of all weights.
    pub(super) fn guarantee(&self, group: usize, weight: u64) -> f64 {
        weight as f64 / self.groups[group].weights.max(weight) as f64
    }

    /// The tenants of which a job waits that may go there.
    pub(super) fn waiting(&mut self, group: usize) -> &mut BTreeSet<usize> {
        &mut self.groups[group].waiting
    }

    /// Jobs smaller than this that were admitted to it so far.
    pub(super) fn smaller_admitted(&self, group: usize, asked: &Resources) -> u64 {
        self.groups[group].admissions.smaller(asked)
    }

    /// Counts an admission.
    pub(super) fn admitted(&mut self, group: usize, asked: &Resources) {
        self.groups[group].admissions.count(asked);
    }

    /// The groups in which there is more room, or other nodes, than when last asked.
    pub(super) fn take_stirred(&mut self) -> Vec<usize> {
        let mut stirred = std::mem::take(&mut self.unsorted);
        stirred.iter().for_each(|group| self.arrange(*group));
        for number in std::mem::take(&mut self.changed) {
            let node = &mut self.nodes[number];
            let ((before, was_kept), now) = (node.seen, node.open_room());
            (node.seen, node.changed) = ((now, node.kept), false);
            let more = now.is_some_and(|now| before.is_none_or(|before| !now.fits(&before)));
            // More on a node that is kept concerns the one that it is kept for.
            let grew = more || (was_kept && !node.kept);
            stirred.extend(self.group_of(number).filter(|_| grew));
            self.forget_node(number);
        }
        stirred.sort_unstable();
        stirred.dedup();
        stirred.retain(|group| {
            self.forget_group(*group);
            self.groups.contains(*group)
        });
        stirred
    }

    // --- nodes

    fn node_or_new(&mut self, name: &str) -> usize {
        if let Some(number) = self.node_numbers.get(name) {
            return *number;
        }
        let name: Arc<str> = name.into();
        let number = self.nodes.insert(Node::new(Arc::clone(&name)));
        self.node_numbers.insert(name, number);
        number
    }

    /// Sets what a node is, or that it is no worker (any more).
    pub(super) fn set_worker(&mut self, name: &str, view: Option<WorkerView>) {
        let number = match (&view, self.node_numbers.get(name)) {
            (_, Some(number)) => *number,
            (Some(_), None) => self.node_or_new(name),
            (None, None) => return,
        };
        let old = self.nodes[number].worker.take();
        if old.as_ref().map(|w| &w.view) == view.as_ref() {
            self.nodes[number].worker = old;
            return;
        }
        if let Some(old) = old {
            self.groups[old.group].members.retain(|member| *member != number);
            self.release(number);
            self.unsort(old.group);
        }
        if let Some(view) = view {
            let group = self.group(&view.group);
            self.nodes[number].worker = Some(Worker { view, group, leaf: 0 });
            self.groups[group].members.push(number);
            self.unsort(group);
        }
        self.forget_node(number);
    }

    fn forget_node(&mut self, number: usize) {
        let node = &self.nodes[number];
        if node.worker.is_none() && node.holders == 0 && !node.changed {
            let node = self.nodes.remove(number);
            self.node_numbers.remove(&node.name);
        }
    }

    fn unsort(&mut self, group: usize) {
        if !self.groups[group].unsorted {
            self.groups[group].unsorted = true;
            self.unsorted.push(group);
        }
    }

    fn arrange(&mut self, number: usize) {
        let (group, nodes) = (&mut self.groups[number], &mut self.nodes);
        let mut members = std::mem::take(&mut group.members);
        members.sort_by(|a, b| {
            let key = |n: &usize| (nodes[*n].capacity().gpus, nodes[*n].capacity().cpu_milli);
            key(a).cmp(&key(b)).then_with(|| nodes[*a].name.cmp(&nodes[*b].name))
        });
        (group.free, group.capacity, group.open) = (Tree::new(members.len()), Resources::default(), 0);
        for (leaf, member) in members.iter().enumerate() {
            let node = &mut nodes[*member];
            if let Some(worker) = &mut node.worker {
                worker.leaf = leaf;
            }
            group.capacity += node.capacity();
            group.open += usize::from(node.is_open());
            node.seen = (node.open_room(), node.kept);
            group.free.set(leaf, node.shown_room());
        }
        let mut sizes: Vec<_> = members.iter().map(|n| nodes[*n].capacity()).collect();
        sizes.sort_unstable_by_key(|r| (r.cpu_milli, r.memory_bytes, r.gpus, r.ephemeral_bytes));
        sizes.dedup();
        group.sizes = sizes;
        let size = |n: &usize| (nodes[*n].capacity().cpu_milli, nodes[*n].capacity().memory_bytes);
        group.largest = members.iter().copied().max_by_key(size);
        group.members = members;
        group.edition += 1;
        group.unsorted = false;
    }

    /// The number of a worker.
    #[cfg(test)]
    pub(super) fn worker(&self, name: &str) -> Option<usize> {
        self.node_numbers.get(name).copied().filter(|n| self.nodes[*n].worker.is_some())
    }

    /// The group of a worker.
    pub(super) fn group_of(&self, node: usize) -> Option<usize> {
        self.nodes[node].worker.as_ref().map(|worker| worker.group)
    }

    pub(super) fn node_name(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    /// Uses room of a node, which need not be a worker. To be given back with [`Self::give_back`].
    pub(super) fn take(&mut self, name: &str, asked: Resources) -> usize {
        let number = self.node_or_new(name);
        self.take_number(number, asked)
    }

    /// As [`Self::take`], of a node by number.
    pub(super) fn take_number(&mut self, number: usize, asked: Resources) -> usize {
        let node = &mut self.nodes[number];
        node.used += asked;
        node.holders += 1;
        self.show(number);
        number
    }

    /// Gives room of a node back.
    pub(super) fn give_back(&mut self, number: usize, asked: Resources) {
        let node = &mut self.nodes[number];
        node.used = node.used - asked;
        node.holders -= 1;
        self.show(number);
        self.forget_node(number);
    }

    /// Keeps what is free on a worker from everybody who asks with [`Self::find`].
    pub(super) fn keep(&mut self, node: usize) {
        if let Some(group) = self.group_of(node).filter(|_| !self.nodes[node].kept) {
            self.nodes[node].kept = true;
            self.groups[group].kept.push(node);
            self.show(node);
        }
    }

    /// Takes [`Self::keep`] back.
    pub(super) fn release(&mut self, node: usize) {
        if !self.nodes.get(node).is_some_and(|node| node.kept) {
            return;
        }
        self.nodes[node].kept = false;
        // The node may have left the group by now.
        for (_, group) in &mut self.groups {
            group.kept.retain(|kept| *kept != node);
        }
        self.show(node);
    }

    fn show(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let Some(worker) = &node.worker else { return };
        let group = &mut self.groups[worker.group];
        if !group.unsorted {
            group.free.set(worker.leaf, node.shown_room());
            if !node.changed {
                node.changed = true;
                self.changed.push(number);
            }
        }
    }

    /// Whether nothing is left of any group or node.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty() && self.nodes.is_empty()
    }

    // --- questions

    /// Whether a node of the group may have room for it; `false` is certain, and found at once.
    pub(super) fn may_fit(&self, group: usize, asked: &Resources) -> bool {
        self.groups[group].free.may_fit(asked)
    }

    /// A node of the group with room for all of it that is not kept for another.
    pub(super) fn find(&self, group: usize, asked: &Resources) -> Option<usize> {
        let group = &self.groups[group];
        group.free.first(asked).map(|leaf| group.members[leaf])
    }

    /// Whether a worker has room for it now, kept or not.
    pub(super) fn fits(&self, node: usize, asked: &Resources) -> bool {
        self.nodes.get(node).and_then(Node::open_room).is_some_and(|room| asked.fits(&room))
    }

    /// Whether a node is an open worker that could hold it, were it empty.
    pub(super) fn could_hold(&self, node: usize, asked: &Resources) -> bool {
        self.nodes.get(node).is_some_and(|node| node.is_open() && asked.fits(&node.capacity()))
    }

    /// Whether every node of the groups is ready and open to new pods.
    pub(super) fn all_open(&self, groups: &[usize]) -> bool {
        groups.iter().all(|g| self.groups[*g].open == self.groups[*g].members.len())
    }

    /// The node that lacks least of having room for it, among those that could hold it and are kept for nobody.
    pub(super) fn nearest(&self, group: usize, asked: &Resources) -> Option<usize> {
        let members = self.groups[group].members.iter().copied().enumerate();
        let could = members.filter(|(_, n)| !self.nodes[*n].kept && self.could_hold(*n, asked));
        let nearest = could.min_by_key(|(place, n)| {
            let node = &self.nodes[*n];
            let lacks = *asked - (node.capacity() - node.used);
            (lacks.gpus, lacks.cpu_milli, lacks.memory_bytes, lacks.ephemeral_bytes, *place)
        });
        nearest.map(|(_, node)| node)
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

    // --- sentences

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
        let nodes = groups.iter().filter_map(|g| self.groups[*g].largest).map(|n| &self.nodes[n]);
        let largest = nodes.max_by_key(|n| (n.capacity().cpu_milli, n.capacity().memory_bytes));
        let largest = largest
            .map_or_else(String::new, |n| format!("; the largest, {}, has {}", n.name, sizes(&n.capacity())));
        let all: usize = groups.iter().map(|g| self.groups[*g].members.len()).sum();
        format!("asks for {}: no worker could ever hold it ({all}){largest}", sizes(asked))
    }
}

impl Node {
    fn new(name: Arc<str>) -> Self {
        let used = Resources::default();
        Self { name, worker: None, used, holders: 0, kept: false, seen: (None, false), changed: false }
    }
}

impl Group {
    fn new(name: Arc<str>) -> Self {
        Self {
            name,
            users: 0,
            members: Vec::new(),
            free: Tree::new(0),
            capacity: Resources::default(),
            sizes: Vec::new(),
            largest: None,
            open: 0,
            kept: Vec::new(),
            unsorted: false,
            edition: 0,
            weights: 0,
            waiting: BTreeSet::new(),
            admissions: Admissions::default(),
            elastic: false,
        }
    }
}

impl Node {
    fn capacity(&self) -> Resources {
        self.worker.as_ref().map_or_else(Resources::default, |worker| worker.view.capacity)
    }

    fn is_open(&self) -> bool {
        self.worker.as_ref().is_some_and(|worker| worker.view.open)
    }

    fn open_room(&self) -> Option<Resources> {
        self.is_open().then(|| self.capacity() - self.used)
    }

    fn shown_room(&self) -> Option<Resources> {
        if self.kept { None } else { self.open_room() }
    }
}

/// The largest free amounts, of each resource by itself, below every branch; leaves are nodes. `None`: nothing goes there.
#[derive(Debug)]
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

    fn may_fit(&self, asked: &Resources) -> bool {
        self.largest[1].is_some_and(|room| asked.fits(&room))
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
