//! What a page in a browser may do.

use super::*;

/// All that is added to an answer.
const ADDED: [&str; 6] = [
    "access-control-allow-origin",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-allow-credentials",
    "access-control-expose-headers",
    "vary",
];

async fn preflight(lab: &Lab, origin: &str, path: &str) -> Response<Body> {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization,content-type"),
    ];
    lab.open("OPTIONS", path, &headers, "").await
}

#[tokio::test]
async fn a_page_of_a_listed_origin_may_call_and_read() {
    let lab = Lab::new();
    let response = preflight(&lab, ORIGIN, "/v1/jobs").await;
    assert_eq!(response.status(), 204);
    let headers = response.headers();
    assert_eq!(headers["access-control-allow-origin"], ORIGIN);
    assert!(headers["access-control-allow-methods"].to_str().unwrap().contains("DELETE"));
    let allowed = headers["access-control-allow-headers"].to_str().unwrap().to_ascii_lowercase();
    for header in ["authorization", "content-type", "idempotency-key", "if-match", "x-api-key"] {
        assert!(allowed.contains(header), "{allowed}");
    }
    assert_eq!(headers["vary"], "Origin");
    assert_eq!(headers["access-control-max-age"], "600");
    for (path, who, status) in
        [("/v1/jobs", KEY, 200), ("/v1/jobs", "Bearer crft_bad", 401), ("/x", KEY, 404)]
    {
        let response = lab.open("GET", path, &[("authorization", who), ("origin", ORIGIN)], "").await;
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(response.headers()["access-control-allow-origin"], ORIGIN, "a page reads refusals too");
        let shown = response.headers()["access-control-expose-headers"].to_str().unwrap();
        assert!(shown.contains("ETag") && shown.contains("Retry-After"), "{shown}");
        assert!(!response.headers().contains_key("access-control-allow-credentials"));
    }
}

#[tokio::test]
async fn a_page_of_another_origin_may_do_nothing() {
    let lab = Lab::new();
    for origin in
        ["https://evil.example.org", "https://app.example.org.evil.org", "http://app.example.org", "null"]
    {
        let refused = preflight(&lab, origin, "/v1/jobs").await;
        assert_eq!(refused.status(), 405, "{origin}");
        let answered = lab.open("GET", "/v1/jobs", &[("authorization", KEY), ("origin", origin)], "").await;
        assert_eq!(answered.status(), 200, "nothing is refused to who is no browser");
        for response in [refused, answered] {
            for name in ADDED.iter().filter(|name| **name != "vary") {
                assert!(!response.headers().contains_key(*name), "{origin}: {name}");
            }
            assert_eq!(response.headers()["vary"], "Origin", "no cache mixes them up");
        }
    }
    let twice = [("authorization", KEY), ("origin", ORIGIN), ("origin", "https://evil.example.org")];
    let response = lab.open("GET", "/v1/jobs", &twice, "").await;
    assert!(!response.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn without_a_list_no_page_may_call() {
    let mut lab = Lab::new();
    lab.origins(&[]);
    assert_eq!(preflight(&lab, ORIGIN, "/v1/jobs").await.status(), 405);
    let response = lab.open("GET", "/v1/jobs", &[("authorization", KEY), ("origin", ORIGIN)], "").await;
    for name in ADDED {
        assert!(!response.headers().contains_key(name), "{name}");
    }
}
