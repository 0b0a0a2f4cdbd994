//! Two tenants: every response to one of them is the same for objects of the other and for objects that do not exist.

use futures::future::join_all;
use serde_json::{Value, json};

use super::{ABSENT, ask, ask_with, code, id, job, tenant};
use crate::{
    common::{Answer, rest::request},
    world,
};

/// A tenant, what it has, and the key that may everything.
struct Party {
    key: String,
    tenant: String,
    name: String,
    job: String,
    past: String,
    api_key: String,
    cursor: String,
}

impl Party {
    async fn new(name: &str) -> Self {
        let verbs = world().verbs().await;
        let key = tenant(&verbs, name, json!({"plan": "basic"})).await;
        let who = ask("GET", "/v1/whoami", &key, None).await;
        let mut body = job();
        body["parameters"] = json!({"owner": format!("word-of-{name}")});
        let mut made = Vec::new();
        for _ in 0..2 {
            made.push(id(&ask("POST", "/v1/jobs", &key, Some(&body)).await));
        }
        let past = made.pop().unwrap();
        let page = ask("GET", "/v1/jobs?limit=1", &key, None).await;
        let cursor = page.body["next_cursor"].as_str().unwrap().to_owned();
        assert_eq!(ask("DELETE", &format!("/v1/jobs/{past}"), &key, None).await.status, 204);
        crofter_test_cluster::wait::until(crate::common::WAIT_TIMEOUT, "a job of the past", async || {
            let job = ask("GET", &format!("/v1/jobs/{past}"), &key, None).await;
            if job.body["deleted_at"].is_string() { Ok(()) } else { Err(job) }
        })
        .await
        .unwrap();
        let tenant = who.body["tenant_id"].as_str().unwrap().to_owned();
        Self { key, tenant, name: name.to_owned(), job: made.remove(0), past, api_key: id(&who), cursor }
    }

    /// Words by which others would know of it.
    fn marks(&self) -> [&str; 6] {
        [&self.tenant, &self.name, &self.job, &self.past, &self.api_key, &self.cursor]
    }
}

/// An answer without what is different each time, as it was sent.
fn bytes(answer: &Answer) -> String {
    let is_own = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !["x-request-id", "date"].contains(&name.as_str())
    };
    let head: Vec<&str> = answer.head.lines().filter(is_own).collect();
    let mut body = answer.body.clone();
    if let Some(fields) = body.as_object_mut() {
        fields.remove("request_id");
    }
    format!("{}\n{body}", head.join("\n"))
}

/// Every route that takes the id of something.
const ROUTES: [(&str, &str); 16] = [
    ("GET", "/jobs/{job}"),
    ("DELETE", "/jobs/{job}"),
    ("POST", "/jobs/{job}/cancel"),
    ("POST", "/jobs/{job}/retry"),
    ("GET", "/jobs/{job}/why"),
    ("GET", "/jobs/{job}/logs"),
    ("GET", "/jobs/{job}/events"),
    ("POST", "/keys/{key}/rotate"),
    ("DELETE", "/keys/{key}"),
    ("GET", "/tenants/{tenant}"),
    ("GET", "/tenants/{tenant}/stats"),
    ("GET", "/tenants/{tenant}/jobs"),
    ("GET", "/tenants/{tenant}/nodes"),
    ("GET", "/tenants/{tenant}/usage"),
    ("GET", "/tenants/{tenant}/jobs?limit=1"),
    ("GET", "/tenants/{tenant}/usage?step=day"),
];

