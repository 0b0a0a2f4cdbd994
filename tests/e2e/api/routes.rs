//! Who is let in: every route with every kind of key.

use std::collections::BTreeSet;

use crofter::domain::api_key::{Key, Seed};
use crofter_test_cluster::wait;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::{ABSENT, ALL, ask, ask_with, code, id, job, key, submit, tenant};
use crate::{
    common::{Answer, WAIT_TIMEOUT, now},
    keys, world,
};

/// A route, what it takes, the scope that it needs, and what it answers when all is well.
struct Route {
    method: &'static str,
    path: &'static str,
    body: Option<Value>,
    needs: Option<&'static str>,
    well: &'static [u16],
}

/// What is made, and on a busy machine decided or ready after the answer.
const MADE: &[u16] = &[201, 202];

fn routes() -> Vec<Route> {
    let route = |method, path, body, needs, well| Route { method, path, body, needs, well };
    vec![
        route("GET", "/jobs", None, Some("jobs:read"), &[200]),
        route("POST", "/jobs", Some(job()), Some("jobs:write"), MADE),
        route("GET", "/jobs/{job}", None, Some("jobs:read"), &[200]),
        route("GET", "/jobs/{job}/why", None, Some("jobs:read"), &[200]),
        // It has not started.
        route("GET", "/jobs/{job}/logs", None, Some("jobs:read"), &[409]),
        route("GET", "/jobs/{ended}/events", None, Some("jobs:read"), &[200]),
        // It has no end.
        route("GET", "/events", None, Some("jobs:read"), &[200]),
        // It has not ended.
        route("POST", "/jobs/{job}/retry", None, Some("jobs:write"), &[409]),
        route("POST", "/jobs/{job}/cancel", None, Some("jobs:write"), &[202]),
        route("DELETE", "/jobs/{job}", None, Some("jobs:write"), &[204]),
        route("GET", "/keys", None, Some("keys:read"), &[200]),
        route("POST", "/keys", Some(json!({"scopes": []})), Some("keys:write"), MADE),
        route("POST", "/keys/{key}/rotate", None, Some("keys:write"), &[200, 202]),
        route("DELETE", "/keys/{key}", None, Some("keys:write"), &[204]),
        route("GET", "/tenants/{tenant}", None, Some("tenant:read"), &[200]),
        route("GET", "/tenants/{tenant}/stats", None, Some("tenant:read"), &[200]),
        route("GET", "/tenants/{tenant}/nodes", None, Some("tenant:read"), &[200]),
        route("GET", "/tenants/{tenant}/usage", None, Some("tenant:read"), &[200]),
        route(
            "GET",
            "/tenants/{tenant}/usage?step=day&from=2030-01-01T00:00:00Z",
            None,
            Some("tenant:read"),
            &[400],
        ),
        route("GET", "/tenants/{tenant}/jobs", None, Some("jobs:read"), &[200]),
        route("GET", "/scenarios", None, None, &[200]),
        route("GET", "/plans", None, None, &[200]),
        route("GET", "/whoami", None, None, &[200]),
    ]
}

/// A job that was canceled.
async fn ended(key: &str) -> String {
    let submitted = ask("POST", "/jobs", key, Some(&job())).await;
    let at = format!("/jobs/{}", id(&submitted));
    assert_eq!(ask("POST", &format!("{at}/cancel"), key, None).await.status, 202);
    wait::until(WAIT_TIMEOUT, "the job to be canceled", || async {
        let job = ask("GET", &at, key, None).await.body;
        if job["finished_at"].is_null() { Err(job) } else { Ok(()) }
    })
    .await
    .unwrap();
    id(&submitted)
}

