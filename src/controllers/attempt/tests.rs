//! Releases against an API server in memory: which calls are made, in which order, with which bodies.

mod charges;

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use futures::stream;
use kube::runtime::reflector::{self, store::Writer};
use serde_json::{Value, json};

use super::*;
use crate::{
    api_types::tenant::JobWindow,
    domain::rate_window::RateWindow,
    kube_ext::{
        invalid,
        mock::{self, Call, Fake, outline, put},
    },
};

const JOB: &str = "/apis/crofter.io/v1alpha1/namespaces/tenant-acme/jobs/render";
const POD: &str = "/api/v1/namespaces/tenant-acme/pods/render-j1-1";

/// A mirror in the test's hands.
#[derive(Default)]
struct Mirror {
    committed: AtomicBool,
    behind: AtomicBool,
}

impl ChargeStatus for Mirror {
    fn committed(&self, job_uid: &str, attempt: u32) -> bool {
        assert_eq!((job_uid, attempt), ("j1", 1));
        self.committed.load(Ordering::SeqCst)
    }

    fn behind(&self) -> bool {
        self.behind.load(Ordering::SeqCst)
    }
}

/// What was asked to be counted, each as `tenant/job`, with ` soon` where it was.
#[derive(Default)]
struct Asked(Mutex<Vec<String>>);

impl RateWindows for Asked {
    fn settle(&self, namespace: &str, job_uid: &str, soon: bool) {
        let soon = if soon { " soon" } else { "" };
        self.0.lock().unwrap().push(format!("{namespace}/{job_uid}{soon}"));
    }

    fn may_remove_finalizer(
        &self,
        namespace: &str,
        stored: Option<&JobWindow>,
        job_uid: &str,
        created: Timestamp,
        now: Timestamp,
    ) -> bool {
        assert_eq!(namespace, "tenant-acme");
        let mut window = RateWindow::default();
        stored.into_iter().for_each(|stored| window.restore(stored));
        window.may_remove_finalizer(stored, job_uid, created, now)
    }
}

struct Bench {
    fake: Fake,
    context: Context,
    jobs: Writer<Job>,
    pods: Writer<Pod>,
    tenants: Writer<Tenant>,
    invalid: Writer<invalid::Meta<Tenant>>,
    mirror: Arc<Mirror>,
    asked: Arc<Asked>,
    now: Arc<Mutex<Timestamp>>,
}

/// A time of the first day.
fn at(time: &str) -> Timestamp {
    format!("2030-01-01T{time}Z").parse().unwrap()
}

fn succeeded(finished: &str) -> Value {
    let terminated = json!({"exitCode": 0, "finishedAt": format!("2030-01-01T{finished}Z")});
    json!({"phase": "Succeeded", "containerStatuses": [
        {"name": "job", "state": {"terminated": terminated}, "image": "", "imageID": "", "ready": false, "restartCount": 0},
    ]})
}

/// A tenant's status that counts these jobs, whose pods may go.
fn counted(settling: &[&str]) -> Value {
    let window = json!({"resetsAt": "2030-01-01T01:00:00Z", "settled": 5, "settling": settling});
    json!({"jobWindow": window})
}

fn bench(with_mirror: bool) -> Bench {
    let fake = Fake::default();
    let ((jobs, job_writer), (pods, pod_writer)) = (mock::cache(), mock::cache());
    let ((known, tenant_writer), (invalid, invalid_writer)) = (mock::cache(), invalid::cache());
    let mirror = Arc::new(Mirror::default());
    let accounts = with_mirror.then(|| Arc::clone(&mirror) as Arc<dyn ChargeStatus>);
    let (asked, now) = (Arc::new(Asked::default()), Arc::new(Mutex::new(at("00:10:00"))));
    let tell = Arc::clone(&now);
    let context = Context {
        client: fake.client(),
        jobs,
        pods,
        tenants: Tenants { known, invalid },
        accounts,
        windows: Arc::clone(&asked) as Arc<dyn RateWindows>,
        waiting: Waiting::default(),
        clock: Clock::of(move || *tell.lock().unwrap()),
        reconciler: reconciler(Metrics::default()),
    };
    let (jobs, pods, tenants, invalid) = (job_writer, pod_writer, tenant_writer, invalid_writer);
    let mut bench = Bench { fake, context, jobs, pods, tenants, invalid, mirror, asked, now };
    bench.pod(json!({}), succeeded("00:00:09"));
    bench.tenant(json!({}), counted(&["j1"]));
    bench
}

