//! Last step: the status of a key is written where it differs, with its Events. What it says is `status`'s.

use std::time::Duration;

use jiff::Timestamp;
use kube::{Api, ResourceExt, runtime::controller::Action};

use super::{
    Context, Dependencies,
    error::Error,
    status::{self, Outcome},
};
use crate::{
    api_types::{TenantApiKey, api_key::TenantApiKeyStatus},
    domain::api_key::lifecycle::{Next, Step, Versions},
    kube_ext::status as status_ext,
};

/// How often a key is reconciled where nothing else asks for it: no watch delivers the deletion or the damage of its Secret.
/// A clock that was set, or a machine that slept, is noticed after this, too.
const SECRET_INTERVAL: Duration = Duration::from_secs(600);
/// The same where the Secret belongs to another owner, and the key waits for its end.
const CONFLICT_INTERVAL: Duration = Duration::from_secs(30);

/// Writes the status of a key that has ended.
pub(super) async fn write_end(
    key: &TenantApiKey,
    context: &Context,
    end: Step,
    now: Timestamp,
) -> Result<Action, Error> {
    context.state.forget(key);
    write_state(key, context, &Next { step: end, at: None }, now).await
}

/// Writes the status after a step that makes no version.
pub(super) async fn write_state(
    key: &TenantApiKey,
    context: &Context,
    next: &Next,
    now: Timestamp,
) -> Result<Action, Error> {
    let mut status = key.status.clone().unwrap_or_default();
    let (versions, outcome) = status::outcome(&next.step, &key.spec, &key.secret_name());
    let Versions { all, delivered } = versions;
    (status.versions, status.key_id) = (all, delivered);
    write_status(key, context, status, outcome, now).await?;
    let interval = match next.step {
        Step::Expire(_) | Step::Revoke | Step::EndWith { .. } => None,
        Step::Conflict(_) => Some(CONFLICT_INTERVAL),
        _ => Some(SECRET_INTERVAL),
    };
    let due = next.at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
    Ok(interval.into_iter().chain(due).min().map_or_else(Action::await_change, Action::requeue))
}

/// Writes what differs, and publishes its Events.
pub(super) async fn write_status(
    key: &TenantApiKey,
    context: &Context,
    status: TenantApiKeyStatus,
    outcome: Outcome,
    now: Timestamp,
) -> Result<Action, Error> {
    let Dependencies { client, events, .. } = &context.dependencies;
    let old = key.status.clone().unwrap_or_default();
    let new = status::next(&old, status, outcome, key.metadata.generation, now);
    let api: Api<TenantApiKey> = Api::namespaced(client.clone(), &key.namespace().unwrap_or_default());
    let written = status_ext::write(&api, key, key.status.as_ref(), &new).await;
    if written.map_err(|source| Error::WriteStatus { key: key.name_any(), source })?.is_some() {
        for event in status::events(&old, &new) {
            if event.warning {
                events.warning(key, event.reason, event.note);
            } else {
                events.normal(key, event.reason, event.note);
            }
        }
    }
    Ok(Action::await_change())
}
