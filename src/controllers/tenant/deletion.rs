//! The end of a tenant, step by step, each repeatable and none waiting inside.
//!
//! Cancel the jobs, wait until their pods are deleted, revoke the API keys, wait until the workers are released, delete
//! the namespace (or, on Retain, remove our labels and children from it). It needs nothing of the spec but the deletion
//! policy, so a tenant whose spec is not understood any more can go as well.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};
use serde_json::json;

use super::{
    Context, Dependencies,
    apply::{self, Found},
    error::Error,
    status::Outcome,
    validate::Owner,
    write_status::write_status,
};
use crate::{
    api_types::{Job, Reason, Tenant, TenantApiKey, tenant::DeletionPolicy},
    domain::{attempt, job_state::is_terminal, tenant_state::PhaseDecision, worker},
    kube_ext::{call::within_opt, courtesy::Courtesy, finalizer},
    names,
};

/// The progress within one step of a deletion is written at most this often.
const STEP_INTERVAL: Duration = Duration::from_secs(5);
/// Jobs canceled at a time.
const CANCELS: usize = 8;
/// Names listed in a message.
const NAMES: usize = 3;

/// What the deletion of a tenant needs to know.
#[derive(Clone, Debug)]
pub(super) struct DeletionPlan {
    pub(super) owner: Owner,
    /// The namespace stays.
    pub(super) retain: bool,
    /// The node controller sees the deletion, and releases the workers. It does not see that of a tenant that can't be
    /// read, whose workers are released once the tenant is deleted.
    pub(super) wait_for_workers: bool,
}

/// How far a deletion is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Something else has to happen first.
    Waiting { step: &'static str, message: String },
    /// Nothing of the tenant is left.
    Done,
}

/// Advances the deletion of a tenant as far as it can now, and writes its progress.
pub(super) async fn terminate(
    tenant: &Tenant,
    context: &Context,
    phase: PhaseDecision,
) -> Result<Action, Error> {
    if !finalizer::has(tenant, names::FINALIZER_TENANT) {
        // A foreign finalizer holds it; nothing of ours is left.
        return Ok(Action::await_change());
    }
    let plan = DeletionPlan {
        owner: Owner::of(tenant, &context.dependencies.settings),
        retain: tenant.spec.deletion_policy == DeletionPolicy::Retain,
        wait_for_workers: true,
    };
    let name = &plan.owner.name;
    let (step, message) = match advance(context, &plan).await? {
        Progress::Waiting { step, message } => (step, message),
        Progress::Done => {
            let api: Api<Tenant> = Api::all(context.dependencies.client.clone());
            let removed = finalizer::remove(&api, tenant, names::FINALIZER_TENANT).await;
            removed.map_err(|source| Error::RemoveFinalizer { tenant: name.clone(), source })?;
            tracing::info!(tenant = name, "deletion: nothing of the tenant is left");
            return Ok(Action::await_change());
        }
    };
    match context.state.step(name) {
        Some((reported, ago)) if reported == step => {
            let Dependencies { courtesy, clock, .. } = &context.dependencies;
            if ago < STEP_INTERVAL || !courtesy.try_take(Courtesy::TenantStatus, clock.steady()) {
                return Ok(Action::requeue(STEP_INTERVAL));
            }
        }
        _ => tracing::info!(tenant = name, step, "deletion: {message}"),
    }
    context.state.recorded_step(name, step);
    write_status(tenant, context, phase, Outcome::Working { reason: Reason::Terminating, message }).await
}

/// Does what can be done now of a deletion.
pub(super) async fn advance(context: &Context, plan: &DeletionPlan) -> Result<Progress, Error> {
    let DeletionPlan { owner, retain, wait_for_workers } = plan;
    let client = &context.dependencies.client;
    let found = apply::find_namespace(client, owner).await?;
    if let Found::Ours(_) = found {
        cancel_jobs(context, owner).await?;
    }
    if let Some(message) = pods_left(context, owner) {
        return Ok(Progress::Waiting { step: "pods", message });
    }
    if let Found::Ours(_) = found {
        revoke_keys(context, owner).await?;
    }
    if let Some(message) = workers_left(context, owner).filter(|_| *wait_for_workers) {
        return Ok(Progress::Waiting { step: "workers", message });
    }
    let namespace = match found {
        Found::Ours(namespace) if *retain => {
            apply::remove_all(context, owner).await?;
            disown(context, owner, &namespace).await?;
            return Ok(Progress::Done);
        }
        Found::Ours(namespace) => {
            let api: Api<Namespace> = Api::all(client.clone());
            apply::delete(&api, &owner.namespace, &namespace.uid().unwrap_or_default()).await?;
            namespace
        }
        Found::Terminating(namespace) => namespace,
        Found::Absent | Found::Foreign(_) => return Ok(Progress::Done),
    };
    let message = format!("waiting for namespace {} to be deleted{}", owner.namespace, holdup(&namespace));
    Ok(Progress::Waiting { step: "namespace", message })
}

