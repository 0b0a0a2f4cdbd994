//! The dimensions in which a tenant is limited: one table, which everything that handles all quotas iterates.

#[cfg(test)]
mod tests;

use strum::{EnumIter, IntoEnumIterator};

use super::{
    plan::{EffectiveQuotas, Limit},
    tenant::TenantUsage,
};

/// A dimension in which a tenant is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, EnumIter)]
pub enum QuotaDimension {
    /// Jobs admitted or running at once.
    Jobs,
    /// Jobs that wait in the queue.
    QueuedJobs,
    /// Jobs started in an hourly window.
    JobsPerHour,
    /// Nodes admitted.
    Workers,
    /// CPU of jobs, and of admitted nodes.
    Cpu,
    /// Memory of jobs.
    Memory,
    /// GPUs of jobs, and of admitted nodes.
    Gpus,
    /// Storage of the namespace's volume claims.
    Storage,
    /// Network bandwidth of jobs.
    Bandwidth,
    /// The longest running time of a job.
    JobTimeout,
    /// API keys.
    ApiKeys,
}

/// The facts about a dimension. A new dimension does not compile before all are given.
struct Row {
    /// The field in a plan, in Tenant's `spec.quotas` and in `status.effectiveQuotas`.
    field: &'static str,
    /// What the quota counts, as in the table of docs/tenants.md.
    noun: &'static str,
    /// Units of [`QuotaDimension::used`] in one of the quota: cores are counted in thousandths, GB in bytes.
    unit: u64,
    /// What follows an amount in messages, such as `4 CPU cores`.
    amounts: &'static str,
    /// The name in a ResourceQuota, where Kubernetes enforces the quota too; [`GPU`] is replaced by the GPUs' resource.
    resource_quota: Option<&'static str>,
    /// The name of the check in `/why`, and the unit of its numbers with how many of [`QuotaDimension::used`] it is.
    check: Option<Check>,
    /// What the REST API says about the quota.
    quota: &'static str,
    /// The field of the REST API's usage, and what it says.
    usage: Option<RestField>,
    /// The field of what the quota still allows, and what the REST API says about it.
    available: Option<RestField>,
}

/// A check of `/why`.
#[derive(Clone, Copy, Debug)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// The unit of its numbers.
    pub unit: &'static str,
    /// Units of [`QuotaDimension::used`] in one of that unit.
    pub size: u64,
}

/// A field of the REST API.
#[derive(Clone, Copy, Debug)]
pub struct RestField {
    /// Its name.
    pub name: &'static str,
    /// Its description in the OpenAPI document.
    pub description: &'static str,
}

const fn check(name: &'static str, unit: &'static str, size: u64) -> Option<Check> {
    Some(Check { name, unit, size })
}

const fn rest(name: &'static str, description: &'static str) -> Option<RestField> {
    Some(RestField { name, description })
}

/// The placeholder of the name of the extended resource that counts GPUs.
pub const GPU: &str = "{gpu}";
/// Bytes in a MB.
const MEGA: u64 = 1_000_000;
/// Bytes in a GB.
const GIGA: u64 = 1_000_000_000;

