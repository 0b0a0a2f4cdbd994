//! One reconcile of a key: dereference, validate, build, apply, status.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Api, ResourceExt, runtime::controller::Action, runtime::reflector::ObjectRef};

use super::{
    Context, Dependencies, Error, secret,
    status::{self, Outcome},
    validate::{self, Refusal, Validated},
};
use crate::{
    api_types::{
        Reason, Tenant, TenantApiKey,
        api_key::{KeyVersion, TenantApiKeyStatus},
    },
    domain::api_key::{
        Key, Peppers, Seed,
        lifecycle::{self, Cause, Next, Step, Stored, Versions, View},
    },
    keys::pepper,
    kube_ext::{controller::ReconcileError, is_paused, status as status_ext},
};

/// The delay before a key is reconciled again after a step whose result the cache lacks still.
const CACHE_REQUEUE: Duration = Duration::from_millis(500);
/// A look at a Secret of somebody else, of whose end no watch tells.
const LOOK_AT_FOREIGN: Duration = Duration::from_secs(30);
/// A failure that may pass by itself is written into the status from this one in a row on.
const REPORTED_FAILURES: u32 = 3;
/// The longest timer: a clock that was set, or a machine that slept, is noticed after this.
const LONGEST_TIMER: Duration = Duration::from_secs(3600);

/// Brings a key's Secret and status in line with the key.
///
/// # Errors
/// [`Error`] when a call failed for another reason than that something has changed meanwhile; the failure is in the key's
/// status unless it may pass by itself within seconds.
pub async fn reconcile(key: Arc<TenantApiKey>, context: Arc<Context>) -> Result<Action, Error> {
    let result = context.reconciler.run(&*key, reconcile_key(&key, &context)).await;
    if let Err(error) = &result {
        report_failure(&key, &context, error).await;
    }
    result
}

/// Writes a failure into the key's status, unless it may pass by itself within seconds.
async fn report_failure(key: &TenantApiKey, context: &Context, error: &Error) {
    if error.is_transient() && context.reconciler.failures(key) + 1 < REPORTED_FAILURES {
        return;
    }
    let status = key.status.clone().unwrap_or_default();
    let outcome = Outcome::Working { reason: Reason::ApiError, message: error.to_string() };
    if let Err(error) = write(key, context, status, outcome, context.dependencies.clock.now()).await {
        tracing::debug!(key = key.name_any(), %error, "failed to write the failure into the status");
    }
}

/// When to try again after a failure.
#[expect(clippy::needless_pass_by_value, reason = "the signature that a Controller asks for")]
pub fn error_policy(key: Arc<TenantApiKey>, error: &Error, context: Arc<Context>) -> Action {
    context.reconciler.retry(&*key, error)
}

/// Dereferences, validates, builds, applies, and writes the status.
async fn reconcile_key(key: &TenantApiKey, context: &Context) -> Result<Action, Error> {
    let now = context.dependencies.clock.now();
    // What the cache holds of an unreadable key is out of date; `unreadable` looks after it.
    if context.invalid.contains(key) || key.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let old = key.status.clone().unwrap_or_default();
    if let Some(end) = lifecycle::end(&key.spec, &old, now) {
        context.state.forget(key);
        return state(key, context, &Next { step: end, at: None }, now).await;
    }
    // Nothing keeps a key from its end: it is revoked before its tenant goes.
    if is_paused(key) {
        return Ok(Action::await_change());
    }
    let valid = match validate::validate(key, tenant(key, context).as_deref()) {
        Ok(valid) => valid,
        Err(refusal) => return write(key, context, old, Outcome::Stalled(refusal), now).await,
    };
    let Some(peppers) = peppers(key, context).await? else {
        return Ok(Action::requeue(CACHE_REQUEUE));
    };
    let peppers = match peppers {
        Ok(peppers) => peppers,
        Err(refusal) => return write(key, context, old, Outcome::Stalled(refusal), now).await,
    };
    let found = secret::find(context, &valid, &old.versions, &peppers).await?;
    let at_hand = old.versions.first().and_then(|newest| context.state.at_hand(&valid.uid, &newest.key_id));
    let view = View {
        spec: &key.spec,
        rotate_every: valid.rotate_every,
        request: valid.request.as_deref(),
        status: &old,
        peppers: &peppers,
        stored: found.stored,
        at_hand: at_hand.is_some(),
        now,
    };
    let next = lifecycle::next(&view);
    match (&next.step, at_hand, &found.text) {
        (Step::Issue { cause, kept }, ..) => {
            issue(key, context, &valid, &peppers, *cause, kept.clone(), now).await
        }
        (Step::Deliver, Some(text), _) => {
            secret::write(context, &valid, &found, &text).await?;
            let next = lifecycle::next(&View { stored: Stored::Holds(text.id()), ..view });
            state(key, context, &next, now).await
        }
        (Step::Rehash, _, Some(text)) => rehash(key, context, &peppers, text, now).await,
        // Both are there whenever the step asks for them.
        (Step::Deliver | Step::Rehash, ..) => Ok(Action::requeue(CACHE_REQUEUE)),
        _ => state(key, context, &next, now).await,
    }
}

