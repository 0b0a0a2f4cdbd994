//! The actor, with events as watches deliver them.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::{
    api::resource::Quantity,
    apis::meta::v1::{OwnerReference, Time},
};
use kube::runtime::{reflector::store::Writer, watcher::Event};
use serde_json::{Value, json};

use super::*;
use crate::{
    api_types::Reason,
    domain::{admission::Verdict, pod_create::Meaning},
    kube_ext::{
        mock,
        streams::{DistinctReceiver, distinct},
    },
    names,
};

struct World {
    scheduler: Scheduler,
    handle: SchedulerHandle,
    tenants: Writer<Tenant>,
    jobs: Writer<Job>,
    pods: [Writer<Pod>; 3],
    nodes: Writer<Node>,
    /// Never read, as by a controller that waits for a cache that can't be listed.
    _receivers: (DistinctReceiver<ObjectRef<Job>>, DistinctReceiver<ObjectRef<Tenant>>),
    _tables: (watch::Sender<Arc<Plans>>, watch::Sender<Arc<Scenarios>>),
}

fn object<K: serde::de::DeserializeOwned>(object: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(object).unwrap())
}

impl World {
    fn new(clock: Clock) -> Self {
        let ((tenants, tenants_writer), (jobs, jobs_writer)) = (mock::cache(), mock::cache());
        let ((nodes, nodes_writer), (pods, pods_writer)) = (mock::cache(), mock::cache());
        let ((others, others_writer), (foreign, foreign_writer)) = (mock::cache(), mock::cache());
        let caches = Caches { tenants, jobs, pods, nodes, others, foreign };
        let (plans_sender, plans) = watch::channel(Arc::new(Plans::built_in().unwrap()));
        let (scenarios_sender, scenarios) = watch::channel(Arc::new(Scenarios::default()));
        let ((requeued_jobs, of_jobs), (requeued_tenants, of_tenants)) = (distinct(), distinct());
        let gpu_resource = "example.com/gpu".to_owned();
        let sources = Sources { caches, plans, scenarios, gpu_resource, elastic: Vec::new(), clock };
        let handle = SchedulerHandle::of_sources(sources.clone());
        let outputs = Outputs {
            requeue: RequeueSenders { jobs: requeued_jobs, tenants: requeued_tenants },
            courtesy: CourtesyBudget::default(),
            metrics: Metrics::default(),
        };
        let scheduler = Scheduler::new(sources, handle.clone(), outputs);
        let tables = (plans_sender, scenarios_sender);
        Self {
            scheduler,
            handle,
            tenants: tenants_writer,
            jobs: jobs_writer,
            pods: [pods_writer, others_writer, foreign_writer],
            nodes: nodes_writer,
            _receivers: (of_jobs, of_tenants),
            _tables: tables,
        }
    }

    /// Lets the caches have an object, as the watches do before they deliver it.
    fn cache(&mut self, event: &WatchEvent) {
        let [pods, others, foreign] = &mut self.pods;
        match event {
            WatchEvent::Tenant(Change::Applied(tenant)) => put(&mut self.tenants, tenant),
            WatchEvent::Job(Change::Applied(job)) => put(&mut self.jobs, job),
            WatchEvent::Pod(Change::Applied(pod)) => put(pods, pod),
            WatchEvent::Node(Change::Applied(node)) => put(&mut self.nodes, node),
            WatchEvent::Other(Change::Applied(pod)) => put(others, pod),
            WatchEvent::Foreign(Change::Applied(pod)) => put(foreign, pod),
            _ => panic!("no object"),
        }
    }

    /// One whose caches are synced, with a tenant and a node that takes this number of pods.
    fn with_a_node(pods: u32) -> Self {
        let mut world = Self::new(Clock::of(|| Timestamp::UNIX_EPOCH));
        let quotas = json!({"maxBandwidthMbps": 1000});
        world.apply(vec![
            WatchEvent::Tenant(Change::Applied(tenant(json!({"plan": "pro", "quotas": quotas})))),
            node(pods),
        ]);
        world.scheduler.observer.begin();
        world
    }

