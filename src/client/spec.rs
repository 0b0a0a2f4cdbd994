//! The spec of a job that is to be submitted, as a file or flags have it: in the form of a Job (`maxRetries`) or in that of the
//! REST API (`max_retries`). Each transport sends its own form; a field that no job has reaches the server, which refuses it
//! by name.

use serde_json::{Map, Value};

use super::error::{Error, Result};
use crate::{api_types::JobSpec, names, yaml};

/// The field whose names are the user's: they stay as they are.
const FREE: &str = "parameters";
/// The fields whose values are words that the two forms spell differently.
const WORDS: [&str; 2] = ["retryPolicy", "onQuota"];

/// A job that is to be submitted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Submission {
    /// Its name; given by the client or server where it is absent.
    pub name: Option<String>,
    /// The namespace that a manifest names.
    pub namespace: Option<String>,
    /// The spec, in the form of a Job.
    pub spec: Map<String, Value>,
}

impl Submission {
    /// Reads a Job manifest, or the spec alone in either form; YAML or JSON.
    ///
    /// # Errors
    /// It is no YAML, or something other than a job.
    pub fn read(text: &str) -> Result<Self> {
        let invalid = |why: String| Error::usage(format!("failed to read the job: {why}"));
        let whole: Value = yaml::read(text).map_err(|error| invalid(error.to_string()))?;
        let Value::Object(mut whole) = whole else {
            return Err(invalid("it is not a mapping of fields".to_owned()));
        };
        if !whole.contains_key("kind") && !whole.contains_key("apiVersion") {
            return Ok(Self { spec: to_job(whole), ..Self::default() });
        }
        let word = |name: &str| whole.get(name).and_then(Value::as_str).unwrap_or_default();
        let (kind, version) = (word("kind"), word("apiVersion"));
        if kind != "Job" || version != format!("{}/{}", names::GROUP, names::VERSION) {
            let expected = format!("give kind Job of {}/{}", names::GROUP, names::VERSION);
            return Err(invalid(format!("it is kind {kind:?} of {version:?}: {expected}")));
        }
        let metadata =
            |name: &str| whole.get("metadata").and_then(|all| all[name].as_str()).map(str::to_owned);
        let (name, namespace) = (metadata("name"), metadata("namespace"));
        match whole.remove("spec") {
            Some(Value::Object(spec)) => Ok(Self { name, namespace, spec }),
            _ => Err(invalid("it has no spec".to_owned())),
        }
    }

    /// The typed spec.
    ///
    /// # Errors
    /// A field is of another type than in a Job.
    pub fn typed(&self) -> Result<JobSpec> {
        serde_path_to_error::deserialize(Value::Object(self.spec.clone()))
            .map_err(|error| Error::usage(format!("failed to read the job: {error}")))
    }

    /// The body for the REST API. As with kubectl, a job waits at a quota unless it says otherwise.
    #[must_use]
    pub fn body(&self) -> Map<String, Value> {
        let mut body = to_rest(self.spec.clone());
        // Only an update has it.
        if body.get("canceled") == Some(&Value::Bool(false)) {
            body.remove("canceled");
        }
        body.entry("on_quota").or_insert_with(|| "queue".into());
        body
    }
}

fn convert(fields: Map<String, Value>, name: fn(&str) -> String) -> Map<String, Value> {
    let value = |key: &str, value: Value| if key == FREE { value } else { within(value, name) };
    fields.into_iter().map(|(key, of)| (name(&key), value(&key, of))).collect()
}

fn within(value: Value, name: fn(&str) -> String) -> Value {
    match value {
        Value::Object(fields) => Value::Object(convert(fields, name)),
        Value::Array(items) => items.into_iter().map(|item| within(item, name)).collect(),
        other => other,
    }
}

fn words(fields: &mut Map<String, Value>, names: [String; 2], spell: fn(&str) -> String) {
    for name in names {
        if let Some(Value::String(word)) = fields.get_mut(&name) {
            *word = spell(word);
        }
    }
}

/// A spec in the form of a Job.
#[must_use]
pub fn to_job(fields: Map<String, Value>) -> Map<String, Value> {
    let mut fields = convert(fields, camel);
    words(&mut fields, WORDS.map(str::to_owned), |word| {
        let mut letters = word.chars();
        letters.next().map(|first| first.to_uppercase().chain(letters).collect()).unwrap_or_default()
    });
    fields
}

