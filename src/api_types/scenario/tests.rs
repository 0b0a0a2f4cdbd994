//! Catalogues that are read or refused, and jobs that a scenario completes.

use serde_json::json;

use super::*;

const TRAIN: &str = "
        image: registry/train:3
        command: [/train]
        args: [--epochs, '10']
        env: [{name: LOG, value: info}]
        resources: {cpu: 4, memory: 8Gi, gpus: 1}
        timeoutSeconds: 600
        runAsUser: 1000";

fn catalogue(scenario: &str) -> Result<Scenarios, ScenariosError> {
    Scenarios::from_yaml(&format!("scenarios:\n      train:{scenario}"))
}

fn completed(spec: serde_json::Value) -> serde_json::Value {
    let spec = serde_json::from_value(spec).unwrap();
    json!(catalogue(TRAIN).unwrap().complete(&spec).unwrap())
}

#[test]
fn a_job_that_names_only_a_scenario_gets_all_of_it() {
    let mut expected = json!(serde_json::from_value::<JobSpec>(json!({"scenario": "train"})).unwrap());
    for (field, value) in [
        ("image", json!("registry/train:3")),
        ("command", json!(["/train"])),
        ("args", json!(["--epochs", "10"])),
        ("env", json!([{"name": "LOG", "value": "info"}])),
        ("resources", json!({"cpu": "4", "memory": "8Gi", "gpus": 1})),
        ("timeoutSeconds", json!(600)),
        ("runAsUser", json!(1000)),
    ] {
        expected[field] = value;
    }
    assert_eq!(completed(json!({"scenario": "train"})), expected);
}

#[test]
fn what_a_job_gives_itself_wins() {
    let own = completed(json!({
        "scenario": "train", "image": "mine", "args": ["--fast"], "env": [{"name": "LOG", "value": "debug"}],
        "resources": {"gpus": 0, "ephemeralStorage": "1Gi"}, "timeoutSeconds": 5, "runAsUser": 0,
    }));
    assert_eq!(
        (&own["image"], &own["command"], &own["args"]),
        (&json!("mine"), &json!(["/train"]), &json!(["--fast"]))
    );
    assert_eq!(own["env"], json!([{"name": "LOG", "value": "info"}, {"name": "LOG", "value": "debug"}]));
    assert_eq!(own["resources"], json!({"cpu": "4", "memory": "8Gi", "gpus": 0, "ephemeralStorage": "1Gi"}));
    assert_eq!((&own["timeoutSeconds"], &own["runAsUser"]), (&json!(5), &json!(0)));
    let other = completed(json!({"scenario": "train", "command": ["/other"]}));
    assert_eq!(
        (&other["command"], other.get("args")),
        (&json!(["/other"]), None),
        "arguments of another command"
    );
}

#[test]
fn the_timeout_is_the_jobs_or_its_scenarios() {
    let catalogue = catalogue(TRAIN).unwrap();
    let timeout = |spec| catalogue.timeout_seconds(&serde_json::from_value(spec).unwrap());
    assert_eq!(timeout(json!({"scenario": "train"})), Some(600));
    assert_eq!(timeout(json!({"scenario": "train", "timeoutSeconds": 900})), Some(900));
    assert_eq!(timeout(json!({"image": "i"})), None);
    assert_eq!(timeout(json!({"scenario": "removed"})), None);
}

#[test]
fn the_error_of_an_unknown_scenario_lists_the_known_ones() {
    let spec = serde_json::from_value(json!({"scenario": "train"})).unwrap();
    let error = |catalogue: &str| Scenarios::from_yaml(catalogue).unwrap().of(&spec).unwrap_err().to_string();
    assert_eq!(error("scenarios: {}"), "the catalogue has no scenario `train`: it is empty");
    let three = "scenarios: {c: {image: i}, a: {image: i}, b: {image: i}}";
    assert_eq!(error(three), "the catalogue has no scenario `train`: it has a, b, c");
}

