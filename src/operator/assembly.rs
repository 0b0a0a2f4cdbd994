//! The parts of the operator, and what each is given. Every part subscribes before the watches run. Those of the leader
//! begin once this process leads, and find all that exists then.

mod common;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, Resource, ResourceExt,
    runtime::{reflector::ObjectRef, watcher},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{Parts, Stop};
use crate::{
    api_types::{Job, Plans, Scenarios, Tenant, TenantApiKey, tenant::JobWindow},
    audit::retention,
    clock::Clock,
    config::Settings,
    controllers::{api_key, attempt, job, node, tenant},
    domain::{job_pod::JobPod, worker},
    http::jobs_index::JobsIndex,
    keys::Keys,
    kube_ext::{
        courtesy::CourtesyBudget,
        events::{self, Events},
        guard::Guarded,
        invalid::{self, InvalidObjects},
        lease::{Acquired, Leadership},
        mutation_cache::MutationCache,
        pulse::Watches,
        streams::{DistinctReceiver, distinct},
        watch::Watch,
    },
    metrics::Metrics,
    mirror::{self, MirrorHandle},
    names,
    random::Random,
    scheduler::{self, Caches, Changes, RequeueSenders, Scheduler, SchedulerHandle, Sources},
};

/// The clients of the API server.
pub(super) struct Clients {
    /// Of what runs on every replica.
    pub(super) any: Client,
    /// Of what runs on the leader: it writes only while this process leads.
    pub(super) leader: Client,
    /// Of the leader election.
    pub(super) election: Client,
    /// With the time of day of what they are answered.
    pub(super) clock: Clock,
}

/// What administrators write in files, and may replace at any time.
pub(super) struct Tables {
    pub(super) plans: watch::Receiver<Arc<Plans>>,
    pub(super) scenarios: watch::Receiver<Arc<Scenarios>>,
}

/// The names of the objects that the scheduler requeues, for their controllers.
pub(super) struct RequeueReceivers {
    pub(super) jobs: DistinctReceiver<ObjectRef<Job>>,
    pub(super) tenants: DistinctReceiver<ObjectRef<Tenant>>,
}

/// The operator while it is put together: every part subscribes before the watches run.
pub(super) struct Assembly {
    clients: Clients,
    leadership: Leadership,
    /// When the parts of the leader begin.
    begins: Acquired,
    settings: Settings,
    clock: Clock,
    metrics: Metrics,
    watches: Watches,
    events: Events,
    /// Shared by all writers of statuses.
    courtesy: CourtesyBudget,
    /// What the scheduler reads.
    sources: Sources,
    scheduler: SchedulerHandle,
    tenants: Watch<Tenant>,
    jobs: Watch<Job>,
    keys: Watch<TenantApiKey>,
    /// Pods of jobs; those that only say so are foreign.
    pods: Watch<Pod>,
    nodes: Watch<Node>,
    /// Pods of others.
    others: Watch<Pod>,
    index: JobsIndex,
    parts: Parts,
    /// Whether the scheduler runs here.
    schedules: bool,
    stop: Stop,
}

impl Assembly {
    pub(super) fn new(
        clients: Clients,
        leadership: Leadership,
        settings: Settings,
        elastic_pools: &[String],
        tables: Tables,
        stop: Stop,
    ) -> Self {
        let Tables { plans, scenarios } = tables;
        let client = clients.any.clone();
        let metrics = Metrics::default();
        let watches = Watches::new(metrics.clone());
        let tenants = everything(&client).known_as("tenants", &watches);
        let jobs = everything(&client).with_prepare(job::prepare).known_as("jobs", &watches);
        let keys = everything(&client).known_as("keys", &watches);
        let nodes = everything(&client).with_prepare(node::prepare).known_as("nodes", &watches);
        let ours =
            watcher::Config::default().labels(&format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGER));
        let prefix = settings.namespace_prefix.clone();
        let is_own = move |pod: &Pod| JobPod::of(&pod.metadata, &prefix).is_some();
        let pods = Watch::new(Api::all(client.clone()), ours)
            .with_prepare(attempt::prepare)
            .with_foreign(is_own, scheduler::prepare_foreign_pods)
            .known_as("pods", &watches);
        let theirs =
            watcher::Config::default().labels(&format!("{}!={}", names::LABEL_MANAGED_BY, names::MANAGER));
        let others = Watch::new(Api::all(client.clone()), theirs)
            .with_prepare(scheduler::prepare_foreign_pods)
            .known_as("other_pods", &watches);
        let caches = Caches {
            tenants: tenants.store(),
            jobs: jobs.store(),
            pods: pods.store(),
            nodes: nodes.store(),
            others: others.store(),
            foreign: pods.foreign_store(),
        };
        let sources = Sources {
            caches,
            plans,
            scenarios,
            gpu_resource: settings.gpu_resource.clone(),
            elastic: elastic_pools.iter().map(|pool| names::pool_group(pool)).collect(),
            clock: clients.clock.clone(),
        };
        let mut parts = Parts::default();
        let (events, writing) = events::start(clients.leader.clone(), metrics.clone());
        parts.essential("events", writing);
        Self {
            events,
            clock: clients.clock.clone(),
            clients,
            begins: leadership.acquired(),
            leadership,
            settings,
            metrics,
            watches,
            courtesy: CourtesyBudget::default(),
            scheduler: SchedulerHandle::of_sources(sources.clone()),
            sources,
            tenants,
            jobs,
            keys,
            pods,
            nodes,
            others,
            index: JobsIndex::default(),
            parts,
            schedules: false,
            stop,
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.clients.any
    }

