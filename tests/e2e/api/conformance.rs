//! The server and its description agree: the document has the server's routes and no other, and a fuzzer that
//! reads it (schemathesis) finds no answer that it does not have.
//!
//! The fuzzer sends what the document allows and what it does not: values at the bounds, beyond them, of other types,
//! unknown fields, wrong methods and media types, and, along the document's links, one request after another. It always
//! makes the same ones, and fewer than a minute's worth. Whatever is out of bounds must be refused with a 4xx; no
//! answer may be a 5xx, or of a status, media type, header, schema or code that the document does not have for it.

use std::{collections::BTreeSet, fs::File, path::Path, process::ExitStatus, time::Duration};

use serde_json::{Value, json};
use tokio::{process::Command, sync::Semaphore};

use super::{
    ask_with, code,
    people::{account, until_member},
    tenant,
};
use crate::{common::Answer, world};

/// The longest that one run of the fuzzer may take. It is a minute or two, and many more where all other tests run
/// meanwhile.
const LONGEST: Duration = Duration::from_secs(1800);
/// One fuzzer runs at a time: each keeps a core busy, and the others would only take longer.
static TURN: Semaphore = Semaphore::const_new(1);

async fn document() -> Value {
    let answer = ask_with("GET", "/openapi.json", &[], None).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    answer.body
}

/// Path, method and description of every operation.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap();
    let methods = |(path, methods): (&String, &Value)| -> Vec<_> {
        let methods = methods.as_object().unwrap().iter();
        methods.map(|(method, it)| (path.clone(), method.to_uppercase(), it.clone())).collect()
    };
    paths.iter().flat_map(methods).collect()
}

#[tokio::test]
async fn api_the_document_has_the_routes_that_are_there_and_no_other() {
    let document = document().await;
    assert_eq!(document, crofter::http::document());
    let operations = operations(&document);
    let described: BTreeSet<(&str, &str)> =
        operations.iter().map(|(path, method, _)| (path.as_str(), method.as_str())).collect();
    let allowed = |answer: &Answer| -> BTreeSet<String> {
        let allow = answer.header("allow").unwrap_or_default().split(',').map(|word| word.trim().to_owned());
        // A route with GET has HEAD too.
        allow.filter(|method| method != "HEAD").collect()
    };
    for (path, method, operation) in &operations {
        let open = operation["security"].as_array().unwrap().is_empty();
        for prefix in ["/v1", ""] {
            let at = path
                .replacen("/v1", prefix, 1)
                .replace("{id}", "x")
                .replace("{code}", "internal")
                .replace("{reason}", "Queued");
            let answer = ask_with(method, &at, &[], None).await;
            assert_eq!(answer.status, if open { 200 } else { 401 }, "{method} {at}: {answer:?}");
            // No method serves as QUERY here, so the response lists those that exist.
            let other = ask_with("QUERY", &at, &[], None).await;
            assert_eq!((other.status, code(&other).as_str()), (405, "method_not_allowed"), "{at}");
            let expected: BTreeSet<String> =
                described.iter().filter(|(p, _)| p == path).map(|(_, method)| (*method).to_owned()).collect();
            assert_eq!(allowed(&other), expected, "{at}");
        }
    }
}

#[tokio::test]
async fn api_the_page_of_the_document_has_every_route_and_refers_to_nothing_elsewhere() {
    let page = ask_with("GET", "/docs", &[], None).await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'sha256-") && !policy.contains("unsafe"),
        "{policy}"
    );
    let html = page.body.as_str().unwrap();
    for (path, method, _) in operations(&document().await) {
        assert!(html.contains(&format!("<code>{method} {path}</code>")), "{method} {path}");
    }
    assert!(!html.contains("://") && !html.contains("<script") && !html.contains("src="));
}

