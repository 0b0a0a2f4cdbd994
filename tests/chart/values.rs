//! The schema of the values: each is described, typed and bounded, and the files agree.

use std::{fs, path::Path, process::Command};

use crofter::{
    api_types::{Job, Tenant, TenantApiKey, crd},
    yaml,
};
use crofter_test_cluster::tools::Tools;
use serde_json::{Value, json};

use super::{chart, generated::descriptions, lifecycle::copy_dir, object, rendering::of_kind, succeeded};

/// values.schema.json.
pub(crate) struct Schema(Value);

impl Schema {
    pub(crate) fn read() -> Self {
        let text = fs::read_to_string(chart().join("values.schema.json")).unwrap();
        Self(serde_json::from_str(&text).unwrap())
    }

    /// The schema itself, behind its reference where it is one.
    fn resolved<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(reference) => self.0.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
            None => schema,
        }
    }

    /// The schema of a value, such as `image.tag`.
    fn at(&self, path: &str) -> &Value {
        path.split('.').fold(&self.0, |schema, key| {
            let found = &self.resolved(schema)["properties"][key];
            assert!(found.is_object(), "values.schema.json has no {path}");
            found
        })
    }

    /// The type of a value, for people.
    pub(crate) fn kind(&self, path: &str) -> String {
        let schema = self.resolved(self.at(path));
        let one = |schema: &Value| schema["type"].as_str().unwrap().to_owned();
        match schema["anyOf"].as_array() {
            Some(any) => any.iter().map(one).collect::<Vec<_>>().join(" or "),
            None => one(schema),
        }
    }

    /// The values, and what of each is missing.
    fn gaps(&self, schema: &Value, path: &str, gaps: &mut Vec<String>) {
        let own = self.resolved(schema);
        if let Some(any) = own["anyOf"].as_array() {
            any.iter().for_each(|one| self.gaps(one, path, gaps));
            return;
        }
        let has = |key: &str| own.get(key).is_some();
        let bounded = match own["type"].as_str() {
            Some("string") => has("enum") || has("maxLength") || has("pattern"),
            Some("integer") => has("minimum") && has("maximum"),
            Some("array") => has("items") && has("maxItems"),
            // Those of Kubernetes are the API server's to check.
            Some("object" | "boolean") => true,
            _ => {
                gaps.push(format!("{path}: type"));
                true
            }
        };
        if !bounded {
            gaps.push(format!("{path}: bounds"));
        }
        for (key, of_key) in own["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            if of_key["description"].as_str().or(self.resolved(of_key)["description"].as_str()).is_none() {
                gaps.push(format!("{path}: description"));
            }
            self.gaps(of_key, &path, gaps);
        }
        for inner in ["items", "additionalProperties"] {
            if own[inner].is_object() {
                self.gaps(&own[inner], &format!("{path}.{inner}"), gaps);
            }
        }
    }
}

/// The value at a path such as `image.tag`.
pub(crate) fn at<'a>(values: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(values, |value, key| value.get(key).unwrap())
}

/// The paths of a schema's values: of those that have no values of their own in it.
fn leaves(schema: &Schema, of: &Value, path: &str, described: &[String], found: &mut Vec<String>) {
    let own = schema.resolved(of);
    match own["properties"].as_object() {
        Some(properties) if !described.iter().any(|known| known == path) => {
            for (key, of_key) in properties {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                leaves(schema, of_key, &path, described, found);
            }
        }
        _ => found.push(path.to_owned()),
    }
}

#[test]
fn every_value_is_described_typed_and_bounded() {
    let schema = Schema::read();
    let mut gaps = Vec::new();
    schema.gaps(&schema.0, "values", &mut gaps);
    assert_eq!(gaps, Vec::<String>::new());
    // The check itself finds what is missing.
    let mut gaps = Vec::new();
    let loose = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {}}});
    schema.gaps(&loose, "values", &mut gaps);
    assert_eq!(
        gaps,
        ["values.a: description", "values.a: bounds", "values.b: description", "values.b: type"]
    );
}

