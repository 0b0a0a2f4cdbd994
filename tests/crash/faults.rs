//! What may befall a job, each with the states that it goes through, the reason, and never two live pods.

use crofter::api_types::{Job, JobPhase, JobStatus};
use crofter_test_cluster::wait;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{DeleteParams, EvictParams},
    runtime::watcher,
};
use serde_json::{Value, json};

use crate::{
    OPERATOR_FAULTS,
    common::{Verbs, WAIT_TIMEOUT, World, namespace, now, phase, reason},
    fault_free,
    history::{History, Seen, check_jobs, check_pods, of_pods, transitions},
    kubelet::{ended, endless, evicted, silent, with},
};

/// A tenant with one worker, and all that becomes of its jobs and pods.
struct Scene<'a> {
    verbs: Verbs<'a>,
    tenant: &'static str,
    jobs: History<Job>,
    pods: History<Pod>,
}

impl<'a> Scene<'a> {
    async fn new(world: &'a World, tenant: &'static str, spec: Value) -> Self {
        let verbs = world.verbs().await;
        let jobs = History::start(verbs.jobs(tenant), watcher::Config::default()).await;
        let pods = of_pods(verbs.within(&namespace(tenant))).await;
        verbs.tenant(tenant, with(json!({"plan": "basic"}), spec)).await;
        verbs.worker(&format!("{tenant}-1"), tenant, "4").await;
        Self { verbs, tenant, jobs, pods }
    }

    async fn job(&self, name: &str, spec: Value) {
        self.verbs.job(self.tenant, name, spec).await;
    }

    /// Submits a job after all before it.
    async fn later_job(&self, name: &str, spec: Value) {
        self.verbs.later_job(self.tenant, name, spec).await;
    }

    async fn until(&self, name: &str, phase: JobPhase) -> Job {
        self.verbs.until_phase(self.tenant, name, phase).await
    }

    /// Waits until that attempt is in a phase.
    async fn until_attempt(&self, name: &str, attempt: i32, at: JobPhase) -> Job {
        let there = |job: &Job| phase(job) == at && status(job).attempt == attempt;
        self.verbs.until_job(self.tenant, name, &format!("attempt {attempt} {at}"), there).await
    }

    async fn cancel(&self, name: &str) {
        self.verbs.patch_job(self.tenant, name, json!({"spec": {"canceled": true}})).await.unwrap();
    }

    async fn suspended(&self, suspended: bool) {
        self.verbs.patch_tenant(self.tenant, json!({"spec": {"suspended": suspended}})).await.unwrap();
    }

    /// Where a job has been, with the reasons; but for Assigned, which a pod that starts at once skips.
    async fn way(&self, job: &Job) -> Vec<String> {
        self.jobs.reaches(job).await;
        let all = transitions(&self.jobs.whole());
        let its =
            all.into_iter().filter(|(_, to, then)| then.uid() == job.uid() && *to != JobPhase::Assigned);
        its.map(|(_, to, job)| format!("{to} {}", reason(&job))).collect()
    }

    /// Checks all that must hold of every version of every pod and job.
    fn check(&self) {
        check_pods(&self.pods.whole());
        check_jobs(&self.jobs.whole());
    }
}

fn status(job: &Job) -> &JobStatus {
    job.status.as_ref().unwrap()
}

fn message(job: &Job) -> &str {
    status(job).message.as_deref().unwrap_or_default()
}

/// Attempts on record, with their reasons.
fn attempts(job: &Job) -> Vec<(i32, &str)> {
    status(job).attempts.iter().map(|record| (record.attempt, record.reason.as_str())).collect()
}

