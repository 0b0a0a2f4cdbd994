//! Calls to the API server, whose refusals become errors of the command line.

use std::fmt::Debug;

use kube::{
    Api, Error as KubeError,
    api::{Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::MANAGER;
use crate::{
    client::error::{Error, Kind, Result},
    kube_ext::{CallError, within},
};

/// The code of an error of an object that was changed meanwhile, or exists already.
pub const CONFLICT: &str = "conflict";

/// An error in the usual form.
pub fn failed(what: &str, kind: Kind, cause: &str) -> Error {
    Error::new(kind, format!("failed to {what}: {cause}"))
}

/// The error of a call.
fn refused(what: &str, error: &CallError) -> Error {
    let (code, cause) = (error.code(), error.refusal().map_or_else(|| error.cause(), str::to_owned));
    match code {
        Some(401 | 403) => failed(what, Kind::Denied, &cause).next("whoami"),
        Some(409) => Error { code: Some(CONFLICT.to_owned()), ..failed(what, Kind::Refused, &cause) },
        // The CRDs are not installed, or the object does not exist.
        Some(code) => failed(what, Kind::of_status(code), &cause),
        None => failed(what, Kind::Unreachable, &cause).next("login --server URL"),
    }
}

/// The result of a call, under the deadline of all calls.
pub async fn called<T>(
    what: &str,
    call: impl Future<Output = std::result::Result<T, KubeError>>,
) -> Result<T> {
    within("", call).await.map_err(|error| refused(what, &error))
}

/// Merges a change into an object.
pub async fn merged<K>(what: &str, api: &Api<K>, name: &str, change: Value) -> Result<K>
where
    K: Clone + DeserializeOwned + Debug,
{
    let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
    called(what, api.patch(name, &params, &Patch::Merge(change))).await
}
