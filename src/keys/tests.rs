//! The cache as a whole: fed by watches, proven by the probe.

use secrecy::{ExposeSecret, SecretSlice};
use serde_json::{Value, json};

use super::*;
use crate::{
    api_types::api_key::KeyVersion,
    domain::api_key::{PepperVersion, Peppers, Seed, lifecycle},
    kube_ext::mock::Fake,
};

const PROBE: &str = "/apis/crofter.io/v1alpha1/namespaces/crofter-system/tenantapikeys/crofter-probe";

fn text() -> Key {
    Key::new(
        &Seed::of(|bytes| {
            bytes.fill(5);
            Ok::<_, ()>(())
        })
        .unwrap(),
    )
}

fn peppers() -> Arc<Peppers> {
    Arc::new(Peppers::new([(PepperVersion(1), SecretSlice::from(vec![1; 32]))]).unwrap())
}

fn object(
    namespace: &str,
    name: &str,
    version: u64,
    spec: Value,
    versions: &[KeyVersion],
) -> Arc<TenantApiKey> {
    let whole = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey",
        "metadata": {"name": name, "namespace": namespace, "uid": name, "resourceVersion": version.to_string()},
        "spec": spec, "status": {"versions": versions},
    });
    Arc::new(serde_json::from_value(whole).unwrap())
}

/// A running cache and what feeds it.
struct Lab {
    fake: Fake,
    keys: Keys,
    metrics: Metrics,
    told_keys: mpsc::Sender<Change<TenantApiKey>>,
    told_tenants: mpsc::Sender<Change<Tenant>>,
    peppers: watch::Sender<pepper::Known>,
    watch: Pulse,
}

