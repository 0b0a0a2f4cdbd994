//! What every replica runs, in addition to the watches: the cache of API keys, the REST API, health and metrics.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use futures::FutureExt;
use tokio::{net::TcpListener, sync::watch};

use super::Assembly;
use crate::{
    http::{
        self, administrators::Administrators, auth_throttle::AuthThrottle, places::Places, streams::Streams,
    },
    keys::{self, Keys, pepper},
    kube_ext::policies,
    operator::Rest,
    random::Random,
    telemetry::{self, Health, IsReady},
};

/// The watches that every replica runs, by their names in health.
const CORE: [&str; 7] = ["tenants", "jobs", "keys", "nodes", "pods", "other_pods", "peppers"];

impl Assembly {
    /// Whether the REST API can answer: the caches are synced, and on a leader the scheduler has decided. A replica that was
    /// ready before it leads stays ready, or no replica would be while another one takes over. None is once it stops.
    /// Without `serves_api` the cache that only the REST API reads is empty.
    pub(in crate::operator) fn readiness(&self, serves_api: bool) -> IsReady {
        let (index, watches, scheduler) = (self.index.clone(), self.watches.clone(), self.scheduler.clone());
        let (leadership, stop, was_ready) =
            (self.leadership.clone(), self.stop.clone(), AtomicBool::new(false));
        Arc::new(move || {
            let running = watches.states();
            let mut core = running.iter().filter(|watch| CORE.contains(&watch.name));
            let synced = (!serves_api || index.is_synced()) && core.all(|watch| watch.synced);
            let decided = was_ready.load(Ordering::Relaxed) || !leadership.leads() || scheduler.is_ready();
            let is_ready = synced && decided;
            was_ready.fetch_or(is_ready, Ordering::Relaxed);
            is_ready && stop.clone().now_or_never().is_none()
        })
    }

    /// The cache alone.
    pub(in crate::operator) fn key_cache(&mut self, namespace: String) -> Keys {
        let peppers = self.peppers(&namespace, false);
        self.key_authenticator(peppers, namespace)
    }

    /// With `recreates` a deleted Secret is recreated: where the REST API runs alone, its role lacks the right to it.
    pub(super) fn peppers(&mut self, namespace: &str, recreates: bool) -> watch::Receiver<pepper::State> {
        let mut secret = pepper::watch(&self.clients.any, namespace).known_as("peppers", &self.watches);
        let (known, peppers) = watch::channel(pepper::State::Pending);
        let client = recreates.then(|| self.clients.any.clone());
        let following = pepper::follow(client, namespace.to_owned(), secret.subscribe(), known);
        self.parts.essential("watch of peppers", secret.run());
        self.parts.essential("peppers", following);
        peppers
    }

    pub(super) fn key_authenticator(
        &mut self,
        peppers: watch::Receiver<pepper::State>,
        namespace: String,
    ) -> Keys {
        let keys = Keys::new(peppers, self.clock.clone(), self.metrics.clone());
        let inputs = keys::Inputs { keys: self.keys.subscribe(), tenants: self.tenants.subscribe() };
        self.parts.essential("cache of API keys", keys.clone().feed(namespace.clone(), inputs));
        let probing = keys.clone().probe(self.clients.any.clone(), namespace, self.keys.pulse());
        self.parts.essential("probe of API keys", probing);
        keys
    }

    /// The REST API.
    pub(in crate::operator) fn rest(&mut self, rest: Rest, keys: Keys, is_ready: IsReady) {
        let Rest { listener, history, audit, cluster, origins } = rest;
        let jobs = self.index.clone();
        self.parts.essential("index of jobs", jobs.clone().feed(self.jobs.subscribe()));
        let app = http::App::new(http::Parts {
            client: self.clients.any.clone(),
            settings: self.settings.clone(),
            plans: self.sources.plans.clone(),
            scenarios: self.sources.scenarios.clone(),
            clock: self.clock.clone(),
            random: Random::system(),
            scheduler: self.scheduler.clone(),
            leadership: self.leadership.clone(),
            is_ready,
            authenticator: Arc::new(keys),
            administrators: Administrators::new(self.clients.any.clone(), self.clock.clone()),
            auth_throttle: AuthThrottle::default(),
            places: Places::default(),
            streams: Streams::new(self.metrics.clone(), self.stop.clone()),
            estimates: http::jobs::Estimates::default(),
            assigning: tokio::sync::Mutex::default(),
            tenants: self.sources.caches.tenants.clone(),
            jobs,
            keys: self.keys.store(),
            nodes: self.sources.caches.nodes.clone(),
            watches: self.watches.clone(),
            database: history,
            audit,
            cluster,
            schedules: self.schedules,
            origins,
        });
        let routes = http::routes(app, self.metrics.clone());
        // Ends by itself at the stop signal, once the requests in flight are complete.
        let served = http::server::serve(listener, routes, Random::system(), self.stop.clone());
        self.parts.server("REST API", served);
    }

    /// Follows which of the chart's admission policies are missing.
    pub(in crate::operator) fn policies(&mut self) -> watch::Receiver<policies::Missing> {
        let (sender, known) = watch::channel(None);
        self.follow("admission policies", policies::follow(self.clients.any.clone(), sender));
        known
    }

    /// Answers probes and scrapes.
    pub(in crate::operator) fn health(
        &mut self,
        listener: TcpListener,
        is_ready: IsReady,
        policies: watch::Receiver<policies::Missing>,
    ) {
        let (watches, leadership) = (self.watches.clone(), self.leadership.clone());
        let health = Health { is_ready, watches, leadership, policies, clock: self.clock.clone() };
        let (metrics, scheduler) = (self.metrics.clone(), self.scheduler.clone());
        let served = telemetry::serve(listener, metrics, scheduler, health, Random::system());
        self.parts.essential("health and metrics", served);
    }
}
