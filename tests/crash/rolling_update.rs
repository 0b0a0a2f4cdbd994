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
    leadership::{Replica, two},
};

/// What the chart's `preStop` gives the Service to forget a pod.
const LEAVES_SERVICE: Duration = Duration::from_secs(5);
/// How long a kept-open connection is used for one request after the other, at most.
const REQUESTS_PER_CONNECTION: usize = 20;

/// The codes with which a replica answers while the API server does not answer it.
const AWAY: [&str; 2] = ["keys_unavailable", "cluster_unavailable"];
/// How many requests may be sent again: more would mean that it is not the machine.
const MOST_REPEATED: usize = 10;

/// The replicas that a Service would send requests to, and what they answered.
struct Service {
    endpoints: Mutex<Vec<u16>>,
    next: AtomicUsize,
    key: String,
    ended: AtomicBool,
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
        loop {
            let port = self.endpoint();
            let answer = rest::ask_at(port, method, path, key, body).await;
            let answer = answer.unwrap_or_else(|error| panic!("{method} {path} at {port}: {error}"));
            if self.is_to_be_repeated(&answer).await {
                continue;
            }
            assert!(statuses.contains(&answer.status), "{method} {path} at {port}: {answer:?}");
            self.answered.fetch_add(1, Ordering::Relaxed);
            return answer.body;
        }
    }

    /// Whether the answer asks for the request again a second later, which has passed then.
    async fn is_to_be_repeated(&self, answer: &rest::Answer) -> bool {
        let is_away = answer.status == 503 && AWAY.contains(&rest::code(answer).as_str());
        if is_away {
            self.repeated.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_secs(1)).await;
        }
        is_away
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
        service.ask("GET", &format!("/v1/jobs/{id}"), &service.key, None, &[200]).await;
        service.ask("GET", &format!("/v1/jobs/{id}/why"), &service.key, None, &[200]).await;
        service.submitted.lock().unwrap().insert(id);
        sleep(Duration::from_millis(150)).await;
    }
}

/// Makes keys through one replica and uses them, a second later, through the others.
async fn makes_keys(service: &Service) {
    while !service.has_ended() {
        let body = json!({"scopes": ["jobs:read"]});
        let made = service.ask("POST", "/v1/keys", &service.key, Some(&body), &[201, 202]).await;
        sleep(Duration::from_secs(1)).await;
        // While no replica leads, the token is in the Secret only.
        let Some(token) = made["token"].as_str() else { continue };
        for _ in 0..3 {
            service.ask("GET", "/v1/whoami", token, None, &[200]).await;
        }
        let path = format!("/v1/keys/{}", made["id"].as_str().unwrap());
        service.ask("DELETE", &path, &service.key, None, &[202, 204]).await;
    }
}

/// Sends request after request on one connection, as clients with a pool do, and opens another one when it is closed.
async fn keeps_connections(service: &Service) {
    while !service.has_ended() {
        let mut wire = rest::wire_at(service.endpoint()).await;
        for _ in 0..REQUESTS_PER_CONNECTION {
            let answer = wire.ask("GET", "/v1/jobs?limit=1", &service.key).await;
            let answer = answer.unwrap_or_else(|error| panic!("a kept connection: {error}"));
            if service.is_to_be_repeated(&answer).await {
                continue;
            }
            assert_eq!(answer.status, 200, "{answer:?}");
            service.answered.fetch_add(1, Ordering::Relaxed);
            if answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Waits until one of two replicas leads.
async fn until_one_leads(replicas: [&Replica<'_>; 2]) {
    wait::until(WAIT_TIMEOUT, "a replica to lead", || async {
        let [one, other] = replicas;
        if one.leads().await != other.leads().await { Ok(()) } else { Err("none or both lead") }
    })
    .await
    .unwrap();
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
        answered: AtomicUsize::default(),
        repeated: AtomicUsize::default(),
        submitted: Mutex::default(),
    };
    for replica in [&first, &second] {
        wait::until(WAIT_TIMEOUT, "the key to be known", || async {
            let answer = replica.rest("GET", "/v1/whoami", &service.key, None).await;
            if answer.status == 200 { Ok(()) } else { Err(answer) }
        })
        .await
        .unwrap();
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
    let ((took, _third, _fourth), ()) = timeout(2 * WAIT_TIMEOUT, async { tokio::join!(replaced, clients) })
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
    assert!(repeated <= MOST_REPEATED, "{repeated} requests were sent again");
    assert!(answered > 100 && all.len() > 20, "{answered} requests, {} jobs", all.len());
}
