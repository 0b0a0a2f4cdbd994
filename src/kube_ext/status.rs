//! Status by merge-patch, and only where something changed.
//!
//! A merge-patch costs the API server half of what server-side apply does. The patch holds just the fields that
//! differ, and the resource version that they were computed from: a status computed from an old object is refused
//! (409) instead of overwriting a newer one.

use std::fmt::Debug;

use kube::{
    Api, Resource, ResourceExt,
    api::{Patch, PatchParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use super::call::{CallError, within};

/// Why a status was not written.
#[derive(Debug, thiserror::Error)]
pub enum StatusError {
    /// The status can't be put into JSON.
    #[error("serialising the status: {0}")]
    Serialise(#[from] serde_json::Error),
    /// The API server refused it.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Writes `new` where it differs from `old`, the status of `object`. `None` when nothing differs.
///
/// # Errors
/// [`StatusError`]; a conflict (409) means that `object` is not the newest and the reconcile should run again.
pub async fn write<K, S>(api: &Api<K>, object: &K, old: Option<&S>, new: &S) -> Result<Option<K>, StatusError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
    S: Serialize + PartialEq,
{
    if old == Some(new) {
        return Ok(None);
    }
    let Some(difference) = merge_diff(&serde_json::to_value(old)?, &serde_json::to_value(new)?) else {
        return Ok(None);
    };
    let name = object.name_any();
    let patch = json!({"metadata": {"resourceVersion": object.resource_version()}, "status": difference});
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let call = api.patch_status(&name, &params, &patch);
    Ok(Some(within(format!("failed to write the status of {} {name}", K::kind(&())), call).await?))
}

/// The merge-patch (RFC 7386) that turns `old` into `new`; `None` when they are equal.
fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for removed in before.keys().filter(|key| !after.contains_key(*key)) {
        patch.insert(removed.clone(), Value::Null);
    }
    for (key, value) in after {
        if let Some(difference) = merge_diff(before.get(key).unwrap_or(&Value::Null), value) {
            patch.insert(key.clone(), difference);
        }
    }
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_differences_are_patched_and_a_removed_field_becomes_null() {
        let old = json!({"phase": "Queued", "node": "a", "usage": {"jobs": 1, "gpus": 0}, "list": [1]});
        let new = json!({"phase": "Queued", "usage": {"jobs": 2, "gpus": 0}, "list": [1, 2]});
        assert_eq!(merge_diff(&old, &new), Some(json!({"node": null, "usage": {"jobs": 2}, "list": [1, 2]})));
        assert_eq!(merge_diff(&new, &new), None);
        assert_eq!(merge_diff(&Value::Null, &new), Some(new.clone()));
    }
}
