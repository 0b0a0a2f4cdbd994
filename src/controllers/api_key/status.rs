//! Last step: the status that a reconcile leaves behind, and the Events that go with it. Pure.
//!
//! A key that is revoked or expired because its spec says so is Ready, and not Active, as a tenant is. A key that is
//! stalled stays Active as long as a version of it is accepted.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::validate::Refusal;
use crate::{
    api_types::{
        Reason,
        api_key::{TenantApiKeySpec, TenantApiKeyStatus},
        conditions::{self, Wanted},
    },
    domain::api_key::lifecycle::{Cause, Closed, Step, Versions},
};

/// How a reconcile came out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The Secret holds the newest version.
    InOrder { secret: String },
    /// The spec says that nothing is accepted (any more).
    Ended { reason: Reason, message: String },
    /// Something else has to happen first, and will.
    Working { reason: Reason, message: String },
    /// Nothing will happen before a user changes something.
    Stalled(Refusal),
    /// Nothing that conditions speak of.
    Unchanged,
}

/// The versions and the outcome of a step that makes nothing.
pub(super) fn outcome(step: &Step, spec: &TenantApiKeySpec, secret: &str) -> (Versions, Outcome) {
    match step {
        Step::UpToDate(versions) => (versions.clone(), Outcome::InOrder { secret: secret.to_owned() }),
        Step::Hold(versions) => {
            let message = format!(
                "Secret {secret} does not hold the key's token: a new version is made within seconds"
            );
            (versions.clone(), Outcome::Working { reason: Reason::SecretDamaged, message })
        }
        Step::Conflict(versions) => {
            let message = format!(
                "Secret {secret} exists and is not this key's, so it is not touched: delete it, or make a key with another \
                 spec.secretName"
            );
            (versions.clone(), Outcome::Stalled(Refusal { reason: Reason::SecretConflict, message }))
        }
        Step::Expire(versions) => {
            let at = spec.expires_at.as_ref().map(|at| at.0.to_string()).unwrap_or_default();
            let message =
                format!("the key expired at {at}: it is refused; a later spec.expiresAt reactivates it");
            (versions.clone(), Outcome::Ended { reason: Reason::KeyExpired, message })
        }
        Step::Revoke => {
            let message = "spec.revoked is true: the key is refused, for good".to_owned();
            (Versions::default(), Outcome::Ended { reason: Reason::KeyRevoked, message })
        }
        Step::EndWith { ancestor, closed: Closed::Revoked, kept } => {
            let message = format!(
                "key {ancestor}, which has created this one, is revoked or deleted: this one is refused, for good"
            );
            (kept.clone(), Outcome::Ended { reason: Reason::KeyRevoked, message })
        }
        Step::EndWith { ancestor, closed: Closed::Expired, kept } => {
            let message = format!(
                "key {ancestor}, which has created this one, has expired: this one is refused until {ancestor} has a later \
                 spec.expiresAt"
            );
            (kept.clone(), Outcome::Ended { reason: Reason::KeyExpired, message })
        }
        // These make a version, and write their own outcome.
        Step::Issue { .. } | Step::Deliver | Step::Rehash => (Versions::default(), Outcome::Unchanged),
    }
}

/// What is said while a version is on its way.
pub(super) fn issuing(cause: Cause, id: &str, secret: &str) -> String {
    let why = match cause {
        Cause::First => "the first version",
        Cause::Requested => "a rotation was asked for",
        Cause::Scheduled => "spec.rotateEvery is over",
        Cause::Restored => "the Secret is deleted or does not hold the key's token any more",
        Cause::Undelivered => "the version before did not reach the Secret",
    };
    format!("{why}: version {id} is on its way into Secret {secret}")
}

/// The status after a reconcile, which has put versions, key id and request into `new`.
pub(super) fn next(
    old: &TenantApiKeyStatus,
    mut new: TenantApiKeyStatus,
    outcome: Outcome,
    generation: Option<i64>,
    now: Timestamp,
) -> TenantApiKeyStatus {
    if let Some(wanted) = wanted(&new, outcome) {
        new.observed_generation = generation.unwrap_or(new.observed_generation);
        new.conditions = conditions::merge(&old.conditions, wanted, generation, now);
    }
    new
}

