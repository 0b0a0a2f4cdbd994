//! A tenant in responses.

use std::{borrow::Cow, collections::BTreeMap};

use axum::{
    Json,
    http::header,
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::{Map, Value, json};

use crate::{
    api_types::{
        Tenant,
        plan::{EffectiveQuotas, Quotas},
        quota::QuotaDimension,
        tenant::{TenantPhase, TenantUsage},
    },
    domain::tenant_state,
    http::{App, header::etag},
};

/// A tenant is a customer of the cluster, with a namespace and quotas of its own.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Tenant")]
pub struct TenantView {
    /// This is the UID of the tenant.
    pub id: String,
    /// This is the name of the tenant.
    name: String,
    /// This is the name that is shown to people.
    display_name: Option<String>,
    /// This is the plan of the tenant.
    plan: String,
    /// This is the state of the tenant.
    status: TenantStatus,
    /// This is the namespace of the tenant. It is null until it is created.
    namespace: Option<String>,
    /// These quotas are in force. They are null while the plan is not in the table of plans.
    quotas: Option<AllQuotas>,
    /// This is what the tenant uses.
    usage: UsageView,
    /// These are free notes.
    metadata: BTreeMap<String, String>,
    /// These are the shared pools on whose nodes the tenant's jobs may run.
    shared_pools: Vec<String>,
    /// Whether a request to delete the tenant is refused.
    prevent_deletion: bool,
    /// This is when the tenant was created.
    created_at: Option<Timestamp>,
    /// This is when the tenant expires.
    expires_at: Option<Timestamp>,
}

/// A status is the state of a tenant.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum TenantStatus {
    /// The tenant may submit and run jobs.
    Active,
    /// An administrator has suspended the tenant.
    Suspended,
    /// The time in `expires_at` has passed.
    Expired,
    /// The tenant is being deleted.
    Deleted,
    /// The tenant's plan is not in the table of plans, or its namespace has another owner, so its jobs wait.
    Stalled,
}

/// The schema of an object with a field for each dimension.
fn schema(description: &str, fields: impl Iterator<Item = (String, Value)>, are_required: bool) -> Schema {
    let (mut properties, mut names) = (Map::new(), Vec::new());
    for (name, field) in fields {
        names.push(name.clone());
        properties.insert(name, field);
    }
    let mut schema = json_schema!({"type": "object", "description": description, "properties": properties});
    if are_required {
        schema.insert("required".to_owned(), json!(names));
    }
    schema
}

fn integer(description: &str) -> Value {
    json!({"type": "integer", "format": "int64", "description": description})
}

/// These quotas are in force.
#[derive(Debug)]
pub struct AllQuotas(EffectiveQuotas);

impl From<EffectiveQuotas> for AllQuotas {
    fn from(quotas: EffectiveQuotas) -> Self {
        Self(quotas)
    }
}

impl Serialize for AllQuotas {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            QuotaDimension::all().map(|dimension| (dimension.rest_name(), dimension.quota(&self.0))),
        )
    }
}

impl JsonSchema for AllQuotas {
    fn schema_name() -> Cow<'static, str> {
        "Quotas".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let fields = QuotaDimension::all()
            .map(|dimension| (dimension.rest_name(), integer(dimension.rest_description())));
        schema("These quotas are in force. A quota of -1 sets no limit.", fields, true)
    }
}

/// These quotas replace those of the plan.
#[derive(Clone, Debug, Default)]
pub struct OwnQuotas(Quotas);

impl<'de> Deserialize<'de> for OwnQuotas {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let quotas = BTreeMap::<RestName, Option<i64>>::deserialize(deserializer)?;
        let fields: Map<String, Value> =
            quotas.into_iter().map(|(name, quota)| (name.0.field().to_owned(), json!(quota))).collect();
        serde_json::from_value(fields.into()).map(Self).map_err(D::Error::custom)
    }
}

/// The dimension of a field of [`OwnQuotas`].
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct RestName(QuotaDimension);

impl<'de> Deserialize<'de> for RestName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let known = QuotaDimension::all().find(|dimension| dimension.rest_name() == name);
        known.map(Self).ok_or_else(|| {
            let names: Vec<String> =
                QuotaDimension::all().map(|dimension| format!("`{}`", dimension.rest_name())).collect();
            D::Error::custom(format_args!("unknown field `{name}`, expected one of {}", names.join(", ")))
        })
    }
}

