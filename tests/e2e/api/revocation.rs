//! A revoked or deleted key is refused, and never let in again. How soon is measured through the server, and printed: it is
//! promised of a machine that is not busy with all the other tests.

use std::time::Duration;

use futures::{StreamExt, stream};
use kube::ResourceExt;
use serde_json::json;
use tokio::time::Instant;

use super::{ask, key, tenant};
use crate::{
    common::{Verbs, WAIT_TIMEOUT, keys, rest::code},
    world,
};

/// Keys that are ended, in all; half of them are revoked, the others deleted.
const KEYS: usize = 200;
const TENANTS: usize = 4;

struct Victim {
    tenant: String,
    name: String,
    id: String,
    text: String,
}

async fn victim(verbs: &Verbs<'_>, number: usize) -> Victim {
    let (tenant, name) = (format!("api-ended-{}", number % TENANTS), format!("k{number}"));
    let text = key(verbs, &tenant, &name, json!({})).await;
    let object = keys::keys(verbs, &tenant).get(&name).await.unwrap();
    Victim { tenant, name, id: object.uid().unwrap(), text }
}

/// Ends a key, and says how long after the answer to that it was let in for the last time.
async fn ended(verbs: &Verbs<'_>, number: usize, victim: &Victim, maker: &str) -> Duration {
    let mut wire = world().wire().await;
    assert_eq!(wire.ask("GET", "/v1/whoami", &victim.text).await.unwrap().status, 200);
    if number.is_multiple_of(2) {
        let revoked = json!({"spec": {"revoked": true}});
        keys::patch(verbs, &victim.tenant, &victim.name, revoked).await.unwrap();
    } else {
        let deleted = ask("DELETE", &format!("/v1/keys/{}", victim.id), maker, None).await;
        assert_eq!(deleted.status, 204, "{deleted:?}");
    }
    let begun = Instant::now();
    loop {
        let asked = begun.elapsed();
        let answer = wire.ask("GET", "/v1/whoami", &victim.text).await.unwrap();
        match answer.status {
            200 => assert!(asked < WAIT_TIMEOUT, "still let in after {asked:?}"),
            _ => {
                assert_eq!(code(&answer), "invalid_key");
                return begun.elapsed();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_a_key_that_is_revoked_or_deleted_is_refused_at_once() {
    let verbs = world().verbs().await;
    let mut makers = Vec::new();
    for number in 0..TENANTS {
        makers.push(tenant(&verbs, &format!("api-ended-{number}"), json!({"plan": "basic"})).await);
    }
    let victims: Vec<Victim> =
        stream::iter(0..KEYS).map(|number| victim(&verbs, number)).buffered(16).collect().await;
    // As many at once as there are tenants.
    let ends = victims.iter().enumerate();
    let ends = ends.map(|(number, victim)| ended(&verbs, number, victim, &makers[number % TENANTS]));
    let mut took: Vec<Duration> = stream::iter(ends).buffer_unordered(TENANTS).collect().await;
    took.sort();
    let at = |hundredth: usize| took[(KEYS * hundredth).div_ceil(100) - 1];
    eprintln!("{KEYS} keys from ended to refused: p50 {:?}, p99 {:?}, at most {:?}", at(50), at(99), at(100));
    for victim in &victims {
        let answer = ask("GET", "/v1/jobs", &victim.text, None).await;
        assert_eq!((answer.status, code(&answer).as_str()), (401, "invalid_key"), "{}", victim.name);
    }
}
