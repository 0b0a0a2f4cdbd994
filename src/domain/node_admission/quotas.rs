//! How much a tenant's nodes may be in total, and the message of a node that exceeds it.

use crate::{
    api_types::plan::{EffectiveQuotas, Limit},
    domain::resources::cores,
};

use super::NodeFacts;

/// What a tenant's nodes may be in total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerQuotas {
    /// Nodes.
    pub workers: Limit,
    /// CPU of the nodes, in thousandths of a core.
    pub cpu_milli: Limit,
    /// GPUs of the nodes.
    pub gpus: Limit,
}

impl From<&EffectiveQuotas> for WorkerQuotas {
    fn from(quotas: &EffectiveQuotas) -> Self {
        Self {
            workers: Limit::from_quota(quotas.max_workers),
            cpu_milli: Limit::from_quota(quotas.max_cpu_cores).times(1000),
            gpus: Limit::from_quota(quotas.max_gpus),
        }
    }
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerQuota {
    /// Nodes.
    Workers,
    /// CPU, in thousandths of a core.
    Cpu,
    /// GPUs.
    Gpus,
}

/// A quota that a node would break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Excess {
    /// Which.
    pub quota: WorkerQuota,
    /// What older nodes have of it.
    pub used: u64,
    /// What this one has.
    pub asked: u64,
    /// How much there may be.
    pub limit: Limit,
}

impl Excess {
    /// For Events and conditions.
    #[must_use]
    pub fn message(&self) -> String {
        let Self { quota, used, asked, .. } = *self;
        let limit = self.limit();
        match quota {
            WorkerQuota::Workers => format!("maxWorkers is {limit}, and there are {used} older workers"),
            WorkerQuota::Cpu => format!(
                "maxCpuCores is {limit}: older workers have {}, and this one has {}",
                cores(used),
                cores(asked)
            ),
            WorkerQuota::Gpus => {
                format!("maxGpus is {limit}: older workers have {used}, and this one has {asked}")
            }
        }
    }

    /// In the words that the REST API has had from its beginning.
    #[must_use]
    pub fn in_short(&self) -> String {
        let Self { quota, used, asked, .. } = *self;
        let limit = self.limit();
        match quota {
            WorkerQuota::Workers => format!("max workers limit reached ({used}/{limit})"),
            WorkerQuota::Cpu => {
                format!("max CPU cores limit reached ({}+{} > {limit})", cores(used), cores(asked))
            }
            WorkerQuota::Gpus => format!("max GPUs limit reached ({used}/{limit})"),
        }
    }

    fn limit(&self) -> String {
        match (self.quota, self.limit.at_most()) {
            (WorkerQuota::Cpu, Some(most)) => cores(most),
            _ => self.limit.to_string(),
        }
    }
}

/// Sum of nodes.
#[derive(Clone, Copy, Default)]
pub(super) struct Size {
    workers: u64,
    cpu_milli: u64,
    gpus: u64,
}

impl Size {
    pub(super) fn of(node: &NodeFacts) -> Self {
        Self { workers: 1, cpu_milli: node.cpu_milli.unwrap_or(0), gpus: node.gpus }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            workers: self.workers.saturating_add(other.workers),
            cpu_milli: self.cpu_milli.saturating_add(other.cpu_milli),
            gpus: self.gpus.saturating_add(other.gpus),
        }
    }
}

impl WorkerQuotas {
    /// The first quota that `own` exceeds on top of `older`.
    pub(super) fn excess(&self, older: Size, own: Size) -> Option<Excess> {
        let all = [
            (WorkerQuota::Workers, self.workers, older.workers, own.workers),
            (WorkerQuota::Cpu, self.cpu_milli, older.cpu_milli, own.cpu_milli),
            (WorkerQuota::Gpus, self.gpus, older.gpus, own.gpus),
        ];
        let broken =
            |(_, limit, used, asked): &(_, Limit, u64, u64)| !limit.allows(used.saturating_add(*asked));
        let (quota, limit, used, asked) = all.into_iter().find(broken)?;
        Some(Excess { quota, used, asked, limit })
    }
}
