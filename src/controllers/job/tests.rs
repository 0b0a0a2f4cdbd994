//! Steps against an API server in memory: which calls are made, in which order, with which bodies.

mod creation;

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use futures::stream::{self, BoxStream};
use kube::runtime::reflector::store::Writer;
use serde_json::{Value, json};

use super::{
    inflight::{BUSY, BUSY_FOR},
    triggers::of_changed_tenants,
    *,
};
use crate::{
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

/// A controller's context with everything around it in the test's hands.
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
    let tell_time = Arc::clone(&now);
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
        settings: Settings { namespace_prefix: "tenant-".into(), gpu_resource: "nvidia.com/gpu".into() },
        start_limit: SignedDuration::from_mins(5),
        mirrored: None,
        events: mock::events(fake.client()),
        inflight: InflightReconciles::default(),
        mutations: MutationCache::default(),
        expectations: PodExpectations::default(),
        ages: Ages::default(),
        outages: Outages::default(),
        clock: Clock::of(move || *tell_time.lock().unwrap()),
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
        let result = self.context.reconciler.run(&*job, advance(Arc::clone(&job), &self.context)).await;
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

#[tokio::test]
async fn why_a_job_waits_is_written_once() {
    let verdict = Verdict::Wait(Reason::WaitingForQuota, "free allows 5 jobs at once: 5 admitted".into());
    let bench = bench(Some(verdict));
    bench.queued();
    let (_, calls) = bench.step().await;
    assert_eq!(outline(&calls), [STATUS]);
    assert_eq!(calls[0].body["status"]["message"], "free allows 5 jobs at once: 5 admitted");
    assert_eq!(outline(&bench.step().await.1), [""; 0]);
}

#[tokio::test]
async fn while_the_cache_is_behind_the_next_step_is_taken_from_what_was_written() {
    let mut bench = bench(admitted());
    bench.queued();
    let cached: Job = serde_json::from_value(bench.fake.get(JOB)).unwrap();
    put(&mut bench.pods, pod(json!({}), running()));
    assert_eq!(outline(&bench.step_with(cached.clone()).await.1), [STATUS]);
    put(&mut bench.pods, pod(json!({}), ended(0)));
    let version = bench.fake.get(JOB)["metadata"]["resourceVersion"].clone();
    let (_, calls) = bench.step_with(cached).await;
    assert_eq!(outline(&calls), [STATUS]);
    assert_eq!(calls[0].body["metadata"], json!({"resourceVersion": version}));
    assert_eq!(bench.status()["phase"], "Completed");
}

#[tokio::test]
async fn a_running_pod_is_written_over_the_version_it_was_computed_from() {
    let mut bench = bench(admitted());
    bench.queued();
    bench.at(6);
    put(&mut bench.pods, pod(json!({}), running()));
    let version = bench.fake.get(JOB)["metadata"]["resourceVersion"].clone();
    let (_, calls) = bench.step().await;
    assert_eq!(outline(&calls), [STATUS]);
    assert_eq!(calls[0].body["metadata"], json!({"resourceVersion": version}));
    let condition = json!({
        "type": "Reconciling", "status": "True", "reason": "Running", "message": "attempt 1 runs on n1",
        "observedGeneration": 1, "lastTransitionTime": time(6),
    });
    let expected = json!({
        "observedGeneration": 1, "phase": "Running", "reason": "Running", "message": "attempt 1 runs on n1",
        "attempt": 1, "pod": "render-j1-1", "node": "n1", "workerGroup": "acme",
        "assignedAt": START, "startedAt": time(5), "conditions": [condition],
    });
    assert_eq!(calls[0].body["status"], expected);

    // 30 minutes from when the container started.
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(Duration::from_secs(1799)), vec![]));
}

