//! What the demo shows, as plain rows: made of the caches of three watches and of what Postgres has on usage.

use std::{collections::BTreeMap, fmt, time::Duration};

use anyhow::Context;
use crofter::{
    api_types::{Job, JobPhase, Quantity, Tenant, job::JobResources},
    kube_ext::{guard::Guarded, watch::Watch},
    names,
};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client, ResourceExt, runtime::reflector::Store};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::task::JoinSet;

use crate::example;

/// Everything on the screen at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct World {
    pub(crate) tenants: Vec<TenantRow>,
    pub(crate) nodes: Vec<NodeRow>,
    pub(crate) jobs: Vec<JobRow>,
    pub(crate) usage: Vec<UsageRow>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TenantRow {
    pub(crate) name: String,
    pub(crate) plan: String,
    pub(crate) phase: String,
    pub(crate) ready: String,
    pub(crate) jobs: String,
    pub(crate) queued: String,
    pub(crate) cpu: String,
    pub(crate) workers: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeRow {
    pub(crate) name: String,
    pub(crate) ready: bool,
    /// The tenant or pool that the administrator labelled it for.
    pub(crate) labelled: String,
    /// The worker group that Crofter admitted it to.
    pub(crate) admitted: String,
    pub(crate) cpu: String,
    pub(crate) memory: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JobRow {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) queue: &'static str,
    pub(crate) asks: String,
    pub(crate) phase: JobPhase,
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) node: String,
    pub(crate) attempt: i32,
    /// How an example should end.
    pub(crate) expected: Option<example::End>,
}

/// What one attempt is charged for.
#[derive(Clone, Debug, PartialEq, sqlx::FromRow)]
pub(crate) struct UsageRow {
    pub(crate) tenant: String,
    pub(crate) job: String,
    pub(crate) attempt: i32,
    pub(crate) seconds: f64,
    pub(crate) core_seconds: f64,
    pub(crate) gb_seconds: f64,
}

impl JobRow {
    /// Whether nothing will happen to it any more.
    pub(crate) fn ended(&self) -> bool {
        match self.phase {
            JobPhase::Completed | JobPhase::Failed | JobPhase::Canceled | JobPhase::Rejected => true,
            // Where its policy says so it will be tried again; no example that takes too long asks for that.
            JobPhase::TimedOut => true,
            JobPhase::Queued | JobPhase::Assigned | JobPhase::Running | JobPhase::Retrying => false,
        }
    }

    /// Whether it is as its example says it should end; true when it is no example.
    pub(crate) fn as_expected(&self) -> bool {
        self.expected.as_ref().is_none_or(|end| (end.phase, &end.reason) == (self.phase, &self.reason))
    }
}

/// How far the examples have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Examples that have been applied.
    applied: usize,
    /// Those of them that have ended.
    ended: usize,
    /// Their attempts so far.
    attempts: usize,
    /// Attempts whose usage is in Postgres.
    recorded: usize,
}

impl World {
    /// How far the examples have come.
    pub(crate) fn progress(&self) -> Progress {
        let examples = || self.jobs.iter().filter(|job| job.expected.is_some());
        let attempts: usize = examples().map(|job| usize::try_from(job.attempt).unwrap_or_default()).sum();
        let recorded = self.usage.len();
        Progress {
            applied: examples().count(),
            ended: examples().filter(|job| job.ended()).count(),
            attempts,
            recorded,
        }
    }
}

impl Progress {
    /// All have ended and are accounted for.
    pub(crate) fn complete(&self) -> bool {
        self.applied > 0 && self.ended == self.applied && self.recorded == self.attempts
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { applied, ended, attempts, recorded } = self;
        write!(
            f,
            "{ended} of {applied} examples have ended, usage of {recorded} of {attempts} attempts is in Postgres"
        )
    }
}

/// The watches, and a connection to Postgres.
pub(crate) struct Observer {
    tenants: Store<Tenant>,
    jobs: Store<Job>,
    nodes: Store<Node>,
    pool: PgPool,
    // Ends the watches when dropped.
    _watches: JoinSet<()>,
}

impl Observer {
    /// Begins to watch.
    pub(crate) async fn start(client: Client, database_url: &str) -> anyhow::Result<Self> {
        let tenants = Watch::new(Api::<Guarded<Tenant>>::all(client.clone()), Default::default());
        let jobs = Watch::new(Api::<Guarded<Job>>::all(client.clone()), Default::default());
        let nodes = Watch::new(Api::<Guarded<Node>>::all(client), Default::default());
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(Duration::from_secs(5))
            .connect(database_url)
            .await
            .context("connecting to Postgres")?;
        let (tenant_store, job_store, node_store) = (tenants.store(), jobs.store(), nodes.store());
        let mut watches = JoinSet::new();
        watches.spawn(tenants.run());
        watches.spawn(jobs.run());
        watches.spawn(nodes.run());
        Ok(Self { tenants: tenant_store, jobs: job_store, nodes: node_store, pool, _watches: watches })
    }