#[test]
fn values_and_schema_have_the_same_values() {
    let values = fs::read_to_string(chart().join("values.yaml")).unwrap();
    let described: Vec<String> = descriptions(&values).into_iter().map(|(path, _)| path).collect();
    let schema = Schema::read();
    let mut of_schema = Vec::new();
    leaves(&schema, &schema.0, "", &described, &mut of_schema);
    // Helm and parent charts set these two; the chart has no use for them.
    of_schema.retain(|path| path != "global" && path != "enabled");
    let defaults: Value = yaml::read(&values).unwrap();
    for path in &described {
        at(&defaults, path);
    }
    let mut sorted = described.clone();
    sorted.sort();
    of_schema.sort();
    assert_eq!(sorted, of_schema);
}

/// A parent chart whose dependency has a condition, which Helm reads out of the dependency's own values.
#[test]
fn a_parent_chart_switches_it_on_and_off() {
    let parent = Path::new(env!("CARGO_TARGET_TMPDIR")).join("parent-chart");
    drop(fs::remove_dir_all(&parent));
    copy_dir(&chart(), &parent.join("charts/crofter"));
    let manifest = json!({
        "apiVersion": "v2", "name": "parent", "version": "1.0.0",
        "dependencies": [{"name": "crofter", "version": "*", "condition": "crofter.enabled"}],
    });
    fs::write(parent.join("Chart.yaml"), manifest.to_string()).unwrap();
    let helm = Tools::control_plane().unwrap().path("helm").unwrap();
    let rendered = |enabled: bool| -> Vec<Value> {
        let values = json!({"enabled": enabled, "replicas": 1});
        let mut helm = Command::new(&helm);
        helm.args(["template", "x", "--set-json", &format!("crofter={values}")]);
        helm.args(["--set", "global.imageRegistry=registry.example.com"]).arg(&parent);
        yaml::read_all(&succeeded(&helm.output().unwrap())).unwrap()
    };
    let on = rendered(true);
    let deployment = of_kind(&on, "Deployment")[0];
    assert_eq!(
        (&deployment["metadata"]["name"], &deployment["spec"]["replicas"]),
        (&json!("x-crofter"), &json!(1))
    );
    assert!(rendered(false).iter().all(Value::is_null));
}

#[test]
fn artifact_hub_is_given_the_crds_and_examples_that_are_read() {
    let manifest: Value = yaml::read(&fs::read_to_string(chart().join("Chart.yaml")).unwrap()).unwrap();
    let annotation = |name: &str| -> Vec<Value> {
        let text = manifest["annotations"][format!("artifacthub.io/{name}")].as_str().unwrap();
        yaml::read(text).unwrap()
    };
    let listed: Vec<_> = annotation("crds")
        .iter()
        .map(|crd| [crd["kind"].clone(), crd["name"].clone(), crd["version"].clone()])
        .collect();
    assert_eq!(listed.len(), crd::all().len());
    for (_, crd) in crd::all() {
        let expected = [crd.spec.names.kind, crd.metadata.name.unwrap(), crd.spec.versions[0].name.clone()];
        assert!(listed.contains(&expected.map(Value::from)), "{listed:?}");
    }
    let examples: Vec<Value> = annotation("crdsExamples");
    let of_kind = |kind: &str| of_kind(&examples, kind)[0].clone();
    object::<Tenant>(of_kind("Tenant"));
    object::<Job>(of_kind("Job"));
    object::<TenantApiKey>(of_kind("TenantApiKey"));
    for change in annotation("changes") {
        assert!(change["kind"].is_string() && change["description"].is_string(), "{change}");
    }
    let license = &manifest["annotations"]["artifacthub.io/license"];
    assert_eq!(license, env!("CARGO_PKG_LICENSE"));
}
