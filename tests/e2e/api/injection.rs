//! Text that would be code elsewhere, in every field: refused with a 4xx or kept as it is; and a log of whole lines.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{ALL, ask, ask_with, code, id, job, key, tenant};
use crate::{
    common::{Answer, keys, namespace},
    world,
};

const TENANT: &str = "api-quoted";

/// SQL, shell, labels, paths, templates, log lines, terminal codes, and deceptive characters.
const TEXTS: [&str; 14] = [
    "'; DROP TABLE jobs; --",
    "\" OR \"1\"=\"1",
    "\\'; DELETE FROM usage_events WHERE 't'='t",
    "%27%20OR%201=1",
    "$1 $(id) `id` ${jndi:ldap://127.0.0.1/x} {{7*7}}",
    "a=b,c!=d",
    "x,metadata.namespace!=default",
    "../../../etc/passwd",
    "a\n2026-01-01T00:00:00.000000Z  INFO crofter: forged=true",
    "a\r\nset-cookie: forged=1",
    "\u{1b}[2J\u{1b}[31mred",
    "\u{202e}txt.exe \u{2028}\u{feff}",
    "<script>alert(1)</script>",
    "𝕊𝕢𝕝 'ünïcode'",
];

/// A job with this text in one field, and how that field is named.
fn bodies(text: &str) -> Vec<(&'static str, Value)> {
    let with = |name: &'static str, value: Value| {
        let mut body = job();
        body[name] = value;
        (name, body)
    };
    vec![
        with("parameters", json!({"P": text})),
        with("parameters", json!({text: "value"})),
        with("env", json!([{"name": "E", "value": text}])),
        with("env", json!([{"name": text, "value": "value"}])),
        with("env", json!([{"name": "E", "secret_key_ref": {"name": text, "key": text}}])),
        with("env_from", json!([{"config_map": text}])),
        with("image", json!(text)),
        with("command", json!([text])),
        with("args", json!([text])),
        with("working_dir", json!(text)),
        with("scenario", json!(text)),
        with("pool", json!(text)),
        with("queue", json!(text)),
        with("priority", json!(text)),
        with("retry_policy", json!(text)),
        with("image_pull_secrets", json!([text])),
        with("volumes", json!([{"name": text, "mount_path": text, "claim": text}])),
        with("resources", json!({"cpu": text})),
        with(text_as_a_field(), json!({text: text})),
    ]
}

/// A field that there is not.
fn text_as_a_field() -> &'static str {
    "labels"
}

fn refused(answer: &Answer, what: &str) {
    assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
    code(answer);
}

/// Submits a job; says whether it was taken. What is taken is kept to the letter.
async fn submitted(key: &str, field: &str, body: &Value) -> bool {
    let what = format!("{field}: {body}");
    let made = ask("POST", "/v1/jobs", key, Some(body)).await;
    if !made.is_made() {
        refused(&made, &what);
        return false;
    }
    let at = format!("/v1/jobs/{}", id(&made));
    let seen = ask("GET", &at, key, None).await;
    if field == "env" {
        let verbs = world().verbs().await;
        let object = verbs.jobs(TENANT).get(made.body["name"].as_str().unwrap()).await.unwrap();
        let env = json!(object.spec.env);
        assert_eq!(env[0]["value"], body["env"][0]["value"], "{what}");
    } else if ["parameters", "image", "command", "args", "scenario"].contains(&field) {
        assert_eq!(seen.body[field], body[field], "{what}");
    }
    assert_eq!(ask("DELETE", &at, key, None).await.status, 204);
    true
}