/// The tenant of the key's namespace, if the namespace is one's.
fn tenant(key: &TenantApiKey, context: &Context) -> Option<Arc<Tenant>> {
    let Dependencies { tenants, settings, .. } = &context.dependencies;
    let namespace = key.namespace()?;
    let tenant = tenants.get(&ObjectRef::new(namespace.strip_prefix(&settings.namespace_prefix)?))?;
    // The tenant controller writes the namespace only once it carries the tenant's UID.
    (tenant.status.as_ref()?.namespace.as_ref() == Some(&namespace)).then_some(tenant)
}

/// The peppers in force; `None` while that is not known yet. The first key has the pepper made.
async fn peppers(
    key: &TenantApiKey,
    context: &Context,
) -> Result<Option<Result<Arc<Peppers>, Refusal>>, Error> {
    let Dependencies { client, namespace, random, peppers, .. } = &context.dependencies;
    let known = peppers.borrow().clone();
    Ok(match known {
        pepper::State::InForce(peppers) => Some(Ok(peppers)),
        pepper::State::Pending => None,
        pepper::State::Absent => {
            tracing::info!(key = key.name_any(), "the first key: a pepper is made");
            pepper::create(client, namespace, random).await?;
            None
        }
        pepper::State::Unusable(why) => {
            let message = format!("Secret {} in {namespace}: {why}", crate::names::PEPPER_SECRET);
            Some(Err(Refusal { reason: Reason::PepperUnusable, message }))
        }
    })
}

/// Makes a version and writes its hash. Its text is delivered by the next reconcile, which comes when the watch has delivered this
/// write: then this process accepts the text before anybody can read it, and others are about to.
async fn issue(
    key: &TenantApiKey,
    context: &Context,
    valid: &Validated,
    peppers: &Peppers,
    cause: Cause,
    kept: Option<KeyVersion>,
    now: Timestamp,
) -> Result<Action, Error> {
    let Dependencies { random, metrics, .. } = &context.dependencies;
    let text = Key::new(&Seed::of(|bytes| random.fill(bytes))?);
    let Some(version) = lifecycle::version(&text, peppers, now) else {
        return Ok(Action::requeue(CACHE_REQUEUE));
    };
    let mut status = key.status.clone().unwrap_or_default();
    let id = version.key_id.clone();
    status.key_id = kept.as_ref().map(|kept| kept.key_id.clone());
    status.versions = [version].into_iter().chain(kept).collect();
    status.last_rotate_request = valid.request.clone().or(status.last_rotate_request);
    let message = status::issuing(cause, &id, &valid.secret_name);
    let reason = if cause == Cause::Restored { Reason::SecretDamaged } else { Reason::KeyIssuing };
    write(key, context, status, Outcome::Working { reason, message }, now).await?;
    context.state.hold(&valid.uid, text);
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

async fn rehash(
    key: &TenantApiKey,
    context: &Context,
    peppers: &Peppers,
    text: &Key,
    now: Timestamp,
) -> Result<Action, Error> {
    let mut status = key.status.clone().unwrap_or_default();
    let own = status.versions.iter_mut().find(|version| version.key_id == text.id().as_str());
    if let Some(version) = own {
        *version = lifecycle::rehashed(version, text, peppers);
    }
    let conditions = Outcome::Unchanged;
    tracing::info!(key = key.name_any(), namespace = key.namespace(), pepper = %peppers.newest(), "a key was hashed anew");
    write(key, context, status, conditions, now).await
}

/// Says how the key stands after a step that leaves it where it is.
async fn state(key: &TenantApiKey, context: &Context, next: &Next, now: Timestamp) -> Result<Action, Error> {
    let mut status = key.status.clone().unwrap_or_default();
    let secret = key.secret_name();
    let (versions, outcome) = status::outcome(&next.step, &key.spec, &secret);
    let Versions { all, delivered } = versions;
    (status.versions, status.key_id) = (all, delivered);
    write(key, context, status, outcome, now).await?;
    let foreign = matches!(next.step, Step::Conflict(_)).then_some(LOOK_AT_FOREIGN);
    let due = next.at.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
    let wait = foreign.into_iter().chain(due).min();
    Ok(wait.map_or_else(Action::await_change, |wait| Action::requeue(wait.min(LONGEST_TIMER))))
}

/// Writes what is new, and tells of it.
async fn write(
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
    if status_ext::write(&api, key, key.status.as_ref(), &new).await?.is_some() {
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
