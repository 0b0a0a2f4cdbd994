use std::collections::BTreeSet;

use super::*;

#[test]
fn what_was_counted_is_shown() {
    let metrics = Metrics::default();
    metrics.reconciled("job", "ok", Duration::from_millis(3));
    metrics.decided(Duration::from_micros(10));
    metrics.show_waiting(&BTreeMap::from([(Reason::NoWorkers, 1)]));
    let text = metrics.text().unwrap();
    assert!(text.contains(r#"crofter_reconciles_total{controller="job",result="ok"} 1"#), "{text}");
    assert!(text.contains(r#"crofter_waiting_jobs{reason="NoWorkers"} 1"#), "{text}");
    metrics.show_waiting(&BTreeMap::new());
    assert!(!metrics.text().unwrap().contains("NoWorkers"), "a reason of no waiting job is not shown");
}

/// An alert before a certificate expires must not fire where there is none.
#[test]
fn without_a_certificate_no_expiry_is_shown() {
    let metrics = Metrics::default();
    assert!(!metrics.text().unwrap().contains("tls_certificate_expiry"));
    metrics.show_certificate(1_800_000_000);
    let text = metrics.text().unwrap();
    assert!(text.contains("\ncrofter_tls_certificate_expiry_timestamp_seconds{} 1800000000\n"), "{text}");
}

/// A family of a text in the Prometheus format.
#[derive(Debug, Default)]
struct Read {
    help: Option<String>,
    kind: Option<String>,
    samples: Vec<(String, String, f64)>,
}

/// Reads a text in the Prometheus format as strictly as promtool does.
fn read(text: &str) -> BTreeMap<String, Read> {
    let mut families: BTreeMap<String, Read> = BTreeMap::new();
    let is_name = |name: &str| {
        name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
            && name.starts_with(|c: char| !c.is_ascii_digit())
    };
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            assert!(families.entry(name.to_owned()).or_default().help.replace(help.to_owned()).is_none());
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let family = families.entry(name.to_owned()).or_default();
            assert!(family.samples.is_empty() && family.kind.replace(kind.to_owned()).is_none(), "{line}");
        } else {
            assert!(!line.starts_with('#'), "{line}");
            let (id, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = id.split_once('{').unwrap_or((id, ""));
            assert!(is_name(name), "{line}");
            let family = match families.get(name) {
                Some(_) => name,
                None => ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap(),
            };
            let sample = (name.to_owned(), labels.to_owned(), value.parse().unwrap());
            let samples = &mut families.get_mut(family).unwrap().samples;
            let same = |other: &&(String, String, f64)| other.0 == sample.0 && other.1 == sample.1;
            assert!(samples.iter().find(same).is_none(), "twice: {line}");
            samples.push(sample);
        }
    }
    families
}

/// A count of everything.
fn counted() -> Metrics {
    let metrics = Metrics::default();
    metrics.reconciled("job", "ok", Duration::from_millis(3));
    metrics.decided(Duration::from_micros(10));
    metrics.show_waiting(&BTreeMap::from([(Reason::NoWorkers, 1)]));
    metrics.show_leader(true, Some(0));
    metrics.show_missing_policies(Some(1));
    metrics.pod_created();
    metrics.pod_refused();
    metrics.ended("Completed");
    metrics.authenticated("ok");
    metrics.show_key_versions(2);
    metrics.key_issued("new");
    metrics.answered("/v1/jobs", "GET", 200, Duration::from_millis(1));
    metrics.streams_changed("logs", 1);
    metrics.watch_interrupted("jobs", "timeout");
    metrics.event("written");
    metrics.audit("written", 1);
    metrics.mirror_set_aside("job", "slow");
    metrics.mirror_lost(1);
    metrics.mirror_unrecovered();
    metrics.show_certificate(1_800_000_000);
    metrics.certificate_refused();
    metrics
}

/// The sections of docs/metrics.md by heading.
fn page() -> BTreeMap<&'static str, &'static str> {
    let sections = include_str!("../../docs/metrics.md").split("\n## ").skip(1);
    sections.map(|section| section.split_once('\n').unwrap()).collect()
}

/// What a section says of the family in a line such as `- Type: counter`.
fn entry<'a>(section: &'a str, label: &str) -> &'a str {
    let (_, rest) =
        section.split_once(&format!("\n- {label}: ")).unwrap_or_else(|| panic!("{label}: {section}"));
    rest.split("\n- ").next().unwrap()
}

#[test]
fn the_page_of_metrics_describes_each_family_as_it_is_registered_and_no_other() {
    let text = counted().text_as(Format::Prometheus).unwrap();
    let families = read(&text);
    // An empty family is not encoded: each that is registered is counted once above.
    let source = include_str!("../metrics.rs");
    assert_eq!(families.len(), source.matches("registry.register").count(), "count the new family, too");
    let page = page();
    let described: BTreeSet<&str> = page.keys().copied().collect();
    assert_eq!(described, families.keys().map(String::as_str).collect());
    for (name, family) in &families {
        let section = page[name.as_str()];
        assert_eq!(Some(entry(section, "Type")), family.kind.as_deref(), "{name}");
        let samples = family.samples.iter().flat_map(|(_, labels, _)| labels.split(','));
        let labels: BTreeSet<&str> = samples
            .filter_map(|label| label.split_once('=').map(|(label, _)| label))
            .filter(|label| *label != "le")
            .collect();
        let named: BTreeSet<&str> = entry(section, "Labels").split('`').skip(1).step_by(2).collect();
        assert_eq!(named, labels, "{name}");
        assert_eq!(entry(section, "Unit") == "seconds", name.ends_with("_seconds"), "{name}");
        for label in ["Meaning", "Alert"] {
            assert!(entry(section, label).split_whitespace().count() > 3, "{name} has no {label}");
        }
    }
}

#[test]
fn every_family_has_its_help_and_its_type_and_is_named_as_promtool_wants() {
    for metrics in [Metrics::default(), counted()] {
        let text = metrics.text_as(Format::Prometheus).unwrap();
        for (name, Read { help, kind, samples }) in read(&text) {
            assert!(help.is_some_and(|help| help.len() > 10), "{name} has no help");
            let kind = kind.unwrap_or_else(|| panic!("{name} has no type"));
            assert!(["counter", "gauge", "histogram"].contains(&kind.as_str()), "{name} is a {kind}");
            assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
            let reserved = ["_count", "_sum", "_bucket", "_info", "_milliseconds", "_ms"];
            assert!(!reserved.iter().any(|ending| name.ends_with(ending)), "{name}");
            if kind == "histogram" {
                assert!(name.ends_with("_seconds"), "{name}");
                let of = |ending: &str| -> Vec<f64> {
                    let own = samples.iter().filter(|(sample, ..)| *sample == format!("{name}{ending}"));
                    own.map(|(.., value)| *value).collect()
                };
                let buckets = of("_bucket");
                assert!(buckets.is_sorted() && buckets.last().copied() == of("_count").first().copied());
            }
        }
    }
}

#[test]
fn both_formats_have_the_same_samples() {
    let metrics = counted();
    let open = metrics.text_as(Format::OpenMetrics).unwrap();
    assert!(open.ends_with("\n# EOF\n") && open.contains("# TYPE crofter_reconciles counter\n"), "{open}");
    let plain = metrics.text_as(Format::Prometheus).unwrap();
    assert!(!plain.contains("# EOF") && !plain.contains("# UNIT"), "{plain}");
    assert!(
        plain.contains("# HELP crofter_reconciles_total Reconciles by controller and result.\n"),
        "{plain}"
    );
    let samples = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    };
    assert_eq!(samples(&open), samples(&plain));
    assert!(samples(&plain).len() > 50);
}

#[test]
fn the_format_is_the_one_that_is_accepted() {
    let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
    for (accept, format) in [
        ("", Format::Prometheus),
        ("*/*", Format::Prometheus),
        ("text/plain;version=0.0.4", Format::Prometheus),
        ("text/html, application/xhtml+xml, */*;q=0.8", Format::Prometheus),
        ("application/openmetrics-text; version=1.0.0", Format::OpenMetrics),
        ("Application/OpenMetrics-Text", Format::OpenMetrics),
        (prometheus, Format::OpenMetrics),
        ("application/openmetrics-text;q=0.1,text/plain", Format::Prometheus),
        ("application/openmetrics-text;q=0", Format::Prometheus),
        ("application/openmetrics-text;q=x, text/plain;q=0.1", Format::Prometheus),
    ] {
        assert_eq!(Format::preferred(accept), format, "{accept}");
    }
}
