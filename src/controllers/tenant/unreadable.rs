//! Tenants that are stored in a form that can't be read (by hand, or under another schema).
//!
//! They stop nobody else. Each gets a `Stalled`/`InvalidObject` condition with the decoder's words, and can be deleted:
//! what deletion needs is read leniently from the raw object.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, DynamicObject},
    core::{PartialObjectMeta, PartialObjectMetaExt},
    runtime::controller::Action,
};
use serde_json::{Value, json};

use super::{
    Context,
    deletion::{self, Leaving, Progress},
    error::Error,
    validate::Owner,
};
use crate::{
    api_types::{
        Reason, Tenant,
        conditions::{self, Wanted},
        tenant::TenantPhase,
    },
    domain::tenant_state,
    kube_ext::{call::within_opt, finalizer, status},
    names,
};

/// The metadata of a tenant, which can always be read.
pub(super) type TenantMeta = PartialObjectMeta<Tenant>;

/// Between two looks at a deletion: what it waits for is not mapped to unreadable tenants.
const DELETION_INTERVAL: Duration = Duration::from_secs(5);

/// Looks after one tenant that did not decode.
pub(super) async fn reconcile(tenant: Arc<TenantMeta>, context: Arc<Context>) -> Result<Action, Error> {
    let name = tenant.name_any();
    match pass(&name, &context).await {
        Err(error) if error.is_conflict() => Ok(Action::requeue(DELETION_INTERVAL)),
        Ok(action) => {
            context.memory.succeeded(&name);
            Ok(action)
        }
        failed => failed,
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that a Controller asks for")]
pub(super) fn error_policy(tenant: Arc<TenantMeta>, error: &Error, context: Arc<Context>) -> Action {
    let name = tenant.name_any();
    let wait = context.memory.failed(&name);
    tracing::warn!(tenant = name, category = error.category(), %error, ?wait, "an unreadable tenant");
    Action::requeue(wait)
}

async fn pass(name: &str, context: &Context) -> Result<Action, Error> {
    let client = &context.dependencies.client;
    let raw: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<Tenant>(&()));
    let Some(object) = within_opt(format!("reading Tenant {name}"), raw.get(name)).await? else {
        return Ok(Action::await_change());
    };
    let Err(error) = serde_json::from_value::<Tenant>(serde_json::to_value(&object)?) else {
        // It was mended meanwhile; the watch tells of that as well.
        return Ok(Action::await_change());
    };
    let meta: TenantMeta = object.metadata.clone().into_request_partial();
    let mut abnormal = Wanted::yes(
        conditions::STALLED,
        Reason::InvalidObject,
        format!("the tenant, as stored, can't be read: {error}; apply it again in the form of the schema"),
    );
    let mut action = Action::await_change();
    if let Some(leaving) = leaving(&meta, &object.data, context) {
        match deletion::advance(context, &leaving).await? {
            Progress::Done => {
                let api: Api<TenantMeta> = Api::all(client.clone());
                finalizer::remove(&api, &meta, names::FINALIZER_TENANT).await?;
                tracing::info!(tenant = name, "deletion: nothing of the unreadable tenant is left");
                return Ok(action);
            }
            Progress::Waiting { message, .. } => {
                abnormal = Wanted::yes(conditions::RECONCILING, Reason::Terminating, message);
                action = Action::requeue(DELETION_INTERVAL);
            }
        }
    }
    write_conditions(&meta, &object.data, context, abnormal).await?;
    Ok(action)
}

/// What deletion needs to know, when it was asked for and nothing prevents it.
fn leaving(meta: &TenantMeta, data: &Value, context: &Context) -> Option<Leaving> {
    let name = meta.name_any();
    let prevented = data.pointer("/spec/preventDeletion") == Some(&Value::Bool(true));
    let due = meta.meta().deletion_timestamp.is_some()
        && finalizer::has(meta, names::FINALIZER_TENANT)
        && tenant_state::deletion_prevented(&name, prevented).is_none();
    due.then(|| Leaving {
        owner: Owner {
            namespace: names::namespace(&context.dependencies.settings.namespace_prefix, &name),
            uid: meta.uid().unwrap_or_default(),
            name,
        },
        retain: data.pointer("/spec/deletionPolicy").and_then(Value::as_str) == Some("Retain"),
        wait_for_workers: false,
    })
}

async fn write_conditions(
    meta: &TenantMeta,
    data: &Value,
    context: &Context,
    abnormal: Wanted,
) -> Result<(), Error> {
    let told = abnormal.clone();
    let leaves = told.reason == Reason::Terminating;
    let wanted = vec![
        Wanted::no(conditions::READY, told.reason, told.message.clone()),
        Wanted::no(conditions::ACTIVE, told.reason, told.message.clone()),
        abnormal,
    ];
    let old_status = data.get("status").cloned().unwrap_or(Value::Null);
    let old = old_status.get("conditions").cloned().unwrap_or_default();
    // Conditions that can't be read are written anew.
    let old = serde_json::from_value::<Vec<_>>(old).unwrap_or_default();
    let generation = meta.meta().generation;
    let merged = conditions::merge(&old, wanted, generation, context.dependencies.clock.now());
    let mut new = old_status.as_object().cloned().unwrap_or_default();
    new.insert("conditions".to_owned(), serde_json::to_value(merged)?);
    new.insert("observedGeneration".to_owned(), json!(generation));
    if leaves {
        new.insert("phase".to_owned(), json!(TenantPhase::Terminating));
    }
    let api: Api<TenantMeta> = Api::all(context.dependencies.client.clone());
    if status::write(&api, meta, Some(&old_status), &Value::Object(new)).await?.is_some() {
        let events = &context.dependencies.events;
        if leaves {
            events.normal(meta, told.reason, told.message).await;
        } else {
            events.warning(meta, told.reason, told.message).await;
        }
    }
    Ok(())
}
