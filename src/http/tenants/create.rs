//! `POST /tenants`.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use kube::{Api, api::PostParams};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    act,
    view::{OwnQuotas, view},
};
use crate::{
    api_types::{Tenant, plan::Quotas},
    http::{
        App,
        auth::ByAdministrator,
        body::Body,
        header::etag,
        problem::{Code, Problem},
    },
    kube_ext::within,
};

/// The plan of a tenant for which none is given.
pub const DEFAULT_PLAN: &str = "free";

/// This describes the tenant that is to be created.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TenantCreate")]
pub struct New {
    /// This is the name of the tenant. Its namespace is named after it.
    #[schemars(length(min = 1, max = 40), regex(pattern = super::NAME))]
    name: String,
    /// This is the name that is shown to people.
    display_name: Option<String>,
    /// This is a plan of the table of plans. By default it is `free`.
    plan: Option<String>,
    /// These quotas replace those of the plan.
    quotas: Option<OwnQuotas>,
    /// This is when the tenant expires.
    #[serde(default, deserialize_with = "crate::api_types::time::timestamp")]
    expires_at: Option<Timestamp>,
    /// These are free notes.
    metadata: Option<BTreeMap<String, String>>,
    /// These are the shared pools on whose nodes the tenant's jobs may run.
    shared_pools: Option<Vec<String>>,
    /// Whether a request to delete the tenant is refused.
    prevent_deletion: Option<bool>,
}

/// Refuses a plan that is not in the table.
///
/// # Errors
/// `invalid_object` with the plans that are.
pub fn known_plan(app: &App, plan: &str) -> Result<(), Problem> {
    let plans = app.plans.borrow();
    if plans.get(plan).is_some() {
        return Ok(());
    }
    let all: Vec<&str> = plans.names().collect();
    Err(Problem::new(
        Code::InvalidObject,
        format!("there is no plan `{plan}`: give one of {}", all.join(", ")),
    ))
}

/// The fields that are given, as they stand in a Tenant's spec.
pub fn given(fields: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect())
}

/// Makes a tenant. Its namespace and the rest follow.
///
/// # Errors
/// `conflict` where there is one of that name.
pub async fn create(
    State(app): State<App>,
    admin: ByAdministrator,
    Body(new): Body<New>,
) -> Result<Response, Problem> {
    admin.may(&app, act("create", None)).await?;
    let plan = new.plan.unwrap_or_else(|| DEFAULT_PLAN.to_owned());
    known_plan(&app, &plan)?;
    let spec = given([
        ("displayName", new.display_name.map(Value::from)),
        ("plan", Some(plan.into())),
        ("quotas", new.quotas.map(|quotas| json!(Quotas::from(quotas)))),
        ("expiresAt", new.expires_at.map(|at| at.to_string().into())),
        ("metadata", new.metadata.map(|metadata| json!(metadata))),
        ("sharedPools", new.shared_pools.map(|pools| json!(pools))),
        ("preventDeletion", new.prevent_deletion.map(Value::from)),
    ]);
    let spec =
        serde_json::from_value(spec).map_err(|error| Problem::new(Code::InvalidBody, error.to_string()))?;
    let api: Api<Tenant> = Api::all(app.client.clone());
    let (params, tenant) = (PostParams::default(), Tenant::new(&new.name, spec));
    let made = within("failed to create a Tenant", api.create(&params, &tenant)).await;
    let tenant = made.map_err(|error| match error.code() {
        Some(409) => Problem::new(Code::Conflict, "there is a tenant of that name"),
        _ => error.into(),
    })?;
    let shown = view(&app, &tenant);
    let location = HeaderValue::from_str(&format!("/v1/tenants/{}", shown.id)).ok();
    let mut response = (StatusCode::CREATED, Json(shown)).into_response();
    response.headers_mut().extend(location.map(|value| (header::LOCATION, value)));
    let tag = etag(tenant.metadata.resource_version.as_deref().unwrap_or_default());
    response.headers_mut().extend(tag.map(|tag| (header::ETAG, tag)));
    Ok(response)
}
