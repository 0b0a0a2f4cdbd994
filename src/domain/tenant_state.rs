//! The phase of a tenant: one pure function, so that controller, scheduler and API never disagree.
//!
//! Expiry needs no event: [`PhaseDecision::changes_at`] says when it changes, and a later `expiresAt` reactivates.

use jiff::Timestamp;

use crate::api_types::{
    Reason, Tenant,
    tenant::{SuspendPolicy, TenantPhase},
};

/// The phase of a tenant, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhaseDecision {
    /// Its phase.
    pub phase: TenantPhase,
    /// The machine reason.
    pub reason: Reason,
    /// The message.
    pub message: String,
    /// When the phase changes by itself.
    pub changes_at: Option<Timestamp>,
}

impl PhaseDecision {
    /// Whether new jobs are accepted and admitted.
    #[must_use]
    pub fn accepts(&self) -> bool {
        self.phase == TenantPhase::Active
    }
}

/// Decides the phase of a tenant by its spec, its deletion and the time. Suspension comes before expiry: it was set by
/// hand.
#[must_use]
pub fn decide(tenant: &Tenant, now: Timestamp) -> PhaseDecision {
    let spec = &tenant.spec;
    let decision = |phase, reason, message| PhaseDecision { phase, reason, message, changes_at: None };
    let running = match spec.suspend_policy {
        SuspendPolicy::Hold => "running ones finish (suspendPolicy Hold)",
        SuspendPolicy::Drain => "running ones are stopped and requeued (suspendPolicy Drain)",
    };
    if terminating(tenant) {
        let message = "the tenant is being deleted: no new job is accepted and its jobs are canceled";
        return decision(TenantPhase::Terminating, Reason::Terminating, message.to_owned());
    }
    if spec.suspended {
        let message =
            format!("spec.suspended is true: no job starts, queued ones keep their place, {running}");
        return decision(TenantPhase::Suspended, Reason::TenantSuspended, message);
    }
    match spec.expires_at.as_ref().map(|time| time.0) {
        Some(expiry) if expiry <= now => {
            let message = format!(
                "the tenant expired at {expiry}: no job starts, queued ones keep their place, {running}; \
                 a later spec.expiresAt reactivates it"
            );
            decision(TenantPhase::Expired, Reason::TenantExpired, message)
        }
        changes_at => PhaseDecision {
            phase: TenantPhase::Active,
            reason: Reason::Accepting,
            message: "the tenant accepts and runs jobs".to_owned(),
            changes_at,
        },
    }
}

/// The phase to show: a tenant that would be active is stalled where its spec can't be carried out.
#[must_use]
pub fn phase(decision: &PhaseDecision, stalled: bool) -> TenantPhase {
    if stalled && decision.phase == TenantPhase::Active { TenantPhase::Stalled } else { decision.phase }
}

/// Whether the tenant is being deleted. A deletion that is [prevented](deletion_prevented) changes nothing.
#[must_use]
pub fn terminating(tenant: &Tenant) -> bool {
    tenant.metadata.deletion_timestamp.is_some() && deletion_prevented(tenant.spec.prevent_deletion).is_none()
}

/// Why a tenant must stay although its deletion was asked for. The chart's tenant `default` is protected as any other
/// one, by its spec, so that removing Crofter needs no way around.
#[must_use]
pub fn deletion_prevented(prevent_deletion: bool) -> Option<&'static str> {
    prevent_deletion.then_some(
        "deletion was requested while spec.preventDeletion is true: the tenant stays as it is until that is false",
    )
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn tenant(name: &str, spec: serde_json::Value, deleted: bool) -> Tenant {
        let mut tenant: Tenant = serde_json::from_value(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec,
        }))
        .unwrap();
        tenant.metadata.deletion_timestamp = deleted.then(|| Time(at(5)));
        tenant
    }

    #[test]
    fn expiry_comes_by_itself_and_goes_with_a_later_time() {
        let spec = json!({"expiresAt": "1970-01-01T00:01:40Z"});
        let before = decide(&tenant("a", spec.clone(), false), at(99));
        assert!(before.accepts());
        assert_eq!(before.changes_at, Some(at(100)));
        let after = decide(&tenant("a", spec, false), at(100));
        assert_eq!((after.phase, after.reason), (TenantPhase::Expired, Reason::TenantExpired));
        assert!(
            after.message.contains("1970-01-01T00:01:40Z") && after.message.contains("Hold"),
            "{after:?}"
        );
        assert_eq!(after.changes_at, None);
        assert!(decide(&tenant("a", json!({"expiresAt": "1970-01-01T01:00:00Z"}), false), at(100)).accepts());
        assert!(decide(&tenant("a", json!({}), false), at(100)).accepts());
    }

    #[test]
    fn suspension_comes_before_expiry_and_deletion_before_both() {
        let spec = json!({"suspended": true, "suspendPolicy": "Drain", "expiresAt": "1970-01-01T00:00:01Z"});
        let suspended = decide(&tenant("a", spec.clone(), false), at(9));
        assert_eq!((suspended.phase, suspended.accepts()), (TenantPhase::Suspended, false));
        assert!(suspended.message.contains("Drain"), "{suspended:?}");
        assert_eq!(decide(&tenant("a", spec, true), at(9)).phase, TenantPhase::Terminating);
    }

    #[test]
    fn a_tenant_whose_spec_can_not_be_carried_out_is_not_shown_as_active() {
        let shown =
            |spec: serde_json::Value, stalled| phase(&decide(&tenant("a", spec, false), at(9)), stalled);
        assert_eq!(shown(json!({"plan": "gold"}), true), TenantPhase::Stalled);
        assert_eq!(shown(json!({}), false), TenantPhase::Active);
        assert_eq!(shown(json!({"suspended": true, "plan": "gold"}), true), TenantPhase::Suspended);
    }

    #[test]
    fn a_prevented_deletion_changes_nothing() {
        assert!(
            !decide(&tenant("default", json!({}), true), at(9)).accepts(),
            "no name is protected by itself"
        );
        assert!(decide(&tenant("a", json!({"preventDeletion": true}), true), at(9)).accepts());
        assert!(!decide(&tenant("a", json!({"preventDeletion": false}), true), at(9)).accepts());
    }
}
