//! Reconciles against an API server in memory: which calls are made, in which order, with which bodies.

mod ends;
mod fuzz;

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU8, Ordering},
    },
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret;
use kube::runtime::{controller::Action, reflector::store::Writer};
use secrecy::SecretSlice;
use serde_json::{Value, json};

use super::*;
use crate::{
    domain::api_key::{Key, PepperVersion, Peppers, lifecycle},
    kube_ext::{
        invalid as invalid_ext,
        mock::{self, Call, Fake, outline, put},
    },
    names,
};

const KEY: &str = "/apis/crofter.io/v1alpha1/namespaces/tenant-acme/tenantapikeys/ci";
const STATUS: &str = "PATCH /apis/crofter.io/v1alpha1/namespaces/tenant-acme/tenantapikeys/ci/status";
const SECRETS: &str = "/api/v1/namespaces/tenant-acme/secrets";
const SECRET: &str = "/api/v1/namespaces/tenant-acme/secrets/crofter-key-ci";
const START: &str = "2030-01-01T00:00:00Z";

fn get() -> String {
    format!("GET {SECRET}")
}

/// A controller's context, with all that surrounds it set by the test.
struct Bench {
    fake: Fake,
    context: Arc<Context>,
    tenants: Writer<Tenant>,
    keys: Writer<TenantApiKey>,
    peppers: watch::Sender<pepper::State>,
    now: Arc<Mutex<Timestamp>>,
}

fn peppers(numbers: &[u8]) -> pepper::State {
    let one = |n: &u8| (PepperVersion((*n).into()), SecretSlice::from(vec![*n; 32]));
    pepper::State::InForce(Arc::new(Peppers::new(numbers.iter().map(one)).unwrap()))
}

/// Bytes that are others at each call.
fn random() -> Random {
    let next = AtomicU8::new(1);
    Random::of(move |bytes| {
        bytes.fill(next.fetch_add(1, Ordering::SeqCst));
        Ok(())
    })
}

fn bench() -> Bench {
    let fake = Fake::default();
    let now = Arc::new(Mutex::new(START.parse().unwrap()));
    let (sender, receiver) = watch::channel(peppers(&[1]));
    let ((keys, key_writer), (tenants, tenant_writer)) = (mock::cache(), mock::cache());
    let context = context(&fake, &now, receiver, (keys, tenants));
    let mut bench = Bench {
        fake,
        context: Arc::new(context),
        tenants: tenant_writer,
        keys: key_writer,
        peppers: sender,
        now,
    };
    let tenant = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme", "uid": "t1"},
        "spec": {}, "status": {"namespace": "tenant-acme"},
    });
    put(&mut bench.tenants, tenant);
    bench
}

fn context(
    fake: &Fake,
    now: &Arc<Mutex<Timestamp>>,
    peppers: watch::Receiver<pepper::State>,
    (keys, tenants): (Store<TenantApiKey>, Store<Tenant>),
) -> Context {
    let clock = Arc::clone(now);
    let dependencies = Dependencies {
        client: fake.client(),
        keys,
        tenants,
        peppers,
        settings: Settings::default(),
        namespace: "crofter-system".into(),
        events: mock::events(fake.client()),
        clock: Clock::of(move || *clock.lock().unwrap()),
        random: random(),
        metrics: Metrics::default(),
    };
    let (state, reconciler) = (ReconcileState::default(), reconciler(Metrics::default()));
    Context { dependencies, invalid: invalid_ext::cache().0, state, reconciler }
}

