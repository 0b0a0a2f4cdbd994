//! Whether the finalizer of a pod may be removed as far as its tenant is concerned, and which pods wait for that.
//!
//! A job is charged to its tenant's hourly window by its first pod, and by that of each retry, so such a pod is held until
//! Tenant status counts it:
//! as it is *stored*, which the cache of tenants shows, for what is not stored is lost with the process. Pods that have
//! to wait are kept by tenant, and are reconciled again when the tenant has changed. Nothing is counted for a tenant
//! that is being deleted, is deleted, or can't be read (its status can't be written either, and it must be possible to
//! delete it).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};

use crate::{
    api_types::{Tenant, tenant::JobWindow},
    domain::{attempt, tenant_state},
    kube_ext::invalid::InvalidObjects,
    names,
};

/// The hourly windows of all tenants.
pub trait RateWindows: Send + Sync {
    /// Requests that Tenant status counts a charge, by tenant namespace and [`charge_id`](crate::domain::rate_window::charge_id), so that
    /// the finalizer of its pod may be removed; `soon` where a client waits for that. A second request changes nothing.
    fn request_charge(&self, namespace: &str, charge: &str, soon: bool);

    /// Whether what Tenant status has `stored` of the window allows to remove the finalizer of that pod, made at
    /// `created`.
    fn may_remove_finalizer(
        &self,
        namespace: &str,
        stored: Option<&JobWindow>,
        charge: &str,
        created: Timestamp,
        now: Timestamp,
    ) -> bool;
}

/// Tenants as the API server stores them.
#[derive(Clone)]
pub struct Tenants {
    /// All that can be read.
    pub known: Store<Tenant>,
    /// Those that can't.
    pub invalid: InvalidObjects<Tenant>,
}

impl Tenants {
    /// The tenant that a pod's job is charged to, if any.
    pub(super) fn charged(&self, pod: &Pod) -> Option<Arc<Tenant>> {
        let tenant = self.known.get(&ObjectRef::new(pod.labels().get(names::LABEL_TENANT)?))?;
        let namespace = tenant.status.as_ref().and_then(|status| status.namespace.as_ref());
        let same = tenant.uid().as_ref() == pod.labels().get(names::LABEL_TENANT_UID)
            && namespace == pod.metadata.namespace.as_ref();
        (same && self.alive(&tenant)).then_some(tenant)
    }

    fn alive(&self, tenant: &Tenant) -> bool {
        !tenant_state::terminating(tenant) && !self.invalid.contains(tenant)
    }
}

/// A pod that a tenant is charged for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Charge {
    namespace: String,
    id: String,
    created: Timestamp,
}

impl Charge {
    /// The charge of a pod; `None` where its attempt is free.
    pub(super) fn of(pod: &Pod) -> Option<Self> {
        let id = attempt::charge_id(pod)?.into_owned();
        Some(Self { namespace: pod.namespace().unwrap_or_default(), id, created: attempt::created(pod) })
    }

    /// Requests that the tenant's status counts it, soon where a client waits for the pod.
    pub(super) fn request(&self, windows: &dyn RateWindows, soon: bool) {
        windows.request_charge(&self.namespace, &self.id, soon);
    }

    /// Whether the tenant's status counts it, or need not.
    pub(super) fn is_stored(&self, tenant: &Tenant, windows: &dyn RateWindows, now: Timestamp) -> bool {
        let stored = tenant.status.as_ref().and_then(|status| status.job_window.as_ref());
        windows.may_remove_finalizer(&self.namespace, stored, &self.id, self.created, now)
    }
}

/// What a pod waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    /// Its time, or the end of its tenant.
    Time,
    /// That its charge is stored.
    Stored(Charge),
}

/// The pods that wait, by name of tenant.
#[derive(Debug, Default)]
pub struct Waiting(Mutex<HashMap<String, HashMap<ObjectRef<Pod>, Wait>>>);

impl Waiting {
    fn all(&self) -> MutexGuard<'_, HashMap<String, HashMap<ObjectRef<Pod>, Wait>>> {
        // Each method leaves the map whole, so a poisoned lock holds nothing broken.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pod waits. To be called *before* the tenant is read, so that no change of it is missed.
    pub(super) fn add(&self, pod: &Pod, wait: Wait) {
        let Some(tenant) = pod.labels().get(names::LABEL_TENANT) else { return };
        self.all().entry(tenant.clone()).or_default().insert(ObjectRef::from_obj(pod), wait);
    }

    /// A pod is reconciled: it waits no more, or will be added again.
    pub(super) fn remove(&self, pod: &Pod) {
        let Some(tenant) = pod.labels().get(names::LABEL_TENANT) else { return };
        let mut all = self.all();
        if let Some(pods) = all.get_mut(tenant) {
            pods.remove(&ObjectRef::from_obj(pod));
            if pods.is_empty() {
                all.remove(tenant);
            }
        }
    }

    /// A tenant has changed: the pods that wait for it no longer. Those that do not exist any more are forgotten.
    pub(super) fn freed(
        &self,
        tenant: &Tenant,
        tenants: &Tenants,
        windows: &dyn RateWindows,
        pods: &Store<Pod>,
        now: Timestamp,
    ) -> Vec<ObjectRef<Pod>> {
        let name = tenant.name_any();
        let mut all = self.all();
        let Some(waiting) = all.get_mut(&name) else { return Vec::new() };
        let mut freed = Vec::new();
        waiting.retain(|pod, wait| {
            let Some(object) = pods.get(pod) else { return false };
            let stays = tenants.charged(&object).is_some_and(|tenant| match wait {
                Wait::Time => true,
                Wait::Stored(charge) => !charge.is_stored(&tenant, windows, now),
            });
            if !stays {
                freed.push(pod.clone());
            }
            stays
        });
        if waiting.is_empty() {
            all.remove(&name);
        }
        freed
    }
}