impl Bench {
    /// Stores the pod of the job's first attempt.
    fn pod(&mut self, metadata: Value, status: Value) {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "render-j1-1", "namespace": "tenant-acme", "uid": "p1",
                "creationTimestamp": "2030-01-01T00:00:00Z",
                "labels": {
                    "crofter.io/job-uid": "j1", "crofter.io/attempt": "1",
                    "crofter.io/tenant": "acme", "crofter.io/tenant-uid": "t1",
                },
                "finalizers": ["x.io/other", "crofter.io/accounted"],
                "ownerReferences": [
                    {"apiVersion": "crofter.io/v1alpha1", "kind": "Job", "name": "render", "uid": "j1", "controller": true},
                ],
            },
            "spec": {"nodeName": "n1", "containers": []}, "status": status,
        });
        mock::merge(&mut pod, &json!({"metadata": metadata}));
        self.fake.put(POD, pod);
        put(&mut self.pods, self.fake.get(POD));
    }

    /// Lets the cache have the tenant.
    fn tenant(&mut self, metadata: Value, status: Value) {
        let mut tenant = json!({"metadata": {"name": "acme", "uid": "t1"}, "spec": {}, "status": status});
        mock::merge(&mut tenant, &json!({"metadata": metadata, "status": {"namespace": "tenant-acme"}}));
        put(&mut self.tenants, tenant);
    }

    /// The tenant changes: the pods that look again.
    fn freed(&self) -> Vec<String> {
        let Context { waiting, tenants, windows, pods, clock, .. } = &self.context;
        let acme = tenants.known.get(&ObjectRef::new("acme")).unwrap();
        waiting.freed(&acme, tenants, &**windows, pods, clock.now()).into_iter().map(|pod| pod.name).collect()
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.0.lock().unwrap())
    }

    /// Puts the job into API server and cache.
    fn job(&mut self, metadata: Value, status: Value) {
        let mut job = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Job",
            "metadata": {"name": "render", "namespace": "tenant-acme", "uid": "j1"},
            "spec": {"image": "i"}, "status": status,
        });
        mock::merge(&mut job, &json!({"metadata": metadata}));
        self.fake.put(JOB, job);
        put(&mut self.jobs, self.fake.get(JOB));
    }

    /// A job whose status tells how the attempt ended.
    fn job_with_record(&mut self, metadata: Value) {
        let record = json!({
            "attempt": 1, "pod": "render-j1-1", "finishedAt": "2030-01-01T00:00:09Z", "reason": "Succeeded",
            "cpuMillicores": 1, "memoryBytes": 1, "gpus": 0, "bandwidthMbps": 0,
        });
        self.job(metadata, json!({"phase": "Completed", "attempt": 1, "attempts": [record]}));
    }

    /// One reconcile of the pod as it is stored; and the calls that it made.
    async fn release(&self) -> (Result<Action, CallError>, Vec<Call>) {
        let pod: Pod = serde_json::from_value(self.fake.get(POD)).unwrap();
        self.fake.calls();
        let result = release(&pod, &self.context).await;
        (result, self.fake.calls())
    }

    fn finalizers(&self, path: &str) -> Value {
        self.fake.get(path)["metadata"]["finalizers"].clone()
    }
}

#[tokio::test]
async fn a_pod_is_held_until_the_jobs_status_tells_of_it() {
    let mut bench = bench(false);
    bench.job(json!({}), json!({"phase": "Running", "attempt": 1}));
    let (action, calls) = bench.release().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::await_change(), vec![]));

    bench.job_with_record(json!({}));
    let version = bench.fake.get(POD)["metadata"]["resourceVersion"].clone();
    let (action, calls) = bench.release().await;
    assert_eq!(action.unwrap(), Action::await_change());
    assert_eq!(outline(&calls), [format!("PATCH {POD}")]);
    let expected =
        json!({"metadata": {"uid": "p1", "resourceVersion": version, "finalizers": ["x.io/other"]}});
    assert_eq!(calls[0].body, expected, "and nobody else's finalizer is lost");
    assert_eq!(outline(&bench.release().await.1), [""; 0]);
}

