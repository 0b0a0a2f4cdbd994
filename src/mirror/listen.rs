//! Receives every change and leaves a mark.

use k8s_openapi::api::core::v1::Pod;
use kube::{Resource, runtime::reflector::ObjectRef};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Changes,
    dirty::{DirtySet, InvalidObjects},
    handle::{Shared, State},
    rows,
};
use crate::kube_ext::watch::Change;

/// Receives until all watches have ended. Never waits for anything else.
pub(super) async fn listen(mut changes: Changes, shared: &Shared, gpu_resource: &str) {
    loop {
        tokio::select! {
            Some(change) = changes.tenants.recv() => shared.record(|state| {
                let synced = take(change, &mut state.dirty.tenants, &mut state.invalid_tenants);
                state.synced.tenants |= synced;
                state.resyncs.tenants |= synced;
            }),
            Some(change) = changes.nodes.recv() => shared.record(|state| {
                let synced = take(change, &mut state.dirty.nodes, &mut state.invalid_nodes);
                state.synced.nodes |= synced;
                state.resyncs.nodes |= synced;
            }),
            Some(change) = changes.jobs.recv() => shared.record(|state| {
                if let Change::Deleted(job) = &change && let Some(uid) = rows::uid(job.as_ref()) {
                    state.job_deleted(uid);
                }
                let synced = take(change, &mut state.dirty.jobs, &mut state.invalid_jobs);
                state.synced.jobs |= synced;
                state.resyncs.jobs |= synced;
            }),
            Some(change) = changes.pods.recv() => shared.record(|state| take_pod(change, state, gpu_resource)),
            else => return,
        }
    }
}

impl Shared {
    fn record(&self, note: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        note(&mut state);
        if !state.dirty.is_empty() {
            state.dirty.waits_since(Instant::now());
        }
        drop(state);
        self.work.notify_one();
    }
}

/// Records a change. Returns whether the cache is synced now.
fn take<K: Resource<DynamicType = ()>>(
    change: Change<K>,
    marks: &mut DirtySet<K>,
    invalid: &mut InvalidObjects,
) -> bool {
    match change {
        Change::Applied(object) => {
            if let Some(uid) = rows::uid(object.as_ref()) {
                invalid.forget(uid);
                marks.changed(uid, object);
            }
        }
        Change::Deleted(object) => {
            if let Some(uid) = rows::uid(object.as_ref()) {
                invalid.forget(uid);
                marks.deleted(uid, object);
            }
        }
        Change::Invalid(object) => {
            if let Some(uid) = object.metadata.uid.as_deref().and_then(|uid| Uuid::parse_str(uid).ok()) {
                invalid.insert(uid);
            }
        }
        Change::Synced => {
            invalid.synced();
            return true;
        }
    }
    false
}

/// Records a pod whose attempt is to be charged. One that is deleted keeps its mark: it ran.
fn take_pod(change: Change<Pod>, state: &mut State, gpu_resource: &str) {
    match change {
        Change::Applied(pod) => {
            let Some(key) = rows::attempt_key(&pod) else { return };
            state.pod_exists(key, ObjectRef::from_obj(pod.as_ref()));
            if !state.is_committed(key)
                && rows::awaits_charge(&pod, gpu_resource)
                && let Some(uid) = rows::uid(pod.as_ref())
            {
                state.dirty.pods.changed(uid, pod);
            }
        }
        Change::Deleted(pod) => {
            if let Some(key) = rows::attempt_key(&pod) {
                state.pod_deleted(key);
            }
        }
        Change::Invalid(_) | Change::Synced => (),
    }
}
