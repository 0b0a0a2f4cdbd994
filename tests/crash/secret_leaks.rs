//! Tokens, peppers and the database password are only in the Secrets that hold them: not in the log of an operator that
//! logs everything, and in no object, metric, table or response.

use std::path::Path;

use crofter::{api_types::TenantApiKey, names};
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api, Discovery, ResourceExt,
    api::{DynamicObject, ListParams},
    discovery::{Scope, verbs},
};
use serde_json::{Value, json};
use sqlx::Row;

use crate::{
    OPERATOR_FAULTS,
    common::{
        Answer, Verbs, World, keys,
        rest::{ALL, id, job, key, request, tenant},
    },
    secret_encodings::SecretForms,
};

const TENANT: &str = "discreet";

/// The random part of a key's text: its id is public, and so its checksum says nothing.
fn secret(text: &str) -> &[u8] {
    &text.as_bytes()[18..61]
}

/// Keys that were made, rotated, revoked and deleted; with their names.
async fn texts(verbs: &Verbs<'_>) -> Vec<(String, String)> {
    let world = verbs.world;
    let maker = tenant(verbs, TENANT, json!({"plan": "pro"})).await;
    let mut all = vec![("maker".to_owned(), maker.clone())];
    let token =
        |answer: &Answer| answer.body["token"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned();
    for end in ["kept", "revoked", "deleted"] {
        let new = json!({"scopes": ALL, "display_name": end});
        let made = world.asked("POST", "/v1/keys", &maker, Some(&new)).await;
        let at = format!("/v1/keys/{}", id(&made));
        let rotated = world.asked("POST", &format!("{at}/rotate"), &maker, None).await;
        all.extend([(format!("{end} 1"), token(&made)), (format!("{end} 2"), token(&rotated))]);
        world.until_answered(&token(&rotated), 200).await;
        match end {
            "revoked" => {
                let revoked = json!({"spec": {"revoked": true}});
                keys::patch(verbs, TENANT, made.body["name"].as_str().unwrap(), revoked).await.unwrap();
            }
            "deleted" => {
                assert_eq!(world.asked("DELETE", &at, &maker, None).await.status, 204);
                let own = keys::secrets(verbs, TENANT);
                verbs.until_deleted(&own, &names::key_secret(made.body["name"].as_str().unwrap())).await;
            }
            _ => continue,
        }
        world.until_answered(&token(&rotated), 401).await;
    }
    all.push(("by kubectl".to_owned(), key(verbs, TENANT, "ci", json!({"scopes": ALL})).await));
    all
}

/// Shows a text where it does not belong, with a valid key and without.
async fn misuse(world: &World, valid: &str, text: &str) {
    let valid = format!("Bearer {valid}");
    let (damaged, basic) = (format!("Bearer {}x", &text[..66]), format!("Basic {text}"));
    let (other, token) = (format!("Bearer {}0{}", &text[..30], &text[31..]), format!("Bearer x{text}"));
    for credentials in [valid.as_str(), &damaged, &other, &basic, &token, text, "Bearer crft_"] {
        let auth = ("authorization", credentials);
        for path in [
            "/v1/jobs/X",
            "/X",
            "/v1/X?X",
            "/v1/tenants/X",
            "/v1/keys?tenant=X",
            "/v1/jobs?cursor=X",
            "/v1/jobs?X=X",
            "/v1/jobs?status=X",
            "/v1/keys/X/rotate",
            "/problems/X",
            "/metrics?X",
        ] {
            for method in ["GET", "POST", text] {
                let bytes = request(method, &path.replace('X', text), &[("connection", "close"), auth], None);
                world.rest_raw(&bytes).await.unwrap();
            }
        }
        for name in
            ["user-agent", "x-request-id", "x-tenant-id", "idempotency-key", "if-match", "cookie", text]
        {
            world.rest("GET", "/v1/jobs", &[auth, (name, text)], None).await.unwrap();
            world.rest("POST", "/v1/jobs", &[auth, (name, text)], Some(&job())).await.unwrap();
        }
        // All of these are refused: what a job is made of is its sender's to say.
        for body in [
            json!({text: 1}),
            json!({"image": 7, "args": [text]}),
            json!({"queue": text}),
            json!(text),
            json!({"image": "i", "pool": text}),
            json!({"image": "i", "scenario": format!("{text} ")}),
            json!({"image": "i", "parameters": {text: "x"}}),
            json!({"image": "i", "resources": {"cpu": text}}),
            json!({"image": "i", "run_as_user": text}),
            json!({"image": "i", "env": [{"name": format!("{text}/"), "value": text}]}),
            json!({"image": "i", "volumes": [{"name": text, "mount_path": text, "claim": text}]}),
        ] {
            let answer = world.rest("POST", "/v1/jobs", &[auth], Some(&body)).await.unwrap();
            assert!((400..500).contains(&answer.status), "{body}: {answer:?}");
        }
        let key = json!({"scopes": [text]});
        world.rest("POST", "/v1/keys", &[auth], Some(&key)).await.unwrap();
        let half = format!(
            "POST /v1/jobs HTTP/1.1\r\nhost: x\r\n{}: {}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{{\"{text}\"}}{}",
            auth.0,
            auth.1,
            " ".repeat(28)
        );
        world.rest_raw(&half).await.unwrap();
        // No HTTP at all.
        drop(world.rest_raw(&format!("{text}\r\n\r\n")).await);
    }
}

/// What the API server was asked for. What it refuses it quotes, which is between it and who sent that.
fn asked_for(audit_log: &Path) -> Vec<u8> {
    let log = std::fs::read_to_string(audit_log).unwrap();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let without = lines.map(|mut entry| {
        entry["responseStatus"].take();
        entry.to_string()
    });
    without.collect::<Vec<_>>().join("\n").into_bytes()
}

/// Every object that the API server lists, with a name for it; `mine` names those that are to hold secrets.
async fn objects(verbs: &Verbs<'_>) -> Vec<(String, Option<String>, Vec<u8>)> {
    let discovery = Discovery::new(verbs.client.clone()).run().await.unwrap();
    let mut all = Vec::new();
    for group in discovery.groups() {
        for (resource, capabilities) in group.recommended_resources() {
            if !capabilities.supports_operation(verbs::LIST) {
                continue;
            }
            assert!(matches!(capabilities.scope, Scope::Cluster | Scope::Namespaced));
            let api: Api<DynamicObject> = Api::all_with(verbs.client.clone(), &resource);
            for object in api.list(&ListParams::default()).await.unwrap() {
                let holds = (resource.kind == "Secret")
                    .then(|| format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any()));
                let name = format!("{} {}", resource.kind, object.name_any());
                all.push((name, holds, serde_json::to_vec(&object).unwrap()));
            }
        }
    }
    all
}