impl Bench {
    fn key(&self, metadata: Value, spec: Value) {
        let mut object = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey",
            "metadata": {"name": "ci", "namespace": "tenant-acme", "uid": "k1", "generation": 1},
            "spec": spec, "status": {"observedGeneration": -1},
        });
        mock::merge(&mut object["metadata"], &metadata);
        self.fake.put(KEY, object);
    }

    fn change(&self, patch: Value) {
        let mut object = self.fake.get(KEY);
        mock::merge(&mut object, &patch);
        self.fake.put(KEY, object);
    }

    /// One reconcile of the key as it is stored now; and the calls that it made.
    async fn try_reconcile(&self) -> (Result<Action, Error>, Vec<Call>) {
        let key: TenantApiKey = serde_json::from_value(self.fake.get(KEY)).unwrap();
        self.fake.calls();
        let result = reconcile(Arc::new(key), Arc::clone(&self.context)).await;
        self.context.dependencies.events.flush(std::time::Duration::from_secs(1)).await;
        (result, self.fake.calls())
    }

    async fn reconcile_once(&self) -> Vec<String> {
        let (result, calls) = self.try_reconcile().await;
        result.unwrap();
        outline(&calls)
    }

    /// Reconciles until no call is made any more but reads of the Secret.
    async fn converge(&self) {
        for _ in 0..6 {
            if self.reconcile_once().await.iter().all(|call| call.starts_with("GET")) {
                return;
            }
        }
        panic!("it does not converge: {}", self.fake.get(KEY));
    }

    /// The process is killed, and another one starts.
    fn restart(&mut self) {
        let caches = (mock::cache().0, self.context.dependencies.tenants.clone());
        self.context = Arc::new(context(&self.fake, &self.now, self.peppers.subscribe(), caches));
        // Other randomness than before.
        for _ in 0..100 {
            self.context.dependencies.random.fill(&mut [0]).unwrap();
        }
    }

    fn after(&self, seconds: i64) {
        let mut now = self.now.lock().unwrap();
        *now += SignedDuration::from_secs(seconds);
    }

    fn status(&self) -> Value {
        self.fake.get(KEY)["status"].clone()
    }

    fn ids(&self) -> Vec<String> {
        let versions = self.status()["versions"].as_array().cloned().unwrap_or_default();
        versions.iter().map(|version| version["keyId"].as_str().unwrap().to_owned()).collect()
    }

    fn token(&self) -> Key {
        let secret: Secret = serde_json::from_value(self.fake.get(SECRET)).unwrap();
        Key::parse(std::str::from_utf8(&secret.data.unwrap()["token"].0).unwrap()).unwrap()
    }

    /// Whether the token in the Secret is the one of the newest version.
    fn opens(&self) -> bool {
        let key: TenantApiKey = serde_json::from_value(self.fake.get(KEY)).unwrap();
        let pepper::State::InForce(peppers) = &*self.peppers.borrow() else { panic!("no pepper") };
        let newest = &key.status.unwrap().versions[0];
        lifecycle::recognises(newest, &self.token(), peppers)
    }

    /// `type` to `status/reason` of the stored key's conditions.
    fn conditions(&self) -> BTreeMap<String, String> {
        let all = self.status()["conditions"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        all.iter()
            .map(|c| (text(&c["type"]), format!("{}/{}", text(&c["status"]), text(&c["reason"]))))
            .collect()
    }
}

fn conditions(expected: &[(&str, &str)]) -> BTreeMap<String, String> {
    expected.iter().map(|(kind, what)| ((*kind).to_owned(), (*what).to_owned())).collect()
}

#[test]
fn the_controller_can_be_spawned() {
    type Run<F> = fn(Arc<Context>, Writer<Meta<TenantApiKey>>, Inputs, future::Ready<()>) -> F;
    fn spawnable<F: Future<Output = ()> + Send + 'static>(_: Run<F>) {}
    spawnable(run);
}

#[tokio::test]
async fn a_hash_is_written_first_and_then_its_token_once() {
    // Given: a new key. First reconcile: only the hash of a version is written.
    let mut bench = bench();
    bench.key(json!({}), json!({}));
    let (_, calls) = bench.try_reconcile().await;
    assert_eq!(outline(&calls), [get(), STATUS.to_owned()]);
    let id = bench.ids()[0].clone();
    assert_eq!(calls[1].body["status"]["versions"][0]["macs"][0]["pepper"], json!(1));
    let expected =
        [("Active", "False/KeyIssuing"), ("Ready", "False/KeyIssuing"), ("Reconciling", "True/KeyIssuing")];
    assert_eq!(bench.conditions(), conditions(&expected));
    assert_eq!(bench.status()["keyId"], Value::Null);

    // Second reconcile: the token is delivered and the key is accepted.
    let (_, calls) = bench.try_reconcile().await;
    assert_eq!(
        outline(&calls),
        [get(), format!("POST {SECRETS}"), STATUS.to_owned(), "Event KeyIssued".into()]
    );
    assert_eq!(
        bench.conditions(),
        conditions(&[("Active", "True/KeyAccepted"), ("Ready", "True/KeyIssued")])
    );
    assert_eq!((bench.status()["keyId"].as_str(), bench.token().id().as_str()), (Some(&*id), &*id));
    assert!(bench.opens());
    assert_eq!(bench.fake.get(SECRET)["metadata"]["ownerReferences"][0]["uid"], json!("k1"));

    // Then: nothing is left to do, also after a restart.
    let (action, calls) = bench.try_reconcile().await;
    assert_eq!(outline(&calls), [get()], "nothing changed, so nothing is written");
    assert_eq!(
        action.unwrap(),
        Action::requeue(std::time::Duration::from_secs(600)),
        "no watch delivers damage"
    );
    bench.restart();
    assert_eq!(bench.reconcile_once().await, [get()]);
}

