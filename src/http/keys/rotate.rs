//! `POST /keys/{id}/rotate`.

use axum::{extract::State, http::StatusCode, response::Response};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use super::{
    Id, TenantKeys,
    issue::{TOKEN_LATER, issue},
    of_tenant, random,
    view::{Issued, KeyView},
};
use crate::{
    domain::api_key::lifecycle,
    http::{
        App,
        by_tenant::ByTenant,
        openapi::Operation,
        problem::{Code, Problem},
        rights::RotateKey,
    },
    kube_ext::within,
    names,
};

/// The description of the route.
pub fn operation() -> Operation {
    of_tenant(
        "rotateKey",
        "Rotate an API key",
        "Makes a new version of an API key. The previous version stays valid for the overlap of the key. A key can rotate \
         itself and the keys that it has created.",
    )
    .json::<Issued>(200, "This is the key with its new token, which is shown only once.")
    .json::<KeyView>(202, TOKEN_LATER)
    .problems([Code::WrongState, Code::Conflict, Code::InvalidObject])
}

/// Rotates a key: 200 with the new token. The previous one stays valid for the overlap.
///
/// # Errors
/// As documented.
pub async fn rotate(
    State(app): State<App>,
    ByTenant(context, _): ByTenant<RotateKey>,
    id: Id,
) -> Result<Response, Problem> {
    let keys = TenantKeys::from(context);
    let key = keys.find(&app, &id.0)?;
    keys.check_token(&app, &key.spec.scopes).await?;
    let (lineage, now) = (keys.lineage(&app, &key), app.clock.now());
    keys.check_descent(&key, &lineage)?;
    if lifecycle::closed(&key.spec, now).is_some() {
        return Err(Problem::new(Code::WrongState, "the key is revoked or expired: create a new one"));
    }
    if let Some((ancestor, _)) = lineage.ended(now) {
        let detail =
            format!("the key has ended with the key {ancestor}, from which it comes: create a new one");
        return Err(Problem::new(Code::WrongState, detail));
    }
    let request = format!("{}-{}", app.clock.now(), random(&app)?);
    let annotations = json!({names::ANNOTATION_ROTATE: request});
    let patch = json!({"metadata": {"uid": key.uid(), "annotations": annotations}});
    let (name, params) = (key.name_any(), PatchParams::default());
    let patched = within(
        "failed to rotate a TenantApiKey",
        keys.api(&app).patch(&name, &params, &Patch::Merge(&patch)),
    )
    .await?;
    let answered = lifecycle::request(&request);
    issue(&app, &keys, patched, StatusCode::OK, move |key| {
        key.status.as_ref().and_then(|status| status.last_rotate_request.as_ref()) == Some(&answered)
    })
    .await
}