impl QuotaDimension {
    fn row(self) -> Row {
        match self {
            Self::Jobs => Row {
                field: "maxJobs",
                noun: "jobs admitted or running at once",
                unit: 1,
                amounts: "jobs at once",
                resource_quota: Some("pods"),
                check: check("job_quota", "jobs at once", 1),
                quota: "This is how many jobs may run at once.",
                usage: rest("active_jobs", "This is how many jobs are admitted or run."),
                available: rest("available_jobs", "This is how many more jobs may run."),
            },
            Self::QueuedJobs => Row {
                field: "maxQueuedJobs",
                noun: "jobs waiting in the queue",
                unit: 1,
                amounts: "queued jobs",
                resource_quota: None,
                check: None,
                quota: "This is how many jobs may wait.",
                usage: rest("queued_jobs", "This is how many jobs wait."),
                available: None,
            },
            Self::JobsPerHour => Row {
                field: "maxJobsPerHour",
                noun: "jobs and retries started in an hourly window",
                unit: 1,
                amounts: "jobs per hour",
                resource_quota: None,
                check: check("rate_window", "jobs an hour", 1),
                quota: "This is how many jobs may start in an hour.",
                usage: rest("jobs_this_hour", "This is how many jobs have started in the current hour."),
                available: rest(
                    "available_jobs_this_hour",
                    "This is how many more jobs may start in the current hour.",
                ),
            },
            Self::Workers => Row {
                field: "maxWorkers",
                noun: "nodes admitted",
                unit: 1,
                amounts: "workers",
                resource_quota: None,
                check: None,
                quota: "This is how many nodes may be assigned to the tenant.",
                usage: rest("active_workers", "This is how many nodes are admitted to the tenant."),
                available: rest(
                    "available_workers",
                    "This is how many more nodes may be assigned to the tenant.",
                ),
            },
            Self::Cpu => Row {
                field: "maxCpuCores",
                noun: "CPU cores of jobs at once, and of admitted nodes",
                unit: 1000,
                amounts: "CPU cores",
                resource_quota: Some("requests.cpu"),
                check: check("cpu", "millicores", 1),
                quota: "This is how many CPU cores the jobs may use at once.",
                usage: rest("cpu_millicores", "This is the CPU that is in use, in thousandths of a core."),
                available: rest(
                    "available_cpu_millicores",
                    "This is how much more CPU the jobs may use, in thousandths of a core.",
                ),
            },
            Self::Memory => Row {
                field: "maxMemoryGb",
                noun: "memory of jobs at once, in GB (10^9 bytes)",
                unit: GIGA,
                amounts: "GB of memory",
                resource_quota: Some("requests.memory"),
                check: check("memory", "MB", MEGA),
                quota: "This is how much memory the jobs may use at once, in GB.",
                usage: rest("memory_bytes", "This is the memory that is in use, in bytes."),
                available: rest(
                    "available_memory_bytes",
                    "This is how much more memory the jobs may use, in bytes.",
                ),
            },
            Self::Gpus => Row {
                field: "maxGpus",
                noun: "GPUs of jobs at once, and of admitted nodes",
                unit: 1,
                amounts: "GPUs",
                resource_quota: Some("requests.{gpu}"),
                check: check("gpus", "GPUs", 1),
                quota: "This is how many GPUs the jobs may use at once.",
                usage: rest("gpus", "This is how many GPUs are in use."),
                available: rest("available_gpus", "This is how many more GPUs the jobs may use."),
            },
            Self::Storage => Row {
                field: "maxStorageGb",
                noun: "storage of volume claims, in GB (10^9 bytes)",
                unit: GIGA,
                amounts: "GB of storage",
                resource_quota: Some("requests.storage"),
                check: None,
                quota: "This is how much persistent storage the tenant may claim, in GB.",
                usage: rest("storage_bytes", "This is the persistent storage that is claimed, in bytes."),
                available: rest(
                    "available_storage_bytes",
                    "This is how much more persistent storage the tenant may claim, in bytes.",
                ),
            },
            Self::Bandwidth => Row {
                field: "maxBandwidthMbps",
                noun: "network bandwidth of jobs at once, in Mbit/s",
                unit: 1,
                amounts: "Mbit/s",
                resource_quota: None,
                check: check("bandwidth", "Mbit/s", 1),
                quota: "This is how much network bandwidth the jobs may use at once, in Mbit/s.",
                usage: rest("bandwidth_mbps", "This is the network bandwidth that is in use, in Mbit/s."),
                available: rest(
                    "available_bandwidth_mbps",
                    "This is how much more network bandwidth the jobs may use, in Mbit/s.",
                ),
            },
            Self::JobTimeout => Row {
                field: "jobTimeoutMinutes",
                noun: "the longest running time of a job, in minutes",
                unit: 1,
                amounts: "minutes of running time",
                resource_quota: None,
                check: None,
                quota: "This is how many minutes a job may run.",
                usage: None,
                available: None,
            },
            Self::ApiKeys => Row {
                field: "maxApiKeys",
                noun: "API keys of the tenant",
                unit: 1,
                amounts: "API keys",
                // Among the objects that the operator has all in memory.
                resource_quota: None,
                check: None,
                quota: "This is how many API keys the tenant may have.",
                usage: None,
                available: None,
            },
        }
    }