/// A spec in the form of the REST API.
#[must_use]
pub fn to_rest(fields: Map<String, Value>) -> Map<String, Value> {
    let mut fields = convert(fields, snake);
    words(&mut fields, WORDS.map(snake), str::to_lowercase);
    fields
}

/// `maxRetries` as `max_retries`.
#[must_use]
pub fn snake(name: &str) -> String {
    let mut text = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
    }
    text
}

/// `max_retries` as `maxRetries`.
#[must_use]
pub fn camel(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    let mut upper = false;
    for c in name.chars() {
        match c {
            '_' if !text.is_empty() => upper = true,
            _ => {
                text.push(if upper { c.to_ascii_uppercase() } else { c });
                upper = false;
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::{body, jobs::Submit};

    fn full() -> Value {
        json!({
            "image": "i", "command": ["a"], "args": ["b"], "workingDir": "/w", "runAsUser": 7,
            "env": [{"name": "A_B", "value": "x_y"}, {"name": "B", "secretKeyRef": {"name": "s", "key": "k"}},
                    {"name": "C", "configMapKeyRef": {"name": "c", "key": "k"}}],
            "envFrom": [{"secret": "s"}, {"configMap": "c"}], "scenario": "render",
            "parameters": {"maxFrames": "9", "min_frames": "1"},
            "resources": {"cpu": "2", "memory": "1Gi", "gpus": 1, "ephemeralStorage": "1Gi", "bandwidthMbps": 5},
            "volumes": [{"name": "v", "mountPath": "/v", "claim": "p", "readOnly": true},
                        {"name": "x", "mountPath": "/x", "scratch": "1Gi", "readOnly": false}],
            "imagePullSecrets": ["r"], "timeoutSeconds": 9, "maxRetries": 0, "retryPolicy": "Always",
            "pool": "gpu", "onQuota": "Reject", "ttlSecondsAfterFinished": 1, "queue": "live",
            "priority": "high",
        })
    }

    #[test]
    fn the_rest_api_reads_of_a_job_what_the_cluster_reads() {
        // Given a job with every field, in the form of the cluster.
        let Value::Object(spec) = full() else { unreachable!() };
        let given = Submission { spec, ..Submission::default() };
        // What the server makes of the body is the spec that the cluster would read.
        let body = Value::Object(given.body()).to_string();
        let read = JobSpec::from(body::read::<Submit>(body.as_bytes()).unwrap());
        assert_eq!(read, given.typed().unwrap());
        // And back again nothing is lost, the names of parameters included.
        assert_eq!(to_job(to_rest(given.spec.clone())), given.spec);
    }

    #[test]
    fn a_job_waits_at_a_quota_over_rest_as_it_does_with_kubectl() {
        let given = Submission::read("image: i").unwrap();
        assert_eq!(Value::Object(given.body()), json!({"image": "i", "on_quota": "queue"}));
    }

    #[test]
    fn manifests_and_both_forms_of_a_spec_are_read() {
        let manifest = "apiVersion: crofter.io/v1alpha1\nkind: Job\nmetadata: {name: j, namespace: tenant-a}\nspec: {image: i, maxRetries: 1}";
        let read = Submission::read(manifest).unwrap();
        assert_eq!((read.name.as_deref(), read.namespace.as_deref()), (Some("j"), Some("tenant-a")));
        for alone in ["image: i\nmaxRetries: 1", r#"{"image": "i", "max_retries": 1}"#] {
            assert_eq!(Submission::read(alone).unwrap().spec, read.spec, "{alone}");
        }
    }

    #[test]
    fn what_is_no_job_is_refused_with_what_it_is() {
        for (text, expected) in [
            ("apiVersion: batch/v1\nkind: Job\nspec: {}", "it is kind \"Job\" of \"batch/v1\""),
            ("- a", "it is not a mapping of fields"),
            ("kind: Job\napiVersion: crofter.io/v1alpha1", "it has no spec"),
            ("{", "failed to read the job"),
        ] {
            let error = Submission::read(text).unwrap_err();
            assert!(error.message.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_field_of_another_type_is_named() {
        let error = Submission::read("image: 7").unwrap().typed().unwrap_err();
        assert!(error.message.contains("image"), "{error}");
    }
}
