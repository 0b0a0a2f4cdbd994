//! `DELETE /keys/{id}`.

use axum::{extract::State, http::StatusCode};
use kube::{
    ResourceExt,
    api::{DeleteParams, Preconditions},
};

use super::{Id, TenantKeys, of_tenant};
use crate::{
    http::{
        App,
        by_tenant::ByTenant,
        openapi::Operation,
        problem::{Code, Problem, is_denied},
        rights::DeleteKey,
    },
    kube_ext::within,
};

/// The description of the route.
pub fn operation() -> Operation {
    of_tenant(
        "deleteKey",
        "Delete an API key",
        "Deletes an API key, which the server then refuses, with the keys that it has created. A key can delete only keys \
         that have no scope beyond its own.",
    )
    .empty(204, "The key is deleted.")
    .problems([Code::InvalidObject])
}

/// Deletes a key, which every replica then refuses.
///
/// # Errors
/// As documented.
pub async fn delete(
    State(app): State<App>,
    ByTenant(context, _): ByTenant<DeleteKey>,
    id: Id,
) -> Result<StatusCode, Problem> {
    let keys = TenantKeys::from(context);
    let key = keys.find(&app, &id.0)?;
    keys.check_scopes(&key.spec.scopes)?;
    let preconditions = Some(Preconditions { uid: key.uid(), resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::default() };
    let (name, api) = (key.name_any(), keys.api(&app));
    let deleted = within("failed to delete a TenantApiKey", api.delete(&name, &params)).await;
    deleted.map(|_| StatusCode::NO_CONTENT).map_err(|error| match error.code() {
        Some(404 | 409) if !is_denied(&error) => Problem::not_found("key"),
        _ => error.into(),
    })
}
