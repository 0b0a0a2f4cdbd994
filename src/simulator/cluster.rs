//! The cluster of a simulation: tenants on their plans, and workers, out of one YAML file.
//!
//! The fields are those of the Tenant resource and of a node, so that what is tried here is written the same way when
//! it is rolled out. A tenant's own workers are admitted by the rules of the node controller: a plan table with a
//! smaller `maxWorkers` leaves some of them unused here, too.

use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    api_types::{
        Plans, Quantity, Reason,
        plan::{EffectiveQuotas, QUOTA_RULE, Quotas},
    },
    domain::{
        admission::{TenantInput, WorkerInput},
        node_admission::{Fleet, LivePods, NodeFacts, Step, TenantFacts, WorkerQuotas},
        resources::Resources,
    },
    names, yaml,
};

/// More nodes than this in a file are a slip of the finger.
const MAX_WORKERS: usize = 100_000;

/// A cluster as it is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ClusterFile {
    /// Who submits jobs.
    pub tenants: Vec<TenantEntry>,
    /// What they run on.
    pub workers: Vec<WorkerEntry>,
    /// Shared pools whose nodes an autoscaler supplies, as in `crofter run --elastic-pools`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elastic_pools: Vec<String>,
}

/// A tenant; the fields are those of the Tenant's `spec`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenantEntry {
    /// Name, as the trace has it.
    pub name: String,
    /// Name of its plan.
    pub plan: String,
    /// Quotas that replace the plan's.
    #[serde(default, skip_serializing_if = "is_plain")]
    pub quotas: Quotas,
    /// Shared pools that it may use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shared_pools: Vec<String>,
    /// An autoscaler supplies its own workers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub elastic: bool,
}

/// Workers that are alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WorkerEntry {
    /// How many.
    #[serde(default = "one")]
    pub count: usize,
    /// The tenant that they are for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Or the shared pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// CPU for jobs of each.
    pub cpu: Quantity,
    /// Memory for jobs of each.
    pub memory: Quantity,
    /// GPUs of each.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gpus: u64,
    /// Pods that each takes: a kubelet's `maxPods` by default.
    #[serde(default = "usual_pods", skip_serializing_if = "is_usual")]
    pub pods: u64,
}

/// A kubelet's `maxPods` where it is not configured.
pub(super) fn usual_pods() -> u64 {
    110
}

fn is_usual(pods: &u64) -> bool {
    *pods == usual_pods()
}

fn one() -> usize {
    1
}

