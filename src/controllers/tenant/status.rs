//! Last step: the status that a reconcile leaves behind, and the Events that go with it. Pure.
//!
//! kstatus reads it right at every moment: `observedGeneration` is the generation that was reconciled, `Reconciling` is
//! True while work is left, `Stalled` while nothing will happen before a user acts. A tenant that is suspended or
//! expired because its spec says so is Ready, and not Active.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{UsageSnapshot, WorkersView, usage, validate::Refusal};
use crate::{
    api_types::{
        Reason, TenantStatus,
        conditions::{self, Wanted},
        plan::EffectiveQuotas,
        tenant::TenantPhase,
    },
    domain::tenant_state::{self, PhaseDecision},
};

/// Room for an error's text in a condition.
const MESSAGE_ROOM: usize = 1024;

/// How a reconcile came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All children are as they should be.
    Provisioned { namespace: String, quotas: EffectiveQuotas },
    /// Something else has to happen first, and will.
    Working { reason: Reason, message: String },
    /// Nothing will happen before a user changes something.
    Stalled(Refusal),
    /// The tenant is paused: it was not reconciled.
    Paused,
}

/// What a reconcile has found out about a tenant.
#[derive(Clone, Debug)]
pub(super) struct Report {
    pub(super) generation: Option<i64>,
    pub(super) phase: PhaseDecision,
    pub(super) outcome: Outcome,
    pub(super) snapshot: UsageSnapshot,
    pub(super) workers: WorkersView,
    /// Why a deletion that was asked for does not happen.
    pub(super) deletion_prevented: Option<&'static str>,
}

/// The status after a reconcile.
pub(super) fn next(old: &TenantStatus, report: Report, now: Timestamp) -> TenantStatus {
    let Report {
        generation,
        phase: decision,
        outcome,
        snapshot: UsageSnapshot { usage, window, .. },
        workers,
        deletion_prevented,
    } = report;
    let stalled = match outcome {
        Outcome::Paused => old.phase == Some(TenantPhase::Stalled),
        _ => matches!(outcome, Outcome::Stalled(_)),
    };
    let phase = Some(tenant_state::phase(&decision, stalled));
    let mut new = TenantStatus { phase, usage: Some(usage), ..old.clone() };
    new.job_window = window.or(new.job_window);
    match &outcome {
        Outcome::Provisioned { namespace, quotas } => {
            new.namespace = Some(namespace.clone());
            new.effective_quotas = Some(quotas.clone());
        }
        Outcome::Stalled(Refusal { reason: Reason::NamespaceConflict, .. }) => new.namespace = None,
        // The children that were applied before stay.
        Outcome::Stalled(_) | Outcome::Working { .. } | Outcome::Paused => (),
    }
    if let (Some(usage), Some(quotas)) = (&new.usage, &new.effective_quotas) {
        new.summary = Some(usage::summary(usage, quotas));
    }
    if outcome != Outcome::Paused {
        let wanted = wanted(&decision, outcome, &workers, deletion_prevented);
        new.observed_generation = generation.unwrap_or(new.observed_generation);
        new.conditions = conditions::merge(&old.conditions, wanted, generation, now);
    }
    new
}

fn wanted(
    decision: &PhaseDecision,
    outcome: Outcome,
    workers: &WorkersView,
    deletion_prevented: Option<&'static str>,
) -> Vec<Wanted> {
    let active = |accepts: bool, reason, message: &str| {
        if accepts {
            Wanted::yes(conditions::ACTIVE, reason, message)
        } else {
            Wanted::no(conditions::ACTIVE, reason, message)
        }
    };
    let (ready, abnormal, blocked) = match outcome {
        Outcome::Provisioned { namespace, .. } => {
            let message = format!("namespace {namespace} and all that belongs to it are as they should be");
            (Wanted::yes(conditions::READY, Reason::Provisioned, message), None, None)
        }
        Outcome::Working { reason, message } => {
            let message: String = message.chars().take(MESSAGE_ROOM).collect();
            let abnormal = Wanted::yes(conditions::RECONCILING, reason, message.clone());
            (Wanted::no(conditions::READY, reason, message), Some(abnormal), None)
        }
        Outcome::Stalled(Refusal { reason, message }) => {
            let abnormal = Wanted::yes(conditions::STALLED, reason, message.clone());
            let active = active(false, reason, &message);
            (Wanted::no(conditions::READY, reason, message), Some(abnormal), Some(active))
        }
        Outcome::Paused => return Vec::new(),
    };
    let prevented =
        deletion_prevented.map(|why| Wanted::yes(conditions::STALLED, Reason::DeletionPrevented, why));
    let admitted = match &workers.refused {
        None => {
            let message = format!("workers admitted: {}, refused: none", workers.admitted);
            Wanted::yes(conditions::WORKERS_ADMITTED, Reason::WorkersWithinQuota, message)
        }
        Some(why) => Wanted::no(conditions::WORKERS_ADMITTED, Reason::WorkersOverQuota, why.clone()),
    };
    let accepting = || active(decision.accepts(), decision.reason, &decision.message);
    let accepting = blocked.unwrap_or_else(accepting);
    [Some(ready), Some(accepting), Some(admitted), abnormal.or(prevented)].into_iter().flatten().collect()
}

/// An Event: a condition has a new reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StatusEvent {
    pub(super) reason: Reason,
    pub(super) note: String,
    pub(super) warning: bool,
}

/// What is new between two statuses, each reason once. Retries of the same failure are no Event.
pub(super) fn events(old: &[Condition], new: &[Condition]) -> Vec<StatusEvent> {
    let mut all: Vec<StatusEvent> = Vec::new();
    for condition in new {
        let before = old.iter().find(|c| c.type_ == condition.type_);
        let unchanged = before.is_some_and(|c| c.reason == condition.reason);
        let Some((reason, warning)) = published(&condition.reason) else { continue };
        // That a new tenant accepts jobs is no Event; that it does so again is one.
        let expected = before.is_none() && reason == Reason::Accepting;
        if !unchanged && !expected && all.iter().all(|event| event.reason != reason) {
            all.push(StatusEvent { reason, note: condition.message.clone(), warning });
        }
    }
    all
}

/// The reasons that make an Event, and whether it is a warning.
fn published(reason: &str) -> Option<(Reason, bool)> {
    [
        (Reason::Provisioned, false),
        (Reason::Provisioning, false),
        (Reason::Accepting, false),
        (Reason::TenantSuspended, false),
        (Reason::TenantExpired, false),
        (Reason::Terminating, false),
        (Reason::UnknownPlan, true),
        (Reason::NamespaceConflict, true),
        (Reason::InvalidObject, true),
        (Reason::WorkersOverQuota, true),
        (Reason::ApiError, true),
        (Reason::DeletionPrevented, true),
    ]
    .into_iter()
    .find(|(known, _)| known.as_str() == reason)
}
