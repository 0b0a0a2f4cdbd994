//! The operator's metrics as text: OpenMetrics, or the older Prometheus format 0.0.4, which every scraper reads.
//!
//! Labels come from closed lists only (controllers, results, reasons, verdicts): no text of a user becomes a label.
//! docs/metrics.md describes each family; a test compares the page with what is registered.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::api_types::Reason;

/// A format of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The Prometheus text format 0.0.4.
    Prometheus,
}

impl Format {
    /// The format that an `Accept` header prefers; the Prometheus format where it prefers none (RFC 9110, 12.5.1).
    #[must_use]
    pub fn preferred(accept: &str) -> Self {
        let mut best = [0.0_f32; 2];
        for range in accept.split(',') {
            let mut parts = range.split(';').map(str::trim);
            let at = match parts.next().map(str::to_ascii_lowercase).as_deref() {
                Some("application/openmetrics-text") => 0,
                Some("text/plain" | "text/*" | "*/*") => 1,
                _ => continue,
            };
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(Ok(1.0), str::parse);
            best[at] = best[at].max(quality.unwrap_or(0.0));
        }
        if best[0] > 0.0 && best[0] >= best[1] { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// Its media type.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// All metrics. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconciles: Family<Reconciled, Counter>,
    reconcile_seconds: Family<ByController, Histogram>,
    decision_seconds: Histogram,
    waiting: Family<Waiting, Gauge<i64, std::sync::atomic::AtomicI64>>,
    admissions: Counter<u64, AtomicU64>,
    refusals: Counter<u64, AtomicU64>,
    attempts: Family<Ended, Counter>,
    authentications: Family<Authenticated, Counter>,
    key_versions: Gauge<i64, std::sync::atomic::AtomicI64>,
    keys_issued: Family<Issued, Counter>,
    requests: Family<Answered, Counter>,
    request_seconds: Family<ByRoute, Histogram>,
    streams: Family<Streamed, Gauge<i64, std::sync::atomic::AtomicI64>>,
    watch_interruptions: Family<Interrupted, Counter>,
    events: Family<Published, Counter>,
    mirror_set_aside: Family<SetAside, Counter>,
    mirror_lost: Counter<u64, AtomicU64>,
    mirror_unrecovered: Counter<u64, AtomicU64>,
    leader: Gauge<i64, std::sync::atomic::AtomicI64>,
    lease_transitions: Gauge<i64, std::sync::atomic::AtomicI64>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Interrupted {
    watch: &'static str,
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Published {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    route: String,
    method: &'static str,
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRoute {
    route: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Streamed {
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SetAside {
    kind: &'static str,
    cause: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reconciled {
    controller: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByController {
    controller: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Waiting {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    phase: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Authenticated {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Issued {
    cause: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let buckets = || Histogram::new(exponential_buckets(0.000_5, 2.0, 16));
        let mut registry = Registry::with_prefix("crofter");
        let reconciles = Family::default();
        registry.register("reconciles", "Reconciles by controller and result", reconciles.clone());
        let reconcile_seconds: Family<ByController, Histogram> = Family::new_with_constructor(buckets);
        registry.register_with_unit(
            "reconcile",
            "Duration of reconciles",
            Unit::Seconds,
            reconcile_seconds.clone(),
        );
        let decision_seconds = buckets();
        registry.register_with_unit(
            "decision",
            "Duration of scheduling cycles",
            Unit::Seconds,
            decision_seconds.clone(),
        );
        let leader = Gauge::default();
        registry.register("leader", "Whether this replica leads: 1 or 0", leader.clone());
        let lease_transitions = Gauge::default();
        registry.register(
            "lease_transitions",
            "Changes of the holder of the Lease, as this replica last read it",
            lease_transitions.clone(),
        );
        let waiting = Family::default();
        registry.register("waiting_jobs", "Waiting jobs by reason", waiting.clone());
        let admissions = Counter::default();
        registry.register("admissions", "Pods created for admitted jobs", admissions.clone());
        let refusals = Counter::default();
        registry.register(
            "pods_refused",
            "Creations of pods that the API server refused for the moment (a webhook, a policy, a quota)",
            refusals.clone(),
        );
        let attempts = Family::default();
        registry.register(
            "jobs_ended",
            "Jobs that reached an end phase, or Retrying after an attempt",
            attempts.clone(),
        );
        let authentications = Family::default();
        registry.register(
            "key_authentications",
            "API keys presented, by result of the check",
            authentications.clone(),
        );
        let key_versions = Gauge::default();
        registry.register("key_versions", "Versions of API keys in the cache", key_versions.clone());
        let keys_issued = Family::default();
        registry.register("keys_issued", "Versions of API keys issued, by cause", keys_issued.clone());
        let requests = Family::default();
        registry.register(
            "http_requests",
            "Requests of the REST API by route, method and class of status",
            requests.clone(),
        );
        let request_seconds: Family<ByRoute, Histogram> = Family::new_with_constructor(buckets);
        registry.register_with_unit(
            "http_request",
            "Time from a request to the head of its response, by route",
            Unit::Seconds,
            request_seconds.clone(),
        );
        let streams = Family::default();
        registry.register(
            "api_streams",
            "Streaming responses (logs, events) that are open, by kind",
            streams.clone(),
        );
        let watch_interruptions = Family::default();
        registry.register(
            "watch_interruptions",
            "Lists and watches of the API server that were interrupted, by watch and cause",
            watch_interruptions.clone(),
        );
        let events = Family::default();
        registry.register("events", "Kubernetes Events by result (written, failed, dropped)", events.clone());
        let mirror_set_aside = Family::default();
        registry.register(
            "mirror_rows_set_aside",
            "Rows that Postgres refused, or did not write in time, by kind and cause",
            mirror_set_aside.clone(),
        );
        let mirror_lost = Counter::default();
        registry.register(
            "mirror_transactions_lost",
            "Committed transactions of the mirror that the database lost in a failover or a restore",
            mirror_lost.clone(),
        );
        let mirror_unrecovered = Counter::default();
        registry.register(
            "mirror_losses_unrecovered",
            "Failovers and restores of the database after which charges may be missing for good",
            mirror_unrecovered.clone(),
        );
        Self {
            registry: Arc::new(registry),
            reconciles,
            reconcile_seconds,
            decision_seconds,
            waiting,
            leader,
            lease_transitions,
            admissions,
            refusals,
            attempts,
            authentications,
            key_versions,
            keys_issued,
            requests,
            request_seconds,
            streams,
            watch_interruptions,
            events,
            mirror_set_aside,
            mirror_lost,
            mirror_unrecovered,
        }
    }
}

impl Metrics {
    /// Counts a reconcile; `result` is `ok` or an error's category.
    pub fn reconciled(&self, controller: &'static str, result: &'static str, took: Duration) {
        self.reconciles.get_or_create(&Reconciled { controller, result }).inc();
        self.reconcile_seconds.get_or_create(&ByController { controller }).observe(took.as_secs_f64());
    }

    /// Counts a scheduling cycle.
    pub fn decided(&self, took: Duration) {
        self.decision_seconds.observe(took.as_secs_f64());
    }

    /// Sets whether this process leads, and how often the Lease has had another holder.
    pub fn show_leader(&self, leads: bool, transitions: i32) {
        self.leader.set(leads.into());
        self.lease_transitions.set(transitions.into());
    }

    /// Sets the number of waiting jobs for each reason.
    pub fn show_waiting(&self, by_reason: &BTreeMap<Reason, u64>) {
        self.waiting.clear();
        for (reason, jobs) in by_reason {
            let jobs = i64::try_from(*jobs).unwrap_or(i64::MAX);
            self.waiting.get_or_create(&Waiting { reason: reason.as_str() }).set(jobs);
        }
    }

    /// Counts a pod created.
    pub fn admitted(&self) {
        self.admissions.inc();
    }

    /// Counts a pod that was refused for the moment.
    pub fn pod_refused(&self) {
        self.refusals.inc();
    }

    /// Counts a job that reached an end phase, or whose attempt ended.
    pub fn ended(&self, phase: &'static str) {
        self.attempts.get_or_create(&Ended { phase }).inc();
    }

    /// Counts a key presented; `result` is `ok` or a refusal.
    pub fn authenticated(&self, result: &'static str) {
        self.authentications.get_or_create(&Authenticated { result }).inc();
    }

    /// Sets the number of key versions in the cache.
    pub fn show_key_versions(&self, versions: usize) {
        self.key_versions.set(i64::try_from(versions).unwrap_or(i64::MAX));
    }

    /// Counts a version of a key that was issued.
    pub fn key_issued(&self, cause: &'static str) {
        self.keys_issued.get_or_create(&Issued { cause }).inc();
    }

    /// Counts a request answered. `route` is a template of the router, so there are few.
    pub fn answered(&self, route: &str, method: &'static str, status: u16, took: Duration) {
        let class = match status {
            0..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            500.. => "5xx",
        };
        self.requests.get_or_create(&Answered { route: route.to_owned(), method, class }).inc();
        let by_route = ByRoute { route: route.to_owned() };
        self.request_seconds.get_or_create(&by_route).observe(took.as_secs_f64());
    }

    /// Counts streams that were opened, or with a negative number ended; `kind` is `logs` or `events`.
    pub fn streams_changed(&self, kind: &'static str, by: i64) {
        self.streams.get_or_create(&Streamed { kind }).inc_by(by);
    }

    /// Counts an interruption of a watch; both words come from closed lists.
    pub fn watch_interrupted(&self, watch: &'static str, cause: &'static str) {
        self.watch_interruptions.get_or_create(&Interrupted { watch, cause }).inc();
    }

    /// Counts an Event: `written`, `failed`, or `dropped` because the queue was full or the Event old.
    pub fn event(&self, result: &'static str) {
        self.events.get_or_create(&Published { result }).inc();
    }

    /// Counts a row of the mirror that is left out (`refused`) or set aside (`slow`).
    pub fn mirror_set_aside(&self, kind: &'static str, cause: &'static str) {
        self.mirror_set_aside.get_or_create(&SetAside { kind, cause }).inc();
    }

    /// Counts committed transactions that the database lost.
    pub fn mirror_lost(&self, transactions: u64) {
        self.mirror_lost.inc_by(transactions);
    }

    /// Counts a loss of the database after which charges may be missing for good.
    pub fn mirror_unrecovered(&self) {
        self.mirror_unrecovered.inc();
    }

    /// All metrics as OpenMetrics text.
    ///
    /// # Errors
    /// The formatter's own; writing to a string has none.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// All metrics as text of this format.
    ///
    /// # Errors
    /// As [`text`](Self::text).
    pub fn text_as(&self, format: Format) -> Result<String, std::fmt::Error> {
        let text = self.text()?;
        Ok(match format {
            Format::OpenMetrics => text,
            Format::Prometheus => as_prometheus(&text),
        })
    }
}

/// OpenMetrics text in the Prometheus format: there a counter is called as its samples are, and neither units nor an end
/// are named.
fn as_prometheus(text: &str) -> String {
    let counters: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
    let mut lines = String::with_capacity(text.len());
    for line in text.lines().filter(|line| *line != "# EOF" && !line.starts_with("# UNIT ")) {
        let said = ["# HELP ", "# TYPE "].iter().find_map(|what| Some((*what, line.strip_prefix(what)?)));
        match said.and_then(|(what, rest)| Some((what, rest.split_once(' ')?))) {
            Some((what, (name, rest))) if counters.contains(name) => {
                lines.extend([what, name, "_total ", rest, "\n"]);
            }
            Some((_, (_, "unknown"))) => lines.extend([line.trim_end_matches("unknown"), "untyped\n"]),
            _ => lines.extend([line, "\n"]),
        }
    }
    lines
}

/// The word for a method of a request: a closed list, whatever a client sends.
#[must_use]
pub fn method(name: &str) -> &'static str {
    match name {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
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
                assert!(
                    family.samples.is_empty() && family.kind.replace(kind.to_owned()).is_none(),
                    "{line}"
                );
            } else {
                assert!(!line.starts_with('#'), "{line}");
                let (id, value) = line.rsplit_once(' ').unwrap();
                let (name, labels) = id.split_once('{').unwrap_or((id, ""));
                assert!(is_name(name), "{line}");
                let family = match families.get(name) {
                    Some(_) => name,
                    None => {
                        ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap()
                    }
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
        metrics.admitted();
        metrics.pod_refused();
        metrics.ended("Completed");
        metrics.authenticated("ok");
        metrics.show_key_versions(2);
        metrics.key_issued("new");
        metrics.answered("/v1/jobs", "GET", 200, Duration::from_millis(1));
        metrics.streams_changed("logs", 1);
        metrics.watch_interrupted("jobs", "timeout");
        metrics.event("written");
        metrics.mirror_set_aside("job", "slow");
        metrics.mirror_lost(1);
        metrics.mirror_unrecovered();
        metrics
    }

    /// The sections of docs/metrics.md by heading.
    fn page() -> BTreeMap<&'static str, &'static str> {
        let sections = include_str!("../docs/metrics.md").split("\n## ").skip(1);
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
        let source = include_str!("metrics.rs").split("\n#[cfg(test)]").next().unwrap();
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
        assert!(
            open.ends_with("\n# EOF\n") && open.contains("# TYPE crofter_reconciles counter\n"),
            "{open}"
        );
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
}