#[tokio::test]
async fn api_every_route_admits_only_the_callers_it_documents() {
    let verbs = world().verbs().await;
    let right = tenant(&verbs, "api-right", json!({"plan": "basic"})).await;
    let foreign = tenant(&verbs, "api-foreign", json!({"plan": "basic"})).await;
    let closed = tenant(&verbs, "api-closed", json!({"plan": "basic"})).await;
    verbs.patch_tenant("api-closed", json!({"spec": {"suspended": true}})).await.unwrap();
    let scopeless = key(&verbs, "api-right", "scopeless", json!({"scopes": []})).await;
    let revoked = key(&verbs, "api-right", "revoked", json!({"scopes": ALL})).await;
    keys::patch(&verbs, "api-right", "revoked", json!({"spec": {"revoked": true}})).await.unwrap();
    // Not before it was let in.
    let expired = key(&verbs, "api-right", "expired", json!({"scopes": ALL})).await;
    let end = jiff::Timestamp::from_second(now().as_second() + 2).unwrap().to_string();
    keys::patch(&verbs, "api-right", "expired", json!({"spec": {"expiresAt": end}})).await.unwrap();
    for text in [&revoked, &expired, &closed] {
        wait::until(WAIT_TIMEOUT, "the key to be refused", || async {
            let answer = ask("GET", "/whoami", text, None).await;
            if [401, 403].contains(&answer.status) { Ok(()) } else { Err(answer.status) }
        })
        .await
        .unwrap();
    }
    let forged = Key::new(
        &Seed::of(|bytes| {
            bytes.fill(3);
            Ok::<_, ()>(())
        })
        .unwrap(),
    );
    let forged = forged.token().expose_secret().to_owned();
    let victim = ask("POST", "/keys", &right, Some(&json!({"scopes": []}))).await;
    assert!(victim.is_made(), "{victim:?}");
    let submitted = submit(&right, &job()).await;
    let (job_id, key_id) = (id(&submitted), id(&victim));
    let ended_id = ended(&right).await;

    for prefix in ["", "/v1"] {
        for route in routes() {
            let Route { method, path, body, needs, well } = &route;
            let at = |job: &str, key: &str| {
                let tenant = if job == ABSENT { "api-absent" } else { "api-right" };
                let path = format!("{prefix}{path}").replace("{tenant}", tenant);
                let ended = if job == ABSENT { ABSENT } else { &ended_id };
                path.replace("{job}", job).replace("{key}", key).replace("{ended}", ended)
            };
            let (there, nowhere) = (at(&job_id, &key_id), at(ABSENT, ABSENT));
            let none = ask_with(method, &there, &[], body.as_ref()).await;
            assert_eq!((none.status, code(&none).as_str()), (401, "missing_credentials"), "{there}");
            assert!(none.header("www-authenticate").is_some());
            let cases = [
                ("crft_nonsense", 401, "invalid_key"),
                (forged.as_str(), 401, "invalid_key"),
                (revoked.as_str(), 401, "invalid_key"),
                (expired.as_str(), 401, "invalid_key"),
                ("no.such.token", 401, "invalid_token"),
                (closed.as_str(), 403, "tenant_inactive"),
            ];
            for (text, status, word) in cases {
                let answer = ask(method, &there, text, body.as_ref()).await;
                assert_eq!((answer.status, code(&answer).as_str()), (status, word), "{method} {there}");
            }
            if needs.is_some() {
                let answer = ask(method, &there, &scopeless, body.as_ref()).await;
                assert_eq!(
                    (answer.status, code(&answer).as_str()),
                    (403, "missing_scope"),
                    "{method} {there}"
                );
                assert!(answer.body["detail"].as_str().unwrap().contains(needs.unwrap()), "{answer:?}");
            }
            if path.contains('{') {
                let theirs = ask(method, &there, &foreign, body.as_ref()).await;
                let absent = ask(method, &nowhere, &foreign, body.as_ref()).await;
                assert_eq!((theirs.status, &theirs.body), (404, &absent.body), "{method} {there}");
                let names = |answer: &Answer| -> BTreeSet<String> {
                    answer
                        .head
                        .lines()
                        .skip(1)
                        .filter_map(|l| Some(l.split_once(':')?.0.to_owned()))
                        .collect()
                };
                assert_eq!(names(&theirs), names(&absent));
            }
            if *path == "/events" {
                let bearer = format!("Bearer {right}");
                let mut events = world().rest_open(&there, &[("authorization", &bearer)]).await;
                events.until(&job_id).await;
                continue;
            }
            // What ends job or key is tried once, at the end.
            if prefix == "/v1" || !["cancel", "DELETE"].iter().any(|end| path.ends_with(end) || method == end)
            {
                let answer = ask(method, &there, &right, body.as_ref()).await;
                assert!(well.contains(&answer.status), "{method} {there}: {answer:?}");
            }
        }
    }
    let administrators = [
        ("GET", "/tenants"),
        ("GET", "/pools"),
        ("GET", "/audit"),
        ("POST", "/tenants"),
        ("DELETE", "/tenants/api-right"),
        ("POST", "/tenants/api-right/nodes"),
        ("DELETE", "/tenants/api-right/nodes/n1"),
    ];
    for (method, path) in administrators {
        let answer = ask(method, path, &right, Some(&json!({"name": "mine"}))).await;
        assert_eq!((answer.status, code(&answer).as_str()), (403, "forbidden"), "{method} {path}");
    }
    let theirs = ask("GET", "/jobs", &foreign, None).await;
    assert_eq!(theirs.body, json!({"jobs": [], "next_cursor": null}));
}