    /// All of them, in the order of the documents.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::iter()
    }

    /// The name of its field in a plan, in Tenant's `spec.quotas` and in `status.effectiveQuotas`.
    #[must_use]
    pub fn field(self) -> &'static str {
        self.row().field
    }

    /// The number in its field: 0 means none, -1 means unlimited.
    #[must_use]
    pub fn quota(self, of: &EffectiveQuotas) -> i64 {
        // Without `..`: a quota of plans that this table lacks does not compile.
        let EffectiveQuotas {
            max_jobs,
            max_queued_jobs,
            max_jobs_per_hour,
            max_workers,
            max_cpu_cores,
            max_memory_gb,
            max_gpus,
            max_storage_gb,
            max_bandwidth_mbps,
            job_timeout_minutes,
            max_api_keys,
        } = *of;
        match self {
            Self::Jobs => max_jobs,
            Self::QueuedJobs => max_queued_jobs,
            Self::JobsPerHour => max_jobs_per_hour,
            Self::Workers => max_workers,
            Self::Cpu => max_cpu_cores,
            Self::Memory => max_memory_gb,
            Self::Gpus => max_gpus,
            Self::Storage => max_storage_gb,
            Self::Bandwidth => max_bandwidth_mbps,
            Self::JobTimeout => job_timeout_minutes,
            Self::ApiKeys => max_api_keys,
        }
    }

    /// What it counts, in words.
    #[must_use]
    pub fn noun(self) -> &'static str {
        self.row().noun
    }

    /// What follows an amount of it in messages.
    #[must_use]
    pub fn amounts(self) -> &'static str {
        self.row().amounts
    }

    /// How many units of [`used`](Self::used) one of the quota is: cores are counted in thousandths, GB in bytes.
    #[must_use]
    pub fn unit(self) -> u64 {
        self.row().unit
    }

    /// Its entry among the hard limits of a ResourceQuota: the name and, where it is limited, the quantity. `None` where
    /// Kubernetes does not count it.
    #[must_use]
    pub fn resource_quota(
        self,
        of: &EffectiveQuotas,
        gpu_resource: &str,
    ) -> Option<(String, Option<String>)> {
        let name = self.row().resource_quota?.replace(GPU, gpu_resource);
        let suffix = if self.unit() == GIGA { "G" } else { "" };
        Some((name, Limit::from_quota(self.quota(of)).at_most().map(|n| format!("{n}{suffix}"))))
    }

    /// Its check in `/why`; `None` where that has none.
    #[must_use]
    pub fn check(self) -> Option<Check> {
        self.row().check
    }

    /// The name of its field in the REST API's quotas: the field of a plan in snake case.
    #[must_use]
    pub fn rest_name(self) -> String {
        let mut name = String::with_capacity(20);
        for c in self.field().chars() {
            if c.is_ascii_uppercase() {
                name.push('_');
            }
            name.push(c.to_ascii_lowercase());
        }
        name
    }

    /// What the REST API says about the quota.
    #[must_use]
    pub fn rest_description(self) -> &'static str {
        self.row().quota
    }

    /// The field of the REST API with what a tenant uses.
    #[must_use]
    pub fn rest_usage(self) -> Option<RestField> {
        self.row().usage
    }

    /// The field of the REST API with what the quota still allows.
    #[must_use]
    pub fn rest_available(self) -> Option<RestField> {
        self.row().available
    }

    /// The limit, in units of [`used`](Self::used).
    #[must_use]
    pub fn limit(self, of: &EffectiveQuotas) -> Limit {
        Limit::from_quota(self.quota(of)).times(self.unit())
    }

    /// What a tenant uses of it: cores in thousandths, memory and storage in bytes, bandwidth in Mbit/s; `None` for the
    /// time of a job, which is limited for each job and not in sum, and for API keys, which Kubernetes counts.
    #[must_use]
    pub fn used(self, of: &TenantUsage) -> Option<i64> {
        self.used_mut(&mut of.clone()).copied()
    }

    /// Where [`used`](Self::used) is stored.
    pub fn used_mut(self, of: &mut TenantUsage) -> Option<&mut i64> {
        Some(match self {
            Self::Jobs => &mut of.active_jobs,
            Self::QueuedJobs => &mut of.queued_jobs,
            Self::JobsPerHour => &mut of.jobs_this_hour,
            Self::Workers => &mut of.workers,
            Self::Cpu => &mut of.cpu_millicores,
            Self::Memory => &mut of.memory_bytes,
            Self::Gpus => &mut of.gpus,
            Self::Storage => &mut of.storage_bytes,
            Self::Bandwidth => &mut of.bandwidth_mbps,
            Self::JobTimeout | Self::ApiKeys => return None,
        })
    }

    /// What a tenant may still use of it; `None` without a limit.
    #[must_use]
    pub fn available(self, usage: &TenantUsage, quotas: &EffectiveQuotas) -> Option<u64> {
        let used = self.used(usage).and_then(|used| u64::try_from(used).ok()).unwrap_or(0);
        Some(self.limit(quotas).at_most()?.saturating_sub(used))
    }

    /// Whether a tenant uses all that it may of it.
    #[must_use]
    pub fn is_used_up(self, usage: &TenantUsage, quotas: &EffectiveQuotas) -> bool {
        match (self.used(usage), self.limit(quotas)) {
            (Some(used), Limit::AtMost(most)) => u64::try_from(used).is_ok_and(|used| used >= most),
            (None, _) | (_, Limit::Unlimited) => false,
        }
    }
}

impl EffectiveQuotas {
    /// The first quota whose number means nothing, by the name of its field.
    #[must_use]
    pub fn meaningless(&self) -> Option<(&'static str, i64)> {
        let mut all = QuotaDimension::all().map(|dimension| (dimension.field(), dimension.quota(self)));
        all.find(|(_, value)| *value < -1)
    }
}
