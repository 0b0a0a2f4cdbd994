//! The REST API on the real control plane: who may do what, what becomes of a submit, and what hostile requests get.

mod audit;
mod clients;
mod conformance;
mod events;
mod foreign;
mod injection;
mod lineage;
mod logs;
mod nodes;
mod people;
mod revocation;
mod rotation;
mod routes;

use std::collections::BTreeSet;

use crofter::api_types::{Job, JobPhase, TenantApiKey};
use crofter_test_cluster::wait;
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{
    common::{
        Answer, WAIT_TIMEOUT,
        rest::{ABSENT, ALL, code, id, job, key, tenant, token},
    },
    keys, world,
};

async fn ask(method: &str, path: &str, key: &str, body: Option<&Value>) -> Answer {
    ask_with(method, path, &[("authorization", &format!("Bearer {key}"))], body).await
}

async fn ask_with(method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
    world().rest(method, path, headers, body).await.unwrap()
}

/// The answer to a submit, with the scheduler's verdict. On a busy machine that is reached after the answer (202), and is
/// then read in the job.
async fn submit(key: &str, body: &Value) -> Answer {
    let mut made = ask("POST", "/jobs", key, Some(body)).await;
    assert!(made.is_made(), "{made:?}");
    if made.status == 202 {
        let at = format!("/v1/jobs/{}", id(&made));
        made.body = wait::until(WAIT_TIMEOUT, "the verdict about a job", || async {
            let job = ask("GET", &at, key, None).await;
            let waits_for_it = job.body["status"] == "queued"
                && [json!(null), json!("Queued")].contains(&job.body["reason"]);
            if job.status == 200 && !waits_for_it { Ok(job.body) } else { Err(job) }
        })
        .await
        .unwrap();
    }
    made
}

#[tokio::test]
async fn api_a_job_is_submitted_read_canceled_run_again_and_kept_in_the_history() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "api-life", json!({"plan": "basic"})).await;
    let body = json!({"image": "crofter.test/busybox:1", "parameters": {"frames": "9"}, "priority": "high"});
    let made = submit(&key, &body).await;
    assert_eq!(
        (&made.body["status"], &made.body["reason"]),
        (&json!("queued"), &json!("NoWorkers")),
        "{made:?}"
    );
    assert_eq!(made.header("location"), Some(&*format!("/v1/jobs/{}", id(&made))));
    assert!(made.header("ratelimit").unwrap().starts_with("\"jobs-per-hour\";r=100;"), "{made:?}");
    let at = format!("/v1/jobs/{}", id(&made));

    let why = ask("GET", &format!("{at}/why"), &key, None).await;
    assert_eq!((&why.body["position"], &why.body["reason"]), (&json!(1), &json!("NoWorkers")), "{why:?}");
    let unknown = why.body["estimate"]["unknown"].as_str().unwrap_or_default();
    assert!(unknown.starts_with("nothing that is known to come lets it start: "), "{why:?}");
    let lines: Vec<&str> =
        why.body["checks"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    let expected = [
        "tenant_active",
        "rate_window",
        "job_quota",
        "cpu",
        "memory",
        "gpus",
        "bandwidth",
        "node_fit",
        "turn",
        "pod",
    ];
    assert_eq!(lines, expected);

    // The verdict is answered before it is written, which makes another version.
    let seen = wait::until(WAIT_TIMEOUT, "the verdict to be written", || async {
        let job = ask("GET", &at, &key, None).await;
        if job.body["reason"] == "NoWorkers" { Ok(job) } else { Err(job) }
    })
    .await
    .unwrap();
    assert_eq!(seen.body["parameters"], json!({"frames": "9"}));
    let tag = seen.header("etag").unwrap().to_owned();
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("if-match", "\"1\"")];
    let stale = ask_with("POST", &format!("{at}/cancel"), &headers, None).await;
    assert_eq!((stale.status, code(&stale).as_str()), (412, "precondition_failed"));
    let headers = [("x-api-key", key.as_str()), ("if-match", tag.as_str()), ("x-tenant-id", "api-life")];
    let canceled = ask_with("POST", &format!("{at}/cancel"), &headers, None).await;
    assert_eq!(canceled.status, 202, "{canceled:?}");
    wait::until(WAIT_TIMEOUT, "the job to be canceled", || async {
        let job = ask("GET", &at, &key, None).await;
        if job.body["status"] == "canceled" && !job.body["finished_at"].is_null() {
            Ok(())
        } else {
            Err(job.body)
        }
    })
    .await
    .unwrap();

    let again = ask("POST", &format!("{at}/retry"), &key, None).await;
    assert!(again.is_made(), "{again:?}");
    assert_eq!(again.body["parameters"], json!({"frames": "9"}), "{again:?}");
    assert_ne!(id(&again), id(&made));
    let page = ask("GET", "/jobs?limit=1", &key, None).await;
    let cursor = page.body["next_cursor"].as_str().unwrap().to_owned();
    let rest = ask("GET", &format!("/jobs?limit=1&cursor={cursor}"), &key, None).await;
    let both =
        BTreeSet::from([&page, &rest].map(|page| page.body["jobs"][0]["id"].as_str().unwrap().to_owned()));
    assert_eq!(both, BTreeSet::from([id(&made), id(&again)]));
    assert_eq!(rest.body["next_cursor"], Value::Null);
    let filtered = ask("GET", "/jobs?status=canceled", &key, None).await;
    assert_eq!(filtered.body["jobs"].as_array().unwrap().len(), 1);
    let misused = ask("GET", &format!("/jobs?status=canceled&cursor={cursor}"), &key, None).await;
    assert_eq!((misused.status, code(&misused).as_str()), (400, "invalid_cursor"));

    assert_eq!(ask("DELETE", &at, &key, None).await.status, 204);
    wait::until(WAIT_TIMEOUT, "the job to be of the past", || async {
        let job = ask("GET", &at, &key, None).await;
        if job.status == 200 && !job.body["deleted_at"].is_null() { Ok(()) } else { Err(job) }
    })
    .await
    .unwrap();
    let list = ask("GET", "/jobs", &key, None).await;
    assert_eq!(list.body["jobs"].as_array().unwrap().len(), 2, "history included: {list:?}");
    assert_eq!(list.header("x-crofter-source"), None);
}

