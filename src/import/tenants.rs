//! A row of the table `tenants` as a Tenant.

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    api_types::{Plans, plan::Quotas},
    names,
};

/// A row of `tenants`.
#[derive(Clone, Debug, Deserialize)]
pub struct TenantRow {
    /// Its key.
    pub id: String,
    /// Its name, which may be any text.
    pub name: String,
    display_name: Option<String>,
    status: Option<String>,
    plan: Option<String>,
    quotas: Option<Map<String, Value>>,
    metadata: Option<Map<String, Value>>,
    expires_at: Option<String>,
}

/// Quotas there, and here.
const QUOTAS: [(&str, &str); 8] = [
    ("max_jobs", "maxJobs"),
    ("max_workers", "maxWorkers"),
    ("max_jobs_per_hour", "maxJobsPerHour"),
    ("max_cpu_cores", "maxCpuCores"),
    ("max_gpus", "maxGpus"),
    ("max_storage_gb", "maxStorageGb"),
    ("max_bandwidth_mbps", "maxBandwidthMbps"),
    ("job_timeout_minutes", "jobTimeoutMinutes"),
];
/// Why a deleted row has no Tenant.
pub const DELETED: &str = "it is deleted";
/// Bounds of the schema.
const MAX_DISPLAY_NAME: usize = 128;
const MAX_ENTRIES: usize = 64;
const MAX_ENTRY_NAME: usize = 128;
const MAX_ENTRY: usize = 1024;

/// The Tenant of a row, as the fields that it needs and no others, and what is different from the row.
///
/// # Errors
/// Why the row has no Tenant.
pub fn tenant(row: &TenantRow, name: &str, plans: &Plans) -> Result<(Value, Vec<String>), String> {
    let mut changes = Vec::new();
    let mut spec = Map::new();
    if name != row.name {
        changes.push(format!("its name is {name}"));
    }
    let display = row.display_name.as_deref().filter(|text| !text.is_empty()).unwrap_or(&row.name);
    if display != name {
        let cut: String = display.chars().take(MAX_DISPLAY_NAME).collect();
        if cut != display {
            changes.push(format!("its display name is cut to {MAX_DISPLAY_NAME} characters"));
        }
        spec.insert("displayName".to_owned(), cut.into());
    }
    let plan = row.plan.as_deref().filter(|plan| !plan.is_empty()).unwrap_or("free");
    if plans.get(plan).is_none() {
        let known: Vec<&str> = plans.names().collect();
        return Err(format!(
            "its plan `{plan}` is not in the table of plans ({}): give the table that you will install with --plans",
            known.join(", ")
        ));
    }
    spec.insert("plan".to_owned(), plan.into());
    if is_suspended(row, &mut spec, &mut changes)? {
        spec.insert("suspended".to_owned(), true.into());
    }
    let quotas = quotas(row, plan, plans, &mut changes);
    if !quotas.is_empty() {
        spec.insert("quotas".to_owned(), quotas.into());
    }
    let metadata = metadata(row, &mut changes);
    if !metadata.is_empty() {
        spec.insert("metadata".to_owned(), metadata.into());
    }
    let object = json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION), "kind": "Tenant",
        "metadata": {"name": name, "annotations": {names::ANNOTATION_IMPORTED: row.id}},
        "spec": spec,
    });
    Ok((object, changes))
}

/// Whether the Tenant is to be suspended; also sets when it expires.
fn is_suspended(
    row: &TenantRow,
    spec: &mut Map<String, Value>,
    changes: &mut Vec<String>,
) -> Result<bool, String> {
    let expires = row.expires_at.as_deref().map(timestamp).transpose()?;
    if let Some(expires) = expires {
        spec.insert("expiresAt".to_owned(), expires.to_string().into());
    }
    match row.status.as_deref().unwrap_or("active") {
        "active" => Ok(false),
        "suspended" => Ok(true),
        "deleted" => Err(DELETED.to_owned()),
        "expired" if expires.is_some() => Ok(false),
        "expired" => {
            changes.push("it is suspended: it has expired, and has no time for that".to_owned());
            Ok(true)
        }
        other => {
            changes.push(format!("it is suspended: its status `{other}` is not known"));
            Ok(true)
        }
    }
}

/// A time of Postgres; one without a zone is in UTC.
fn timestamp(text: &str) -> Result<Timestamp, String> {
    let civil = || text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok();
    let read = text.parse::<Timestamp>().ok().or_else(|| civil().map(|zoned| zoned.timestamp()));
    read.ok_or_else(|| format!("its expires_at `{text}` is not a time"))
}

