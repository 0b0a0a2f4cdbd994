//! How long a job may run in all, and what is left of that for its next attempt.

use jiff::SignedDuration;

use super::View;
use crate::api_types::plan::Limit;

/// The running time that is allowed in all: the job's or its scenario's, at most the plan's. An attempt gets it when
/// its pod is created ([`allowance`](crate::domain::attempt::allowance)): a plan that changes concerns the attempts
/// after it, and ends nothing that runs.
#[must_use]
pub fn running_limit(timeout_seconds: Option<i64>, plan_minutes: Limit) -> Option<SignedDuration> {
    let plan = plan_minutes.times(60).at_most().and_then(|s| i64::try_from(s).ok());
    let seconds = [timeout_seconds, plan].into_iter().flatten().min()?;
    Some(SignedDuration::from_secs(seconds))
}

/// What is left of it for the next attempt.
#[must_use]
pub fn running_left(view: &View<'_>) -> Option<SignedDuration> {
    let used = SignedDuration::from_millis(view.job.status.as_ref().map_or(0, |s| s.running_millis));
    Some(view.running_limit?.saturating_sub(used).max(SignedDuration::ZERO))
}

/// That earlier attempts have used up the running time, in numbers. Where no job may run at all that is not why.
pub(super) fn used_up(view: &View<'_>) -> Option<String> {
    let allowed = view.running_limit.filter(|limit| limit.is_positive())?;
    running_left(view).filter(|left| left.as_secs() == 0)?;
    let used = SignedDuration::from_millis(view.job.status.as_ref().map_or(0, |s| s.running_millis));
    Some(format!("{:#} of {allowed:#} are used", SignedDuration::from_secs(used.as_secs())))
}
