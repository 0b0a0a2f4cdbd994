//! The state of a tenant's hourly window and job quota, for headers and problems.

use axum::http::{HeaderName, HeaderValue};

use crate::{
    api_types::{plan::EffectiveQuotas, tenant::TenantUsage},
    http::{App, by_tenant::Context},
};

/// The headers of draft-ietf-httpapi-ratelimit-headers.
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The quotas in force.
#[must_use]
pub fn quotas(app: &App, context: &Context) -> Option<EffectiveQuotas> {
    let spec = &context.tenant.spec;
    app.plans.borrow().get(&spec.plan).map(|plan| plan.effective(&spec.quotas))
}

/// What the tenant uses: from the scheduler where this process schedules, else from the status.
#[must_use]
pub fn usage(app: &App, context: &Context) -> TenantUsage {
    let live = app.scheduler().and_then(|scheduler| scheduler.usage(&context.of.namespace));
    let written = || context.tenant.status.as_ref().and_then(|status| status.usage.clone());
    live.or_else(written).unwrap_or_default()
}

/// That the jobs that run and wait are as many as may run at once; `None` where they are fewer, or no limit exists.
#[must_use]
pub fn jobs_used_up(app: &App, context: &Context) -> Option<String> {
    let max = quotas(app, context)?.max_jobs;
    let usage = usage(app, context);
    let is_used_up = max >= 0 && usage.active_jobs.saturating_add(usage.queued_jobs) >= max;
    is_used_up.then(|| format!("max concurrent jobs limit reached ({max}/{max})"))
}

/// Seconds until the current window ends.
#[must_use]
pub fn resets_in(app: &App, context: &Context) -> Option<u64> {
    let at = usage(app, context).jobs_hour_reset_at?.0;
    u64::try_from(at.duration_since(app.clock.now()).as_secs()).ok()
}

/// The headers of a response; none where the tenant has no hourly limit.
#[must_use]
pub fn headers(app: &App, context: &Context) -> Vec<(HeaderName, HeaderValue)> {
    let Some(max) = quotas(app, context).map(|q| q.max_jobs_per_hour).filter(|max| *max >= 0) else {
        return Vec::new();
    };
    let left = max.saturating_sub(usage(app, context).jobs_this_hour).max(0);
    let reset = resets_in(app, context).unwrap_or(3600);
    let texts = [
        (POLICY, format!("\"jobs-per-hour\";q={max};w=3600")),
        (LIMIT, format!("\"jobs-per-hour\";r={left};t={reset}")),
    ];
    texts
        .into_iter()
        .filter_map(|(name, text)| HeaderValue::from_str(&text).ok().map(|value| (name, value)))
        .collect()
}
