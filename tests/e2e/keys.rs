//! API keys: what becomes of them on the real control plane, and who is let in by the cache that every replica has.

use std::{cell::Cell, time::Duration};

use crofter::{
    api_types::{Tenant, TenantApiKey, api_key::Scope},
    clock::Clock,
    domain::api_key::{Key, Peppers, Seed, lifecycle},
    keys::{Inputs, Keys, Principal, Refusal, pepper},
    kube_ext::watch::Watch,
    metrics::Metrics,
    names,
};
use crofter_test_cluster::wait;
use k8s_openapi::{
    ByteString,
    api::{core::v1::Secret, events::v1::Event},
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::watcher,
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

pub use crate::common::keys::{make, patch, until_ready};
use crate::{
    common::{
        Verbs, WAIT_TIMEOUT,
        keys::{condition, keys, secrets, status, text, until_key},
        now, refusal,
    },
    world,
};

/// What the REST server of a replica has: its own watches, and the cache that they feed.
struct Replica {
    keys: Keys,
    _parts: JoinSet<()>,
}

impl Replica {
    async fn start(verbs: &Verbs<'_>) -> Self {
        let home = names::DEFAULT_NAMESPACE.to_owned();
        let mut objects =
            Watch::<TenantApiKey>::new(Api::all(verbs.client.clone()), watcher::Config::default());
        let mut tenants = Watch::<Tenant>::new(Api::all(verbs.client.clone()), watcher::Config::default());
        let mut secret = pepper::watch(&verbs.client, &home);
        let (known, peppers) = tokio::sync::watch::channel(pepper::State::Pending);
        let keys = Keys::new(peppers, Clock::system(), Metrics::default());
        let inputs = Inputs { keys: objects.subscribe(), tenants: tenants.subscribe() };
        let mut parts = JoinSet::new();
        parts.spawn(pepper::follow(Some(verbs.client.clone()), home.clone(), secret.subscribe(), known));
        parts.spawn(keys.clone().feed(home.clone(), inputs));
        parts.spawn(keys.clone().probe(verbs.client.clone(), home, objects.pulse()));
        parts.spawn(objects.run());
        parts.spawn(tenants.run());
        parts.spawn(secret.run());
        assert!(keys.wait_until_current(WAIT_TIMEOUT).await, "the cache of keys does not catch up");
        Self { keys, _parts: parts }
    }

    /// The answer of a cache that is current: one that a busy machine has let fall behind refuses every text.
    async fn answer(&self, text: &str) -> Result<Principal, Refusal> {
        wait::until(WAIT_TIMEOUT, "a cache that is current", || async {
            match self.keys.authenticate(text).await {
                Err(Refusal::Unready) => Err(Refusal::Unready),
                answer => Ok(answer),
            }
        })
        .await
        .unwrap()
    }

    /// Waits until a text has this answer.
    async fn until(&self, text: &str, expected: Result<(), Refusal>) {
        wait::until(WAIT_TIMEOUT, &format!("{expected:?}"), || async {
            let answer = self.answer(text).await.map(drop);
            if answer == expected { Ok(()) } else { Err(answer) }
        })
        .await
        .unwrap();
    }
}

async fn rotate(verbs: &Verbs<'_>, tenant: &str, name: &str, word: &str) {
    let annotations = json!({"metadata": {"annotations": {names::ANNOTATION_ROTATE: word}}});
    patch(verbs, tenant, name, annotations).await.unwrap();
}

fn ids(key: &TenantApiKey) -> Vec<String> {
    status(key).versions.into_iter().map(|version| version.key_id).collect()
}

/// Waits until the Secret holds another text than this, and the key is Ready with it.
async fn until_other_text(verbs: &Verbs<'_>, tenant: &str, name: &str, before: &str) -> String {
    let (api, secret) = (secrets(verbs, tenant), names::key_secret(name));
    let other = wait::until(WAIT_TIMEOUT, "another text in the Secret", || async {
        let secret = api.get_opt(&secret).await.map_err(|e| e.to_string())?.ok_or("no Secret")?;
        let token = secret.data.unwrap_or_default().remove("token").unwrap_or_default();
        let text = String::from_utf8(token.0).map_err(|e| e.to_string())?;
        if text != before && Key::parse(&text).is_ok() { Ok(text) } else { Err("the same".to_owned()) }
    })
    .await
    .unwrap();
    let id = Key::parse(&other).unwrap().id().to_string();
    let ready = |key: &TenantApiKey| {
        status(key).key_id.as_deref() == Some(&*id) && condition(key, "Ready") == "True/KeyIssued"
    };
    until_key(verbs, tenant, name, "Ready with it", ready).await;
    other
}

/// The Secret of the key `ci`.
const SECRET: &str = "crofter-key-ci";

/// A tenant with a key, its text, and a replica that knows them.
async fn with_key(verbs: &Verbs<'_>, tenant: &str, spec: Value) -> (Replica, String) {
    verbs.tenant(tenant, json!({"plan": "basic"})).await;
    make(verbs, tenant, "ci", spec).await.unwrap();
    until_ready(verbs, tenant, "ci").await;
    let (replica, text) = (Replica::start(verbs).await, text(verbs, tenant, "ci").await);
    replica.until(&text, Ok(())).await;
    (replica, text)
}

#[tokio::test]
async fn a_key_is_issued_and_its_text_is_in_its_secret_and_nowhere_else() {
    let verbs = world().verbs().await;
    // Given a key that is Ready.
    let (replica, token) = with_key(&verbs, "issued", json!({"scopes": ["jobs:read"]})).await;
    let said = world()
        .cluster
        .kubectl(["-n", "tenant-issued", "wait", "tkey/ci", "--for=condition=Ready", "--timeout=60s"])
        .await
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    // Its token is accepted for its tenant and its scopes.
    let principal = replica.answer(&token).await.unwrap();
    let tenant = verbs.all::<Tenant>().get("issued").await.unwrap();
    assert_eq!((principal.tenant.name.as_str(), &principal.tenant.uid), ("issued", &tenant.uid().unwrap()));
    assert!(principal.may(Scope::JobsRead) && !principal.may(Scope::JobsWrite));

    // The Secret has the token, and belongs to tenant and key.
    let secret = secrets(&verbs, "issued").get(SECRET).await.unwrap();
    let key = keys(&verbs, "issued").get("ci").await.unwrap();
    assert_eq!(secret.data.as_ref().unwrap()["keyId"].0, status(&key).key_id.unwrap().into_bytes());
    assert_eq!(secret.labels()["crofter.io/tenant-uid"], tenant.uid().unwrap());
    assert_eq!(secret.owner_references()[0].uid, key.uid().unwrap());

    // Neither another token nor half of this one is accepted.
    let forged = Key::new(
        &Seed::of(|bytes| {
            bytes.fill(1);
            Ok::<_, ()>(())
        })
        .unwrap(),
    );
    assert_eq!(replica.answer(forged.token().expose_secret()).await.unwrap_err(), Refusal::Unknown);
    assert_eq!(replica.answer(&token[..66]).await.unwrap_err(), Refusal::Malformed);

    // Neither token nor pepper is in the log, the metrics, the Events or the key's status.
    let pepper: Secret = verbs.within(names::DEFAULT_NAMESPACE).get(names::PEPPER_SECRET).await.unwrap();
    let pepper = serde_json::to_value(&pepper.data.unwrap()["v1"]).unwrap();
    let base64 = serde_json::to_value(ByteString(token.clone().into_bytes())).unwrap();
    let (pepper, base64) = (pepper.as_str().unwrap(), base64.as_str().unwrap());
    let events: Api<Event> = verbs.within("tenant-issued");
    let events = events.list(&ListParams::default()).await.unwrap();
    assert!(events.items.iter().any(|event| event.reason.as_deref() == Some("KeyIssued")));
    let mut shown = world().operator_log();
    shown += &world().ask("/metrics").await.unwrap();
    shown += &serde_json::to_string(&events.items).unwrap();
    shown += &serde_json::to_string(&key).unwrap();
    for secret in [&token, &token[18..61], base64, &base64[24..80], pepper] {
        assert!(!shown.contains(secret), "a text is where it should not be");
    }
}

#[tokio::test]
async fn a_rotation_overlaps_and_no_client_is_refused_meanwhile() {
    let verbs = world().verbs().await;
    let (replica, first) = with_key(&verbs, "rotated", json!({"overlapSeconds": 4})).await;
    rotate(&verbs, "rotated", "ci", "once").await;
    let begun = Instant::now();
    let second = until_other_text(&verbs, "rotated", "ci", &first).await;
    // The watch of this replica may be behind the Secret.
    replica.until(&second, Ok(())).await;
    let answer = replica.answer(&first).await.map(drop);
    assert!(answer.is_ok() || begun.elapsed() > Duration::from_secs(4), "{answer:?}");
    // For a moment it is Expired, until the controller has taken its hash away.
    replica.until(&first, Err(Refusal::Unknown)).await;
    assert!(begun.elapsed() > Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(replica.answer(&second).await.map(drop), Ok(()));
    let key = until_key(&verbs, "rotated", "ci", "one version", |key| ids(key).len() == 1).await;
    assert_eq!(status(&key).last_rotate_request.as_deref(), Some("once"));

    // A client that reads the Secret before each request is let in, however often the key is rotated: at the latest when
    // the watch of this replica has what can be read.
    patch(&verbs, "rotated", "ci", json!({"spec": {"overlapSeconds": 0}})).await.unwrap();
    let (tried, late) = (Cell::new(0), Cell::new(0));
    let mut current = second;
    for round in 0..5 {
        rotate(&verbs, "rotated", "ci", &format!("round {round}")).await;
        let before = current.clone();
        while current == before {
            let accepted = async || {
                let read = text(&verbs, "rotated", "ci").await;
                tried.set(tried.get() + 1);
                replica.answer(&read).await.map(|_| read).inspect_err(|_| late.set(late.get() + 1))
            };
            current = wait::until(WAIT_TIMEOUT, "the text to be accepted", accepted).await.unwrap();
        }
        until_other_text(&verbs, "rotated", "ci", &before).await;
    }
    let (tried, late) = (tried.get(), late.get());
    eprintln!(
        "of {tried} texts that were read, {late} were not known to the replica yet, or not valid any more"
    );
    assert!(tried >= 5);
}

#[tokio::test]
async fn a_damaged_or_deleted_secret_gets_a_new_version() {
    let verbs = world().verbs().await;
    let (replica, first) = with_key(&verbs, "damaged", json!({})).await;
    let api = secrets(&verbs, "damaged");
    let damage = json!({"stringData": {"token": "crft_chosen-by-a-user", "theirs": "stays"}});
    api.patch(SECRET, &PatchParams::default(), &Patch::Merge(damage)).await.unwrap();
    // No watch of Secrets reports it. A change of the key has the Secret read before ten minutes have passed.
    let request = |word: &str| json!({"metadata": {"annotations": {names::ANNOTATION_RECONCILE: word}}});
    patch(&verbs, "damaged", "ci", request("damaged")).await.unwrap();
    let second = until_other_text(&verbs, "damaged", "ci", &first).await;
    replica.until(&second, Ok(())).await;
    assert_eq!(replica.answer(&first).await.map(drop), Ok(()), "for the overlap");
    assert_eq!(api.get(SECRET).await.unwrap().data.unwrap()["theirs"].0, b"stays");

    api.delete(SECRET, &DeleteParams::default()).await.unwrap();
    patch(&verbs, "damaged", "ci", request("deleted")).await.unwrap();
    let third = until_other_text(&verbs, "damaged", "ci", &second).await;
    replica.until(&third, Ok(())).await;
    assert_eq!(replica.answer(&second).await.map(drop), Ok(()));
    replica.until(&first, Err(Refusal::Unknown)).await;
    assert_eq!(ids(&keys(&verbs, "damaged").get("ci").await.unwrap()).len(), 2);
}

#[tokio::test]
async fn a_deleted_key_takes_its_secret_along() {
    let verbs = world().verbs().await;
    let (replica, token) = with_key(&verbs, "dropped", json!({})).await;
    keys(&verbs, "dropped").delete("ci", &DeleteParams::default()).await.unwrap();
    replica.until(&token, Err(Refusal::Unknown)).await;
    verbs.until_deleted(&secrets(&verbs, "dropped"), SECRET).await;
}

#[tokio::test]
async fn a_revoked_key_is_refused_soon_and_for_good() {
    let verbs = world().verbs().await;
    let (replica, token) = with_key(&verbs, "revoked", json!({})).await;
    // Each of ten revoked keys is refused. How soon is printed: it says something of a machine that is not busy only.
    let (mut slowest, mut refused) = (Duration::ZERO, Vec::new());
    for n in 0..10 {
        let name = format!("k{n}");
        make(&verbs, "revoked", &name, json!({})).await.unwrap();
        until_ready(&verbs, "revoked", &name).await;
        let token = text(&verbs, "revoked", &name).await;
        replica.until(&token, Ok(())).await;
        patch(&verbs, "revoked", &name, json!({"spec": {"revoked": true}})).await.unwrap();
        let begun = Instant::now();
        while replica.answer(&token).await.is_ok() {
            assert!(begun.elapsed() < WAIT_TIMEOUT, "{name} is still let in");
            tokio::task::yield_now().await;
        }
        slowest = slowest.max(begun.elapsed());
        refused.push(token);
    }
    eprintln!("from revoked to refused: {slowest:?} at most, of 10");
    for token in &refused {
        assert!(replica.answer(token).await.is_err(), "a revoked key is let in again");
    }

    // A revoked key keeps no version, and can't be restored.
    patch(&verbs, "revoked", "ci", json!({"spec": {"revoked": true}})).await.unwrap();
    let ended = |key: &TenantApiKey| condition(key, "Active") == "False/KeyRevoked" && ids(key).is_empty();
    let key = until_key(&verbs, "revoked", "ci", "nothing is kept", ended).await;
    assert_eq!(condition(&key, "Ready"), "True/KeyRevoked");
    replica.until(&token, Err(Refusal::Unknown)).await;
    let said = refusal(patch(&verbs, "revoked", "ci", json!({"spec": {"revoked": false}})).await);
    assert!(said.contains("a revoked key stays revoked"), "{said}");
}

#[tokio::test]
async fn a_key_expires_by_itself_and_its_rotations_with_it() {
    let verbs = world().verbs().await;
    let (replica, first) = with_key(&verbs, "expired", json!({})).await;
    // Long enough for a rotation before it.
    let end = now().as_second() + 30;
    let end = jiff::Timestamp::from_second(end).unwrap();
    patch(&verbs, "expired", "ci", json!({"spec": {"expiresAt": end.to_string()}})).await.unwrap();
    rotate(&verbs, "expired", "ci", "before the end").await;
    let second = until_other_text(&verbs, "expired", "ci", &first).await;
    let key = keys(&verbs, "expired").get("ci").await.unwrap();
    assert_eq!(status(&key).versions[1].valid_until.as_ref().unwrap().0, end, "not for the day of overlap");
    replica.until(&second, Err(Refusal::Expired)).await;
    assert!(now() >= end);
    assert_ne!(replica.answer(&first).await.map(drop), Ok(()));
    until_key(&verbs, "expired", "ci", "Expired", |k| condition(k, "Active") == "False/KeyExpired").await;
    patch(&verbs, "expired", "ci", json!({"spec": {"expiresAt": null}})).await.unwrap();
    replica.until(&second, Ok(())).await;
    replica.until(&first, Err(Refusal::Unknown)).await;
}

#[tokio::test]
async fn a_foreign_secret_is_left_alone() {
    let verbs = world().verbs().await;
    verbs.tenant("squatted", json!({"plan": "basic"})).await;
    let api = secrets(&verbs, "squatted");
    let theirs: Secret =
        serde_json::from_value(json!({"metadata": {"name": SECRET}, "stringData": {"token": "mine"}}))
            .unwrap();
    let theirs = api.create(&PostParams::default(), &theirs).await.unwrap();
    make(&verbs, "squatted", "ci", json!({})).await.unwrap();
    let conflict = |key: &TenantApiKey| condition(key, "Stalled") == "True/SecretConflict";
    let key = until_key(&verbs, "squatted", "ci", "SecretConflict", conflict).await;
    assert_eq!((condition(&key, "Active").as_str(), ids(&key).len()), ("False/SecretConflict", 0));
    assert_eq!(api.get(SECRET).await.unwrap(), theirs);
    api.delete(SECRET, &DeleteParams::default()).await.unwrap();
    until_ready(&verbs, "squatted", "ci").await;

    make(&verbs, "squatted", "named", json!({"secretName": "crofter-key-elsewhere"})).await.unwrap();
    until_ready(&verbs, "squatted", "named").await;
    api.get("crofter-key-elsewhere").await.unwrap();
    let other = json!({"spec": {"secretName": "crofter-key-other"}});
    let said = refusal(patch(&verbs, "squatted", "named", other).await);
    assert!(said.contains("secretName can't change"), "{said}");
    let said = refusal(make(&verbs, "squatted", "bad", json!({"rotateEvery": "59m"})).await);
    assert!(said.contains("rotateEvery is at least 1h"), "{said}");
    make(&verbs, "squatted", "good", json!({"rotateEvery": "1h30m"})).await.unwrap();
}

/// The state that a process leaves that is killed between the write of a hash and that of its text.
#[tokio::test]
async fn a_hash_without_its_text_gives_way_to_a_new_version() {
    let verbs = world().verbs().await;
    let (replica, first) = with_key(&verbs, "killed", json!({})).await;
    let pause = |word: Value| json!({"metadata": {"annotations": {names::ANNOTATION_PAUSED: word}}});
    patch(&verbs, "killed", "ci", pause(json!("true"))).await.unwrap();
    let secret: Secret = verbs.within(names::DEFAULT_NAMESPACE).get(names::PEPPER_SECRET).await.unwrap();
    let peppers: Peppers = pepper::read(&secret).unwrap();
    let lost = Key::new(
        &Seed::of(|bytes| {
            bytes.fill(42);
            Ok::<_, ()>(())
        })
        .unwrap(),
    );
    let mut left = status(&keys(&verbs, "killed").get("ci").await.unwrap());
    left.versions.insert(0, lifecycle::version(&lost, &peppers, now()).unwrap());
    let left = Patch::Merge(json!({"status": {"versions": left.versions}}));
    keys(&verbs, "killed").patch_status("ci", &PatchParams::default(), &left).await.unwrap();
    patch(&verbs, "killed", "ci", pause(Value::Null)).await.unwrap();
    let second = until_other_text(&verbs, "killed", "ci", &first).await;
    replica.until(&second, Ok(())).await;
    assert_eq!(replica.answer(lost.token().expose_secret()).await.unwrap_err(), Refusal::Unknown);
    assert_eq!(replica.answer(&first).await.map(drop), Ok(()), "for the overlap");
}

#[tokio::test]
async fn a_pepper_is_replaced_without_touching_a_key() {
    let verbs = world().verbs().await;
    let (replica, token) = with_key(&verbs, "peppered", json!({})).await;
    let pepper = ByteString(vec![0x5a; 32]);
    let api: Api<Secret> = verbs.within(names::DEFAULT_NAMESPACE);
    let add = Patch::Merge(json!({"data": {"v2": pepper}}));
    api.patch(names::PEPPER_SECRET, &PatchParams::default(), &add).await.unwrap();
    let hashed = |key: &TenantApiKey| {
        status(key).versions[0].macs.iter().map(|mac| mac.pepper).collect::<Vec<_>>() == [2, 1]
    };
    until_key(&verbs, "peppered", "ci", "hashed under both", hashed).await;
    assert_eq!(text(&verbs, "peppered", "ci").await, token);
    replica.until(&token, Ok(())).await;

    let uid = api.get(names::PEPPER_SECRET).await.unwrap().uid();
    api.delete(names::PEPPER_SECRET, &DeleteParams::default()).await.unwrap();
    wait::until(WAIT_TIMEOUT, "the peppers to be put back", || async {
        let back = api.get_opt(names::PEPPER_SECRET).await.map_err(|e| e.to_string())?.ok_or("none")?;
        if back.uid() != uid && back.data.unwrap().len() == 2 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await
    .unwrap();
    assert_eq!(replica.answer(&token).await.map(drop), Ok(()));
}

#[tokio::test]
async fn a_tenant_that_goes_takes_its_keys_along() {
    let verbs = world().verbs().await;
    verbs.tenant("left", json!({"plan": "basic", "deletionPolicy": "Retain"})).await;
    make(&verbs, "left", "ci", json!({})).await.unwrap();
    until_ready(&verbs, "left", "ci").await;
    let (replica, token) = (Replica::start(&verbs).await, text(&verbs, "left", "ci").await);
    replica.until(&token, Ok(())).await;
    verbs.delete_tenant("left").await;
    assert!(replica.answer(&token).await.is_err());
    assert!(
        keys(&verbs, "left").get("ci").await.unwrap().spec.revoked,
        "the namespace stays, and opens nothing"
    );

    let stray = json!({"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": {"name": "stray"}, "spec": {}});
    let api: Api<TenantApiKey> = verbs.within("default");
    verbs.create(&api, &stray).await.unwrap();
    wait::until(WAIT_TIMEOUT, "NotATenantNamespace", || async {
        let key = api.get("stray").await.map_err(|e| e.to_string())?;
        let said = condition(&key, "Stalled");
        if said == "True/NotATenantNamespace" { Ok(()) } else { Err(said) }
    })
    .await
    .unwrap();
}
