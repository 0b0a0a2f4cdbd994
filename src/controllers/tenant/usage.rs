//! Usage against quota: what is worth a write, and the texts for columns. Pure.
//!
//! The hourly window is written with usage. It is urgent where finalizers of pods that a client waits for may be
//! removed then, or where the window has no room for more of them, and no reason for a write where it only forgets
//! deleted pods.

use std::{collections::HashSet, time::Duration};

use super::UsageSnapshot;
use crate::{
    api_types::{
        plan::{EffectiveQuotas, Limit},
        quota::QuotaDimension,
        tenant::{JobWindow, TenantStatus, TenantSummary, TenantUsage},
    },
    domain::rate_window::MAX_SETTLING,
};

/// Usage that changes is written at most this often.
const INTERVAL: Duration = Duration::from_secs(15);
/// The same where a client waits: one write stores many charges, and a deletion is still quick.
const RELEASE_INTERVAL: Duration = Duration::from_secs(2);
/// Charges that are enough for a write: other pods may have to wait for room in the window.
const URGENT_CHARGES: usize = MAX_SETTLING / 2;

/// What to do about usage that may have changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WriteDecision {
    /// Nothing changed.
    No,
    /// Write it.
    Now,
    /// Write it as soon as the budget of courtesy writes allows.
    Queue,
    /// Leave what is written for this long.
    In(Duration),
}

/// Whether `new` is to be written over `old`: at once when it reaches a limit, at most every 2 s where a client waits
/// for pods or many charges are stored, and otherwise as the budget of courtesy writes allows, at most every 15 s.
/// `since` is the time since it was last written by this process, by a clock that does not step.
pub(super) fn due(
    old: &TenantStatus,
    new: &UsageSnapshot,
    quotas: Option<&EffectiveQuotas>,
    since: Option<Duration>,
) -> WriteDecision {
    let urgency = window_urgency(old.job_window.as_ref(), new);
    if old.usage.as_ref() == Some(&new.usage) && urgency == Urgency::None {
        return WriteDecision::No;
    }
    let reached = |dimension: QuotaDimension| {
        let is_used_up = |usage| quotas.is_some_and(|quotas| dimension.is_used_up(usage, quotas));
        is_used_up(&new.usage) && !old.usage.as_ref().is_some_and(is_used_up)
    };
    if QuotaDimension::all().any(reached) {
        return WriteDecision::Now;
    }
    let (interval, then) = if urgency == Urgency::High {
        (RELEASE_INTERVAL, WriteDecision::Now)
    } else {
        (INTERVAL, WriteDecision::Queue)
    };
    match since {
        Some(since) if since < interval => WriteDecision::In(interval - since),
        _ => then,
    }
}

/// How urgently the hourly window is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    /// Nothing has changed but that pods are deleted.
    None,
    /// Something has changed, and no pod waits for it.
    Normal,
    /// Many finalizers of pods may be removed then, or a deletion waits for one.
    High,
}

fn window_urgency(old: Option<&JobWindow>, new: &UsageSnapshot) -> Urgency {
    let UsageSnapshot { window: Some(new), awaited, .. } = new else { return Urgency::None };
    let JobWindow { resets_at, not_before, settled, settling } = new;
    let known: HashSet<&String> = old.into_iter().flat_map(|old| &old.settling).collect();
    let freed = settling.iter().filter(|uid| !known.contains(uid)).count();
    let end_moved = old.is_none_or(|old| *not_before != old.not_before);
    if freed >= URGENT_CHARGES || *awaited && (freed > 0 || end_moved) {
        Urgency::High
    } else if freed > 0
        || old.is_none_or(|old| end_moved || *resets_at != old.resets_at || *settled != old.settled)
    {
        Urgency::Normal
    } else {
        Urgency::None
    }
}

/// Bytes in a thousandth of a GB.
const MEGA: i64 = 1_000_000;
/// Bytes in a GB.
const GIGA: u64 = 1_000_000_000;

/// The texts for columns, such as `3/20`, `1.5/16` and `2/unlimited`.
pub(super) fn summary(usage: &TenantUsage, quotas: &EffectiveQuotas) -> TenantSummary {
    let of = |dimension: QuotaDimension| {
        // Bytes are rounded to the thousandths of a GB that people read.
        let half = if dimension.unit() == GIGA { MEGA / 2 } else { 0 };
        let used = unsigned(dimension.used(usage).unwrap_or(0).saturating_add(half));
        format!("{}/{}", dimension.written(used), Limit::from_quota(dimension.quota(quotas)))
    };
    TenantSummary {
        jobs: of(QuotaDimension::Jobs),
        cpu: of(QuotaDimension::Cpu),
        memory: of(QuotaDimension::Memory),
        gpus: of(QuotaDimension::Gpus),
        workers: of(QuotaDimension::Workers),
        jobs_this_hour: of(QuotaDimension::JobsPerHour),
    }
}

