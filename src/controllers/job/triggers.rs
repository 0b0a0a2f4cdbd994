//! Which jobs are reconciled when another object has changed.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use futures::{Stream, StreamExt, stream};
use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};

use crate::{
    api_types::{Job, JobPhase, Tenant},
    domain::job_state::is_terminal,
};

/// Tenants whose jobs are looked up at once among all jobs. At a start each of them is new.
const MAX_BATCH: usize = 1024;

/// The jobs that have not ended of each tenant whose spec or phase has changed: they may have to stop, or have other
/// time limits. What else its status says (usage, every few seconds) concerns no job.
pub(super) fn of_changed_tenants(
    changes: impl Stream<Item = Arc<Tenant>> + Send + 'static,
    tenants: Store<Tenant>,
    jobs: Store<Job>,
) -> impl Stream<Item = ObjectRef<Job>> + Send + 'static {
    let mut seen = HashMap::new();
    let mut changed = move |tenant: Arc<Tenant>| {
        let (name, status) = (tenant.name_any(), tenant.status.as_ref());
        let now = (tenant.uid(), tenant.metadata.generation, status.and_then(|s| s.phase));
        let exists = tenants.get(&ObjectRef::from_obj(&*tenant)).is_some();
        let before = if exists { seen.insert(name, now.clone()) } else { seen.remove(&name) };
        status.and_then(|s| s.namespace.clone()).filter(|_| !exists || before != Some(now))
    };
    changes.ready_chunks(MAX_BATCH).flat_map(move |changes| {
        let namespaces: HashSet<String> = changes.into_iter().filter_map(&mut changed).collect();
        let concerned = match namespaces.is_empty() {
            true => Vec::new(),
            false => jobs.state_filter(|job| !is_terminal(phase(job)) && is_in(job, &namespaces)),
        };
        stream::iter(concerned.into_iter().map(|job| ObjectRef::from_obj(&*job)))
    })
}

fn is_in(job: &Job, namespaces: &HashSet<String>) -> bool {
    job.metadata.namespace.as_ref().is_some_and(|namespace| namespaces.contains(namespace))
}

fn phase(job: &Job) -> JobPhase {
    job.status.as_ref().map_or(JobPhase::Queued, |status| status.phase)
}
