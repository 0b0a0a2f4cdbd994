//! Third step: the children that a tenant should have. Pure; equal input gives equal output.
//!
//! Names are fixed, so that every child can be found, applied and deleted without remembering it.

mod network_policy;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        core::v1::{
            LimitRange, LimitRangeItem, LimitRangeSpec, Namespace, ResourceQuota, ResourceQuotaSpec,
            ServiceAccount,
        },
        networking::v1::NetworkPolicy,
        rbac::v1::{RoleBinding, RoleRef, Subject as RbacSubject},
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::{
    counts,
    error::Error,
    reconcile_state::{Fingerprint, ReconcileState},
    validate::{Owner, Subject, Validated},
};
use crate::{
    api_types::{
        plan::EffectiveQuotas,
        quota::QuotaDimension,
        tenant::{AccessRole, PodSecurity},
    },
    config::{Account, Accounts},
    names,
};

/// Name of the ResourceQuota and of the LimitRange.
pub(super) const NAME: &str = "crofter";
/// Name of the ResourceQuota that bounds the number of Jobs and API keys.
pub(super) const OBJECTS: &str = "crofter-objects";
/// Jobs that may be kept in addition to those that run and wait: those that have ended, and the overflow of the queue.
const KEPT_JOBS: i64 = 1000;
/// The same, as hours of maxJobsPerHour where that is more.
const KEPT_HOURS: i64 = 10;
/// ConfigMaps, Secrets and volume claims of a tenant, each.
const CORE_OBJECTS: &str = "250";
/// Pod Security Standards as of this version: an upgrade of the cluster does not tighten them under running tenants.
const POD_SECURITY_VERSION: &str = "v1.34";
/// Requests of a container that names none: those of a Job that names none.
const DEFAULT_REQUESTS: [(&str, &str); 2] = [("cpu", "1"), ("memory", "512Mi")];

/// Everything that a tenant owns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Children {
    pub(super) namespace: Namespace,
    pub(super) quota: ResourceQuota,
    /// Once Kubernetes counts Jobs (`counts`).
    pub(super) objects: Option<ResourceQuota>,
    pub(super) limits: LimitRange,
    pub(super) policies: Vec<NetworkPolicy>,
    pub(super) account: ServiceAccount,
    pub(super) bindings: Vec<RoleBinding>,
}

/// The hash of the children of a tenant. They are built only where the tenant is not as it was last time.
///
/// # Errors
/// Where the children can't be put into JSON.
pub(super) fn fingerprint(tenant: &Validated, state: &ReconcileState) -> Result<Fingerprint, Error> {
    let hash = || Ok(Sha256::digest(serde_json::to_vec(&build(tenant))?).into());
    let serialise = |source| Error::SerialiseChildren { tenant: tenant.owner.name.clone(), source };
    state.fingerprint(tenant, hash).map_err(serialise)
}

/// Builds the children of a tenant.
pub(super) fn build(tenant: &Validated) -> Children {
    let owner = &tenant.owner;
    Children {
        namespace: namespace(owner, tenant.pod_security),
        quota: quota(owner, &tenant.quotas, &tenant.gpu_resource),
        objects: tenant.counts_objects.then(|| objects(owner, &tenant.quotas)),
        limits: limits(owner),
        policies: network_policy::policies(owner, tenant.isolation),
        account: account(owner),
        bindings: access(owner, &tenant.access).chain(key_secrets(owner, &tenant.accounts)).collect(),
    }
}

/// The labels of all that belongs to a tenant.
pub(super) fn labels(owner: &Owner) -> BTreeMap<String, String> {
    [
        (names::LABEL_MANAGED_BY, names::MANAGER),
        (names::LABEL_TENANT, &owner.name),
        (names::LABEL_TENANT_UID, &owner.uid),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

pub(super) fn metadata(owner: &Owner, name: impl Into<String>) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some(owner.namespace.clone()),
        labels: Some(labels(owner)),
        ..ObjectMeta::default()
    }
}

fn namespace(owner: &Owner, pod_security: PodSecurity) -> Namespace {
    let standard = match pod_security {
        PodSecurity::Restricted => "restricted",
        PodSecurity::Baseline => "baseline",
    };
    let mut labels = labels(owner);
    for mode in ["enforce", "warn", "audit"] {
        labels.insert(format!("pod-security.kubernetes.io/{mode}"), standard.to_owned());
        labels.insert(format!("pod-security.kubernetes.io/{mode}-version"), POD_SECURITY_VERSION.to_owned());
    }
    Namespace {
        metadata: ObjectMeta {
            name: Some(owner.namespace.clone()),
            labels: Some(labels),
            ..ObjectMeta::default()
        },
        ..Namespace::default()
    }
}

