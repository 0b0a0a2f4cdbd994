//! Which nodes are admitted to which group: a pure function of the labels, sizes and ages of all nodes and the quotas
//! of all tenants.
//!
//! What a node is *entitled* to depends on its worker label and on the older nodes of that label, never on who is
//! admitted at the moment. So every reconcile of the same cluster gives the same answer, after a restart too, and:
//! - nodes are entitled in the order of their label's age, as long as they fit maxWorkers, maxCpuCores and maxGpus;
//! - one that does not fit is refused and the next is tried, so a node that is too large blocks no other;
//! - a younger node never displaces an older one. Where room appears for an older one that was refused, a younger
//!   one that had filled the gap loses its admission to it.
//!
//! What happens *next* to a node follows from its entitlement and what is on it. Two rules keep it safe at every
//! moment:
//! - a node is admitted only while it fits on top of all that *hold* the admission, entitled or not: those that lose it
//!   are released first;
//! - a node changes its group, and loses its taint, only when no job pod of another group is left on it.
//!
//! A node that is being released counts no more: maxWorkers limits admitted nodes, and nothing new starts on it.
//! Size is the node's capacity, not what is allocatable: it is what the machine is, while allocatable moves with the
//! kubelet's reservations and the health of each GPU, and would make nodes come and go.

pub mod facts;
mod quotas;
pub mod since;

use std::collections::BTreeMap;

use jiff::Timestamp;

use self::quotas::Size;
pub use self::quotas::{Excess, WorkerQuota, WorkerQuotas};
use crate::{api_types::Reason, names};

/// A tenant, as far as its nodes are concerned. Suspended and expired tenants keep their nodes, so neither shows here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantFacts {
    /// Name of its plan, for messages.
    pub plan: String,
    /// Its quotas; `None` when the plan is unknown: what is admitted stays, and nothing new is.
    pub quotas: Option<WorkerQuotas>,
    /// Its deletion is under way: it is entitled to nothing.
    pub terminating: bool,
}

/// A node, as far as its admission is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// Name of the node.
    pub name: String,
    /// Since when it carries its worker label.
    pub since: Timestamp,
    /// Value of [`names::NODE_TENANT`].
    pub tenant: Option<String>,
    /// Value of [`names::NODE_POOL`].
    pub pool: Option<String>,
    /// CPU of the node in thousandths of a core; `None` before its kubelet has reported it.
    pub cpu_milli: Option<u64>,
    /// GPUs of the node.
    pub gpus: u64,
    /// The group it is admitted to: value of the label [`names::NODE_ADMITTED`].
    pub admitted: Option<String>,
    /// The group it is kept free for: value of the taint [`names::NODE_ADMITTED`].
    pub tainted: Option<String>,
    /// A group that a write without an answer may have admitted it to; counted as if it had.
    pub unconfirmed: Option<String>,
    /// Its deletion is under way.
    pub deleting: bool,
}

/// Number of job pods on a node that have not ended, by worker group.
pub type LivePods = BTreeMap<String, usize>;

/// All tenants by name, and nodes. Nodes of other tenants may be left out: groups don't touch one another.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    /// Tenants by name.
    pub tenants: BTreeMap<String, TenantFacts>,
    /// Nodes, in any order.
    pub nodes: Vec<NodeFacts>,
}

/// Why a node is not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Machine reason.
    pub reason: Reason,
    /// Why, with numbers.
    pub message: String,
}

/// What to do next with a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Not a worker, and nothing of ours on it.
    Leave,
    /// Admitted, label and taint in place.
    Keep,
    /// Set label and taint.
    Admit {
        /// The worker group it is admitted to.
        group: String,
    },
    /// Take the label away, so that nothing new starts; the taint stays.
    Release {
        /// The worker group that it was admitted to.
        group: String,
        /// Why, unless its worker label was simply taken off or changed.
        because: Option<Refusal>,
    },
    /// Take the taint away: released, and no pod is left.
    Free {
        /// The worker group that it was admitted to.
        group: String,
    },
    /// Do nothing, and say why.
    Refuse(Refusal),
    /// Do nothing until something else has happened.
    Wait(Waiting),
}

/// What a node waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// Job pods of an earlier group to end.
    Pods(usize),
    /// Nodes that lose their admission to be released.
    Room,
    /// The kubelet to report what the node has.
    Capacity,
}