/// What `kubectl drain` does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_is_evicted_is_run_again() {
    let scene = Scene::new(fault_free(), "evictee", json!({})).await;
    scene.job("j", with(endless(), json!({"maxRetries": 1}))).await;
    scene.job("once", with(endless(), json!({"maxRetries": 0}))).await;
    let pods = scene.verbs.within::<Pod>(&namespace("evictee"));
    let evict = async |job: Job| {
        pods.evict(status(&job).pod.as_ref().unwrap(), &EvictParams::default()).await.unwrap();
    };
    evict(scene.until_attempt("j", 1, JobPhase::Running).await).await;
    evict(scene.until_attempt("j", 2, JobPhase::Running).await).await;
    let third = scene.until_attempt("j", 3, JobPhase::Running).await;
    assert_eq!(
        (status(&third).retries, status(&third).disruptions),
        (0, 2),
        "more often than it may be retried"
    );
    assert_eq!(attempts(&third), [(1, "Evicted"), (2, "Evicted")]);
    let again = ["Running Running", "Retrying Evicted", "Queued Queued"];
    assert_eq!(scene.way(&third).await, [&again[..], &again[..], &again[..1]].concat());
    evict(scene.until_attempt("once", 1, JobPhase::Running).await).await;
    let failed = scene.until("once", JobPhase::Failed).await;
    let sentence = "Eviction API: evicting; no retry is left (0 of 0)";
    assert_eq!((message(&failed), attempts(&failed)), (sentence, vec![(1, "Evicted")]));
    scene.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_deleted_by_hand_is_run_again_wherever_it_was() {
    let scene = Scene::new(fault_free(), "deletee", json!({})).await;
    scene.job("runs", endless()).await;
    scene.job("starts", silent()).await;
    scene.verbs.delete_pod("deletee", &scene.until("runs", JobPhase::Running).await).await;
    scene.verbs.delete_pod("deletee", &scene.until("starts", JobPhase::Assigned).await).await;
    let running = scene.until_attempt("runs", 2, JobPhase::Running).await;
    let assigned = scene.until_attempt("starts", 2, JobPhase::Assigned).await;
    for job in [&running, &assigned] {
        assert_eq!((status(job).retries, status(job).disruptions), (0, 1), "{}", job.name_any());
        assert_eq!(attempts(job), [(1, "PodDeleted")], "{}", job.name_any());
    }
    assert!(status(&running).running_millis > 0 || status(&running).attempts[0].started_at.is_some());
    assert_eq!(status(&assigned).attempts[0].started_at, None, "it never ran");
    assert_eq!(
        scene.way(&running).await,
        ["Running Running", "Retrying PodDeleted", "Queued Queued", "Running Running"]
    );
    assert_eq!(scene.way(&assigned).await, ["Retrying PodDeleted", "Queued Queued"]);
    scene.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_jobs_own_end_is_tried_again_only_under_always() {
    let scene = Scene::new(fault_free(), "stubborn", json!({})).await;
    let always = json!({"retryPolicy": "Always", "maxRetries": 1});
    let late = json!({"timeoutSeconds": 1});
    for (name, more) in [
        ("code", json!({})),
        ("code-always", always.clone()),
        ("late", late.clone()),
        ("late-always", with(late, always)),
    ] {
        scene.job(name, with(endless(), more)).await;
    }
    for (name, attempt) in [("code", 1), ("code-always", 1), ("code-always", 2)] {
        let job = scene.until_attempt(name, attempt, JobPhase::Running).await;
        scene.verbs.kubelet(&job, ended(3)).await;
    }
    let once = |why: &str, end: &str| vec!["Running Running".to_owned(), format!("{end} {why}")];
    let twice = |why: &str, end: &str| {
        [once(why, "Retrying"), vec!["Queued Queued".to_owned()], once(why, end)].concat()
    };
    let no_retry = "; no retry is left (1 of 1)";
    for (name, end, why, words, more) in [
        ("code", JobPhase::Failed, "NonZeroExit", "exit code 3", ""),
        ("code-always", JobPhase::Failed, "NonZeroExit", "exit code 3", no_retry),
        ("late", JobPhase::TimedOut, "DeadlineExceeded", "ran longer than its timeout", ""),
        ("late-always", JobPhase::TimedOut, "DeadlineExceeded", "ran longer than its timeout", no_retry),
    ] {
        let job = scene.until(name, end).await;
        assert_eq!((reason(&job), message(&job)), (why, format!("{words}{more}").as_str()), "{name}");
        let (records, way) = match more {
            "" => (vec![(1, why)], once(why, end.into())),
            _ => (vec![(1, why), (2, why)], twice(why, end.into())),
        };
        assert_eq!((attempts(&job), scene.way(&job).await), (records, way), "{name}");
        // Attempt 2 had the full timeout again.
        assert!(
            status(&job).attempts.iter().all(|a| a.running_millis() >= 1000),
            "{:?}",
            status(&job).attempts
        );
    }
    scene.check();
}

/// The operator runs with a limit that a test can wait for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_does_not_start_in_time_is_given_up() {
    let (world, _exclusive) = OPERATOR_FAULTS.take().await;
    world.operator_flags(&["--start-limit-seconds", "5"]);
    world.start_operator();
    let scene = Scene::new(world, "imageless", json!({})).await;
    let spec = json!({"maxRetries": 1, "parameters": {"outcome": "ImagePullBackOff"}});
    scene.job("j", spec).await;
    let failed = scene.until("j", JobPhase::Failed).await;
    let said = "the pod did not start within 5s: ImagePullBackOff: Back-off pulling image \"crofter.test/busybox:1\"";
    assert_eq!(message(&failed), format!("{said}; no retry is left (1 of 1)"));
    assert_eq!(attempts(&failed), [(1, "StartTimeout"), (2, "StartTimeout")]);
    assert!(status(&failed).attempts.iter().all(|a| a.started_at.is_none() && a.exit_code.is_none()));
    let waited = status(&failed).finished_at.as_ref().unwrap().0;
    let waited = waited.duration_since(status(&failed).assigned_at.as_ref().unwrap().0);
    assert!(waited >= SignedDuration::from_secs(4), "given up after {waited:#}");
    assert_eq!(scene.way(&failed).await, ["Retrying StartTimeout", "Queued Queued", "Failed StartTimeout"]);
    scene.check();
}

