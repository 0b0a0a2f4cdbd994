//! `Tenant`: a customer or team, cluster-scoped.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    plan::{EffectiveQuotas, Quotas},
    text,
};

/// Tenant is a customer or team that shares the cluster. It has a namespace, quotas, access and worker nodes.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "crofter.io",
    version = "v1alpha1",
    kind = "Tenant",
    status = "TenantStatus",
    shortname = "ten",
    category = "crofter",
    derive = "PartialEq",
    doc = "Tenant is a customer or team that shares the cluster. It has a namespace, quotas, access and worker nodes.",
    selectable = ".spec.plan",
    selectable = ".status.phase",
    printcolumn(name = "Plan", type_ = "string", json_path = ".spec.plan"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Jobs", type_ = "string", json_path = ".status.summary.jobs", description = "assigned and running, of maxJobs"),
    printcolumn(name = "Queued", type_ = "integer", json_path = ".status.usage.queuedJobs"),
    printcolumn(name = "CPU", type_ = "string", json_path = ".status.summary.cpu", description = "cores of jobs, of maxCpuCores"),
    printcolumn(name = "Workers", type_ = "string", json_path = ".status.summary.workers", description = "admitted nodes, of maxWorkers"),
    printcolumn(name = "Hour", type_ = "string", json_path = ".status.summary.jobsThisHour", description = "jobs and retries started in the hourly window, of maxJobsPerHour", priority = 1),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = 1),
    printcolumn(name = "Namespace", type_ = "string", json_path = ".status.namespace", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')")
        .message("a tenant's name is at most 40 characters of a-z, 0-9 and -, and begins and ends with a letter or digit: it becomes a namespace and a label")
)]
#[serde(rename_all = "camelCase")]
pub struct TenantSpec {
    /// Name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub display_name: Option<String>,

    /// Plan: the row of the plan table that gives quotas and weight (built in: free, basic, pro, enterprise).
    #[serde(default = "default_plan")]
    #[schemars(length(min = 1, max = 63), regex(pattern = text::LABEL))]
    pub plan: String,

    /// Whether the tenant is suspended: it accepts and admits no jobs, and suspendPolicy decides about running ones.
    #[serde(default)]
    pub suspended: bool,

    /// What happens to running jobs while the tenant is suspended: Hold lets them finish, Drain stops and requeues them.
    #[serde(default)]
    pub suspend_policy: SuspendPolicy,

    /// Time from which the tenant is expired. A later time, or none, reactivates it.
    #[serde(default, deserialize_with = "super::time::time", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,

    /// Quotas that replace the plan's. Absent: the plan's value; 0: none; -1: unlimited.
    #[serde(default)]
    pub quotas: Quotas,

    /// Shared pools on whose nodes the tenant's jobs may run, besides its own workers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 16),
        inner(length(min = 1, max = 58), regex(pattern = text::LABEL))
    )]
    pub shared_pools: Vec<String>,

    /// Subjects that may work in the tenant's namespace, each with a role.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub access: Vec<AccessGrant>,

    /// Network isolation of the namespace's pods.
    #[serde(default)]
    pub network_isolation: NetworkIsolation,

    /// Pod Security Standard that the namespace enforces.
    #[serde(default)]
    pub pod_security: PodSecurity,

    /// Whether an autoscaler supplies nodes: jobs are then admitted up to the quota even where no node has capacity
    /// yet.
    #[serde(default)]
    pub elastic: bool,

    /// What happens to the namespace when the tenant is deleted.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,

    /// Whether a request to delete the tenant is refused.
    #[serde(default)]
    pub prevent_deletion: bool,

    /// Free notes of the administrator (billing number, contact), mirrored to Postgres.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(length(max = 64), extend("maxProperties" = 64))]
    #[x_kube(validation = Rule::new("self.all(k, k.size() <= 128)").message("a name has at most 128 characters"))]
    pub metadata: BTreeMap<String, MetadataValue>,
}

/// A value of `spec.metadata`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MetadataValue(pub String);

impl JsonSchema for MetadataValue {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "MetadataValue".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "maxLength": 1024})
    }
}

fn default_plan() -> String {
    "free".to_owned()
}

/// What happens to running jobs of a suspended or expired tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SuspendPolicy {
    /// They finish.
    #[default]
    Hold,
    /// They are stopped and go back into the queue, without being charged a retry.
    Drain,
}

/// Network isolation of a tenant's pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NetworkIsolation {
    /// Nothing comes in; out go only DNS and public addresses, so not other tenants, nodes, the API server or the
    /// cloud's metadata service. Further NetworkPolicies in the namespace can allow more.
    #[default]
    Isolated,
    /// No network policy of Crofter's.
    None,
}

/// Pod Security Standard of a tenant namespace.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr,
)]
pub enum PodSecurity {
    /// The restricted standard.
    #[default]
    Restricted,
    /// The baseline standard.
    Baseline,
}

/// What happens to a tenant's namespace when the tenant is deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DeletionPolicy {
    /// It is deleted.
    #[default]
    Delete,
    /// It stays, without Crofter's labels, quota and bindings.
    Retain,
}

/// One grant of access to a tenant's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.kind == 'ServiceAccount') == has(self.__namespace__)")
        .message("namespace is given for a ServiceAccount, and only then"),
    validation = Rule::new(format!("self.kind != 'ServiceAccount' || self.name.matches('{}')", text::SUBDOMAIN))
        .message("a ServiceAccount's name is lower-case letters, digits, - and ., and begins and ends with a letter or digit")
)]
pub struct AccessGrant {
    /// Kind of the subject.
    pub kind: SubjectKind,
    /// Name of the subject.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Namespace of a ServiceAccount.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = text::LABEL))]
    pub namespace: Option<String>,
    /// Role of the subject, which says what it may do.
    pub role: AccessRole,
}

