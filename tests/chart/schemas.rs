//! Ten sets of values, each rendered twice to the same text, and valid for every version of Kubernetes that is supported:
//! by the OpenAPI documents of the four versions, out of Kubernetes' own Go module, and by the real API server.
//!
//! An OpenAPI document lists the fields and types of each kind. Unlike a validator of JSON Schema, the check refuses fields
//! that the document does not have, as the API server does with `fieldValidation=Strict`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crofter::yaml;
use serde_json::{Value, json};

use super::{
    NAMESPACE, installed,
    rendering::{helm_template, kubectl, of_kind},
    succeeded, type_in,
};

/// The supported versions, and the sums of their modules.
const VERSIONS: [(&str, &str); 4] = [
    ("1.34.4", "h1:Yy6R4QB8C9kJPp25GFqEvX5XQwY5qzKeqD0Xx6oAcmk="),
    ("1.35.4", "h1:o/8dBC/pHVpYoGV4OAIytAlNPZbdYVTXJHoYvXC4qzM="),
    ("1.36.3", "h1:qDQdoMiluAE2Eab6Fa52YV+WjiGz9mZFFoagEA6cI+o="),
    ("1.37.2", "h1:A2VDEiObzkYqFTKhSsn0ZEb0RlLEXpHWj93gi2HqEwE="),
];

/// What a template may not use: functions whose result depends on the cluster, on the time or on chance.
const IMPURE: &str = "lookup rand genCA genSelf genSigned genPrivateKey uuidv4 now htpasswd bcrypt getHostByName \
                      Capabilities.APIVersions Release.IsInstall Release.IsUpgrade Release.Revision";

/// The operator of Prometheus, whose module has its CRDs.
const PROMETHEUS_OPERATOR: (&str, &str) = (
    "github.com/prometheus-operator/prometheus-operator@v0.85.0",
    "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s=",
);
/// The kinds that no version of Kubernetes has.
const FOREIGN: [&str; 2] = ["crofter.io/v1alpha1", "monitoring.coreos.com/v1"];

/// The directory of a module, which Go downloads once and checks.
fn go_module(module: &str, sum: &str) -> PathBuf {
    let mut go = Command::new("go");
    // No go.mod is above this directory.
    go.args(["mod", "download", "-json", module]).current_dir(std::env::temp_dir());
    let downloaded: Value = serde_json::from_str(&succeeded(&go.output().unwrap())).unwrap();
    assert_eq!(downloaded["Sum"], sum, "{module}");
    PathBuf::from(downloaded["Dir"].as_str().unwrap())
}

/// The OpenAPI documents of a version.
struct OpenApi {
    directory: PathBuf,
    /// Those read so far, by group and version.
    documents: BTreeMap<String, Value>,
}

impl OpenApi {
    /// Those of a version, out of the module.
    fn of(version: &str, sum: &str) -> Self {
        let directory = go_module(&format!("k8s.io/kubernetes@v{version}"), sum).join("api/openapi-spec/v3");
        Self { directory, documents: BTreeMap::new() }
    }

    /// What an object has that its kind does not, and the other way round.
    fn faults(&mut self, object: &Value) -> Vec<String> {
        let api_version = object["apiVersion"].as_str().unwrap().to_owned();
        let document = self.documents.entry(api_version.clone()).or_insert_with(|| {
            let file = match api_version.split_once('/') {
                Some((group, version)) => format!("apis__{group}__{version}_openapi.json"),
                None => format!("api__{api_version}_openapi.json"),
            };
            serde_json::from_str(&fs::read_to_string(self.directory.join(file)).unwrap()).unwrap()
        });
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
        let kind = json!({"group": group, "version": version, "kind": object["kind"]});
        let is_of = |schema: &&Value| {
            schema["x-kubernetes-group-version-kind"].as_array().is_some_and(|kinds| kinds.contains(&kind))
        };
        let Some(schema) = schemas.values().find(is_of) else { return vec![format!("{kind} is no kind")] };
        let mut faults = Vec::new();
        check(document, schema, object, "", &mut faults);
        faults
    }
}