/// The plan's own numbers, so that `kubectl describe quota` reads like the plan; what is unlimited has no entry. And a
/// bound for the number of what a tenant may make itself, each of which costs etcd up to 1 MiB.
fn quota(owner: &Owner, quotas: &EffectiveQuotas, gpu_resource: &str) -> ResourceQuota {
    let of_plan =
        QuotaDimension::all().filter_map(|dimension| dimension.resource_quota(quotas, gpu_resource));
    let bounds = [
        ("services.nodeports", "0"),
        ("services.loadbalancers", "0"),
        ("count/configmaps", CORE_OBJECTS),
        ("count/secrets", CORE_OBJECTS),
        ("persistentvolumeclaims", CORE_OBJECTS),
    ];
    let hard = of_plan.chain(bounds.map(|(name, most)| (name.to_owned(), Some(most.to_owned()))));
    quota_of(owner, NAME, hard)
}

/// The number of Jobs and API keys, which the operator has all in memory. API keys: the plan's number. Jobs: as many as may run and wait, and as
/// many again as are left of ten hours, 1000 at least; unbounded where one of these quotas is unlimited.
fn objects(owner: &Owner, quotas: &EffectiveQuotas) -> ResourceQuota {
    let EffectiveQuotas { max_jobs, max_queued_jobs, max_jobs_per_hour, max_api_keys, .. } = *quotas;
    let bounded = [max_jobs, max_queued_jobs, max_jobs_per_hour].iter().all(|quota| *quota >= 0);
    let kept = max_jobs_per_hour.saturating_mul(KEPT_HOURS).max(KEPT_JOBS);
    let jobs = max_jobs.saturating_add(max_queued_jobs).saturating_add(kept);
    let hard = [
        (counts::JOBS.to_owned(), bounded.then(|| jobs.to_string())),
        ("count/tenantapikeys.crofter.io".to_owned(), (max_api_keys >= 0).then(|| max_api_keys.to_string())),
    ];
    quota_of(owner, OBJECTS, hard)
}

fn quota_of(
    owner: &Owner,
    name: &str,
    hard: impl IntoIterator<Item = (String, Option<String>)>,
) -> ResourceQuota {
    let hard = hard.into_iter().filter_map(|(key, value)| Some((key, Quantity(value?)))).collect();
    ResourceQuota {
        metadata: metadata(owner, name),
        spec: Some(ResourceQuotaSpec { hard: Some(hard), ..ResourceQuotaSpec::default() }),
        status: None,
    }
}

/// Defaults only: a pod that names no requests (not one of ours) would be refused by the quota without them.
fn limits(owner: &Owner) -> LimitRange {
    let defaults: BTreeMap<String, Quantity> =
        DEFAULT_REQUESTS.map(|(key, value)| (key.to_owned(), Quantity(value.to_owned()))).into();
    let container = LimitRangeItem {
        type_: "Container".to_owned(),
        default: Some(defaults.clone()),
        default_request: Some(defaults),
        ..LimitRangeItem::default()
    };
    LimitRange { metadata: metadata(owner, NAME), spec: Some(LimitRangeSpec { limits: vec![container] }) }
}

/// The account of job pods: no token is mounted and no role is bound.
fn account(owner: &Owner) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(owner, names::JOB_SERVICE_ACCOUNT),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// Who has which role in the tenant.
fn access(
    owner: &Owner,
    access: &BTreeMap<AccessRole, BTreeSet<Subject>>,
) -> impl Iterator<Item = RoleBinding> {
    access.iter().map(|(role, who)| {
        let role: &str = role.into();
        binding(owner, &format!("crofter-{role}"), &format!("crofter:tenant-{role}"), who)
    })
}

/// What Crofter itself has of the namespace's Secrets, and has in no other namespace.
fn key_secrets(owner: &Owner, accounts: &Accounts) -> impl Iterator<Item = RoleBinding> {
    let Accounts { service_account, api_service_account } = accounts;
    let both = [
        ("crofter-key-secrets", names::KEY_SECRETS_ROLE, service_account),
        ("crofter-key-secrets-read", names::KEY_SECRETS_READ_ROLE, api_service_account),
    ];
    both.into_iter().filter_map(|(name, role, account)| {
        let Account { namespace, name: account } = account.clone()?;
        Some(binding(owner, name, role, &[Subject::ServiceAccount { namespace, name: account }]))
    })
}

