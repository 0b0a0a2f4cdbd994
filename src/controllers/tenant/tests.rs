//! Reconciles against an API server in memory: which calls are made, in which order, with which bodies.

mod deletion;
mod fuzz;
mod provisioning;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{LimitRange, Namespace, Node, Pod, ServiceAccount},
    networking::v1::NetworkPolicy,
    rbac::v1::RoleBinding,
};
use kube::{
    core::PartialObjectMeta,
    runtime::{
        controller::Action,
        reflector::{self, store::Writer},
    },
};
use serde_json::{Value, json};

use super::*;
use crate::kube_ext::mock::{self, Call, Fake, drop_all, outline, put};

const TENANT: &str = "/apis/crofter.io/v1alpha1/tenants/acme";
const NAMESPACE: &str = "/api/v1/namespaces/tenant-acme";

/// A controller's context, with all that surrounds it set by the test.
struct Bench {
    fake: Fake,
    /// Whether Kubernetes counts Jobs.
    count: watch::Sender<bool>,
    context: Arc<Context>,
    jobs: Writer<Job>,
    keys: Writer<TenantApiKey>,
    pods: Writer<Pod>,
    nodes: Writer<Node>,
    children: Writers,
    snapshot: Arc<Mutex<Option<UsageSnapshot>>>,
    now: Arc<Mutex<Timestamp>>,
}

/// What fills the caches of children.
struct Writers {
    namespaces: Writer<PartialObjectMeta<Namespace>>,
    quotas: Writer<ResourceQuota>,
    limits: Writer<PartialObjectMeta<LimitRange>>,
    policies: Writer<PartialObjectMeta<NetworkPolicy>>,
    accounts: Writer<PartialObjectMeta<ServiceAccount>>,
    bindings: Writer<PartialObjectMeta<RoleBinding>>,
}

fn caches() -> (Known, Writers) {
    let ((namespaces, of_namespaces), (quotas, of_quotas)) = (reflector::store(), reflector::store());
    let ((limits, of_limits), (policies, of_policies)) = (reflector::store(), reflector::store());
    let ((accounts, of_accounts), (bindings, of_bindings)) = (reflector::store(), reflector::store());
    let writers = Writers {
        namespaces: of_namespaces,
        quotas: of_quotas,
        limits: of_limits,
        policies: of_policies,
        accounts: of_accounts,
        bindings: of_bindings,
    };
    (Known { namespaces, quotas, limits, policies, accounts, bindings }, writers)
}

fn bench() -> Bench {
    let fake = Fake::default();
    let snapshot = Arc::new(Mutex::new(None));
    let now = Arc::new(Mutex::new("2030-01-01T00:00:00Z".parse().unwrap()));
    let (jobs_store, jobs) = reflector::store();
    let (keys_store, keys) = reflector::store();
    let (pods_store, pods) = reflector::store();
    let (nodes_store, nodes) = reflector::store();
    let (known, children) = caches();
    let (count, counted) = watch::channel(false);
    let (shown_usage, clock) = (Arc::clone(&snapshot), Arc::clone(&now));
    let (_, plans) = watch::channel(Arc::new(Plans::built_in().unwrap()));
    let dependencies = Dependencies {
        client: fake.client(),
        clock: Clock::of(move || *clock.lock().unwrap()),
        events: mock::events(fake.client()),
        courtesy: CourtesyBudget::default(),
        settings: Settings::default(),
        namespace: "crofter-system".into(),
        plans,
        jobs: jobs_store,
        keys: keys_store,
        pods: pods_store,
        nodes: nodes_store,
        snapshot: Arc::new(move |_| shown_usage.lock().unwrap().clone()),
        workers: Arc::new(|_| WorkersView { admitted: 1, refused: None }),
        watches: crate::kube_ext::pulse::Watches::default(),
        metrics: Metrics::default(),
    };
    let context = Arc::new(Context {
        dependencies,
        known,
        state: Arc::default(),
        mutations: MutationCache::default(),
        invalid: invalid_ext::cache().0,
        counted,
        reconciler: reconciler(Metrics::default()),
    });
    Bench { fake, count, context, jobs, keys, pods, nodes, children, snapshot, now }
}

impl Bench {
    /// Another process takes over.
    fn restart(&mut self) {
        let Context { dependencies, known, invalid, counted, .. } = &*self.context;
        let (dependencies, known) = (dependencies.clone(), known.clone());
        let (invalid, counted) = (invalid.clone(), counted.clone());
        let (state, reconciler) = (Arc::default(), reconciler(Metrics::default()));
        let mutations = MutationCache::default();
        self.context =
            Arc::new(Context { dependencies, known, state, mutations, invalid, counted, reconciler });
    }

    /// Stores a tenant that has the finalizer already.
    fn tenant(&self, spec: Value) {
        self.tenant_with(json!({"finalizers": ["crofter.io/tenant"]}), spec);
    }

    fn tenant_with(&self, metadata: Value, spec: Value) {
        let mut object = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant",
            "metadata": {"name": "acme", "uid": "u-1", "generation": 1}, "spec": spec,
            "status": {"observedGeneration": -1},
        });
        for (key, value) in metadata.as_object().unwrap() {
            object["metadata"][key] = value.clone();
        }
        self.fake.put(TENANT, object);
    }

    fn namespace(&self, labels: Value) {
        self.fake.put(
            NAMESPACE,
            json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": "tenant-acme", "uid": "ns-1", "labels": labels},
            }),
        );
    }

    /// One reconcile of the tenant as it is stored now; and the calls that it made.
    async fn reconcile_once(&self) -> (Result<Action, Error>, Vec<Call>) {
        let tenant: Tenant = serde_json::from_value(self.fake.get(TENANT)).unwrap();
        self.fake.calls();
        let result = reconcile(Arc::new(tenant), Arc::clone(&self.context)).await;
        self.context.dependencies.events.flush(Duration::from_secs(1)).await;
        (result, self.fake.calls())
    }

    fn at(&self, time: &str) {
        *self.now.lock().unwrap() = time.parse().unwrap();
    }

    /// `type` to `status/reason` of the stored tenant's conditions.
    fn conditions(&self) -> BTreeMap<String, String> {
        let all = self.fake.get(TENANT)["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        all.iter()
            .map(|c| (text(&c["type"]), format!("{}/{}", text(&c["status"]), text(&c["reason"]))))
            .collect()
    }

    fn message(&self, kind: &str) -> String {
        let all = self.fake.get(TENANT)["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.iter()
            .find(|c| c["type"] == kind)
            .map(|c| c["message"].as_str().unwrap().to_owned())
            .unwrap_or_default()
    }
}

fn conditions(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(kind, what)| ((*kind).to_owned(), (*what).to_owned())).collect()
}

#[test]
fn the_controller_can_be_spawned() {
    fn spawnable<F: Future<Output = ()> + Send + 'static>(
        _: fn(Arc<Context>, Watches, Inputs, future::Ready<()>) -> F,
    ) {
    }
    spawnable(run);
}
