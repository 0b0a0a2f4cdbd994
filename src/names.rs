//! Every name that Crofter gives or reads in a cluster, written once.
//!
//! Labels, annotations, finalizers and the names of children are an interface: administrators select by them, policies
//! refer to them, and a restart finds its own objects again by them. Whoever needs one takes it from here.

/// API group of the three custom resources.
pub const GROUP: &str = "crofter.io";
/// What the names of our own labels, annotations and finalizers begin with.
pub const PREFIX: &str = "crofter.io/";
/// The served and stored version.
pub const VERSION: &str = "v1alpha1";

/// Field manager of everything applied server-side, and the controller name in Events.
pub const MANAGER: &str = "crofter";

/// Field manager of what the REST API sets for an administrator. Not [`MANAGER`]: what the node controller writes would
/// make the age of a worker label move.
pub const API_MANAGER: &str = "crofter-api";

/// Label: who manages this object; its value is always [`MANAGER`].
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Label: name of the tenant an object belongs to.
pub const LABEL_TENANT: &str = "crofter.io/tenant";
/// Label: UID of the tenant an object belongs to; distinguishes a recreated tenant from the earlier one of that name.
pub const LABEL_TENANT_UID: &str = "crofter.io/tenant-uid";
/// Label on pods: name of the Job. A name too long for a label value is left out; the UID is always there.
pub const LABEL_JOB: &str = "crofter.io/job";
/// Label on pods: UID of the Job.
pub const LABEL_JOB_UID: &str = "crofter.io/job-uid";
/// Label on pods: number of the attempt, from 1.
pub const LABEL_ATTEMPT: &str = "crofter.io/attempt";
/// Label on pods: the worker group (tenant or shared pool) that the pod is bound to.
pub const LABEL_GROUP: &str = "crofter.io/worker-group";
/// Number of the retry that a pod is and that its tenant's hourly window counts.
pub const LABEL_RETRY: &str = "crofter.io/retry";

/// Node label, set by an administrator: the tenant a worker is for. Kubelets may not set this prefix on themselves.
pub const NODE_TENANT: &str = "crofter.node-restriction.kubernetes.io/tenant";
/// Node label, set by an administrator: the shared pool a worker is for.
pub const NODE_POOL: &str = "crofter.node-restriction.kubernetes.io/pool";
/// Node label and taint, set by the node controller: the worker group the node is admitted to.
pub const NODE_ADMITTED: &str = "crofter.node-restriction.kubernetes.io/admitted";
/// Node annotation, set at admission: since when the node carries its worker label, and the worker group that the label
/// named (`2026-01-02T03:04:05Z acme`). The oldest are admitted first.
pub const NODE_WORKER_SINCE: &str = "crofter.io/worker-since";
/// Node annotation: this resource version was left behind so that an admission written against it, to which no answer
/// came and which is not wanted any more, can't happen. Goes with the next write of the node controller.
pub const NODE_FENCE: &str = "crofter.io/admission-fence";

/// Finalizer on a Tenant: its children are taken down in order before it goes.
pub const FINALIZER_TENANT: &str = "crofter.io/tenant";
/// Finalizer on job pods, and on a Job while Postgres is behind: what ran must be counted before it goes.
pub const FINALIZER_ACCOUNTED: &str = "crofter.io/accounted";

/// Annotation: reconcile now; any change of its value does it.
pub const ANNOTATION_RECONCILE: &str = "crofter.io/reconcile-requested-at";
/// Annotation: leave this object alone while it is `true`.
pub const ANNOTATION_PAUSED: &str = "crofter.io/paused";

/// Annotation on a Tenant or Job that `crofter import` has made: the id of the row that it was made of.
pub const ANNOTATION_IMPORTED: &str = "crofter.io/imported-from";

/// Annotation on a job pod that is stopped without being deleted: when that was asked for, and the reason
/// (`2026-01-02T03:04:05Z Canceled`).
pub const ANNOTATION_STOP: &str = "crofter.io/stop-requested";
/// Annotation on a job pod in the operator's cache, and nowhere else: when the API server received the end of its container.
pub const POD_END_REPORTED: &str = "crofter.io/end-reported";

/// Annotation on a TenantApiKey: rotate it; any value that was not there before does it once.
pub const ANNOTATION_ROTATE: &str = "crofter.io/rotate-requested-at";

/// Annotation on a Job made by the REST API: a hash of what was asked for, by which a request that is repeated is
/// known.
pub const ANNOTATION_REQUEST: &str = "crofter.io/request-digest";
/// Annotation on a Job made by the REST API: UID of the job that it is to run again.
pub const ANNOTATION_RETRY_OF: &str = "crofter.io/retry-of";
/// Annotation on an ended Job in the operator's cache, and nowhere else, which has neither its scenario nor its image: what
/// it has run, as
/// [`Kind::format_all`](crate::domain::estimate::history::Kind::format_all) writes it.
pub const JOB_KINDS: &str = "crofter.io/kinds";