fn binding<'a>(
    owner: &Owner,
    name: &str,
    role: &str,
    who: impl IntoIterator<Item = &'a Subject>,
) -> RoleBinding {
    const RBAC: &str = "rbac.authorization.k8s.io";
    let subject = |subject: &Subject| {
        let (kind, name, namespace) = match subject {
            Subject::User(name) => ("User", name, None),
            Subject::Group(name) => ("Group", name, None),
            Subject::ServiceAccount { namespace, name } => ("ServiceAccount", name, Some(namespace.clone())),
        };
        let api_group = namespace.is_none().then(|| RBAC.to_owned());
        RbacSubject { api_group, kind: kind.to_owned(), name: name.clone(), namespace }
    };
    RoleBinding {
        metadata: metadata(owner, name),
        role_ref: RoleRef {
            api_group: RBAC.to_owned(),
            kind: "ClusterRole".to_owned(),
            name: role.to_owned(),
        },
        subjects: Some(who.into_iter().map(subject).collect()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        api_types::{Plans, Tenant},
        config::Settings,
        controllers::tenant::validate::validate,
    };

    fn children(spec: serde_json::Value) -> serde_json::Value {
        let account = |name: &str| Some(Account { namespace: "crofter-system".into(), name: name.into() });
        let settings = Settings {
            accounts: Accounts {
                service_account: account("crofter"),
                api_service_account: account("crofter-api"),
            },
            ..Settings::default()
        };
        let object = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme", "uid": "u-1"},
            "spec": spec,
        });
        let tenant: Tenant = serde_json::from_value(object).unwrap();
        let valid = validate(&tenant, &Plans::built_in().unwrap(), &settings, false).unwrap();
        serde_json::to_value(build(&Validated { counts_objects: true, ..valid })).unwrap()
    }

    #[test]
    fn the_number_of_objects_is_bounded_once_kubernetes_counts_them() {
        let hard = |spec| children(spec)["objects"]["spec"]["hard"].clone();
        let keys = "count/tenantapikeys.crofter.io";
        let counts = |jobs: &str, most: &str| json!({"count/jobs.crofter.io": jobs, keys: most});
        assert_eq!(hard(json!({"plan": "free"})), counts("1055", "10"), "5 + 50 + 1000");
        assert_eq!(hard(json!({"plan": "enterprise"})), counts("111000", "100"), "1000 + 10000 + 10 * 10000");
        assert_eq!(hard(json!({"quotas": {"maxQueuedJobs": -1}})), json!({keys: "10"}));
        assert_eq!(
            hard(json!({"quotas": {"maxJobs": 0, "maxQueuedJobs": 0, "maxApiKeys": 0}})),
            counts("1000", "0")
        );
        assert_eq!(hard(json!({"quotas": {"maxApiKeys": -1}})), json!({"count/jobs.crofter.io": "1055"}));
    }

    #[test]
    fn the_children_of_a_tenant() {
        insta::assert_json_snapshot!(children(json!({"plan": "basic", "access": [
            {"kind": "User", "name": "ann", "role": "admin"},
            {"kind": "User", "name": "ann", "role": "admin"},
            {"kind": "Group", "name": "staff", "role": "viewer"},
            {"kind": "ServiceAccount", "name": "ci", "namespace": "build", "role": "admin"},
        ]})));
    }

    #[test]
    fn what_is_unlimited_has_no_entry_and_none_is_zero() {
        let quotas = json!({"maxJobs": -1, "maxCpuCores": -1, "maxMemoryGb": 0, "maxGpus": 2});
        let built =
            children(json!({"quotas": quotas, "podSecurity": "Baseline", "networkIsolation": "None"}));
        assert_eq!(
            built["quota"]["spec"]["hard"],
            json!({
                "requests.memory": "0G", "requests.nvidia.com/gpu": "2", "requests.storage": "10G",
                "services.loadbalancers": "0", "services.nodeports": "0",
                "count/configmaps": "250", "count/secrets": "250", "persistentvolumeclaims": "250",
            })
        );
        assert_eq!(built["policies"], json!([]));
        let bindings =
            built["bindings"].as_array().unwrap().iter().map(|binding| &binding["roleRef"]["name"]);
        assert_eq!(bindings.collect::<Vec<_>>(), ["crofter:key-secrets", "crofter:key-secrets-read"]);
        assert_eq!(
            built["namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
            json!("baseline")
        );
    }
}