/// All tables of the database as text, with their names.
async fn tables(world: &World) -> Vec<(String, String)> {
    let database = sqlx::PgPool::connect(world.database_url().unwrap()).await.unwrap();
    let names = "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'";
    let mut all = Vec::new();
    for row in sqlx::query(names).fetch_all(&database).await.unwrap() {
        let name: String = row.get(0);
        let dump = format!("SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM \"{name}\" t");
        let dump = sqlx::query_scalar(sqlx::AssertSqlSafe(dump)).fetch_one(&database).await.unwrap();
        all.push((format!("table {name}"), dump));
    }
    all
}

/// What is in the Secrets that may hold it: each key's own, and that of the peppers.
async fn rightful(verbs: &Verbs<'_>) -> Vec<String> {
    let all: Api<TenantApiKey> = verbs.all();
    let own = all.list(&ListParams::default()).await.unwrap();
    let own =
        own.items.iter().map(|key| format!("{}/{}", key.namespace().unwrap_or_default(), key.secret_name()));
    own.chain([format!("{}/{}", names::DEFAULT_NAMESPACE, names::PEPPER_SECRET)]).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_key_pepper_or_password_is_outside_its_secret() {
    let (world, _exclusive) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    world.operator_logs(Some("trace"));
    world.start_operator();
    world.until_ready().await;
    let began = world.operator_log().len();
    let texts = texts(&verbs).await;
    let valid = &texts[0].1;
    for (_, text) in texts.iter().skip(1) {
        misuse(world, valid, text).await;
    }
    // What goes wrong with the database is logged, too.
    world.cluster.kill_postgres().unwrap();
    let list = world.asked("GET", "/v1/jobs", valid, None).await;
    assert_eq!(list.header("x-crofter-source"), Some("cache"));
    world.kill_operator();
    world.start_operator();
    world.until_ready().await;
    world.until_answered(valid, 200).await;
    world.cluster.start_postgres().await.unwrap();
    world.until_written(valid).await;

    let mut secrets = SecretForms::default();
    for (name, text) in &texts {
        secrets.add(&format!("key {name}"), secret(text));
    }
    let pepper: Secret = verbs.within(names::DEFAULT_NAMESPACE).get(names::PEPPER_SECRET).await.unwrap();
    for (version, pepper) in pepper.data.unwrap() {
        secrets.add(&format!("pepper {version}"), &pepper.0);
    }
    let url = world.database_url().unwrap();
    // scheme://user:password@host
    let password = url.split([':', '@']).nth(2).unwrap();
    secrets.add("database password", password.as_bytes());

    let mut places = vec![("log".to_owned(), world.operator_log().into_bytes())];
    println!("{} bytes of log", places[0].1.len() - began);
    places.push(("metrics".to_owned(), world.ask("/metrics").await.unwrap().into_bytes()));
    for path in ["/v1/keys", "/v1/whoami", "/v1/jobs", "/v1/tenants/discreet", "/healthz", "/readyz?verbose"]
    {
        let answer = world.asked("GET", path, valid, None).await;
        places.push((path.to_owned(), format!("{}\n{}", answer.head, answer.body).into_bytes()));
    }
    places.extend(tables(world).await.into_iter().map(|(name, text)| (name, text.into_bytes())));
    places.push(("audit log".to_owned(), asked_for(world.cluster.audit_log().unwrap())));
    let log = std::fs::read(world.cluster.dir().join("logs/postgres.log")).unwrap();
    places.push(("log of Postgres".to_owned(), log));
    let (rightful, mut seen) = (rightful(&verbs).await, Vec::new());
    for (name, holds, bytes) in objects(&verbs).await {
        match holds.filter(|secret| rightful.contains(secret)) {
            Some(_) => seen.extend(secrets.found(&bytes)),
            None => places.push((name, bytes)),
        }
    }
    // Where they have to be they are found: what finds nothing elsewhere does find.
    for name in ["key maker", "key kept 2", "key by kubectl", "pepper v1"] {
        assert!(seen.iter().any(|found| found.starts_with(name)), "{name} is not in its Secret");
    }
    let mut bad: Vec<String> = Vec::new();
    for (place, bytes) in &places {
        bad.extend(secrets.found(bytes).into_iter().map(|found| format!("{place}: {found}")));
    }
    assert!(bad.is_empty(), "{} times, such as:\n{}", bad.len(), bad[..bad.len().min(12)].join("\n\n"));
    println!("{} places, {} bytes", places.len(), places.iter().map(|(_, bytes)| bytes.len()).sum::<usize>());
    world.kill_operator();
}

impl World {
    /// Waits until lists come from Postgres.
    async fn until_written(&self, key: &str) {
        crofter_test_cluster::wait::until(
            crate::common::WAIT_TIMEOUT,
            "lists to come from Postgres",
            async || {
                let list = self.asked("GET", "/v1/jobs", key, None).await;
                match list.header("x-crofter-source") {
                    None => Ok(()),
                    Some(source) => Err(Value::from(source)),
                }
            },
        )
        .await
        .unwrap();
    }
}
