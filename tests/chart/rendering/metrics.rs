//! What Prometheus is given, as it is rendered: a PodMonitor of all replicas, and the alerts.

use super::*;
use crate::alerts;

const ON: &str = "metrics.podMonitor.enabled=true,metrics.prometheusRule.enabled=true";

fn one<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
    let found = of_kind(objects, kind);
    assert_eq!(found.len(), 1, "{kind}");
    found[0]
}

#[test]
fn without_the_values_prometheus_is_given_nothing() {
    for objects in [rendered(&[]), rendered(&["--set", "metrics=null"])] {
        for kind in ["PodMonitor", "PrometheusRule"] {
            assert!(of_kind(&objects, kind).is_empty(), "{kind}");
        }
    }
}

/// Whether a selector of labels selects a pod.
fn selects(selector: &Value, pod: &Value) -> bool {
    let labels = &pod["metadata"]["labels"];
    let equal = selector["matchLabels"].as_object().unwrap().iter().all(|(key, value)| labels[key] == *value);
    let is_in = |expression: &Value| {
        assert_eq!(expression["operator"], "In");
        let values = expression["values"].as_array().unwrap();
        values.contains(&labels[expression["key"].as_str().unwrap()])
    };
    equal && selector["matchExpressions"].as_array().unwrap().iter().all(is_in)
}

#[test]
fn every_pod_with_metrics_is_scraped_and_no_other() {
    let both = "api.deployment.enabled=true,database.bundled.enabled=true";
    for (values, scraped) in [(ON.to_owned(), 1), (format!("{ON},{both}"), 2)] {
        let objects = rendered(&["--set", &values]);
        let monitor = one(&objects, "PodMonitor");
        let endpoint = &monitor["spec"]["podMetricsEndpoints"][0];
        assert_eq!(endpoint["interval"], "30s");
        let mut found = 0;
        for kind in ["Deployment", "StatefulSet"] {
            for workload in of_kind(&objects, kind) {
                let pod = &workload["spec"]["template"];
                let ports = pod["spec"]["containers"][0]["ports"].as_array().unwrap();
                let has_metrics = ports.iter().any(|port| port["name"] == endpoint["port"]);
                assert_eq!(selects(&monitor["spec"]["selector"], pod), has_metrics, "{workload}");
                found += usize::from(has_metrics);
            }
        }
        assert_eq!(found, scraped, "{values}");
    }
}

#[test]
fn the_alerts_are_those_of_the_file_as_the_values_have_them() {
    // Without more values they are those of the file.
    let objects = rendered(&["--set", ON]);
    assert_eq!(one(&objects, "PrometheusRule")["spec"]["groups"], alerts::groups());
    let of_chart = &of_kind(&objects, "Service")[0]["metadata"]["labels"];
    for kind in ["PodMonitor", "PrometheusRule"] {
        assert_eq!(one(&objects, kind)["metadata"]["labels"], *of_chart, "{kind}");
    }

    // Each value does what it says.
    let values = format!("{}/tests/chart/values/monitored.yaml", env!("CARGO_MANIFEST_DIR"));
    let objects = rendered(&["--values", &values]);
    assert_eq!(one(&objects, "PodMonitor")["spec"]["podMetricsEndpoints"][0]["interval"], "15s");
    for kind in ["PodMonitor", "PrometheusRule"] {
        assert_eq!(one(&objects, kind)["metadata"]["labels"]["release"], "kube-prometheus-stack", "{kind}");
    }
    let groups = one(&objects, "PrometheusRule")["spec"]["groups"].as_array().unwrap();
    let rules: Vec<&Value> = groups.iter().flat_map(|group| group["rules"].as_array().unwrap()).collect();
    let names: Vec<&str> = rules.iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    let expected = alerts::alerts();
    let expected: Vec<&Value> = expected
        .iter()
        .filter(|alert| {
            alert["alert"] != "CrofterEventsDropped" && alert["alert"] != "CrofterPoliciesMissing"
        })
        .collect();
    assert_eq!(names, expected.iter().map(|alert| alert["alert"].as_str().unwrap()).collect::<Vec<_>>());
    for (rule, alert) in rules.iter().zip(expected) {
        let labels = json!({"severity": alert["labels"]["severity"], "team": "platform"});
        assert_eq!((&rule["labels"], &rule["expr"]), (&labels, &alert["expr"]));
        let path = alert["annotations"]["runbook_url"].as_str().unwrap();
        assert_eq!(
            rule["annotations"]["runbook_url"],
            format!("https://git.example.com/crofter/blob/main/{path}")
        );
    }

    // A label that the file has is replaced, and a group without alerts is left out.
    let objects = rendered(&["--set", &format!("{ON},metrics.prometheusRule.alertLabels.severity=page")]);
    let groups = one(&objects, "PrometheusRule")["spec"]["groups"].clone();
    assert_eq!(groups[0]["rules"][0]["labels"], json!({"severity": "page"}));
    let first = alerts::groups()[0].clone();
    let of_first: Vec<&str> =
        first["rules"].as_array().unwrap().iter().map(|rule| rule["alert"].as_str().unwrap()).collect();
    let without = format!("{ON},metrics.prometheusRule.disabledAlerts={{{}}}", of_first.join(","));
    let objects = rendered(&["--set", &without]);
    let groups = one(&objects, "PrometheusRule")["spec"]["groups"].as_array().unwrap().clone();
    assert_eq!(groups, alerts::groups().as_array().unwrap()[1..]);
}

#[test]
fn bad_values_of_metrics_are_refused_with_their_name() {
    for (value, named) in [
        ("podMonitor.enabled=perhaps", "metrics/podMonitor/enabled"),
        ("podMonitor.interval=5m", "metrics/podMonitor/interval"),
        ("podMonitor.interval=61s", "metrics/podMonitor/interval"),
        ("podMonitor.labels.a=1", "metrics/podMonitor/labels/a"),
        ("podMonitor.scrapeInterval=30s", "scrapeInterval"),
        ("serviceMonitor.enabled=true", "serviceMonitor"),
        ("prometheusRule.enabled=perhaps", "metrics/prometheusRule/enabled"),
        ("prometheusRule.alertLabels.a-b=c", "a-b"),
        ("prometheusRule.disabledAlerts=CrofterNoLeader", "metrics/prometheusRule/disabledAlerts"),
        ("prometheusRule.runbookUrl=git.example.com", "metrics/prometheusRule/runbookUrl"),
        ("prometheusRule.runbookUrl=https://git.example.com", "metrics/prometheusRule/runbookUrl"),
        ("prometheusRule.runbook=https://git.example.com/", "runbook"),
        (
            "prometheusRule.enabled=true,metrics.prometheusRule.disabledAlerts={CrofterNoLeaders}",
            "disabledAlerts: \"CrofterNoLeaders\" is no alert",
        ),
    ] {
        let error = failed(&helm(&["template", "crofter", "--set", &format!("metrics.{value}")]));
        assert!(error.contains(named), "{value}: {error}");
    }
}
