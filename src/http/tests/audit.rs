use super::{captured::capture, *};
use crate::http::audit::TARGET;

#[tokio::test]
async fn each_change_has_one_line_and_no_line_has_a_secret() {
    let (captured, _guard) = capture();
    let lab = Lab::new();
    let headers = [("authorization", KEY), ("x-request-id", "r-1")];
    // Step 1: requests of tenants, administrators and strangers.
    let made =
        lab.open("POST", "/v1/jobs", &headers, r#"{"image": "geheim-image", "on_quota": "queue"}"#).await;
    assert!(made.status().is_success(), "{}", made.status());
    lab.job(1, json!({"phase": "Running"}));
    let path = format!("/jobs/{JOB_UID}");
    assert_eq!(lab.ask("GET", &path, KEY, "").await.0, 200);
    assert_eq!(lab.ask("POST", &format!("{path}/retry"), KEY, "").await.0, 409);
    assert_eq!(lab.ask("DELETE", "/v1/tenants/acme/nodes/n1", "Bearer clerk", "").await.0, 403);
    assert_eq!(lab.ask("PATCH", "/tenants/acme", "Bearer geheim-token", "{}").await.0, 401);
    assert_eq!(lab.ask("POST", "/v1/keys?tenant=acme", "Bearer crft_geheim", "{}").await.0, 401);
    assert_eq!(lab.ask("POST", "/v1/tenants/acme/nodes", ADMIN, r#"{"node": "n9"}"#).await.0, 404);

    // Step 2: each change has its line.
    let lines = captured.audit();
    let brief: Vec<Value> = lines
        .iter()
        .map(|line| {
            json!([line["who"], line["user"], line["tenant"], line["action"], line["object"], line["status"]])
        })
        .collect();
    let expected = [
        json!(["key", null, "acme", "POST /jobs", null, 202]),
        json!(["key", null, "acme", "POST /jobs/{id}/retry", JOB_UID, 409]),
        json!(["administrator", "clerk", "acme", "DELETE /tenants/{id}/nodes/{node}", "n1", 403]),
        json!(["unknown", null, "acme", "PATCH /tenants/{id}", "acme", 401]),
        json!(["unknown", null, "acme", "POST /keys", null, 401]),
        json!(["administrator", "boss", "acme", "POST /tenants/{id}/nodes", "n9", 404]),
    ];
    assert_eq!(brief, expected, "a GET has none");
    assert_eq!(lines[0]["request_id"], "r-1");
    assert!(lines[0]["made"].as_str().is_some_and(|uid| !uid.is_empty()) && lines[0]["key_id"].is_string());
    // Step 3: no line has a secret.
    let text = captured.all();
    let audit: Vec<&str> = text.lines().filter(|line| line.contains(TARGET)).collect();
    assert!(!audit.join("\n").contains("geheim") && !audit.join("\n").contains("crft_"), "{audit:?}");
}

#[tokio::test]
async fn no_client_forges_a_line() {
    let (captured, _guard) = capture();
    let lab = Lab::new();
    let path = "/v1/tenants/acme%0a%1b[31m/nodes";
    lab.ask(
        "POST",
        path,
        ADMIN,
        &json!({"node": "n1\n{\"target\": \"crofter::audit\"}\u{1b}[31m"}).to_string(),
    )
    .await;
    lab.ask("DELETE", "/v1/keys/a%0ab?tenant=x%0a%1b[0m", KEY, "").await;
    let odd = lab.open("EVIL", "/nowhere%0a", &[("authorization", KEY)], "").await;
    assert_eq!(odd.status(), 404);
    let lines = captured.audit();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert_eq!((&lines[0]["object"], &lines[0]["tenant"]), (&Value::Null, &Value::Null));
    assert_eq!(
        (&lines[1]["object"], &lines[1]["tenant"]),
        (&Value::Null, &json!("acme")),
        "the key's own tenant"
    );
    assert_eq!(lines[2]["action"], "other unmatched");
}

#[tokio::test]
async fn the_request_of_a_client_that_disconnects_has_a_line() {
    let (captured, _guard) = capture();
    let lab = Lab::new();
    let mut request = Box::pin(lab.ask("POST", "/v1/jobs", KEY, r#"{"image": "i"}"#));
    // The handler has created the job and waits for the verdict.
    while lab.fake.calls().is_empty() {
        assert!(futures::poll!(&mut request).is_pending());
        tokio::task::yield_now().await;
    }
    drop(request);
    let lines = captured.audit();
    assert_eq!(
        (lines.len(), &lines[0]["action"], &lines[0]["status"]),
        (1, &json!("POST /jobs"), &Value::Null)
    );
}