#[tokio::test(start_paused = true)]
async fn that_a_job_runs_is_written_later_while_half_of_the_hands_are_busy_and_just_after() {
    let mut bench = bench(admitted());
    bench.queued();
    put(&mut bench.pods, pod(json!({}), running()));
    bench.at(6);
    let others: Vec<_> = (0..BUSY).map(|_| bench.context.inflight.begin().unwrap()).collect();
    drop(others);
    tokio::time::advance(BUSY_FOR / 2).await;
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(Duration::from_secs(7)), vec![]));
    tokio::time::advance(BUSY_FOR).await;
    let few: Vec<_> = (1..BUSY).map(|_| bench.context.inflight.begin().unwrap()).collect();
    assert_eq!(outline(&bench.step().await.1), [STATUS]);
    drop(few);
}

#[tokio::test]
async fn an_ended_pod_ends_its_job() {
    for (code, phase, told) in [(0, "Completed", None), (3, "Failed", Some("Event NonZeroExit".to_owned()))] {
        let mut bench = bench(None);
        bench.at_work(json!({}));
        bench.at(10);
        put(&mut bench.pods, pod(json!({}), ended(code)));
        let (_, calls) = bench.step().await;
        assert_eq!(outline(&calls), [vec![STATUS.to_owned()], told.into_iter().collect()].concat());
        assert!(calls[0].body["metadata"]["resourceVersion"].is_string());
        let status = &calls[0].body["status"];
        assert_eq!((&status["phase"], &status["exitCode"]), (&json!(phase), &json!(code)));
        assert_eq!((&status["finishedAt"], &status["runningMillis"]), (&json!(time(9)), &json!(4000)));
        let record = &status["attempts"][0];
        assert_eq!((&record["attempt"], &record["cpuMillicores"]), (&json!(1), &json!(1500)));
        assert!(bench.fake.get(POD).is_null() && outline(&bench.step().await.1).is_empty(), "the pod stays");
    }
}

#[tokio::test]
async fn a_status_computed_from_an_old_job_is_refused_and_computed_again() {
    let mut bench = bench(None);
    bench.at_work(json!({}));
    let cached: Job = serde_json::from_value(bench.fake.get(JOB)).unwrap();
    bench.at_work(json!({"canceled": true}));
    put(&mut bench.pods, pod(json!({}), ended(0)));
    let (result, calls) = bench.step_with(cached).await;
    assert_eq!(result.unwrap(), Action::requeue(CONFLICT_REQUEUE));
    assert_eq!(outline(&calls), [STATUS], "nothing is told of what was not written");
    assert_eq!(bench.status()["phase"], "Running");
    bench.step().await.0.unwrap();
    assert_eq!(bench.status()["phase"], "Completed", "what ended first stands");
}

/// A bench whose time of day is set by hand, and whose time for differences is [`Bench::at`].
fn bench_with_a_clock_that_steps() -> (Bench, Arc<Mutex<Timestamp>>) {
    let mut bench = bench(None);
    let set = Arc::new(Mutex::new(START.parse().unwrap()));
    let shown = Arc::clone(&set);
    bench.context.clock = bench.context.clock.clone().set_to(move || *shown.lock().unwrap());
    (bench, set)
}

#[tokio::test]
async fn a_clock_that_jumps_ends_no_attempt_and_keeps_none_running() {
    let (mut bench, set) = bench_with_a_clock_that_steps();
    let set = |seconds: i64| *set.lock().unwrap() = time(seconds).parse().unwrap();
    bench.at_work(json!({}));
    put(&mut bench.pods, pod(json!({}), running()));
    bench.at(6);
    set(6);
    assert_eq!(bench.step().await.0.unwrap(), Action::requeue(Duration::from_secs(1799)));
    for hours in [1, -1] {
        set(hours * 3600 + 16);
        bench.at(16);
        let (action, calls) = bench.step().await;
        assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(Duration::from_secs(1789)), vec![]));
    }
    bench.at(1805);
    assert_eq!(
        outline(&bench.step().await.1),
        [format!("PATCH {POD}")],
        "its time is up, whatever the clock shows"
    );
}