/// Where the scheduler is in time, 201 is the point: the answer has its verdict.
#[tokio::test]
async fn api_a_submit_is_answered_with_the_verdict() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "api-verdict", json!({"plan": "enterprise"})).await;
    let made = wait::until(WAIT_TIMEOUT, "a submit to be answered with 201", || async {
        let made = ask("POST", "/jobs", &key, Some(&job())).await;
        assert!(made.is_made(), "{made:?}");
        if made.status == 201 { Ok(made) } else { Err(made) }
    })
    .await
    .unwrap();
    assert_eq!(
        (&made.body["status"], &made.body["reason"]),
        (&json!("queued"), &json!("NoWorkers")),
        "{made:?}"
    );
}

#[tokio::test]
async fn api_a_quota_answers_429_with_its_numbers_and_what_can_never_run_422() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "api-quota", json!({"plan": "free", "quotas": {"maxJobs": 1}})).await;
    verbs.worker("api-quota-1", "api-quota", "4").await;
    let mut body = job();
    body["on_quota"] = json!("reject");
    body["parameters"] = json!({"RUN_SECONDS": "forever"});
    let first = submit(&key, &body).await;
    // While both wait, the UID would say who was first in one second.
    verbs.until_phase("api-quota", first.body["name"].as_str().unwrap(), JobPhase::Running).await;
    let second = ask("POST", "/jobs", &key, Some(&body)).await;
    assert_eq!((second.status, code(&second).as_str()), (429, "quota_exceeded"), "{second:?}");
    assert_eq!(second.body["detail"], "max concurrent jobs limit reached (1/1)");
    assert_eq!(second.body["reason"], "WaitingForQuota");
    assert!(second.header("retry-after").is_some() && second.header("ratelimit").is_some());
    let waits = submit(&key, &job()).await;
    assert_eq!(waits.body["status"], "queued", "{waits:?}");
    body["resources"]["cpu"] = json!("100");
    let huge = ask("POST", "/jobs", &key, Some(&body)).await;
    assert_eq!((huge.status, code(&huge).as_str()), (422, "job_rejected"), "{huge:?}");
    let invalid = ask("POST", "/jobs", &key, Some(&json!({"queue": "live"}))).await;
    assert_eq!((invalid.status, code(&invalid).as_str()), (422, "invalid_object"), "{invalid:?}");
    assert!(invalid.body["detail"].as_str().unwrap().contains("give an image"), "{invalid:?}");
    let kept: Api<Job> = verbs.jobs("api-quota");
    wait::until(WAIT_TIMEOUT, "rejected jobs to be deleted", || async {
        let jobs = kept.list(&ListParams::default()).await.map_err(|e| e.to_string())?;
        if jobs.items.len() == 2 { Ok(()) } else { Err(format!("{} jobs", jobs.items.len())) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn api_one_idempotency_key_makes_one_job() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "api-once", json!({"plan": "basic"})).await;
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("idempotency-key", "order 66")];
    let body = job();
    let asked = (0..50).map(|_| ask_with("POST", "/jobs", &headers, Some(&body)));
    let answers = futures::future::join_all(asked).await;
    let ids: BTreeSet<String> = answers.iter().map(id).collect();
    assert_eq!(ids.len(), 1);
    assert!(answers.iter().all(Answer::is_made));
    assert_eq!(answers.iter().filter(|answer| answer.header("idempotency-replayed").is_none()).count(), 1);
    let jobs = verbs.jobs("api-once").list(&ListParams::default()).await.unwrap();
    assert_eq!(jobs.items.len(), 1);
    let mut other = job();
    other["priority"] = json!("low");
    let other = ask_with("POST", "/jobs", &headers, Some(&other)).await;
    assert_eq!((other.status, code(&other).as_str()), (422, "idempotency_key_reused"));
}