impl JsonSchema for OwnQuotas {
    fn schema_name() -> Cow<'static, str> {
        "OwnQuotas".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let fields = QuotaDimension::all().map(|dimension| {
            let mut field = integer(dimension.rest_description());
            field["type"] = json!(["integer", "null"]);
            (dimension.rest_name(), field)
        });
        let description = "These quotas replace those of the plan. Null leaves the quota of the plan, and -1 sets no limit.";
        schema(description, fields, false)
    }
}

impl From<OwnQuotas> for Quotas {
    fn from(OwnQuotas(quotas): OwnQuotas) -> Self {
        quotas
    }
}

/// This is what a tenant uses.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CurrentUsage")]
pub struct UsageView {
    #[serde(flatten)]
    amounts: Amounts,
    /// This is how many jobs have completed.
    completed_jobs: i64,
    /// This is how many jobs have failed.
    failed_jobs: i64,
    /// This is how many jobs were canceled.
    canceled_jobs: i64,
    /// This is how many jobs were rejected.
    rejected_jobs: i64,
    /// This is how many jobs ran into their time limit.
    timed_out_jobs: i64,
    /// This is when the current hour ends. It is null before the first job.
    jobs_hour_reset_at: Option<Timestamp>,
}

impl From<TenantUsage> for UsageView {
    fn from(from: TenantUsage) -> Self {
        Self {
            completed_jobs: from.ended.completed,
            failed_jobs: from.ended.failed,
            canceled_jobs: from.ended.canceled,
            rejected_jobs: from.ended.rejected,
            timed_out_jobs: from.ended.timed_out,
            jobs_hour_reset_at: from.jobs_hour_reset_at.as_ref().map(|at| at.0),
            amounts: Amounts(from),
        }
    }
}

/// What a tenant uses of each dimension.
#[derive(Debug)]
struct Amounts(TenantUsage);

impl Serialize for Amounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            QuotaDimension::all()
                .filter_map(|dimension| Some((dimension.rest_usage()?.name, dimension.used(&self.0)?))),
        )
    }
}

impl JsonSchema for Amounts {
    fn schema_name() -> Cow<'static, str> {
        "Amounts".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let fields = QuotaDimension::all().filter_map(QuotaDimension::rest_usage);
        let fields = fields.map(|field| (field.name.to_owned(), integer(field.description)));
        schema("This is what a tenant uses.", fields, true)
    }
}

/// These numbers are what the quotas still allow.
#[derive(Debug)]
pub struct Limits {
    quotas: EffectiveQuotas,
    usage: TenantUsage,
}

impl Serialize for Limits {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(QuotaDimension::all().filter_map(|dimension| {
            Some((dimension.rest_available()?.name, dimension.available(&self.usage, &self.quotas)))
        }))
    }
}

impl JsonSchema for Limits {
    fn schema_name() -> Cow<'static, str> {
        "Limits".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let fields = QuotaDimension::all().filter_map(QuotaDimension::rest_available).map(|field| {
            let mut number = integer(field.description);
            number["type"] = json!(["integer", "null"]);
            number["minimum"] = 0.into();
            (field.name.to_owned(), number)
        });
        let description = "These numbers are what the quotas still allow. Null means that there is no limit. No number is below 0.";
        schema(description, fields, true)
    }
}

/// Statistics say what a tenant uses and what its quotas still allow.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Stats {
    /// This is the UID of the tenant.
    tenant_id: String,
    /// This is the name of the tenant.
    name: String,
    /// This is the plan of the tenant.
    plan: String,
    /// This is the state of the tenant.
    status: TenantStatus,
    /// These quotas are in force. They are null while the plan is not in the table of plans.
    quotas: Option<AllQuotas>,
    /// This is what the tenant uses.
    usage: UsageView,
    /// This is what the quotas still allow. It is null while the plan is not in the table of plans.
    limits: Option<Limits>,
}

fn status(app: &App, tenant: &Tenant) -> TenantStatus {
    let stored = tenant.status.as_ref().and_then(|status| status.phase);
    let decision = tenant_state::decide(tenant, app.clock.now());
    match tenant_state::phase(&decision, stored == Some(TenantPhase::Stalled)) {
        TenantPhase::Active => TenantStatus::Active,
        TenantPhase::Stalled => TenantStatus::Stalled,
        TenantPhase::Suspended => TenantStatus::Suspended,
        TenantPhase::Expired => TenantStatus::Expired,
        TenantPhase::Terminating => TenantStatus::Deleted,
    }
}