#[tokio::test]
async fn an_annotation_rotates_once_and_the_version_before_stays_for_the_overlap() {
    let bench = bench();
    let rotate = |word: &str| json!({"annotations": {names::ANNOTATION_ROTATE: word}});
    bench.key(rotate("at its making"), json!({"overlapSeconds": 60}));
    bench.converge().await;
    let first = bench.ids();
    assert_eq!(bench.status()["lastRotateRequest"], json!("at its making"));
    bench.change(json!({"metadata": rotate("again")}));
    assert_eq!(bench.reconcile_once().await, [get(), STATUS.into()]);
    assert_eq!(bench.ids().len(), 2);
    assert_eq!(bench.conditions()["Active"], "True/KeyAccepted");
    let (action, calls) = bench.try_reconcile().await;
    assert_eq!(outline(&calls), [get(), format!("PATCH {SECRET}"), STATUS.into(), "Event KeyRotated".into()]);
    let metadata = &calls[1].body["metadata"];
    assert!(metadata["uid"].is_string() && metadata["resourceVersion"].is_string(), "{metadata}");
    assert_eq!(action.unwrap(), Action::requeue(std::time::Duration::from_secs(60)));
    assert_eq!(bench.ids()[1..], first);
    assert_eq!(bench.status()["versions"][1]["validUntil"], json!("2030-01-01T00:01:00Z"));
    bench.converge().await;
    bench.after(60);
    bench.converge().await;
    assert_eq!(bench.ids().len(), 1);
    assert!(bench.opens());
}

#[tokio::test]
async fn killed_between_the_two_writes_the_next_one_makes_another_version() {
    // A first version whose hash was written and whose token is lost is replaced.
    let mut bench = bench();
    bench.key(json!({}), json!({}));
    bench.reconcile_once().await;
    let lost = bench.ids();
    bench.restart();
    bench.converge().await;
    assert_ne!(bench.ids(), lost);
    assert!(bench.ids().len() == 1 && bench.opens());

    // The same in a rotation: the version in the Secret stays, the one that no client has is dropped.
    let first = bench.ids();
    bench.change(json!({"metadata": {"annotations": {names::ANNOTATION_ROTATE: "x"}}}));
    bench.reconcile_once().await;
    let lost = bench.ids()[0].clone();
    bench.restart();
    bench.converge().await;
    assert!(bench.ids()[1..] == first && !bench.ids().contains(&lost) && bench.opens());

    // After both writes, before the last: nothing is made again.
    bench.change(json!({"metadata": {"annotations": {names::ANNOTATION_ROTATE: "y"}}}));
    bench.reconcile_once().await;
    bench.fake.refuse(&format!("{KEY}/status"), 500);
    assert!(bench.try_reconcile().await.0.is_err());
    bench.fake.refuse(&format!("{KEY}/status"), 0);
    let delivered = bench.token().id();
    bench.restart();
    bench.converge().await;
    assert_eq!((bench.ids()[0].as_str(), bench.opens()), (delivered.as_str(), true));
}

#[tokio::test]
async fn a_secret_that_is_refused_is_tried_again_with_the_same_text() {
    let bench = bench();
    bench.key(json!({}), json!({}));
    bench.reconcile_once().await;
    let ids = bench.ids();
    bench.fake.refuse_with(SECRETS, 403, "exceeded quota");
    assert!(bench.try_reconcile().await.0.is_err());
    assert_eq!(bench.conditions()["Reconciling"], "True/ApiError");
    bench.fake.refuse(SECRETS, 0);
    bench.converge().await;
    assert_eq!(bench.ids(), ids);
    assert!(bench.opens());
}