/// The group that a node should work for.
enum Entitlement {
    /// It has no worker label.
    None,
    /// This group.
    Group(String),
    /// No group, though it is labelled.
    Refused(Refusal),
    /// Not known before its capacity is.
    Unknown,
}

impl NodeFacts {
    /// Whether it counts against the quotas of `tenant`, entitled or not.
    fn holds(&self, tenant: &str) -> bool {
        [&self.admitted, &self.unconfirmed].into_iter().flatten().any(|group| group == tenant)
    }

    /// Whether the tenant may claim it: that label, no other, and not on its way out.
    fn labelled_for(&self, tenant: &str) -> bool {
        self.tenant.as_deref() == Some(tenant) && self.pool.is_none() && !self.deleting
    }
}

/// For each node that `tenant` may claim, oldest first: `None` when entitled, or what quota it breaks.
/// Nodes whose capacity is not known are left out, unless they are admitted already.
fn assess<'a>(
    tenant: &str,
    quotas: &WorkerQuotas,
    nodes: &'a [NodeFacts],
) -> Vec<(&'a NodeFacts, Option<Excess>)> {
    let claimed = |node: &&NodeFacts| {
        node.labelled_for(tenant) && (node.cpu_milli.is_some() || node.admitted.as_deref() == Some(tenant))
    };
    let mut claimed: Vec<&NodeFacts> = nodes.iter().filter(claimed).collect();
    claimed.sort_by(|a, b| (a.since, &a.name).cmp(&(b.since, &b.name)));
    let mut used = Size::default();
    let mut verdict = |node| {
        let excess = quotas.excess(used, Size::of(node));
        if excess.is_none() {
            used = used.plus(Size::of(node));
        }
        (node, excess)
    };
    claimed.into_iter().map(&mut verdict).collect()
}

/// What quota `node` exceeds, labelled for `tenant` on top of the older ones; `None` when there is room. One that is
/// not labelled for it yet is asked about as the youngest. A node whose capacity is not known counts as one, of no
/// size.
#[must_use]
pub fn excess(tenant: &str, quotas: &WorkerQuotas, nodes: &[NodeFacts], node: &NodeFacts) -> Option<Excess> {
    let since = if node.labelled_for(tenant) { node.since } else { Timestamp::MAX };
    let claimed = NodeFacts {
        since,
        tenant: Some(tenant.to_owned()),
        pool: None,
        cpu_milli: node.cpu_milli.or(Some(0)),
        deleting: false,
        ..node.clone()
    };
    let others = nodes.iter().filter(|other| other.name != node.name).cloned();
    let all: Vec<NodeFacts> = others.chain([claimed]).collect();
    assess(tenant, quotas, &all).into_iter().find(|(assessed, _)| assessed.name == node.name)?.1
}

/// The nodes labelled for `tenant` that exceed its quotas, as a message; `None` when all fit.
#[must_use]
pub fn over_quota(tenant: &str, plan: &str, quotas: &WorkerQuotas, nodes: &[NodeFacts]) -> Option<String> {
    /// Nodes that the message names.
    const NAMED: usize = 3;
    let assessed = assess(tenant, quotas, nodes);
    let refused: Vec<_> =
        assessed.iter().filter_map(|(node, excess)| Some((&node.name, excess.as_ref()?.message()))).collect();
    let named: Vec<String> =
        refused.iter().take(NAMED).map(|(name, excess)| format!("{name} ({excess})")).collect();
    let rest = match refused.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    (!refused.is_empty()).then(|| {
        format!(
            "plan {plan}: {} of {} labelled workers are refused: {}{rest}",
            refused.len(),
            assessed.len(),
            named.join(", ")
        )
    })
}

impl Fleet {
    /// What to do next with `node`, one of the fleet, given the job pods that run on it.
    #[must_use]
    pub fn step(&self, node: &NodeFacts, live: &LivePods) -> Step {
        match self.entitlement(node) {
            Entitlement::Group(group) => self.toward(node, group, live),
            Entitlement::Refused(refusal) => match away(node, Some(&refusal), live) {
                Step::Leave => Step::Refuse(refusal),
                step => step,
            },
            Entitlement::None => away(node, None, live),
            Entitlement::Unknown => match away(node, None, live) {
                Step::Leave => Step::Wait(Waiting::Capacity),
                step => step,
            },
        }
    }

