//! `PUT` and `PATCH /tenants/{id}`. A `PATCH` changes the fields that its body has and no others. A `PUT` changes all fields:
//! one that its body lacks gets its value in a new tenant. Fields of a Tenant that this API does not have stay.

use std::collections::BTreeMap;

use axum::{extract::State, response::Response};
use jiff::Timestamp;
use kube::{
    Api, ResourceExt,
    api::{Patch, PatchParams},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Id,
    create::{DEFAULT_PLAN, known_plan, present_fields},
    versioned_for_write,
    view::{OwnQuotas, TenantView, with_etag},
    write_refused,
};
use crate::{
    api_types::{Tenant, plan::Quotas},
    http::{
        App,
        auth::{Administrator, ByAdministrator},
        body::Body,
        header::IfMatch,
        openapi::Operation,
        problem::{Code, Problem},
    },
    kube_ext::within,
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
    status: Option<StatusChange>,
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
enum StatusChange {
    /// The tenant may submit and run jobs.
    Active,
    /// The tenant is suspended.
    Suspended,
}

/// A merge-patch that replaces a map: a key that the new map lacks becomes null, as absent keys would stay.
fn replaced(old: &[&String], new: BTreeMap<String, String>) -> Value {
    let removed =
        old.iter().filter(|name| !new.contains_key(**name)).map(|name| ((*name).clone(), Value::Null));
    let removed: serde_json::Map<String, Value> = removed.collect();
    Value::Object(
        removed.into_iter().chain(new.into_iter().map(|(name, value)| (name, value.into()))).collect(),
    )
}

/// The patch of a tenant's spec.
fn patch(tenant: &Tenant, changes: Changes) -> Value {
    let old: Vec<&String> = tenant.spec.metadata.keys().collect();
    let mut spec = present_fields([
        ("displayName", changes.display_name.map(Value::from)),
        ("plan", changes.plan.map(Value::from)),
        ("suspended", changes.status.map(|status| (status == StatusChange::Suspended).into())),
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

/// The patch that replaces a tenant's spec: a field that the changes lack gets its value in a new tenant.
fn replacement(tenant: &Tenant, changes: Changes) -> Value {
    let whole = Changes {
        plan: Some(changes.plan.unwrap_or_else(|| DEFAULT_PLAN.to_owned())),
        reset_quotas: true,
        status: Some(changes.status.unwrap_or(StatusChange::Active)),
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

/// The description of a route that changes a tenant.
fn changes_tenant(id: &'static str, summary: &'static str, description: &'static str) -> Operation {
    Operation::new(id, summary, description)
        .json::<TenantView>(200, "This is the changed tenant.")
        .headers(&["ETag"])
        .problems([Code::InvalidObject, Code::Conflict])
}

/// The description of `PATCH`.
pub fn update_operation() -> Operation {
    changes_tenant(
        "updateTenant",
        "Update a tenant",
        "Changes the fields of a tenant that the body has, and no others.",
    )
}

/// The description of `PUT`.
pub fn replace_operation() -> Operation {
    changes_tenant(
        "replaceTenant",
        "Replace a tenant",
        "Replaces a tenant. A field that the body lacks has the same value as in a new tenant.",
    )
}

/// Changes the fields that the body has.
///
/// # Errors
/// `invalid_object`, `precondition_failed`.
pub async fn update(
    State(app): State<App>,
    ByAdministrator(admin): ByAdministrator,
    id: Id,
    if_match: IfMatch,
    body: Body<Changes>,
) -> Result<Response, Problem> {
    write(&app, &admin, &id, &if_match, body, patch).await
}

/// Replaces all fields of a tenant that this API has.
///
/// # Errors
/// As [`update`].
pub async fn replace(
    State(app): State<App>,
    ByAdministrator(admin): ByAdministrator,
    id: Id,
    if_match: IfMatch,
    body: Body<Changes>,
) -> Result<Response, Problem> {
    write(&app, &admin, &id, &if_match, body, replacement).await
}

async fn write(
    app: &App,
    admin: &Administrator,
    id: &Id,
    if_match: &IfMatch,
    body: Body<Changes>,
    patch: fn(&Tenant, Changes) -> Value,
) -> Result<Response, Problem> {
    let (tenant, version) = versioned_for_write(app, admin, id, if_match, "patch").await?;
    let mut patch = patch(&tenant, body.receive().await?);
    if let Some(plan) = patch["spec"]["plan"].as_str() {
        known_plan(app, plan)?;
    }
    if let Some(version) = &version {
        patch["metadata"]["resourceVersion"] = json!(version);
    }
    let api: Api<Tenant> = Api::all(app.client.clone());
    let (name, params) = (tenant.name_any(), PatchParams::default());
    let patched = within("failed to update a Tenant", api.patch(&name, &params, &Patch::Merge(&patch))).await;
    let tenant = patched.map_err(|error| write_refused(error, version.is_some()))?;
    Ok(with_etag(app, &tenant))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::body;

    #[test]
    fn only_the_fields_of_the_body_change_and_reset_quotas_drops_the_tenants_own() {
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
    fn a_put_replaces_the_tenant_and_absent_fields_are_as_in_a_new_one() {
        let tenant: Tenant = serde_json::from_value(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "a", "uid": "u"},
            "spec": {
                "displayName": "A", "plan": "pro", "suspended": true, "expiresAt": "2030-01-01T00:00:00Z",
                "quotas": {"maxJobs": 9}, "metadata": {"old": "1"}, "sharedPools": ["gpu"], "preventDeletion": true,
                "elastic": true,
            },
        }))
        .unwrap();
        // Given: the spec after a PUT of a body.
        let of = |body: Value| {
            let changes: Changes = body::read(body.to_string().as_bytes()).unwrap();
            let mut spec = serde_json::to_value(&tenant.spec).unwrap();
            crate::kube_ext::mock::merge(&mut spec, &replacement(&tenant, changes)["spec"]);
            let spec: crate::api_types::TenantSpec = serde_json::from_value(spec).unwrap();
            spec
        };
        // Step 1: an empty body makes it a new tenant's.
        let plain =
            crate::api_types::TenantSpec { elastic: true, ..serde_json::from_value(json!({})).unwrap() };
        assert_eq!(json!(of(json!({}))), json!(plain), "a field that the API does not have stays");
        // Step 2: fields of the body are taken.
        let given = of(
            json!({"plan": "basic", "quotas": {"max_gpus": 1}, "metadata": {"new": "2"}, "status": "suspended"}),
        );
        assert_eq!(json!(given.quotas), json!({"maxGpus": 1}));
        assert_eq!((given.plan.as_str(), given.suspended), ("basic", true));
        assert_eq!(json!(given.metadata), json!({"new": "2"}));
        assert_eq!((given.display_name, given.shared_pools), (None, vec![]));
    }
}
