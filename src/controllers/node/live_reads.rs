//! Second step: what is asked of the API server itself, because a cache that lags, or lacks what can't be decoded,
//! would say that something is deleted that is not.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt, api::ListParams};

use super::{
    Context,
    dereference::{Dereferenced, live},
    error::Error,
    report,
};
use crate::{
    api_types::{Reason, Tenant},
    domain::{job_pod::JobPod, node_admission::Step, worker},
    kube_ext::call::{within, within_opt},
    names,
};

/// Whether a step may be taken as far as the API server says: a node is drained of others' pods before it is admitted to
/// a group, and of all before it loses its taint, and a tenant is deleted before its nodes are released or refused for that.
pub(super) async fn confirm(found: &Dereferenced, step: &Step, context: &Context) -> Result<bool, Error> {
    let node = &found.node;
    if found.needs_fence(step) {
        return Ok(true);
    }
    match step {
        // Admitted already: only its taint is put right.
        Step::Admit { group } if worker::label(node, names::NODE_ADMITTED) == Some(group) => Ok(true),
        // Also one without a taint: a node that was created again under its name has none, and the pods of the one before.
        Step::Admit { group } => is_drained(node, Some(group), context).await,
        Step::Free { .. } => is_drained(node, None, context).await,
        Step::Release { group, because } => {
            let is_deleted = because.as_ref().is_some_and(|refusal| refusal.reason == Reason::NoSuchTenant);
            let is_own = worker::label(node, names::NODE_TENANT) == Some(group);
            Ok(!(is_deleted && is_own && tenant_exists(group, context).await?))
        }
        Step::Refuse(refusal)
            if refusal.reason == Reason::NoSuchTenant && !report::is_reported(node, refusal, context) =>
        {
            match worker::label(node, names::NODE_TENANT) {
                Some(tenant) => Ok(!tenant_exists(tenant, context).await?),
                None => Ok(true),
            }
        }
        Step::Refuse(_) | Step::Keep | Step::Leave | Step::Wait(_) => Ok(true),
    }
}

/// Asks the API server whether no job pod but those of `group` is left on a node.
async fn is_drained(node: &Node, group: Option<&String>, context: &Context) -> Result<bool, Error> {
    let name = node.name_any();
    let ours = format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGER);
    let params = ListParams::default().fields(&format!("spec.nodeName={name}")).labels(&ours);
    let api = Api::<Pod>::all(context.client.clone());
    let pods =
        within(format!("failed to list the job pods on Node {name}"), async { api.list(&params).await })
            .await
            .map_err(|source| Error::ListPods { node: name, source })?;
    let own = pods.iter().filter(|pod| JobPod::of(&pod.metadata, &context.namespace_prefix).is_some());
    Ok(live(own).keys().all(|owner| Some(owner) == group))
}

/// Asks the API server whether a tenant of that name exists, readable or not.
async fn tenant_exists(tenant: &str, context: &Context) -> Result<bool, Error> {
    let api = Api::<Tenant>::all(context.client.clone());
    let call = async { api.get_metadata(tenant).await };
    let found = within_opt(format!("failed to read Tenant {tenant}"), call).await;
    let found = found.map_err(|source| Error::ReadTenant { tenant: tenant.to_owned(), source })?;
    Ok(found.is_some())
}
