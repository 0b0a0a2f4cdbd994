//! The token of a new version of a key: the controller of keys makes it, and a response has it once.

use std::time::Duration;

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt, runtime::wait::await_condition};

use super::{
    TenantKeys,
    view::{Issued, view},
};
use crate::{
    api_types::{TenantApiKey, conditions},
    http::{App, problem::Problem},
    kube_ext::call::within_opt,
    names,
};

/// How long a request waits for the token of a new version. After that only the Secret has it.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(5);
/// The description of a response without the token.
pub const TOKEN_LATER: &str =
    "This is the key. Its token was not made within 5 s: it is in the Secret of the key soon.";

/// Waits until the Secret of a key has the version that `is_issued` accepts, and responds with its token.
///
/// # Errors
/// Those of reading the Secret.
pub async fn issue(
    app: &App,
    keys: &TenantKeys,
    key: TenantApiKey,
    status: StatusCode,
    is_issued: impl Fn(&TenantApiKey) -> bool + Send,
) -> Result<Response, Problem> {
    let (name, uid) = (key.name_any(), key.uid());
    let ready = |key: Option<&TenantApiKey>| {
        key.is_some_and(|key| {
            let status = key.status.as_ref();
            let ready = status.into_iter().flat_map(|status| &status.conditions);
            let ready = ready.filter(|condition| condition.type_ == conditions::READY);
            key.uid() == uid
                && is_issued(key)
                && ready.into_iter().any(|condition| condition.status == "True")
        })
    };
    let waited = tokio::time::timeout(TOKEN_TIMEOUT, await_condition(keys.api(app), &name, ready)).await;
    let later = |key: &TenantApiKey| (StatusCode::ACCEPTED, Json(view(key, &keys.of.uid))).into_response();
    let Ok(Ok(Some(ready))) = waited else { return Ok(later(&key)) };
    let api: Api<Secret> = Api::namespaced(app.client.clone(), &keys.of.namespace);
    let secret = within_opt("failed to read the Secret of a key", api.get(&ready.secret_name())).await?;
    // The key may have been deleted or revoked in between.
    let Some(secret) = secret else { return Ok(later(&ready)) };
    let entry = |entry: &str| {
        let bytes = secret.data.as_ref()?.get(entry)?;
        String::from_utf8(bytes.0.clone()).ok()
    };
    let current = ready.status.as_ref().and_then(|status| status.key_id.clone());
    match entry(names::SECRET_TOKEN).filter(|_| entry(names::SECRET_KEY_ID) == current) {
        Some(token) => {
            let body = Issued { key: view(&ready, &keys.of.uid), token };
            Ok((status, Json(body)).into_response())
        }
        None => Ok(later(&ready)),
    }
}