#[tokio::test]
async fn api_keys_are_made_and_rotated_over_rest_within_what_the_asker_may() {
    let verbs = world().verbs().await;
    verbs.tenant("api-keys", json!({"plan": "basic"})).await;
    // Given a key that may create keys.
    let maker =
        key(&verbs, "api-keys", "maker", json!({"scopes": ["keys:read", "keys:write", "jobs:read"]})).await;
    // It creates one and rotates it; both versions are accepted during the overlap.
    let made = ask("POST", "/keys", &maker, Some(&json!({"scopes": ["jobs:read"]}))).await;
    let first = token(&verbs, "api-keys", &made, None).await;
    let known = async |text: &str| {
        wait::until(WAIT_TIMEOUT, "the key to be known", || async {
            let answer = ask("GET", "/jobs", text, None).await;
            if answer.status == 200 { Ok(()) } else { Err(answer) }
        })
        .await
        .unwrap();
    };
    known(&first).await;
    let rotated = ask("POST", &format!("/keys/{}/rotate", id(&made)), &maker, None).await;
    let second = token(&verbs, "api-keys", &rotated, Some(&first)).await;
    assert_ne!(first, second);
    known(&second).await;
    assert_eq!(ask("GET", "/jobs", &first, None).await.status, 200, "for the overlap");
    // It neither creates nor rotates a key with more scopes than its own.
    let more = ask("POST", "/keys", &maker, Some(&json!({"scopes": ["jobs:write"]}))).await;
    assert_eq!((more.status, code(&more).as_str()), (403, "missing_scope"));
    keys::make(&verbs, "api-keys", "strong", json!({"scopes": ALL})).await.unwrap();
    let strong = keys::until_ready(&verbs, "api-keys", "strong").await.uid().unwrap();
    wait::until(WAIT_TIMEOUT, "the strong key to be listed", || async {
        let list = ask("GET", "/keys", &maker, None).await;
        let text = list.body.to_string();
        assert!(!text.contains(&second) && !text.contains("\"mac"), "{text}");
        if text.contains(&strong) { Ok(()) } else { Err(text) }
    })
    .await
    .unwrap();
    let stolen = ask("POST", &format!("/keys/{strong}/rotate"), &maker, None).await;
    assert_eq!((stolen.status, code(&stolen).as_str()), (403, "missing_scope"));
    // A deleted key is refused, and no token was logged.
    assert_eq!(ask("DELETE", &format!("/keys/{}", id(&made)), &maker, None).await.status, 204);
    wait::until(WAIT_TIMEOUT, "the deleted key to be refused", || async {
        let answer = ask("GET", "/jobs", &second, None).await;
        if answer.status == 401 { Ok(()) } else { Err(answer.status) }
    })
    .await
    .unwrap();
    assert!(!world().operator_log().contains(&second[18..61]), "a text is in the log");
}