    fn apply(&mut self, events: Vec<WatchEvent>) {
        self.scheduler.observer.apply(events);
        if self.scheduler.observer.is_ready() {
            self.scheduler.decide();
        }
    }

    fn put_job(&mut self, uid: &str, resources: Value) {
        let job = json!({"metadata": {"name": uid, "namespace": "tenant-acme", "uid": uid,
            "creationTimestamp": "1970-01-01T00:00:00Z"}, "spec": {"image": "i", "resources": resources}});
        mock::put(&mut self.jobs, job.clone());
        self.apply(vec![WatchEvent::Job(Change::Applied(object(job)))]);
    }

    fn delete_job(&mut self, uid: &str) {
        let job = self.scheduler.sources.caches.jobs.get(&ObjectRef::new(uid).within("tenant-acme")).unwrap();
        mock::drop_all(&mut self.jobs);
        self.apply(vec![WatchEvent::Job(Change::Deleted(job))]);
    }

    fn reason(&self, uid: &str) -> Option<Reason> {
        match self.handle.current_verdict(uid)? {
            Verdict::Wait(reason, _) | Verdict::Reject(reason, _) => Some(reason),
            Verdict::Admit(_) => Some(Reason::Admitted),
        }
    }

    fn active(&self) -> (i64, i64) {
        let usage = self.handle.usage("tenant-acme").unwrap();
        (usage.active_jobs, usage.bandwidth_mbps)
    }
}

fn put<K>(writer: &mut Writer<K>, object: &Arc<K>)
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    writer.apply_watcher_event(&Event::Apply(K::clone(object)));
}

fn tenant(spec: Value) -> Arc<Tenant> {
    object(
        json!({"metadata": {"name": "acme", "uid": "t"}, "spec": spec, "status": {"namespace": "tenant-acme"}}),
    )
}

fn node(pods: u32) -> WatchEvent {
    let taint = json!([{"key": names::NODE_ADMITTED, "value": "acme", "effect": "NoSchedule"}]);
    WatchEvent::Node(Change::Applied(object(json!({
        "metadata": {"name": "n1", "labels": {names::NODE_ADMITTED: "acme"}}, "spec": {"taints": taint},
        "status": {"allocatable": {"cpu": "8", "memory": "32Gi", "ephemeral-storage": "10Gi", "pods": pods.to_string()},
            "conditions": [{"type": "Ready", "status": "True"}]},
    }))))
}

/// A pod of a job, on the node.
fn pod(job: &str, phase: &str) -> Arc<Pod> {
    object(json!({
        "metadata": {"name": format!("{job}-1"), "namespace": "tenant-acme", "uid": format!("pod-{job}"),
            "labels": {names::LABEL_JOB_UID: job, names::LABEL_ATTEMPT: "1", names::LABEL_GROUP: "acme",
                names::LABEL_TENANT: "acme", names::LABEL_TENANT_UID: "t", names::LABEL_MANAGED_BY: names::MANAGER},
            "annotations": {"kubernetes.io/egress-bandwidth": "900M"},
            "ownerReferences": [{"apiVersion": "crofter.io/v1alpha1", "kind": "Job", "name": job, "uid": job,
                "controller": true}]},
        "spec": {"nodeName": "n1", "containers": [{"name": "job", "resources": {"requests": {"cpu": "1", "memory": "1Mi"}}}]},
        "status": {"phase": phase},
    }))
}

fn other_pod() -> Arc<Pod> {
    object(json!({"metadata": {"name": "other", "namespace": "default", "uid": "other"},
        "spec": {"nodeName": "n1", "containers": [{"name": "c"}]}, "status": {"phase": "Running"}}))
}

#[test]
fn pods_and_disk_are_room_like_all_else() {
    let mut world = World::with_a_node(3);
    world.apply(vec![WatchEvent::Other(Change::Applied(other_pod()))]);
    for uid in ["a", "b", "c"] {
        world.put_job(uid, json!({"cpu": "1"}));
    }
    let reasons = ["a", "b", "c"].map(|uid| world.reason(uid));
    let expected = [Reason::Admitted, Reason::Admitted, Reason::WaitingForCapacity];
    assert_eq!(reasons, expected.map(Some), "another one's pod is a pod, too");

    let mut world = World::with_a_node(110);
    for uid in ["a", "b"] {
        world.put_job(uid, json!({"ephemeralStorage": "6Gi"}));
    }
    assert_eq!(
        (world.reason("a"), world.reason("b")),
        (Some(Reason::Admitted), Some(Reason::WaitingForCapacity))
    );
}