#[tokio::test]
async fn a_pod_that_may_still_run_is_held() {
    let mut bench = bench(false);
    bench.job_with_record(json!({}));
    bench.pod(json!({"deletionTimestamp": "2030-01-01T00:00:30Z"}), json!({"phase": "Running"}));
    assert_eq!(outline(&bench.release().await.1), [""; 0]);
}

#[tokio::test]
async fn an_orphan_that_still_runs_is_ended_and_then_counted() {
    let mut bench = bench(true);
    bench.job(json!({}), json!({"phase": "Running", "attempt": 1}));
    bench.pod(json!({"ownerReferences": null}), json!({"phase": "Running"}));
    assert_eq!(outline(&bench.release().await.1), [""; 0], "its job is there");
    mock::drop_all(&mut bench.jobs);
    let (action, calls) = bench.release().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::await_change(), vec![format!("DELETE {POD}")]));
    assert_eq!(calls[0].body["preconditions"], json!({"uid": "p1"}));

    bench.pod(json!({"ownerReferences": null}), succeeded("00:00:09"));
    assert_eq!(bench.release().await.0.unwrap(), Action::requeue(MIRROR_POLL));
    bench.mirror.committed.store(true, Ordering::SeqCst);
    assert_eq!(outline(&bench.release().await.1), [format!("PATCH {POD}")]);
}

#[tokio::test]
async fn a_pod_whose_sidecar_still_runs_is_held() {
    let mut bench = bench(false);
    bench.job_with_record(json!({}));
    let mut status = succeeded("00:00:09");
    status["phase"] = json!("Running");
    bench.pod(json!({}), status);
    assert_eq!(outline(&bench.release().await.1), [""; 0]);
}

#[tokio::test]
async fn a_paused_pod_is_left_alone() {
    let mut bench = bench(false);
    bench.job_with_record(json!({}));
    bench.pod(json!({"annotations": {"crofter.io/paused": "true"}}), succeeded("00:00:09"));
    assert_eq!(outline(&bench.release().await.1), [""; 0]);
}

#[tokio::test]
async fn being_paused_keeps_no_pod_from_its_end() {
    let mut bench = bench(false);
    bench.job_with_record(json!({}));
    let metadata = json!({
        "annotations": {"crofter.io/paused": "true"}, "deletionTimestamp": "2030-01-01T00:00:30Z",
    });
    bench.pod(metadata, succeeded("00:00:09"));
    assert_eq!(outline(&bench.release().await.1), [format!("PATCH {POD}")]);
    // Nor the tenant from its deletion.
    bench.pod(json!({"annotations": {"crofter.io/paused": "true"}}), succeeded("00:00:09"));
    assert_eq!(outline(&bench.release().await.1), [""; 0]);
    bench.tenant(json!({"deletionTimestamp": "2030-01-01T00:00:30Z"}), counted(&["j1"]));
    assert_eq!(outline(&bench.release().await.1), [format!("PATCH {POD}")]);
}

#[tokio::test]
async fn with_a_mirror_a_pod_is_held_until_it_is_committed() {
    let mut bench = bench(true);
    bench.job_with_record(json!({}));
    let (action, calls) = bench.release().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(MIRROR_POLL), vec![]));
    bench.mirror.committed.store(true, Ordering::SeqCst);
    let (action, calls) = bench.release().await;
    assert_eq!(action.unwrap(), Action::await_change());
    assert_eq!(outline(&calls), [format!("PATCH {POD}")]);
    assert_eq!(bench.finalizers(JOB), Value::Null, "one write, not two");
}

#[tokio::test]
async fn while_the_mirror_is_behind_the_job_is_held_first_and_then_the_pod_goes() {
    let mut bench = bench(true);
    bench.job_with_record(json!({}));
    bench.mirror.behind.store(true, Ordering::SeqCst);
    let (action, calls) = bench.release().await;
    assert_eq!(action.unwrap(), Action::await_change());
    assert_eq!(outline(&calls), [format!("PATCH {JOB}"), format!("PATCH {POD}")]);
    assert_eq!(calls[0].body["metadata"]["finalizers"], json!(["crofter.io/accounted"]));
    assert_eq!(bench.finalizers(POD), json!(["x.io/other"]));
}

