//! Steps against an API server in memory: which calls are made, in which order, with which bodies.

mod clock_jumps;
mod creation;
mod drain_and_pause;
mod expiry;
mod fuzz;
mod pods;
mod status_writes;
mod triggers;

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use futures::stream::{self, BoxStream};
use jiff::Timestamp;
use kube::runtime::{controller::Action, reflector::store::Writer};
use serde_json::{Value, json};

use super::{
    apply::{CACHE_REQUEUE, MIRROR_POLL},
    inflight::{BUSY, BUSY_FOR},
    reconcile::reconcile_job,
    triggers::of_changed_tenants,
    *,
};
use crate::{
    api_types::Reason,
    domain::admission::{Admission, Verdict},
    kube_ext::{
        controller::CONFLICT_REQUEUE,
        invalid as invalid_ext,
        mock::{self, Call, Fake, outline, put},
    },
};

const JOB: &str = "/apis/crofter.io/v1alpha1/namespaces/tenant-acme/jobs/render";
const STATUS: &str = "PATCH /apis/crofter.io/v1alpha1/namespaces/tenant-acme/jobs/render/status";
const PODS: &str = "/api/v1/namespaces/tenant-acme/pods";
const POD: &str = "/api/v1/namespaces/tenant-acme/pods/render-j1-1";
const START: &str = "2030-01-01T00:00:00Z";

/// A controller's context, with all that surrounds it set by the test.
struct Bench {
    fake: Fake,
    context: Context,
    pods: Writer<Pod>,
    tenants: Writer<Tenant>,
    now: Arc<Mutex<Timestamp>>,
    /// What the mirror answers, where there is one.
    in_mirror: Arc<AtomicBool>,
}

/// A bench whose one tenant is active, in front of a scheduler with `verdict` on the one job.
fn bench(verdict: Option<Verdict>) -> Bench {
    let fake = Fake::default();
    let now = Arc::new(Mutex::new(START.parse().unwrap()));
    let clock = Arc::clone(&now);
    let ((jobs, _), (pods, pod_writer), (tenants, tenant_writer)) =
        (mock::cache(), mock::cache(), mock::cache());
    let (_, plans) = watch::channel(Arc::new(Plans::built_in().unwrap()));
    let (_, scenarios) = watch::channel(Arc::default());
    let context = Context {
        client: fake.client(),
        jobs,
        invalid: invalid_ext::cache().0,
        pods,
        tenants,
        scheduler: SchedulerHandle::showing(verdict.map(|verdict| ("j1", verdict))),
        plans,
        scenarios,
        settings: Settings::default(),
        start_limit: SignedDuration::from_mins(5),
        mirrored: None,
        events: mock::events(fake.client()),
        inflight: InflightReconciles::default(),
        mutations: MutationCache::default(),
        expectations: PodExpectations::default(),
        ages: Ages::default(),
        outages: Outages::default(),
        clock: Clock::of(move || *clock.lock().unwrap()),
        metrics: Metrics::default(),
        reconciler: reconciler(Metrics::default()),
    };
    let in_mirror = Arc::default();
    let mut bench = Bench { fake, context, pods: pod_writer, tenants: tenant_writer, now, in_mirror };
    bench.tenant(json!({}));
    bench
}

fn admitted() -> Option<Verdict> {
    Some(Verdict::Admit(Admission { attempt: 1, group: "acme".into(), node: Some("n1".into()) }))
}

fn time(seconds: i64) -> String {
    (START.parse::<Timestamp>().unwrap() + jiff::SignedDuration::from_secs(seconds)).to_string()
}

/// A pod of the job's first attempt, made at the start, as the API server has it.
fn pod(metadata: Value, status: Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "render-j1-1", "namespace": "tenant-acme", "uid": "p1", "creationTimestamp": START,
            "labels": {
                "app.kubernetes.io/managed-by": "crofter", "crofter.io/tenant": "acme", "crofter.io/tenant-uid": "t1",
                "crofter.io/job-uid": "j1", "crofter.io/attempt": "1", "crofter.io/worker-group": "acme",
            },
            "finalizers": ["crofter.io/accounted"],
            "ownerReferences": [
                {"apiVersion": "crofter.io/v1alpha1", "kind": "Job", "name": "render", "uid": "j1", "controller": true},
            ],
        },
        "spec": {"nodeName": "n1", "activeDeadlineSeconds": 35 * 60, "containers": [{"name": "job", "resources": {"requests": {"cpu": "1500m"}}}]},
        "status": status,
    });
    mock::merge(&mut pod, &json!({"metadata": metadata}));
    pod
}

fn container(state: Value) -> Value {
    json!([{"name": "job", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": state}])
}

fn running() -> Value {
    json!({"phase": "Running", "containerStatuses": container(json!({"running": {"startedAt": time(5)}}))})
}

fn ended(code: i32) -> Value {
    let state = json!({"terminated": {"exitCode": code, "startedAt": time(5), "finishedAt": time(9)}});
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    json!({"phase": phase, "containerStatuses": container(state)})
}

impl Bench {
    fn tenant(&mut self, spec: Value) {
        let tenant = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme", "uid": "t1"},
            "spec": spec, "status": {"observedGeneration": 1, "namespace": "tenant-acme"},
        });
        put(&mut self.tenants, tenant);
    }

    fn with_mirror(mut self) -> Self {
        let in_mirror = Arc::clone(&self.in_mirror);
        self.context.mirrored = Some(Arc::new(move |_| in_mirror.load(Ordering::SeqCst)));
        self
    }

    /// Stores the job.
    fn job(&self, metadata: Value, spec: Value, status: Value) {
        let mut job = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Job",
            "metadata": {"name": "render", "namespace": "tenant-acme", "uid": "j1", "generation": 1},
            "spec": {"image": "i"}, "status": {"observedGeneration": -1, "phase": "Queued"},
        });
        mock::merge(&mut job, &json!({"metadata": metadata, "spec": spec, "status": status}));
        self.fake.put(JOB, job);
    }

    /// A job that waits.
    fn queued(&self) {
        self.job(json!({}), json!({}), json!({}));
    }

    /// A job whose first attempt runs, as its status says.
    fn at_work(&self, spec: Value) {
        let status = json!({
            "phase": "Running", "attempt": 1, "retries": 0, "pod": "render-j1-1", "node": "n1", "startedAt": time(5),
        });
        self.job(json!({}), spec, status);
    }

    /// One step with the job as it is stored now; and the calls that it made.
    async fn step(&self) -> (Result<Action, Error>, Vec<Call>) {
        let job: Job = serde_json::from_value(self.fake.get(JOB)).unwrap();
        self.step_with(job).await
    }

    /// One step with the job as the cache has it.
    async fn step_with(&self, job: Job) -> (Result<Action, Error>, Vec<Call>) {
        self.fake.calls();
        let job = Arc::new(job);
        let result = self.context.reconciler.run(&*job, reconcile_job(Arc::clone(&job), &self.context)).await;
        self.context.events.flush(Duration::from_secs(1)).await;
        (result, self.fake.calls())
    }

    fn at(&self, seconds: i64) {
        *self.now.lock().unwrap() = time(seconds).parse().unwrap();
    }

    fn status(&self) -> Value {
        self.fake.get(JOB)["status"].clone()
    }

    /// Pods that were counted as created.
    fn admissions(&self) -> String {
        let text = self.context.metrics.text().unwrap();
        text.lines().find_map(|line| line.strip_prefix("crofter_admissions_total ")).unwrap().to_owned()
    }
}
