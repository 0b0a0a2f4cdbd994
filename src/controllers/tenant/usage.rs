//! Usage against quota: what is worth a write, and the texts for columns. Pure.

use std::time::Duration;

use jiff::Timestamp;

use crate::{
    api_types::{
        plan::{EffectiveQuotas, Limit},
        tenant::{TenantSummary, TenantUsage},
    },
    domain::resources::{cores, gigabytes},
};

/// Usage that changes is written at most this often.
const INTERVAL: Duration = Duration::from_secs(15);

/// What to do about usage that may have changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing changed.
    No,
    /// Write it.
    Now,
    /// Leave what is written for this long.
    In(Duration),
}

/// Whether `new` is to be written over `old`: at once when it reaches a limit, at most every 15 s otherwise.
pub(super) fn due(
    old: Option<&TenantUsage>,
    new: &TenantUsage,
    quotas: Option<&EffectiveQuotas>,
    written: Option<Timestamp>,
    now: Timestamp,
) -> Due {
    if old == Some(new) {
        return Due::No;
    }
    let reached = |usage| quotas.map(|quotas| limits_reached(usage, quotas)).unwrap_or_default();
    let before = old.map(reached).unwrap_or_default();
    if reached(new).iter().zip(before).any(|(now, before)| *now && !before) {
        return Due::Now;
    }
    let since = written.map(|at| Duration::try_from(now.duration_since(at)).unwrap_or_default());
    match since {
        Some(since) if since < INTERVAL => Due::In(INTERVAL - since),
        _ => Due::Now,
    }
}

/// For each quota that counts something: whether it is used up.
fn limits_reached(usage: &TenantUsage, quotas: &EffectiveQuotas) -> [bool; 8] {
    const GIGA: u64 = 1_000_000_000;
    let reached = |used: i64, quota: i64, unit: u64| match Limit::from_quota(quota).times(unit) {
        Limit::AtMost(most) => u64::try_from(used).is_ok_and(|used| used >= most),
        Limit::Unlimited => false,
    };
    [
        reached(usage.active_jobs, quotas.max_jobs, 1),
        reached(usage.queued_jobs, quotas.max_queued_jobs, 1),
        reached(usage.workers, quotas.max_workers, 1),
        reached(usage.cpu_millicores, quotas.max_cpu_cores, 1000),
        reached(usage.memory_bytes, quotas.max_memory_gb, GIGA),
        reached(usage.gpus, quotas.max_gpus, 1),
        reached(usage.storage_bytes, quotas.max_storage_gb, GIGA),
        reached(usage.bandwidth_mbps, quotas.max_bandwidth_mbps, 1),
    ]
}

/// The texts for columns, such as `3/20`, `1.5/16` and `2/unlimited`.
pub(super) fn summary(usage: &TenantUsage, quotas: &EffectiveQuotas) -> TenantSummary {
    let of = |used: String, quota: i64| format!("{used}/{}", Limit::from_quota(quota));
    /// Bytes in a thousandth of a GB.
    const MEGA: i64 = 1_000_000;
    TenantSummary {
        jobs: of(usage.active_jobs.to_string(), quotas.max_jobs),
        cpu: of(cores(unsigned(usage.cpu_millicores)), quotas.max_cpu_cores),
        memory: of(gigabytes(unsigned(usage.memory_bytes.saturating_add(MEGA / 2))), quotas.max_memory_gb),
        gpus: of(usage.gpus.to_string(), quotas.max_gpus),
        workers: of(usage.workers.to_string(), quotas.max_workers),
    }
}

/// What is negative in a status that somebody else wrote shows as 0.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn usage_is_written_when_it_changed_and_not_too_often() {
        let quotas = EffectiveQuotas { max_jobs: 3, max_cpu_cores: -1, ..EffectiveQuotas::default() };
        let usage = |active_jobs| TenantUsage { active_jobs, cpu_millicores: 500, ..TenantUsage::default() };
        let due = |old, new, written: Option<i64>, now| {
            due(Some(&usage(old)), &usage(new), Some(&quotas), written.map(at), at(now))
        };
        assert_eq!(due(1, 1, None, 100), Due::No);
        assert_eq!(due(1, 2, None, 100), Due::Now, "never written by this process");
        assert_eq!(due(1, 2, Some(90), 100), Due::In(Duration::from_secs(5)));
        assert_eq!(due(1, 2, Some(85), 100), Due::Now);
        assert_eq!(due(2, 3, Some(99), 100), Due::Now, "a limit is reached");
        assert_eq!(due(3, 2, Some(99), 100), Due::In(Duration::from_secs(14)), "and left again");
        assert_eq!(due(2, 1, Some(200), 100), Due::In(INTERVAL), "a clock set back");
    }

    #[test]
    fn columns_read_well() {
        let quotas = EffectiveQuotas {
            max_jobs: 20,
            max_cpu_cores: 16,
            max_memory_gb: 64,
            max_gpus: 0,
            max_workers: -1,
            ..EffectiveQuotas::default()
        };
        let usage = TenantUsage {
            active_jobs: 3,
            cpu_millicores: 1500,
            memory_bytes: 536_870_912,
            workers: 2,
            ..TenantUsage::default()
        };
        let summary = summary(&usage, &quotas);
        let TenantSummary { jobs, cpu, memory, gpus, workers } = &summary;
        assert_eq!([jobs, cpu, memory, gpus, workers], ["3/20", "1.5/16", "0.537/64", "0/0", "2/unlimited"]);
    }
}
