use std::sync::{
    Mutex,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use http::Method;
use serde_json::{Value, json};
use tokio::{sync::oneshot, task::JoinHandle};

use super::*;
use crate::{domain::leadership::RENEW_DEADLINE, kube_ext::mock::Fake};

const AT: &str = "/apis/coordination.k8s.io/v1/namespaces/crofter-system/leases/crofter";

/// A leadership whose clock follows tokio's, and can be put forward.
#[derive(Clone)]
pub(crate) struct Lab {
    pub(crate) leadership: Leadership,
    ahead: Arc<AtomicI64>,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(|boot| boot)
    }

    /// One whose time of day is what `wall` makes of the time since boot.
    fn with(wall: impl Fn(Timestamp) -> Timestamp + Send + Sync + 'static) -> Self {
        let (ahead, start) = (Arc::<AtomicI64>::default(), Instant::now());
        let seconds = Arc::clone(&ahead);
        let boot = move || {
            let passed = start.elapsed() + Duration::from_secs(1_000_000);
            let passed = SignedDuration::try_from(passed).unwrap();
            Timestamp::UNIX_EPOCH + passed + SignedDuration::from_secs(seconds.load(Ordering::SeqCst))
        };
        let clock = Clock::of(boot.clone()).set_to(move || wall(boot()));
        Self { leadership: Leadership::new(clock), ahead }
    }

    /// Leads for a number of seconds.
    pub(crate) fn lead(&self, seconds: i64) {
        let until = self.leadership.clock.boot() + SignedDuration::from_secs(seconds);
        self.leadership.change(|state| (state.until, state.acquired) = (Some(until), true));
    }

    /// Lets seconds pass at once, as for a process that is frozen.
    pub(crate) fn pass(&self, seconds: i64) {
        self.ahead.fetch_add(seconds, Ordering::SeqCst);
    }
}

/// A replica that takes part.
struct Replica {
    lab: Lab,
    release: Option<oneshot::Sender<()>>,
    election: JoinHandle<()>,
}

impl Replica {
    fn start(name: &str, client: Client) -> Self {
        Self::on(Lab::new(), name, client)
    }

