//! A row of the table `jobs` as a Job.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::naming::{label, short_hash};
use crate::{
    api_types::{JobSpec, job::ParameterValue},
    db,
    domain::environment,
    names,
};

/// A row of `jobs`.
#[derive(Clone, Debug, Deserialize)]
pub struct JobRow {
    /// Its key.
    pub id: String,
    sequence_number: Option<i64>,
    /// The tenant's key; rows from before there were tenants have none.
    pub tenant_id: Option<String>,
    scenario: Option<String>,
    confidence: Option<String>,
    engine: Option<String>,
    parameters: Option<Value>,
    status: String,
    queue: Option<String>,
    priority: Option<String>,
    retry_count: Option<i64>,
    max_retries: Option<i64>,
}

/// What an administrator has said about jobs.
#[derive(Clone, Debug, Default)]
pub struct JobOptions {
    /// Scenarios of the catalogue, by the names that rows have.
    pub scenarios: BTreeMap<String, String>,
    /// The image of every job. Jobs then have no scenario, and its name as the parameter `scenario`.
    pub image: Option<String>,
}

/// Bounds of the schema.
const MAX_NAME: usize = 63;
const MAX_PARAMETERS: usize = 64;
const MAX_VALUE: usize = 4096;
const MAX_RETRIES: i64 = 100;
/// What the original service retries a job where its row does not say.
const DEFAULT_RETRIES: i64 = 3;

/// Whether a job in this state will not run (again).
#[must_use]
pub fn has_ended(status: &str) -> bool {
    db::ENDED.contains(&status)
}

/// The Job of a row in a namespace, and what is different from the row.
///
/// # Errors
/// Why the row has no Job.
pub fn job(row: &JobRow, namespace: &str, options: &JobOptions) -> Result<(Value, Vec<String>), String> {
    match row.status.to_ascii_lowercase().as_str() {
        "queued" | "pending" | "retrying" => (),
        "assigned" | "running" | "processing" | "paused" => {
            return Err(format!("it is {} there: import again when it has ended or is queued", row.status));
        }
        other => return Err(format!("its status `{other}` is not known")),
    }
    let mut changes = Vec::new();
    let scenario = if options.image.is_none() { Some(scenario(row, options)?) } else { None };
    let parameters = parameters(row, options)?;
    let queue = one_of(row.queue.as_deref(), ["default", "live", "batch"], "queue", &mut changes);
    let priority = one_of(row.priority.as_deref(), ["medium", "high", "low"], "priority", &mut changes);
    let left = row.max_retries.unwrap_or(DEFAULT_RETRIES) - row.retry_count.unwrap_or(0).max(0);
    let spec = json!({
        "scenario": scenario, "image": options.image, "parameters": parameters, "queue": queue, "priority": priority,
        "maxRetries": left.clamp(0, MAX_RETRIES), "retryPolicy": "Always",
    });
    let typed: JobSpec = serde_json::from_value(spec).map_err(|error| error.to_string())?;
    environment::check(&typed).map_err(|error| error.to_string())?;
    let object = json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION), "kind": "Job",
        "metadata": {
            "name": name(row), "namespace": namespace, "annotations": {names::ANNOTATION_IMPORTED: row.id},
        },
        "spec": typed,
    });
    Ok((object, changes))
}

/// The name of a row's Job: by its number, which people know it by.
fn name(row: &JobRow) -> String {
    match row.sequence_number {
        Some(number) if number >= 0 => format!("imported-{number}"),
        _ => format!("imported-{}", short_hash(&row.id)),
    }
}

fn scenario(row: &JobRow, options: &JobOptions) -> Result<String, String> {
    let there = row.scenario.as_deref().unwrap_or_default();
    if let Some(here) = options.scenarios.get(there) {
        return Ok(here.clone());
    }
    match label(there, MAX_NAME) {
        name if name.is_empty() => Err(format!(
            "its scenario `{there}` can't be the name of one: give --scenario '{there}=NAME' with one of the catalogue"
        )),
        name => Ok(name),
    }
}

/// The parameters of a row, and its engine and confidence.
fn parameters(row: &JobRow, options: &JobOptions) -> Result<BTreeMap<String, ParameterValue>, String> {
    let given = match &row.parameters {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(given)) => given.clone(),
        Some(_) => return Err("its parameters are not an object".to_owned()),
    };
    let mut parameters = BTreeMap::new();
    for (name, value) in given {
        if !is_parameter(&name) {
            return Err(format!("its parameter `{name}` can't be one: see spec.parameters of a Job"));
        }
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        if text.chars().count() > MAX_VALUE {
            return Err(format!(
                "its parameter `{name}` has {} characters: at most {MAX_VALUE} are allowed",
                text.chars().count()
            ));
        }
        parameters.insert(name, ParameterValue(text));
    }
    let scenario = row.scenario.as_ref().filter(|_| options.image.is_some());
    for (name, value) in
        [("engine", row.engine.as_ref()), ("confidence", row.confidence.as_ref()), ("scenario", scenario)]
    {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            parameters.entry(name.to_owned()).or_insert_with(|| ParameterValue(value.clone()));
        }
    }
    if parameters.len() > MAX_PARAMETERS {
        return Err(format!("it has {} parameters: at most {MAX_PARAMETERS} are allowed", parameters.len()));
    }
    Ok(parameters)
}

