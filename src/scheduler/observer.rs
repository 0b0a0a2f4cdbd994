//! From objects to the dispatcher's inputs, one by one as they change.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::{
    SchedulerHandle, Sources, WatchEvent,
    foreign_pods::{self, DaemonUsage},
    from_objects::{self, JobPods, PodState},
    times,
};
use crate::{
    api_types::{Job, Tenant},
    domain::{
        admission::{Dispatcher, WorkerInput},
        attempt,
        estimate::JobTimes,
        resources::Resources,
        worker::worker,
    },
    kube_ext::{finalizer, watch::Change},
    names,
};

/// What is known of the objects that were observed, in addition to what the dispatcher knows.
pub(super) struct Observer {
    sources: Sources,
    handle: SchedulerHandle,
    /// Tenants by namespace: name, and the UID of the one whose hourly window was taken over.
    tenants: HashMap<String, (String, String)>,
    /// When tenants change their phase by themselves.
    pub(super) phase_changes: BTreeSet<(Timestamp, String)>,
    /// Jobs by UID.
    jobs: HashMap<Arc<str>, ObjectRef<Job>>,
    pods: JobPods,
    daemons: DaemonUsage,
    /// Whether all caches were synced.
    ready: bool,
}

impl Observer {
    /// One that has observed nothing yet, for the dispatcher of `handle`.
    pub(super) fn new(sources: Sources, handle: SchedulerHandle) -> Self {
        Self {
            sources,
            handle,
            tenants: HashMap::new(),
            phase_changes: BTreeSet::new(),
            jobs: HashMap::new(),
            pods: JobPods::default(),
            daemons: DaemonUsage::default(),
            ready: false,
        }
    }

    /// Whether all caches were synced.
    pub(super) fn is_ready(&self) -> bool {
        self.ready
    }

    /// A job, by UID, while it exists.
    pub(super) fn job(&self, uid: &str) -> Option<&ObjectRef<Job>> {
        self.jobs.get(uid)
    }

    /// The name of the tenant of a namespace.
    pub(super) fn tenant(&self, namespace: &str) -> Option<&str> {
        self.tenants.get(namespace).map(|(name, _)| name.as_str())
    }

    /// When the next tenant changes its phase by itself.
    pub(super) fn next_phase_change(&self) -> Option<Timestamp> {
        self.phase_changes.first().map(|(at, _)| *at)
    }

    /// Lets tenants change their phases that are due.
    pub(super) fn apply_phase_changes(&mut self, now: Timestamp) {
        let mut changed = Vec::new();
        while let Some((_, tenant)) = self.phase_changes.first().filter(|(at, _)| *at <= now).cloned() {
            self.phase_changes.pop_first();
            let tenant = self.sources.caches.tenants.get(&ObjectRef::new(&tenant));
            changed.extend(tenant.map(|tenant| WatchEvent::Tenant(Change::Applied(tenant))));
        }
        self.apply(changed);
    }

    /// Gives the changes of a batch to the dispatcher.
    pub(super) fn apply(&mut self, batch: Vec<WatchEvent>) {
        let handle = self.handle.clone();
        let reading = self.sources.clock.read();
        let now = reading.wall;
        handle.with(|dispatcher| {
            dispatcher.tick(reading);
            for event in batch {
                match event {
                    WatchEvent::Tenant(Change::Applied(tenant)) => self.put_tenant(dispatcher, &tenant, now),
                    WatchEvent::Tenant(Change::Deleted(tenant)) => self.remove_tenant(dispatcher, &tenant),
                    WatchEvent::Job(Change::Applied(job)) => self.put_job(dispatcher, &job),
                    WatchEvent::Job(Change::Deleted(job)) => self.remove_job(dispatcher, &job),
                    WatchEvent::Pod(Change::Applied(pod)) => self.put_pod(dispatcher, &pod),
                    WatchEvent::Pod(Change::Deleted(pod)) => self.remove_pod(dispatcher, &pod),
                    WatchEvent::Node(Change::Applied(node)) => self.put_node(dispatcher, &node),
                    WatchEvent::Node(Change::Deleted(node)) => dispatcher.set_worker(&node.name_any(), None),
                    WatchEvent::Other(Change::Applied(pod)) | WatchEvent::Foreign(Change::Applied(pod)) => {
                        self.put_foreign_pod(dispatcher, &pod, true);
                    }
                    WatchEvent::Other(Change::Deleted(pod)) | WatchEvent::Foreign(Change::Deleted(pod)) => {
                        self.put_foreign_pod(dispatcher, &pod, false);
                    }
                    // An object that can't be read counts as it was last.
                    WatchEvent::Tenant(Change::Invalid(_) | Change::Synced)
                    | WatchEvent::Job(Change::Invalid(_) | Change::Synced)
                    | WatchEvent::Pod(Change::Invalid(_) | Change::Synced)
                    | WatchEvent::Node(Change::Invalid(_) | Change::Synced)
                    | WatchEvent::Other(Change::Invalid(_) | Change::Synced)
                    | WatchEvent::Foreign(Change::Invalid(_) | Change::Synced) => (),
                }
            }
        });
    }

