//! `POST /tenants`.

use std::collections::BTreeMap;

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::Response,
};
use jiff::Timestamp;
use kube::{Api, ResourceExt, api::PostParams};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    access_review,
    view::{OwnQuotas, TenantView, with_etag},
};
use crate::{
    api_types::{Tenant, plan::Quotas},
    http::{
        App,
        audit::Audit,
        auth::ByAdministrator,
        body::Body,
        openapi::Operation,
        problem::{Code, Problem, is_denied},
    },
    kube_ext::within,
};

/// The plan of a tenant whose request names none.
pub const DEFAULT_PLAN: &str = "free";

/// This describes the tenant that is to be created.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "TenantCreate")]
pub struct NewTenant {
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

/// Checks that a plan is in the table of plans.
///
/// # Errors
/// `invalid_object` with the names of the plans.
pub fn known_plan(app: &App, plan: &str) -> Result<(), Problem> {
    let plans = app.plans.borrow();
    if plans.get(plan).is_some() {
        return Ok(());
    }
    let all: Vec<&str> = plans.names().collect();
    Err(Problem::new(
        Code::InvalidObject,
        format!("the plan `{plan}` does not exist: give one of {}", all.join(", ")),
    ))
}

/// An object of the fields that have a value.
pub fn present_fields(fields: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    let present = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect())
}

/// The description of the route.
pub fn operation() -> Operation {
    const NEXT: [&str; 5] =
        ["getTenant", "getTenantStats", "listTenantJobs", "listTenantNodes", "getTenantUsage"];
    Operation::new(
        "createTenant",
        "Create a tenant",
        "Creates a tenant. Its controller then creates the namespace and what belongs into it.",
    )
    .json::<TenantView>(201, "This is the new tenant.")
    .headers(&["Location", "ETag"])
    .links(201, "id", &NEXT)
    .problems([Code::Conflict, Code::InvalidObject])
}

/// Creates a tenant. Its controller then creates the namespace and the other objects.
///
/// # Errors
/// `conflict` where a tenant of that name exists.
pub async fn create(
    State(app): State<App>,
    ByAdministrator(admin): ByAdministrator,
    audit: Audit,
    body: Body<NewTenant>,
) -> Result<Response, Problem> {
    admin.authorise(&app, access_review("create", None)).await?;
    let new = body.receive().await?;
    let plan = new.plan.unwrap_or_else(|| DEFAULT_PLAN.to_owned());
    known_plan(&app, &plan)?;
    let spec = present_fields([
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
    let created = within("failed to create a Tenant", api.create(&params, &tenant)).await;
    let tenant = created.map_err(|error| match error.code() {
        Some(409) if !is_denied(&error) => Problem::new(Code::Conflict, "a tenant of that name exists"),
        _ => error.into(),
    })?;
    audit.of_tenant(&tenant);
    let location = HeaderValue::from_str(&format!("/v1/tenants/{}", tenant.uid().unwrap_or_default())).ok();
    let mut response = with_etag(&app, &tenant);
    *response.status_mut() = StatusCode::CREATED;
    response.headers_mut().extend(location.map(|value| (header::LOCATION, value)));
    Ok(response)
}