/// Percent-encoded, so that it is one word of a URL.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_text_that_would_be_code_elsewhere_is_refused_or_kept_as_it_is() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, TENANT, json!({"plan": "enterprise"})).await;
    let mut taken = BTreeSet::new();
    for text in TEXTS {
        for (field, body) in bodies(text) {
            if submitted(&key, field, &body).await {
                taken.insert(field);
            }
        }
        let new = json!({"scopes": [], "display_name": text});
        let made = ask("POST", "/v1/keys", &key, Some(&new)).await;
        if made.is_made() {
            assert_eq!(made.body["display_name"], text);
            assert_eq!(ask("DELETE", &format!("/v1/keys/{}", id(&made)), &key, None).await.status, 204);
            taken.insert("display_name");
        } else {
            refused(&made, text);
        }
        let odd = json!({"scopes": [], "rotate_every": text});
        refused(&ask("POST", "/v1/keys", &key, Some(&odd)).await, text);

        let text = encoded(text);
        for name in ["cursor", "status", "queue", "limit"] {
            let answer = ask("GET", &format!("/v1/jobs?{name}={text}"), &key, None).await;
            refused(&answer, name);
        }
        for path in ["/v1/jobs/X", "/v1/jobs/X/why", "/v1/tenants/X", "/v1/tenants/X/usage", "/v1/X"] {
            let answer = ask("GET", &path.replace('X', &text), &key, None).await;
            assert_eq!((answer.status, code(&answer).as_str()), (404, "not_found"), "{path} {text}");
        }
    }
    // What can be written into a job's text fields at all is; else this would show little.
    for field in ["parameters", "env", "command", "args", "display_name"] {
        assert!(taken.contains(field), "{taken:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_headers_are_taken_as_what_they_are_or_not_at_all() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "api-headers", json!({"plan": "enterprise"})).await;
    let bearer = format!("Bearer {key}");
    for text in TEXTS.iter().filter(|text| text.chars().all(|c| c == ' ' || c.is_ascii_graphic())) {
        let with = |name: &'static str| [("authorization", bearer.clone()), (name, (*text).to_owned())];
        let send = async |method: &str, path: &str, name: &'static str, body: Option<&Value>| {
            let headers = with(name);
            let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
            ask_with(method, path, &headers, body).await
        };
        let named = send("GET", "/v1/whoami", "x-request-id", None).await;
        assert_eq!(named.status, 200);
        let id_of = named.header("x-request-id").unwrap();
        assert!(id_of.len() == 32 && id_of.bytes().all(|b| b.is_ascii_hexdigit()), "{text} became {id_of}");
        let other = send("GET", "/v1/whoami", "x-tenant-id", None).await;
        assert_eq!((other.status, code(&other).as_str()), (403, "tenant_mismatch"), "{text}");
        let once = send("POST", "/v1/jobs", "idempotency-key", Some(&job())).await;
        let again = send("POST", "/v1/jobs", "idempotency-key", Some(&job())).await;
        assert!(once.is_made() && id(&once) == id(&again), "{text}: {once:?} {again:?}");
        let refused = send("DELETE", &format!("/v1/jobs/{}", id(&once)), "if-match", None).await;
        assert!(
            code(&refused) == "invalid_header" || code(&refused) == "precondition_failed",
            "{text}: {refused:?}"
        );
    }
    for (name, bytes) in
        [("x-request-id", "a\u{e9}"), ("x-tenant-id", "\u{e9}"), ("idempotency-key", "\u{e9}\u{1}")]
    {
        let answer =
            ask_with("POST", "/v1/jobs", &[("authorization", &bearer), (name, bytes)], Some(&job())).await;
        assert!(answer.status < 500, "{name}: {answer:?}");
    }
    assert!(!ask("GET", "/v1/jobs", &key, None).await.body["jobs"].as_array().unwrap().is_empty());

    // A tenant's jobs are in its namespace, whatever their names are.
    let own = verbs.jobs("api-headers").list(&kube::api::ListParams::default()).await.unwrap();
    assert!(own.items.iter().all(|job| job.metadata.namespace == Some(namespace("api-headers"))));
}

/// Whether a line of the log begins as every line does: with the time.
fn is_whole(line: &str) -> bool {
    let time = line.split(' ').next().unwrap_or_default();
    time.len() == 27 && time.ends_with('Z') && time.parse::<jiff::Timestamp>().is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_nothing_that_is_sent_begins_a_line_of_the_log() {
    let verbs = world().verbs().await;
    let text = tenant(&verbs, "api-logged", json!({"plan": "enterprise"})).await;
    key(&verbs, "api-logged", "other", json!({"scopes": ALL, "displayName": TEXTS[8]})).await;
    // Those with control characters.
    for sent in &TEXTS[8..11] {
        for (_, body) in bodies(sent) {
            ask("POST", "/v1/jobs", &text, Some(&body)).await;
        }
    }
    keys::patch(&verbs, "api-logged", "other", json!({"spec": {"revoked": true}})).await.unwrap();
    let log = world().operator_log();
    let broken: Vec<&str> = log.lines().filter(|line| !is_whole(line)).collect();
    assert!(broken.is_empty(), "{} lines, such as {:?}", broken.len(), &broken[..broken.len().min(3)]);
    assert!(!log.contains('\u{1b}') && !log.contains('\r'), "control characters in the log");
    // Nor is it in one: what the API server says of a field goes to who sent it.
    assert!(!log.contains("forged"), "{:?}", log.lines().find(|line| line.contains("forged")));
    assert!(is_whole("2026-01-01T00:00:00.000000Z  INFO crofter: x") && !is_whole("  forged=true"));
}