fn wanted(new: &TenantApiKeyStatus, outcome: Outcome) -> Option<Vec<Wanted>> {
    let id = new.key_id.as_deref().unwrap_or_default();
    let accepted = |otherwise: (Reason, String)| {
        let delivered = new.versions.iter().any(|version| Some(&version.key_id) == new.key_id.as_ref());
        if delivered {
            Wanted::yes(conditions::ACTIVE, Reason::KeyAccepted, format!("key {id} is accepted"))
        } else {
            Wanted::no(conditions::ACTIVE, otherwise.0, otherwise.1)
        }
    };
    let all = match outcome {
        Outcome::Unchanged => return None,
        Outcome::InOrder { secret } => {
            let message = format!("key {id} is in Secret {secret}");
            vec![
                Wanted::yes(conditions::READY, Reason::KeyIssued, message.clone()),
                accepted((Reason::KeyIssuing, message)),
            ]
        }
        Outcome::Ended { reason, message } => vec![
            Wanted::yes(conditions::READY, reason, message.clone()),
            Wanted::no(conditions::ACTIVE, reason, message),
        ],
        Outcome::Working { reason, message } => vec![
            Wanted::no(conditions::READY, reason, message.clone()),
            accepted((reason, message.clone())),
            Wanted::yes(conditions::RECONCILING, reason, message),
        ],
        Outcome::Stalled(Refusal { reason, message }) => {
            // In such a namespace no key is accepted whatever its versions.
            let homeless = matches!(reason, Reason::NotATenantNamespace | Reason::Terminating);
            let active = if homeless {
                Wanted::no(conditions::ACTIVE, reason, message.clone())
            } else {
                accepted((reason, message.clone()))
            };
            vec![
                Wanted::no(conditions::READY, reason, message.clone()),
                active,
                Wanted::yes(conditions::STALLED, reason, message),
            ]
        }
    };
    Some(all)
}

/// An Event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StatusEvent {
    pub(super) reason: Reason,
    pub(super) note: String,
    pub(super) warning: bool,
}

/// What is new between two statuses: another version in the Secret, and new reasons, each once.
pub(super) fn events(old: &TenantApiKeyStatus, new: &TenantApiKeyStatus) -> Vec<StatusEvent> {
    let mut all: Vec<StatusEvent> = delivered(old, new).into_iter().collect();
    for condition in &new.conditions {
        let same = |c: &&Condition| c.type_ == condition.type_ && c.reason == condition.reason;
        let unchanged = old.conditions.iter().any(|c| same(&c));
        let Some((reason, warning)) = published(&condition.reason) else { continue };
        if !unchanged && all.iter().all(|event| event.reason != reason) {
            all.push(StatusEvent { reason, note: condition.message.clone(), warning });
        }
    }
    all
}

fn delivered(old: &TenantApiKeyStatus, new: &TenantApiKeyStatus) -> Option<StatusEvent> {
    let newest = new.versions.first().filter(|newest| new.key_id.as_ref() == Some(&newest.key_id))?;
    if old.key_id == new.key_id {
        return None;
    }
    let id = &newest.key_id;
    let (reason, note) = match new.versions.get(1).map(|before| (&before.key_id, &before.valid_until)) {
        Some((before, Some(until))) => (
            Reason::KeyRotated,
            format!("key {id} has replaced {before}, which is accepted until {}", until.0),
        ),
        _ if old.key_id.is_some() => (Reason::KeyRotated, format!("key {id} has replaced the one before")),
        _ => (Reason::KeyIssued, format!("key {id} is in its Secret")),
    };
    Some(StatusEvent { reason, note, warning: false })
}

/// The reasons that make an Event, and whether it is a warning.
fn published(reason: &str) -> Option<(Reason, bool)> {
    [
        (Reason::KeyRevoked, false),
        (Reason::KeyExpired, false),
        (Reason::SecretDamaged, true),
        (Reason::SecretConflict, true),
        (Reason::NotATenantNamespace, true),
        (Reason::InvalidObject, true),
        (Reason::PepperUnusable, true),
        (Reason::ApiError, true),
    ]
    .into_iter()
    .find(|(known, _)| known.as_str() == reason)
}
