//! Where there is room: the worker groups, their nodes, and what of them is free.
//!
//! A job goes to the first node that has room for all of it. A group's nodes are in the order of their size, those
//! without GPUs before those with, and then by name: small jobs leave large nodes and GPUs alone as long as they can,
//! and load gathers on few nodes. A tree over the nodes with the largest free amounts of each branch finds that node,
//! or that there is none, without looking at every node.
//!
//! Kept up to date change by change. A group in which a node has more room than before is *roomier*, and one whose nodes
//! are others, by size or state, is another *edition*: so it is known whose judgement is out of date.

use std::{cmp::Reverse, collections::HashMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};
use slab::Slab;

use super::{
    contest::{Bid, Contest},
    tree::Tree,
    views::WorkerView,
};
use crate::domain::{fair_share::Turn, resources::Resources};

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

/// What there is since it was last asked for. Groups are named once.
#[derive(Debug, Default)]
pub(super) struct Stirred {
    /// Groups whose nodes are others.
    pub(super) renewed: Vec<usize>,
    /// Groups in which a node has more room.
    pub(super) roomier: Vec<usize>,
    /// Seats for whose job a node is kept that has more room.
    pub(super) kept_for: Vec<usize>,
}

#[derive(Debug)]
struct Group {
    name: Arc<str>,
    /// How many tenants may use it.
    users: usize,
    /// In the order in which they are filled.
    members: Vec<usize>,
    free: Tree,
    capacity: Resources,
    /// The largest sizes of node that it has: each other fits into one of these.
    sizes: Vec<Resources>,
    /// Larger ones that it has had, with when they were there last, the oldest first.
    shown: Vec<(Resources, Timestamp)>,
    /// A node has joined it since its sizes were looked at.
    joined: bool,
    /// When a node joined it last, or was larger than any before.
    grown: Timestamp,
    largest: Option<usize>,
    open: usize,
    /// Nodes kept free for a job that is due.
    kept: Vec<usize>,
    unsorted: bool,
    edition: u64,
    /// The tenants that may use it.
    contest: Contest,
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
    kept: Option<Kept>,
    /// Its room, and whether it was kept, when last looked at.
    seen: (Option<Resources>, bool),
    changed: bool,
}

/// For whom a node is kept free.
#[derive(Clone, Copy, Debug)]
struct Kept {
    seat: usize,
    /// The group of the node then.
    group: usize,
}

#[derive(Debug)]
struct Worker {
    view: WorkerView,
    group: usize,
    leaf: usize,
}

/// For so long after a node has joined a group, or has grown, others may follow: nodes are labelled one after another,
/// and a GPU is registered when its node has been Ready for a while.
const SETTLING: SignedDuration = SignedDuration::from_secs(60);
/// For so long a size of node that was there may come back.
const LATELY: SignedDuration = SignedDuration::from_hours(6);
/// Sizes that are remembered of a group.
const REMEMBERED: usize = 64;

