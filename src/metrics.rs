//! The operator's metrics as text: OpenMetrics, or the older Prometheus format 0.0.4, which every scraper reads.
//!
//! Labels come from closed lists only (controllers, results, reasons, verdicts): no text of a user becomes a label.
//! docs/metrics.md describes each family; a test compares the page with what is registered.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::text::encode,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use self::{
    format::as_prometheus,
    labels::{
        Answered, Authenticated, ByController, ByRoute, Ended, Interrupted, Issued, Published, Reconciled,
        SetAside, Streamed, Unlabelled, Waiting,
    },
};
use crate::api_types::Reason;

mod format;
mod labels;
#[cfg(test)]
mod tests;

pub use self::{format::Format, labels::method};

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
    audit_entries: Family<Published, Counter>,
    mirror_set_aside: Family<SetAside, Counter>,
    mirror_lost: Counter<u64, AtomicU64>,
    mirror_unrecovered: Counter<u64, AtomicU64>,
    /// A family, so that it has no sample where the process takes no part in the election.
    leader: Family<Unlabelled, Gauge<i64, std::sync::atomic::AtomicI64>>,
    /// A family, so that it has no sample until the number is known.
    lease_transitions: Family<Unlabelled, Gauge<i64, std::sync::atomic::AtomicI64>>,
    /// A family, so that it has no sample until the number is known.
    missing_policies: Family<Unlabelled, Gauge<i64, std::sync::atomic::AtomicI64>>,
    /// A family, so that it has no sample where there is no certificate.
    certificate_expiry: Family<Unlabelled, Gauge<i64, std::sync::atomic::AtomicI64>>,
    certificates_refused: Counter<u64, AtomicU64>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
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
        let leader = Family::default();
        registry.register("leader", "Whether this replica of the operator leads: 1 or 0", leader.clone());
        let missing_policies = Family::default();
        registry.register(
            "missing_policies",
            "Admission policies of the chart that are missing or don't deny",
            missing_policies.clone(),
        );
        let lease_transitions = Family::default();
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
        let audit_entries = Family::default();
        registry.register(
            "audit_entries",
            "Entries of the audit log for the database by result (written, dropped, refused, throttled)",
            audit_entries.clone(),
        );
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
        let certificate_expiry = Family::default();
        registry.register_with_unit(
            "tls_certificate_expiry_timestamp",
            "When the TLS certificate of the REST API expires, as seconds since 1970",
            Unit::Seconds,
            certificate_expiry.clone(),
        );
        let certificates_refused = Counter::default();
        registry.register(
            "tls_reload_failures",
            "Reads of the TLS certificate and its key that found none to serve",
            certificates_refused.clone(),
        );
        Self {
            registry: Arc::new(registry),
            reconciles,
            reconcile_seconds,
            decision_seconds,
            waiting,
            leader,
            lease_transitions,
            missing_policies,
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
            audit_entries,
            mirror_set_aside,
            mirror_lost,
            mirror_unrecovered,
            certificate_expiry,
            certificates_refused,
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

    /// Sets whether this process leads, of one that takes part in the election, and how often the Lease has had another
    /// holder, once that is known.
    pub fn show_leader(&self, leads: bool, transitions: Option<i32>) {
        self.leader.get_or_create(&Unlabelled {}).set(leads.into());
        if let Some(transitions) = transitions {
            self.lease_transitions.get_or_create(&Unlabelled {}).set(transitions.into());
        }
    }

    /// Sets how many admission policies are missing, once that is known.
    pub fn show_missing_policies(&self, missing: Option<usize>) {
        if let Some(missing) = missing {
            let missing = i64::try_from(missing).unwrap_or(i64::MAX);
            self.missing_policies.get_or_create(&Unlabelled {}).set(missing);
        }
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
    pub fn pod_created(&self) {
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

    /// Counts entries of the audit log: `written` to the database, `dropped` because the queue was full, `refused` by Postgres,
    /// or `throttled` because callers without credentials made too many.
    pub fn audit(&self, result: &'static str, entries: u64) {
        self.audit_entries.get_or_create(&Published { result }).inc_by(entries);
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

    /// Sets when the TLS certificate of the REST API expires, in seconds since 1970.
    pub fn show_certificate(&self, expiry: i64) {
        self.certificate_expiry.get_or_create(&Unlabelled {}).set(expiry);
    }

    /// Counts a read of the files of the TLS certificate that found none to serve.
    pub fn certificate_refused(&self) {
        self.certificates_refused.inc();
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
