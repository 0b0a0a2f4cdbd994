//! Plans: the table that turns a plan's name into quotas and a weight.
//!
//! Each quota is an integer in the unit that its field names: 0 means none, -1 means unlimited. A tenant may override
//! any quota of its plan, never the weight: how much a plan counts in the fair share is the administrator's to say.

use std::collections::BTreeMap;

use kube::KubeSchema;
use serde::{Deserialize, Serialize, de::IgnoredAny};

use crate::yaml;

/// The built-in table, in the form in which an administrator replaces it.
const BUILT_IN: &str = include_str!("plans.yaml");

/// Quotas of a tenant, each optional. Absent means the plan's value, 0 means none, -1 means unlimited.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quotas {
    /// Jobs assigned or running at once. Absent: the plan's value; 0: none; -1: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 1_000_000))]
    pub max_jobs: Option<i64>,
    /// Jobs waiting in the queue; a job beyond them waits outside of it with the reason QueueFull. Absent: the plan's
    /// value; 0: none; -1: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 1_000_000))]
    pub max_queued_jobs: Option<i64>,
    /// Jobs started in a window of 60 minutes. Absent: the plan's value; 0: none; -1: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 1_000_000_000))]
    pub max_jobs_per_hour: Option<i64>,
    /// Worker nodes admitted. Absent: the plan's value; 0: none; -1: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 100_000))]
    pub max_workers: Option<i64>,
    /// CPU cores, of admitted nodes and of jobs at once. Absent: the plan's value; 0: none; -1: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 10_000_000))]
    pub max_cpu_cores: Option<i64>,
    /// Memory of jobs at once, in GB (10^9 bytes). Absent: the plan's value; 0: none; -1: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 100_000_000))]
    pub max_memory_gb: Option<i64>,
    /// GPUs, of admitted nodes and of jobs at once. Absent: the plan's value; 0: none; -1: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 1_000_000))]
    pub max_gpus: Option<i64>,
    /// Storage requested by the namespace's volume claims, in GB (10^9 bytes). Absent: the plan's value; 0: none; -1: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 1_000_000_000))]
    pub max_storage_gb: Option<i64>,
    /// Network bandwidth of jobs at once, in Mbit/s. Absent: the plan's value; 0: none; -1: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 1_000_000_000))]
    pub max_bandwidth_mbps: Option<i64>,
    /// The longest a job may run, in minutes. Absent: the plan's value; 0: no job may run; -1: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 10_000_000))]
    pub job_timeout_minutes: Option<i64>,
    /// API keys of the tenant. Absent: the plan's value; 0: none; -1: unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1, max = 100_000))]
    pub max_api_keys: Option<i64>,
}

/// One quota, read from the -1 convention.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// At most this many.
    AtMost(u64),
    /// No limit (-1).
    Unlimited,
}

impl Limit {
    /// Reads the -1 convention; every negative number counts as unlimited (the schema refuses those below -1).
    #[must_use]
    pub fn from_quota(value: i64) -> Self {
        u64::try_from(value).map_or(Self::Unlimited, Self::AtMost)
    }

    /// This limit with its number multiplied, saturating; unlimited stays unlimited.
    #[must_use]
    pub fn times(self, factor: u64) -> Self {
        match self {
            Self::AtMost(n) => Self::AtMost(n.saturating_mul(factor)),
            Self::Unlimited => Self::Unlimited,
        }
    }

    /// This limit in a larger unit of `size`, rounded down; unlimited stays unlimited.
    #[must_use]
    pub fn divided_by(self, size: u64) -> Self {
        match self {
            Self::AtMost(n) => Self::AtMost(n / size.max(1)),
            Self::Unlimited => Self::Unlimited,
        }
    }

    /// Whether `total` keeps within the limit.
    #[must_use]
    pub fn allows(self, total: u64) -> bool {
        match self {
            Self::AtMost(n) => total <= n,
            Self::Unlimited => true,
        }
    }

