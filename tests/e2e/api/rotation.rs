//! Keys are rotated under load, by request and by schedule: who uses the newest text he knows is never refused.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crofter_test_cluster::wait;
use futures::future::join_all;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::sync::watch;

use super::{ask, id, tenant, token};
use crate::{
    common::{Verbs, WAIT_TIMEOUT, keys},
    world,
};

const CLIENTS: usize = 6;
const ROTATIONS: usize = 40;
const TENANT: &str = "api-turning";

/// Sends requests with the newest token, until the sender of tokens is dropped; returns their number.
async fn client(newest: watch::Receiver<(usize, String)>, uses: &AtomicUsize) -> usize {
    let (mut wire, mut asked) = (world().wire().await, 0);
    while newest.has_changed().is_ok() {
        let (version, text) = newest.borrow().clone();
        let answer = wire.ask("GET", "/v1/whoami", &text).await.unwrap();
        assert_eq!(answer.status, 200, "version {version}, request {asked}: {answer:?}");
        uses.store(version, Ordering::SeqCst);
        asked += 1;
    }
    asked
}

/// Rotates again and again. At most two versions are valid, so each is in use by all clients before the next is made.
async fn rotate(
    verbs: &Verbs<'_>,
    maker: &str,
    newest: watch::Sender<(usize, String)>,
    uses: &[AtomicUsize],
    at: &str,
) {
    for version in 1..=ROTATIONS {
        let answer = ask("POST", &format!("{at}/rotate"), maker, None).await;
        let before = newest.borrow().1.clone();
        newest.send_replace((version, token(verbs, TENANT, &answer, Some(&before)).await));
        let adopted = async || {
            let behind = uses.iter().filter(|used| used.load(Ordering::SeqCst) < version).count();
            if behind == 0 { Ok(()) } else { Err(behind) }
        };
        wait::until(WAIT_TIMEOUT, "all clients to use the new text", adopted).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_no_request_fails_while_its_key_is_rotated_by_hand() {
    let verbs = world().verbs().await;
    let maker = tenant(&verbs, TENANT, json!({"plan": "basic"})).await;
    let made = ask("POST", "/v1/keys", &maker, Some(&json!({"scopes": ["jobs:read"]}))).await;
    let first = token(&verbs, TENANT, &made, None).await;
    world().until_answered(&first, 200).await;
    let (sender, newest) = watch::channel((0, first));
    let uses: Vec<AtomicUsize> = (0..CLIENTS).map(|_| AtomicUsize::new(0)).collect();
    let clients = join_all(uses.iter().map(|uses| client(newest.clone(), uses)));
    let at = format!("/v1/keys/{}", id(&made));
    let (asked, ()) = futures::join!(clients, rotate(&verbs, &maker, sender, &uses, &at));
    println!(
        "{ROTATIONS} rotations, {} requests of {CLIENTS} clients, none refused",
        asked.iter().sum::<usize>()
    );
}

/// Reads the Secret before each request, as a program does that mounts it; returns the number of requests.
async fn reader(verbs: &Verbs<'_>, over: &AtomicBool) -> usize {
    let (mut wire, mut asked) = (world().wire().await, 0);
    while !over.load(Ordering::SeqCst) {
        let text = keys::text(verbs, "api-timely", "ci").await;
        let answer = wire.ask("GET", "/v1/whoami", &text).await.unwrap();
        assert_eq!(answer.status, 200, "request {asked}: {answer:?}");
        asked += 1;
    }
    asked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_no_request_fails_while_its_key_is_rotated_by_schedule() {
    let verbs = world().verbs().await;
    verbs.tenant("api-timely", json!({"plan": "basic"})).await;
    let spec = json!({"scopes": ["jobs:read"], "rotateEvery": "1h", "overlapSeconds": 90});
    let first = super::key(&verbs, "api-timely", "ci", spec).await;
    let over = AtomicBool::new(false);
    let rotated = async {
        // An hour is the shortest that a schedule may have, so this one has passed.
        let api = keys::keys(&verbs, "api-timely");
        let mut status = keys::status(&api.get("ci").await.unwrap());
        let made = &mut status.versions[0].created_at.0;
        *made = made.checked_sub(jiff::SignedDuration::from_hours(1)).unwrap();
        let earlier = Patch::Merge(json!({"status": {"versions": status.versions}}));
        api.patch_status("ci", &PatchParams::default(), &earlier).await.unwrap();
        wait::until(WAIT_TIMEOUT, "a rotation by schedule", async || {
            let text = keys::text(&verbs, "api-timely", "ci").await;
            if text == first { Err("the first text") } else { Ok(()) }
        })
        .await
        .unwrap();
        world().until_answered(&first, 200).await;
        over.store(true, Ordering::SeqCst);
    };
    let ((), one, two) = futures::join!(rotated, reader(&verbs, &over), reader(&verbs, &over));
    let key = keys::keys(&verbs, "api-timely").get("ci").await.unwrap();
    assert_eq!(keys::status(&key).versions.len(), 2, "{}", key.name_any());
    println!("a rotation by schedule, {} requests of 2 clients, none refused", one + two);
}
