//! The dimensions in which a tenant is limited: one table, which everything that handles all quotas iterates.

use strum::{EnumIter, IntoEnumIterator};

use super::{
    plan::{EffectiveQuotas, Limit},
    tenant::TenantUsage,
};

/// A dimension in which a tenant is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, EnumIter)]
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
}

impl QuotaDimension {
    /// All of them, in the order of the documents.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::iter()
    }

    /// The name of its field in a plan, in Tenant's `spec.quotas` and in `status.effectiveQuotas`.
    #[must_use]
    pub fn field(self) -> &'static str {
        match self {
            Self::Jobs => "maxJobs",
            Self::QueuedJobs => "maxQueuedJobs",
            Self::JobsPerHour => "maxJobsPerHour",
            Self::Workers => "maxWorkers",
            Self::Cpu => "maxCpuCores",
            Self::Memory => "maxMemoryGb",
            Self::Gpus => "maxGpus",
            Self::Storage => "maxStorageGb",
            Self::Bandwidth => "maxBandwidthMbps",
            Self::JobTimeout => "jobTimeoutMinutes",
        }
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
        }
    }

    /// What it counts, in words.
    #[must_use]
    pub fn noun(self) -> &'static str {
        match self {
            Self::Jobs => "jobs admitted or running at once",
            Self::QueuedJobs => "jobs waiting in the queue",
            Self::JobsPerHour => "jobs started in an hourly window",
            Self::Workers => "nodes admitted",
            Self::Cpu => "CPU cores of jobs at once, and of admitted nodes",
            Self::Memory => "memory of jobs at once, in GB (10^9 bytes)",
            Self::Gpus => "GPUs of jobs at once, and of admitted nodes",
            Self::Storage => "storage of volume claims, in GB (10^9 bytes)",
            Self::Bandwidth => "network bandwidth of jobs at once, in Mbit/s",
            Self::JobTimeout => "the longest running time of a job, in minutes",
        }
    }

    /// How many units of [`used`](Self::used) one of the quota is: cores are counted in thousandths, GB in bytes.
    #[must_use]
    pub fn unit(self) -> u64 {
        match self {
            Self::Cpu => 1000,
            Self::Memory | Self::Storage => 1_000_000_000,
            Self::Jobs
            | Self::QueuedJobs
            | Self::JobsPerHour
            | Self::Workers
            | Self::Gpus
            | Self::Bandwidth
            | Self::JobTimeout => 1,
        }
    }

    /// The limit, in units of [`used`](Self::used).
    #[must_use]
    pub fn limit(self, of: &EffectiveQuotas) -> Limit {
        Limit::from_quota(self.quota(of)).times(self.unit())
    }

    /// What a tenant uses of it: cores in thousandths, memory and storage in bytes, bandwidth in Mbit/s; `None` for the
    /// time of a job, which is limited for each job and not in sum.
    #[must_use]
    pub fn used(self, of: &TenantUsage) -> Option<i64> {
        Some(match self {
            Self::Jobs => of.active_jobs,
            Self::QueuedJobs => of.queued_jobs,
            Self::JobsPerHour => of.jobs_this_hour,
            Self::Workers => of.workers,
            Self::Cpu => of.cpu_millicores,
            Self::Memory => of.memory_bytes,
            Self::Gpus => of.gpus,
            Self::Storage => of.storage_bytes,
            Self::Bandwidth => of.bandwidth_mbps,
            Self::JobTimeout => return None,
        })
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use super::*;
    use crate::api_types::{Plans, plan::Quotas};

    fn fields(of: &Value) -> BTreeSet<String> {
        of.as_object().unwrap().keys().cloned().collect()
    }

    fn of_table() -> BTreeSet<String> {
        QuotaDimension::all().map(|dimension| dimension.field().to_owned()).collect()
    }

    #[test]
    fn the_table_has_every_quota_of_a_plan_and_of_a_tenant() {
        let mut plan = json!(EffectiveQuotas::default());
        assert_eq!(fields(&plan), of_table());
        for (n, dimension) in QuotaDimension::all().enumerate() {
            let number = 10 + i64::try_from(n).unwrap();
            plan[dimension.field()] = json!(number);
            let own: Quotas = serde_json::from_value(json!({dimension.field(): number})).unwrap();
            let quotas = Plans::built_in().unwrap().get("free").unwrap().effective(&own);
            assert_eq!(dimension.quota(&quotas), number, "{dimension:?}");
        }
        let quotas: EffectiveQuotas = serde_json::from_value(plan).unwrap();
        let numbers: Vec<i64> = QuotaDimension::all().map(|dimension| dimension.quota(&quotas)).collect();
        assert!(numbers.iter().copied().eq((10..).take(numbers.len())), "{numbers:?}");
    }

    #[test]
    fn chart_plans_rest_and_documents_have_every_quota() {
        let values: Value =
            serde_json::from_str(include_str!("../../charts/crofter/values.schema.json")).unwrap();
        let openapi: Value = serde_json::from_str(include_str!("../../docs/openapi.json")).unwrap();
        let quotas = &openapi["components"]["schemas"]["Quotas"]["properties"];
        for field in of_table() {
            assert!(values.to_string().contains(&format!("\"{field}\"")), "values.schema.json lacks {field}");
            assert!(
                include_str!("plans.yaml").contains(&format!("    {field}: ")),
                "plans.yaml lacks {field}"
            );
            let snake = field.chars().flat_map(|c| {
                let upper = c.is_ascii_uppercase();
                upper.then_some('_').into_iter().chain([c.to_ascii_lowercase()])
            });
            let snake: String = snake.collect();
            assert!(quotas[&snake].is_object(), "the REST API lacks {snake}");
        }
        assert_eq!(fields(quotas).len(), of_table().len());
    }

    #[test]
    fn the_page_of_tenants_has_a_row_for_each_quota_with_the_numbers_of_the_built_in_plans() {
        let (page, plans) = (include_str!("../../docs/tenants.md"), Plans::built_in().unwrap());
        for dimension in QuotaDimension::all() {
            let numbers = ["free", "basic", "pro", "enterprise"]
                .map(|plan| dimension.quota(&plans.get(plan).unwrap().quotas).to_string())
                .join(" | ");
            let row = format!("| `{}` | {} | {numbers} |\n", dimension.field(), dimension.noun());
            assert!(page.contains(&row), "docs/tenants.md lacks the row {row}");
        }
    }

    #[test]
    fn a_dimension_is_used_up_at_its_limit_in_its_own_unit() {
        let quotas: EffectiveQuotas =
            QuotaDimension::all().fold(EffectiveQuotas::unlimited(), |quotas, dimension| {
                let mut fields = json!(quotas);
                fields[dimension.field()] = json!(2);
                serde_json::from_value(fields).unwrap()
            });
        let usage = |cpu_millicores, memory_bytes, storage_bytes, gpus| TenantUsage {
            cpu_millicores,
            memory_bytes,
            storage_bytes,
            gpus,
            ..TenantUsage::default()
        };
        let used_up = |usage: &TenantUsage, quotas: &EffectiveQuotas| -> Vec<&str> {
            QuotaDimension::all()
                .filter(|dimension| dimension.is_used_up(usage, quotas))
                .map(QuotaDimension::field)
                .collect()
        };
        assert_eq!(
            used_up(&usage(1999, 1_999_999_999, 2_000_000_000, 2), &quotas),
            ["maxGpus", "maxStorageGb"]
        );
        assert_eq!(used_up(&usage(2000, 2_000_000_000, 0, 0), &quotas), ["maxCpuCores", "maxMemoryGb"]);
        assert_eq!(used_up(&usage(9000, i64::MAX, i64::MAX, 9), &EffectiveQuotas::unlimited()), [""; 0]);
    }
}
