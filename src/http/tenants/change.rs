//! `PUT`, `PATCH` and `DELETE /tenants/{id}`. As in the seed a `PUT` changes the fields that it gives and no other, so it is
//! the same as a `PATCH`.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Id, administered,
    create::{given, known_plan},
    view::{OwnQuotas, view},
};
use crate::{
    api_types::{Tenant, plan::Quotas},
    domain::tenant_state::deletion_prevented,
    http::{
        App,
        auth::ByAdministrator,
        body::Body,
        header::{IfMatch, etag, match_version},
        problem::{Code, Problem},
    },
    kube_ext::{CallError, within},
    names,
};

/// These are changes of a tenant. A field that is absent or null leaves what the tenant has.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TenantChanges")]
pub struct Changes {
    /// This is the name that is shown to people.
    display_name: Option<String>,
    /// This is a plan of the table of plans.
    plan: Option<String>,
    /// Whether the tenant's own quotas are dropped, so that those of the plan apply.
    #[serde(default)]
    reset_quotas: bool,
    /// These quotas replace those of the plan. A quota that is absent or null does not change.
    quotas: Option<OwnQuotas>,
    /// This is the state that the tenant is to have.
    status: Option<Wanted>,
    /// This is when the tenant expires.
    #[serde(default, deserialize_with = "crate::api_types::time::timestamp")]
    expires_at: Option<Timestamp>,
    /// These notes replace all that the tenant has.
    metadata: Option<BTreeMap<String, String>>,
    /// These shared pools replace all that the tenant has.
    shared_pools: Option<Vec<String>>,
    /// Whether a request to delete the tenant is refused.
    prevent_deletion: Option<bool>,
}

/// This is the state that a tenant is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "TenantStatusChange")]
enum Wanted {
    /// The tenant may submit and run jobs.
    Active,
    /// The tenant is suspended.
    Suspended,
}

/// A list or map as it is to be: in a merge-patch what is not named stays, so what goes is named null.
fn replaced(old: &[&String], new: BTreeMap<String, String>) -> Value {
    let gone = old.iter().filter(|name| !new.contains_key(**name)).map(|name| ((*name).clone(), Value::Null));
    let gone: serde_json::Map<String, Value> = gone.collect();
    Value::Object(gone.into_iter().chain(new.into_iter().map(|(name, value)| (name, value.into()))).collect())
}

/// The patch of a tenant's spec.
fn patch(tenant: &Tenant, changes: Changes) -> Value {
    let old: Vec<&String> = tenant.spec.metadata.keys().collect();
    let mut spec = given([
        ("displayName", changes.display_name.map(Value::from)),
        ("plan", changes.plan.map(Value::from)),
        ("suspended", changes.status.map(|wanted| (wanted == Wanted::Suspended).into())),
        ("expiresAt", changes.expires_at.map(|at| at.to_string().into())),
        ("metadata", changes.metadata.map(|new| replaced(&old, new))),
        ("sharedPools", changes.shared_pools.map(|pools| json!(pools))),
        ("preventDeletion", changes.prevent_deletion.map(Value::from)),
    ]);
    let own = json!(tenant.spec.quotas);
    if changes.reset_quotas {
        let names = own.as_object().into_iter().flatten().map(|(name, _)| (name.clone(), Value::Null));
        spec["quotas"] = Value::Object(names.collect());
    }
    if let Some(quotas) = changes.quotas {
        for (name, value) in json!(Quotas::from(quotas)).as_object().into_iter().flatten() {
            spec["quotas"][name] = value.clone();
        }
    }
    json!({"metadata": {"uid": tenant.uid()}, "spec": spec})
}

fn explained(error: CallError, versioned: bool) -> Problem {
    match error.code() {
        Some(404) => Problem::not_found("tenant"),
        Some(409) if versioned => {
            Problem::new(Code::PreconditionFailed, "the tenant is of another version than If-Match says")
        }
        _ => error.into(),
    }
}

