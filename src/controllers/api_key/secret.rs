//! First and fourth step: the key's Secret as it is, and the token that is written into it.
//!
//! A Secret is the key's when the API server has its owner reference with the key's UID. It is made by `create`, which
//! fails where one exists, and changed under the UID and version that were read, so that no race lets a foreign one
//! be touched or a change be lost. What else is in it (other entries, labels, annotations) stays.

use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

use super::{Context, build, error::Error, validate::Validated};
use crate::{
    api_types::api_key::KeyVersion,
    domain::api_key::{
        Key, Peppers,
        lifecycle::{self, Stored},
    },
    kube_ext::{call::within_opt, within},
    names,
};

/// What was found under the name of a key's Secret.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) stored: Stored,
    /// The token in it, where it was read and is one of the key's.
    pub(super) token: Option<Key>,
    /// UID and version of a Secret that is the key's.
    identity: Option<(String, String)>,
}

/// Reads the Secret. It is read at each reconcile: to watch Secrets would need the right to read all that there are.
pub(super) async fn find(
    context: &Context,
    valid: &Validated,
    versions: &[KeyVersion],
    peppers: &Peppers,
) -> Result<Found, Error> {
    let api: Api<Secret> = Api::namespaced(context.dependencies.client.clone(), &valid.namespace);
    let what = format!("failed to read Secret {}", valid.secret_name);
    let found = within_opt(what, api.get(&valid.secret_name)).await;
    let found = found.map_err(|source| Error::ReadSecret { secret: valid.secret_name.clone(), source })?;
    Ok(assess(found.as_ref(), valid, versions, peppers, context))
}

fn assess(
    found: Option<&Secret>,
    valid: &Validated,
    versions: &[KeyVersion],
    peppers: &Peppers,
    context: &Context,
) -> Found {
    let Some(secret) = found else {
        return Found { stored: Stored::Absent, token: None, identity: None };
    };
    if secret.owner_references().iter().all(|owner| owner.uid != valid.uid) {
        return Found { stored: Stored::Foreign, token: None, identity: None };
    }
    let identity = secret.uid().zip(secret.resource_version());
    let entry = secret.data.as_ref().and_then(|data| data.get(names::SECRET_TOKEN));
    let token = entry.and_then(|bytes| std::str::from_utf8(&bytes.0).ok()).and_then(|t| Key::parse(t).ok());
    let token = token.filter(|token| versions.iter().any(|v| lifecycle::recognises(v, token, peppers)));
    let Some(token) = token else {
        return Found { stored: Stored::Damaged, token: None, identity };
    };
    if versions.first().is_some_and(|newest| newest.key_id == token.id().as_str()) {
        context.state.delivered(&valid.uid);
    }
    Found { stored: Stored::Holds(token.id()), token: Some(token), identity }
}

/// Writes a token into the Secret.
///
/// # Errors
/// [`Error`]; a conflict (409) means that the Secret is not as it was found.
pub(super) async fn write(
    context: &Context,
    valid: &Validated,
    found: &Found,
    token: &Key,
) -> Result<(), Error> {
    let api: Api<Secret> = Api::namespaced(context.dependencies.client.clone(), &valid.namespace);
    let secret = build::secret(valid, token);
    let failed = |source| Error::WriteSecret { secret: valid.secret_name.clone(), source };
    match &found.identity {
        None => {
            let what = format!("failed to create Secret {}", valid.secret_name);
            let created = within(what, api.create(&PostParams::default(), &secret)).await;
            created.map_err(failed)?;
        }
        Some((uid, version)) => {
            let labels = secret.metadata.labels;
            let patch = json!({
                "metadata": {"uid": uid, "resourceVersion": version, "labels": labels},
                "data": secret.data,
            });
            let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
            let call = api.patch_metadata(&valid.secret_name, &params, &patch);
            let written = within(format!("failed to write Secret {}", valid.secret_name), call).await;
            written.map_err(failed)?;
        }
    }
    context.state.delivered(&valid.uid);
    Ok(())
}