#[test]
fn a_deleted_job_counts_against_the_quotas_until_its_pod_has_ended() {
    let mut world = World::with_a_node(110);
    world.put_job("a", json!({"bandwidthMbps": 900}));
    world.handle.claim("a", 1).unwrap();
    world.apply(vec![WatchEvent::Pod(Change::Applied(pod("a", "Running")))]);
    world.put_job("b", json!({"bandwidthMbps": 900}));
    assert_eq!((world.active(), world.reason("b")), ((1, 900), Some(Reason::WaitingForQuota)));
    world.delete_job("a");
    assert_eq!(
        (world.active(), world.reason("b")),
        ((1, 900), Some(Reason::WaitingForQuota)),
        "its pod runs on"
    );
    world.apply(vec![WatchEvent::Pod(Change::Applied(pod("a", "Failed")))]);
    assert_eq!((world.active(), world.reason("b")), ((1, 900), Some(Reason::Admitted)));
    world.apply(vec![WatchEvent::Pod(Change::Deleted(pod("a", "Failed")))]);
    assert_eq!(world.active(), (1, 900));
}

/// The time of day is set back by an hour while a job pauses because the API server refused its pod.
#[test]
fn a_clock_that_is_set_back_delays_no_job_whose_pod_was_refused() {
    let (wall, steady) = (Arc::new(AtomicI64::new(10_000)), Arc::new(AtomicI64::new(10_000)));
    let read = |seconds: &Arc<AtomicI64>| {
        let seconds = Arc::clone(seconds);
        move || Timestamp::from_second(seconds.load(Ordering::Relaxed)).unwrap()
    };
    let mut world = World::new(Clock::of(read(&steady)).set_to(read(&wall)));
    world.apply(vec![WatchEvent::Tenant(Change::Applied(tenant(json!({"plan": "pro"})))), node(110)]);
    world.scheduler.observer.begin();
    world.put_job("a", json!({}));
    world.handle.claim("a", 1).unwrap();
    assert_eq!(world.handle.pod_create_failed("a", 1, Meaning::GiveBack, "webhook".to_owned()), None);
    world.apply(vec![]);
    assert_eq!(world.reason("a"), Some(Reason::PodRefused));
    wall.store(6_400, Ordering::Relaxed);
    let wait = world.scheduler.next_wakeup().unwrap();
    assert!(wait <= Duration::from_secs(5), "{wait:?}");
    wall.store(6_405, Ordering::Relaxed);
    steady.store(10_005, Ordering::Relaxed);
    world.apply(vec![]);
    assert_eq!(world.reason("a"), Some(Reason::Admitted));
}

#[test]
fn after_a_restart_pods_whose_jobs_were_deleted_count_until_they_have_ended() {
    let mut world = World::new(Clock::of(|| Timestamp::UNIX_EPOCH));
    let acme = WatchEvent::Tenant(Change::Applied(tenant(json!({"plan": "pro", "quotas": {"maxJobs": 1}}))));
    world.apply(vec![acme, node(110), WatchEvent::Pod(Change::Applied(pod("a", "Running")))]);
    world.put_job("b", json!({}));
    world.scheduler.observer.begin();
    world.apply(vec![]);
    assert_eq!((world.active().0, world.reason("b")), (1, Some(Reason::WaitingForQuota)));
    world.apply(vec![WatchEvent::Pod(Change::Deleted(pod("a", "Running")))]);
    assert_eq!((world.active().0, world.reason("b")), (1, Some(Reason::Admitted)));
}