#[test]
fn a_bad_catalogue_says_which_scenario_and_field() {
    // Bad fields of a scenario.
    for (bad, expected) in [
        ("resources: {cpu: many}", "scenario `train`: resources.cpu is wrong: `many` is no quantity"),
        (
            "resources: {memory: -1Gi}",
            "scenario `train`: resources.memory is wrong: `-1Gi` is not allowed: give 16Mi to 1Pi",
        ),
        ("resources: {memory: 512m}", "resources.memory is wrong: `512m` is not allowed: give 16Mi to 1Pi"),
        ("resources: {cpu: 0}", "resources.cpu is wrong: `0` is not allowed: give 1m to 100k"),
        ("resources: {ephemeralStorage: '1e-400'}", "`1e-400` is not allowed: give 1Mi to 1Pi"),
        ("resources: {gpus: -1}", "scenario `train`: resources.gpus is -1: give 0 to 1024"),
        ("resources: {bandwidthMbps: 1000001}", "scenario `train`: resources.bandwidthMbps is 1000001"),
        ("resources: {cpus: 1}", "scenarios.train.resources.cpus: unknown field `cpus`"),
        ("resources: {cpu: 0.5}", "scenarios.train.resources.cpu: invalid type"),
        ("comand: [x]", "scenarios.train.comand: unknown field `comand`"),
        ("args: x", "scenarios.train.args: expected sequence"),
        ("env: [{name: A, value: [x]}]", "scenarios.train.env[0].value: expected string"),
        (
            "env: [{name: A, secretKeyRef: {name: s, key: k}}]",
            "scenarios.train.env[0].secretKeyRef: unknown field `secretKeyRef`",
        ),
        ("env: [{name: 1A, value: x}]", "scenario `train`: env.name is `1A`"),
        ("env: [{name: ..A, value: x}]", "scenario `train`: env.name is `..A`"),
        (r#"env: [{name: A, value: "a\0b"}]"#, "scenario `train`: env.value has a NUL character"),
        (r#"args: ["a\0b"]"#, "scenario `train`: args has a NUL character"),
        ("env: [{name: A=B, value: x}]", "scenario `train`: env.name is `A=B`"),
        ("env: [{name: CROFTER_JOB, value: x}]", "are Crofter's own"),
        ("env: [{name: NVIDIA_VISIBLE_DEVICES, value: all}]", "for the GPUs of resources.gpus"),
        ("timeoutSeconds: 0", "scenario `train`: timeoutSeconds is 0: give 1 to 31536000"),
        ("runAsUser: -1", "scenario `train`: runAsUser is -1: give 0 to 2147483647"),
    ] {
        let error = catalogue(&format!("\n        image: i\n        {bad}")).unwrap_err().to_string();
        assert!(error.contains(expected), "{bad}: {error}");
    }
    // Bad scenarios and catalogues.
    for (bad, expected) in [
        ("scenarios: {train: {}}", "scenarios.train: missing field `image`"),
        ("scenarios: {train: {image: ''}}", "scenario `train`: image has 0 characters"),
        (
            r#"scenarios: {train: {image: "a\n"}}"#,
            r"scenario `train`: image is `a\n`: give registry/name:tag",
        ),
        ("scenarios: {Train: {image: i}}", "scenario `Train`: a name is"),
        ("scenarios: {-a: {image: i}}", "scenario `-a`: a name is"),
        ("scenarios: {'': {image: i}}", "scenario ``: a name is"),
        ("scenarios: {a: {image: i}, a: {image: j}}", "duplicate mapping key `a`"),
        ("scenario: {a: {image: i}}", "unknown field `scenario`"),
        ("", "missing field `scenarios`"),
    ] {
        let error = Scenarios::from_yaml(bad).unwrap_err().to_string();
        assert!(error.contains(expected), "{bad}: {error}");
    }
    // Too many entries, and too many bytes.
    let many = vec!["x"; 257].join(", ");
    let error = catalogue(&format!("\n        image: i\n        args: [{many}]")).unwrap_err().to_string();
    assert_eq!(error, "scenario `train`: args has 257 entries: give at most 256");
    let large = vec!["x".repeat(32_768); 2].join(", ");
    let error = catalogue(&format!("\n        image: i\n        args: [{large}]")).unwrap_err().to_string();
    assert_eq!(error, "scenario `train`: texts have 65537 bytes in all: give at most 65536");
}

#[test]
fn names_are_checked_as_the_crd_does() {
    let crd = serde_json::to_value(<crate::api_types::Job as kube::CustomResourceExt>::crd()).unwrap();
    let schema = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/scenario";
    let schema = crd.pointer(schema).unwrap();
    assert_eq!((&schema["minLength"], &schema["maxLength"]), (&json!(1), &json!(63)));
    assert_eq!(schema["pattern"], r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$");
    assert!(is_name("a") && is_name("a-1") && is_name(&"x".repeat(63)));
    for bad in ["", "-a", "a-", "A", "a.b", "a_b", "ä", &"x".repeat(64)] {
        assert!(!is_name(bad), "{bad}");
    }
}

proptest::proptest! {
    #[test]
    fn fuzz_any_file_is_a_catalogue_or_says_what_is_wrong(
        text in crate::fuzz::text(),
        scenario in crate::fuzz::like(serde_json::json!({
            "image": "i", "command": ["c"], "args": ["a"], "env": [{"name": "A", "value": "1"}], "workingDir": "/w",
            "resources": {"cpu": "1", "memory": "1Gi", "gpus": 1}, "timeoutSeconds": 5, "runAsUser": 7,
        })),
    ) {
        let of_scenario = serde_json::json!({"scenarios": {"train": scenario}}).to_string();
        for file in [text.clone(), format!("scenarios: {text}"), of_scenario] {
            if let Err(error) = Scenarios::from_yaml(&file) {
                assert!(!error.to_string().is_empty());
            }
        }
    }
}
