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

fn token() -> Key {
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

/// A running cache and its inputs.
struct Lab {
    fake: Fake,
    keys: Keys,
    metrics: Metrics,
    key_changes: mpsc::Sender<Change<TenantApiKey>>,
    tenant_changes: mpsc::Sender<Change<Tenant>>,
    peppers: watch::Sender<pepper::State>,
    watch: Pulse,
}

impl Lab {
    async fn new() -> Self {
        let (fake, metrics) = (Fake::default(), Metrics::default());
        let ((key_changes, keys), (tenant_changes, tenants)) = (mpsc::channel(8), mpsc::channel(8));
        let (sender, receiver) = watch::channel(pepper::State::InForce(peppers()));
        let clock = Clock::of(|| "2030-01-01T00:00:00Z".parse().unwrap());
        let cache = Keys::new(receiver, clock, metrics.clone());
        tokio::spawn(cache.clone().feed("crofter-system".into(), Inputs { keys, tenants }));
        let watch = Pulse::default();
        tokio::spawn(cache.clone().probe(fake.client(), "crofter-system".into(), watch.clone()));
        let lab = Self { fake, keys: cache, metrics, key_changes, tenant_changes, peppers: sender, watch };
        let tenant = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme", "uid": "t1"},
            "spec": {}, "status": {"namespace": "tenant-acme"},
        });
        let tenant = Change::Applied(Arc::new(serde_json::from_value(tenant).unwrap()));
        lab.tenant_changes.send(tenant).await.unwrap();
        lab.tenant_changes.send(Change::Synced).await.unwrap();
        lab.key(json!({})).await;
        lab.key_changes.send(Change::Synced).await.unwrap();
        lab
    }

    async fn key(&self, spec: Value) {
        let version = lifecycle::version(&token(), &peppers(), jiff::Timestamp::UNIX_EPOCH).unwrap();
        self.key_changes
            .send(Change::Applied(object("tenant-acme", "ci", 1, spec, &[version])))
            .await
            .unwrap();
    }

    /// The watch delivers the current probe.
    async fn catch_up(&self) {
        let version =
            self.fake.get(PROBE)["metadata"]["resourceVersion"].as_str().map(|v| v.parse().unwrap());
        let probe =
            object("crofter-system", "crofter-probe", version.unwrap_or(0), json!({"revoked": true}), &[]);
        self.key_changes.send(Change::Applied(probe)).await.unwrap();
    }

    /// Lets time pass in which the watch delivers the probe, or does not.
    async fn seconds(&self, seconds: u64, keeps_up: bool) {
        for _ in 0..seconds * 10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if keeps_up {
                self.catch_up().await;
            }
        }
    }

    fn open(&self) -> Result<(), Refusal> {
        self.keys.authenticate_now(token().token().expose_secret()).map(drop)
    }

    fn writes(&self) -> usize {
        self.fake.calls().len()
    }
}