#[tokio::test]
async fn a_clock_that_jumps_neither_fails_a_start_nor_holds_a_retry_up() {
    let (mut bench, set) = bench_with_a_clock_that_steps();
    let set = |seconds: i64| *set.lock().unwrap() = time(seconds).parse().unwrap();
    let status = json!({"phase": "Assigned", "attempt": 1, "pod": "render-j1-1", "message": "attempt 1 has a place in acme"});
    bench.job(json!({}), json!({}), status);
    put(&mut bench.pods, pod(json!({}), json!({"phase": "Pending"})));
    bench.at(10);
    set(10);
    assert_eq!(bench.step().await.0.unwrap(), Action::requeue(Duration::from_secs(290)));
    set(3610);
    assert_eq!(outline(&bench.step().await.1), [""; 0], "five minutes have not passed");

    // The attempt ends, and its retry waits while the clock is set back.
    mock::drop_all(&mut bench.pods);
    set(10);
    bench.job(
        json!({}),
        json!({}),
        json!({"phase": "Retrying", "attempt": 1, "retries": 1, "notBefore": time(40)}),
    );
    assert_eq!(bench.step().await.0.unwrap(), Action::requeue(Duration::from_secs(30)));
    set(-3600);
    bench.at(40);
    assert_eq!(outline(&bench.step().await.1), [STATUS]);
    assert_eq!(bench.status()["phase"], "Queued");
    // What has ended, or is deleted, leaves nothing behind.
    let job: Job = serde_json::from_value(bench.fake.get(JOB)).unwrap();
    bench.step().await.0.unwrap();
    let again = bench.context.ages.now(&job, &[], &bench.context.clock);
    assert_eq!(again, time(-3600).parse::<Timestamp>().unwrap());
}

#[tokio::test]
async fn a_canceled_jobs_pod_is_stopped_as_it_is_known_and_stays() {
    let mut bench = bench(None);
    bench.at_work(json!({"canceled": true}));
    bench.at(9);
    let stored = pod(json!({}), running());
    bench.fake.put(POD, stored);
    put(&mut bench.pods, bench.fake.get(POD));
    let version = bench.fake.get(POD)["metadata"]["resourceVersion"].clone();
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::await_change(), vec![format!("PATCH {POD}")]));
    let asked = json!({"crofter.io/stop-requested": "2030-01-01T00:00:09Z Canceled"});
    let metadata = json!({"uid": "p1", "resourceVersion": version, "annotations": asked});
    assert_eq!(calls[0].body, json!({"metadata": metadata, "spec": {"activeDeadlineSeconds": 1}}));
    assert_eq!(bench.step().await.0.unwrap(), Action::requeue(CONFLICT_REQUEUE), "the cache is behind");

    put(&mut bench.pods, bench.fake.get(POD));
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(Duration::from_secs(60)), vec![]));
}

#[tokio::test]
async fn a_pod_that_can_not_be_stopped_is_deleted_by_uid_with_its_own_grace() {
    for (spec, now) in [(json!({"canceled": true}), 9), (json!({}), 5 + 30 * 60)] {
        let mut bench = bench(None);
        bench.at_work(spec);
        bench.at(now);
        bench.fake.put(
            POD,
            pod(
                json!({"annotations": {"crofter.io/stop-requested": "2029-12-31T23:00:00Z Canceled"}}),
                running(),
            ),
        );
        put(&mut bench.pods, bench.fake.get(POD));
        let (action, calls) = bench.step().await;
        assert_eq!(action.unwrap(), Action::await_change());
        assert_eq!(outline(&calls), [format!("DELETE {POD}")]);
        // No gracePeriodSeconds: the pod's own counts.
        assert_eq!(calls[0].body, json!({"propagationPolicy": "Background", "preconditions": {"uid": "p1"}}));

        put(&mut bench.pods, pod(json!({"resourceVersion": "1"}), running()));
        bench.fake.refuse(POD, 422);
        let (_, calls) = bench.step().await;
        assert_eq!(outline(&calls), [format!("PATCH {POD}"), format!("DELETE {POD}")]);
        // Another pod has taken the name.
        bench.fake.refuse(POD, 409);
        assert_eq!(bench.step().await.0.unwrap(), Action::requeue(CONFLICT_REQUEUE));
        bench.fake.take(POD);
    }
}

