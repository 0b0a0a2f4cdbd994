//! Fourth step: the one write to a node. It fails if anything about the node has changed since it was decided.

use k8s_openapi::api::core::v1::Node;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};

use super::{Context, build::Change, dereference::Dereferenced, error::Error, prepare};
use crate::{domain::node_admission::facts::read, kube_ext::call::within, names};

/// Writes a change to a node; the node after it. A node that has changed or is deleted meanwhile (`None`) is no
/// failure: the watch delivers that.
pub(super) async fn apply(
    found: &Dereferenced,
    change: Option<&Change>,
    context: &Context,
) -> Result<Option<Node>, Error> {
    let (Some(change), node) = (change, &found.node) else { return Ok(None) };
    if let Some(group) = &change.admits {
        context.state().writes.begin_admission(node, group);
    }
    let name = node.name_any();
    let api: Api<Node> = Api::all(context.client.clone());
    let params = PatchParams { field_manager: Some(names::MANAGER.to_owned()), ..PatchParams::default() };
    let call = async { api.patch(&name, &params, &Patch::Merge(&change.patch)).await };
    let mut after = match within(format!("failed to {}", change.action), call).await {
        Ok(after) => after,
        Err(error) if error.is_conflict() || error.is_not_found() => return Ok(None),
        Err(source) => return Err(Error::Write { action: change.action.clone(), source }),
    };
    prepare(&mut after);
    if after.resource_version() == node.resource_version() {
        // Nothing was left to change, so the cache is not behind and no watch event follows.
        return Ok(None);
    }
    context.state().writes.answered(node, read(&after, &context.gpu_resource));
    Ok(Some(after))
}