/// Default namespace of the operator's own objects.
pub const DEFAULT_NAMESPACE: &str = "crofter-system";
/// The Lease, in the operator's namespace, whose holder is the replica that leads.
pub const LEASE: &str = "crofter";
/// The ResourceQuota of the chart, in the operator's namespace, by whose status it is seen that Kubernetes counts Jobs.
pub const COUNTS: &str = "crofter-counts";
/// The Secret of the peppers, in the operator's namespace.
pub const PEPPER_SECRET: &str = "crofter-pepper";
/// What the name of an API key's Secret begins with, and that of no other Secret that a job may refer to.
pub const KEY_SECRET_PREFIX: &str = "crofter-key-";
/// ClusterRole with what the operator does to the Secrets of API keys, bound in the namespace of each tenant.
pub const KEY_SECRETS_ROLE: &str = "crofter:key-secrets";
/// The same for a REST API with a ServiceAccount of its own, which only reads them.
pub const KEY_SECRETS_READ_ROLE: &str = "crofter:key-secrets-read";
/// Key of a key's Secret: the text.
pub const SECRET_TOKEN: &str = "token";
/// Key of a key's Secret: the key id.
pub const SECRET_KEY_ID: &str = "keyId";
/// The TenantApiKey, in the operator's namespace, by whose changes it is seen how far the watch of keys is behind.
pub const KEY_PROBE: &str = "crofter-probe";
/// Annotation of the probe, which changes each time.
pub const ANNOTATION_PROBE: &str = "crofter.io/probe";

/// Name of the tenant that the first leader creates where the configuration says so, and that the REST API never deletes.
pub const DEFAULT_TENANT: &str = "default";
/// The ConfigMap, in the operator's namespace, that records that the default tenant was created.
pub const DEFAULT_TENANT_RECORD: &str = "crofter-default-tenant";
/// Default prefix of tenant namespaces.
pub const DEFAULT_NAMESPACE_PREFIX: &str = "tenant-";
/// Default name of the extended resource that counts GPUs.
pub const DEFAULT_GPU_RESOURCE: &str = "nvidia.com/gpu";
/// The variables by which the container runtimes of NVIDIA, AMD, Intel Gaudi and Ascend learn which devices a container gets,
/// each with its value for none. The device plugin sets one for what was allocated, and an image may have it as `all`. Those
/// that a program reads itself, such as `CUDA_VISIBLE_DEVICES`, give it nothing that its container has not.
pub const VISIBLE_GPUS: [(&str, &str); 4] = [
    ("NVIDIA_VISIBLE_DEVICES", "void"),
    ("AMD_VISIBLE_DEVICES", "none"),
    ("HABANA_VISIBLE_DEVICES", ""),
    ("ASCEND_VISIBLE_DEVICES", ""),
];

/// Whether a variable is one of [`VISIBLE_GPUS`].
#[must_use]
pub fn makes_gpus_visible(variable: &str) -> bool {
    VISIBLE_GPUS.iter().any(|(name, _)| *name == variable)
}
/// The one container of a job pod.
pub const JOB_CONTAINER: &str = "job";
/// ServiceAccount of job pods in every tenant namespace; it has no token and no rights.
pub const JOB_SERVICE_ACCOUNT: &str = "crofter-job";

const POOL_GROUP_PREFIX: &str = "pool.";

/// Name of the worker group of a shared pool, the value of [`NODE_ADMITTED`]. A tenant's own group is its name;
/// tenant names hold no dot, so the two never meet.
#[must_use]
pub fn pool_group(pool: &str) -> String {
    format!("{POOL_GROUP_PREFIX}{pool}")
}

/// Whether the nodes of a worker group may run jobs of more than one tenant.
#[must_use]
pub fn is_pool_group(group: &str) -> bool {
    pool_of_group(group).is_some()
}

/// The shared pool of a worker group; `None` where the group is a tenant's.
#[must_use]
pub fn pool_of_group(group: &str) -> Option<&str> {
    group.strip_prefix(POOL_GROUP_PREFIX)
}

/// Name of a tenant's namespace.
#[must_use]
pub fn namespace(prefix: &str, tenant: &str) -> String {
    format!("{prefix}{tenant}")
}

/// Name of the pod of one attempt: a function of the Job's name and UID and the attempt's number, so that creating it
/// a second time meets the first. At most 63 characters, so that it also fits a label and a host name.
#[must_use]
pub fn pod(job: &str, job_uid: &str, attempt: u32) -> String {
    /// 63, less the two dashes, 12 digits of the UID and at most 10 of the attempt.
    const JOB_NAME_ROOM: usize = 39;
    let cut = job.char_indices().nth(JOB_NAME_ROOM).map_or(job, |(end, _)| &job[..end]);
    let uid: String = job_uid.chars().filter(char::is_ascii_alphanumeric).take(12).collect();
    format!("{}-{uid}-{attempt}", cut.replace('.', "-").trim_end_matches('-'))
}

/// Name of the Secret of an API key that names none.
#[must_use]
pub fn key_secret(key: &str) -> String {
    format!("{KEY_SECRET_PREFIX}{key}")
}

/// Whether a Secret of this name is one of an API key.
#[must_use]
pub fn is_key_secret(secret: &str) -> bool {
    secret.starts_with(KEY_SECRET_PREFIX)
}

/// Environment variable for a Job's parameter: `CROFTER_PARAM_` and the name in capitals, what is no letter or digit
/// as `_`.
#[must_use]
pub fn parameter_variable(name: &str) -> String {
    let upper = name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    "CROFTER_PARAM_".chars().chain(upper).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_name_is_stable_and_fits() {
        let uid = "0b8e9a52-6a5e-4d5c-9c0e-6a1f6c0a9f11";
        assert_eq!(pod("render", uid, 2), "render-0b8e9a526a5e-2");
        let long = pod(&"x".repeat(200), uid, u32::MAX);
        assert!(long.len() <= 63, "{long}");
        assert_eq!(pod("a.b", uid, 1), "a-b-0b8e9a526a5e-1");
        let cut = pod(&format!("{}-tail", "y".repeat(38)), uid, 1);
        assert!(!cut.contains("--"), "{cut}");
    }

    #[test]
    fn parameters_become_variables() {
        assert_eq!(parameter_variable("run-seconds"), "CROFTER_PARAM_RUN_SECONDS");
    }
}