#[tokio::test(start_paused = true)]
async fn no_key_is_accepted_before_the_watch_delivers_a_write() {
    let lab = Lab::new().await;
    lab.seconds(1, false).await;
    assert_eq!(lab.writes(), 0, "no key is in use");
    assert_eq!(lab.open(), Err(Refusal::Unready));
    lab.seconds(2, false).await;
    assert_eq!(lab.open(), Err(Refusal::Unready), "written, and not delivered");
    assert_eq!(lab.fake.get(PROBE)["metadata"]["annotations"][names::ANNOTATION_PAUSED], json!("true"));
    lab.seconds(1, true).await;
    assert_eq!(lab.open(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_cache_more_than_five_seconds_stale_refuses_all_keys_until_it_is_current() {
    let lab = Lab::new().await;
    let _ = lab.open();
    lab.seconds(3, true).await;
    assert_eq!(lab.open(), Ok(()));
    lab.seconds(4, false).await;
    assert_eq!(lab.open(), Ok(()), "four seconds are allowed");
    lab.seconds(2, false).await;
    assert_eq!(lab.open(), Err(Refusal::Unready), "six are not");
    assert!(lab.keys.staleness().unwrap() > MAX_STALENESS);
    lab.seconds(1, true).await;
    assert_eq!(lab.open(), Ok(()));
    // The same when it is the write that fails.
    lab.fake.refuse(PROBE, 500);
    lab.seconds(6, true).await;
    assert_eq!(lab.open(), Err(Refusal::Unready));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_does_not_deliver_the_writes_is_renewed() {
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
    // Another connection would not help with an API server that is unavailable.
    lab.seconds(1, true).await;
    lab.fake.refuse(PROBE, 500);
    lab.seconds(30, false).await;
    assert!(!renewed(&lab).await);
}

#[tokio::test(start_paused = true)]
async fn the_probe_is_idle_without_use_and_the_next_request_waits_for_it() {
    let lab = Lab::new().await;
    let _ = lab.open();
    lab.seconds(59, true).await;
    let written = lab.writes();
    assert!((55..=65).contains(&written), "one a second: {written}");
    lab.seconds(5, true).await;
    lab.writes();
    lab.seconds(100, true).await;
    assert_eq!(lab.writes(), 0);
    let presented = token();
    let (result, ()) =
        tokio::join!(lab.keys.authenticate(presented.token().expose_secret()), lab.seconds(1, true));
    assert_eq!(result.unwrap().tenant.name, "acme");
    let shown = lab.metrics.text().unwrap();
    assert!(shown.contains(r#"crofter_key_authentications_total{result="ok"} 1"#), "{shown}");
    assert!(shown.contains("crofter_key_versions 1"), "{shown}");
}

#[tokio::test(start_paused = true)]
async fn a_delivered_change_counts_at_once() {
    let lab = Lab::new().await;
    let _ = lab.open();
    lab.seconds(3, true).await;
    lab.key(json!({"revoked": true})).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(lab.open(), Err(Refusal::Revoked));
    assert_eq!(lab.keys.authenticate_now("crft_x").map(drop), Err(Refusal::Malformed));
    lab.peppers.send_replace(pepper::State::Absent);
    assert_eq!(lab.open(), Err(Refusal::Unknown));
    lab.peppers.send_replace(pepper::State::Pending);
    assert_eq!(lab.open(), Err(Refusal::Unready));
    lab.peppers.send_replace(pepper::State::InForce(peppers()));
    let metadata = object("tenant-acme", "ci", 3, json!({}), &[]).metadata.clone();
    let invalid = kube::core::error_boundary::InvalidObject { error: "bad".into(), metadata };
    lab.key_changes.send(Change::Invalid(Arc::new(invalid))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(lab.open(), Err(Refusal::Unknown), "an invalid key is refused");
}

/// The documents have the bound; this test runs without optimisation and finds only a change of complexity.
#[tokio::test(start_paused = true)]
async fn authentication_is_fast_with_any_number_of_keys() {
    let lab = Lab::new().await;
    let _ = lab.open();
    lab.seconds(2, true).await;
    let presented = token();
    let begun = std::time::Instant::now();
    for _ in 0..200 {
        lab.keys.authenticate_now(presented.token().expose_secret()).unwrap();
    }
    let each = begun.elapsed() / 200;
    assert!(each < Duration::from_millis(20), "{each:?}");
}

#[tokio::test(start_paused = true)]
async fn a_principal_is_revalidated_without_its_token() {
    let lab = Lab::new().await;
    assert_eq!(lab.open(), Err(Refusal::Unready));
    lab.seconds(2, true).await;
    let before = lab.keys.authenticate_now(token().token().expose_secret()).unwrap();
    let revalidated = async || lab.keys.revalidate(&before).await.map(drop);
    assert_eq!(revalidated().await, Ok(()));
    lab.key(json!({"revoked": true})).await;
    lab.seconds(1, true).await;
    assert_eq!(revalidated().await, Err(Refusal::Revoked));
    lab.key(json!({"expiresAt": "2029-12-31T00:00:00Z"})).await;
    lab.seconds(1, true).await;
    assert_eq!(revalidated().await, Err(Refusal::Expired));
    lab.key(json!({"scopes": ["jobs:read"]})).await;
    lab.seconds(1, true).await;
    assert!(
        lab.keys.revalidate(&before).await.unwrap().may(crate::api_types::api_key::Scope::JobsRead),
        "by its current scopes"
    );
    lab.seconds(10, false).await;
    assert_eq!(revalidated().await, Err(Refusal::Unready), "it may have been revoked");
}