#[test]
fn after_a_restart_the_hour_has_the_retries_whose_pods_are_held() {
    let mut world = World::new(Clock::of(|| Timestamp::UNIX_EPOCH));
    let stored = |settled: i64, settling: &[&str]| {
        let window = json!({"resetsAt": "1970-01-01T01:00:00Z", "settled": settled, "settling": settling});
        let mut tenant = (*tenant(json!({"plan": "free"}))).clone();
        tenant.status.as_mut().unwrap().job_window = Some(serde_json::from_value(window).unwrap());
        WatchEvent::Tenant(Change::Applied(Arc::new(tenant)))
    };
    let attempt = |number: u32, retry: Option<&str>, held: bool| {
        let mut pod = (*pod("a", "Failed")).clone();
        let metadata = &mut pod.metadata;
        (metadata.name, metadata.uid) = (Some(format!("a-{number}")), Some(format!("pod-{number}")));
        metadata.creation_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        metadata.finalizers = held.then(|| vec![names::FINALIZER_ACCOUNTED.to_owned()]);
        let labels = metadata.labels.as_mut().unwrap();
        labels.insert(names::LABEL_ATTEMPT.to_owned(), number.to_string());
        labels.extend(retry.map(|retry| (names::LABEL_RETRY.to_owned(), retry.to_owned())));
        WatchEvent::Pod(Change::Applied(Arc::new(pod)))
    };
    // The first attempt is counted and gone, retry 1 counted with its pod still held, retry 2 not counted yet; attempt 4
    // followed a disruption.
    world.apply(vec![stored(2, &["a/1"]), node(110)]);
    for event in [attempt(2, Some("1"), true), attempt(3, Some("2"), true), attempt(4, None, true)] {
        world.apply(vec![event]);
    }
    world.scheduler.observer.begin();
    world.apply(vec![]);
    let used = |world: &World| world.handle.usage("tenant-acme").unwrap().jobs_this_hour;
    assert_eq!(used(&world), 3);
    world.apply(vec![attempt(2, Some("1"), false), attempt(3, Some("2"), false), attempt(4, None, false)]);
    assert_eq!(used(&world), 3);
}

/// A job of the tenant in the pool `gpu`, that asks for two cores.
fn pool_job(uid: &str, mut status: Value) -> WatchEvent {
    if status["phase"] != "Queued" {
        status["attempt"] = json!(1);
        status["workerGroup"] = json!(names::pool_group("gpu"));
    }
    let (spec, created) =
        (json!({"image": "i", "pool": "gpu", "resources": {"cpu": "2"}}), "1970-01-01T00:00:00Z");
    let metadata = json!({"name": uid, "namespace": "tenant-acme", "uid": uid, "creationTimestamp": created});
    WatchEvent::Job(Change::Applied(object(json!({"metadata": metadata, "spec": spec, "status": status}))))
}

/// The running pod of a job in that pool.
fn pool_pod(job: &str, cpu: &str) -> Arc<Pod> {
    let mut pod = (*pod(job, "Running")).clone();
    pod.metadata.creation_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    pod.metadata.labels.as_mut().unwrap().insert(names::LABEL_GROUP.to_owned(), names::pool_group("gpu"));
    let resources = pod.spec.as_mut().unwrap().containers[0].resources.as_mut().unwrap();
    resources.requests.as_mut().unwrap().insert("cpu".to_owned(), Quantity(cpu.to_owned()));
    Arc::new(pod)
}

