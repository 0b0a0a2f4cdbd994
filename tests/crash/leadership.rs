//! Two replicas on a real API server: one leads, the other takes over when that is killed, stopped, frozen or cut off, and
//! both serve the REST API all the time.

use std::{net::TcpListener, path::PathBuf, sync::Mutex, time::Duration};

use crofter::{
    api_types::{Job, JobPhase},
    domain::leadership::LEASE_DURATION,
    names,
};
use crofter_test_cluster::{
    process::{self, Process, Signal},
    wait,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    coordination::v1::{Lease, LeaseSpec},
    core::v1::Pod,
};
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    API_FAULTS, OPERATOR_FAULTS,
    audit::{Audit, Request},
    common::{Verbs, WAIT_TIMEOUT, World, now, phase, rest, world::ask},
    estimates,
    fake_clock::FakeClock,
    history::{check_completed_once, check_pods, of_pods},
};

/// One of several operators. Its pod, its user and its log have its name.
pub struct Replica<'a> {
    world: &'a World,
    name: &'static str,
    kubeconfig: PathBuf,
    metrics_port: u16,
    pub api_port: u16,
    clock: FakeClock,
    process: Mutex<Process>,
}

impl<'a> Replica<'a> {
    pub fn start(world: &'a World, name: &'static str) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (metrics, api) = (free(), free());
        let [metrics_port, api_port] = [metrics, api].map(|socket| socket.local_addr().unwrap().port());
        let kubeconfig = world.cluster.kubeconfig_for_user(name, &["system:masters"]).unwrap();
        let clock = FakeClock::new(world.cluster.dir(), name);
        let start =
            world.start_replica(name, &kubeconfig, metrics_port, api_port, |command| clock.apply(command));
        let process = Mutex::new(start);
        Self { world, name, kubeconfig, metrics_port, api_port, clock, process }
    }

    /// Starts it again, as a kubelet does.
    fn restart(&self) {
        let Self { world, name, kubeconfig, metrics_port, api_port, clock, .. } = self;
        *self.process.lock().unwrap() =
            world.start_replica(name, kubeconfig, *metrics_port, *api_port, |command| clock.apply(command));
    }

    /// Starts it again where it has ended because it lost the Lease.
    fn restart_if_deposed(&self) {
        if self.is_deposed() {
            self.restart();
        }
    }

    /// Whether it has ended because it lost the Lease. It must not have ended in another way.
    fn is_deposed(&self) -> bool {
        let ended = self.process.lock().unwrap().check();
        let Err(error) = ended else { return false };
        assert!(matches!(error, process::Error::Ended { status, .. } if status.code() == Some(1)), "{error}");
        assert!(self.log().contains("this replica has lost the Lease"), "{}", self.log());
        true
    }

    pub fn signal(&self, signal: Signal) {
        self.process.lock().unwrap().signal(signal).unwrap();
    }

    fn kill(&self) {
        self.process.lock().unwrap().kill().unwrap();
    }

    pub async fn until_ready(&self) {
        wait::until(WAIT_TIMEOUT, &format!("{} to be ready", self.name), || {
            ask(self.metrics_port, "/readyz")
        })
        .await
        .unwrap();
    }

    pub async fn leads(&self) -> bool {
        self.says_it_leads().await == Some(true)
    }

    /// Whether it says that it leads; `None` where it says nothing.
    async fn says_it_leads(&self) -> Option<bool> {
        let metrics = ask(self.metrics_port, "/metrics").await.ok()?;
        Some(metrics.lines().any(|line| line == "crofter_leader{} 1"))
    }

    /// Waits until it leads; how long that took.
    pub async fn until_leads(&self) -> Duration {
        let begun = Instant::now();
        wait::until(WAIT_TIMEOUT, &format!("{} to lead", self.name), || async {
            if self.leads().await { Ok(()) } else { Err("it follows") }
        })
        .await
        .unwrap();
        begun.elapsed()
    }

    /// Sets its clock to this much from that of the machine, and waits until its log says so: it has a line for each request
    /// for a change.
    async fn set_clock(&self, offset: SignedDuration) {
        self.clock.set(&format!("{:+}", offset.as_secs()));
        wait::until(WAIT_TIMEOUT, &format!("{} at {offset:#}", self.name), || async {
            rest::ask_at(self.api_port, "POST", "/v1/jobs", "none", None).await?;
            let log = self.log();
            let line = log.lines().rfind(|line| line.contains("crofter::audit")).ok_or("no such line")?;
            let time = line.split(' ').next().and_then(|time| time.parse::<Timestamp>().ok());
            let is_set =
                time.is_some_and(|t| t.duration_since(now() + offset).abs() < SignedDuration::from_mins(1));
            if is_set { Ok(()) } else { Err(line.to_owned()) }
        })
        .await
        .unwrap();
    }

    /// Waits for the end of the process; its code.
    pub async fn ended(&self) -> Option<i32> {
        wait::until(WAIT_TIMEOUT, &format!("the end of {}", self.name), || async {
            match self.process.lock().unwrap().check() {
                Err(process::Error::Ended { status, .. }) => Ok(status.code()),
                other => Err(other.map_err(|error| error.to_string())),
            }
        })
        .await
        .unwrap()
    }

    pub fn log(&self) -> String {
        let log = self.process.lock().unwrap().log().to_owned();
        String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned()
    }

    /// What its REST API answers to the holder of a key.
    pub async fn rest(&self, method: &str, path: &str, key: &str, body: Option<&Value>) -> rest::Answer {
        let answer = rest::ask_at(self.api_port, method, path, key, body).await;
        answer.unwrap_or_else(|error| panic!("{method} {path} on {}: {error}", self.name))
    }

    /// Waits until its watches have delivered a new key, or what such a path is about: they may be late.
    pub async fn until_known(&self, path: &str, key: &str) {
        wait::until(WAIT_TIMEOUT, &format!("{path} to be known to {}", self.name), || async {
            let answer = self.rest("GET", path, key, None).await;
            if answer.status == 200 { Ok(()) } else { Err(answer) }
        })
        .await
        .unwrap();
    }

    /// Whether it asked for a write other than those of the election and of key checks, which every replica makes.
    fn wrote(&self, request: &Request) -> bool {
        request.user == self.name
            && !["get", "list", "watch"].contains(&request.verb.as_str())
            && request.resource != "leases"
            && !(request.resource == "tenantapikeys" && request.namespace == names::DEFAULT_NAMESPACE)
    }
}

