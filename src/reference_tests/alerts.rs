//! The page of alerts, from the rule file of the chart.

use std::{fs, path::Path};

use serde::Deserialize;

use super::markdown::{Page, escaped};
use crate::yaml;

const FILE: &str = "charts/crofter/files/alerts.yaml";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    name: String,
    rules: Vec<Alert>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alert {
    alert: String,
    expr: String,
    r#for: Option<String>,
    labels: Labels,
    annotations: Annotations,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Labels {
    severity: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Annotations {
    summary: String,
    description: String,
    runbook_url: String,
}

pub fn page() -> String {
    let text = fs::read_to_string(root().join(FILE)).unwrap();
    let rules: Rules = yaml::read(&text).unwrap();
    let mut page = Page::new("Alerts");
    page.paragraph(
        "These alerts are a rule file of Prometheus, which the chart renders as a PrometheusRule with \
         `metrics.prometheusRule.enabled` ([the recipe for Prometheus](../recipes/prometheus.md)). Each but \
         `CrofterAbsent` is by cluster and namespace, and holds with any number of replicas and over their \
         restarts. `critical` is for whoever is on call, `warning` for the next working day, and `info` explains \
         other alerts. [Metrics](../metrics.md) describes what they read.",
    );
    page.paragraph(
        "An alert without a duration fires at once, and resolves when the window of its expression is over. One \
         that counts single events includes what a series had when Prometheus first saw it.",
    );
    for Group { name, rules } in rules.groups {
        page.heading(2, title(&name));
        for alert in rules {
            section(&mut page, &alert);
        }
    }
    page.finish()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What a group of rules is about.
fn title(group: &str) -> &'static str {
    match group {
        "crofter-leader" => "The operator and its leader",
        "crofter-jobs" => "Jobs",
        "crofter-api-server" => "The API server",
        "crofter-rest-api" => "The REST API",
        "crofter-database" => "The database",
        other => panic!("{other} has no title"),
    }
}

fn section(page: &mut Page, alert: &Alert) {
    let Annotations { summary, description, runbook_url } = &alert.annotations;
    page.heading(3, &alert.alert);
    page.paragraph(&format!("{} {}", filled(summary), escaped(description)));
    let duration = alert.r#for.as_ref().map(|duration| format!(", after {duration}")).unwrap_or_default();
    page.item(0, &format!("Severity: `{}`{duration}", alert.labels.severity));
    let (path, heading) = target(runbook_url);
    page.item(0, &format!("What to do: [{heading}](../{path})"));
    page.block(&format!(
        "<!-- run by tests/chart/alerts.rs -->\n\n```promql\n{}\n```",
        alert.expr.trim_end()
    ));
}

/// The text of a template, with the name of what is filled in.
fn filled(template: &str) -> String {
    let mut parts = template.split("{{");
    let first = escaped(parts.next().unwrap_or_default());
    parts.fold(first, |text, part| {
        let (inserted, rest) = part.split_once("}}").unwrap();
        let name = inserted.split('|').next().unwrap_or_default().trim();
        let name = name.strip_prefix("$labels.").unwrap_or(name.trim_start_matches('$'));
        format!("{text}`{name}`{}", escaped(rest))
    })
}

/// The path below docs/ and the heading of a section, such as `docs/a.md#when-it-fails`.
fn target(link: &str) -> (&str, String) {
    let path = link.strip_prefix("docs/").unwrap_or_else(|| panic!("{link} is no page"));
    let (file, anchor) = path.split_once('#').unwrap_or_else(|| panic!("{link} names no section"));
    let page = fs::read_to_string(root().join("docs").join(file)).unwrap();
    let headings = page.lines().filter_map(|line| line.strip_prefix('#'));
    let mut headings = headings.map(|line| line.trim_start_matches('#').trim());
    let found = headings.find(|heading| crate::docs_tests::anchor(heading) == anchor);
    (path, found.unwrap_or_else(|| panic!("{link} has no such heading")).to_owned())
}

#[test]
fn what_is_filled_in_is_named() {
    let summary = "{{ $value | humanizePercentage }} of <those> of {{ $labels.controller }} fail.";
    assert_eq!(filled(summary), "`value` of \\<those> of `controller` fail.");
}
