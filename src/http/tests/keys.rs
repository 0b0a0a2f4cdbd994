//! API keys over REST, as far as they are refused before anything is made.

use super::*;

#[tokio::test]
async fn a_key_that_could_never_be_used_is_refused_and_not_created() {
    let lab = Lab::new();
    for (field, value, words) in [
        ("expires_at", "2029-12-31T23:59:59Z", "2029-12-31T23:59:59Z has passed"),
        ("expires_at", "2030-01-01T00:00:00Z", "has passed"),
        ("rotate_every", "soon", "such as 720h"),
        ("rotate_every", "59m", "at least 1h"),
        ("rotate_every", "1y", "such as 720h"),
    ] {
        let body = json!({"scopes": ["jobs:read"], (field): value}).to_string();
        let (status, problem) = lab.ask("POST", "/v1/keys?tenant=acme", ADMIN, &body).await;
        assert_eq!((status, &problem["code"]), (422, &json!("invalid_object")), "{problem}");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with(&format!("{field}: ")) && detail.contains(words), "{detail}");
    }
    assert_eq!(mock::outline(&lab.fake.calls()), Vec::<String>::new());
}
