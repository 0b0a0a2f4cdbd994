//! What the tenant's quotas say to a job, in sentences with numbers.

use super::views::TenantView;
use crate::{
    api_types::plan::Limit,
    domain::resources::{Resources, cores, gigabytes},
};

/// The first quota that `asked` on top of `held` goes over, as a sentence with numbers. `active` counts jobs, where
/// jobs are to be counted.
pub(super) fn exceeds(
    tenant: &TenantView,
    held: &Resources,
    asked: &Resources,
    active: Option<u64>,
) -> Option<String> {
    /// 10^9 bytes.
    const GB: u64 = 1_000_000_000;
    let quotas = &tenant.quotas;
    let limit = |quota: i64, unit: u64| Limit::from_quota(quota).times(unit);
    if let Some(active) = active
        && !Limit::from_quota(quotas.max_jobs).allows(active + 1)
    {
        return Some(format!("{} allows {} jobs at once: {active} admitted", tenant.plan, quotas.max_jobs));
    }
    let plain = |n: u64| n.to_string();
    let rows = [
        (
            limit(quotas.max_cpu_cores, 1000),
            held.cpu_milli,
            asked.cpu_milli,
            "CPU cores",
            cores as fn(u64) -> String,
        ),
        (limit(quotas.max_memory_gb, GB), held.memory_bytes, asked.memory_bytes, "GB of memory", gigabytes),
        (limit(quotas.max_gpus, 1), held.gpus, asked.gpus, "GPUs", plain),
        (limit(quotas.max_bandwidth_mbps, 1), held.bandwidth_mbps, asked.bandwidth_mbps, "Mbit/s", plain),
    ];
    for (limit, held, asked, what, write) in rows {
        if asked > 0 && !limit.allows(held.saturating_add(asked)) {
            let allowed = limit.at_most().map_or_else(|| limit.to_string(), write);
            let plan = &tenant.plan;
            return Some(match active {
                Some(_) => format!(
                    "{plan} allows {allowed} {what}: {} in use, this job asks for {}",
                    write(held),
                    write(asked)
                ),
                None => format!("{plan} allows {allowed} {what}: this job asks for {}", write(asked)),
            });
        }
    }
    match (active, quotas) {
        (None, quotas) if quotas.max_jobs == 0 => Some(format!("{} allows 0 jobs at once", tenant.plan)),
        (None, quotas) if quotas.max_jobs_per_hour == 0 => {
            Some(format!("{} allows 0 jobs per hour", tenant.plan))
        }
        _ => None,
    }
}

/// Why a job that is not to wait is refused at once: `active` and `queued` before it are all that may run at a time.
pub(super) fn no_turn_soon(tenant: &TenantView, active: u64, queued: u64) -> Option<String> {
    let most = tenant.quotas.max_jobs;
    let full = !Limit::from_quota(most).allows(active.saturating_add(queued).saturating_add(1));
    full.then(|| {
        format!(
            "{} allows {most} jobs at once: {active} admitted, {queued} queued before this one",
            tenant.plan
        )
    })
}

/// That no more jobs may start in this hour, where `started` have and `queued` before this one are to.
pub(super) fn rate_limited(tenant: &TenantView, started: u64, queued: u64) -> Option<String> {
    let most = tenant.quotas.max_jobs_per_hour;
    let reached = !Limit::from_quota(most).allows(started.saturating_add(queued).saturating_add(1));
    reached.then(|| match queued {
        0 => format!("hourly job limit reached ({started}/{most})"),
        _ => format!("hourly job limit reached ({started}/{most}, {queued} queued before this one)"),
    })
}

/// That the queue has no place for a job, beside `queued` that wait.
pub(super) fn queue_full(tenant: &TenantView, queued: u64) -> String {
    let (plan, most) = (&tenant.plan, tenant.quotas.max_queued_jobs);
    format!("{plan} allows {most} queued jobs: {queued} wait")
}