/// Once, and not four times five minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_image_has_no_name_ends_at_once_with_the_kubelets_words() {
    let scene = Scene::new(fault_free(), "nameless", json!({})).await;
    scene.job("j", silent()).await;
    let assigned = scene.until("j", JobPhase::Assigned).await;
    let words = "couldn't parse image name \"UPPER/Case:tag\"";
    let waiting = json!({"waiting": {"reason": "InvalidImageName", "message": words}});
    let container = json!({"name": "job", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": waiting});
    scene.verbs.kubelet(&assigned, json!({"phase": "Pending", "containerStatuses": [container]})).await;
    let failed = scene.until("j", JobPhase::Failed).await;
    assert_eq!(
        (reason(&failed), message(&failed)),
        ("InvalidImageName", format!("InvalidImageName: {words}").as_str())
    );
    assert_eq!((attempts(&failed), status(&failed).running_millis), (vec![(1, "InvalidImageName")], 0));
    assert_eq!(scene.way(&failed).await, ["Failed InvalidImageName"]);
    scene.check();
}

/// A job in each state, canceled in it, and the same job deleted in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_can_be_canceled_and_deleted_in_every_state() {
    let scene = Scene::new(fault_free(), "caller", json!({})).await;
    let too_much = json!({"resources": {"cpu": "4"}});
    for way in ["cancel", "delete"] {
        scene.job(&format!("{way}-running"), endless()).await;
        scene.job(&format!("{way}-assigned"), silent()).await;
        scene.job(&format!("{way}-retrying"), endless()).await;
        scene.job(&format!("{way}-requeued"), endless()).await;
        scene.job(&format!("{way}-completed"), endless()).await;
        for name in ["running", "retrying", "requeued", "completed"] {
            scene.until(&format!("{way}-{name}"), JobPhase::Running).await;
        }
        scene.until(&format!("{way}-assigned"), JobPhase::Assigned).await;
        scene.job(&format!("{way}-queued"), too_much.clone()).await;
        scene.verbs.until_reason("caller", &format!("{way}-queued"), "WaitingForCapacity").await;
    }
    // What is to be tried again waits: nothing is admitted any more, and what runs runs on. Before the evictions, or a slow
    // machine would start the next attempt first.
    scene.suspended(true).await;
    let jobs = scene.verbs.jobs("caller");
    for way in ["cancel", "delete"] {
        for (name, said) in [("requeued", evicted()), ("completed", ended(0))] {
            let name = format!("{way}-{name}");
            scene.verbs.kubelet(&jobs.get(&name).await.unwrap(), said).await;
        }
        scene.until(&format!("{way}-completed"), JobPhase::Completed).await;
    }
    for way in ["cancel", "delete"] {
        let name = format!("{way}-requeued");
        scene.until(&name, JobPhase::Queued).await;
        scene.verbs.until_reason("caller", &name, "TenantSuspended").await;
        let name = format!("{way}-retrying");
        scene.verbs.next_pause_is_long("caller", &name).await;
        scene.verbs.kubelet(&jobs.get(&name).await.unwrap(), evicted()).await;
        scene.until(&name, JobPhase::Retrying).await;
        let act = async |state: &str| match way {
            "cancel" => scene.cancel(&format!("cancel-{state}")).await,
            _ => drop(jobs.delete(&format!("delete-{state}"), &DeleteParams::default()).await.unwrap()),
        };
        for state in ["retrying", "requeued", "queued", "assigned", "running", "completed"] {
            act(state).await;
        }
    }
    for (state, words, records) in [
        ("queued", "canceled while queued", vec![]),
        ("assigned", "canceled before it ran", vec![(1, "Canceled")]),
        ("running", "canceled while it ran", vec![(1, "Canceled")]),
        ("retrying", "canceled after attempt 1", vec![(1, "Evicted")]),
        ("requeued", "canceled while queued", vec![(1, "Evicted")]),
    ] {
        let job = scene.until(&format!("cancel-{state}"), JobPhase::Canceled).await;
        assert_eq!((reason(&job), message(&job), attempts(&job)), ("Canceled", words, records), "{state}");
        scene.verbs.until_deleted(&jobs, &format!("delete-{state}")).await;
    }
    let seen = |job: &Job| Some(status(job).observed_generation) == job.metadata.generation;
    let completed = scene.verbs.until_job("caller", "cancel-completed", "an observed spec", seen).await;
    assert_eq!((phase(&completed), reason(&completed)), (JobPhase::Completed, "Succeeded"));
    scene.verbs.until_deleted(&jobs, "delete-completed").await;
    let pods = scene.verbs.within::<Pod>(&namespace("caller"));
    let deleted = |seen: &Seen<Pod>| seen.object().name_any().starts_with("delete-");
    for pod in scene.pods.whole().iter().filter(|seen| deleted(seen)) {
        scene.verbs.until_deleted(&pods, &pod.object().name_any()).await;
    }
    scene.check();
}

