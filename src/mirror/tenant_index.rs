//! Whose a job or a node is, among the tenants that have a row.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;
use kube::ResourceExt;
use uuid::Uuid;

use super::rows;
use crate::{api_types::Job, db::TenantRow};

/// The tenants that have a row.
#[derive(Debug, Default)]
pub(super) struct TenantIndex {
    by_uid: HashMap<Uuid, Known>,
    by_namespace: HashMap<String, HashSet<Uuid>>,
    by_name: HashMap<String, Uuid>,
}

#[derive(Debug)]
struct Known {
    name: String,
    namespace: Option<String>,
    created_at: Timestamp,
}

impl TenantIndex {
    /// This tenant has a row.
    pub(super) fn learn(&mut self, row: &TenantRow) {
        self.forget(row.uid);
        if let Some(namespace) = &row.namespace {
            self.by_namespace.entry(namespace.clone()).or_default().insert(row.uid);
        }
        if row.deleted_at.is_none() {
            self.by_name.insert(row.name.clone(), row.uid);
        }
        let (name, namespace) = (row.name.clone(), row.namespace.clone());
        self.by_uid.insert(row.uid, Known { name, namespace, created_at: row.created_at });
    }

    /// This tenant is deleted, and so are its jobs.
    pub(super) fn forget(&mut self, uid: Uuid) {
        let Some(known) = self.by_uid.remove(&uid) else { return };
        if let Some(namespace) = known.namespace
            && let Some(uids) = self.by_namespace.get_mut(&namespace)
        {
            uids.remove(&uid);
            if uids.is_empty() {
                self.by_namespace.remove(&namespace);
            }
        }
        if self.by_name.get(&known.name) == Some(&uid) {
            self.by_name.remove(&known.name);
        }
    }

    /// The tenant of a job made at `created_at` in `namespace`: of several of one name, one after the other, the last
    /// that was there by then. A tenant inherits nothing from an earlier one.
    pub(super) fn of_job(&self, namespace: &str, created_at: Timestamp) -> Option<Uuid> {
        let uids = self.by_namespace.get(namespace)?;
        let candidates = uids.iter().filter_map(|uid| Some((self.by_uid.get(uid)?.created_at, *uid)));
        candidates.filter(|(made, _)| *made <= created_at).max().map(|(_, uid)| uid)
    }

    /// Whether a pod may be charged to the tenant with that UID: what is known of it, and does not contradict the pod.
    pub(super) fn accepts(&self, uid: Uuid, name: &str, namespace: &str) -> bool {
        self.by_uid.get(&uid).is_none_or(|known| {
            known.name == name && known.namespace.as_deref().is_none_or(|known| known == namespace)
        })
    }

    /// The tenant of a job.
    pub(super) fn of(&self, job: &Job) -> Option<Uuid> {
        self.of_job(&job.namespace()?, rows::created(job)?)
    }

    /// The name of a tenant that has a row.
    pub(super) fn name(&self, uid: Uuid) -> Option<&str> {
        self.by_uid.get(&uid).map(|known| known.name.as_str())
    }

    /// The living tenant of this name.
    pub(super) fn named(&self, name: &str) -> Option<Uuid> {
        self.by_name.get(name).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(uid: u128, created: i64, deleted_at: Option<Timestamp>) -> TenantRow {
        TenantRow {
            uid: Uuid::from_u128(uid),
            name: "acme".into(),
            display_name: None,
            namespace: Some("tenant-acme".into()),
            plan: "free".into(),
            status: None,
            quotas: None,
            usage: None,
            metadata: serde_json::Value::Null,
            created_at: at(created),
            expires_at: None,
            deleted_at,
            resource_version: 1,
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_job_belongs_to_the_tenant_of_its_time() {
        let mut tenancy = TenantIndex::default();
        tenancy.learn(&row(1, 100, Some(at(200))));
        tenancy.learn(&row(2, 200, None));
        assert_eq!(tenancy.of_job("tenant-acme", at(150)), Some(Uuid::from_u128(1)));
        assert_eq!(tenancy.of_job("tenant-acme", at(250)), Some(Uuid::from_u128(2)));
        assert_eq!(tenancy.of_job("tenant-acme", at(50)), None);
        assert_eq!(tenancy.of_job("default", at(250)), None);
        assert_eq!(tenancy.named("acme"), Some(Uuid::from_u128(2)));
        let accepts = |uid, name, namespace| tenancy.accepts(Uuid::from_u128(uid), name, namespace);
        assert!(accepts(2, "acme", "tenant-acme") && accepts(9, "deleted", "tenant-deleted"));
        for (name, namespace) in
            [("other", "tenant-other"), ("other", "tenant-acme"), ("acme", "tenant-other")]
        {
            assert!(!accepts(2, name, namespace), "a forged pod: {name} in {namespace}");
        }
        tenancy.forget(Uuid::from_u128(1));
        assert_eq!(tenancy.of_job("tenant-acme", at(150)), None, "inherits nothing");
        assert_eq!(tenancy.named("acme"), Some(Uuid::from_u128(2)));
        tenancy.forget(Uuid::from_u128(2));
        assert_eq!(tenancy.named("acme"), None);
        assert!(tenancy.by_namespace.is_empty());
    }
}