#[tokio::test]
async fn a_pod_stays_where_its_job_can_not_be_held() {
    let mut bench = bench(true);
    bench.job_with_record(json!({}));
    bench.mirror.behind.store(true, Ordering::SeqCst);
    bench.fake.refuse(JOB, 409);
    let (result, calls) = bench.release().await;
    assert!(result.unwrap_err().is_conflict());
    assert_eq!(outline(&calls), [format!("PATCH {JOB}")]);
}

#[tokio::test]
async fn an_orphan_is_held_until_it_is_committed() {
    let bench = bench(true);
    for behind in [false, true] {
        bench.mirror.behind.store(behind, Ordering::SeqCst);
        let (action, calls) = bench.release().await;
        assert_eq!(
            (action.unwrap(), outline(&calls)),
            (Action::requeue(MIRROR_POLL), vec![]),
            "behind: {behind}"
        );
        assert_eq!(bench.finalizers(POD), json!(["x.io/other", "crofter.io/accounted"]));
    }
    bench.mirror.committed.store(true, Ordering::SeqCst);
    bench.release().await.0.unwrap();
    assert_eq!(bench.finalizers(POD), json!(["x.io/other"]));
}

#[tokio::test]
async fn a_job_that_exists_and_is_not_in_the_cache_holds_its_pods() {
    let mut bench = bench(false);
    bench.job_with_record(json!({}));
    mock::drop_all(&mut bench.jobs);
    let (action, calls) = bench.release().await;
    assert_eq!(
        (action.unwrap(), outline(&calls)),
        (Action::requeue(MIRROR_POLL), vec![format!("GET {JOB}")])
    );
    bench.fake.take(JOB);
    assert_eq!(outline(&bench.release().await.1), [format!("GET {JOB}"), format!("PATCH {POD}")]);
}

#[tokio::test]
async fn a_job_that_is_going_is_not_asked_to_stay() {
    let mut bench = bench(true);
    bench.mirror.behind.store(true, Ordering::SeqCst);
    let going = json!({"deletionTimestamp": "2030-01-01T00:00:30Z", "finalizers": ["x.io/other"]});
    bench.job_with_record(going);
    let (action, calls) = bench.release().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(MIRROR_POLL), vec![]));

    let held = json!({"deletionTimestamp": "2030-01-01T00:00:30Z", "finalizers": ["crofter.io/accounted"]});
    bench.job_with_record(held);
    assert_eq!(outline(&bench.release().await.1), [format!("PATCH {POD}")], "held already");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_let_go_before_jobs_and_tenants_are_known() {
    let mut bench = bench(false);
    let ((jobs, mut no_jobs), (tenants, mut no_tenants)) = (reflector::store(), reflector::store());
    let pod = bench.context.pods.state().remove(0);
    (bench.context.jobs, bench.context.tenants.known) = (jobs, tenants);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(run(
        Arc::new(bench.context),
        stream::iter([pod]).chain(stream::pending()),
        stream::pending(),
        stream::pending(),
        stream::pending(),
        async { drop(stopped.await) },
    ));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(outline(&bench.fake.calls()), [""; 0]);
    mock::drop_all(&mut no_jobs);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(outline(&bench.fake.calls()), [""; 0]);
    mock::drop_all(&mut no_tenants);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(outline(&bench.fake.calls()), [format!("GET {JOB}"), format!("PATCH {POD}")]);
    stop.send(()).unwrap();
    running.await.unwrap();
}

#[tokio::test]
async fn a_later_job_of_the_same_name_does_not_speak_for_the_pod() {
    let mut bench = bench(true);
    bench.job_with_record(json!({"uid": "j2"}));
    bench.mirror.behind.store(true, Ordering::SeqCst);
    assert_eq!(bench.release().await.0.unwrap(), Action::requeue(MIRROR_POLL));
    assert_eq!(bench.finalizers(JOB), Value::Null);
}
