//! Which pods are Crofter's: the one place that says so.
//!
//! Labels prove nothing: in a namespace of their own anyone may create a pod that carries them. A pod is an attempt of a
//! job only in the namespace that its tenant's name gives, where the admission policy lets only the operator set
//! them, and only under the Job whose UID its label names. Whatever else carries the label `managed-by: crofter` is a
//! foreign pod: it takes room on its node, and says nothing of any job or tenant.

use kube::{Resource, api::ObjectMeta};

use crate::{
    api_types::{Job, Tenant},
    names,
};

/// Which attempt of which job of which tenant a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JobPod<'a> {
    /// Namespace of pod, Job and tenant.
    pub namespace: &'a str,
    /// Name of the tenant.
    pub tenant: &'a str,
    /// UID of the tenant.
    pub tenant_uid: &'a str,
    /// Name of the Job; `None` for an orphan.
    pub job: Option<&'a str>,
    /// UID of the Job.
    pub job_uid: &'a str,
    /// Number of the attempt, from 1.
    pub attempt: u32,
}

impl<'a> JobPod<'a> {
    /// Reads a pod's metadata; `None` when the pod is not Crofter's.
    ///
    /// A pod whose Job was deleted with `--cascade=orphan` has no controller any more. It stays Crofter's: it ran on the
    /// tenant's account, and what it used is charged.
    #[must_use]
    pub fn of(metadata: &'a ObjectMeta, namespace_prefix: &str) -> Option<Self> {
        let label = |name: &str| metadata.labels.as_ref()?.get(name).map(String::as_str);
        let tenant = label(names::LABEL_TENANT)?;
        let job_uid = label(names::LABEL_JOB_UID).filter(|uid| !uid.is_empty())?;
        let namespace = metadata.namespace.as_deref()?;
        if label(names::LABEL_MANAGED_BY)? != names::MANAGER
            || namespace.strip_prefix(namespace_prefix)? != tenant
        {
            return None;
        }
        let controller = metadata.owner_references.iter().flatten().find(|o| o.controller == Some(true));
        let is_its_job = |owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
            owner.kind == Job::kind(&())
                && owner.api_version.split('/').next() == Some(names::GROUP)
                && owner.uid == job_uid
        };
        if controller.is_some_and(|owner| !is_its_job(owner)) {
            return None;
        }
        Some(Self {
            namespace,
            tenant,
            tenant_uid: label(names::LABEL_TENANT_UID)?,
            job: controller.map(|owner| owner.name.as_str()),
            job_uid,
            attempt: label(names::LABEL_ATTEMPT)?.parse().ok()?,
        })
    }

    /// Whether the pod is an attempt of this job, and not of an earlier or later one of its name.
    #[must_use]
    pub fn is_of_job(&self, job: &Job) -> bool {
        job.metadata.uid.as_deref() == Some(self.job_uid)
            && job.metadata.namespace.as_deref() == Some(self.namespace)
    }

    /// Whether the pod is this tenant's, and not one of an earlier tenant of its name.
    #[must_use]
    pub fn is_of_tenant(&self, tenant: &Tenant) -> bool {
        let namespace = tenant.status.as_ref().and_then(|status| status.namespace.as_deref());
        tenant.metadata.uid.as_deref() == Some(self.tenant_uid) && namespace == Some(self.namespace)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kube_ext::mock;

    fn metadata(changes: &Value) -> ObjectMeta {
        let mut metadata = json!({
            "name": "render-j1-2", "namespace": "tenant-acme",
            "labels": {
                "app.kubernetes.io/managed-by": "crofter", "crofter.io/tenant": "acme", "crofter.io/tenant-uid": "t1",
                "crofter.io/job-uid": "j1", "crofter.io/attempt": "2",
            },
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "ConfigMap", "name": "other", "uid": "c1"},
                {"apiVersion": "crofter.io/v1alpha1", "kind": "Job", "name": "render", "uid": "j1", "controller": true},
            ],
        });
        mock::merge(&mut metadata, changes);
        serde_json::from_value(metadata).unwrap()
    }

    #[test]
    fn a_pod_is_of_the_job_that_owns_it_in_its_tenants_namespace() {
        let found = metadata(&json!({}));
        let expected = JobPod {
            namespace: "tenant-acme",
            tenant: "acme",
            tenant_uid: "t1",
            job: Some("render"),
            job_uid: "j1",
            attempt: 2,
        };
        assert_eq!(JobPod::of(&found, "tenant-"), Some(expected));
        let orphan = metadata(&json!({"ownerReferences": null}));
        assert_eq!(JobPod::of(&orphan, "tenant-"), Some(JobPod { job: None, ..expected }));
    }

    #[test]
    fn a_forged_pod_is_no_job_pod() {
        let owner = |changes: Value| {
            let mut owner = json!({"apiVersion": "crofter.io/v1", "kind": "Job", "name": "render", "uid": "j1", "controller": true});
            mock::merge(&mut owner, &changes);
            json!({"ownerReferences": [owner]})
        };
        assert!(JobPod::of(&metadata(&owner(json!({}))), "tenant-").is_some(), "another version of ours");
        for forged in [
            json!({"namespace": "default"}),
            json!({"namespace": "tenant-acme-2"}),
            json!({"namespace": "acme"}),
            json!({"namespace": null}),
            json!({"labels": {"crofter.io/tenant": "other"}}),
            json!({"labels": {"crofter.io/tenant": null}}),
            json!({"labels": {"crofter.io/tenant-uid": null}}),
            json!({"labels": {"crofter.io/job-uid": "j2"}}),
            json!({"labels": {"crofter.io/job-uid": ""}, "ownerReferences": null}),
            json!({"labels": {"crofter.io/attempt": "first"}}),
            json!({"labels": {"app.kubernetes.io/managed-by": "Helm"}}),
            owner(json!({"uid": "j2"})),
            owner(json!({"kind": "ReplicaSet"})),
            owner(json!({"apiVersion": "batch/v1"})),
        ] {
            assert_eq!(JobPod::of(&metadata(&forged), "tenant-"), None, "{forged}");
        }
    }

    #[test]
    fn a_pod_is_not_of_a_later_job_or_tenant_of_the_same_name() {
        let found = metadata(&json!({}));
        let pod = JobPod::of(&found, "tenant-").unwrap();
        let tenant = |uid: &str, namespace: Value| -> Tenant {
            let status = json!({"namespace": namespace});
            serde_json::from_value(
                json!({"metadata": {"name": "acme", "uid": uid}, "spec": {}, "status": status}),
            )
            .unwrap()
        };
        assert!(pod.is_of_tenant(&tenant("t1", json!("tenant-acme"))));
        assert!(!pod.is_of_tenant(&tenant("t2", json!("tenant-acme"))));
        assert!(!pod.is_of_tenant(&tenant("t1", Value::Null)), "the namespace is not the tenant's");
        let job = |uid: &str, namespace: &str| -> Job {
            let metadata = json!({"name": "render", "uid": uid, "namespace": namespace});
            serde_json::from_value(json!({"metadata": metadata, "spec": {"image": "i"}})).unwrap()
        };
        assert!(pod.is_of_job(&job("j1", "tenant-acme")));
        assert!(!pod.is_of_job(&job("j2", "tenant-acme")) && !pod.is_of_job(&job("j1", "tenant-b")));
    }
}
