//! Tenants that are stored in a form that can't be read (by hand, or under another schema).
//!
//! They stop no other client. Each gets a `Stalled`/`InvalidObject` condition with the decoder's words, and can be
//! deleted: what deletion needs is read leniently from the raw object.

use std::{sync::Arc, time::Duration};

use kube::{
    Api, Resource, ResourceExt,
    api::{ApiResource, DynamicObject},
    runtime::controller::Action,
};
use serde_json::{Value, json};

use super::{
    Context,
    deletion::{self, DeletionPlan, Progress},
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
    kube_ext::{
        finalizer,
        invalid::{self, Meta, Raw},
        status::StatusError,
    },
    names,
};

/// The metadata of a tenant, which can always be read.
pub(super) type TenantMeta = Meta<Tenant>;

/// How often a deletion is advanced: the objects that it waits for are not mapped to unreadable tenants.
const DELETION_INTERVAL: Duration = Duration::from_secs(5);

/// Reports on a tenant that it can't be read, and advances its deletion.
pub(super) async fn reconcile(tenant: Arc<TenantMeta>, context: Arc<Context>) -> Result<Action, Error> {
    context.reconciler.run(&*tenant, reconcile_invalid(&tenant.name_any(), &context)).await
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that a Controller asks for")]
pub(super) fn error_policy(tenant: Arc<TenantMeta>, error: &Error, context: Arc<Context>) -> Action {
    context.reconciler.retry(&*tenant, error)
}

async fn reconcile_invalid(name: &str, context: &Context) -> Result<Action, Error> {
    let client = &context.dependencies.client;
    let api: Api<DynamicObject> = Api::all_with(client.clone(), &ApiResource::erase::<Tenant>(&()));
    let failed = |source| Error::ReportInvalid { tenant: name.to_owned(), source };
    let Some(raw) = invalid::read(&api, name).await.map_err(failed)? else {
        return Ok(Action::await_change());
    };
    let (meta, error) = (&raw.meta, &raw.error);
    let mut abnormal = Wanted::yes(
        conditions::STALLED,
        Reason::InvalidObject,
        format!("the tenant, as stored, can't be read: {error}; apply it again in the form of the schema"),
    );
    let mut action = Action::await_change();
    if let Some(plan) = deletion_plan(meta, &raw.data, context) {
        match deletion::advance(context, &plan).await? {
            Progress::Done => {
                let api: Api<TenantMeta> = Api::all(client.clone());
                let removed = finalizer::remove(&api, meta, names::FINALIZER_TENANT).await;
                removed.map_err(|source| Error::RemoveFinalizer { tenant: name.to_owned(), source })?;
                tracing::info!(tenant = name, "deletion: nothing of the invalid tenant is left");
                return Ok(action);
            }
            Progress::Waiting { message, .. } => {
                abnormal = Wanted::yes(conditions::RECONCILING, Reason::Terminating, message);
                action = Action::requeue(DELETION_INTERVAL);
            }
        }
    }
    write_conditions(&raw, context, abnormal).await.map_err(failed)?;
    Ok(action)
}

/// What deletion needs to know, when it was asked for and nothing prevents it.
fn deletion_plan(meta: &TenantMeta, data: &Value, context: &Context) -> Option<DeletionPlan> {
    let name = meta.name_any();
    let prevented = data.pointer("/spec/preventDeletion") == Some(&Value::Bool(true));
    let due = meta.meta().deletion_timestamp.is_some()
        && finalizer::has(meta, names::FINALIZER_TENANT)
        && tenant_state::deletion_prevented(prevented).is_none();
    due.then(|| DeletionPlan {
        owner: Owner {
            namespace: names::namespace(&context.dependencies.settings.namespace_prefix, &name),
            uid: meta.uid().unwrap_or_default(),
            name,
        },
        retain: data.pointer("/spec/deletionPolicy").and_then(Value::as_str) == Some("Retain"),
        wait_for_workers: false,
    })
}

async fn write_conditions(raw: &Raw<Tenant>, context: &Context, abnormal: Wanted) -> Result<(), StatusError> {
    let reported = abnormal.clone();
    let is_deleted = reported.reason == Reason::Terminating;
    let wanted = vec![
        Wanted::no(conditions::READY, reported.reason, reported.message.clone()),
        Wanted::no(conditions::ACTIVE, reported.reason, reported.message.clone()),
        abnormal,
    ];
    let phase = if is_deleted { TenantPhase::Terminating } else { TenantPhase::Stalled };
    let more = [("phase".to_owned(), json!(phase))];
    let api: Api<TenantMeta> = Api::all(context.dependencies.client.clone());
    let now = context.dependencies.clock.now();
    if invalid::write_status(&api, raw, wanted, &[], more.into_iter().collect(), now).await? {
        let events = &context.dependencies.events;
        if is_deleted {
            events.normal(&raw.meta, reported.reason, reported.message);
        } else {
            events.warning(&raw.meta, reported.reason, reported.message);
        }
    }
    Ok(())
}