fn is_plain(quotas: &Quotas) -> bool {
    *quotas == Quotas::default()
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why a cluster is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Not the YAML that a cluster is.
    #[error("failed to read the cluster file: {0}")]
    Read(#[from] yaml::ReadError),
    /// A value that can't be used.
    #[error("the cluster file, {place}: {field} is `{value}`: {rule}")]
    Value {
        /// Which entry.
        place: String,
        /// Name of the field.
        field: &'static str,
        /// The value as written.
        value: String,
        /// What would be accepted.
        rule: String,
    },
}

/// A cluster that can be simulated.
#[derive(Clone, Debug, Default)]
pub struct Cluster {
    /// Tenants, in the order of the file.
    pub tenants: Vec<TenantInput>,
    /// Workers that are admitted, by name.
    pub workers: Vec<(String, WorkerInput)>,
    /// Why others are not, in sentences.
    pub refused: Vec<String>,
    /// Worker groups of the shared pools that exist or are listed, in alphabetical order.
    pub pools: Vec<Arc<str>>,
    /// Those among them that an autoscaler supplies.
    pub elastic: Vec<String>,
}

impl ClusterFile {
    /// Reads a cluster from YAML.
    ///
    /// # Errors
    /// [`ClusterError::Read`] says where it is not what a cluster file is.
    pub fn from_yaml(text: &str) -> Result<Self, ClusterError> {
        Ok(yaml::read(text)?)
    }

    /// With the numbers of a plan table.
    ///
    /// # Errors
    /// [`ClusterError::Value`] names what can't be used and what could.
    pub fn resolve(&self, plans: &Plans) -> Result<Cluster, ClusterError> {
        let mut cluster = Cluster::default();
        let mut places: BTreeMap<&str, usize> = BTreeMap::new();
        for (number, entry) in self.tenants.iter().enumerate() {
            if places.insert(&entry.name, number).is_some() {
                let place = format!("tenant {}", number + 1);
                return Err(value(
                    place,
                    "name",
                    &entry.name,
                    "the name is used twice: give each a name of its own",
                ));
            }
            cluster.tenants.push(entry.view(plans)?);
        }
        let mut own: BTreeMap<&str, Vec<(String, WorkerInput)>> = BTreeMap::new();
        for (number, entry) in self.workers.iter().enumerate() {
            let place = || format!("entry {} of workers", number + 1);
            let all = cluster.workers.len() + own.values().map(Vec::len).sum::<usize>();
            if entry.count.saturating_add(all) > MAX_WORKERS {
                let rule = format!("at most {MAX_WORKERS} workers in all are simulated");
                return Err(value(place(), "count", &entry.count.to_string(), &rule));
            }
            let group = entry.group(&places, place)?;
            let capacity = entry.capacity(place)?;
            let nodes = (0..entry.count).map(|n| {
                let view = WorkerInput { group: group.clone(), capacity, open: true };
                (format!("worker-{}-{n}", number + 1), view)
            });
            match &entry.tenant {
                Some(tenant) => own.entry(tenant).or_default().extend(nodes),
                None => cluster.workers.extend(nodes),
            }
        }
        for (tenant, nodes) in own {
            cluster.admit(tenant, &self.tenants[places[tenant]].plan, nodes, places[tenant]);
        }
        let listed = self.tenants.iter().flat_map(|tenant| &tenant.shared_pools);
        let with_nodes = self.workers.iter().filter_map(|worker| worker.pool.as_ref());
        let mut pools: Vec<Arc<str>> =
            listed.chain(with_nodes).map(|pool| names::pool_group(pool).into()).collect();
        pools.sort_unstable();
        pools.dedup();
        cluster.pools = pools;
        cluster.elastic = self.elastic_pools.iter().map(|pool| names::pool_group(pool)).collect();
        Ok(cluster)
    }
}

impl TenantEntry {
    fn view(&self, plans: &Plans) -> Result<TenantInput, ClusterError> {
        let place = || format!("tenant `{}`", self.name);
        let plan = plans.get(&self.plan).ok_or_else(|| {
            let known = plans.names().collect::<Vec<_>>().join(", ");
            value(place(), "plan", &self.plan, &format!("the plan table has {known}"))
        })?;
        let quotas: EffectiveQuotas = plan.effective(&self.quotas);
        if let Some((field, number)) = quotas.meaningless() {
            return Err(value(place(), field, &number.to_string(), QUOTA_RULE));
        }
        let pools = self.shared_pools.iter().map(|pool| names::pool_group(pool));
        Ok(TenantInput {
            name: self.name.clone(),
            plan: self.plan.clone(),
            closed: None,
            quotas,
            weight: plan.weight,
            groups: std::iter::once(self.name.clone()).chain(pools).collect(),
            elastic: self.elastic,
        })
    }
}

impl WorkerEntry {
    fn group(
        &self,
        tenants: &BTreeMap<&str, usize>,
        place: impl Fn() -> String,
    ) -> Result<String, ClusterError> {
        match (&self.tenant, &self.pool) {
            (None, Some(pool)) => Ok(names::pool_group(pool)),
            (Some(tenant), None) if tenants.contains_key(tenant.as_str()) => Ok(tenant.clone()),
            (Some(tenant), None) => {
                Err(value(place(), "tenant", tenant, "there is no such tenant: add it, or correct the name"))
            }
            (tenant, _) => {
                let both = tenant.as_deref().unwrap_or_default();
                Err(value(place(), "tenant", both, "give either a tenant or a pool"))
            }
        }
    }

    fn capacity(&self, place: impl Fn() -> String) -> Result<Resources, ClusterError> {
        let bad =
            |field, quantity: &Quantity, error: String| value(place(), field, &quantity.to_string(), &error);
        Ok(Resources {
            cpu_milli: self.cpu.milli().map_err(|error| bad("cpu", &self.cpu, error.to_string()))?,
            memory_bytes: self
                .memory
                .units()
                .map_err(|error| bad("memory", &self.memory, error.to_string()))?,
            gpus: self.gpus,
            pods: self.pods,
            ..Resources::default()
        })
    }
}

impl Cluster {
    /// What the workers of a shared pool's group have in all, or those of all tenants (`None`).
    #[must_use]
    pub fn capacity(&self, pool: Option<&str>) -> Resources {
        let counts = |group: &str| match pool {
            Some(pool) => group == pool,
            None => !self.pools.iter().any(|pool| **pool == *group),
        };
        let own = self.workers.iter().filter(|(_, view)| counts(&view.group));
        own.fold(Resources::default(), |sum, (_, view)| sum + view.capacity)
    }

    /// Admits those of a tenant's nodes that its quotas have room for, in the order of the file.
    fn admit(&mut self, tenant: &str, plan: &str, nodes: Vec<(String, WorkerInput)>, number: usize) {
        let quotas = WorkerQuotas::from(&self.tenants[number].quotas);
        let facts = TenantFacts { plan: plan.to_owned(), quotas: Some(quotas), terminating: false };
        let as_facts = |(age, (name, view)): (i64, &(String, WorkerInput))| NodeFacts {
            name: name.clone(),
            since: Timestamp::from_second(age).unwrap_or_default(),
            tenant: Some(tenant.to_owned()),
            pool: None,
            cpu_milli: Some(view.capacity.cpu_milli),
            gpus: view.capacity.gpus,
            admitted: None,
            tainted: None,
            unconfirmed: None,
            deleting: false,
        };
        let fleet = Fleet {
            tenants: [(tenant.to_owned(), facts)].into(),
            nodes: (0..).zip(&nodes).map(as_facts).collect(),
        };
        for (node, facts) in nodes.into_iter().zip(&fleet.nodes) {
            match fleet.step(facts, &LivePods::new()) {
                Step::Refuse(refusal) if refusal.reason == Reason::WorkersOverQuota => {
                    self.refused.push(format!("{}: {}", node.0, refusal.message));
                }
                _ => self.workers.push(node),
            }
        }
    }
}

fn value(place: String, field: &'static str, value: &str, rule: &str) -> ClusterError {
    ClusterError::Value { place, field, value: value.to_owned(), rule: rule.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
tenants:
  - {name: acme, plan: pro, sharedPools: [shared], quotas: {maxGpus: 8}}
  - {name: tiny, plan: free}
workers:
  - {count: 2, pool: shared, cpu: 16, memory: 64Gi}
  - {count: 3, tenant: tiny, cpu: 2, memory: 8Gi}
";

    fn resolved(text: &str) -> Result<Cluster, ClusterError> {
        ClusterFile::from_yaml(text)?.resolve(&Plans::built_in().unwrap())
    }

    #[test]
    fn tenants_have_their_plans_numbers_and_their_own() {
        let cluster = resolved(GOOD).unwrap();
        let acme = &cluster.tenants[0];
        assert_eq!((acme.weight, acme.quotas.max_gpus, acme.quotas.max_jobs), (4, 8, 100));
        assert_eq!(acme.groups, ["acme", "pool.shared"]);
        assert_eq!(cluster.pools, ["pool.shared".into()]);
    }

    #[test]
    fn workers_are_admitted_as_on_a_cluster() {
        let cluster = resolved(GOOD).unwrap();
        let names: Vec<_> = cluster.workers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["worker-1-0", "worker-1-1", "worker-2-0"], "free allows one worker");
        assert_eq!(cluster.refused.len(), 2);
        assert!(cluster.refused[0].contains("maxWorkers is 1"), "{}", cluster.refused[0]);
    }

    #[test]
    fn a_bad_cluster_says_where_and_what_to_do() {
        let error = |from: &str, to: &str| {
            assert!(GOOD.contains(from));
            resolved(&GOOD.replace(from, to)).unwrap_err().to_string()
        };
        let plan = error("plan: free", "plan: fre");
        assert_eq!(
            plan,
            "the cluster file, tenant `tiny`: plan is `fre`: the plan table has basic, enterprise, free, pro"
        );
        let tenant = error("tenant: tiny", "tenant: other");
        assert!(
            tenant.contains("entry 2 of workers: tenant is `other`: there is no such tenant"),
            "{tenant}"
        );
        let cpu = error("cpu: 16", "cpu: 16cores");
        assert!(cpu.contains("entry 1 of workers: cpu is `16cores`"), "{cpu}");
        assert!(
            error("name: tiny", "name: acme").contains("tenant 2: name is `acme`: the name is used twice")
        );
        assert!(error("pool: shared, cpu", "cpu").contains("give either a tenant or a pool"));
        assert!(error("maxGpus: 8", "maxGpus: -3").contains("maxGpus is `-3`: give 0 for none"));
        assert!(error("count: 2", "count: 200000").contains("at most 100000"));
        assert!(error("plan: pro", "plann: pro").contains("unknown field `plann`"));
    }

    #[test]
    fn what_is_written_reads_the_same() {
        let file = ClusterFile::from_yaml(GOOD).unwrap();
        let again = yaml::write(&file).unwrap();
        assert_eq!(ClusterFile::from_yaml(&again).unwrap(), file);
    }
}
