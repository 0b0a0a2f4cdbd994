//! Third step: the children that a tenant should have. Pure; equal input gives equal output.
//!
//! Names are fixed, so that every child can be found, applied and deleted without remembering it.

use std::collections::BTreeMap;

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

use super::{
    network,
    validate::{Owner, Subject, Validated},
};
use crate::{
    api_types::{
        plan::{EffectiveQuotas, Limit},
        tenant::{AccessRole, PodSecurity},
    },
    names,
};

/// Name of the ResourceQuota and of the LimitRange.
pub(super) const NAME: &str = "crofter";
/// Pod Security Standards as of this version: an upgrade of the cluster does not tighten them under running tenants.
const POD_SECURITY_VERSION: &str = "v1.34";
/// Requests of a container that names none: those of a Job that names none.
const DEFAULT_REQUESTS: [(&str, &str); 2] = [("cpu", "1"), ("memory", "512Mi")];

/// Everything that a tenant owns.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Children {
    pub(super) namespace: Namespace,
    pub(super) quota: ResourceQuota,
    pub(super) limits: LimitRange,
    pub(super) policies: Vec<NetworkPolicy>,
    pub(super) account: ServiceAccount,
    pub(super) bindings: Vec<RoleBinding>,
}

/// Builds the children of a tenant.
pub(super) fn build(tenant: &Validated) -> Children {
    let owner = &tenant.owner;
    Children {
        namespace: namespace(owner, tenant.pod_security),
        quota: quota(owner, &tenant.quotas, &tenant.gpu_resource),
        limits: limits(owner),
        policies: network::policies(owner, tenant.isolation),
        account: account(owner),
        bindings: tenant.access.iter().map(|(role, who)| binding(owner, *role, who)).collect(),
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

/// The plan's own numbers, so that `kubectl describe quota` reads like the plan; what is unlimited has no entry.
///
/// Job objects are not counted here: Kubernetes' quota controller learns of a new kind only every 30 s, does not look at
/// the quotas that already name it before its next full round (5 min), and until then the API server refuses every
/// create with "status unknown for quota". A cluster's first tenants would not take a job for minutes.
fn quota(owner: &Owner, quotas: &EffectiveQuotas, gpu_resource: &str) -> ResourceQuota {
    let number = |value: i64| Limit::from_quota(value).at_most().map(|n| n.to_string());
    let gigabytes = |value: i64| Limit::from_quota(value).at_most().map(|n| format!("{n}G"));
    let hard = [
        ("requests.cpu".to_owned(), number(quotas.max_cpu_cores)),
        ("requests.memory".to_owned(), gigabytes(quotas.max_memory_gb)),
        (format!("requests.{gpu_resource}"), number(quotas.max_gpus)),
        ("requests.storage".to_owned(), gigabytes(quotas.max_storage_gb)),
        ("pods".to_owned(), number(quotas.max_jobs)),
        ("services.nodeports".to_owned(), Some("0".to_owned())),
        ("services.loadbalancers".to_owned(), Some("0".to_owned())),
    ];
    let hard = hard.into_iter().filter_map(|(key, value)| Some((key, Quantity(value?)))).collect();
    ResourceQuota {
        metadata: metadata(owner, NAME),
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

fn binding<'a>(owner: &Owner, role: AccessRole, who: impl IntoIterator<Item = &'a Subject>) -> RoleBinding {
    const RBAC: &str = "rbac.authorization.k8s.io";
    let role: &str = role.into();
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
        metadata: metadata(owner, format!("crofter-{role}")),
        role_ref: RoleRef {
            api_group: RBAC.to_owned(),
            kind: "ClusterRole".to_owned(),
            name: format!("crofter:tenant-{role}"),
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
        let settings =
            Settings { namespace_prefix: "tenant-".into(), gpu_resource: names::DEFAULT_GPU_RESOURCE.into() };
        let object = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme", "uid": "u-1"},
            "spec": spec,
        });
        let tenant: Tenant = serde_json::from_value(object).unwrap();
        let valid = validate(&tenant, &Plans::built_in().unwrap(), &settings).unwrap();
        serde_json::to_value(build(&valid)).unwrap()
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
            })
        );
        assert_eq!(built["policies"], json!([]));
        assert_eq!(built["bindings"], json!([]));
        assert_eq!(
            built["namespace"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"],
            json!("baseline")
        );
    }
}