    fn entitlement(&self, node: &NodeFacts) -> Entitlement {
        let refuse = |reason, message| Entitlement::Refused(Refusal { reason, message });
        if node.deleting {
            return Entitlement::None;
        }
        match (&node.tenant, &node.pool) {
            (None, None) => Entitlement::None,
            (Some(tenant), None) => self.entitlement_of_tenant(node, tenant),
            (None, Some(pool)) if is_pool_name(pool) => Entitlement::Group(names::pool_group(pool)),
            (None, Some(pool)) => refuse(
                Reason::InvalidObject,
                format!(
                    "the label {} is `{pool}`, which no tenant can list: a pool's name is 1 to {LONGEST_POOL} \
                     characters of a-z, 0-9 and -, and begins and ends with a letter or digit",
                    names::NODE_POOL
                ),
            ),
            (Some(tenant), Some(pool)) => refuse(
                Reason::InvalidObject,
                format!(
                    "the node is labelled for 2 groups, tenant {tenant} and pool {pool}: take off {} or {}",
                    names::NODE_TENANT,
                    names::NODE_POOL
                ),
            ),
        }
    }

    fn entitlement_of_tenant(&self, node: &NodeFacts, tenant: &str) -> Entitlement {
        let refuse = |reason, message| Entitlement::Refused(Refusal { reason, message });
        let Some(facts) = self.tenants.get(tenant) else {
            let message = format!("the label {} names `{tenant}`, which does not exist", names::NODE_TENANT);
            return refuse(Reason::NoSuchTenant, message);
        };
        if facts.terminating {
            return refuse(Reason::Terminating, format!("tenant {tenant} is being deleted"));
        }
        let Some(quotas) = &facts.quotas else {
            if node.admitted.as_deref() == Some(tenant) {
                return Entitlement::Group(tenant.to_owned());
            }
            let message = format!(
                "tenant {tenant} is on plan `{}`, which does not exist: nothing new is admitted to it",
                facts.plan
            );
            return refuse(Reason::UnknownPlan, message);
        };
        match assess(tenant, quotas, &self.nodes).into_iter().find(|(assessed, _)| assessed.name == node.name)
        {
            Some((_, None)) => Entitlement::Group(tenant.to_owned()),
            Some((_, Some(excess))) => {
                let excess = excess.message();
                refuse(Reason::WorkersOverQuota, format!("tenant {tenant} on plan {}: {excess}", facts.plan))
            }
            None => Entitlement::Unknown,
        }
    }

    /// On the way to `group`.
    fn toward(&self, node: &NodeFacts, group: String, live: &LivePods) -> Step {
        if node.admitted.as_ref() == Some(&group) && node.tainted.as_ref() == Some(&group) {
            return Step::Keep;
        }
        match &node.admitted {
            // It works for the group already and only the taint is wrong: put right at once.
            Some(admitted) if *admitted == group => return Step::Admit { group },
            Some(other) => return Step::Release { group: other.clone(), because: None },
            None => {}
        }
        let others: usize = live.iter().filter(|(owner, _)| **owner != group).map(|(_, pods)| pods).sum();
        if others > 0 {
            Step::Wait(Waiting::Pods(others))
        } else if self.has_room(node, &group) {
            Step::Admit { group }
        } else {
            Step::Wait(Waiting::Room)
        }
    }

    /// Whether `node` fits on top of all other nodes that hold an admission to `group`; pools have no quota.
    fn has_room(&self, node: &NodeFacts, group: &str) -> bool {
        let Some(quotas) = self.tenants.get(group).and_then(|tenant| tenant.quotas) else {
            return true;
        };
        let others = self.nodes.iter().filter(|other| other.name != node.name && other.holds(group));
        let held = others.map(Size::of).fold(Size::default(), Size::plus);
        quotas.excess(held, Size::of(node)).is_none()
    }
}

/// On the way to no group.
fn away(node: &NodeFacts, because: Option<&Refusal>, live: &LivePods) -> Step {
    if let Some(group) = &node.admitted {
        return Step::Release { group: group.clone(), because: because.cloned() };
    }
    let Some(group) = &node.tainted else {
        return Step::Leave;
    };
    match live.values().sum() {
        0 => Step::Free { group: group.clone() },
        pods => Step::Wait(Waiting::Pods(pods)),
    }
}

/// Longest name of a shared pool, as `spec.sharedPools` has it.
const LONGEST_POOL: usize = 58;

/// Whether a tenant could list a pool of that name in `spec.sharedPools`.
fn is_pool_name(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=LONGEST_POOL).contains(&name.len())
        && name.chars().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

#[cfg(test)]
mod tests;
