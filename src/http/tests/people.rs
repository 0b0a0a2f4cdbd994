//! Users of the cluster on the routes of a tenant.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use super::{captured::capture, *};
use crate::http::{
    places::{MAX_IN_FLIGHT_PER_TENANT, Place},
    rights::ALL,
};

/// Who may read all jobs.
const READER: &str = "Bearer may:list-jobs+get-jobs+watch-jobs";
const STRANGER: &str = "Bearer stranger";
const ABSENT_UID: &str = "90000000-0000-4000-8000-000000000000";

/// The routes of a tenant, with the rights that a user needs for them.
const ROUTES: [(&str, &str, &str, &str); 20] = [
    ("GET", "/jobs", "", "list-jobs"),
    ("POST", "/jobs", r#"{"image": "i"}"#, "create-jobs"),
    ("GET", "/jobs/{job}", "", "get-jobs"),
    ("DELETE", "/jobs/{job}", "", "delete-jobs"),
    ("POST", "/jobs/{job}/cancel", "", "patch-jobs"),
    ("POST", "/jobs/{job}/retry", "", "get-jobs+create-jobs"),
    ("GET", "/jobs/{job}/why", "", "get-jobs"),
    ("GET", "/jobs/{job}/logs", "", "get-jobs+get-pods/log"),
    ("GET", "/jobs/{job}/events", "", "get-jobs+watch-jobs"),
    ("GET", "/events", "", "list-jobs+watch-jobs"),
    ("GET", "/keys", "", "list-tenantapikeys"),
    ("POST", "/keys", r#"{"scopes": []}"#, "create-tenantapikeys+get-secrets"),
    ("POST", "/keys/{job}/rotate", "", "patch-tenantapikeys+get-secrets"),
    ("DELETE", "/keys/{job}", "", "delete-tenantapikeys"),
    ("GET", "/tenants/acme", "", "get-resourcequotas"),
    ("GET", "/tenants/acme/stats", "", "get-resourcequotas"),
    ("GET", "/tenants/acme/usage", "", "get-resourcequotas"),
    ("GET", "/tenants/acme/nodes", "", "get-resourcequotas"),
    ("GET", "/tenants/acme/jobs", "", "list-jobs"),
    ("GET", "/whoami", "", "get-resourcequotas"),
];

/// The path of a route with a tenant, which it names itself or in the query.
fn at(path: &str, tenant: &str) -> String {
    let path = format!("/v1{path}").replace("{job}", JOB_UID);
    match path.starts_with("/v1/tenants/") {
        true => path.replace("/acme", &format!("/{tenant}")),
        false => format!("{path}?tenant={tenant}"),
    }
}

/// Status and code of a response, whose body may have no end.
async fn answer(
    lab: &Lab,
    (method, path, body): (&str, &str, &str),
    who: &str,
    tenant: &str,
) -> (u16, String) {
    let response = lab.open(method, &at(path, tenant), &[("authorization", who)], body).await;
    let status = response.status().as_u16();
    if status < 400 {
        return (status, String::new());
    }
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let problem: Value = serde_json::from_slice(&bytes).unwrap();
    (status, problem["code"].as_str().unwrap().to_owned())
}

/// An app with a running job, whose caches are complete.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.job(1, json!({"phase": "Running", "attempt": 1}));
    lab.app.jobs.mark_synced();
    lab
}

/// The same, without remembered reviews.
fn uncached() -> Lab {
    let mut lab = lab();
    let client = lab.app.client.clone();
    let parts = Arc::get_mut(&mut lab.app.0).unwrap();
    parts.administrators = Administrators::with_ttl(client, Clock::system(), Duration::from_nanos(1));
    lab
}

#[tokio::test(start_paused = true)]
async fn each_route_needs_exactly_its_rights_in_the_namespace_of_the_tenant() {
    let lab = lab();
    for (method, path, body, needed) in ROUTES {
        let request = (method, path, body);
        let (status, code) = answer(&lab, request, &format!("Bearer may:{needed}"), "acme").await;
        let is_let_in = !["forbidden", "invalid_token", "tenant_required"].contains(&code.as_str());
        assert!(is_let_in, "{method} {path} with {needed}: {status} {code}");
        // Without any one of them, and with all others, the request is refused.
        for lacking in needed.split('+') {
            let rights: Vec<String> = ALL
                .iter()
                .map(|right| right.to_string().replace(' ', "-").replace(".crofter.io", ""))
                .filter(|right| right != lacking)
                .collect();
            assert_eq!(rights.len(), ALL.len() - 1, "{lacking} is no right");
            let who = format!("Bearer may:{}", rights.join("+"));
            let refused = answer(&lab, request, &who, "acme").await;
            let expected = if path == "/whoami" { (200, "") } else { (403, "forbidden") };
            assert_eq!((refused.0, refused.1.as_str()), expected, "{method} {path} without {lacking}");
        }
    }
    let listed = document()["paths"].as_object().unwrap().clone();
    let with_token = |operation: &&Value| {
        operation["security"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["kubernetesToken"].as_array().is_some_and(|rights| !rights.is_empty()))
    };
    let described =
        listed.values().flat_map(|path| path.as_object().unwrap().values()).filter(with_token).count();
    assert_eq!(described, ROUTES.len() - 1, "each route of a tenant but /whoami is in this table");
}

#[tokio::test]
async fn a_user_names_the_tenant_once_or_twice_and_never_two_of_them() {
    let lab = lab();
    let other = "x".repeat(41);
    for (query, header, expected) in [
        ("tenant=acme", None, (200, "")),
        ("limit=1&tenant=acme", None, (200, "")),
        (&format!("tenant={}", TENANT_UID.to_uppercase()) as &str, None, (200, "")),
        ("", Some("acme"), (200, "")),
        ("", Some(TENANT_UID), (200, "")),
        ("tenant=acme", Some(TENANT_UID), (200, "")),
        ("tenant=acme", Some("other"), (403, "tenant_mismatch")),
        (&format!("tenant={TENANT_UID}"), Some("other"), (403, "tenant_mismatch")),
        ("tenant=other", Some("acme"), (403, "forbidden")),
        ("tenant=acme&tenant=acme", None, (400, "invalid_query")),
        ("tenant=acme&limits=1", None, (400, "invalid_query")),
        ("", None, (400, "tenant_required")),
        ("", Some(""), (400, "tenant_required")),
        ("tenant=..%2fkube-system", None, (404, "not_found")),
        ("", Some(other.as_str()), (404, "not_found")),
    ] {
        let mut headers = vec![("authorization", READER)];
        headers.extend(header.map(|header| ("x-tenant-id", header)));
        let response = lab.open("GET", &format!("/v1/jobs?{query}"), &headers, "").await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(
            (status, body["code"].as_str().unwrap_or_default()),
            expected,
            "{query} {header:?}: {body}"
        );
    }
    // A key may name its own tenant in both ways too.
    assert_eq!(lab.ask("GET", "/v1/jobs?tenant=acme", KEY, "").await.0, 200);
    assert_eq!(lab.ask("GET", "/v1/jobs?tenant=other", KEY, "").await.1["code"], "tenant_mismatch");
}

#[tokio::test]
async fn without_the_right_a_tenant_is_as_one_that_does_not_exist() {
    let lab = lab();
    for (method, path, body, _) in ROUTES {
        let mut answers = Vec::new();
        for tenant in ["acme", "absent", TENANT_UID, ABSENT_UID] {
            answers.push(lab.ask(method, &at(path, tenant), STRANGER, body).await);
        }
        assert_eq!((answers[0].0, &answers[0].1["code"]), (403, &json!("forbidden")), "{method} {path}");
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{method} {path}: {answers:?}");
    }
    // Who has the right to it learns that it does not exist.
    assert_eq!(answer(&lab, ("GET", "/jobs", ""), ADMIN, "absent").await, (404, "not_found".to_owned()));
    assert_eq!(answer(&lab, ("GET", "/jobs", ""), ADMIN, ABSENT_UID).await, (404, "not_found".to_owned()));
    assert!(lab.fake.calls().is_empty(), "nothing was written");
}

#[tokio::test]
async fn rights_in_a_namespace_that_is_not_the_tenants_are_none_in_the_tenant() {
    // Given a Tenant for which the namespace of its name belongs to another.
    let mut lab = lab();
    let mut conflict = tenant(json!({"plan": "free"}));
    conflict["status"] = json!({"reason": "NamespaceConflict"});
    mock::put(&mut lab.tenants, conflict);
    // Then who may everything there reads and writes nothing of the tenant's.
    for (method, path, body, needed) in ROUTES {
        let refused = answer(&lab, (method, path, body), &format!("Bearer may:{needed}"), "acme").await;
        assert_eq!(refused, (403, "tenant_inactive".to_owned()), "{method} {path}");
    }
    assert_eq!(lab.ask("GET", "/v1/whoami?tenant=acme", READER, "").await.1["code"], "tenant_inactive");
    assert!(lab.fake.calls().is_empty(), "nothing was written");
}

#[tokio::test]
async fn reviews_that_fail_or_take_too_long_let_no_one_in() {
    for (method, path, body, needed) in ROUTES {
        let lab = lab();
        lab.reviews.failing.store(true, SeqCst);
        let who = format!("Bearer may:{needed}");
        let refused = answer(&lab, (method, path, body), &who, "acme").await;
        assert_eq!(refused, (503, "cluster_unavailable".to_owned()), "{method} {path}");
        lab.reviews.failing.store(false, SeqCst);
        lab.reviews.expired.store(true, SeqCst);
        let refused = answer(&lab, (method, path, body), &who, "acme").await;
        assert_eq!(refused, (401, "invalid_token".to_owned()), "{method} {path}");
        assert!(lab.fake.calls().is_empty(), "nothing was written");
    }
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_does_not_answer_reviews_is_unavailable() {
    let lab = lab();
    lab.reviews.silent.store(true, SeqCst);
    let refused = answer(&lab, ("GET", "/jobs", ""), READER, "acme").await;
    assert_eq!(refused, (503, "cluster_unavailable".to_owned()));
    lab.reviews.silent.store(false, SeqCst);
    assert_eq!(answer(&lab, ("GET", "/jobs", ""), READER, "acme").await.0, 200, "the failure is not cached");
}

#[tokio::test]
async fn an_inactive_tenant_is_read_and_runs_nothing_new() {
    let mut lab = lab();
    mock::put(&mut lab.tenants, tenant(json!({"plan": "free", "suspended": true})));
    for (method, path, body, needed) in ROUTES.into_iter().filter(|(_, path, ..)| path.starts_with("/jobs")) {
        let (_, code) = answer(&lab, (method, path, body), &format!("Bearer may:{needed}"), "acme").await;
        assert_eq!(code == "tenant_inactive", method != "GET", "{method} {path}: {code}");
    }
    assert_eq!(lab.ask("GET", "/v1/jobs", KEY, "").await.1["code"], "tenant_inactive", "a key reads nothing");
}

#[tokio::test]
async fn a_users_request_is_one_of_the_tenants_once_it_is_authorised() {
    let lab = lab();
    let held: Vec<Place> = (0..MAX_IN_FLIGHT_PER_TENANT).map(|_| Place::default()).collect();
    for place in &held {
        place.take(&lab.app.places.tenants, TENANT_UID).unwrap();
    }
    let jobs = ("GET", "/jobs", "");
    assert_eq!(answer(&lab, jobs, READER, "acme").await, (503, "overloaded".to_owned()));
    assert_eq!(answer(&lab, jobs, STRANGER, "acme").await, (403, "forbidden".to_owned()), "and not before");
    drop(held);
    assert_eq!(answer(&lab, jobs, READER, "acme").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_its_user_loses_a_right_or_the_token() {
    type Change = fn(&mut Lab);
    let changes: [(&str, Change); 4] = [
        ("the right is lost", |lab| lab.reviews.forbidden.store(true, SeqCst)),
        ("the token has expired", |lab| lab.reviews.expired.store(true, SeqCst)),
        ("no review can be made", |lab| lab.reviews.failing.store(true, SeqCst)),
        ("the tenant is another one of its name", |lab| {
            let mut other = tenant(json!({"plan": "free"}));
            other["metadata"]["uid"] = json!(ABSENT_UID);
            mock::put(&mut lab.tenants, other);
        }),
    ];
    for (what, change) in changes {
        let mut lab = uncached();
        let mut open = Vec::new();
        for path in [&format!("/v1/jobs/{JOB_UID}/events"), "/v1/events"] {
            let response =
                lab.open("GET", &format!("{path}?tenant=acme"), &[("authorization", READER)], "").await;
            open.push(response.into_body().into_data_stream());
        }
        for events in &mut open {
            while let Some(Some(_)) = futures::FutureExt::now_or_never(piece(events)).map(Result::unwrap) {}
            // Only heartbeats come while the user has the right.
            for _ in 0..4 {
                assert!(piece(events).await.unwrap().unwrap().starts_with(':'));
            }
        }
        change(&mut lab);
        let begun = tokio::time::Instant::now();
        for mut events in open {
            for beat in 0.. {
                assert!(beat < 10, "{what}: the stream does not end");
                if piece(&mut events).await.unwrap().is_none() {
                    break;
                }
            }
        }
        assert!(begun.elapsed() <= 2 * administrators::REVIEW_TTL, "{what}: {:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_line_of_the_audit_log_names_the_user_and_the_tenant() {
    let (captured, _guard) = capture();
    let lab = lab();
    let header = [("authorization", "Bearer may:delete-jobs"), ("x-tenant-id", "acme")];
    assert_eq!(lab.open("DELETE", &format!("/v1/jobs/{ABSENT_UID}"), &header, "").await.status(), 404);
    assert_eq!(answer(&lab, ("POST", "/jobs", "{}"), STRANGER, "acme").await.0, 403);
    let lines = captured.audit();
    let brief =
        |line: &Value| json!([line["who"], line["user"], line["tenant"], line["action"], line["status"]]);
    let brief: Vec<Value> = lines.iter().map(brief).collect();
    let expected = [
        json!(["user", "may:delete-jobs", "acme", "DELETE /jobs/{id}", 404]),
        json!(["user", "stranger", "acme", "POST /jobs", 403]),
    ];
    assert_eq!(brief, expected);
}

#[tokio::test]
async fn a_user_creates_no_key_that_may_more_than_the_user() {
    const CREATE: &str = "create-tenantapikeys+get-secrets";
    for (scope, worth) in [
        ("jobs:read", "get-jobs+list-jobs+watch-jobs+get-pods/log"),
        ("jobs:write", "get-jobs+create-jobs+patch-jobs+delete-jobs"),
        ("keys:read", "list-tenantapikeys"),
        ("keys:write", "patch-tenantapikeys+delete-tenantapikeys"),
        ("tenant:read", "get-resourcequotas"),
    ] {
        let body = json!({"scopes": [scope]}).to_string();
        let create = ("POST", "/keys", body.as_str());
        // Given: a user who may create keys, and has all but one of the rights that the scope is worth.
        let lab = lab();
        let all: Vec<&str> = worth.split('+').collect();
        for lacking in 0..all.len() {
            let mut others = all.clone();
            others.remove(lacking);
            let who = format!("Bearer may:{CREATE}+{}", others.join("+"));
            assert_eq!(
                answer(&lab, create, &who, "acme").await,
                (403, "forbidden".to_owned()),
                "{scope} {who}"
            );
        }
        assert!(lab.fake.calls().is_empty());
        // With all of them the key is created.
        let (_, code) = answer(&lab, create, &format!("Bearer may:{CREATE}+{worth}"), "acme").await;
        assert_ne!(code, "forbidden", "{scope}");
        assert_eq!(mock::outline(&lab.fake.calls())[0], format!("POST {KEYS}"));
    }
}

const KEYS: &str = "/apis/crofter.io/v1alpha1/namespaces/tenant-acme/tenantapikeys";

#[tokio::test]
async fn a_key_whose_ancestor_has_ended_is_not_rotated() {
    let mut lab = lab();
    let (keys, mut writer) = cache();
    let key = |name: &str, uid: &str, parent: Option<&str>, spec: Value| {
        let owner = |name| json!({"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "name": name, "uid": name});
        let owners: Vec<Value> = parent.map(owner).into_iter().collect();
        let metadata =
            json!({"name": name, "namespace": "tenant-acme", "uid": uid, "ownerReferences": owners});
        json!({"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": metadata, "spec": spec})
    };
    mock::put(&mut writer, key("root", "root", None, json!({"scopes": [], "revoked": true})));
    mock::put(&mut writer, key("child", "root-child", Some("root"), json!({"scopes": []})));
    mock::put(&mut writer, key("orphan", "orphan", Some("absent"), json!({"scopes": []})));
    Arc::get_mut(&mut lab.app.0).unwrap().keys = keys;
    for id in ["root-child", "orphan", "root"] {
        let (status, problem) =
            lab.ask("POST", &format!("/v1/keys/{id}/rotate?tenant=acme"), ADMIN, "").await;
        assert_eq!((status, &problem["code"]), (409, &json!("wrong_state")), "{id}: {problem}");
    }
    assert!(lab.fake.calls().is_empty(), "nothing was written");
}

#[tokio::test]
async fn whoami_says_what_a_user_may_do_in_a_tenant() {
    let lab = lab();
    let (status, who) = lab.ask("GET", "/v1/whoami?tenant=acme", READER, "").await;
    let rights = json!(["get jobs.crofter.io", "list jobs.crofter.io", "watch jobs.crofter.io"]);
    let expected = json!({
        "kind": "user", "name": READER.split_once(' ').unwrap().1, "tenant": "acme", "tenant_id": TENANT_UID,
        "rights": rights,
    });
    assert_eq!((status, who), (200, expected));
    // Without a tenant a token makes no administrator; the right to list tenants does.
    let (status, who) = lab.ask("GET", "/v1/whoami", READER, "").await;
    let name = READER.split_once(' ').unwrap().1;
    assert_eq!((status, who), (200, json!({"kind": "user", "name": name, "rights": []})));
    let (status, who) = lab.ask("GET", "/v1/whoami", ADMIN, "").await;
    assert_eq!((status, &who["kind"]), (200, &json!("administrator")));
    assert_eq!(lab.ask("GET", "/v1/whoami?tenant=other", KEY, "").await.1["code"], "tenant_mismatch");
}