#[tokio::test]
async fn a_pod_that_is_not_in_the_cache_is_asked_for() {
    let bench = bench(None);
    bench.at_work(json!({}));
    bench.fake.put(POD, pod(json!({}), running()));
    let (action, calls) = bench.step().await;
    assert_eq!(action.unwrap(), Action::requeue(CACHE_REQUEUE));
    assert_eq!(outline(&calls), [format!("GET {POD}")]);

    bench.fake.take(POD);
    let (_, calls) = bench.step().await;
    assert_eq!(outline(&calls), [&format!("GET {POD}"), STATUS, "Event PodDeleted"]);
    let status = bench.status();
    assert_eq!((&status["phase"], &status["disruptions"]), (&json!("Retrying"), &json!(1)));
    assert_eq!(status["message"], "the pod is gone and nobody saw it end");
}

#[tokio::test]
async fn a_forged_pod_of_its_name_keeps_no_job_running() {
    let bench = bench(None);
    bench.at_work(json!({}));
    bench.fake.put(
        POD,
        pod(
            json!({"ownerReferences": [{
        "apiVersion": "v1", "kind": "ConfigMap", "name": "render", "uid": "j1", "controller": true}]}),
            running(),
        ),
    );
    assert_eq!(outline(&bench.step().await.1), [&format!("GET {POD}"), STATUS, "Event PodDeleted"]);
    assert_eq!(bench.status()["phase"], "Retrying");
}

fn completed(bench: &Bench, metadata: Value) {
    let status = json!({"observedGeneration": 1, "phase": "Completed", "attempt": 1, "finishedAt": START});
    bench.job(metadata, json!({"ttlSecondsAfterFinished": 60}), status);
}

#[tokio::test]
async fn a_job_whose_time_is_up_is_deleted_by_uid() {
    let bench = bench(None);
    completed(&bench, json!({}));
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(Duration::from_secs(60)), vec![]));
    bench.at(60);
    let (_, calls) = bench.step().await;
    assert_eq!(outline(&calls), [format!("DELETE {JOB}")]);
    assert_eq!(calls[0].body["preconditions"], json!({"uid": "j1"}));
}

#[tokio::test]
async fn a_job_does_not_expire_before_the_mirror_has_it() {
    let bench = bench(None).with_mirror();
    completed(&bench, json!({}));
    bench.at(61);
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(MIRROR_POLL), vec![]));
    bench.in_mirror.store(true, Ordering::SeqCst);
    assert_eq!(outline(&bench.step().await.1), [format!("DELETE {JOB}")]);
}