#[tokio::test]
async fn api_administrators_are_who_the_cluster_says_and_may_what_it_allows() {
    let verbs = world().verbs().await;
    verbs.tenant("api-admin", json!({"plan": "basic"})).await;
    // Given a service account with rights to tenants and keys, and one without.
    let kubectl = async |args: &[&str]| {
        let out = world().cluster.kubectl(args.iter().copied()).await.unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    kubectl(&["create", "serviceaccount", "api-boss"]).await;
    kubectl(&["create", "serviceaccount", "api-guest"]).await;
    // What is worth all scopes, and the Secrets with the tokens.
    kubectl(&[
        "create",
        "clusterrole",
        "api-boss",
        "--verb=get,list,watch,create,patch,delete",
        "--resource=tenants.crofter.io,tenantapikeys.crofter.io,jobs.crofter.io,secrets,pods/log,resourcequotas",
    ])
    .await;
    let account = "--serviceaccount=default:api-boss";
    kubectl(&["create", "clusterrolebinding", "api-boss", "--clusterrole=api-boss", account]).await;
    let boss = kubectl(&["create", "token", "api-boss"]).await;
    let guest = kubectl(&["create", "token", "api-guest"]).await;
    // The first one works with the keys of any tenant.
    let who = async |token: &str| ask("GET", "/whoami", token, None).await.body;
    let name = |account: &str| format!("system:serviceaccount:default:{account}");
    assert_eq!(who(&boss).await, json!({"kind": "administrator", "name": name("api-boss")}));
    assert_eq!(who(&guest).await, json!({"kind": "user", "name": name("api-guest"), "rights": []}));
    let made = ask("POST", "/keys?tenant=api-admin", &boss, Some(&json!({"scopes": ALL}))).await;
    assert!(made.is_made(), "{made:?}");
    let list = ask("GET", "/keys?tenant=api-admin", &boss, None).await;
    assert_eq!((list.status, list.body["keys"].as_array().unwrap().len()), (200, 1));
    // An unknown tenant is a 404 for it, and a 403 for the second one, like any other.
    let absent = ask("GET", "/keys?tenant=absent", &boss, None).await;
    assert_eq!((absent.status, code(&absent).as_str()), (404, "not_found"));
    for tenant in ["api-admin", "absent"] {
        let refused = ask("GET", &format!("/keys?tenant={tenant}"), &guest, None).await;
        assert_eq!((refused.status, code(&refused).as_str()), (403, "forbidden"));
    }
    // Jobs need the name of the tenant; only one key was created.
    let job = ask("GET", "/jobs", &boss, None).await;
    assert_eq!((job.status, code(&job).as_str()), (400, "tenant_required"));
    assert_eq!(ask("GET", "/jobs?tenant=api-admin", &boss, None).await.status, 200);
    let keys: Api<TenantApiKey> = verbs.within("tenant-api-admin");
    assert_eq!(keys.list(&ListParams::default()).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn api_tenants_are_made_changed_and_deleted_by_who_may() {
    let verbs = world().verbs().await;
    let kubectl = async |args: &[&str]| {
        let out = world().cluster.kubectl(args.iter().copied()).await.unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    // Given an account that may write tenants, and one that may read them.
    for (account, verb) in [("api-landlord", "--verb=*"), ("api-reader", "--verb=get,list")] {
        kubectl(&["create", "serviceaccount", account]).await;
        kubectl(&["create", "clusterrole", account, verb, "--resource=tenants.crofter.io"]).await;
        let (role, subject) =
            (format!("--clusterrole={account}"), format!("--serviceaccount=default:{account}"));
        kubectl(&["create", "clusterrolebinding", account, &role, &subject]).await;
    }
    let landlord = kubectl(&["create", "token", "api-landlord"]).await;
    let reader = kubectl(&["create", "token", "api-reader"]).await;

    // Creation: refused to the reader, once for the name, and with the bad field named.
    let body =
        json!({"name": "api-corp", "display_name": "Corp", "plan": "pro", "metadata": {"a": "1", "b": "1"}});
    let refused = ask("POST", "/tenants", &reader, Some(&body)).await;
    assert_eq!((refused.status, code(&refused).as_str()), (403, "forbidden"));
    let made = ask("POST", "/tenants", &landlord, Some(&body)).await;
    assert_eq!((made.status, &made.body["status"]), (201, &json!("active")), "{made:?}");
    let again = ask("POST", "/tenants", &landlord, Some(&body)).await;
    assert_eq!((again.status, code(&again).as_str()), (409, "conflict"));
    for (bad, word) in
        [(json!({"name": "x", "plan": "gold"}), "free, pro"), (json!({"name": "Bad_Name"}), "name")]
    {
        let answer = ask("POST", "/tenants", &landlord, Some(&bad)).await;
        assert_eq!((answer.status, code(&answer).as_str()), (422, "invalid_object"), "{answer:?}");
        assert!(answer.body["detail"].as_str().unwrap().contains(word), "{answer:?}");
    }
    // The reader sees the tenant by name and by UID, and its statistics.
    verbs.until_tenant("api-corp", "seen", |t| t.status.as_ref().is_some_and(|s| s.phase.is_some())).await;
    for path in [format!("/tenants/{}", id(&made)), "/v1/tenants/api-corp".to_owned()] {
        let seen = ask("GET", &path, &reader, None).await;
        assert_eq!((seen.status, &seen.body["id"]), (200, &made.body["id"]), "{path}");
    }
    let stats = ask("GET", "/tenants/api-corp/stats", &reader, None).await;
    let fields: BTreeSet<&str> = stats.body.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = ["tenant_id", "name", "plan", "status", "quotas", "usage", "limits"];
    assert_eq!(fields, BTreeSet::from(expected));
    assert_eq!(stats.body["limits"]["available_jobs"], 100);

    // Changes: refused to the reader, merged for the writer, and listed.
    let change =
        json!({"plan": "basic", "reset_quotas": true, "metadata": {"b": "2"}, "status": "suspended"});
    let refused = ask("PUT", "/tenants/api-corp", &reader, Some(&change)).await;
    assert_eq!((refused.status, code(&refused).as_str()), (403, "forbidden"));
    let changed = ask("PUT", "/tenants/api-corp", &landlord, Some(&change)).await;
    assert_eq!((changed.status, &changed.body["status"]), (200, &json!("suspended")), "{changed:?}");
    assert_eq!(changed.body["metadata"], json!({"b": "2"}));
    assert_eq!(changed.body["quotas"]["max_jobs"], 20);
    let list = ask("GET", "/tenants?limit=1", &reader, None).await;
    assert_eq!(list.body["tenants"].as_array().unwrap().len(), 1);
    assert!(list.body["next_cursor"].is_string());

    // Deletion: refused for the default tenant, and 404 for an unknown one.
    verbs.tenant("default", json!({"plan": "enterprise"})).await;
    let kept = ask("DELETE", "/tenants/default", &landlord, None).await;
    assert_eq!((kept.status, &kept.body["detail"]), (403, &json!("cannot delete default tenant")));
    assert_eq!(ask("DELETE", "/tenants/api-corp", &landlord, None).await.status, 204);
    let absent = ask("DELETE", "/tenants/absent", &landlord, None).await;
    assert_eq!((absent.status, code(&absent).as_str()), (404, "not_found"));
}

#[tokio::test]
async fn api_malformed_requests_get_their_4xx_and_affect_no_other() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "api-hostile", json!({"plan": "basic"})).await;
    let auth = format!("host: x\r\nconnection: close\r\nauthorization: Bearer {key}\r\n");
    let json = "content-type: application/json\r\n";
    let post = |head: &str, body: &str| {
        format!("POST /v1/jobs HTTP/1.1\r\n{auth}{head}content-length: {}\r\n\r\n{body}", body.len())
    };
    let get = |path: &str, head: &str| format!("GET {path} HTTP/1.1\r\n{auth}{head}\r\n");
    let chunked = format!("POST /jobs HTTP/1.1\r\n{auth}{json}transfer-encoding: chunked\r\n\r\n");
    let large = format!("{chunked}110000\r\n{}\r\n0\r\n\r\n", " ".repeat(0x11_0000));
    let declared = format!("POST /jobs HTTP/1.1\r\n{auth}{json}content-length: 99999999999\r\n\r\n");
    let cases = [
        (post(json, "{\"image\": \"a\", \"image\": \"b\"}"), 400, "malformed_body"),
        (post(json, "{\"image\": \"a\\u0000\"}"), 400, "malformed_body"),
        (post(json, &"[".repeat(1000)), 400, "malformed_body"),
        (post(json, ""), 400, "malformed_body"),
        (post(json, "{\"image\": 7}"), 422, "invalid_body"),
        (post(json, "{\"image\": \"a\", \"pod_template\": {}}"), 422, "invalid_body"),
        // serde would take a list for the fields in their order, and an object of a word for the word.
        (post(json, "{\"image\": \"a\", \"resources\": [\"1\"]}"), 422, "invalid_body"),
        (post(json, "{\"image\": \"a\", \"env\": [[\"A\", \"1\"]]}"), 422, "invalid_body"),
        (post(json, "{\"image\": \"a\", \"queue\": {\"live\": null}}"), 422, "invalid_body"),
        (post(json, "{\"image\": \"a\", \"timeout_seconds\": 1e300}"), 422, "invalid_body"),
        (post(json, "{\"image\": \"a\", \"timeout_seconds\": -1}"), 422, "invalid_object"),
        (post(&format!("{json}idempotency-key: a\r\nidempotency-key: a\r\n"), "{}"), 400, "invalid_header"),
        (post(&format!("{json}idempotency-key: {}\r\n", "k".repeat(256)), "{}"), 400, "invalid_header"),
        (post(&format!("{json}{json}"), "{}"), 400, "invalid_header"),
        (post("", "{}"), 415, "unsupported_media_type"),
        (post("content-type: text/plain\r\n", "{}"), 415, "unsupported_media_type"),
        (large, 413, "body_too_large"),
        (declared, 413, "body_too_large"),
        (get("/jobs", "authorization: Bearer x\r\n"), 400, "invalid_header"),
        (get("/jobs", "x-api-key: x\r\n"), 400, "invalid_header"),
        (get("/jobs", "x-tenant-id: a\r\nx-tenant-id: b\r\n"), 400, "invalid_header"),
        (get("/jobs", "x-tenant-id: default\r\n"), 403, "tenant_mismatch"),
        (get("/jobs?cursor=00", ""), 400, "invalid_cursor"),
        (get(&format!("/jobs?cursor={}", "0".repeat(64)), ""), 400, "invalid_cursor"),
        (get("/jobs?cursor=%00", ""), 400, "invalid_cursor"),
        (get("/keys?tenant=default", ""), 403, "tenant_mismatch"),
        (get(&format!("/jobs/{ABSENT}"), "if-match: 1\r\n").replace("GET", "DELETE"), 400, "invalid_header"),
        (get("/jobs?limit=0", ""), 400, "invalid_query"),
        (get("/jobs?limit=1&limit=2", ""), 400, "invalid_query"),
        (get("/jobs?status=%27%20OR%201=1", ""), 400, "invalid_query"),
        (get("/jobs/..%2f..%2fsecrets", ""), 404, "not_found"),
        (get("/jobs/%ff", ""), 404, "not_found"),
        (get("/nowhere", ""), 404, "not_found"),
        (get("/whoami", "").replace("GET", "PUT"), 405, "method_not_allowed"),
    ];
    for (request, status, word) in cases {
        let shown = request.lines().next().unwrap().to_owned();
        let answer = world().rest_raw(&request).await.unwrap_or_else(|e| panic!("{shown}: {e}"));
        assert_eq!((answer.status, code(&answer).as_str()), (status, word), "{shown}: {answer:?}");
    }

    let guess = "GET /whoami HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-api-key: crft_guess\r\n\r\n";
    let flood = [127, 9, 9, 9];
    let mut refused = 0;
    for _ in 0..60 {
        let answer = world().rest_from(flood, guess).await.unwrap();
        assert!([401, 429].contains(&answer.status), "{answer:?}");
        refused += u32::from(answer.status == 429);
    }
    assert!(refused >= 20, "{refused} of 60 were slowed down");
    let own = world().rest_from(flood, &get("/whoami", "")).await.unwrap();
    assert_eq!(own.status, 200, "a valid key is never refused for what others do");

    let page = ask_with("GET", "/problems/too_many_failures", &[], None).await;
    assert!(page.status == 200 && page.body.as_str().unwrap().starts_with("## too_many_failures"));
    let metrics = world().ask("/metrics").await.unwrap();
    assert!(
        metrics.contains(r#"crofter_http_requests_total{route="unmatched",method="GET",class="4xx"}"#),
        "{metrics}"
    );
    assert!(!metrics.contains("nowhere"));
}
