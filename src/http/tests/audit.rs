use super::{captured::capture, *};
use crate::{
    audit::{self, Queued},
    db::{AuditEntry, CallerKind},
    http::audit::TARGET,
};

/// An app whose audit log goes to a queue.
fn queued() -> (Lab, Queued) {
    let mut lab = Lab::new();
    let (log, queued) = audit::queue(&Random::system(), Metrics::default()).unwrap();
    Arc::get_mut(&mut lab.app.0).unwrap().audit = Some(log);
    (lab, queued)
}

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

/// The fields of a line, from the entry of the same request.
fn line_of(entry: &AuditEntry) -> Value {
    let (key_id, user) = match entry.caller_kind {
        CallerKind::Key => (entry.caller.as_deref(), None),
        _ => (None, entry.caller.as_deref()),
    };
    let mut line = json!({
        "message": "change requested", "request_id": entry.request_id, "who": entry.caller_kind.as_str(),
        "user": user, "key_id": key_id, "tenant": entry.tenant, "action": entry.action, "object": entry.object,
        "made": entry.made, "status": entry.status, "from": entry.client_address,
    });
    line.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    line
}

#[tokio::test]
async fn each_line_is_an_entry_with_the_same_fields() {
    let (captured, _guard) = capture();
    let (lab, mut queued) = queued();
    // When: callers of each kind request changes; the tenant is named by name, by UID, or does not exist.
    let absent = "30000000-0000-4000-8000-000000000000";
    lab.ask("POST", "/v1/jobs", KEY, r#"{"image": "geheim-image", "on_quota": "queue"}"#).await;
    lab.ask(
        "DELETE",
        &format!("/v1/keys/{absent}?tenant={TENANT_UID}"),
        "Bearer may:delete-tenantapikeys",
        "",
    )
    .await;
    lab.ask("DELETE", &format!("/tenants/{}", TENANT_UID.to_uppercase()), "Bearer stranger", "").await;
    lab.ask("PATCH", &format!("/v1/tenants/{absent}"), ADMIN, "{}").await;
    lab.ask("PATCH", "/v1/tenants/nowhere", "Bearer geheim-token", "{}").await;
    lab.ask("DELETE", &format!("/v1/tenants/{TENANT_UID}"), "Bearer geheim-token", "").await;
    lab.ask("POST", "/v1/nowhere", KEY, "{}").await;
    lab.ask("GET", "/v1/tenants", ADMIN, "").await;
    // Then: each has an entry with the fields of its line, and the UID of the tenant where it is known.
    let entries: Vec<AuditEntry> = std::iter::from_fn(|| queued.try_next()).collect();
    let lines: Vec<Value> = entries.iter().map(line_of).collect();
    assert_eq!(lines, captured.audit(), "a GET has none");
    let brief: Vec<_> = entries
        .iter()
        .map(|one| (one.caller_kind, one.tenant.as_deref(), one.tenant_uid.map(|uid| uid.to_string())))
        .collect();
    let of = |uid: &str| Some(uid.to_owned());
    let expected = [
        (CallerKind::Key, Some("acme"), of(TENANT_UID)),
        (CallerKind::User, Some("acme"), of(TENANT_UID)),
        (CallerKind::Administrator, Some("acme"), of(TENANT_UID)),
        (CallerKind::Administrator, Some(absent), of(absent)),
        (CallerKind::Unknown, Some("nowhere"), None),
        // No tenants are searched for a caller that is not authenticated.
        (CallerKind::Unknown, Some(TENANT_UID), of(TENANT_UID)),
        (CallerKind::Unknown, None, None),
    ];
    assert_eq!(brief, expected);
    assert!(entries.iter().all(|entry| entry.at == lab.app.clock.now()), "{entries:?}");
    let text = format!("{entries:?}");
    assert!(!text.contains("geheim") && !text.contains("crft_"), "{text}");
}

#[tokio::test]
async fn a_tenant_that_was_created_is_that_of_its_entry() {
    let (lab, mut queued) = queued();
    let (status, made) = lab.ask("POST", "/v1/tenants", ADMIN, r#"{"name": "new"}"#).await;
    assert_eq!(status, 201, "{made}");
    let entry = queued.try_next().unwrap();
    assert_eq!(entry.tenant.as_deref(), Some("new"));
    assert_eq!(entry.made.as_deref(), made["id"].as_str());
    // One that was refused is that of no tenant: its name is of the body.
    assert_eq!(lab.ask("POST", "/v1/tenants", "Bearer stranger", r#"{"name": "geheim"}"#).await.0, 403);
    assert_eq!(queued.try_next().map(|entry| (entry.tenant, entry.made)), Some((None, None)));
}

#[tokio::test]
async fn the_audit_log_is_listed_for_those_who_may_list_it_and_for_no_one_else() {
    let lab = Lab::new();
    for path in ["/audit", "/v1/audit", "/v1/audit?tenant=acme"] {
        let code = async |who: &str| {
            let (status, body) = lab.ask("GET", path, who, "").await;
            (status, body["code"].as_str().unwrap_or_default().to_owned())
        };
        for (who, status, expected) in [
            ("", 401, "missing_credentials"),
            ("Bearer crft_bad", 401, "invalid_key"),
            ("Bearer unknown", 401, "invalid_token"),
            (KEY, 403, "forbidden"),
            // A right in the tenant's namespace is none in the cluster, and neither is the right to list tenants.
            ("Bearer may:list-auditlogs+list-tenants", 403, "forbidden"),
            ("Bearer clerk", 403, "forbidden"),
            ("Bearer stranger", 403, "forbidden"),
            (ADMIN, 503, "history_unavailable"),
        ] {
            assert_eq!(code(who).await, (status, expected.to_owned()), "{path} for {who}");
        }
    }
    let (_, refused) = lab.ask("GET", "/v1/audit", "Bearer clerk", "").await;
    assert_eq!(refused["detail"], "your rights in the cluster do not allow to list auditlogs.crofter.io");
    let (_, unavailable) = lab.ask("GET", "/v1/audit", ADMIN, "").await;
    assert!(
        unavailable["detail"].as_str().unwrap().starts_with("no database is configured"),
        "{unavailable}"
    );
    for query in
        ["limit=0", "tenant=Acme", "caller=", "from=2030-01-01T00:00:00Z&to=2030-01-01T00:00:00Z", "x=1"]
    {
        let (status, body) = lab.ask("GET", &format!("/v1/audit?{query}"), ADMIN, "").await;
        assert_eq!((status, &body["code"]), (400, &json!("invalid_query")), "{query}");
    }
    let (_, stale) = lab.ask("GET", &format!("/v1/audit?cursor={}", "0".repeat(64)), ADMIN, "").await;
    assert_eq!(stale["code"], "invalid_cursor");
}