    fn on(lab: Lab, name: &str, client: Client) -> Self {
        let election = Election::new(client, "crofter-system", name.to_owned(), lab.leadership.clone());
        let (release, released) = oneshot::channel();
        let election = tokio::spawn(election.run(async {
            if released.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        Self { lab, release: Some(release), election }
    }

    fn leads(&self) -> bool {
        self.lab.leadership.leads()
    }

    fn kill(&self) {
        self.election.abort();
    }
}

async fn seconds(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn holder(fake: &Fake) -> Value {
    fake.get(AT)["spec"]["holderIdentity"].clone()
}

#[tokio::test(start_paused = true)]
async fn the_first_replica_leads_at_once_and_renews_under_the_version_that_it_read() {
    let fake = Fake::default();
    let replica = Replica::start("a", fake.client());
    replica.lab.leadership.acquired().await;
    assert!(replica.leads());
    let first = fake.get(AT);
    assert_eq!(first["spec"]["holderIdentity"], "a");
    assert_eq!(first["spec"]["leaseDurationSeconds"], 15);
    assert_eq!(first["spec"]["leaseTransitions"], 0);
    seconds(60).await;
    assert!(replica.leads());
    let last = fake.get(AT);
    assert_eq!(last["spec"]["acquireTime"], first["spec"]["acquireTime"]);
    assert_ne!(last["spec"]["renewTime"], first["spec"]["renewTime"]);
    let calls = fake.calls();
    let puts: Vec<_> = calls.iter().filter(|call| call.method == Method::PUT).collect();
    assert!(puts.len() >= 28, "{}", puts.len());
    assert!(puts.iter().all(|put| put.body["metadata"]["resourceVersion"].is_string()));
}

#[tokio::test(start_paused = true)]
async fn when_the_leader_is_killed_a_follower_leads_after_the_lease_duration() {
    let fake = Fake::default();
    let first = Replica::start("a", fake.client());
    first.lab.leadership.acquired().await;
    let second = Replica::start("b", fake.client());
    seconds(60).await;
    assert!(first.leads() && !second.leads());
    first.kill();
    seconds(12).await;
    assert!(!first.leads(), "its time is over first");
    assert!(!second.leads());
    seconds(8).await;
    assert!(second.leads());
    assert_eq!(holder(&fake), "b");
    assert_eq!(
        (fake.get(AT)["spec"]["leaseTransitions"].clone(), second.lab.leadership.transitions()),
        (json!(1), Some(1))
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_released_is_followed_at_the_next_read() {
    let fake = Fake::default();
    let mut first = Replica::start("a", fake.client());
    first.lab.leadership.acquired().await;
    let second = Replica::start("b", fake.client());
    seconds(5).await;
    first.release.take().unwrap().send(()).unwrap();
    first.lab.leadership.ended().await;
    assert!(!first.leads());
    assert_eq!(holder(&fake), "");
    seconds(2).await;
    assert!(second.leads());
    first.election.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_is_released_leaves_the_lease_to_its_holder() {
    let fake = Fake::default();
    let first = Replica::start("a", fake.client());
    first.lab.leadership.acquired().await;
    let mut second = Replica::start("b", fake.client());
    seconds(5).await;
    second.release.take().unwrap().send(()).unwrap();
    second.lab.leadership.ended().await;
    assert_eq!(holder(&fake), "a");
    assert!(first.leads());
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_api_server_is_away_is_over_when_its_time_is_and_the_election_ends() {
    let fake = Fake::default();
    let replica = Replica::start("a", fake.client());
    replica.lab.leadership.acquired().await;
    let begun = Instant::now();
    fake.refuse(AT, 503);
    replica.lab.leadership.lost().await;
    let led = begun.elapsed();
    assert!(led >= Duration::from_secs(8) && led <= RENEW_DEADLINE + CHECK_INTERVAL, "{led:?}");
    assert!(replica.lab.leadership.is_lost());
    replica.election.await.unwrap();
    replica.lab.leadership.ended().await;
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_is_silent_is_asked_again_in_time() {
    let (fake, silent) = (Fake::default(), Arc::<AtomicBool>::default());
    let (answering, is_silent) = (fake.clone(), Arc::clone(&silent));
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (client, silent) = (answering.client(), is_silent.load(Ordering::SeqCst));
        async move {
            if silent {
                std::future::pending::<()>().await;
            }
            client.send(request).await
        }
    });
    let replica = Replica::start("a", Client::new(service, "default"));
    replica.lab.leadership.acquired().await;
    for _ in 0..5 {
        silent.store(true, Ordering::SeqCst);
        seconds(4).await;
        silent.store(false, Ordering::SeqCst);
        seconds(4).await;
        assert!(replica.leads(), "a pause of 4 s is no reason to resign");
    }
}

#[tokio::test(start_paused = true)]
async fn a_process_that_was_frozen_knows_at_once_that_it_does_not_lead() {
    let fake = Fake::default();
    let replica = Replica::start("a", fake.client());
    replica.lab.leadership.acquired().await;
    seconds(4).await;
    fake.calls();
    replica.lab.pass(20);
    assert!(!replica.leads(), "before any task of it has run");
    replica.lab.leadership.lost().await;
    replica.election.await.unwrap();
    assert!(fake.calls().iter().all(|call| call.method == Method::GET), "it writes no renewal");
}

#[tokio::test(start_paused = true)]
async fn of_two_replicas_that_start_together_one_leads() {
    let fake = Fake::default();
    let both = ["a", "b"].map(|name| Replica::start(name, fake.client()));
    for _ in 0..100 {
        seconds(1).await;
        let leading = both.iter().filter(|replica| replica.leads()).count();
        assert_eq!(leading, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_time_of_day_that_steps_by_an_hour_changes_nothing() {
    let fake = Fake::default();
    let step = |by: i64| {
        let since = Arc::new(Mutex::new(None));
        move |boot: Timestamp| {
            let first = *since.lock().unwrap().get_or_insert(boot);
            let steps = boot.duration_since(first).as_secs() / 5 % 2;
            boot + SignedDuration::from_hours(by * steps)
        }
    };
    let first = Replica::on(Lab::with(step(1)), "a", fake.client());
    first.lab.leadership.acquired().await;
    let second = Replica::on(Lab::with(step(-1)), "b", fake.client());
    for _ in 0..60 {
        seconds(1).await;
        assert!(first.leads() && !second.leads());
    }
    first.kill();
    seconds(20).await;
    assert!(!first.leads() && second.leads());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_someone_deleted_is_created_again_by_its_leader() {
    let fake = Fake::default();
    let first = Replica::start("a", fake.client());
    first.lab.leadership.acquired().await;
    let second = Replica::start("b", fake.client());
    seconds(5).await;
    fake.take(AT).unwrap();
    seconds(3).await;
    assert_eq!(holder(&fake), "a");
    assert!(first.leads() && !second.leads());
}

#[tokio::test(start_paused = true)]
async fn what_others_wrote_into_the_lease_stays() {
    let fake = Fake::default();
    fake.put(
        AT,
        json!({"metadata": {"name": "crofter", "labels": {"a": "b"}}, "spec": {"holderIdentity": "", "strategy": "s"}}),
    );
    let replica = Replica::start("a", fake.client());
    replica.lab.leadership.acquired().await;
    let lease = fake.get(AT);
    assert_eq!((&lease["metadata"]["labels"]["a"], &lease["spec"]["strategy"]), (&json!("b"), &json!("s")));
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
}

#[test]
fn two_processes_of_one_pod_have_two_names() {
    let random = Random::system();
    let [first, second] = [(); 2].map(|()| identity(Some("crofter-0"), &random).unwrap());
    assert!(first.starts_with("crofter-0_") && first.len() == 18, "{first}");
    assert_ne!(first, second);
    assert!(identity(None, &random).unwrap().len() > 9);
}

#[tokio::test(start_paused = true)]
async fn without_an_election_no_process_leads() {
    let lab = Lab::new();
    assert!(!lab.leadership.leads() && !lab.leadership.is_lost());
    let acquired = tokio::time::timeout(Duration::from_secs(3600), lab.leadership.acquired()).await;
    assert!(acquired.is_err());
}