impl Lab {
    async fn new() -> Self {
        let (fake, metrics) = (Fake::default(), Metrics::default());
        let ((told_keys, keys), (told_tenants, tenants)) = (mpsc::channel(8), mpsc::channel(8));
        let (sender, receiver) = watch::channel(pepper::Known::InForce(peppers()));
        let clock = Clock::of(|| "2030-01-01T00:00:00Z".parse().unwrap());
        let cache = Keys::new(receiver, clock, metrics.clone());
        tokio::spawn(cache.clone().feed("crofter-system".into(), Inputs { keys, tenants }));
        let watch = Pulse::default();
        tokio::spawn(cache.clone().probe(fake.client(), "crofter-system".into(), watch.clone()));
        let lab = Self { fake, keys: cache, metrics, told_keys, told_tenants, peppers: sender, watch };
        let tenant = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme", "uid": "t1"},
            "spec": {}, "status": {"namespace": "tenant-acme"},
        });
        let tenant = Change::Applied(Arc::new(serde_json::from_value(tenant).unwrap()));
        lab.told_tenants.send(tenant).await.unwrap();
        lab.told_tenants.send(Change::Synced).await.unwrap();
        lab.key(json!({})).await;
        lab.told_keys.send(Change::Synced).await.unwrap();
        lab
    }

    async fn key(&self, spec: Value) {
        let version = lifecycle::version(&text(), &peppers(), jiff::Timestamp::UNIX_EPOCH).unwrap();
        self.told_keys.send(Change::Applied(object("tenant-acme", "ci", 1, spec, &[version]))).await.unwrap();
    }

    /// The watch tells of the probe as it is.
    async fn catch_up(&self) {
        let version =
            self.fake.get(PROBE)["metadata"]["resourceVersion"].as_str().map(|v| v.parse().unwrap());
        let probe =
            object("crofter-system", "crofter-probe", version.unwrap_or(0), json!({"revoked": true}), &[]);
        self.told_keys.send(Change::Applied(probe)).await.unwrap();
    }

    /// Lets a time go by in which the watch keeps up, or does not.
    async fn seconds(&self, seconds: u64, keeps_up: bool) {
        for _ in 0..seconds * 10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if keeps_up {
                self.catch_up().await;
            }
        }
    }

    fn open(&self) -> Result<(), Refusal> {
        self.keys.authenticate(text().text().expose_secret()).map(drop)
    }

    fn writes(&self) -> usize {
        self.fake.calls().len()
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_opens_before_a_write_came_back() {
    let lab = Lab::new().await;
    lab.seconds(1, false).await;
    assert_eq!(lab.writes(), 0, "nobody has asked");
    assert_eq!(lab.open(), Err(Refusal::Unready));
    lab.seconds(2, false).await;
    assert_eq!(lab.open(), Err(Refusal::Unready), "written, and not told");
    assert_eq!(lab.fake.get(PROBE)["metadata"]["annotations"][names::ANNOTATION_PAUSED], json!("true"));
    lab.seconds(1, true).await;
    assert_eq!(lab.open(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_cache_more_than_five_seconds_behind_refuses_all_until_it_has_caught_up() {
    let lab = Lab::new().await;
    let _ = lab.open();
    lab.seconds(3, true).await;
    assert_eq!(lab.open(), Ok(()));
    lab.seconds(4, false).await;
    assert_eq!(lab.open(), Ok(()), "four seconds are allowed");
    lab.seconds(2, false).await;
    assert_eq!(lab.open(), Err(Refusal::Unready), "six are not");
    assert!(lab.keys.behind().unwrap() > MOST_BEHIND);
    lab.seconds(1, true).await;
    assert_eq!(lab.open(), Ok(()));
    // The same when it is the write that fails.
    lab.fake.refuse(PROBE, 500);
    lab.seconds(6, true).await;
    assert_eq!(lab.open(), Err(Refusal::Unready));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_does_not_deliver_what_was_written_is_opened_again() {
    let lab = Lab::new().await;
    let renewed =
        async |lab: &Lab| tokio::time::timeout(Duration::from_millis(1), lab.watch.renewed()).await.is_ok();
    let _ = lab.open();
    lab.seconds(9, true).await;
    assert!(!renewed(&lab).await);
    lab.seconds(9, false).await;
    assert!(!renewed(&lab).await);
    lab.seconds(3, false).await;
    assert!(renewed(&lab).await);
    lab.seconds(5, false).await;
    assert!(!renewed(&lab).await, "and not each second");
    // An API server that is away is none that another connection would help.
    lab.seconds(1, true).await;
    lab.fake.refuse(PROBE, 500);
    lab.seconds(30, false).await;
    assert!(!renewed(&lab).await);
}

#[tokio::test(start_paused = true)]
async fn the_probe_rests_when_nobody_asks_and_the_next_one_who_asks_waits_for_it() {
    let lab = Lab::new().await;
    let _ = lab.open();
    lab.seconds(59, true).await;
    let written = lab.writes();
    assert!((55..=65).contains(&written), "one a second: {written}");
    lab.seconds(5, true).await;
    lab.writes();
    lab.seconds(100, true).await;
    assert_eq!(lab.writes(), 0);
    let presented = text();
    let (answer, ()) =
        tokio::join!(lab.keys.principal(presented.text().expose_secret()), lab.seconds(1, true));
    assert_eq!(answer.unwrap().tenant.name, "acme");
    let shown = lab.metrics.text().unwrap();
    assert!(shown.contains(r#"crofter_key_authentications_total{result="ok"} 1"#), "{shown}");
    assert!(shown.contains("crofter_key_versions 1"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn what_the_watch_tells_counts_at_once() {
    let lab = Lab::new().await;
    let _ = lab.open();
    lab.seconds(3, true).await;
    lab.key(json!({"revoked": true})).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(lab.open(), Err(Refusal::Revoked));
    assert_eq!(lab.keys.authenticate("crft_x").map(drop), Err(Refusal::Malformed));
    lab.peppers.send_replace(pepper::Known::Absent);
    assert_eq!(lab.open(), Err(Refusal::Unknown));
    lab.peppers.send_replace(pepper::Known::Nothing);
    assert_eq!(lab.open(), Err(Refusal::Unready));
    lab.peppers.send_replace(pepper::Known::InForce(peppers()));
    let metadata = object("tenant-acme", "ci", 3, json!({}), &[]).metadata.clone();
    let invalid = kube::core::error_boundary::InvalidObject { error: "bad".into(), metadata };
    lab.told_keys.send(Change::Invalid(Arc::new(invalid))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(lab.open(), Err(Refusal::Unknown), "nobody knows what is meant");
}

/// Beside the bound in the documents this only finds a change of kind: it runs without optimisation.
#[tokio::test(start_paused = true)]
async fn an_answer_is_quick_however_many_keys_there_are() {
    let lab = Lab::new().await;
    let _ = lab.open();
    lab.seconds(2, true).await;
    let presented = text();
    let begun = std::time::Instant::now();
    for _ in 0..200 {
        lab.keys.authenticate(presented.text().expose_secret()).unwrap();
    }
    let each = begun.elapsed() / 200;
    assert!(each < Duration::from_millis(2), "{each:?}");
}

#[tokio::test(start_paused = true)]
async fn who_was_let_in_is_asked_about_again_without_the_text() {
    let lab = Lab::new().await;
    assert_eq!(lab.open(), Err(Refusal::Unready));
    lab.seconds(2, true).await;
    let before = lab.keys.authenticate(text().text().expose_secret()).unwrap();
    let again = async || lab.keys.again(&before).await.map(drop);
    assert_eq!(again().await, Ok(()));
    lab.key(json!({"revoked": true})).await;
    lab.seconds(1, true).await;
    assert_eq!(again().await, Err(Refusal::Revoked));
    lab.key(json!({"expiresAt": "2029-12-31T00:00:00Z"})).await;
    lab.seconds(1, true).await;
    assert_eq!(again().await, Err(Refusal::Expired));
    lab.key(json!({"scopes": ["jobs:read"]})).await;
    lab.seconds(1, true).await;
    assert!(
        lab.keys.again(&before).await.unwrap().may(crate::api_types::api_key::Scope::JobsRead),
        "as it is now"
    );
    lab.seconds(10, false).await;
    assert_eq!(again().await, Err(Refusal::Unready), "nobody knows whether it was revoked meanwhile");
}
