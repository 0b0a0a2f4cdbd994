//! The tenant's quotas applied to a job: in numbers, and as messages on request.

use super::inputs::TenantInput;
use crate::{
    api_types::{Reason, plan::Limit, quota::QuotaDimension},
    domain::resources::Resources,
};

/// A quota that a job exceeds. Only the numbers: a queue of ten thousand classes is assessed again at every end of a job, and
/// few of these messages are ever read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Excess {
    /// Jobs at once, of which `active` are admitted.
    Jobs { active: u64 },
    /// An amount; `held`, where what others use is counted.
    Amount { of: QuotaDimension, held: Option<u64>, asked: u64 },
    /// Jobs an hour, of which `started` have started.
    Hour { started: u64 },
    /// A quota of 0 that concerns every job.
    Nothing(Nothing),
    /// What is left is set aside for a larger job, which other jobs have overtaken `times` times.
    SetAside { times: u64 },
}

/// The quotas of which 0 means that no job may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nothing {
    Jobs,
    JobsPerHour,
    Minutes,
}

impl Excess {
    /// Why a job waits that exceeds it.
    pub(super) fn reason(self) -> Reason {
        match self {
            Self::Jobs { .. } | Self::Amount { .. } | Self::Nothing(_) => Reason::WaitingForQuota,
            Self::Hour { .. } => Reason::RateLimited,
            Self::SetAside { .. } => Reason::WaitingForTurn,
        }
    }

    /// The message, with numbers.
    pub(super) fn message(self, tenant: &TenantInput) -> String {
        let plan = &tenant.plan;
        match self {
            Self::Jobs { active } => {
                format!("{plan} allows {} jobs at once: {active} admitted", tenant.quotas.max_jobs)
            }
            Self::Amount { of, held, asked } => {
                let limit = of.limit(&tenant.quotas);
                let allowed = limit.at_most().map_or_else(|| limit.to_string(), |most| of.written(most));
                let (unit, asked) = (of.amounts(), of.written(asked));
                match held.map(|held| of.written(held)) {
                    Some(held) => {
                        format!("{plan} allows {allowed} {unit}: {held} in use, this job asks for {asked}")
                    }
                    None => format!("{plan} allows {allowed} {unit}: this job asks for {asked}"),
                }
            }
            Self::Hour { started } => rate_limit(tenant, started, 0),
            Self::Nothing(Nothing::Jobs) => format!("{plan} allows 0 jobs at once"),
            Self::Nothing(Nothing::JobsPerHour) => format!("{plan} allows 0 jobs per hour"),
            Self::Nothing(Nothing::Minutes) => {
                format!("{plan} allows jobs 0 minutes of running time: no job may run")
            }
            Self::SetAside { times } => format!(
                "what is left of the quotas of {plan} is kept for a larger job of the tenant that {times} others have \
                 passed"
            ),
        }
    }
}

/// The first quota that `asked` by itself goes over, or that lets no job run: such a job never runs.
pub(super) fn alone(tenant: &TenantInput, asked: &Resources) -> Option<Excess> {
    let quotas = &tenant.quotas;
    let none = [
        (quotas.max_jobs, Nothing::Jobs),
        (quotas.max_jobs_per_hour, Nothing::JobsPerHour),
        (quotas.job_timeout_minutes, Nothing::Minutes),
    ];
    let nothing = || none.into_iter().find(|(quota, _)| *quota == 0).map(|(_, of)| Excess::Nothing(of));
    amount(tenant, None, asked).or_else(nothing)
}

/// The first quota that `asked` on top of `held` goes over, with `active` other jobs.
pub(super) fn with_held(
    tenant: &TenantInput,
    held: &Resources,
    active: u64,
    asked: &Resources,
) -> Option<Excess> {
    if !Limit::from_quota(tenant.quotas.max_jobs).allows(active.saturating_add(1)) {
        return Some(Excess::Jobs { active });
    }
    amount(tenant, Some(held), asked)
}

fn amount(tenant: &TenantInput, held: Option<&Resources>, asked: &Resources) -> Option<Excess> {
    QuotaDimension::all().find_map(|of| {
        let (held, asked) = (held.and_then(|held| held.amount(of)), asked.amount(of)?);
        let within = asked == 0 || of.limit(&tenant.quotas).allows(held.unwrap_or(0).saturating_add(asked));
        (!within).then_some(Excess::Amount { of, held, asked })
    })
}

/// That no more jobs may start in this hour, after `started`.
pub(super) fn hour(tenant: &TenantInput, started: u64) -> Option<Excess> {
    rate_limited(tenant, started, 0).then_some(Excess::Hour { started })
}

/// Why a job that rather ends than waits is rejected at once: `active` and `queued` before it are all that may run.
pub(super) fn no_turn_soon(tenant: &TenantInput, active: u64, queued: u64) -> Option<String> {
    let most = tenant.quotas.max_jobs;
    let full = !Limit::from_quota(most).allows(active.saturating_add(queued).saturating_add(1));
    full.then(|| {
        format!(
            "{} allows {most} jobs at once: {active} admitted, {queued} queued before this one",
            tenant.plan
        )
    })
}

/// That no more jobs may start in this hour, as a message, where `started` have and `queued` before this one are to.
pub(super) fn no_start_soon(tenant: &TenantInput, started: u64, queued: u64) -> Option<String> {
    rate_limited(tenant, started, queued).then(|| rate_limit(tenant, started, queued))
}

fn rate_limited(tenant: &TenantInput, started: u64, queued: u64) -> bool {
    let most = Limit::from_quota(tenant.quotas.max_jobs_per_hour);
    !most.allows(started.saturating_add(queued).saturating_add(1))
}

fn rate_limit(tenant: &TenantInput, started: u64, queued: u64) -> String {
    let most = tenant.quotas.max_jobs_per_hour;
    match queued {
        0 => format!("hourly job limit reached ({started}/{most})"),
        _ => format!("hourly job limit reached ({started}/{most}, {queued} queued before this one)"),
    }
}

/// That no more jobs may be queued, where `queued` wait.
pub(super) fn queue_full(tenant: &TenantInput, queued: u64) -> String {
    let (plan, most) = (&tenant.plan, tenant.quotas.max_queued_jobs);
    format!("{plan} allows {most} queued jobs: {queued} wait")
}