    pub(super) fn election_client(&self) -> Client {
        self.clients.election.clone()
    }

    pub(super) fn leadership(&self) -> &Leadership {
        &self.leadership
    }

    pub(super) fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    pub(super) fn events(&self) -> Events {
        self.events.clone()
    }

    /// Runs a part of every replica that does not end by itself, such as what follows a file.
    pub(super) fn follow(
        &mut self,
        name: &'static str,
        following: impl Future<Output = ()> + Send + 'static,
    ) {
        self.parts.essential(name, following);
    }

    /// Runs a part of the leader once this process leads; one that does not when it stops ends.
    fn led(
        &self,
        part: impl Future<Output = ()> + Send + 'static,
    ) -> impl Future<Output = ()> + Send + 'static {
        let (begins, stop) = (self.begins.clone(), self.stop.clone());
        async move {
            tokio::select! {
                biased;
                () = stop => return,
                () = begins => (),
            }
            part.await;
        }
    }

    /// The mirror, and the deletion of entries of the audit log that are older than `audit_retention`.
    pub(super) fn mirror(&mut self, config: mirror::Config, audit_retention: Duration) -> MirrorHandle {
        let Caches { tenants, jobs, pods, nodes, .. } = self.sources.caches.clone();
        let stores = mirror::Stores { tenants, nodes, jobs, pods };
        let changes = mirror::Changes {
            tenants: self.tenants.subscribe_held(&self.begins),
            nodes: self.nodes.subscribe_held(&self.begins),
            jobs: self.jobs.subscribe_held(&self.begins),
            pods: self.pods.subscribe_held(&self.begins),
        };
        let leadership = self.leadership.clone();
        let pool = config.pool.clone().written_while(move || leadership.leads());
        let purging = retention::run(pool.clone(), config.cluster_uid, audit_retention, self.clock.clone());
        self.parts.essential("audit retention", self.begins.clone().then(|()| purging));
        let config = mirror::Config { metrics: self.metrics.clone(), pool, ..config };
        let (handle, writing) =
            mirror::start(config, self.clients.leader.clone(), stores, changes, self.clock.clone());
        let begins = self.begins.clone();
        self.parts.essential("mirror", async move {
            begins.await;
            if let Err(error) = writing.await {
                tracing::error!(%error, "the mirror has ended");
            }
        });
        handle
    }

    pub(super) fn scheduler(&mut self) -> RequeueReceivers {
        self.schedules = true;
        let (requeued_jobs, jobs) = distinct();
        let (requeued_tenants, tenants) = distinct();
        let outputs = scheduler::Outputs {
            requeue: RequeueSenders { jobs: requeued_jobs, tenants: requeued_tenants },
            courtesy: self.courtesy.clone(),
            metrics: self.metrics.clone(),
        };
        let scheduler = Scheduler::new(self.sources.clone(), self.scheduler.clone(), outputs);
        let changes = Changes {
            tenants: self.tenants.subscribe_held(&self.begins),
            jobs: self.jobs.subscribe_held(&self.begins),
            pods: self.pods.subscribe_held(&self.begins),
            nodes: self.nodes.subscribe_held(&self.begins),
            others: self.others.subscribe_held(&self.begins),
            foreign: self.pods.subscribe_foreign_held(&self.begins),
        };
        self.parts.essential("scheduler", self.begins.clone().then(|()| scheduler.run(changes)));
        RequeueReceivers { jobs, tenants }
    }

    /// Returns which tenants can't be read.
    pub(super) fn tenants(
        &mut self,
        requeued: DistinctReceiver<ObjectRef<Tenant>>,
        namespace: String,
    ) -> InvalidObjects<Tenant> {
        let scheduler = self.scheduler.clone();
        let (context, watches) =
            tenant::prepare(tenant::Dependencies {
                client: self.clients.leader.clone(),
                clock: self.clock.clone(),
                events: self.events.clone(),
                courtesy: self.courtesy.clone(),
                settings: self.settings.clone(),
                namespace,
                plans: self.sources.plans.clone(),
                jobs: self.sources.caches.jobs.clone(),
                keys: self.keys.store(),
                pods: self.sources.caches.pods.clone(),
                nodes: self.sources.caches.nodes.clone(),
                snapshot: Arc::new(move |namespace| {
                    scheduler
                        .usage_snapshot(namespace)
                        .map(|(usage, window, awaited)| tenant::UsageSnapshot { usage, window, awaited })
                }),
                workers: self.workers(),
                watches: self.watches.clone(),
                metrics: self.metrics.clone(),
            });
        let inputs = tenant::Inputs {
            tenants: self.sources.caches.tenants.clone(),
            tenant_changes: self.tenants.subscribe_held(&self.begins),
            pods: self.pods.subscribe_objects_held(&self.begins).boxed(),
            nodes: self.nodes.subscribe_objects_held(&self.begins).boxed(),
            requeued: requeued.into_stream().boxed(),
        };
        let invalid = context.invalid();
        let run = self.led(tenant::run(context, watches, inputs, self.stop.clone()));
        self.parts.controller("tenant controller", run);
        invalid
    }

    /// Creates the tenant `default` where one is wanted and was not created before, once this process leads.
    pub(super) fn default_tenant(&mut self, wanted: Option<Tenant>, namespace: String) {
        if let Some(tenant) = wanted {
            let ensure = tenant::default_tenant::ensure(self.clients.leader.clone(), namespace, tenant);
            self.parts.essential("default tenant", self.begins.clone().then(|()| ensure.map(drop)));
        }
    }

    /// The state of a tenant's workers, for its status.
    fn workers(&self) -> tenant::WorkersOf {
        let (nodes, plans) = (self.sources.caches.nodes.clone(), self.sources.plans.clone());
        let gpu_resource = self.settings.gpu_resource.clone();
        Arc::new(move |tenant: &Tenant| {
            let all = nodes.state();
            let quotas =
                plans.borrow().get(&tenant.spec.plan).map(|plan| plan.effective(&tenant.spec.quotas));
            tenant::WorkersView {
                admitted: i64::try_from(worker::count(&tenant.name_any(), &all)).unwrap_or(i64::MAX),
                refused: quotas.and_then(|quotas| node::refused(tenant, &quotas, &all, &gpu_resource)),
            }
        })
    }

    pub(super) fn nodes(&mut self) {
        let Caches { tenants, pods, nodes, .. } = self.sources.caches.clone();
        let (client, settings) = (self.clients.leader.clone(), self.settings.clone());
        let caches = node::Caches { nodes, tenants, pods };
        let (events, plans) = (self.events.clone(), self.sources.plans.clone());
        let context =
            Arc::new(node::Context::new(client, events, caches, plans, settings, self.metrics.clone()));
        let of_nodes = self.nodes.subscribe_objects_held(&self.begins);
        let of_tenants = self.tenants.subscribe_objects_held(&self.begins);
        let of_pods = self.pods.subscribe_objects_held(&self.begins);
        let run = node::run(context, of_nodes, of_tenants, of_pods, self.stop.clone());
        self.parts.controller("node controller", self.led(run));
    }

    /// Returns which jobs can't be read.
    pub(super) fn jobs(
        &mut self,
        requeued: DistinctReceiver<ObjectRef<Job>>,
        mirror: Option<&MirrorHandle>,
        start_limit_seconds: u32,
    ) {
        let (invalid, writer) = invalid::cache();
        let Caches { tenants, jobs, pods, .. } = self.sources.caches.clone();
        let context = job::Context {
            client: self.clients.leader.clone(),
            jobs,
            invalid,
            pods,
            tenants,
            scheduler: self.scheduler.clone(),
            plans: self.sources.plans.clone(),
            scenarios: self.sources.scenarios.clone(),
            settings: self.settings.clone(),
            start_limit: SignedDuration::from_secs(start_limit_seconds.into()),
            mirrored: mirror.cloned().map(mirrored),
            events: self.events.clone(),
            inflight: job::InflightReconciles::default(),
            mutations: MutationCache::default(),
            expectations: job::PodExpectations::default(),
            ages: job::Ages::default(),
            outages: job::Outages::default(),
            clock: self.clock.clone(),
            metrics: self.metrics.clone(),
            reconciler: job::reconciler(self.metrics.clone()),
        };
        let of_jobs = job::Changes { all: self.jobs.subscribe_held(&self.begins), invalid: writer };
        let of_pods = self.pods.subscribe_objects_held(&self.begins);
        let of_tenants = self.tenants.subscribe_objects_held(&self.begins);
        let (context, requeued) = (Arc::new(context), requeued.into_stream());
        let run = job::run(context, of_jobs, of_pods, of_tenants, requeued, self.stop.clone());
        self.parts.controller("job controller", self.led(run));
    }

    pub(super) fn attempts(&mut self, invalid: InvalidObjects<Tenant>, mirror: Option<&MirrorHandle>) {
        let Caches { jobs, pods, tenants, .. } = self.sources.caches.clone();
        let context = attempt::Context {
            client: self.clients.leader.clone(),
            jobs,
            pods,
            tenants: attempt::Tenants { known: tenants, invalid },
            accounts: mirror.cloned().map(|mirror| Arc::new(mirror) as Arc<dyn attempt::ChargeStatus>),
            windows: Arc::new(self.scheduler.clone()),
            waiting: attempt::Waiting::default(),
            clock: self.clock.clone(),
            reconciler: attempt::reconciler(self.metrics.clone()),
        };
        let of_pods = self.pods.subscribe_objects_held(&self.begins);
        let of_jobs = self.jobs.subscribe_objects_held(&self.begins);
        let of_tenants = self.tenants.subscribe_objects_held(&self.begins);
        let commits = mirror.map_or_else(|| stream::pending().boxed(), |mirror| mirror.commits().boxed());
        let run = attempt::run(Arc::new(context), of_pods, of_jobs, of_tenants, commits, self.stop.clone());
        self.parts.controller("attempt controller", self.led(run));
    }

    /// The controller of API keys, and the cache by which they are recognised.
    pub(super) fn api_keys(&mut self, namespace: String) -> Keys {
        let peppers = self.peppers(&namespace, true);
        let (context, invalid) = api_key::prepare(api_key::Dependencies {
            client: self.clients.leader.clone(),
            keys: self.keys.store(),
            tenants: self.sources.caches.tenants.clone(),
            peppers: peppers.clone(),
            settings: self.settings.clone(),
            namespace: namespace.clone(),
            events: self.events.clone(),
            clock: self.clock.clone(),
            random: Random::system(),
            metrics: self.metrics.clone(),
        });
        let inputs = api_key::Inputs {
            keys: self.keys.subscribe_held(&self.begins),
            ancestors: self.keys.subscribe_held(&self.begins),
            tenants: self.tenants.subscribe_held(&self.begins),
        };
        let run = self.led(api_key::run(context, invalid, inputs, self.stop.clone()));
        self.parts.controller("API key controller", run);
        self.key_authenticator(peppers, namespace)
    }

    /// Runs the watches: those of pods only where this process schedules.
    pub(super) fn watch(self) -> Parts {
        let Self { mut parts, tenants, jobs, keys, pods, nodes, others, schedules, .. } = self;
        parts.essential("watch of tenants", tenants.run());
        parts.essential("watch of jobs", jobs.run());
        parts.essential("watch of API keys", keys.run());
        parts.essential("watch of nodes", nodes.run());
        if schedules {
            parts.essential("watch of pods", pods.run());
            parts.essential("watch of other pods", others.run());
        }
        parts
    }
}

/// Whether the mirror has a job as it is.
fn mirrored(mirror: MirrorHandle) -> job::Mirrored {
    Arc::new(move |job: &Job| {
        let uid = job.uid().unwrap_or_default();
        mirror.job_mirrored(&uid, &job.resource_version().unwrap_or_default())
    })
}

impl attempt::ChargeStatus for MirrorHandle {
    fn committed(&self, job_uid: &str, attempt: u32) -> bool {
        Self::committed(self, job_uid, attempt)
    }

    fn behind(&self) -> bool {
        Self::behind(self)
    }
}

impl attempt::RateWindows for SchedulerHandle {
    fn request_charge(&self, namespace: &str, job_uid: &str, soon: bool) {
        Self::request_charge(self, namespace, job_uid, soon);
    }

    fn may_remove_finalizer(
        &self,
        namespace: &str,
        stored: Option<&JobWindow>,
        job_uid: &str,
        created: Timestamp,
        now: Timestamp,
    ) -> bool {
        Self::may_remove_finalizer(self, namespace, stored, job_uid, created, now)
    }
}

/// A watch of all objects of a kind.
fn everything<K>(client: &Client) -> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
{
    Watch::new(Api::<Guarded<K>>::all(client.clone()), watcher::Config::default())
}
