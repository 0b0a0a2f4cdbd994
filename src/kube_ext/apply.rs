//! Children by server-side apply, and their deletion.

use std::fmt::Debug;

use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};

use super::call::{CallError, within, within_opt};
use crate::names;

/// Applies `desired` as the field manager `crofter`, and takes back the fields that other clients have changed.
///
/// # Errors
/// [`CallError`].
pub async fn apply<K>(api: &Api<K>, desired: &K) -> Result<K, CallError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Serialize,
{
    let name = desired.name_any();
    let params = PatchParams::apply(names::MANAGER).force();
    within(
        format!("failed to apply {} {name}", K::kind(&())),
        api.patch(&name, &params, &Patch::Apply(desired)),
    )
    .await
}

/// Deletes the object of that name if it still has this UID; an absent object, or one with another UID, is left as it is.
///
/// # Errors
/// [`CallError`] for everything but absent (404) and another UID (409).
pub async fn delete_exactly<K>(
    api: &Api<K>,
    name: &str,
    uid: &str,
    grace: Option<u32>,
) -> Result<(), CallError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let params = DeleteParams {
        grace_period_seconds: grace,
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::background()
    };
    match within_opt(format!("failed to delete {} {name}", K::kind(&())), api.delete(name, &params)).await {
        Err(error) if error.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}