/// What may become of a job that no node of its groups could hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// Nothing says that there will be a larger one.
    Hopeless,
    /// Nodes have come just now; they are all there at about this time.
    Unsettled(Timestamp),
    /// A node that could was there lately, or one is away and may come back with more than it shows (a rebooted one shows
    /// no GPUs at first).
    Hopeful,
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

    /// Changes whenever nodes come, go, or are of another size or state.
    pub(super) fn edition(&self, group: usize) -> u64 {
        self.groups[group].edition
    }

    /// The tenants of the group.
    pub(super) fn contest(&self, group: usize) -> &Contest {
        &self.groups[group].contest
    }

    /// The tenants of the group, to be changed.
    pub(super) fn contest_mut(&mut self, group: usize) -> &mut Contest {
        &mut self.groups[group].contest
    }

    /// Changes what a tenant holds of the group.
    pub(super) fn hold(
        &mut self,
        group: usize,
        stake: usize,
        change: impl FnOnce(&mut Resources),
        now: Timestamp,
    ) {
        let Group { contest, capacity, .. } = &mut self.groups[group];
        let mut held = *contest.held(stake);
        change(&mut held);
        contest.hold(stake, held, capacity, now);
    }

    /// How near a tenant's turn in the group is with a job that asks for this.
    pub(super) fn turn(&self, group: usize, stake: usize, asked: &Resources, now: Timestamp) -> Turn {
        let Group { contest, capacity, .. } = &self.groups[group];
        contest.turn(stake, asked, capacity, now)
    }

    /// A job that ran in a group has ended after so many seconds.
    pub(super) fn ended(&mut self, group: &str, seconds: f64) {
        if let Some(group) = self.group_numbers.get(group) {
            self.groups[*group].contest.ended(seconds);
        }
    }

    /// The lines that wait for room in the group and may find it now.
    pub(super) fn bids(&self, group: usize, now: Timestamp) -> impl Iterator<Item = Bid> {
        let Group { contest, capacity, free, .. } = &self.groups[group];
        free.most().into_iter().flat_map(move |room| contest.bids(room, *capacity, now))
    }

    /// What has changed since this was last asked.
    pub(super) fn take_stirred(&mut self, now: Timestamp) -> Stirred {
        self.arrange_all(now);
        let mut stirred = Stirred { renewed: std::mem::take(&mut self.unsorted), ..Stirred::default() };
        for number in std::mem::take(&mut self.changed) {
            let node = &mut self.nodes[number];
            let ((before, was_kept), now) = (node.seen, node.open_room());
            (node.seen, node.changed) = ((now, node.kept.is_some()), false);
            let more = now.is_some_and(|now| before.is_none_or(|before| !now.fits(&before)));
            match node.kept {
                Some(kept) if more => stirred.kept_for.push(kept.seat),
                None if more || was_kept => stirred.roomier.extend(self.group_of(number)),
                _ => (),
            }
            self.forget_node(number);
        }
        stirred.roomier.sort_unstable();
        stirred.roomier.dedup();
        stirred.roomier.retain(|group| !stirred.renewed.contains(group));
        stirred.renewed.retain(|group| {
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
        let old_group = old.as_ref().map(|old| old.group);
        if let Some(old) = old {
            self.groups[old.group].members.retain(|member| *member != number);
            self.release(number);
            self.unsort(old.group);
        }
        if let Some(view) = view {
            let group = self.group(&view.group);
            self.nodes[number].worker = Some(Worker { view, group, leaf: 0 });
            let joins = old_group != Some(group);
            let group_now = &mut self.groups[group];
            group_now.joined |= joins;
            group_now.members.push(number);
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

    /// Brings what groups have up to date, before jobs are assessed by it.
    pub(super) fn arrange_all(&mut self, now: Timestamp) {
        for group in self.unsorted.clone() {
            if self.groups[group].unsorted {
                self.arrange(group, now);
            }
        }
    }

    fn arrange(&mut self, number: usize, now: Timestamp) {
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
            node.seen = (node.open_room(), node.kept.is_some());
            group.free.set(leaf, node.shown_room());
        }
        group.remember(largest_of(members.iter().map(|n| nodes[*n].capacity())), now);
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

    /// Keeps what is free on a worker for a seat's job from everybody who asks with [`Self::find`].
    pub(super) fn keep(&mut self, node: usize, seat: usize) {
        if let Some(group) = self.group_of(node).filter(|_| self.nodes[node].kept.is_none()) {
            self.nodes[node].kept = Some(Kept { seat, group });
            self.groups[group].kept.push(node);
            self.show(node);
        }
    }

    /// Takes [`Self::keep`] back.
    pub(super) fn release(&mut self, node: usize) {
        let Some(kept) = self.nodes.get_mut(node).and_then(|node| node.kept.take()) else { return };
        if let Some(group) = self.groups.get_mut(kept.group) {
            group.kept.retain(|other| *other != node);
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
        self.groups[group].free.most().is_some_and(|room| asked.fits(&room))
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

    /// How many nodes of the groups are open, and how many there are.
    pub(super) fn count(&self, groups: &[usize]) -> (usize, usize) {
        let count =
            |(open, all), g: &usize| (open + self.groups[*g].open, all + self.groups[*g].members.len());
        groups.iter().fold((0, 0), count)
    }

    /// The largest node of the groups, and what it has.
    pub(super) fn largest(&self, groups: &[usize]) -> Option<(&str, Resources)> {
        let nodes = groups.iter().filter_map(|g| self.groups[*g].largest).map(|n| &self.nodes[n]);
        let largest = nodes.max_by_key(|n| (n.capacity().cpu_milli, n.capacity().memory_bytes));
        largest.map(|node| (&*node.name, node.capacity()))
    }

    /// What may become of a job that no node of the groups could hold.
    pub(super) fn outlook<I>(&self, groups: impl Fn() -> I, asked: &Resources, now: Timestamp) -> Outlook
    where
        I: Iterator<Item = usize>,
    {
        let all = || groups().map(|group| &self.groups[group]);
        let lately =
            |(size, at): &(Resources, Timestamp)| asked.fits(size) && now.duration_since(*at) < LATELY;
        if all().any(|group| group.open < group.members.len() || group.shown.iter().any(lately)) {
            return Outlook::Hopeful;
        }
        let settled = all().filter_map(|group| group.grown.checked_add(SETTLING).ok()).max();
        settled.filter(|at| *at > now).map_or(Outlook::Hopeless, Outlook::Unsettled)
    }

    /// How many open nodes of the groups would have room for it, but for the number of their pods.
    pub(super) fn full_of_pods(&self, groups: &[usize], asked: &Resources) -> usize {
        let slim = Resources { pods: 0, ..*asked };
        let nodes =
            groups.iter().flat_map(|group| &self.groups[*group].members).map(|node| &self.nodes[*node]);
        let rooms = nodes.filter_map(Node::open_room);
        rooms.filter(|room| slim.fits(room) && asked.pods > room.pods).count()
    }

    /// The node that lacks least of having room for it, among those that could hold it and are kept for nobody.
    pub(super) fn nearest(&self, group: usize, asked: &Resources) -> Option<usize> {
        let members = self.groups[group].members.iter().copied().enumerate();
        let could = members.filter(|(_, n)| self.nodes[*n].kept.is_none() && self.could_hold(*n, asked));
        let nearest = could.min_by_key(|(place, n)| {
            let node = &self.nodes[*n];
            let lacks = *asked - (node.capacity() - node.used);
            (lacks.gpus, lacks.cpu_milli, lacks.memory_bytes, lacks.ephemeral_bytes, lacks.pods, *place)
        });
        nearest.map(|(_, node)| node)
    }

    /// Whether these groups have any node.
    pub(super) fn any(&self, mut groups: impl Iterator<Item = usize>) -> bool {
        groups.any(|group| !self.groups[group].members.is_empty())
    }

    /// Whether any node of these groups could hold it, were it empty.
    pub(super) fn ever(&self, mut groups: impl Iterator<Item = usize>, asked: &Resources) -> bool {
        groups.any(|group| self.groups[group].sizes.iter().any(|size| asked.fits(size)))
    }

    /// A node of these groups that has room for it, but is kept.
    pub(super) fn kept_with_room(
        &self,
        groups: impl Iterator<Item = usize>,
        asked: &Resources,
    ) -> Option<usize> {
        let mut kept = groups.flat_map(|group| &self.groups[group].kept).copied();
        kept.find(|node| self.fits(*node, asked))
    }
}

/// Those of these sizes that fit into no other one.
fn largest_of(sizes: impl Iterator<Item = Resources>) -> Vec<Resources> {
    let mut all: Vec<Resources> = sizes.collect();
    let key = |r: &Resources| Reverse((r.cpu_milli, r.memory_bytes, r.gpus, r.ephemeral_bytes, r.pods));
    all.sort_unstable_by_key(key);
    all.dedup();
    let mut largest: Vec<Resources> = Vec::new();
    for size in all {
        // Those before it have at least as much CPU.
        if !largest.iter().any(|other| size.fits(other)) {
            largest.push(size);
        }
    }
    largest
}

impl Node {
    fn new(name: Arc<str>) -> Self {
        let used = Resources::default();
        Self { name, worker: None, used, holders: 0, kept: None, seen: (None, false), changed: false }
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
            shown: Vec::new(),
            joined: false,
            grown: Timestamp::MIN,
            largest: None,
            open: 0,
            kept: Vec::new(),
            unsorted: false,
            edition: 0,
            contest: Contest::default(),
            elastic: false,
        }
    }

    /// Takes the largest sizes of its nodes, and notes which were there until now, and whether it has grown.
    fn remember(&mut self, sizes: Vec<Resources>, now: Timestamp) {
        let before = std::mem::replace(&mut self.sizes, sizes);
        let known = |size: &Resources| {
            before.iter().chain(self.shown.iter().map(|(size, _)| size)).any(|other| size.fits(other))
        };
        if std::mem::take(&mut self.joined) || !self.sizes.iter().all(known) {
            self.grown = now;
        }
        self.shown.retain(|(size, _)| !before.iter().any(|later| size.fits(later)));
        self.shown.extend(before.into_iter().map(|size| (size, now)));
        let sizes = &self.sizes;
        self.shown.retain(|(size, at)| {
            now.duration_since(*at) < LATELY && !sizes.iter().any(|other| size.fits(other))
        });
        let surplus = self.shown.len().saturating_sub(REMEMBERED);
        self.shown.drain(..surplus);
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
        if self.kept.is_some() { None } else { self.open_room() }
    }
}