/// Changes what is given.
///
/// # Errors
/// `invalid_object`, `precondition_failed`.
pub async fn update(
    State(app): State<App>,
    admin: ByAdministrator,
    id: Id,
    IfMatch(version): IfMatch,
    Body(changes): Body<Changes>,
) -> Result<Response, Problem> {
    let tenant = administered(&app, &admin.0, &id, "patch").await?;
    match_version(version.as_deref(), tenant.metadata.resource_version.as_deref())?;
    if let Some(plan) = &changes.plan {
        known_plan(&app, plan)?;
    }
    let mut patch = patch(&tenant, changes);
    if let Some(version) = &version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    let api: Api<Tenant> = Api::all(app.client.clone());
    let (name, params) = (tenant.name_any(), PatchParams::default());
    let patched = within("changing a Tenant", api.patch(&name, &params, &Patch::Merge(&patch))).await;
    let tenant = patched.map_err(|error| explained(error, version.is_some()))?;
    let mut response = Json(view(&app, &tenant)).into_response();
    let tag = etag(tenant.metadata.resource_version.as_deref().unwrap_or_default());
    response.headers_mut().extend(tag.map(|tag| (header::ETAG, tag)));
    Ok(response)
}

/// Deletes a tenant: in order, as its finalizer does. The history stays.
///
/// # Errors
/// `forbidden` for the tenant `default`, and for one whose deletion is prevented.
pub async fn delete(
    State(app): State<App>,
    admin: ByAdministrator,
    id: Id,
    IfMatch(version): IfMatch,
) -> Result<StatusCode, Problem> {
    let tenant = administered(&app, &admin.0, &id, "delete").await?;
    match_version(version.as_deref(), tenant.metadata.resource_version.as_deref())?;
    let name = tenant.name_any();
    if name == names::DEFAULT_TENANT {
        return Err(Problem::new(Code::Forbidden, "cannot delete default tenant"));
    }
    if deletion_prevented(tenant.spec.prevent_deletion).is_some() {
        return Err(Problem::new(Code::Forbidden, "the tenant is kept while prevent_deletion is true"));
    }
    let versioned = version.is_some();
    let preconditions = Some(Preconditions { uid: tenant.uid(), resource_version: version });
    let params = DeleteParams { preconditions, ..DeleteParams::default() };
    let api: Api<Tenant> = Api::all(app.client.clone());
    let deleted = within("deleting a Tenant", api.delete(&name, &params)).await;
    deleted.map(|_| StatusCode::NO_CONTENT).map_err(|error| explained(error, versioned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body;

    #[test]
    fn only_what_is_given_changes_and_a_plan_can_take_its_quotas_along() {
        let tenant: Tenant = serde_json::from_value(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "a", "uid": "u"},
            "spec": {"plan": "free", "quotas": {"maxJobs": 9, "maxGpus": 1}, "metadata": {"old": "1", "both": "1"}},
        }))
        .unwrap();
        let of = |body: Value| {
            let changes: Changes = body::read(body.to_string().as_bytes()).unwrap();
            patch(&tenant, changes)["spec"].clone()
        };
        assert_eq!(of(json!({"display_name": "A"})), json!({"displayName": "A"}));
        assert_eq!(of(json!({"status": "suspended"})), json!({"suspended": true}));
        assert_eq!(of(json!({"quotas": {"max_jobs": 5}})), json!({"quotas": {"maxJobs": 5}}));
        assert_eq!(
            of(json!({"plan": "pro", "reset_quotas": true, "quotas": {"max_jobs": 5}})),
            json!({"plan": "pro", "quotas": {"maxJobs": 5, "maxGpus": null}})
        );
        assert_eq!(
            of(json!({"metadata": {"both": "2", "new": "1"}})),
            json!({"metadata": {"old": null, "both": "2", "new": "1"}})
        );
    }
}