/// A suspension by mistake, reverted while the pods are still ending: no job is charged a retry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_is_called_off_half_way_costs_no_retry() {
    // Given a running and a starting job whose pods take 5 s to end.
    let scene = Scene::new(fault_free(), "hasty", json!({"suspendPolicy": "Drain"})).await;
    let slow = |outcome: &str| json!({"maxRetries": 0, "parameters": {"outcome": outcome, "run-seconds": "forever", "stop-seconds": "5"}});
    scene.job("runs", slow("")).await;
    scene.job("starts", slow("Pending")).await;
    scene.until("runs", JobPhase::Running).await;
    scene.until("starts", JobPhase::Assigned).await;
    // When the tenant is suspended, both pods are deleted.
    scene.suspended(true).await;
    let pods = scene.verbs.within::<Pod>(&namespace("hasty"));
    for (name, at) in [("runs", JobPhase::Running), ("starts", JobPhase::Assigned)] {
        let stopping = scene.verbs.until_reason("hasty", name, "TenantSuspended").await;
        let words = "attempt 1 is being stopped: the tenant is suspended";
        assert_eq!((phase(&stopping), message(&stopping)), (at, words));
        wait::until(WAIT_TIMEOUT, "the pod to be deleted", || async {
            let pod = pods.get(status(&stopping).pod.as_ref().unwrap()).await.unwrap();
            pod.metadata.deletion_timestamp.ok_or(pod.metadata.generation)
        })
        .await
        .unwrap();
    }
    // When it is active again before they have ended, both jobs run again.
    scene.suspended(false).await;
    let running = scene.until_attempt("runs", 2, JobPhase::Running).await;
    let assigned = scene.until_attempt("starts", 2, JobPhase::Assigned).await;
    // Then neither is charged a retry.
    for job in [&running, &assigned] {
        assert_eq!(
            (status(job).retries, attempts(job)),
            (0, vec![(1, "TenantSuspended")]),
            "{}",
            job.name_any()
        );
    }
    let way = ["Running Running", "Retrying TenantSuspended", "Queued Queued", "Running Running"];
    assert_eq!(scene.way(&running).await, way);
    scene.check();
}