/// How long the API server is away, from when the leader has ended.
const OUTAGE_SECONDS: usize = 60;

/// Two replicas, of which the first leads.
pub async fn two<'a>(verbs: &Verbs<'a>, names: [&'static str; 2]) -> [Replica<'a>; 2] {
    let leases: Api<Lease> = verbs.within(names::DEFAULT_NAMESPACE);
    // Of an earlier test, whose operators have ended.
    drop(leases.delete(names::LEASE, &kube::api::DeleteParams::default()).await);
    let first = Replica::start(verbs.world, names[0]);
    first.until_leads().await;
    let second = Replica::start(verbs.world, names[1]);
    second.until_ready().await;
    first.until_ready().await;
    assert!(!second.leads().await);
    [first, second]
}

/// Waits until one of two replicas leads.
pub async fn until_one_leads(replicas: [&Replica<'_>; 2]) {
    wait::until(WAIT_TIMEOUT, "a replica to lead", || async {
        let [one, other] = replicas;
        if one.leads().await != other.leads().await { Ok(()) } else { Err("none or both lead") }
    })
    .await
    .unwrap();
}

async fn lease(verbs: &Verbs<'_>) -> LeaseSpec {
    let leases: Api<Lease> = verbs.within(names::DEFAULT_NAMESPACE);
    leases.get(names::LEASE).await.unwrap().spec.unwrap()
}

async fn holder(verbs: &Verbs<'_>) -> String {
    lease(verbs).await.holder_identity.unwrap_or_default()
}

pub async fn tenant(verbs: &Verbs<'_>, name: &str) {
    verbs.tenant(name, json!({"plan": "pro"})).await;
    verbs.worker(&format!("{name}-1"), name, "2").await;
}

fn runs(seconds: &str) -> Value {
    json!({"parameters": {"run-seconds": seconds}})
}

async fn jobs(verbs: &Verbs<'_>, tenant: &str, round: &str) {
    for n in 0..6 {
        verbs.job(tenant, &format!("{round}-{n}"), runs("1")).await;
    }
}

/// Waits until all jobs of a tenant have completed, each in its first attempt.
async fn all_completed(verbs: &Verbs<'_>, tenant: &str) {
    all_completed_within(WAIT_TIMEOUT, verbs, tenant).await;
}

async fn all_completed_within(deadline: Duration, verbs: &Verbs<'_>, tenant: &str) {
    let jobs = wait::until(deadline, &format!("all jobs of {tenant} to complete"), || async {
        let jobs = verbs.jobs(tenant).list(&ListParams::default()).await.map_err(|e| e.to_string())?.items;
        match jobs.iter().find(|job| phase(job) != JobPhase::Completed) {
            None => Ok(jobs),
            Some(open) => Err(format!("{}: {:?}", open.name_any(), open.status)),
        }
    })
    .await
    .unwrap();
    jobs.iter().for_each(check_completed_once);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_is_killed_the_other_replica_takes_over() {
    let (world, _alone) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    let pods = of_pods(verbs.all()).await;
    let [first, second] = two(&verbs, ["kill-a", "kill-b"]).await;
    tenant(&verbs, "heir").await;
    jobs(&verbs, "heir", "before").await;
    assert!(holder(&verbs).await.starts_with("kill-a_"));
    let audit = Audit::of(&world.cluster);
    assert!(audit.find(|request| second.wrote(request)).is_none(), "a follower writes nothing");

    first.kill();
    let killed = Instant::now();
    jobs(&verbs, "heir", "after").await;
    audit.until("a write of the next leader", |request| second.wrote(request)).await;
    println!("leader killed: the next leader wrote after {:.1} s", killed.elapsed().as_secs_f64());
    assert!(holder(&verbs).await.starts_with("kill-b_"));
    all_completed(&verbs, "heir").await;
    check_pods(&pods.known());

    first.restart();
    first.until_ready().await;
    assert!(second.leads().await && !first.leads().await, "it follows now");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_stops_hands_over_at_once() {
    let (world, _alone) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    let pods = of_pods(verbs.all()).await;
    let [first, second] = two(&verbs, ["stop-a", "stop-b"]).await;
    tenant(&verbs, "calm").await;
    jobs(&verbs, "calm", "before").await;
    first.signal(Signal::TERM);
    let asked = Instant::now();
    second.until_leads().await;
    let took = asked.elapsed();
    println!("leader stopped: the next one led after {:.1} s", took.as_secs_f64());
    // Where the Lease is not released, it has to expire first.
    assert!(took < LEASE_DURATION, "{took:?}");
    jobs(&verbs, "calm", "after").await;
    assert_eq!(first.ended().await, Some(0));
    assert!(first.log().contains("released the Lease"), "{}", first.log());
    all_completed(&verbs, "calm").await;
    check_pods(&pods.known());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_frozen_writes_nothing_when_it_is_woken() {
    let (world, _alone) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    let pods = of_pods(verbs.all()).await;
    let [first, second] = two(&verbs, ["ice-a", "ice-b"]).await;
    tenant(&verbs, "winter").await;
    jobs(&verbs, "winter", "before").await;
    // It has work at hand.
    verbs.until_job("winter", "before-0", "begun", |job: &Job| phase(job) != JobPhase::Queued).await;
    first.signal(Signal::STOP);
    jobs(&verbs, "winter", "frozen").await;
    second.until_leads().await;
    verbs.until_job("winter", "frozen-0", "begun", |job: &Job| phase(job) != JobPhase::Queued).await;

    let audit = Audit::of(&world.cluster);
    // What passed the gate right before it was frozen is sent when it is woken. It names the resource version that it was
    // decided by, or breaks off as the process ends: the API server carries nothing of it out.
    let wrote = |request: &Request| first.wrote(request) && request.code < 300;
    let writes = || std::iter::from_fn(|| audit.find(wrote)).count();
    assert!(writes() > 0, "the leader wrote before");
    first.signal(Signal::CONT);
    assert_eq!(first.ended().await, Some(1));
    assert!(first.log().contains("this replica has lost the Lease"), "{}", first.log());
    all_completed(&verbs, "winter").await;
    assert_eq!(writes(), 0, "it wrote after it was woken");
    assert!(second.leads().await);
    check_pods(&pods.known());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_outage_of_the_api_server_one_replica_leads() {
    let (world, _alone) = API_FAULTS.take().await;
    let verbs = world.verbs().await;
    let pods = of_pods(verbs.all()).await;
    let both = two(&verbs, ["out-a", "out-b"]).await;
    let [first, second] = &both;
    tenant(&verbs, "phoenix-2").await;
    jobs(&verbs, "phoenix-2", "before").await;
    world.cluster.kill_api().unwrap();
    assert_eq!(first.ended().await, Some(1), "the leader can't renew");
    first.restart();
    for _ in 0..OUTAGE_SECONDS {
        sleep(Duration::from_secs(1)).await;
        assert!(!first.leads().await && !second.leads().await);
        assert!(second.process.lock().unwrap().check().is_ok(), "a follower has nothing to lose");
    }
    world.cluster.start_api().await.unwrap();
    jobs(&verbs, "phoenix-2", "after").await;
    // An API server that has just started may be too slow for whoever leads first; a kubelet restarts that one.
    let mut seconds = 0;
    let ended = async {
        loop {
            sleep(Duration::from_secs(1)).await;
            both.iter().for_each(Replica::restart_if_deposed);
            let leads = [first.leads().await, second.leads().await];
            assert_ne!(leads, [true, true]);
            seconds = if leads == [false, false] { 0 } else { seconds + 1 };
            if seconds >= 10 {
                return;
            }
        }
    };
    tokio::time::timeout(4 * WAIT_TIMEOUT, ended).await.expect("one to lead for ten seconds");
    // What simulates the kubelets, and the controller that marks their nodes, return at a pace of their own.
    all_completed_within(4 * WAIT_TIMEOUT, &verbs, "phoenix-2").await;
    check_pods(&pods.known());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_that_are_restarted_together_one_leads() {
    let (world, _alone) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    let pods = of_pods(verbs.all()).await;
    let both = two(&verbs, ["twin-a", "twin-b"]).await;
    tenant(&verbs, "twins").await;
    jobs(&verbs, "twins", "before").await;
    both.iter().for_each(Replica::kill);
    both.iter().for_each(Replica::restart);
    jobs(&verbs, "twins", "after").await;
    let [first, second] = &both;
    until_one_leads([first, second]).await;
    all_completed(&verbs, "twins").await;
    for _ in 0..10 {
        sleep(Duration::from_millis(500)).await;
        assert!(!first.leads().await || !second.leads().await, "both lead");
    }
    until_one_leads([first, second]).await;
    check_pods(&pods.known());
}

/// Sets the clocks of two replicas, of which the first leads, while a tenant of its name has jobs; whether that has cost the Lease.
async fn clocks_cost_the_lease([first, second]: &[Replica<'_>; 2], verbs: &Verbs<'_>) -> bool {
    tenant(verbs, first.name).await;
    let (before, hour) = (lease(verbs).await, SignedDuration::from_hours(1));
    // A job that runs over all of it, and would be out of time by a clock that is set forward.
    let long = json!({"parameters": {"run-seconds": "100"}, "timeoutSeconds": 1800});
    verbs.job(first.name, "long", long).await;

    // The leader's clock, back and forward; then the follower's. Each time the Lease could expire meanwhile.
    for (replica, offset) in [(first, -hour), (first, hour), (second, -hour), (second, hour)] {
        replica.set_clock(offset).await;
        jobs(verbs, first.name, &format!("{}{}", replica.name, offset.as_secs())).await;
        for _ in 0..LEASE_DURATION.as_secs() + 2 {
            sleep(Duration::from_secs(1)).await;
            // A replica that does not answer in time says nothing.
            let said = [first.says_it_leads().await, second.says_it_leads().await];
            if first.is_deposed() || said[0] == Some(false) || said[1] == Some(true) {
                return true;
            }
        }
    }
    let after = lease(verbs).await;
    (after.holder_identity, after.lease_transitions) != (before.holder_identity, before.lease_transitions)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_set_by_an_hour_costs_neither_the_lease_nor_a_job() {
    let (world, _alone) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    let pods = of_pods(verbs.all()).await;
    // A machine that stalls for ten seconds costs the Lease, too. A clock would do so each time.
    let mut tries = [["clock-a", "clock-b"], ["clock-c", "clock-d"], ["clock-e", "clock-f"]].into_iter();
    let [first, second] = loop {
        let both = two(&verbs, tries.next().expect("the Lease was lost each time")).await;
        if !clocks_cost_the_lease(&both, &verbs).await {
            break both;
        }
        println!("the Lease was lost while the clocks of {} and {} were set", both[0].name, both[1].name);
    };

    // The follower takes over in the usual time, two hours away from what the Lease says.
    first.set_clock(-SignedDuration::from_hours(1)).await;
    first.kill();
    let took = second.until_leads().await;
    println!("clocks two hours apart: the next leader led after {:.1} s", took.as_secs_f64());
    assert!(took > LEASE_DURATION / 2, "at once, as the Lease seems to be two hours old: {took:?}");
    jobs(&verbs, first.name, "end").await;
    all_completed(&verbs, first.name).await;
    let renewed = lease(&verbs).await.renew_time.unwrap().0;
    assert!(
        now().duration_since(renewed).abs() < SignedDuration::from_mins(1),
        "{renewed} is the API server's time"
    );
    check_pods(&pods.known());
}

/// A new key through one replica; its token is accepted by `everywhere`.
async fn new_key(of: &Replica<'_>, key: &str, everywhere: &[&Replica<'_>]) {
    let body = json!({"scopes": ["jobs:read", "jobs:write"]});
    let made = of.rest("POST", "/v1/keys", key, Some(&body)).await;
    // While no replica leads the Secret is written later.
    assert!(made.is_made(), "{made:?}");
    let Some(token) = made.body["token"].as_str() else { return assert_eq!(made.status, 202) };
    for replica in everywhere {
        replica.until_known("/v1/whoami", token).await;
    }
    sleep(Duration::from_secs(1)).await;
    let again = everywhere[0].rest("GET", "/v1/whoami", token, None).await;
    assert_eq!(again.status, 200, "no other replica has made the token void: {again:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_serves_the_rest_api_also_while_the_leader_changes() {
    let (world, _alone) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    let pods = of_pods(verbs.all::<Pod>()).await;
    let [first, second] = two(&verbs, ["rest-a", "rest-b"]).await;
    tenant(&verbs, "client").await;
    crate::common::keys::make(&verbs, "client", "all", json!({"scopes": rest::ALL})).await.unwrap();
    crate::common::keys::until_ready(&verbs, "client", "all").await;
    let key = crate::common::keys::text(&verbs, "client", "all").await;
    second.until_known("/v1/whoami", &key).await;

    // While another replica leads.
    new_key(&second, &key, &[&first, &second]).await;
    let submitted = second.rest("POST", "/v1/jobs", &key, Some(&rest::job())).await;
    // A job that is admitted at once has that in its status only when its pod runs.
    assert!(submitted.is_made(), "{submitted:?}");
    let path = format!("/v1/jobs/{}", rest::id(&submitted));
    second.until_known(&path, &key).await;
    assert_eq!(second.rest("GET", "/v1/jobs", &key, None).await.status, 200);
    let why = second.rest("GET", &format!("{path}/why"), &key, None).await;
    assert_eq!((why.status, &why.body["source"]), (200, &json!("status")), "{why:?}");
    estimates::agree(&verbs, &first, &second).await;

    // While none leads, and then it does.
    first.kill();
    let killed = Instant::now();
    let (mut requests, mut without_leader) = (0, 0);
    while killed.elapsed() < Duration::from_secs(5) || !second.leads().await {
        let submitted = second.rest("POST", "/v1/jobs", &key, Some(&rest::job())).await;
        assert!(submitted.is_made(), "{submitted:?}");
        let listed = second.rest("GET", "/v1/jobs?limit=1", &key, None).await;
        assert_eq!(listed.status, 200, "{listed:?}");
        requests += 2;
        without_leader += if second.leads().await { 0 } else { 2 };
        assert!(killed.elapsed() < 2 * WAIT_TIMEOUT, "it never led");
    }
    println!("{requests} requests while the leader changed, {without_leader} of them while none led");
    assert!(without_leader > 0, "each request was sent again until the next leader was there");
    new_key(&second, &key, &[&second]).await;
    let submitted = second.rest("POST", "/v1/jobs", &key, Some(&rest::job())).await;
    assert!(submitted.is_made(), "{submitted:?}");
    all_completed(&verbs, "client").await;
    check_pods(&pods.known());
}