    /// The number, or `None` when unlimited.
    #[must_use]
    pub fn at_most(self) -> Option<u64> {
        match self {
            Self::AtMost(n) => Some(n),
            Self::Unlimited => None,
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtMost(n) => write!(f, "{n}"),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}

macro_rules! effective_quotas {
    ($($(#[$meta:meta])* $field:ident),* $(,)?) => {
        /// All quotas of a tenant with the plan's values filled in; 0 means none, -1 means unlimited.
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
        #[serde(rename_all = "camelCase")]
        pub struct EffectiveQuotas {
            $($(#[$meta])* pub $field: i64,)*
        }

        impl Plan {
            /// The quotas of a tenant on this plan: its own where it has them, the plan's elsewhere.
            #[must_use]
            pub fn effective(&self, own: &Quotas) -> EffectiveQuotas {
                EffectiveQuotas { $($field: own.$field.unwrap_or(self.quotas.$field),)* }
            }
        }

        impl EffectiveQuotas {
            /// None of them limits anything.
            #[must_use]
            pub fn unlimited() -> Self {
                Self { $($field: -1,)* }
            }
        }
    };
}

effective_quotas! {
    /// Jobs assigned or running at once; 0: none; -1: unlimited.
    max_jobs,
    /// Jobs waiting in the queue; 0: none; -1: unlimited.
    max_queued_jobs,
    /// Jobs started in a window of 60 minutes. 0: none; -1: unlimited.
    max_jobs_per_hour,
    /// Worker nodes admitted; 0: none; -1: unlimited.
    max_workers,
    /// CPU cores, of admitted nodes and of jobs at once; 0: none; -1: unlimited.
    max_cpu_cores,
    /// Memory of jobs at once, in GB (10^9 bytes); 0: none; -1: unlimited.
    max_memory_gb,
    /// GPUs, of admitted nodes and of jobs at once; 0: none; -1: unlimited.
    max_gpus,
    /// Storage requested by volume claims, in GB (10^9 bytes); 0: none; -1: unlimited.
    max_storage_gb,
    /// Network bandwidth of jobs at once, in Mbit/s; 0: none; -1: unlimited.
    max_bandwidth_mbps,
    /// The longest a job may run, in minutes; 0: no job may run; -1: unlimited.
    job_timeout_minutes,
    /// API keys of the tenant; 0: none; -1: unlimited.
    #[serde(default = "default_api_keys")]
    max_api_keys,
}

/// What a plan table, or a status, allows that does not say it.
fn default_api_keys() -> i64 {
    100
}

/// A plan: every quota, and the weight in the fair share.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Weight in the fair share, from 1.
    #[cfg_attr(test, schemars(range(min = 1)))]
    pub weight: u32,
    /// Every quota of the plan.
    #[serde(flatten)]
    pub quotas: EffectiveQuotas,
}

/// The plan table, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Plans {
    /// The plans, by name.
    plans: BTreeMap<String, Plan>,
}

/// Why a plan table is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PlansError {
    /// Not the YAML that a plan table is.
    #[error("failed to read the plan table: {0}")]
    Read(#[from] yaml::ReadError),
    /// No plan in it.
    #[error("the plan table names no plan: give at least one under `plans:`")]
    Empty,
    /// A plan with a field that there is none of.
    #[error("plan `{plan}`: unknown field `{field}`: a plan has {}", known.join(", "))]
    Unknown {
        /// Name of the plan.
        plan: String,
        /// Name of the field.
        field: String,
        /// The fields of a plan.
        known: Vec<String>,
    },
    /// A plan with a number that means nothing.
    #[error("plan `{plan}`: {field} is {value}: {rule}")]
    Value {
        /// Name of the plan.
        plan: String,
        /// Name of the field.
        field: &'static str,
        /// The number as written.
        value: i64,
        /// What would be accepted.
        rule: &'static str,
    },
}

impl Plans {
    /// Reads a plan table from YAML (`plans: {name: {weight, maxJobs, …}}`), every field given.
    ///
    /// # Errors
    /// [`PlansError`] names the plan and field that is wrong.
    pub fn from_yaml(text: &str) -> Result<Self, PlansError> {
        let table: Self = yaml::read(text)?;
        if table.plans.is_empty() {
            return Err(PlansError::Empty);
        }
        check_fields(text, &table)?;
        for (name, plan) in &table.plans {
            plan.check(name)?;
        }
        Ok(table)
    }

    /// The table that Crofter ships.
    ///
    /// # Errors
    /// Never in a build whose tests passed; the table is read by the same code as an administrator's.
    pub fn built_in() -> Result<Self, PlansError> {
        Self::from_yaml(BUILT_IN)
    }

    /// The plan of that name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Plan> {
        self.plans.get(name)
    }

    /// The plans by their names, in order.
    pub fn all(&self) -> impl Iterator<Item = (&str, &Plan)> {
        self.plans.iter().map(|(name, plan)| (name.as_str(), plan))
    }

    /// The plans' names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.plans.keys().map(String::as_str)
    }
}

/// The numbers that a quota may be.
pub const QUOTA_RULE: &str = "give 0 for none, -1 for unlimited, or a positive number";

/// Checks that the plans of a table have no other fields than those that were read: serde can't, as a plan's quotas are
/// flattened into it.
fn check_fields(text: &str, table: &Plans) -> Result<(), PlansError> {
    #[derive(Deserialize)]
    struct Written {
        plans: BTreeMap<String, BTreeMap<String, IgnoredAny>>,
    }
    let written: Written = yaml::read(text)?;
    for (plan, fields) in written.plans {
        let known = serde_json::to_value(table.plans.get(&plan)).unwrap_or_default();
        let is_known = |field: &String| known.get(field).is_some();
        if let Some(field) = fields.into_keys().find(|field| !is_known(field)) {
            let known = known.as_object().into_iter().flat_map(|fields| fields.keys().cloned()).collect();
            return Err(PlansError::Unknown { plan, field, known });
        }
    }
    Ok(())
}

impl Plan {
    fn check(&self, plan: &str) -> Result<(), PlansError> {
        let error = |field, value, rule| Err(PlansError::Value { plan: plan.to_owned(), field, value, rule });
        if let Some((field, value)) = self.quotas.meaningless() {
            return error(field, value, QUOTA_RULE);
        }
        if self.weight == 0 {
            return error("weight", 0, "give 1 or more");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_table_is_the_documented_one() {
        let plans = Plans::built_in().unwrap();
        assert_eq!(plans.names().collect::<Vec<_>>(), ["basic", "enterprise", "free", "pro"]);
        let row = |name: &str| {
            let p = plans.get(name).unwrap();
            let q = &p.quotas;
            (q.max_jobs, q.max_jobs_per_hour, q.max_workers, q.max_cpu_cores, q.max_gpus, p.weight)
        };
        assert_eq!(row("free"), (5, 10, 1, 4, 0, 1));
        assert_eq!(row("basic"), (20, 100, 5, 16, 1, 2));
        assert_eq!(row("pro"), (100, 1000, 20, 64, 4, 4));
        assert_eq!(row("enterprise"), (1000, 10_000, 100, 256, 16, 8));
    }

    #[test]
    fn own_quotas_win_and_minus_one_is_unlimited() {
        let plans = Plans::built_in().unwrap();
        let own = Quotas { max_gpus: Some(-1), max_jobs: Some(0), ..Quotas::default() };
        let effective = plans.get("free").unwrap().effective(&own);
        assert_eq!(Limit::from_quota(effective.max_gpus), Limit::Unlimited);
        assert!(!Limit::from_quota(effective.max_jobs).allows(1));
        assert_eq!(effective.max_cpu_cores, 4);
    }

    #[test]
    fn a_bad_table_says_which_plan_and_field() {
        let good = BUILT_IN.replacen("maxGpus: 0", "maxGpus: -2", 1);
        let error = Plans::from_yaml(&good).unwrap_err().to_string();
        assert!(error.contains("plan `free`: maxGpus is -2"), "{error}");
        assert!(matches!(Plans::from_yaml("plans: {}"), Err(PlansError::Empty)));
        let missing = BUILT_IN.replacen("    maxGpus: 0\n", "", 1);
        assert!(Plans::from_yaml(&missing).unwrap_err().to_string().contains("maxGpus"));
        let extra = BUILT_IN.replacen("maxGpus: 0", "maxGpus: 0\n    maxGpu: 1", 1);
        let error = Plans::from_yaml(&extra).unwrap_err().to_string();
        assert!(
            error.contains("plan `free`: unknown field `maxGpu`: a plan has ") && error.contains("maxGpus"),
            "{error}"
        );
    }

    proptest::proptest! {
        #[test]
        fn fuzz_any_file_is_a_plan_table_or_says_what_is_wrong(
            text in crate::fuzz::text(),
            plan in crate::fuzz::like(serde_json::json!({
                "weight": 1, "maxWorkers": 1, "maxJobs": 5, "maxQueuedJobs": 50, "maxJobsPerHour": 100, "maxCpuCores": 4,
                "maxMemoryGb": 8, "maxGpus": 0, "maxStorageGb": 10, "maxBandwidthMbps": 100,
                "jobTimeoutMinutes": 60,
            })),
        ) {
            let of_plan = serde_json::json!({"plans": {"free": plan}}).to_string();
            for file in [text.clone(), format!("plans: {text}"), of_plan] {
                if let Err(error) = Plans::from_yaml(&file) {
                    assert!(!error.to_string().is_empty());
                }
            }
        }
    }
}