fn filled(path: &str, job: &str, key: &str, tenant: &str) -> String {
    path.replace("{job}", job).replace("{key}", key).replace("{tenant}", tenant)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_of_another_tenant_nothing_is_seen_by_any_way() {
    let (own, other) = (Party::new("api-mine").await, Party::new("api-theirs").await);
    for prefix in ["", "/v1"] {
        for (method, path) in ROUTES {
            let absent =
                ask(method, &format!("{prefix}{}", filled(path, ABSENT, ABSENT, ABSENT)), &own.key, None)
                    .await;
            assert_eq!((absent.status, code(&absent).as_str()), (404, "not_found"), "{method} {path}");
            // Also with ids of another kind, and of deleted objects.
            let theirs = [
                (&other.job, &other.api_key, &other.tenant),
                (&other.past, &other.job, &other.name),
                (&other.tenant, &other.past, &other.job),
                (&other.api_key, &other.tenant, &other.api_key),
            ];
            for (job, key, tenant) in theirs {
                let at = format!("{prefix}{}", filled(path, job, key, tenant));
                let answer = ask(method, &at, &own.key, None).await;
                assert_eq!(bytes(&answer), bytes(&absent), "{method} {at}");
                // A tenant that sends the name of the other in X-Tenant-ID learns no more.
                let bearer = format!("Bearer {}", own.key);
                let headers = [("authorization", bearer.as_str()), ("if-match", "\"1\"")];
                let versioned = ask_with(method, &at, &headers, None).await;
                assert_eq!(bytes(&versioned), bytes(&absent), "{method} {at} with If-Match");
            }
        }
    }
    same_words(&own, &other).await;
    lists(&own, &other).await;
    for party in [&own, &other] {
        let seen = ask("GET", &format!("/v1/jobs/{}", party.job), &party.key, None).await;
        assert_eq!((seen.status, &seen.body["status"]), (200, &json!("queued")), "nothing was done to it");
        assert_eq!(ask("GET", "/v1/whoami", &party.key, None).await.status, 200);
    }
}

/// Names in headers and queries: the name of another tenant is like one that does not exist.
async fn same_words(own: &Party, other: &Party) {
    let bearer = format!("Bearer {}", own.key);
    for (theirs, absent) in [(&other.tenant, ABSENT), (&other.name, "api-absent")] {
        for (method, path) in [("GET", "/v1/jobs"), ("GET", "/v1/keys"), ("GET", "/v1/whoami")] {
            let named = async |who: &str| {
                let headers = [("authorization", bearer.as_str()), ("x-tenant-id", who)];
                ask_with(method, path, &headers, None).await
            };
            let answer = named(theirs).await;
            assert_eq!((answer.status, code(&answer).as_str()), (403, "tenant_mismatch"));
            assert_eq!(bytes(&answer), bytes(&named(absent).await), "{path}");
        }
        let asked = async |who: &str| ask("GET", &format!("/v1/keys?tenant={who}"), &own.key, None).await;
        let answer = asked(theirs).await;
        assert_eq!((answer.status, code(&answer).as_str()), (403, "tenant_mismatch"));
        assert_eq!(bytes(&answer), bytes(&asked(absent).await));
    }
    let with = async |cursor: &str| ask("GET", &format!("/v1/jobs?cursor={cursor}"), &own.key, None).await;
    let theirs = with(&other.cursor).await;
    assert_eq!((theirs.status, code(&theirs).as_str()), (400, "invalid_cursor"));
    assert_eq!(bytes(&theirs), bytes(&with(&"0".repeat(other.cursor.len())).await));
    assert_eq!(with(&own.cursor).await.status, 200);

    // One word for a request is two requests of two tenants.
    let sent = async |party: &Party| {
        let bearer = format!("Bearer {}", party.key);
        let headers = [("authorization", bearer.as_str()), ("idempotency-key", "one word")];
        ask_with("POST", "/v1/jobs", &headers, Some(&job())).await
    };
    let (first, second) = (sent(own).await, sent(other).await);
    assert!(first.is_made() && second.is_made(), "{first:?} {second:?}");
    assert_eq!(second.header("idempotency-replayed"), None);
    assert!(id(&first) != id(&second) && first.body["name"] != second.body["name"]);
}

/// Every list and every text about oneself.
async fn lists(own: &Party, other: &Party) {
    let own_paths =
        ["", "/stats", "/jobs", "/nodes", "/usage"].map(|rest| format!("/v1/tenants/{}{rest}", own.name));
    let fixed = ["/v1/jobs", "/v1/jobs?limit=500", "/v1/jobs?status=queued", "/v1/keys", "/v1/whoami"]
        .map(str::to_owned);
    for path in own_paths.into_iter().chain(fixed) {
        let answer = ask("GET", &path, &own.key, None).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        let text = format!("{}\n{}", answer.head, answer.body);
        for mark in other.marks() {
            assert!(!text.contains(mark), "{path} has {mark}: {text}");
        }
    }
    let list = ask("GET", "/v1/jobs", &own.key, None).await;
    let ids: Vec<&Value> = list.body["jobs"].as_array().unwrap().iter().map(|job| &job["id"]).collect();
    assert!(
        ids.contains(&&json!(own.job)) && ids.contains(&&json!(own.past)),
        "its own jobs are listed: {ids:?}"
    );
    let all = ask("GET", "/v1/tenants", &own.key, None).await;
    assert_eq!((all.status, code(&all).as_str()), (403, "forbidden"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_a_flood_of_refused_keys_is_slowed_down_and_a_valid_one_from_there_is_not() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "api-flooded", json!({"plan": "basic"})).await;
    let address = [127, 9, 9, 10];
    let guess = |n: usize| {
        let text = format!("crft_guess{n}");
        // Keys, keys as bearers, and tokens.
        let (name, value) = match n % 3 {
            0 => ("x-api-key", text),
            1 => ("authorization", format!("Bearer {text}")),
            _ => ("authorization", format!("Bearer token{n}")),
        };
        let headers = [("connection", "close"), (name, &value)];
        request("GET", "/v1/whoami", &headers, None)
    };
    let valid = request("GET", "/v1/whoami", &[("connection", "close"), ("x-api-key", &key)], None);
    let mut slowed = 0;
    for wave in 0..5 {
        let guesses =
            join_all((0..40).map(async |n| world().rest_from(address, &guess(40 * wave + n)).await.unwrap()));
        let valid = join_all((0..40).map(|_| world().rest_from(address, &valid)));
        let (guesses, valid) = futures::join!(guesses, valid);
        for answer in valid {
            assert_eq!(answer.unwrap().status, 200, "a valid key is never refused for what others do");
        }
        for answer in guesses {
            match answer.status {
                401 => assert!(answer.header("www-authenticate").is_some()),
                429 => {
                    assert_eq!(code(&answer), "too_many_failures");
                    assert!(answer.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
                    slowed += 1;
                }
                _ => panic!("{answer:?}"),
            }
        }
    }
    assert!(slowed >= 100, "{slowed} of 200");
    // Nor is an administrator kept out, whose token the server does not know yet.
    let kubectl = async |args: [&str; 3]| {
        let out = world().cluster.kubectl(args).await.unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    kubectl(["create", "serviceaccount", "api-newcomer"]).await;
    let token = format!("Bearer {}", kubectl(["create", "token", "api-newcomer"]).await);
    let newcomer = request("GET", "/v1/whoami", &[("connection", "close"), ("authorization", &token)], None);
    let flood = join_all((0..200).map(async |n| {
        // Each third guess is a token.
        world().rest_from(address, &guess(3 * n + 2)).await.unwrap().status
    }));
    let (guesses, answer) = futures::join!(flood, world().rest_from(address, &newcomer));
    assert_eq!(answer.unwrap().status, 200);
    assert!(guesses.iter().all(|status| [401, 429].contains(status)), "{guesses:?}");
    let elsewhere =
        request("GET", "/v1/whoami", &[("connection", "close"), ("x-api-key", "crft_guess")], None);
    assert_eq!(world().rest_raw(&elsewhere).await.unwrap().status, 401, "another address is not slowed down");
}
