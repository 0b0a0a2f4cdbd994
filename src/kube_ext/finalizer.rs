//! Finalizers: set and taken away under the resource version that was read, so that no other one is lost.

use std::fmt::Debug;

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use super::call::{CallError, within};

/// Whether the object carries the finalizer.
#[must_use]
pub fn has<K: Resource>(object: &K, finalizer: &str) -> bool {
    object.finalizers().iter().any(|f| f == finalizer)
}

/// Adds the finalizer; an object that has it is not written.
///
/// # Errors
/// [`CallError`]; a conflict (409) means that `object` is not the newest.
pub async fn add<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<(), CallError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    if has(object, finalizer) {
        return Ok(());
    }
    let all: Vec<&str> = object.finalizers().iter().map(String::as_str).chain([finalizer]).collect();
    set(api, object, &all).await
}

/// Takes the finalizer away; nothing is written when it is not there, and an object that is deleted is no error.
///
/// # Errors
/// [`CallError`]; a conflict (409) means that `object` is not the newest.
pub async fn remove<K>(api: &Api<K>, object: &K, finalizer: &str) -> Result<(), CallError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    if !has(object, finalizer) {
        return Ok(());
    }
    let rest: Vec<&str> =
        object.finalizers().iter().map(String::as_str).filter(|f| *f != finalizer).collect();
    match set(api, object, &rest).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}

async fn set<K>(api: &Api<K>, object: &K, finalizers: &[&str]) -> Result<(), CallError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let name = object.name_any();
    // The UID keeps a patch meant for one object from reaching a later one of that name.
    let patch = json!({"metadata": {
        "uid": object.uid(), "resourceVersion": object.resource_version(), "finalizers": finalizers,
    }});
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let call = api.patch_metadata(&name, &params, &patch);
    within(format!("failed to set the finalizers of {} {name}", K::kind(&())), call).await.map(drop)
}