/// Expired, extended, suspended, active again: the job that waited first starts first, with room for one at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_that_is_active_again_keeps_the_order_of_its_jobs() {
    let scene = Scene::new(fault_free(), "sleeper", json!({"suspendPolicy": "Drain"})).await;
    let alone = |more: Value| with(endless(), with(json!({"resources": {"cpu": "3"}}), more));
    let (live, batch) = (json!({"queue": "live"}), json!({"queue": "batch"}));
    scene.job("first", alone(json!({}))).await;
    scene.until("first", JobPhase::Running).await;
    scene.later_job("second", alone(json!({}))).await;
    scene.later_job("last", alone(batch)).await;
    for name in ["second", "last"] {
        scene.verbs.until_reason("sleeper", name, "WaitingForCapacity").await;
    }
    let past = now() - SignedDuration::from_secs(1);
    scene.verbs.patch_tenant("sleeper", json!({"spec": {"expiresAt": past}})).await.unwrap();
    for name in ["first", "second", "last"] {
        scene.verbs.until_reason("sleeper", name, "TenantExpired").await;
        scene.until(name, JobPhase::Queued).await;
    }
    // Submitted while nothing starts: one in another queue, one in the same.
    scene.later_job("urgent", alone(live)).await;
    scene.later_job("third", alone(json!({}))).await;
    for name in ["urgent", "third"] {
        scene.verbs.until_reason("sleeper", name, "TenantExpired").await;
    }
    scene.verbs.patch_tenant("sleeper", json!({"spec": {"expiresAt": null}})).await.unwrap();
    for name in ["urgent", "first"] {
        let job = scene.until(name, JobPhase::Running).await;
        if name == "first" {
            assert_eq!((status(&job).retries, attempts(&job)), (0, vec![(1, "TenantExpired")]));
        }
        scene.verbs.kubelet(&job, ended(0)).await;
    }
    // Suspended for a while: the same again.
    scene.until("second", JobPhase::Running).await;
    scene.suspended(true).await;
    scene.until("second", JobPhase::Queued).await;
    scene.suspended(false).await;
    for name in ["second", "third", "last"] {
        scene.verbs.kubelet(&scene.until(name, JobPhase::Running).await, ended(0)).await;
    }
    scene.until("last", JobPhase::Completed).await;
    let runs = |(_, to, job): (JobPhase, JobPhase, Job)| (to == JobPhase::Running).then(|| job.name_any());
    let order: Vec<_> = transitions(&scene.jobs.whole()).into_iter().filter_map(runs).collect();
    assert_eq!(order, ["first", "urgent", "first", "second", "second", "third", "last"]);
    scene.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_has_ended_any_way_stays_for_its_time_and_goes() {
    const STAYS: SignedDuration = SignedDuration::from_secs(6);
    let scene = Scene::new(fault_free(), "mortal", json!({})).await;
    let ttl = |more: Value| with(more, json!({"ttlSecondsAfterFinished": STAYS.as_secs()}));
    let ends = [
        ("completes", json!({}), JobPhase::Completed),
        ("fails", json!({"parameters": {"exit-code": "1"}}), JobPhase::Failed),
        ("late", with(endless(), json!({"timeoutSeconds": 1})), JobPhase::TimedOut),
        ("refused", json!({"resources": {"gpus": 4}}), JobPhase::Rejected),
        ("canceled", json!({"canceled": true}), JobPhase::Canceled),
    ];
    for (name, spec, _) in &ends {
        scene.job(name, ttl(spec.clone())).await;
    }
    scene.job("stays", json!({})).await;
    let goes = async |name: &str, end: JobPhase| {
        let job = scene.until(name, end).await;
        scene.verbs.until_deleted(&scene.verbs.jobs("mortal"), name).await;
        let stayed = now().duration_since(status(&job).finished_at.as_ref().unwrap().0);
        assert!(stayed >= STAYS, "{name} went after {stayed:#}");
    };
    futures::future::join_all(ends.iter().map(|(name, _, end)| goes(name, *end))).await;
    scene.until("stays", JobPhase::Completed).await;
    scene.check();
}