/// The quotas that are not the plan's.
fn quotas(row: &TenantRow, plan: &str, plans: &Plans, changes: &mut Vec<String>) -> Map<String, Value> {
    let of_plan = plans.get(plan).map(|plan| json!(plan.effective(&Quotas::default()))).unwrap_or_default();
    let given = row.quotas.clone().unwrap_or_default();
    for name in given.keys().filter(|name| !QUOTAS.iter().any(|(known, _)| known == name)) {
        changes.push(format!("its quota `{name}` is dropped: there is none of that name"));
    }
    let mut own = Map::new();
    for (there, here) in QUOTAS {
        let value = match given.get(there) {
            None | Some(Value::Null) => continue,
            Some(value) if value.is_i64() => value.as_i64().unwrap_or_default(),
            Some(other) => {
                changes.push(format!("its quota {there} is the plan's: {other} is not a whole number"));
                continue;
            }
        };
        if of_plan[here] == value {
            continue;
        }
        if value <= 0 {
            changes.push(format!("its quota {here} is -1: {there} {value} limited nothing"));
        }
        own.insert(here.to_owned(), if value <= 0 { -1 } else { value }.into());
    }
    own
}

/// The notes, as texts.
fn metadata(row: &TenantRow, changes: &mut Vec<String>) -> Map<String, Value> {
    let mut notes = Map::new();
    for (name, value) in row.metadata.iter().flatten() {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let fits = name.chars().count() <= MAX_ENTRY_NAME && text.chars().count() <= MAX_ENTRY;
        if fits && notes.len() < MAX_ENTRIES {
            notes.insert(name.clone(), text.into());
        } else {
            let short: String = name.chars().take(MAX_ENTRY_NAME).collect();
            changes.push(format!(
                "its note `{short}` is dropped: {MAX_ENTRIES} are kept, each of at most {MAX_ENTRY} characters"
            ));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_types::Tenant;

    fn converted(row: Value) -> Result<(Value, Vec<String>), String> {
        let mut whole = json!({"id": "7", "name": "acme", "plan": "pro", "status": "active"});
        crate::kube_ext::mock::merge(&mut whole, &row);
        let row: TenantRow = serde_json::from_value(whole).unwrap();
        let (object, changes) = tenant(&row, "acme", &Plans::built_in().unwrap())?;
        serde_json::from_value::<Tenant>(object.clone()).unwrap();
        Ok((object["spec"].clone(), changes))
    }

    #[test]
    fn a_tenant_has_what_is_its_own_and_follows_its_plan_in_the_rest() {
        let quotas = json!({"max_jobs": 100, "max_gpus": 8, "max_jobs_per_hour": 0, "job_timeout_minutes": -5,
            "max_workers": 1.5, "max_frames": 3});
        let (spec, changes) = converted(json!({
            "display_name": "Acme Corp", "quotas": quotas, "usage": {"active_jobs": 3},
            "metadata": {"contact": "a@b", "nested": {"a": 1}, "n".repeat(129): "x", "long": "x".repeat(1025)},
            "expires_at": "2030-01-02T03:04:05.5",
        }))
        .unwrap();
        assert_eq!(
            spec,
            json!({
                "displayName": "Acme Corp", "plan": "pro", "expiresAt": "2030-01-02T03:04:05.5Z",
                "quotas": {"maxGpus": 8, "maxJobsPerHour": -1, "jobTimeoutMinutes": -1},
                "metadata": {"contact": "a@b", "nested": "{\"a\":1}"},
            })
        );
        for words in
            ["max_frames", "1.5 is not", "max_jobs_per_hour 0", "job_timeout_minutes -5", "`long`", "`nnn"]
        {
            assert!(changes.iter().any(|change| change.contains(words)), "{words}: {changes:?}");
        }
        assert_eq!(changes.len(), 6, "{changes:?}");
        // A quota of none that is the plan's stays the plan's.
        let (spec, changes) = converted(json!({"plan": "free", "quotas": {"max_gpus": 0}})).unwrap();
        assert_eq!((spec, changes.len()), (json!({"plan": "free"}), 0));
    }

    #[test]
    fn no_tenant_is_more_active_than_it_was() {
        for (row, suspended) in [
            (json!({"status": "suspended"}), json!(true)),
            (json!({"status": "expired"}), json!(true)),
            (json!({"status": "expired", "expires_at": "2020-01-01T00:00:00+02:00"}), Value::Null),
            (json!({"status": "paused"}), json!(true)),
            (json!({"status": null}), Value::Null),
        ] {
            assert_eq!(converted(row.clone()).unwrap().0["suspended"], suspended, "{row}");
        }
        for (row, words) in [
            (json!({"status": "deleted"}), "it is deleted"),
            (json!({"plan": "gold"}), "`gold` is not in the table of plans (basic, enterprise, free, pro)"),
            (json!({"expires_at": "soon"}), "`soon` is not a time"),
        ] {
            let error = converted(row).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }
}