    fn put_tenant(&mut self, dispatcher: &mut Dispatcher, tenant: &Tenant, now: Timestamp) {
        let (name, uid) = (tenant.name_any(), tenant.uid().unwrap_or_default());
        let Some(namespace) = tenant.status.as_ref().and_then(|status| status.namespace.clone()) else {
            // It has none, or not any more.
            return self.remove_tenant(dispatcher, tenant);
        };
        let (input, next_change) = from_objects::tenant(tenant, &self.sources.plans.borrow(), now);
        self.phase_changes.retain(|(_, of)| *of != name);
        self.phase_changes.extend(next_change.map(|at| (at, name.clone())));
        let registered = self.tenants.insert(namespace.clone(), (name, uid.clone()));
        if registered.is_none_or(|(_, registered)| registered != uid) {
            let stored = tenant.status.as_ref().and_then(|status| status.job_window.as_ref());
            stored.into_iter().for_each(|window| dispatcher.restore_window(&namespace, window));
        }
        dispatcher.set_tenant(&namespace, Some(input));
    }

    fn remove_tenant(&mut self, dispatcher: &mut Dispatcher, tenant: &Tenant) {
        let (name, uid) = (tenant.name_any(), tenant.uid().unwrap_or_default());
        self.phase_changes.retain(|(_, of)| *of != name);
        // A new tenant of that name may exist already.
        let deleted: Vec<String> = self
            .tenants
            .iter()
            .filter(|(_, registered)| **registered == (name.clone(), uid.clone()))
            .map(|(namespace, _)| namespace.clone())
            .collect();
        for namespace in deleted {
            self.tenants.remove(&namespace);
            self.handle.outlook().forget(&namespace);
            dispatcher.set_tenant(&namespace, None);
        }
    }

    fn put_job(&mut self, dispatcher: &mut Dispatcher, job: &Job) {
        let asked = |job: &Job| Resources::of_job(&job.spec, &self.sources.scenarios.borrow());
        if let Some(input) = from_objects::job(job, &self.pods, asked) {
            self.jobs.insert(Arc::clone(&input.uid), ObjectRef::from_obj(job));
            let scenarios = self.sources.scenarios.borrow();
            times::update(&mut self.handle.outlook(), job, &input, &self.pods, &scenarios);
            dispatcher.set_job(input);
        }
    }

    fn remove_job(&mut self, dispatcher: &mut Dispatcher, job: &Job) {
        let uid = job.uid().unwrap_or_default();
        self.jobs.remove(uid.as_str());
        if self.ready {
            return self.put_orphan(dispatcher, &uid);
        }
        // Its pod, where there is one, counts from the beginning on.
        self.handle.outlook().remove(&uid);
        dispatcher.remove_job(&uid);
    }

    /// A job without an object: its pod counts until it has ended.
    fn put_orphan(&self, dispatcher: &mut Dispatcher, job_uid: &str) {
        let mut outlook = self.handle.outlook();
        match self.pods.orphan(job_uid) {
            Some(input) => {
                let pod = self.pods.live(&input.namespace, job_uid).cloned();
                outlook.set(&input, JobTimes { pod, ..JobTimes::default() });
                dispatcher.set_job(input);
            }
            None => {
                outlook.remove(job_uid);
                dispatcher.remove_job(job_uid);
            }
        }
    }

