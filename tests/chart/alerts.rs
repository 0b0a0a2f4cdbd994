//! The alerts of charts/crofter/files/alerts.yaml, by Prometheus' own checker: the file is one that Prometheus
//! reads, and alerts.test.yaml shows of each alert when it fires and when it does not. docs/reference/alerts.md
//! has the expressions.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use crofter::yaml;
use serde_json::{Value, json};

use super::{chart, failed, succeeded};

/// The groups of alerts, as the chart has them.
pub(crate) fn groups() -> Value {
    let text = fs::read_to_string(chart().join("files/alerts.yaml")).unwrap();
    yaml::read::<Value>(&text).unwrap()["groups"].clone()
}

/// All alerts, in the order of the file.
pub(crate) fn alerts() -> Vec<Value> {
    groups().as_array().unwrap().iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn name(alert: &Value) -> &str {
    alert["alert"].as_str().unwrap()
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/chart/alerts.test.yaml")
}

fn promtool(task: &str, file: &Path) -> Output {
    let output = Command::new("promtool").args([task, "rules"]).arg(file).output();
    assert!(output.is_ok(), "promtool: {output:?}: `make deps` installs it");
    output.unwrap()
}

#[test]
fn prometheus_reads_the_rules() {
    let printed = succeeded(&promtool("check", &chart().join("files/alerts.yaml")));
    assert!(printed.contains(&format!("{} rules found", alerts().len())), "{printed}");
}

#[test]
fn each_alert_fires_when_it_should_and_only_then() {
    succeeded(&promtool("test", &tests()));
}

/// How an alert is broken, so that its tests must fail: it never fires, or always.
fn broken(alert: &Value) -> [Value; 2] {
    ["vector(0) == 1", "vector(1)"].map(|expression| {
        let mut broken = alert.clone();
        broken["expr"] = json!(expression);
        broken.as_object_mut().unwrap().remove("for");
        broken
    })
}

/// An alert whose tests hold with any expression would have none.
#[test]
fn the_tests_of_each_alert_fail_when_it_never_fires_or_always() {
    let all: Value = yaml::read(&fs::read_to_string(tests()).unwrap()).unwrap();
    let mut of: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for test in all["tests"].as_array().unwrap() {
        of.entry(test["name"].as_str().unwrap().split(' ').next().unwrap()).or_default().push(test);
    }
    let dir = tempfile::tempdir().unwrap();
    let (rules, file) = (dir.path().join("alerts.yaml"), dir.path().join("alerts.test.yaml"));
    for alert in alerts() {
        let own = of.get(name(&alert)).unwrap_or_else(|| panic!("{} has no tests", name(&alert)));
        let tests =
            json!({"rule_files": ["alerts.yaml"], "evaluation_interval": "30s", "tests": own}).to_string();
        fs::write(&file, tests).unwrap();
        for broken in broken(&alert) {
            let groups = json!({"groups": [{"name": "broken", "rules": [broken]}]}).to_string();
            fs::write(&rules, groups).unwrap();
            let error = failed(&promtool("test", &file));
            assert!(error.contains("got:"), "{broken}: {error}");
        }
    }
}

#[test]
fn each_alert_says_how_bad_it_is_what_it_means_and_where_to_read_on() {
    let mut names: Vec<String> = Vec::new();
    for alert in alerts() {
        let name = name(&alert);
        assert!(name.starts_with("Crofter") && !names.iter().any(|known| known == name), "{name}");
        names.push(name.to_owned());
        let severity = alert["labels"]["severity"].as_str().unwrap();
        assert!(["critical", "warning", "info"].contains(&severity), "{name}: {severity}");
        let annotation = |of: &str| {
            let text = alert["annotations"][of].as_str();
            text.unwrap_or_else(|| panic!("{name} has no {of}")).to_owned()
        };
        for of in ["summary", "description"] {
            let text = annotation(of);
            assert!(text.ends_with('.') && text.split_whitespace().count() >= 5, "{name}: {text}");
        }
        // The page of alerts, which is generated, finds the heading.
        assert!(annotation("runbook_url").starts_with("docs/"), "{name}");
    }
    assert!(names.len() > 20, "{names:?}");
}

/// The metrics of an expression that have matchers, and the values that these name.
fn matched(expression: &str) -> Vec<(&str, Vec<&str>)> {
    let mut found = Vec::new();
    for (at, _) in expression.match_indices('{') {
        let before = &expression[..at];
        let metric = before.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap();
        let matchers = expression[at..].split('}').next().unwrap();
        let values = matchers.split('"').skip(1).step_by(2).flat_map(|values| values.split('|'));
        found.push((metric, values.collect()));
    }
    found
}

/// A matcher of a value that no series has would keep its alert silent, or make it fire for all.
#[test]
fn the_values_of_labels_that_alerts_name_are_those_of_the_metrics() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let mut checked = 0;
    for alert in alerts() {
        for (metric, values) in matched(alert["expr"].as_str().unwrap()) {
            let (_, rest) = page.split_once(&format!("\n## {metric}\n")).unwrap();
            let section = rest.split("\n## ").next().unwrap();
            for value in values {
                checked += 1;
                assert!(section.contains(&format!("`{value}`")), "{}: {metric} {value}", name(&alert));
            }
        }
    }
    assert!(checked > 20, "{checked}");
}
