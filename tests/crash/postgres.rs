//! Postgres is killed: the REST API responds from the caches, and the history has the meantime afterwards.

use crofter_test_cluster::wait;
use serde_json::{Value, json};

use crate::{
    OPERATOR_FAULTS,
    common::{
        Answer, Verbs, WAIT_TIMEOUT, World,
        rest::{code, id, tenant, token},
    },
};

const TENANT: &str = "bookkeeper";

/// What the tenant asks.
struct Client<'a> {
    world: &'a World,
    key: String,
}

impl Client<'_> {
    async fn ask(&self, method: &str, path: &str) -> Answer {
        self.world.asked(method, path, &self.key, None).await
    }

    /// Makes something.
    async fn post(&self, path: &str, body: Value) -> Answer {
        let answer = self.world.asked("POST", path, &self.key, Some(&body)).await;
        assert!(answer.is_made(), "{path}: {answer:?}");
        answer
    }

    /// Submits a job that runs for so long.
    async fn submit(&self, seconds: &str, cpu: &str) -> String {
        let body = json!({"image": "crofter.test/busybox:1", "resources": {"cpu": cpu, "memory": "64Mi"},
            "parameters": {"run-seconds": seconds}, "on_quota": "queue"});
        id(&self.post("/v1/jobs", body).await)
    }

    /// Waits until the answer to a question is as it should be.
    async fn until(&self, path: &str, what: &str, holds: impl Fn(&Answer) -> bool) -> Answer {
        wait::until(WAIT_TIMEOUT, &format!("{path}: {what}"), async || {
            let answer = self.ask("GET", path).await;
            if holds(&answer) { Ok(answer) } else { Err(answer) }
        })
        .await
        .unwrap()
    }

    async fn until_job(&self, id: &str, status: &str) {
        self.until(&format!("/v1/jobs/{id}"), status, |job| job.body["status"] == status).await;
    }
}

fn from_the_cache(answer: &Answer) -> bool {
    answer.status == 200 && answer.header("x-crofter-source") == Some("cache")
}

/// A job of a list.
fn listed<'a>(list: &'a Answer, id: &str) -> Option<&'a Value> {
    list.body["jobs"].as_array()?.iter().find(|job| job["id"] == id)
}

/// What must work while there is no Postgres.
async fn keys_go_on(client: &Client<'_>, verbs: &Verbs<'_>) {
    let made = client.post("/v1/keys", json!({"scopes": ["jobs:read"]})).await;
    let (first, at) = (token(verbs, TENANT, &made, None).await, format!("/v1/keys/{}", id(&made)));
    client.world.until_answered(&first, 200).await;
    let rotated = client.ask("POST", &format!("{at}/rotate")).await;
    let second = token(verbs, TENANT, &rotated, Some(&first)).await;
    client.world.until_answered(&second, 200).await;
    client.world.until_answered(&first, 200).await;
    let list = client.ask("GET", "/v1/keys").await;
    assert!(list.status == 200 && list.body["keys"].as_array().unwrap().len() == 2, "{list:?}");
    assert_eq!(client.ask("DELETE", &at).await.status, 204);
    client.world.until_answered(&second, 401).await;
    client.world.until_answered(&first, 401).await;
    client.world.until_answered("crft_no-key", 401).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_postgres_killed_everything_but_history_works_and_history_catches_up() {
    let (world, _exclusive) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    world.start_operator();
    world.until_ready().await;
    let client = Client { world, key: tenant(&verbs, TENANT, json!({"plan": "basic"})).await };
    verbs.worker("bookkeeper-1", TENANT, "2").await;
    // Kubernetes records full seconds: a shorter run may be charged nothing.
    let past = client.submit("2", "100m").await;
    client.until_job(&past, "completed").await;
    assert_eq!(client.ask("DELETE", &format!("/v1/jobs/{past}")).await.status, 204);
    let deleted = |job: &Answer| job.status == 200 && !job.body["deleted_at"].is_null();
    client.until(&format!("/v1/jobs/{past}"), "of the past", deleted).await;
    let list = client.ask("GET", "/v1/jobs").await;
    assert_eq!((list.status, list.header("x-crofter-source")), (200, None), "{list:?}");
    let usage = format!("/v1/tenants/{TENANT}/usage");
    let paid = |answer: &Answer| answer.body["usage"].as_array().is_some_and(|all| !all.is_empty());
    let booked = client.until(&usage, "what the first job used", paid).await;

    world.cluster.kill_postgres().unwrap();
    for path in
        ["/v1/jobs".to_owned(), "/jobs?status=queued".to_owned(), format!("/v1/tenants/{TENANT}/jobs")]
    {
        let list = client.ask("GET", &path).await;
        assert!(from_the_cache(&list), "{path}: {list:?}");
        assert!(listed(&list, &past).is_none());
    }
    let ran = client.submit("2", "100m").await;
    let dropped = client.submit("2", "100m").await;
    let runs = client.submit("forever", "100m").await;
    // It waits for room, and is deleted before the mirror has written it.
    let brief = client.submit("0.1", "1950m").await;
    for id in [&ran, &dropped] {
        client.until_job(id, "completed").await;
    }
    client.until_job(&runs, "running").await;
    for path in
        [format!("/v1/jobs/{brief}/why"), "/v1/whoami".to_owned(), format!("/v1/tenants/{TENANT}/stats")]
    {
        assert_eq!(client.ask("GET", &path).await.status, 200, "{path}");
    }
    // While the one that runs leaves no room for it.
    for id in [&brief, &dropped] {
        assert_eq!(client.ask("DELETE", &format!("/v1/jobs/{id}")).await.status, 204);
    }
    let canceled = client.ask("POST", &format!("/v1/jobs/{runs}/cancel")).await;
    assert_eq!(canceled.status, 202, "{canceled:?}");
    client.until_job(&runs, "canceled").await;
    keys_go_on(&client, &verbs).await;
    let list = client.ask("GET", "/v1/jobs").await;
    assert!(from_the_cache(&list) && listed(&list, &ran).is_some(), "{list:?}");
    for path in [usage.clone(), format!("/v1/jobs/{past}")] {
        let away = client.ask("GET", &path).await;
        assert_eq!((away.status, code(&away).as_str()), (503, "history_unavailable"), "{path}");
        assert!(away.header("retry-after").is_some_and(|seconds| seconds.parse::<u32>().unwrap() >= 1));
    }

    world.cluster.start_postgres().await.unwrap();
    let complete = |list: &Answer| {
        let has = |id: &str, status: &str, deleted: bool| {
            listed(list, id).is_some_and(|j| j["status"] == status && j["deleted_at"].is_null() != deleted)
        };
        list.header("x-crofter-source").is_none()
            && has(&past, "completed", true)
            && has(&ran, "completed", false)
            && has(&runs, "canceled", false)
            && has(&dropped, "completed", true)
            && has(&brief, "canceled", true)
    };
    client.until("/v1/jobs", "what happened meanwhile", complete).await;
    let sum = |answer: &Answer| -> u64 {
        let lines = answer.body["usage"].as_array().unwrap().iter();
        lines.map(|line| line["running_millis"].as_str().unwrap().parse::<u64>().unwrap()).sum()
    };
    // The one that was canceled ran for longest; each of the others for some time.
    let more = |answer: &Answer| answer.status == 200 && sum(answer) > sum(&booked) + 1000;
    client.until(&usage, "what was used meanwhile", more).await;
    world.kill_operator();
}