    fn put_pod(&mut self, dispatcher: &mut Dispatcher, pod: &Pod) {
        let (Some(uid), Some(namespace)) = (pod.uid(), pod.namespace()) else { return };
        let Some((job_uid, state)) = PodState::of(pod, &self.sources.gpu_resource) else { return };
        let uid: Arc<str> = uid.into();
        dispatcher.set_pod(&uid, state.usage_on_node());
        if let Some(charge) = attempt::charge_id(pod) {
            if state.held {
                dispatcher.charge(&namespace, &charge, state.created);
            } else {
                dispatcher.finalizer_removed(&namespace, &charge);
            }
        }
        if self.pods.put(&job_uid, &uid, state) {
            self.update_job_of(dispatcher, pod, &job_uid);
        }
    }

    fn remove_pod(&mut self, dispatcher: &mut Dispatcher, pod: &Pod) {
        let (Some(uid), Some(namespace)) = (pod.uid(), pod.namespace()) else { return };
        let Some((job_uid, _)) = PodState::of(pod, &self.sources.gpu_resource) else { return };
        dispatcher.set_pod(&uid.as_str().into(), None);
        if let Some(charge) = attempt::charge_id(pod) {
            dispatcher.finalizer_removed(&namespace, &charge);
        }
        self.pods.remove(&job_uid, &uid);
        self.update_job_of(dispatcher, pod, &job_uid);
    }

    fn update_job_of(&mut self, dispatcher: &mut Dispatcher, pod: &Pod, job_uid: &str) {
        let job = attempt::owner(pod).and_then(|owner| self.sources.caches.jobs.get(&owner));
        let is_observed = self.ready || self.jobs.contains_key(job_uid);
        match job.filter(|job| is_observed && job.uid().as_deref() == Some(job_uid)) {
            Some(job) => self.put_job(dispatcher, &job),
            // Before all caches are synced, the watch may not have delivered the job yet.
            None if self.ready && !self.jobs.contains_key(job_uid) => self.put_orphan(dispatcher, job_uid),
            None => (),
        }
    }

    fn put_node(&self, dispatcher: &mut Dispatcher, node: &Node) {
        let input = worker(node, &self.sources.gpu_resource).map(|worker| WorkerInput {
            capacity: worker.allocatable - self.daemons.on(&worker.name),
            open: worker.ready,
            group: worker.group,
        });
        dispatcher.set_worker(&node.name_any(), input);
    }

    fn put_foreign_pod(&mut self, dispatcher: &mut Dispatcher, pod: &Pod, exists: bool) {
        let Some(uid) = pod.uid().map(Arc::<str>::from) else { return };
        let usage = foreign_pods::usage_on_node(pod, &self.sources.gpu_resource).filter(|_| exists);
        if foreign_pods::is_daemon(pod) {
            let nodes = self.daemons.set(&uid, usage);
            for node in nodes.into_iter().filter(|_| self.ready) {
                if let Some(node) = self.sources.caches.nodes.get(&ObjectRef::new(&node)) {
                    self.put_node(dispatcher, &node);
                }
            }
        } else {
            dispatcher.set_pod(&uid, usage.as_ref().map(|(node, used)| (node.as_str(), *used)));
        }
    }

    /// The scenarios have changed, and so may what jobs ask for.
    pub(super) fn requeue_all_jobs(&mut self) {
        let jobs = self.sources.caches.jobs.state_filter(|job| job.spec.scenario.is_some());
        self.apply(jobs.into_iter().map(|job| WatchEvent::Job(Change::Applied(job))).collect());
    }

    /// The plans have changed.
    pub(super) fn requeue_all_tenants(&mut self) {
        let tenants = self.sources.caches.tenants.state();
        self.apply(tenants.into_iter().map(|tenant| WatchEvent::Tenant(Change::Applied(tenant))).collect());
    }

    /// All caches are synced: what was not observed by now does not exist.
    pub(super) fn begin(&mut self) {
        self.ready = true;
        let held: BTreeSet<String> = self
            .sources
            .caches
            .pods
            .state()
            .iter()
            .filter(|pod| finalizer::has(&***pod, names::FINALIZER_ACCOUNTED))
            .filter_map(|pod| attempt::charge_id(pod).map(Cow::into_owned))
            .collect();
        let handle = self.handle.clone();
        handle.with(|dispatcher| {
            dispatcher.retain_settling(|charge| held.contains(charge));
            // Of each only now all pods of DaemonSets are known.
            let nodes = self.sources.caches.nodes.state();
            nodes.iter().for_each(|node| self.put_node(dispatcher, node));
            let orphans = self.pods.jobs().filter(|uid| !self.jobs.contains_key(*uid));
            orphans.for_each(|uid| self.put_orphan(dispatcher, uid));
        });
    }
}