/// Objects of every kind: the node of a pool with eight cores, all of which but one are used, a job `waits` for two, and
/// eight that ran before.
fn everything() -> Vec<WatchEvent> {
    let WatchEvent::Node(Change::Applied(node)) = node(110) else { unreachable!() };
    let mut node = (*node).clone();
    node.metadata.labels = Some([(names::NODE_ADMITTED.to_owned(), names::pool_group("gpu"))].into());
    node.spec.as_mut().unwrap().taints.as_mut().unwrap()[0].value = Some(names::pool_group("gpu"));
    let mut other = (*other_pod()).clone();
    other.spec.as_mut().unwrap().containers =
        pool_pod("other", "1").spec.as_ref().unwrap().containers.clone();
    let mut daemon = other.clone();
    daemon.metadata.uid = Some("daemon".to_owned());
    daemon.metadata.name = Some("daemon".to_owned());
    daemon.metadata.owner_references = Some(vec![OwnerReference {
        kind: "DaemonSet".to_owned(),
        controller: Some(true),
        ..OwnerReference::default()
    }]);
    let mut events = vec![
        WatchEvent::Tenant(Change::Applied(tenant(json!({"plan": "pro", "sharedPools": ["gpu"]})))),
        WatchEvent::Node(Change::Applied(Arc::new(node))),
        pool_job("runs", json!({"phase": "Running", "startedAt": "1970-01-01T00:00:10Z"})),
        pool_job("waits", json!({"phase": "Queued"})),
        WatchEvent::Pod(Change::Applied(pool_pod("runs", "3"))),
        WatchEvent::Pod(Change::Applied(pool_pod("deleted", "1"))),
        WatchEvent::Other(Change::Applied(Arc::new(other))),
        WatchEvent::Other(Change::Applied(Arc::new(daemon))),
        WatchEvent::Foreign(Change::Applied(pool_pod("forged", "1"))),
    ];
    events.extend((0..8).map(|n| {
        let attempt = json!({"attempt": 1, "pod": "p", "startedAt": "1970-01-01T00:00:00Z", "reason": "Succeeded",
            "finishedAt": format!("1970-01-01T00:{:02}:00Z", 10 + n), "cpuMillicores": 1, "memoryBytes": 1, "gpus": 0,
            "bandwidthMbps": 0});
        pool_job(&format!("ran-{n}"), json!({"phase": "Completed", "attempts": [attempt]}))
    }));
    events
}

/// The handle of a process that does not schedule, with these objects and a job of this UID that waits as `waits` does.
pub(crate) fn following(waits: &str) -> SchedulerHandle {
    let mut world = World::new(Clock::of(|| Timestamp::from_second(120).unwrap()));
    everything().iter().for_each(|event| world.cache(event));
    world.cache(&pool_job(waits, json!({"phase": "Queued"})));
    world.handle
}

#[test]
fn a_process_that_does_not_schedule_estimates_a_start_as_a_scheduler_that_has_just_begun() {
    let clock = || Clock::of(|| Timestamp::from_second(120).unwrap());
    let (mut scheduling, mut following) = (World::new(clock()), World::new(clock()));
    for event in everything() {
        [&mut scheduling, &mut following].into_iter().for_each(|world| world.cache(&event));
        scheduling.apply(vec![event]);
    }
    scheduling.scheduler.observer.begin();
    scheduling.apply(vec![]);
    let [expected, found] = [&scheduling, &following].map(|world| {
        let estimate = world.handle.forecast("waits", &clock()).unwrap().estimate(7, || true);
        (estimate, format!("{:?}", world.handle.copied_pool_shares("waits")))
    });
    assert_eq!(found, expected);
    let minutes = expected.0.unwrap().median.as_mins();
    assert!((8..=15).contains(&minutes), "it waits for a job like those that ran: {minutes}");
    assert!(expected.1.contains("gpu"), "{}", expected.1);
    assert!(
        !following.handle.is_ready() && following.handle.current_verdict("waits").is_none(),
        "it decides nothing"
    );
}

#[test]
fn before_all_caches_are_synced_nothing_is_estimated() {
    let mut world = World::new(Clock::system());
    everything().iter().for_each(|event| world.cache(event));
    let known = |world: &World| world.handle.forecast("waits", &Clock::system()).is_ok();
    assert!(known(&world));
    let mut sources = world.scheduler.sources;
    sources.caches.foreign = kube::runtime::reflector::store().0;
    world.handle = SchedulerHandle::of_sources(sources.clone());
    world.scheduler = Scheduler::new(sources, world.handle.clone(), world.scheduler.outputs);
    assert!(!known(&world));
}

/// Prints what a snapshot costs with 10,000 jobs that wait and 2,000 that run.
#[test]
#[ignore = "a measurement"]
fn costs_of_a_snapshot() {
    let mut world = World::new(Clock::system());
    everything().iter().for_each(|event| world.cache(event));
    for n in 0..10_000 {
        world.cache(&pool_job(&format!("waits-{n}"), json!({"phase": "Queued"})));
    }
    for n in 0..2_000 {
        let uid = format!("runs-{n}");
        world.cache(&pool_job(&uid, json!({"phase": "Running", "startedAt": "1970-01-01T00:00:10Z"})));
        world.cache(&WatchEvent::Pod(Change::Applied(pool_pod(&uid, "2"))));
    }
    let begun = std::time::Instant::now();
    let snapshot = snapshot::snapshot(&world.scheduler.sources).unwrap();
    println!("a snapshot takes {:?}", begun.elapsed());
    assert!(snapshot.0.unfinished_job("waits-9999").is_some());
}

