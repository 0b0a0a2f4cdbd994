//! Users of the cluster on the routes of a tenant: each may over REST what the rights in the cluster say.

use std::{collections::BTreeSet, path::Path};

use crofter::http::rights;
use crofter_test_cluster::wait;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::{ABSENT, ask, ask_with, code, id, job, key, tenant};
use crate::{
    common::{Answer, WAIT_TIMEOUT},
    world,
};

const ROLES: [&str; 4] = ["viewer", "developer", "operator", "admin"];

pub async fn kubectl(args: &[&str]) -> String {
    let out = world().cluster.kubectl(args.iter().copied()).await.unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    // `auth can-i` fails where the answer is no.
    assert!(out.status.success() || args[..2] == ["auth", "can-i"], "{args:?}: {said}");
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// The chart's roles of tenants, which Kubernetes aggregates. The operator of these tests is not installed by the chart.
async fn roles() {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let apply = || async {
        let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/manifests/base/install.yaml");
        let all = std::fs::read_to_string(manifests).unwrap();
        let is_role =
            |one: &&str| one.contains("\nkind: ClusterRole\n") && one.contains("aggregate-to-tenant-");
        let roles: Vec<&str> = all.split("\n---\n").filter(is_role).collect();
        assert_eq!(roles.len(), 2 * ROLES.len(), "each role, and what it adds to the greater ones");
        let file = world().cluster.dir().join("tenant-roles.yaml");
        std::fs::write(&file, roles.join("\n---\n")).unwrap();
        kubectl(&["apply", "-f", file.to_str().unwrap()]).await;
    };
    APPLIED.get_or_init(apply).await;
}

/// A new service account and its token.
pub async fn account(name: &str) -> String {
    kubectl(&["create", "serviceaccount", name]).await;
    kubectl(&["create", "token", name]).await
}

/// The rights of an account in a namespace, as kubectl has them.
async fn can_i(account: &str, namespace: &str) -> BTreeSet<String> {
    let user = format!("--as=system:serviceaccount:default:{account}");
    let mut rights = BTreeSet::new();
    for right in rights::ALL.iter().map(ToString::to_string) {
        let (verb, resource) = right.split_once(' ').unwrap();
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let subresource = format!("--subresource={subresource}");
        let answer = kubectl(&["auth", "can-i", verb, resource, &subresource, "-n", namespace, &user]).await;
        if answer.lines().any(|line| line == "yes") {
            rights.insert(right);
        }
    }
    rights
}

/// Method, path and body of a route, the rights that it needs, and its statuses with them.
type Route = (&'static str, &'static str, Option<Value>, &'static [&'static str], &'static [u16]);

/// The routes of a tenant.
fn routes() -> Vec<Route> {
    let new_key = json!({"scopes": ["jobs:read"]});
    vec![
        ("GET", "/jobs", None, &["list jobs.crofter.io"], &[200]),
        // 202, here and below: what is made is decided or ready after the answer, as on a busy machine.
        ("POST", "/jobs", Some(job()), &["create jobs.crofter.io"], &[201, 202]),
        ("GET", "/jobs/{job}", None, &["get jobs.crofter.io"], &[200]),
        ("GET", "/jobs/{job}/why", None, &["get jobs.crofter.io"], &[200]),
        // It has not started.
        ("GET", "/jobs/{job}/logs", None, &["get jobs.crofter.io", "get pods/log"], &[409]),
        ("GET", "/jobs/{ended}/events", None, &["get jobs.crofter.io", "watch jobs.crofter.io"], &[200]),
        // It has no end.
        ("GET", "/events", None, &["list jobs.crofter.io", "watch jobs.crofter.io"], &[200]),
        // It has not ended.
        ("POST", "/jobs/{job}/retry", None, &["get jobs.crofter.io", "create jobs.crofter.io"], &[409]),
        ("POST", "/jobs/{absent}/cancel", None, &["patch jobs.crofter.io"], &[404]),
        ("DELETE", "/jobs/{absent}", None, &["delete jobs.crofter.io"], &[404]),
        ("GET", "/keys", None, &["list tenantapikeys.crofter.io"], &[200]),
        ("POST", "/keys", Some(new_key), &["create tenantapikeys.crofter.io", "get secrets"], &[201, 202]),
        ("POST", "/keys/{key}/rotate", None, &["patch tenantapikeys.crofter.io", "get secrets"], &[200, 202]),
        ("DELETE", "/keys/{absent}", None, &["delete tenantapikeys.crofter.io"], &[404]),
        ("GET", "/tenants/{tenant}", None, &["get resourcequotas"], &[200]),
        ("GET", "/tenants/{tenant}/stats", None, &["get resourcequotas"], &[200]),
        ("GET", "/tenants/{tenant}/nodes", None, &["get resourcequotas"], &[200]),
        ("GET", "/tenants/{tenant}/usage", None, &["get resourcequotas"], &[200]),
        ("GET", "/tenants/{tenant}/jobs", None, &["list jobs.crofter.io"], &[200]),
    ]
}

/// What the tests of this module are on.
struct Site {
    job: String,
    ended: String,
    key: String,
}

impl Site {
    /// The path of a route in a tenant, which it names itself or in the query.
    fn at(&self, path: &str, tenant: &str) -> String {
        let path = path.replace("{job}", &self.job).replace("{ended}", &self.ended);
        let path = path.replace("{key}", &self.key).replace("{absent}", ABSENT);
        match path.contains("{tenant}") {
            true => format!("/v1{}", path.replace("{tenant}", tenant)),
            false => format!("/v1{path}?tenant={tenant}"),
        }
    }
}

/// A tenant with a member of each role, jobs and a key; and its key.
async fn people(name: &str, others: &str) -> Site {
    let verbs = world().verbs().await;
    let member = |role: &&str| json!({"kind": "ServiceAccount", "namespace": "default", "name": format!("{name}-{role}"), "role": role});
    let access: Vec<Value> = ROLES.iter().map(member).collect();
    let all = tenant(&verbs, name, json!({"plan": "basic", "access": access})).await;
    let admin = json!({"kind": "ServiceAccount", "namespace": "default", "name": others, "role": "admin"});
    tenant(&verbs, others, json!({"plan": "basic", "access": [admin]})).await;
    key(&verbs, name, "victim", json!({"scopes": []})).await;
    let keys = ask("GET", "/keys", &all, None).await.body["keys"].clone();
    let victim = keys.as_array().unwrap().iter().find(|key| key["name"] == "victim").unwrap();
    let (waiting, ended) =
        (ask("POST", "/jobs", &all, Some(&job())).await, ask("POST", "/jobs", &all, Some(&job())).await);
    let site = Site { job: id(&waiting), ended: id(&ended), key: victim["id"].as_str().unwrap().to_owned() };
    let at = format!("/jobs/{}", site.ended);
    assert_eq!(ask("POST", &format!("{at}/cancel"), &all, None).await.status, 202);
    wait::until(WAIT_TIMEOUT, "the job to be canceled", || async {
        let job = ask("GET", &at, &all, None).await.body;
        if job["finished_at"].is_null() { Err(job) } else { Ok(()) }
    })
    .await
    .unwrap();
    site
}

/// Waits until the API server knows a member, whose binding was made just now.
pub async fn until_member(token: &str, tenant: &str) -> Answer {
    roles().await;
    wait::until(WAIT_TIMEOUT, "the member to be known", || async {
        let who = ask("GET", &format!("/whoami?tenant={tenant}"), token, None).await;
        if who.status == 200 { Ok(who) } else { Err(who) }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_each_role_may_over_rest_what_it_may_with_kubectl() {
    const NAME: &str = "api-people";
    // Given: a tenant with a member of each role, and users of other kinds.
    let site = people(NAME, "api-people-next").await;
    let mut callers = Vec::new();
    for role in ROLES {
        let name = format!("{NAME}-{role}");
        let token = account(&name).await;
        let who = until_member(&token, NAME).await;
        assert_eq!((&who.body["kind"], &who.body["tenant"]), (&json!("user"), &json!(NAME)), "{who:?}");
        let said: BTreeSet<String> = serde_json::from_value(who.body["rights"].clone()).unwrap();
        let rights = can_i(&name, &format!("tenant-{NAME}")).await;
        assert_eq!(said, rights, "{role}: /whoami says what `kubectl auth can-i` says");
        callers.push((token, rights));
    }
    // The viewer reads no logs, and only the admin has the keys.
    assert!(callers.iter().map(|(_, rights)| rights.len()).is_sorted(), "{callers:?}");
    let neighbour = account("api-people-next").await;
    until_member(&neighbour, "api-people-next").await;
    callers.push((neighbour, BTreeSet::new()));
    callers.push((account("api-people-stranger").await, BTreeSet::new()));
    let job_account = ["create", "token", "crofter-job", "-n", &format!("tenant-{NAME}")].map(str::to_owned);
    let job_account: Vec<&str> = job_account.iter().map(String::as_str).collect();
    callers.push((kubectl(&job_account).await, BTreeSet::new()));

    // Then: each route lets in whoever has its rights, and no one else.
    for (method, path, body, needed, well) in routes() {
        for (token, rights) in &callers {
            let is_allowed = needed.iter().all(|right| rights.contains(*right));
            if is_allowed && path == "/events" {
                let headers = [("authorization", &*format!("Bearer {token}"))];
                world().rest_open(&site.at(path, NAME), &headers).await.until(&site.job).await;
                continue;
            }
            let answer = ask(method, &site.at(path, NAME), token, body.as_ref()).await;
            if is_allowed {
                assert!(well.contains(&answer.status), "{method} {path}: {rights:?}: {answer:?}");
                continue;
            }
            assert_eq!(
                (answer.status, code(&answer).as_str()),
                (403, "forbidden"),
                "{method} {path}: {rights:?}"
            );
            // For whoever has no right in a tenant the response is that of a tenant that does not exist.
            let absent = ask(method, &site.at(path, "api-absent"), token, body.as_ref()).await;
            assert_eq!(absent.status, 403, "{method} {path}");
            assert!(!rights.is_empty() || absent.body == answer.body, "{method} {path}: {absent:?}");
        }
    }
    let of_administrators =
        [("GET", "/tenants"), ("GET", "/pools"), ("GET", "/audit"), ("DELETE", "/tenants/api-people")];
    for (method, path) in of_administrators {
        for (token, _) in &callers {
            let answer = ask(method, path, token, None).await;
            assert_eq!((answer.status, code(&answer).as_str()), (403, "forbidden"), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn api_a_token_that_is_not_valid_any_more_is_refused_on_every_route_and_ends_its_streams() {
    const NAME: &str = "api-people-end";
    let site = people(NAME, "api-people-end-next").await;
    let token = account("api-people-end-viewer").await;
    until_member(&token, NAME).await;
    // Given: a member who follows the jobs.
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("x-tenant-id", NAME)];
    let mut events = world().rest_open("/v1/events", &headers).await;
    events.until(&site.job).await;
    // When: the account is deleted, and with it the token ends.
    kubectl(&["delete", "serviceaccount", "api-people-end-viewer"]).await;
    // Then: the stream ends, and each route refuses the token.
    assert!(events.ended().await.1, "it ends properly, so that a client reconnects");
    for (method, path, body, ..) in routes() {
        let answer = ask(method, &site.at(path, NAME), &token, body.as_ref()).await;
        assert_eq!((answer.status, code(&answer).as_str()), (401, "invalid_token"), "{method} {path}");
    }
}

#[tokio::test]
async fn api_a_suspended_tenant_is_read_by_its_members_and_takes_no_jobs() {
    const NAME: &str = "api-people-held";
    let site = people(NAME, "api-people-held-next").await;
    let token = account("api-people-held-developer").await;
    until_member(&token, NAME).await;
    let verbs = world().verbs().await;
    verbs.patch_tenant(NAME, json!({"spec": {"suspended": true}})).await.unwrap();
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("x-tenant-id", NAME)];
    wait::until(WAIT_TIMEOUT, "the tenant to be suspended", || async {
        let answer = ask_with("POST", "/v1/jobs", &headers, Some(&job())).await;
        if answer.status == 403 { Ok(answer) } else { Err(answer) }
    })
    .await
    .map(|answer| assert_eq!(code(&answer), "tenant_inactive"))
    .unwrap();
    assert_eq!(ask("GET", &site.at("/jobs/{job}", NAME), &token, None).await.status, 200);
}