/// Whether a text is the name of a parameter, by the rule of the CRD.
fn is_parameter(name: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(inner)
}

/// The value of a row where it is one of these, else the first.
fn one_of(
    value: Option<&str>,
    known: [&'static str; 3],
    field: &str,
    changes: &mut Vec<String>,
) -> &'static str {
    let Some(value) = value.filter(|value| !value.is_empty()) else { return known[0] };
    known.into_iter().find(|one| value.eq_ignore_ascii_case(one)).unwrap_or_else(|| {
        changes.push(format!("its {field} is {}: there is no {field} `{value}`", known[0]));
        known[0]
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_types::Job;

    fn converted(row: Value) -> Result<(Value, Vec<String>), String> {
        let mut whole =
            json!({"id": "u-1", "sequence_number": 12, "scenario": "4K60-h264", "status": "queued"});
        crate::kube_ext::mock::merge(&mut whole, &row);
        converted_with(whole, None)
    }

    fn converted_with(row: Value, image: Option<&str>) -> Result<(Value, Vec<String>), String> {
        let row: JobRow = serde_json::from_value(row).unwrap();
        let options = JobOptions {
            scenarios: BTreeMap::from([("***".to_owned(), "stars".to_owned())]),
            image: image.map(str::to_owned),
        };
        let (object, changes) = job(&row, "tenant-acme", &options)?;
        serde_json::from_value::<Job>(object.clone()).unwrap();
        Ok((object, changes))
    }

    #[test]
    fn a_waiting_job_becomes_one_that_its_scenario_can_run() {
        let (object, changes) = converted(json!({
            "parameters": {"bitrate": "5M", "fps": 60, "filters": ["a", {"b": null}], "engine": "gstreamer"},
            "engine": "auto", "confidence": "high", "queue": "LIVE", "priority": "urgent", "max_retries": 5,
            "retry_count": 2, "status": "RETRYING",
        }))
        .unwrap();
        assert_eq!(object["metadata"]["name"], "imported-12");
        assert_eq!(object["metadata"]["annotations"], json!({"crofter.io/imported-from": "u-1"}));
        let spec = &object["spec"];
        assert_eq!(spec["scenario"], "4k60-h264");
        assert_eq!(
            spec["parameters"],
            json!({"bitrate": "5M", "fps": "60", "filters": "[\"a\",{\"b\":null}]", "engine": "gstreamer",
                "confidence": "high"})
        );
        assert_eq!(
            (&spec["queue"], &spec["priority"], &spec["maxRetries"]),
            (&json!("live"), &json!("medium"), &json!(3))
        );
        assert_eq!(changes, ["its priority is medium: there is no priority `urgent`"]);
        // What a row lacks has the default of the original service.
        let (object, changes) =
            converted(json!({"sequence_number": null, "scenario": "***", "parameters": null})).unwrap();
        assert_eq!(object["metadata"]["name"], format!("imported-{}", short_hash("u-1")));
        assert_eq!(
            (&object["spec"]["scenario"], &object["spec"]["maxRetries"]),
            (&json!("stars"), &json!(3))
        );
        assert_eq!(changes.len(), 0);
        // With an image the scenario is a parameter.
        let row = json!({"id": "u-1", "scenario": "日本", "status": "pending"});
        let (object, _) = converted_with(row, Some("registry/ffmpeg:1")).unwrap();
        let spec = &object["spec"];
        assert_eq!((&spec["image"], &spec["scenario"]), (&json!("registry/ffmpeg:1"), &Value::Null));
        assert_eq!(spec["parameters"], json!({"scenario": "日本"}));
    }

    #[test]
    fn a_job_that_would_run_twice_or_as_another_is_left() {
        let many: Map<String, Value> = (0..65).map(|n| (format!("p{n}"), json!(n))).collect();
        for (row, words) in [
            (json!({"status": "running"}), "running there"),
            (json!({"status": "Assigned"}), "Assigned there"),
            (json!({"status": "lost"}), "`lost` is not known"),
            (json!({"scenario": "日本"}), "--scenario '日本=NAME'"),
            (json!({"parameters": [1]}), "not an object"),
            (json!({"parameters": {"a b": 1}}), "`a b`"),
            (json!({"parameters": {"a": "x".repeat(4097)}}), "4097 characters"),
            (json!({"parameters": many}), "65 parameters"),
            (json!({"parameters": {"a-b": 1, "a.b": 1}}), "a-b and a.b"),
        ] {
            let error = converted(row).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let (spent, _) = converted(json!({"max_retries": 3, "retry_count": 9})).unwrap();
        assert_eq!(spent["spec"]["maxRetries"], 0);
    }
}
