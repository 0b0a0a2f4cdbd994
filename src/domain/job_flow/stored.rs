//! What the stored status says of the current attempt, and two messages of it.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::{
    api_types::{JobPhase, JobStatus, Reason},
    domain::start_error,
};

/// Why the current attempt is being stopped, if it is.
pub(super) fn stopping(status: &JobStatus) -> Option<Reason> {
    if !matches!(status.phase, JobPhase::Assigned | JobPhase::Running) {
        return None;
    }
    let reason: Reason = status.reason.as_deref()?.parse().ok()?;
    matches!(reason, Reason::TenantSuspended | Reason::TenantExpired).then_some(reason)
}

/// What a tenant is that drains.
pub(super) fn closed(reason: Reason) -> &'static str {
    if reason == Reason::TenantExpired { "expired" } else { "suspended" }
}

/// Why the container of the current attempt can never start, if the status says so.
pub(super) fn unstartable(status: &JobStatus) -> Option<Reason> {
    if status.phase != JobPhase::Assigned {
        return None;
    }
    let reason: Reason = status.reason.as_deref()?.parse().ok()?;
    start_error::REASONS.contains(&reason).then_some(reason)
}

/// The message of a pod of which the kubelet has reported nothing.
pub(super) fn placed(number: u32, pod: &Pod) -> String {
    let group = pod.labels().get(crate::names::LABEL_GROUP).map_or("its group", String::as_str);
    format!("attempt {number} is admitted to {group}")
}