#[tokio::test]
async fn a_job_that_was_held_for_the_mirror_is_let_go_once_the_mirror_has_it() {
    let held = || json!({"finalizers": ["x.io/other", "crofter.io/accounted"]});
    let bench = bench(None).with_mirror();
    completed(&bench, held());
    let (action, calls) = bench.step().await;
    assert_eq!(
        (action.unwrap(), outline(&calls)),
        (Action::requeue(MIRROR_POLL), vec![]),
        "nobody else asks again"
    );
    bench.at(58);
    assert_eq!(
        bench.step().await.0.unwrap(),
        Action::requeue(Duration::from_secs(2)),
        "and its time is kept"
    );
    bench.at(0);
    bench.in_mirror.store(true, Ordering::SeqCst);
    let (action, calls) = bench.step().await;
    assert_eq!(action.unwrap(), Action::requeue(Duration::from_secs(60)));
    assert_eq!(outline(&calls), [format!("PATCH {JOB}")]);
    assert_eq!(calls[0].body["metadata"]["finalizers"], json!(["x.io/other"]));

    // The same when its time is up: deleted with the finalizer on, it would stay for ever.
    bench.at(60);
    completed(&bench, held());
    assert_eq!(outline(&bench.step().await.1), [format!("PATCH {JOB}"), format!("DELETE {JOB}")]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_done_before_the_pods_are_known() {
    let mut bench = bench(None);
    bench.job(json!({}), json!({}), json!({"phase": "Retrying", "attempt": 1}));
    let (pods, mut unknown) = kube::runtime::reflector::store();
    let (jobs, mut job_writer) = mock::cache();
    put(&mut job_writer, bench.fake.get(JOB));
    let job = jobs.state().remove(0);
    (bench.context.jobs, bench.context.pods) = (jobs, pods);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (invalid, writer) = invalid_ext::cache();
    bench.context.invalid = invalid;
    let (told, all) = tokio::sync::mpsc::channel(1);
    told.send(Change::Applied(job)).await.unwrap();
    let running = tokio::spawn(run(
        Arc::new(bench.context),
        Changes { all, invalid: writer },
        stream::pending(),
        stream::pending(),
        stream::pending(),
        async { drop(stopped.await) },
    ));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(outline(&bench.fake.calls()), [""; 0], "its first pod may still run");
    mock::drop_all(&mut unknown);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(outline(&bench.fake.calls()), [STATUS]);
    stop.send(()).unwrap();
    running.await.unwrap();
}

#[tokio::test]
async fn a_draining_tenants_job_is_stopped_and_requeued_without_a_charge() {
    let mut bench = bench(None);
    bench.tenant(json!({"suspended": true, "suspendPolicy": "Drain"}));
    bench.at_work(json!({}));
    bench.at(10);
    put(&mut bench.pods, pod(json!({}), running()));
    assert_eq!(outline(&bench.step().await.1), [STATUS]);
    assert_eq!(bench.status()["reason"], "TenantSuspended");
    assert_eq!(outline(&bench.step().await.1), [format!("DELETE {POD}")]);

    let going = json!({"deletionTimestamp": time(36), "deletionGracePeriodSeconds": 30});
    put(&mut bench.pods, pod(going, ended(143)));
    assert_eq!(outline(&bench.step().await.1), [STATUS, "Event TenantSuspended"]);
    let status = bench.status();
    assert_eq!((&status["phase"], &status["retries"]), (&json!("Retrying"), &json!(0)));
    assert!(status["notBefore"].is_null(), "no back-off: {status}");

    mock::drop_all(&mut bench.pods);
    bench.step().await.0.unwrap();
    assert_eq!(bench.status()["phase"], "Queued");
}

#[tokio::test]
async fn a_holding_tenants_job_runs_on() {
    let mut bench = bench(None);
    bench.tenant(json!({"suspended": true}));
    bench.at_work(json!({}));
    put(&mut bench.pods, pod(json!({}), running()));
    assert_eq!(outline(&bench.step().await.1), [""; 0]);
}

#[tokio::test]
async fn a_paused_job_is_left_alone() {
    let mut bench = bench(admitted());
    put(&mut bench.pods, pod(json!({}), ended(0)));
    let job = |paused: &str| {
        bench.job(json!({"annotations": {"crofter.io/paused": paused}}), json!({}), json!({}));
    };
    job("true");
    let (action, calls) = bench.step().await;
    assert_eq!((action.unwrap(), outline(&calls)), (Action::await_change(), vec![]));
    job("false");
    assert_eq!(outline(&bench.step().await.1), [STATUS]);
}

/// Only an administrator pauses a job, and a pause keeps no tenant from its deletion.
#[tokio::test]
async fn being_paused_keeps_no_job_from_its_end() {
    const PAUSED: &str = "crofter.io/paused";
    let paused = || json!({"annotations": {PAUSED: "true"}});
    let deleted = json!({
        "annotations": {PAUSED: "true"}, "deletionTimestamp": "2030-01-01T00:00:00Z", "finalizers": ["x.io/x"],
    });
    for (metadata, spec) in [(paused(), json!({"canceled": true})), (deleted, json!({}))] {
        let bench = bench(None);
        bench.job(metadata, spec, json!({}));
        bench.step().await.0.unwrap();
        assert_eq!(bench.status()["phase"], "Canceled");
    }
    let running = json!({"phase": "Running", "attempt": 1, "reason": "Running"});
    let mut draining = bench(None);
    draining.tenant(json!({"suspended": true, "suspendPolicy": "Drain"}));
    draining.job(paused(), json!({}), running.clone());
    put(&mut draining.pods, pod(json!({}), self::running()));
    draining.step().await.0.unwrap();
    assert_eq!(draining.status()["reason"], "TenantSuspended");

    let mut late = bench(None);
    late.job(
        paused(),
        json!({}),
        json!({"phase": "Running", "attempt": 1, "reason": "Running", "node": "n1"}),
    );
    put(&mut late.pods, pod(json!({}), self::running()));
    late.at(6);
    let (action, calls) = late.step().await;
    let left = Duration::from_secs(30 * 60 - 1);
    assert_eq!((action.unwrap(), outline(&calls)), (Action::requeue(left), vec![]));
    *late.now.lock().unwrap() = time(5 + 30 * 60).parse().unwrap();
    assert_eq!(outline(&late.step().await.1), [format!("PATCH {POD}")]);
}

#[tokio::test]
async fn being_paused_keeps_no_end_from_the_status_where_the_tenant_or_the_pod_is_deleted() {
    let deleted = || json!({"deletionTimestamp": time(8), "finalizers": ["x.io/x"]});
    for (of_tenant, of_pod, calls) in [
        (json!({}), json!({}), vec![]),
        (deleted(), json!({}), vec![STATUS]),
        (json!({}), deleted(), vec![STATUS]),
    ] {
        let mut bench = bench(None);
        let mut tenant = json!({
            "metadata": {"name": "acme", "uid": "t1"}, "spec": {},
            "status": {"observedGeneration": 1, "namespace": "tenant-acme"},
        });
        mock::merge(&mut tenant, &json!({"metadata": of_tenant}));
        put(&mut bench.tenants, tenant);
        bench.job(
            json!({"annotations": {"crofter.io/paused": "true"}}),
            json!({}),
            json!({"phase": "Running", "attempt": 1, "reason": "Running", "node": "n1"}),
        );
        put(&mut bench.pods, pod(of_pod.clone(), ended(0)));
        bench.at(10);
        assert_eq!(outline(&bench.step().await.1), calls, "{of_tenant} {of_pod}");
        let phase = if calls.is_empty() { "Running" } else { "Completed" };
        assert_eq!(bench.status()["phase"], phase);
    }
}

#[tokio::test]
async fn changed_tenants_concern_their_jobs_that_have_not_ended() {
    let (jobs, mut writer) = mock::cache::<Job>();
    for (name, namespace, phase) in [
        ("runs", "tenant-acme", "Running"),
        ("done", "tenant-acme", "Failed"),
        ("other", "tenant-b", "Queued"),
    ] {
        let metadata = json!({"name": name, "namespace": namespace});
        put(&mut writer, json!({"metadata": metadata, "spec": {"image": "i"}, "status": {"phase": phase}}));
    }
    let (tenants, mut tenant_writer) = mock::cache::<Tenant>();
    put(&mut tenant_writer, json!({"metadata": {"name": "acme"}, "spec": {}}));
    let tenant = |generation: i64, phase: &str, active: i64| -> Arc<Tenant> {
        let status = json!({"phase": phase, "namespace": "tenant-acme", "usage": {"activeJobs": active}});
        let metadata = json!({"name": "acme", "uid": "t1", "generation": generation});
        Arc::new(serde_json::from_value(json!({"metadata": metadata, "spec": {}, "status": status})).unwrap())
    };
    let told =
        [tenant(1, "Active", 0), tenant(1, "Active", 3), tenant(2, "Active", 3), tenant(2, "Suspended", 3)];
    let last = tenant(2, "Suspended", 3);
    let one_by_one = stream::iter(told.clone()).then(async |tenant| {
        tokio::task::yield_now().await;
        tenant
    });
    let gone = stream::once(async move {
        tokio::task::yield_now().await;
        mock::drop_all(&mut tenant_writer);
        last
    });
    let names = |changes: BoxStream<'static, Arc<Tenant>>| {
        of_changed_tenants(changes, tenants.clone(), jobs.clone()).map(|job| job.name).collect::<Vec<_>>()
    };
    assert_eq!(names(stream::iter(told).boxed()).await, ["runs"], "told at once, looked for once");
    assert_eq!(
        names(one_by_one.chain(gone).boxed()).await,
        ["runs"; 4],
        "when it goes, too, and not for usage alone"
    );
}