async fn cancel_jobs(context: &Context, owner: &Owner) -> Result<(), Error> {
    let ended = |job: &Job| job.status.as_ref().is_some_and(|status| is_terminal(status.phase));
    let jobs = context.dependencies.jobs.state();
    let due = jobs.into_iter().filter(|job| {
        job.namespace().as_ref() == Some(&owner.namespace) && !job.spec.canceled && !ended(job)
    });
    let api: Api<Job> = Api::namespaced(context.dependencies.client.clone(), &owner.namespace);
    let cancel = |job: std::sync::Arc<Job>| {
        let api = api.clone();
        async move {
            let name = job.name_any();
            let patch = json!({"metadata": {"uid": job.uid()}, "spec": {"canceled": true}});
            let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
            let call = within_opt(format!("failed to cancel Job {name}"), api.patch(&name, &params, &patch));
            match call.await {
                // Another job has the name meanwhile, which is not to be canceled.
                Err(error) if error.is_conflict() => Ok(()),
                other => other.map(drop).map_err(|source| Error::CancelJob { job: name, source }),
            }
        }
    };
    stream::iter(due).map(cancel).buffer_unordered(CANCELS).try_collect().await
}

/// Revokes the keys, which also a namespace that stays leaves without effect. Until then a key reads how its jobs end.
async fn revoke_keys(context: &Context, owner: &Owner) -> Result<(), Error> {
    let keys = context.dependencies.keys.state();
    let due = keys
        .into_iter()
        .filter(|key| key.namespace().as_ref() == Some(&owner.namespace) && !key.spec.revoked);
    let api: Api<TenantApiKey> = Api::namespaced(context.dependencies.client.clone(), &owner.namespace);
    for key in due {
        let name = key.name_any();
        tracing::info!(key = name, namespace = owner.namespace, "deletion: revoking a key");
        let patch = json!({"metadata": {"uid": key.uid()}, "spec": {"revoked": true}});
        let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
        match within_opt(format!("failed to revoke TenantApiKey {name}"), api.patch(&name, &params, &patch))
            .await
        {
            // Another key has the name meanwhile; the next reconcile revokes it.
            Err(error) if error.is_conflict() => (),
            other => drop(other.map_err(|source| Error::RevokeKey { key: name, source })?),
        }
    }
    Ok(())
}

/// Pods that may still run, or whose use is not counted yet. Those that have ended are deleted with the namespace.
fn pods_left(context: &Context, owner: &Owner) -> Option<String> {
    let pods = context.dependencies.pods.state();
    let under_way = |pod: &Pod| finalizer::has(pod, names::FINALIZER_ACCOUNTED) || !attempt::is_over(pod);
    let ours = pods.iter().filter(|pod| {
        pod.namespace().as_ref() == Some(&owner.namespace)
            && pod.labels().get(names::LABEL_TENANT_UID) == Some(&owner.uid)
    });
    let left = ours.filter(|pod| under_way(pod));
    some_of(left.map(|pod| pod.name_any()).collect()).map(|which| format!("waiting for pods to end: {which}"))
}

fn workers_left(context: &Context, owner: &Owner) -> Option<String> {
    let nodes = context.dependencies.nodes.state();
    let left = nodes.iter().filter(|node| worker::carries(node, &owner.name));
    some_of(left.map(|node| node.name_any()).collect())
        .map(|which| format!("waiting for workers to be released: {which}"))
}

/// `3 (a, b, c)`; `None` of nothing.
fn some_of(mut names: Vec<String>) -> Option<String> {
    let count = names.len();
    names.sort_unstable();
    names.truncate(NAMES);
    let more = if count > NAMES { ", …" } else { "" };
    (count > 0).then(|| format!("{count} ({}{more})", names.join(", ")))
}

/// What the API server says keeps a namespace from being deleted.
fn holdup(namespace: &Namespace) -> String {
    let conditions = namespace.status.as_ref().and_then(|status| status.conditions.as_deref());
    let said = conditions.unwrap_or_default().iter().filter(|condition| condition.status == "True");
    said.filter_map(|condition| condition.message.as_ref()).map(|message| format!("; {message}")).collect()
}

/// Takes our labels off a namespace that stays. Its Pod Security labels stay: what runs there is held to them.
async fn disown(context: &Context, owner: &Owner, namespace: &Namespace) -> Result<(), Error> {
    let api: Api<Namespace> = Api::all(context.dependencies.client.clone());
    let labels = json!({
        names::LABEL_MANAGED_BY: null, names::LABEL_TENANT: null, names::LABEL_TENANT_UID: null,
    });
    let patch = json!({"metadata": {"uid": namespace.uid(), "labels": labels}});
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let call = api.patch(&owner.namespace, &params, &patch);
    let done =
        within_opt(format!("failed to remove the labels of Namespace {}", owner.namespace), call).await;
    done.map(drop).map_err(|source| Error::DisownNamespace { namespace: owner.namespace.clone(), source })
}