fn quotas(app: &App, tenant: &Tenant) -> Option<EffectiveQuotas> {
    app.plans.borrow().get(&tenant.spec.plan).map(|plan| plan.effective(&tenant.spec.quotas))
}

/// The usage of a tenant: of its jobs as the scheduler has it, where this process schedules; the rest from the status.
fn usage(app: &App, tenant: &Tenant) -> TenantUsage {
    let status = tenant.status.clone().unwrap_or_default();
    let recorded = status.usage.unwrap_or_default();
    let live = status.namespace.and_then(|namespace| app.scheduler()?.usage(&namespace));
    match live {
        Some(live) => {
            TenantUsage { storage_bytes: recorded.storage_bytes, workers: recorded.workers, ..live }
        }
        None => recorded,
    }
}

/// A response with the tenant and its `ETag`.
#[must_use]
pub fn with_etag(app: &App, tenant: &Tenant) -> Response {
    let mut response = Json(view(app, tenant)).into_response();
    let tag = etag(tenant.metadata.resource_version.as_deref().unwrap_or_default());
    response.headers_mut().extend(tag.map(|tag| (header::ETAG, tag)));
    response
}

/// The view of a tenant.
#[must_use]
pub fn view(app: &App, tenant: &Tenant) -> TenantView {
    let spec = &tenant.spec;
    let time = |time: &Option<Time>| time.as_ref().map(|time| time.0);
    TenantView {
        id: tenant.uid().unwrap_or_default(),
        name: tenant.name_any(),
        display_name: spec.display_name.clone(),
        plan: spec.plan.clone(),
        status: status(app, tenant),
        namespace: tenant.status.as_ref().and_then(|status| status.namespace.clone()),
        quotas: quotas(app, tenant).map(AllQuotas),
        usage: usage(app, tenant).into(),
        metadata: spec.metadata.iter().map(|(key, value)| (key.clone(), value.0.clone())).collect(),
        shared_pools: spec.shared_pools.clone(),
        prevent_deletion: spec.prevent_deletion,
        created_at: time(&tenant.metadata.creation_timestamp),
        expires_at: time(&spec.expires_at),
    }
}

/// The statistics of a tenant.
#[must_use]
pub fn stats(app: &App, tenant: &Tenant) -> Stats {
    let (quotas, usage) = (quotas(app, tenant), usage(app, tenant));
    Stats {
        tenant_id: tenant.uid().unwrap_or_default(),
        name: tenant.name_any(),
        plan: tenant.spec.plan.clone(),
        status: status(app, tenant),
        limits: quotas.clone().map(|quotas| Limits { quotas, usage: usage.clone() }),
        quotas: quotas.map(AllQuotas),
        usage: usage.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api_types::Plans, http::body};

    #[test]
    fn own_quotas_are_read_by_name_and_refused_as_other_fields_are() {
        let read = |text: &str| body::read::<OwnQuotas>(text.as_bytes()).map(|own| json!(Quotas::from(own)));
        assert_eq!(read(r#"{"max_gpus": 2, "max_jobs": null}"#).unwrap(), json!({"maxGpus": 2}));
        for (bad, expected) in [
            (r#"{"maxGpus": 2}"#, "unknown field `maxGpus`, expected one of `max_jobs`, `max_queued_jobs`, "),
            (r#"{"max_gpus": "2"}"#, "max_gpus: invalid type: string \"2\", expected a whole number"),
            ("7", "expected an object"),
        ] {
            let problem = read(bad).unwrap_err();
            assert!(problem.detail().contains(expected), "{bad}: {}", problem.detail());
        }
    }

    #[test]
    fn what_quotas_still_allow_is_never_negative() {
        let plans = Plans::built_in().unwrap();
        let own = Quotas { max_gpus: Some(-1), ..Quotas::default() };
        let quotas = plans.get("free").unwrap().effective(&own);
        let usage = TenantUsage { active_jobs: 9, cpu_millicores: 1500, gpus: 3, ..TenantUsage::default() };
        let limits = json!(Limits { quotas, usage });
        assert_eq!(limits["available_jobs"], 0);
        assert_eq!(limits["available_cpu_millicores"], 2500);
        assert!(limits["available_gpus"].is_null(), "the quota has no limit");
    }
}
