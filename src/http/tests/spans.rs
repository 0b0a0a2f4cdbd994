//! The span of a request.

use super::{captured::capture, *};

/// The spans of all lines that the middleware has logged.
fn spans(lines: &[Value]) -> Vec<Value> {
    let own = lines.iter().filter(|line| line["target"] == "crofter::http::middleware");
    own.map(|line| line["span"].clone()).collect()
}

#[tokio::test]
async fn a_request_has_a_span_with_its_route_and_tenant_and_without_secrets() {
    let (captured, _guard) = capture();
    let lab = Lab::new();
    // Step 1: requests whose query, key, method, path, id and body have a secret.
    let id = |value: &'static str| ("x-request-id", value);
    lab.open("GET", "/v1/jobs?limit=7&cursor=geheim", &[("authorization", KEY), id("r-1")], "").await;
    let tenant = format!("/v1/tenants/{TENANT_UID}/stats");
    lab.open("GET", &tenant, &[("authorization", ADMIN), id("r-2")], "").await;
    lab.open("POST", "/v1/keys?tenant=geheim", &[("authorization", "Bearer crft_geheim"), id("r-3")], "{}")
        .await;
    lab.open("GEHEIM", "/geheim", &[("x-api-key", "crft_geheim"), id("r-4")], "").await;
    lab.open("POST", "/v1/jobs", &[("authorization", KEY), id("geheim r-5")], r#"{"image": "geheim"}"#).await;

    // Step 2: each request has its span, and no line has a secret.
    let lines = captured.lines();
    let span = |method: &str, route: &str, tenant: Option<&str>, id: &str| {
        let mut span = json!({"name": "request", "method": method, "route": route, "request_id": id});
        if let Some(tenant) = tenant {
            span["tenant"] = json!(tenant);
        }
        span
    };
    let random = "01".repeat(16);
    let expected = [
        span("GET", "/v1/jobs", Some("acme"), "r-1"),
        span("GET", "/v1/tenants/{id}/stats", Some("acme"), "r-2"),
        span("POST", "/v1/keys", None, "r-3"),
        span("other", "unmatched", None, "r-4"),
        span("POST", "/v1/jobs", Some("acme"), &random),
    ];
    assert_eq!(spans(&lines), expected);
    let all: String = lines.iter().map(|line| line["spans"].to_string()).collect();
    assert!(!all.contains("geheim") && !all.contains("crft_") && !all.contains("boss"), "{all}");
}

#[tokio::test]
async fn what_a_handler_logs_is_in_the_span_of_its_request() {
    let (captured, _guard) = capture();
    let lab = Lab::new();
    lab.fake.refuse("/apis/crofter.io/v1alpha1/namespaces/tenant-acme/jobs", 403);
    let headers = [("authorization", KEY), ("x-request-id", "r-1")];
    let response = lab.open("POST", "/v1/jobs", &headers, r#"{"image": "i"}"#).await;
    assert_eq!(response.status(), 500);
    let lines = captured.lines();
    let failed = lines.iter().find(|line| line["fields"]["message"] == "request failed").unwrap();
    assert_eq!(failed["span"]["request_id"], "r-1", "{failed}");
    assert!(failed["fields"]["cause"].as_str().unwrap().starts_with("failed to create a Job"), "{failed}");
}