#[test]
fn controllers_that_requeue_nothing_do_not_stop_the_scheduler() {
    let mut world = World::with_a_node(110);
    world.apply(vec![WatchEvent::Tenant(Change::Applied(tenant(
        json!({"plan": "pro", "quotas": {"maxCpuCores": 0}}),
    )))]);
    for n in 0..10_000 {
        world.put_job(&format!("j{n}"), json!({}));
    }
    assert_eq!(world.reason("j9999"), Some(Reason::ExceedsQuota));
}

/// A channel with the end of a list in it.
fn synced<K: kube::Resource>() -> (mpsc::Sender<Change<K>>, mpsc::Receiver<Change<K>>) {
    let (sender, receiver) = mpsc::channel(1);
    assert!(sender.try_send(Change::Synced).is_ok());
    (sender, receiver)
}

/// No watch reports that the API server refused a pod.
#[tokio::test(start_paused = true)]
async fn a_job_whose_pod_was_refused_gets_its_reason_and_its_next_try_though_nothing_else_happens() {
    let begun = tokio::time::Instant::now();
    let mut world = World::new(Clock::of(move || {
        Timestamp::UNIX_EPOCH + jiff::SignedDuration::try_from(begun.elapsed()).unwrap()
    }));
    world.apply(vec![WatchEvent::Tenant(Change::Applied(tenant(json!({"plan": "pro"})))), node(110)]);
    world.put_job("j", json!({}));
    let ((_tenants, tenants), (_jobs, jobs), (_pods, pods)) = (synced(), synced(), synced());
    let ((_nodes, nodes), (_others, others), (_foreign, foreign)) = (synced(), synced(), synced());
    let changes = Changes { tenants, jobs, pods, nodes, others, foreign };
    let running = tokio::spawn(world.scheduler.run(changes));
    let second = Duration::from_secs(1);
    tokio::time::sleep(second).await;
    let handle = world.handle;
    for _ in 0..3 {
        while handle.claim("j", 1).is_none() {
            assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", handle.verdict("j"));
            tokio::time::sleep(second).await;
        }
        assert_eq!(handle.pod_create_failed("j", 1, Meaning::GiveBack, "no".to_owned()), None);
        tokio::time::sleep(second).await;
        assert_eq!(handle.verdict("j"), Some(Verdict::Wait(Reason::PodRefused, "no".to_owned())));
    }
    running.abort();
}

#[tokio::test(start_paused = true)]
async fn before_all_caches_are_synced_an_expired_tenant_changes_nothing() {
    let looks = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&looks);
    let world = World::new(Clock::of(move || {
        // A loop ends here: while it runs, paused time does not advance.
        assert!(counted.fetch_add(1, Ordering::Relaxed) < 10, "the scheduler reads the clock over and over");
        Timestamp::from_second(1000).unwrap()
    }));
    // It expires while the watch of nodes can't be synced.
    let mut scheduler = world.scheduler;
    scheduler.observer.phase_changes.insert((Timestamp::from_second(900).unwrap(), "acme".to_owned()));
    let (tenants_sender, tenants) = mpsc::channel(1);
    let (jobs_sender, jobs) = mpsc::channel(1);
    let (pods_sender, pods) = mpsc::channel(1);
    let (nodes_sender, nodes) = mpsc::channel(1);
    let (others_sender, others) = mpsc::channel(1);
    let (foreign_sender, foreign) = mpsc::channel(1);
    let running = tokio::spawn(scheduler.run(Changes { tenants, jobs, pods, nodes, others, foreign }));
    tenants_sender.send(Change::Synced).await.unwrap();
    // Paused time advances when every task waits.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!running.is_finished(), "{} reads of the clock", looks.load(Ordering::Relaxed));
    running.abort();
    drop((jobs_sender, pods_sender, nodes_sender, others_sender, foreign_sender));
}
