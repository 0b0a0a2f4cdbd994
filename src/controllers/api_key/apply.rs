//! Fourth step: a version is issued, delivered into the Secret of its key, or hashed again.

use std::time::Duration;

use jiff::Timestamp;
use kube::{ResourceExt, runtime::controller::Action};

use super::{
    Context, Dependencies,
    dereference::Dereferenced,
    error::Error,
    reconcile_state::ReconcileState,
    secret,
    status::{self, Outcome},
    validate::Validated,
    write_status::{write_state, write_status},
};
use crate::{
    api_types::{
        Reason, TenantApiKey,
        api_key::{KeyVersion, TenantApiKeyStatus},
    },
    domain::api_key::{
        Key, Peppers, Seed,
        lifecycle::{self, Cause, Next, Step, Stored, View},
    },
};

/// The delay before a key is reconciled again after a step whose result the cache lacks still.
pub(super) const CACHE_REQUEUE: Duration = Duration::from_millis(500);

/// A valid key with all that its next step works on.
pub(super) struct Work<'a> {
    key: &'a TenantApiKey,
    valid: &'a Validated,
    status: &'a TenantApiKeyStatus,
    peppers: &'a Peppers,
    secret: secret::Found,
    /// The token of the newest version, where it is to be delivered.
    at_hand: Option<Key>,
    now: Timestamp,
}

impl<'a> Work<'a> {
    pub(super) fn new(
        key: &'a TenantApiKey,
        valid: &'a Validated,
        found: &'a Dereferenced,
        peppers: &'a Peppers,
        secret: secret::Found,
        state: &ReconcileState,
    ) -> Self {
        let newest = found.status.versions.first();
        let at_hand = newest.and_then(|newest| state.at_hand(&valid.uid, &newest.key_id));
        Self { key, valid, status: &found.status, peppers, secret, at_hand, now: found.now }
    }

    /// The same, for [`lifecycle`].
    pub(super) fn view(&self) -> View<'_> {
        View {
            spec: &self.key.spec,
            rotate_every: self.valid.rotate_every,
            request: self.valid.request.as_deref(),
            status: self.status,
            peppers: self.peppers,
            stored: self.secret.stored,
            at_hand: self.at_hand.is_some(),
            now: self.now,
        }
    }
}

/// Carries a step out, and writes the status that it leads to.
pub(super) async fn apply(work: &Work<'_>, next: &Next, context: &Context) -> Result<Action, Error> {
    match (&next.step, &work.at_hand, &work.secret.token) {
        (Step::Issue { cause, kept }, ..) => issue(work, *cause, kept.clone(), context).await,
        (Step::Deliver, Some(token), _) => {
            secret::write(context, work.valid, &work.secret, token).await?;
            let next = lifecycle::next(&View { stored: Stored::Holds(token.id()), ..work.view() });
            write_state(work.key, context, &next, work.now).await
        }
        (Step::Rehash, _, Some(token)) => rehash(work, token, context).await,
        // Both exist whenever the step asks for them.
        (Step::Deliver | Step::Rehash, ..) => Ok(Action::requeue(CACHE_REQUEUE)),
        _ => write_state(work.key, context, next, work.now).await,
    }
}

/// Makes a version and writes its hash. Its token is delivered by the next reconcile, which comes when the watch has
/// delivered this write: then this process accepts the token before a client can read it, and others are about to.
async fn issue(
    work: &Work<'_>,
    cause: Cause,
    kept: Option<KeyVersion>,
    context: &Context,
) -> Result<Action, Error> {
    let Dependencies { random, metrics, .. } = &context.dependencies;
    let Work { key, valid, peppers, now, .. } = work;
    let seed = Seed::of(|bytes| random.fill(bytes));
    let token = Key::new(&seed.map_err(|source| Error::MakeToken { key: valid.name.clone(), source })?);
    let Some(version) = lifecycle::version(&token, peppers, *now) else {
        return Ok(Action::requeue(CACHE_REQUEUE));
    };
    let mut status = work.status.clone();
    let id = version.key_id.clone();
    status.key_id = kept.as_ref().map(|kept| kept.key_id.clone());
    status.versions = [version].into_iter().chain(kept).collect();
    status.last_rotate_request = valid.request.clone().or(status.last_rotate_request);
    let message = status::issuing(cause, &id, &valid.secret_name);
    let reason = if cause == Cause::Restored { Reason::SecretDamaged } else { Reason::KeyIssuing };
    write_status(key, context, status, Outcome::Working { reason, message }, *now).await?;
    context.state.hold(&valid.uid, token);
    metrics.key_issued(cause.into());
    let cause: &str = cause.into();
    tracing::info!(
        key = valid.name,
        namespace = valid.namespace,
        key_id = id,
        cause,
        "a version of a key was made"
    );
    Ok(Action::requeue(CACHE_REQUEUE))
}

/// Writes the hash of a delivered version under the newest pepper.
async fn rehash(work: &Work<'_>, token: &Key, context: &Context) -> Result<Action, Error> {
    let Work { key, peppers, .. } = work;
    let mut status = work.status.clone();
    let own = status.versions.iter_mut().find(|version| version.key_id == token.id().as_str());
    if let Some(version) = own {
        *version = lifecycle::rehashed(version, token, peppers);
    }
    tracing::info!(key = key.name_any(), namespace = key.namespace(), pepper = %peppers.newest(), "a key was hashed again");
    write_status(key, context, status, Outcome::Unchanged, work.now).await
}