/// Compares a value with its schema: types, bounds of integers, required and unknown fields.
fn check(document: &Value, schema: &Value, value: &Value, path: &str, faults: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        return check(document, target, value, path, faults);
    }
    for part in schema["allOf"].as_array().into_iter().flatten() {
        check(document, part, value, path, faults);
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        let fits = |choice: &Value| {
            let mut faults = Vec::new();
            check(document, choice, value, path, &mut faults);
            faults.is_empty()
        };
        if !choices.iter().any(fits) {
            faults.push(format!("{path}: {value} is none of {choices:?}"));
        }
        return;
    }
    let is_int32 = |number: i64| schema["format"] != "int32" || i32::try_from(number).is_ok();
    let is_typed = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.as_i64().is_some_and(is_int32),
        Some("number") => value.is_number(),
        // A type that this check does not know is a fault, too.
        Some(_) => false,
        None => true,
    };
    if !is_typed {
        faults.push(format!("{path}: {value} is no {} {}", schema["format"], schema["type"]));
        return;
    }
    if let Some(choices) = schema["enum"].as_array()
        && !choices.contains(value)
    {
        faults.push(format!("{path}: {value} is none of {choices:?}"));
    }
    for field in schema["required"].as_array().into_iter().flatten() {
        if value.get(field.as_str().unwrap()).is_none() {
            faults.push(format!("{path}: {field} is missing"));
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(document, &schema["items"], item, &format!("{path}/{index}"), faults);
    }
    for (key, of_key) in value.as_object().into_iter().flatten() {
        let path = format!("{path}/{key}");
        match (schema["properties"].get(key), &schema["additionalProperties"]) {
            (Some(field), _) => check(document, field, of_key, &path, faults),
            (None, all @ Value::Object(_)) => check(document, all, of_key, &path, faults),
            (None, _) if schema.get("properties").is_some() => faults.push(format!("{path} is unknown")),
            (None, _) => (),
        }
    }
}

/// The sets of values: path and name.
fn sets() -> Vec<(String, String)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/values");
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let mut sets: Vec<_> = files
        .map(|path| {
            (path.to_str().unwrap().to_owned(), path.file_stem().unwrap().to_str().unwrap().to_owned())
        })
        .collect();
    sets.sort();
    assert_eq!(sets.len(), 10);
    sets
}

fn objects(text: &str) -> Vec<Value> {
    let documents: Vec<Value> = yaml::read_all(text).unwrap();
    documents.into_iter().filter(|object| !object.is_null()).collect()
}

#[test]
fn each_set_is_valid_for_every_supported_version() {
    for (version, sum) in VERSIONS {
        let mut openapi = OpenApi::of(version, sum);
        let mut seen = std::collections::BTreeSet::new();
        let rendered = sets()
            .into_iter()
            .map(|(path, name)| (name, helm_template(&["--values", &path, "--kube-version", version])));
        let manifests = ("manifests".to_owned(), kubectl(&["kustomize", "charts/manifests/overlays/ha"]));
        for (set, text) in rendered.chain([manifests]) {
            let objects = objects(&text);
            let deployments = if set == "separate-api" { 2 } else { 1 };
            assert_eq!(of_kind(&objects, "Deployment").len(), deployments, "{set}");
            // Kinds that no version of Kubernetes has are checked by the API server below.
            let is_foreign = |object: &&Value| FOREIGN.contains(&object["apiVersion"].as_str().unwrap());
            for object in objects.iter().filter(|object| !is_foreign(object)) {
                let (kind, name) = (&object["kind"], &object["metadata"]["name"]);
                let faults = openapi.faults(object);
                assert!(faults.is_empty(), "{version} {set} {kind} {name}:\n{}", faults.join("\n"));
                seen.insert(kind.as_str().unwrap().to_owned());
            }
        }
        for kind in
            ["StatefulSet", "PodDisruptionBudget", "ValidatingAdmissionPolicy", "CustomResourceDefinition"]
        {
            assert!(seen.contains(kind), "{kind}");
        }
    }
}