#[tokio::test]
async fn a_damaged_or_missing_secret_gets_a_new_version_and_keeps_what_is_not_ours() {
    let bench = bench();
    bench.key(json!({}), json!({}));
    bench.converge().await;
    let first = bench.ids();
    let mut secret = bench.fake.get(SECRET);
    secret["data"]["token"] = json!("Y3JmdF9mb3JnZWQ=");
    secret["data"]["theirs"] = json!("eA==");
    bench.fake.put(SECRET, secret);
    let (action, _) = bench.try_reconcile().await;
    assert_eq!(action.unwrap(), Action::requeue(std::time::Duration::from_secs(10)));
    bench.after(10);
    let calls = bench.reconcile_once().await;
    assert_eq!(calls, [get(), STATUS.into()], "reported when it was found");
    bench.converge().await;
    assert!(bench.opens() && bench.ids()[1..] == first);
    assert_eq!(bench.fake.get(SECRET)["data"]["theirs"], json!("eA=="));

    let second = bench.ids()[0].clone();
    bench.fake.take(SECRET);
    bench.after(10);
    bench.converge().await;
    assert!(bench.opens() && bench.ids()[1] == second && bench.ids().len() == 2);
}

#[tokio::test]
async fn a_foreign_secret_is_never_touched() {
    for owners in [json!(null), json!([{"apiVersion": "v1", "kind": "Pod", "name": "ci", "uid": "other"}])] {
        let bench = bench();
        bench.key(json!({}), json!({}));
        let foreign = json!({
            "apiVersion": "v1", "kind": "Secret", "data": {"token": "eA=="},
            "metadata": {"name": "ci", "namespace": "tenant-acme", "uid": "s", "ownerReferences": owners},
        });
        bench.fake.put(SECRET, foreign);
        let before = bench.fake.get(SECRET);
        let (action, calls) = bench.try_reconcile().await;
        assert_eq!(outline(&calls), [get(), STATUS.into(), "Event SecretConflict".into()]);
        assert_eq!(action.unwrap(), Action::requeue(std::time::Duration::from_secs(30)));
        let expected = [
            ("Active", "False/SecretConflict"),
            ("Ready", "False/SecretConflict"),
            ("Stalled", "True/SecretConflict"),
        ];
        assert_eq!(bench.conditions(), conditions(&expected));
        assert_eq!(bench.reconcile_once().await, [get()], "said once");
        assert_eq!(bench.fake.get(SECRET), before);
        bench.fake.take(SECRET);
        bench.converge().await;
        assert!(bench.opens());
    }
}

/// Text, secret and pepper, raw and in base64, in all that is written but the Secret itself.
#[tokio::test]
async fn nothing_but_the_secret_holds_the_token() {
    use secrecy::ExposeSecret;
    // Given: a key that was rotated three times.
    let bench = bench();
    bench.key(json!({}), json!({}));
    let mut calls = Vec::new();
    for word in ["a", "b", "c"] {
        bench.change(json!({"metadata": {"annotations": {names::ANNOTATION_ROTATE: word}}}));
        for _ in 0..3 {
            calls.extend(bench.try_reconcile().await.1);
        }
    }
    // When: all that was written and is shown is gathered, apart from the Secret.
    let key = bench.token();
    let text = key.token().expose_secret();
    let secrets: Vec<&Call> = calls.iter().filter(|call| call.path.starts_with(SECRETS)).collect();
    assert!(secrets.iter().any(|call| call.body["data"]["token"].is_string()));
    let written: Vec<_> = calls.iter().filter(|call| !call.path.starts_with(SECRETS)).collect();
    assert!(written.len() >= 6);
    let shown = format!(
        "{written:?} {} {:?} {:?}",
        bench.fake.get(KEY),
        *bench.peppers.borrow(),
        bench.context.dependencies.metrics.text().unwrap(),
    );
    // Then: no token is in it, nor the pepper.
    let token = bench.fake.get(SECRET)["data"]["token"].as_str().unwrap().to_owned();
    for canary in [&text[18..61], text, &token, &token[..40]] {
        assert!(!shown.contains(canary), "{canary} in {shown}");
    }
    assert!(!shown.contains("1, 1, 1, 1"), "the pepper's bytes");
    assert!(!shown.contains("AQEBAQEB"), "the pepper in base64");
    assert!(shown.contains(&text[5..17]), "the id may be seen");
}
