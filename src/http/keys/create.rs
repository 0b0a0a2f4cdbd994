//! `POST /keys`.

use axum::{extract::State, http::StatusCode, response::Response};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use kube::{Resource, ResourceExt, api::PostParams};

use super::{
    TenantKeys,
    issue::{TOKEN_LATER, issue},
    of_tenant, random,
    view::{Issued, KeyView, NewKey},
};
use crate::{
    api_types::{TenantApiKey, api_key::TenantApiKeySpec},
    domain::api_key::lifecycle,
    http::{
        App,
        audit::CreatedUid,
        body::Body,
        by_tenant::ByTenant,
        openapi::Operation,
        problem::{Code, Problem},
        rights::CreateKey,
    },
    keys::Principal,
    kube_ext::within,
};

/// The description of the route.
pub fn operation() -> Operation {
    of_tenant(
        "createKey",
        "Create an API key",
        "Creates an API key. A key can create only keys that have no scope beyond its own, and they end with it.",
    )
    .json::<Issued>(201, "This is the key with its token, which is shown only once.")
    .json::<KeyView>(202, TOKEN_LATER)
    .links(201, "id", &["rotateKey", "deleteKey"])
    .problems([Code::InvalidObject, Code::Conflict, Code::QuotaExceeded])
}

/// Creates a key: 201 with its token, which no other response has; 202 without it where the controller takes longer.
///
/// # Errors
/// As documented.
pub async fn create(
    State(app): State<App>,
    ByTenant(context, _): ByTenant<CreateKey>,
    body: Body<NewKey>,
) -> Result<Response, Problem> {
    let keys = TenantKeys::from(context);
    let new = body.receive().await?;
    keys.check_token(&app, &new.scopes).await?;
    check_usable(&new, app.clock.now())?;
    let expires_at = bounded(new.expires_at, keys.by.key())?;
    let spec = TenantApiKeySpec {
        display_name: new.display_name,
        scopes: new.scopes,
        expires_at: expires_at.map(Time),
        rotate_every: new.rotate_every,
        // The default of the CRD.
        overlap_seconds: new.overlap_seconds.unwrap_or(86_400),
        ..TenantApiKeySpec::default()
    };
    let name = format!("key-{}", random(&app)?);
    let mut key = TenantApiKey::new(&name, spec);
    key.metadata.owner_references = keys.by.key().map(parent).transpose()?;
    let created =
        within("failed to create a TenantApiKey", keys.api(&app).create(&PostParams::default(), &key)).await;
    let key = created.map_err(|error| match error.code() {
        Some(403) if error.to_string().contains("exceeded quota") => {
            let detail = "the tenant has too many keys: delete unused ones";
            Problem::new(Code::QuotaExceeded, detail).retry_after(60).with_cause(error)
        }
        _ => Problem::of_create(error),
    })?;
    let uid = CreatedUid(key.uid().unwrap_or_default());
    let mut response = issue(&app, &keys, key, StatusCode::CREATED, |_| true).await?;
    response.extensions_mut().insert(uid);
    Ok(response)
}

/// When a key expires that this one creates: at the latest with it.
fn bounded(wanted: Option<Timestamp>, by: Option<&Principal>) -> Result<Option<Timestamp>, Problem> {
    let Some(end) = by.and_then(|by| by.key.spec.expires_at.as_ref()) else { return Ok(wanted) };
    if wanted.is_some_and(|at| at > end.0) {
        let detail =
            format!("expires_at: the key that creates this one expires at {}: give at most that", end.0);
        return Err(Problem::new(Code::InvalidObject, detail));
    }
    Ok(wanted.or(Some(end.0)))
}

/// The owner of a key that this one creates.
fn parent(by: &Principal) -> Result<Vec<OwnerReference>, Problem> {
    let owner =
        by.key.owner_ref(&()).ok_or_else(|| Problem::new(Code::Internal, "the caller's key has no UID"))?;
    Ok(vec![owner])
}

/// Checks that the key could be used, and a rule of the CRD whose message would have other names.
fn check_usable(new: &NewKey, now: Timestamp) -> Result<(), Problem> {
    if let Some(at) = new.expires_at.filter(|at| *at <= now) {
        let detail = format!("expires_at: {at} has passed: give a later time, or none");
        return Err(Problem::new(Code::InvalidObject, detail));
    }
    match &new.rotate_every {
        Some(text) if !lifecycle::is_long_enough(text) => {
            let detail = "rotate_every: give hours, minutes and seconds such as 720h or 1h30m, at least 1h";
            Err(Problem::new(Code::InvalidObject, detail))
        }
        _ => Ok(()),
    }
}
