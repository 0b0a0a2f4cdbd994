//! `PUT`, `PATCH` and `DELETE /tenants/{id}`. A `PATCH` changes the fields that it gives and no other. A `PUT` gives all of
//! them: those that it leaves out become what they are for a new tenant. What this API does not show of a tenant stays.

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
    create::{DEFAULT_PLAN, given, known_plan},
    view::{OwnQuotas, view},
};
use crate::{
    api_types::{Tenant, plan::Quotas},
    domain::tenant_state::deletion_prevented,
    http::{
        App,
        auth::ByAdministrator,
        body::Body,
        header::{IfMatch, etag},
        problem::{Code, Problem},
    },
    kube_ext::{CallError, within},
    names,
};

/// These are changes of a tenant. With PATCH, a field that is absent or null leaves what the tenant has.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TenantChanges")]
pub struct Changes {
    /// This is the name that is shown to people.
    display_name: Option<String>,
    /// This is a plan of the table of plans. A PUT without one means `free`.
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

/// The patch of a tenant's spec by which it becomes what is given, and otherwise like a new one.
fn replacement(tenant: &Tenant, changes: Changes) -> Value {
    let whole = Changes {
        plan: Some(changes.plan.unwrap_or_else(|| DEFAULT_PLAN.to_owned())),
        reset_quotas: true,
        status: Some(changes.status.unwrap_or(Wanted::Active)),
        metadata: Some(changes.metadata.unwrap_or_default()),
        shared_pools: Some(changes.shared_pools.unwrap_or_default()),
        prevent_deletion: Some(changes.prevent_deletion.unwrap_or_default()),
        ..changes
    };
    let mut patch = patch(tenant, whole);
    for absent in ["displayName", "expiresAt"] {
        if patch["spec"].get(absent).is_none() {
            patch["spec"][absent] = Value::Null;
        }
    }
    patch
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
    wanted: IfMatch,
    Body(changes): Body<Changes>,
) -> Result<Response, Problem> {
    write(&app, &admin, &id, &wanted, changes, patch).await
}

/// Replaces all that this API shows of a tenant.
///
/// # Errors
/// As [`update`].
pub async fn replace(
    State(app): State<App>,
    admin: ByAdministrator,
    id: Id,
    wanted: IfMatch,
    Body(changes): Body<Changes>,
) -> Result<Response, Problem> {
    write(&app, &admin, &id, &wanted, changes, replacement).await
}

async fn write(
    app: &App,
    admin: &ByAdministrator,
    id: &Id,
    wanted: &IfMatch,
    changes: Changes,
    patch: fn(&Tenant, Changes) -> Value,
) -> Result<Response, Problem> {
    let tenant = administered(app, &admin.0, id, "patch").await?;
    let version = wanted.version(tenant.metadata.resource_version.as_deref())?;
    let mut patch = patch(&tenant, changes);
    if let Some(plan) = patch["spec"]["plan"].as_str() {
        known_plan(app, plan)?;
    }
    if let Some(version) = &version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    let api: Api<Tenant> = Api::all(app.client.clone());
    let (name, params) = (tenant.name_any(), PatchParams::default());
    let patched = within("failed to update a Tenant", api.patch(&name, &params, &Patch::Merge(&patch))).await;
    let tenant = patched.map_err(|error| explained(error, version.is_some()))?;
    let mut response = Json(view(app, &tenant)).into_response();
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
    wanted: IfMatch,
) -> Result<StatusCode, Problem> {
    let tenant = administered(&app, &admin.0, &id, "delete").await?;
    let version = wanted.version(tenant.metadata.resource_version.as_deref())?;
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
    let deleted = within("failed to delete a Tenant", api.delete(&name, &params)).await;
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

    #[test]
    fn a_put_replaces_and_what_it_leaves_out_is_as_for_a_new_tenant() {
        let tenant: Tenant = serde_json::from_value(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "a", "uid": "u"},
            "spec": {
                "displayName": "A", "plan": "pro", "suspended": true, "expiresAt": "2030-01-01T00:00:00Z",
                "quotas": {"maxJobs": 9}, "metadata": {"old": "1"}, "sharedPools": ["gpu"], "preventDeletion": true,
                "elastic": true,
            },
        }))
        .unwrap();
        let of = |body: Value| {
            let changes: Changes = body::read(body.to_string().as_bytes()).unwrap();
            let mut spec = serde_json::to_value(&tenant.spec).unwrap();
            crate::kube_ext::mock::merge(&mut spec, &replacement(&tenant, changes)["spec"]);
            let spec: crate::api_types::TenantSpec = serde_json::from_value(spec).unwrap();
            spec
        };
        let plain =
            crate::api_types::TenantSpec { elastic: true, ..serde_json::from_value(json!({})).unwrap() };
        assert_eq!(json!(of(json!({}))), json!(plain), "what is not shown here stays");
        let given = of(
            json!({"plan": "basic", "quotas": {"max_gpus": 1}, "metadata": {"new": "2"}, "status": "suspended"}),
        );
        assert_eq!(json!(given.quotas), json!({"maxGpus": 1}));
        assert_eq!((given.plan.as_str(), given.suspended), ("basic", true));
        assert_eq!(json!(given.metadata), json!({"new": "2"}));
        assert_eq!((given.display_name, given.shared_pools), (None, vec![]));
    }
}