#[test]
fn the_check_finds_what_is_misspelt_mistyped_and_missing() {
    let (version, sum) = VERSIONS[0];
    let mut openapi = OpenApi::of(version, sum);
    let all = objects(&helm_template(&[]));
    let deployment = of_kind(&all, "Deployment")[0];
    assert_eq!(openapi.faults(deployment), Vec::<String>::new());
    // Each change makes one fault, which is named.
    let container = "/spec/template/spec/containers/0";
    for (at, field, value, fault) in [
        ("/spec", "replica", json!(2), "/spec/replica is unknown"),
        ("/spec", "replicas", json!("2"), "/spec/replicas: \"2\" is no"),
        ("/spec", "replicas", json!(3_000_000_000_i64), "/spec/replicas: 3000000000 is no"),
        ("/spec", "selector", Value::Null, "/spec/selector: null is no"),
        (container, "imagePolicy", json!("Always"), "containers/0/imagePolicy is unknown"),
        (
            container,
            "resources",
            json!({"limits": {"memory": true}}),
            "resources/limits/memory: true is none of",
        ),
        ("/metadata", "labels", json!({"a": 1}), "/metadata/labels/a: 1 is no"),
    ] {
        let mut broken = deployment.clone();
        broken.pointer_mut(at).unwrap()[field] = value;
        let faults = openapi.faults(&broken);
        assert!(faults.len() == 1 && faults[0].contains(fault), "{fault}: {faults:?}");
    }
    let mut broken = deployment.clone();
    broken["spec"].as_object_mut().unwrap().remove("selector");
    assert_eq!(openapi.faults(&broken), ["/spec: \"selector\" is missing"]);
}

#[test]
fn each_set_renders_twice_to_the_same_text() {
    for (path, set) in sets() {
        let render = || helm_template(&["--values", &path]);
        let (first, second) = (render(), render());
        assert!(first == second, "{set}");
    }
    // Nothing of a template depends on the cluster or on chance.
    let directories = ["templates", "templates/tests"].map(|directory| super::chart().join(directory));
    let files = directories.into_iter().flat_map(|directory| fs::read_dir(directory).unwrap());
    let files: Vec<_> = files.map(|file| file.unwrap().path()).filter(|path| path.is_file()).collect();
    assert!(files.iter().any(|path| path.ends_with("tests/check.yaml")));
    for path in files {
        let text = fs::read_to_string(&path).unwrap();
        // Only what is between the braces, without comments.
        let words: String = text
            .split("{{")
            .skip(1)
            .filter(|code| !code.trim_start_matches('-').trim_start().starts_with("/*"))
            .map(|code| code.split("}}").next().unwrap())
            .collect();
        for function in IMPURE.split_whitespace() {
            assert!(!words.contains(function), "{}: {function}", path.display());
        }
    }
}

#[tokio::test]
async fn each_set_is_accepted_by_the_api_server() {
    let cluster = installed().await;
    let (module, sum) = PROMETHEUS_OPERATOR;
    let crds = go_module(module, sum).join("example/prometheus-operator-crd");
    for kind in ["podmonitors", "prometheusrules"] {
        let file = crds.join(format!("monitoring.coreos.com_{kind}.yaml"));
        let crd = format!("customresourcedefinition/{kind}.monitoring.coreos.com");
        type_in(cluster, &format!("kubectl apply --server-side --filename '{}'", file.display())).await;
        type_in(cluster, &format!("kubectl wait --for=condition=Established --timeout=20s {crd}")).await;
    }
    for (path, _) in sets() {
        // Another release: what is applied to the objects of the first one would be merged with what Helm has written.
        let render = format!(
            "helm template other charts/crofter --namespace {NAMESPACE} --skip-tests --values {path}"
        );
        let apply =
            "kubectl apply --server-side --force-conflicts --dry-run=server --validate=strict --filename -";
        type_in(cluster, &format!("{render} | {apply}")).await;
    }
}