/// Kind of an RBAC subject.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::IntoStaticStr,
)]
pub enum SubjectKind {
    /// A user.
    User,
    /// A group.
    Group,
    /// A service account.
    ServiceAccount,
}

/// What a subject may do in a tenant's namespace; each is a ClusterRole `crofter:tenant-<role>`.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::IntoStaticStr,
    strum::EnumIter,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum AccessRole {
    /// Jobs, keys, Secrets and ConfigMaps.
    Admin,
    /// Jobs, and the logs and events of their pods; Secrets and ConfigMaps that jobs use.
    Operator,
    /// Jobs, and the logs and events of their pods.
    Developer,
    /// Reads jobs and events.
    Viewer,
}

/// TenantStatus is the observed state of a Tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantStatus {
    /// Generation of the spec that this status describes; -1 before the first reconcile.
    #[serde(default = "unobserved")]
    pub observed_generation: i64,
    /// Where the tenant is in its life.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase: Option<TenantPhase>,
    /// Name of the tenant's namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The quotas in force: the tenant's own where given, the plan's elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective_quotas: Option<EffectiveQuotas>,
    /// What the tenant uses, written at most every 15 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<TenantUsage>,
    /// State of the hourly window for pods that are deleted or may be deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job_window: Option<JobWindow>,
    /// Usage and quotas as texts, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub summary: Option<TenantSummary>,
    /// Conditions: Ready, Active and WorkersAdmitted; Reconciling and Stalled only while they are True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Hash of the objects that were applied for the tenant, and of their versions. An operator that starts applies
    /// only objects that differ.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub applied: Option<String>,
}

/// The observed generation of an object that was not reconciled yet.
#[must_use]
pub fn unobserved() -> i64 {
    -1
}

/// Phase of the tenant.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::Display,
    strum::IntoStaticStr,
)]
pub enum TenantPhase {
    /// Accepts and runs jobs.
    Active,
    /// Suspended by its spec.
    Suspended,
    /// Past its expiry.
    Expired,
    /// Being deleted.
    Terminating,
    /// Its spec can't be carried out as it is, so no job starts; what runs is left alone.
    Stalled,
}

/// What a tenant uses at the moment, and how many of its jobs have ended how.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantUsage {
    /// Jobs that wait.
    #[serde(default)]
    pub queued_jobs: i64,
    /// Jobs assigned or running.
    #[serde(default)]
    pub active_jobs: i64,
    /// CPU requested by active jobs, in thousandths of a core.
    #[serde(default)]
    pub cpu_millicores: i64,
    /// Memory requested by active jobs, in bytes.
    #[serde(default)]
    pub memory_bytes: i64,
    /// GPUs requested by active jobs.
    #[serde(default)]
    pub gpus: i64,
    /// Storage requested by the namespace's volume claims, in bytes.
    #[serde(default)]
    pub storage_bytes: i64,
    /// Bandwidth requested by active jobs, in Mbit/s.
    #[serde(default)]
    pub bandwidth_mbps: i64,
    /// Nodes that are admitted to the tenant.
    #[serde(default)]
    pub workers: i64,
    /// Jobs and retries started in the hourly window in force. What follows a disruption is not counted.
    #[serde(default)]
    pub jobs_this_hour: i64,
    /// When the current window ends; absent without one. The next window begins with the next job that starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs_hour_reset_at: Option<Time>,
    /// Jobs that ended and are still in the API, by end state.
    #[serde(default)]
    pub ended: EndedJobs,
}

/// The part of the hourly window (maxJobsPerHour) that can't be read from pods any more, or not for long. A job's first
/// pod, and that of a retry, is held by the finalizer `crofter.io/accounted` until this says that it is counted: what is
/// charged is `settled` and those of these pods that still carry the finalizer, were created in the window and are not in
/// `settling`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobWindow {
    /// End of the window, 60 minutes after the first job charged.
    pub resets_at: Time,
    /// End of the previous window: a pod created earlier does not count in the current one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// Charged jobs whose pods have no finalizer any more.
    #[serde(default)]
    pub settled: i64,
    /// UIDs of charged jobs whose pods may still have the finalizer; `<UID>/<n>` is the nth retry of one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settling: Vec<String>,
}

/// Number of jobs by end state.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndedJobs {
    /// Jobs that completed.
    #[serde(default)]
    pub completed: i64,
    /// Jobs that failed.
    #[serde(default)]
    pub failed: i64,
    /// Jobs that were canceled.
    #[serde(default)]
    pub canceled: i64,
    /// Jobs that were rejected.
    #[serde(default)]
    pub rejected: i64,
    /// Jobs that exceeded their timeout.
    #[serde(default)]
    pub timed_out: i64,
}

/// Usage against quota, as texts for columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantSummary {
    /// Active jobs of maxJobs, such as `3/20`.
    pub jobs: String,
    /// Cores of maxCpuCores, such as `1.5/16`.
    pub cpu: String,
    /// Memory of maxMemoryGb.
    pub memory: String,
    /// GPUs of maxGpus.
    pub gpus: String,
    /// Admitted nodes of maxWorkers.
    pub workers: String,
    /// Jobs started in the hourly window of maxJobsPerHour.
    #[serde(default)]
    pub jobs_this_hour: String,
}