/// Runs the fuzzer with these credentials, in this tenant, over the operations of these groups.
async fn fuzz(credentials: &str, tenant: &str, groups: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let installed = Command::new(root.join("scripts/fuzzer")).output().await.unwrap();
    let said = String::from_utf8_lossy(&installed.stderr);
    assert!(installed.status.success(), "the fuzzer could not be installed: {said}");
    let fuzzer = String::from_utf8(installed.stdout).unwrap();
    let mut command = Command::new(fuzzer.trim());
    command.arg("--config-file").arg(root.join("tests/e2e/api/fuzzer.toml"));
    command.args(["run", &world().rest_url("/openapi.json")]);
    command.args(groups.iter().flat_map(|group| ["--include-tag", group]));
    // Not as an argument, which every user of the machine can read.
    command.env("CROFTER_CREDENTIALS", credentials).env("CROFTER_TENANT", tenant);
    command.current_dir(world().cluster.dir()).kill_on_drop(true);
    command.env("SCHEMATHESIS_HOOKS", root.join("tests/e2e/api/fuzzer_hooks.py"));
    // Into a file, so that a run which does not end shows how far it came.
    let log = world().cluster.dir().join(format!("fuzzer-{tenant}.log"));
    let output = File::create(&log).unwrap();
    command.stdout(output.try_clone().unwrap()).stderr(output);
    let _turn = TURN.acquire().await.unwrap();
    let ended = tokio::time::timeout(LONGEST, command.status()).await.map(Result::unwrap);
    let report = std::fs::read_to_string(&log).unwrap();
    let (begin, end) = (report.chars().take(8000).collect::<String>(), report.lines().rev().take(30));
    let end = end.map(|line| line.chars().take(200).collect::<String>()).collect::<Vec<_>>();
    let end = end.into_iter().rev().collect::<Vec<_>>().join("\n");
    let succeeded = ended.as_ref().is_ok_and(ExitStatus::success);
    assert!(succeeded, "{ended:?}:\n{begin}\n[…]\n{end}");
    let tested = report.lines().find_map(|line| line.trim().strip_prefix("Tested: ")?.parse::<usize>().ok());
    let described = operations(&document().await);
    let wanted = described
        .iter()
        // A stream without an end.
        .filter(|(_, _, operation)| operation["operationId"] != "watchJobs")
        .filter(|(_, _, operation)| groups.iter().any(|group| operation["tags"][0] == *group));
    assert_eq!(tested, Some(wanted.count()), "{begin}");
}

#[tokio::test]
async fn api_a_fuzzer_with_a_key_finds_no_answer_that_is_not_described() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "api-fuzzed", json!({"plan": "enterprise"})).await;
    fuzz(&key, "api-fuzzed", &["Jobs", "Keys", "Server"]).await;
    let answer = ask_with("GET", "/whoami", &[("x-api-key", &key)], None).await;
    assert_eq!(answer.status, 200, "the key was good to the end: {answer:?}");
}

#[tokio::test]
async fn api_a_fuzzer_with_a_token_finds_no_answer_that_is_not_described() {
    let verbs = world().verbs().await;
    verbs.tenant("api-changed", json!({"plan": "free"})).await;
    let kubectl = async |args: &[&str]| {
        let out = world().cluster.kubectl(args.iter().copied()).await.unwrap();
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    kubectl(&["create", "serviceaccount", "api-fuzzer"]).await;
    let account = "--serviceaccount=default:api-fuzzer";
    let resource = "--resource=tenants.crofter.io";
    // It creates tenants, and may change only the one that exists for it.
    for (role, rights) in [
        ("api-fuzzer", &["--verb=get,list,create"][..]),
        ("api-fuzzer-changes", &["--verb=patch", "--resource-name=api-changed"]),
    ] {
        kubectl(&[&["create", "clusterrole", role, resource], rights].concat()).await;
        kubectl(&["create", "clusterrolebinding", role, &format!("--clusterrole={role}"), account]).await;
    }
    let token = kubectl(&["create", "token", "api-fuzzer"]).await;
    fuzz(&token, "api-changed", &["Tenants", "Offer"]).await;
    let answer = ask_with("GET", "/whoami", &[("authorization", &format!("Bearer {token}"))], None).await;
    assert_eq!(answer.status, 200, "the token was good to the end: {answer:?}");
}

#[tokio::test]
async fn api_a_fuzzer_with_a_members_token_finds_no_answer_that_is_not_described() {
    const NAME: &str = "api-fuzzed-member";
    let verbs = world().verbs().await;
    let member = json!({"kind": "ServiceAccount", "namespace": "default", "name": NAME, "role": "admin"});
    tenant(&verbs, NAME, json!({"plan": "enterprise", "access": [member]})).await;
    let token = account(NAME).await;
    until_member(&token, NAME).await;
    fuzz(&token, NAME, &["Jobs", "Keys"]).await;
    until_member(&token, NAME).await;
}