/// A negative value in a status that another client wrote shows as 0.
fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn usage_is_written_when_it_changed_and_not_too_often() {
        let quotas = EffectiveQuotas { max_jobs: 3, max_cpu_cores: -1, ..EffectiveQuotas::default() };
        let usage = |active_jobs| TenantUsage { active_jobs, cpu_millicores: 500, ..TenantUsage::default() };
        let due = |old, new, since: Option<u64>| {
            let old = TenantStatus { usage: Some(usage(old)), ..TenantStatus::default() };
            let new = UsageSnapshot { usage: usage(new), ..UsageSnapshot::default() };
            due(&old, &new, Some(&quotas), since.map(Duration::from_secs))
        };
        assert_eq!(due(1, 1, None), WriteDecision::No);
        assert_eq!(due(1, 2, None), WriteDecision::Queue, "never written by this process");
        assert_eq!(due(1, 2, Some(10)), WriteDecision::In(Duration::from_secs(5)));
        assert_eq!(due(1, 2, Some(15)), WriteDecision::Queue);
        assert_eq!(due(2, 3, Some(1)), WriteDecision::Now, "a limit is reached");
        assert_eq!(due(3, 2, Some(1)), WriteDecision::In(Duration::from_secs(14)), "and left again");
    }

    #[test]
    fn the_hourly_limit_is_written_at_once() {
        let quotas = EffectiveQuotas { max_jobs_per_hour: 10, ..EffectiveQuotas::default() };
        let usage = |jobs_this_hour| TenantUsage { jobs_this_hour, ..TenantUsage::default() };
        let due = |old, new| {
            let old = TenantStatus { usage: Some(usage(old)), ..TenantStatus::default() };
            let new = UsageSnapshot { usage: usage(new), ..UsageSnapshot::default() };
            due(&old, &new, Some(&quotas), Some(Duration::from_secs(1)))
        };
        assert_eq!((due(8, 9), due(9, 10)), (WriteDecision::In(Duration::from_secs(14)), WriteDecision::Now));
    }

    fn window(settled: i64, settling: &[&str]) -> JobWindow {
        JobWindow {
            resets_at: Time(at(3600)),
            not_before: None,
            settled,
            settling: settling.iter().map(|uid| (*uid).to_owned()).collect(),
        }
    }

    /// What is due where the window was written `since` seconds ago.
    fn due_of_window(
        old: Option<JobWindow>,
        new: Option<JobWindow>,
        awaited: bool,
        since: u64,
    ) -> WriteDecision {
        let usage = TenantUsage::default();
        let old = TenantStatus { usage: Some(usage.clone()), job_window: old, ..TenantStatus::default() };
        due(&old, &UsageSnapshot { usage, window: new, awaited }, None, Some(Duration::from_secs(since)))
    }

    #[test]
    fn the_window_is_written_soon_where_a_client_waits() {
        let due = |old, new, since| due_of_window(old, new, true, since);
        let one = || Some(window(1, &["a"]));
        assert_eq!(due(one(), one(), 60), WriteDecision::No);
        assert_eq!(due(one(), None, 60), WriteDecision::No, "nothing is known yet: what is stored stays");
        assert_eq!(due(None, one(), 1), WriteDecision::In(Duration::from_secs(1)));
        assert_eq!(due(one(), Some(window(2, &["a", "b"])), 0), WriteDecision::In(Duration::from_secs(2)));
        assert_eq!(due(one(), Some(window(2, &["b"])), 2), WriteDecision::Now);
        assert_eq!(
            due(one(), Some(window(1, &[])), 60),
            WriteDecision::No,
            "its pod is deleted: no write of its own"
        );
        assert_eq!(due(one(), Some(window(2, &["a"])), 1), WriteDecision::In(Duration::from_secs(14)));
        let next = Some(JobWindow { not_before: Some(Time(at(3600))), ..window(0, &[]) });
        assert_eq!(
            due(one(), next, 1),
            WriteDecision::In(Duration::from_secs(1)),
            "the finalizers of an earlier window's pods may be removed"
        );
    }

    #[test]
    fn the_window_is_written_with_usage_where_no_client_waits() {
        let due = |old, new, since| due_of_window(old, new, false, since);
        let one = || Some(window(1, &["a"]));
        assert_eq!(due(one(), one(), 60), WriteDecision::No);
        assert_eq!(due(None, one(), 1), WriteDecision::In(Duration::from_secs(14)));
        assert_eq!(due(one(), Some(window(2, &["a", "b"])), 2), WriteDecision::In(Duration::from_secs(13)));
        assert_eq!(due(one(), Some(window(2, &["a", "b"])), 15), WriteDecision::Queue);
        let next = Some(JobWindow { not_before: Some(Time(at(3600))), ..window(0, &[]) });
        assert_eq!(due(one(), next, 1), WriteDecision::In(Duration::from_secs(14)));
        let names: Vec<String> = (0..=URGENT_CHARGES).map(|n| n.to_string()).collect();
        let many: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(
            due(one(), Some(window(257, &many[..URGENT_CHARGES])), 2),
            WriteDecision::Now,
            "others wait for room"
        );
        assert_eq!(
            due(one(), Some(window(256, &many[..URGENT_CHARGES - 1])), 2),
            WriteDecision::In(Duration::from_secs(13))
        );
    }

    #[test]
    fn columns_read_well() {
        let quotas = EffectiveQuotas {
            max_jobs: 20,
            max_cpu_cores: 16,
            max_memory_gb: 64,
            max_gpus: 0,
            max_workers: -1,
            max_jobs_per_hour: 10,
            ..EffectiveQuotas::default()
        };
        let usage = TenantUsage {
            active_jobs: 3,
            cpu_millicores: 1500,
            memory_bytes: 536_870_912,
            workers: 2,
            jobs_this_hour: 4,
            ..TenantUsage::default()
        };
        let summary = summary(&usage, &quotas);
        let TenantSummary { jobs, cpu, memory, gpus, workers, jobs_this_hour } = &summary;
        assert_eq!([jobs, cpu, memory, gpus, workers], ["3/20", "1.5/16", "0.537/64", "0/0", "2/unlimited"]);
        assert_eq!(jobs_this_hour, "4/10");
    }
}