    /// The rows at this moment; usage as last read.
    pub(crate) fn world(&self, usage: &[UsageRow]) -> World {
        let mut world = World {
            tenants: self.tenants.state().iter().map(|tenant| tenant_row(tenant)).collect(),
            nodes: self.nodes.state().iter().map(|node| node_row(node)).collect(),
            jobs: self.jobs.state().iter().map(|job| job_row(job)).collect(),
            usage: usage.to_vec(),
        };
        world.tenants.sort_by(|a, b| a.name.cmp(&b.name));
        world.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        world.jobs.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        world
    }

    /// The usage rows, newest first. None before the operator has made the tables.
    pub(crate) async fn usage(&self) -> anyhow::Result<Vec<UsageRow>> {
        let there: bool = sqlx::query_scalar("SELECT to_regclass('usage_events') IS NOT NULL")
            .fetch_one(&self.pool)
            .await
            .context("looking for the usage table")?;
        if !there {
            return Ok(Vec::new());
        }
        sqlx::query_as(USAGE).fetch_all(&self.pool).await.context("reading usage")
    }
}

/// In seconds and GB, for people: what is charged is counted in integers, in milli-units and milliseconds.
const USAGE: &str = "
    SELECT tenants.name AS tenant, jobs.name AS job, usage_events.attempt,
           running_millis::float8 / 1e3 AS seconds,
           cpu_millicore_millis::float8 / 1e6 AS core_seconds,
           memory_byte_millis::float8 / 1e12 AS gb_seconds
    FROM usage_events
    JOIN jobs ON jobs.uid = job_uid
    JOIN tenants ON tenants.uid = usage_events.tenant_uid
    ORDER BY usage_events.finished_at DESC, job_uid, usage_events.attempt";

fn tenant_row(tenant: &Tenant) -> TenantRow {
    let status = tenant.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
    let summary = status.summary.unwrap_or_default();
    TenantRow {
        name: tenant.name_any(),
        plan: tenant.spec.plan.clone(),
        phase: status.phase.map(|phase| phase.to_string()).unwrap_or_default(),
        ready: ready
            .map(|condition| format!("{} {}", condition.status, condition.reason))
            .unwrap_or_default(),
        jobs: summary.jobs,
        queued: status.usage.map(|usage| usage.queued_jobs.to_string()).unwrap_or_default(),
        cpu: summary.cpu,
        workers: summary.workers,
    }
}

fn node_row(node: &Node) -> NodeRow {
    let status = node.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let allocatable: BTreeMap<_, _> = status.allocatable.unwrap_or_default();
    let amount = |resource: &str| allocatable.get(resource).map(|q| q.0.clone()).unwrap_or_default();
    let label = |key: &str| node.labels().get(key).cloned();
    let pool = || label(names::NODE_POOL).map(|pool| format!("pool {pool}"));
    NodeRow {
        name: node.name_any(),
        ready: conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"),
        labelled: label(names::NODE_TENANT).or_else(pool).unwrap_or_default(),
        admitted: label(names::NODE_ADMITTED).unwrap_or_default(),
        cpu: amount("cpu"),
        memory: gibibytes(&amount("memory")),
    }
}

/// A kubelet gives its memory in exact KiB.
fn gibibytes(amount: &str) -> String {
    let tenths = Quantity::from(amount).units().map(|bytes| bytes.saturating_mul(10) >> 30);
    tenths.map_or_else(|_| amount.to_owned(), |tenths| format!("{}.{}Gi", tenths / 10, tenths % 10))
}

fn job_row(job: &Job) -> JobRow {
    let status = job.status.clone().unwrap_or_default();
    JobRow {
        namespace: job.namespace().unwrap_or_default(),
        name: job.name_any(),
        queue: job.spec.queue.into(),
        asks: asks(job.spec.resources.as_ref()),
        phase: status.phase,
        reason: status.reason.unwrap_or_default(),
        message: status.message.unwrap_or_default(),
        node: status.node.unwrap_or_default(),
        attempt: status.attempt,
        expected: example::End::of(job),
    }
}

/// What a job asks for, in few characters: `1500m 1Gi +1 GPU`.
fn asks(resources: Option<&JobResources>) -> String {
    let Some(resources) = resources else { return String::new() };
    let amounts =
        [&resources.cpu, &resources.memory].map(|q| q.as_ref().map_or("-".to_owned(), ToString::to_string));
    let gpus = resources.gpus.filter(|gpus| *gpus > 0).map_or(String::new(), |gpus| format!(" +{gpus} GPU"));
    format!("{}{gpus}", amounts.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_printed_in_gibibytes() {
        assert_eq!(gibibytes("24581692Ki"), "23.4Gi");
        assert_eq!(gibibytes("8Gi"), "8.0Gi");
        assert_eq!(gibibytes(""), "");
    }

    #[test]
    fn an_example_is_done_when_its_usage_is_recorded_too() {
        let progress = Progress { applied: 2, ended: 2, attempts: 3, recorded: 2 };
        assert!(!progress.complete());
        assert!(Progress { recorded: 3, ..progress }.complete());
        assert!(!Progress { recorded: 3, ended: 1, ..progress }.complete());
        assert!(!World::default().progress().complete(), "nothing is applied yet");
    }
}
