//! A rolling update of both replicas while clients submit jobs, make keys and read: as the Deployment of the chart does it,
//! a new replica is ready before an old one leaves the Service, and that one stops only some seconds later.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use crofter::api_types::{Job, JobPhase};
use crofter_test_cluster::{process::Signal, wait};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams, runtime::watcher};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    OPERATOR_FAULTS,
    common::{WAIT_TIMEOUT, phase, rest},
    history::{History, check_completed_once, check_jobs, check_pods, of_pods},
    leadership::{Replica, two, until_one_leads},
};

/// What the chart's `preStop` gives the Service to forget a pod.
const LEAVES_SERVICE: Duration = Duration::from_secs(5);
/// How long a kept-open connection is used for one request after the other, at most.
const REQUESTS_PER_CONNECTION: usize = 20;

/// For how long a request may be refused because the API server does not answer: longer would mean that it is not the
/// machine. How many requests that are depends on how long the machine is busy.
const LONGEST_REFUSED: Duration = Duration::from_secs(30);

/// The replicas that a Service would send requests to, and what they answered.
struct Service {
    endpoints: Mutex<Vec<u16>>,
    next: AtomicUsize,
    key: String,
    ended: AtomicBool,
    sent: AtomicUsize,
    answered: AtomicUsize,
    repeated: AtomicUsize,
    submitted: Mutex<BTreeSet<String>>,
}

impl Service {
    /// The endpoint of the next connection.
    fn endpoint(&self) -> u16 {
        let endpoints = self.endpoints.lock().unwrap();
        endpoints[self.next.fetch_add(1, Ordering::Relaxed) % endpoints.len()]
    }

    /// Replaces one replica by another.
    fn replace(&self, old: &Replica<'_>, new: &Replica<'_>) {
        let mut endpoints = self.endpoints.lock().unwrap();
        endpoints.retain(|port| *port != old.api_port);
        endpoints.push(new.api_port);
    }

    /// One request on a connection of its own; it must be answered with one of these statuses. One that was refused because
    /// the API server does not answer, as on a machine that is overloaded, is sent again as the answer says.
    async fn ask(
        &self,
        method: &str,
        path: &str,
        key: &str,
        body: Option<&Value>,
        statuses: &[u16],
    ) -> Value {
        let begun = Instant::now();
        // A job that was made although its request was refused is not made again.
        let once = self.sent.fetch_add(1, Ordering::Relaxed).to_string();
        let headers = [("x-api-key", key), ("idempotency-key", &once)];
        loop {
            let port = self.endpoint();
            let answer = rest::ask_once_at(port, method, path, &headers, body).await;
            let answer = answer.unwrap_or_else(|error| panic!("{method} {path} at {port}: {error}"));
            if self.is_to_be_repeated(&answer, begun).await {
                continue;
            }
            assert!(statuses.contains(&answer.status), "{method} {path} at {port}: {answer:?}");
            self.answered.fetch_add(1, Ordering::Relaxed);
            return answer.body;
        }
    }

    /// Whether a request that was first sent at `begun` is to be sent again, as its answer asks for; it counts these.
    async fn is_to_be_repeated(&self, answer: &rest::Answer, begun: Instant) -> bool {
        let is_repeated = rest::is_to_be_repeated(answer, begun, LONGEST_REFUSED).await;
        self.repeated.fetch_add(usize::from(is_repeated), Ordering::Relaxed);
        is_repeated
    }

    /// Waits until each replica knows what was made just now, through any of them: their watches may be late. A replica that
    /// does not know it yet answers with the status `unknown`.
    async fn until_known(&self, path: &str, key: &str, unknown: u16) {
        wait::until(WAIT_TIMEOUT, &format!("{path} to be known to all replicas"), || async {
            // A replica that was replaced meanwhile is asked no more.
            let endpoints = self.endpoints.lock().unwrap().clone();
            for port in endpoints {
                let answer = rest::ask_once_at(port, "GET", path, &[("x-api-key", key)], None).await;
                let answer = answer.unwrap_or_else(|error| panic!("{path} at {port}: {error}"));
                if answer.status == 200 {
                    continue;
                }
                let is_late =
                    answer.status == unknown || self.is_to_be_repeated(&answer, Instant::now()).await;
                assert!(is_late, "{path} at {port}: {answer:?}");
                return Err(answer);
            }
            Ok(())
        })
        .await
        .unwrap();
    }

    fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// Submits jobs through one replica and reads them through the next.
async fn submits(service: &Service) {
    while !service.has_ended() {
        let mut job = rest::job();
        job["parameters"] = json!({"run-seconds": "1"});
        let made = service.ask("POST", "/v1/jobs", &service.key, Some(&job), &[201, 202]).await;
        let id = made["id"].as_str().unwrap().to_owned();
        service.until_known(&format!("/v1/jobs/{id}"), &service.key, 404).await;
        service.ask("GET", &format!("/v1/jobs/{id}"), &service.key, None, &[200]).await;
        service.ask("GET", &format!("/v1/jobs/{id}/why"), &service.key, None, &[200]).await;
        service.submitted.lock().unwrap().insert(id);
        sleep(Duration::from_millis(150)).await;
    }
}

/// Makes keys through one replica and uses them, once all know them, through the others.
async fn makes_keys(service: &Service) {
    while !service.has_ended() {
        let body = json!({"scopes": ["jobs:read"]});
        let made = service.ask("POST", "/v1/keys", &service.key, Some(&body), &[201, 202]).await;
        // While no replica leads, the token is in the Secret only.
        let Some(token) = made["token"].as_str() else { continue };
        service.until_known("/v1/whoami", token, 401).await;
        for _ in 0..3 {
            service.ask("GET", "/v1/whoami", token, None, &[200]).await;
        }
        let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
        service.ask("DELETE", &path, &service.key, None, &[202, 204]).await;
    }
}

/// Sends request after request on one connection, as clients with a pool do, and opens another one when it is closed.
async fn keeps_connections(service: &Service) {
    // Since when it is refused.
    let mut refused = None;
    while !service.has_ended() {
        let mut wire = rest::wire_at(service.endpoint()).await;
        for _ in 0..REQUESTS_PER_CONNECTION {
            let answer = wire.ask_once("GET", "/v1/jobs?limit=1", &service.key).await;
            let answer = answer.unwrap_or_else(|error| panic!("a kept connection: {error}"));
            if service.is_to_be_repeated(&answer, *refused.get_or_insert_with(Instant::now)).await {
                // The next request is on another connection where this one is closed.
                if answer.closes() {
                    break;
                }
                continue;
            }
            assert_eq!(answer.status, 200, "{answer:?}");
            refused = None;
            service.answered.fetch_add(1, Ordering::Relaxed);
            if answer.closes() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Stops an old replica as a kubelet does: it leaves the Service, and is asked to end some seconds later.
async fn stop(service: &Service, old: &Replica<'_>, new: &Replica<'_>) {
    service.replace(old, new);
    sleep(LEAVES_SERVICE).await;
    old.signal(Signal::TERM);
    assert_eq!(old.ended().await, Some(0), "{}", old.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_update_under_load_fails_no_request_and_disturbs_no_job() {
    let (world, _alone) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    // Step 1: two replicas, and clients of both.
    let [first, second] = two(&verbs, ["roll-a", "roll-b"]).await;
    let pods = of_pods(verbs.all::<Pod>()).await;
    let jobs = History::<Job>::start(verbs.all(), watcher::Config::default()).await;
    verbs.tenant("roller", json!({"plan": "enterprise"})).await;
    for n in 1..=2 {
        verbs.worker(&format!("roller-{n}"), "roller", "4").await;
    }
    let spec = json!({"scopes": rest::ALL});
    crate::common::keys::make(&verbs, "roller", "all", spec).await.unwrap();
    crate::common::keys::until_ready(&verbs, "roller", "all").await;
    let service = Service {
        endpoints: Mutex::new(vec![first.api_port, second.api_port]),
        next: AtomicUsize::default(),
        key: crate::common::keys::text(&verbs, "roller", "all").await,
        ended: AtomicBool::default(),
        sent: AtomicUsize::default(),
        answered: AtomicUsize::default(),
        repeated: AtomicUsize::default(),
        submitted: Mutex::default(),
    };
    for replica in [&first, &second] {
        replica.until_known("/v1/whoami", &service.key).await;
    }
    // Step 2: each replica is replaced, the leader first.
    let replaced = async {
        sleep(Duration::from_secs(2)).await;
        let begun = Instant::now();
        let third = Replica::start(world, "roll-c");
        third.until_ready().await;
        stop(&service, &first, &third).await;
        until_one_leads([&second, &third]).await;
        let fourth = Replica::start(world, "roll-d");
        fourth.until_ready().await;
        stop(&service, &second, &fourth).await;
        until_one_leads([&third, &fourth]).await;
        sleep(Duration::from_secs(2)).await;
        service.ended.store(true, Ordering::Relaxed);
        (begun.elapsed(), third, fourth)
    };
    let clients = async {
        tokio::join!(submits(&service), submits(&service), makes_keys(&service), keeps_connections(&service));
    };
    let ((took, _third, _fourth), ()) = timeout(4 * WAIT_TIMEOUT, async { tokio::join!(replaced, clients) })
        .await
        .expect("an update takes less than that");
    // Step 3: each job that was accepted ran once, and no pod was replaced.
    let submitted = service.submitted.into_inner().unwrap();
    let all = wait::until(WAIT_TIMEOUT, "all jobs to complete", || async {
        let jobs = verbs.jobs("roller").list(&ListParams::default()).await.map_err(|e| e.to_string())?.items;
        let open = jobs.iter().filter(|job| phase(job) != JobPhase::Completed).count();
        if open == 0 { Ok(jobs) } else { Err(format!("{open} of {} are open", jobs.len())) }
    })
    .await
    .unwrap();
    let known: BTreeSet<String> = all.iter().filter_map(ResourceExt::uid).collect();
    assert_eq!(known, submitted, "what was accepted exists, once");
    all.iter().for_each(check_completed_once);
    check_pods(&pods.known());
    check_jobs(&jobs.known());
    let (answered, repeated) = (service.answered.into_inner(), service.repeated.into_inner());
    let seconds = took.as_secs_f64();
    println!(
        "{answered} requests, {repeated} sent again, and {} jobs in an update of {seconds:.0} s",
        all.len()
    );
    assert!(answered > 100 && all.len() > 20, "{answered} requests, {} jobs", all.len());
}
