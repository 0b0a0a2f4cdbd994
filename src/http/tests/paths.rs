//! Which requests are the same, and which are none.

use http::Version;

use super::*;

#[tokio::test]
async fn every_path_exists_under_v1_too() {
    let lab = Lab::new();
    for path in [
        "/healthz",
        "/problems",
        "/problems/internal",
        "/reasons",
        "/reasons/NoWorkers",
        "/openapi.json",
        "/docs",
    ] {
        for prefix in ["", "/v1"] {
            let response = lab.open("GET", &format!("{prefix}{path}"), &[], "").await;
            assert_eq!(response.status(), 200, "{prefix}{path}");
        }
    }
    assert_eq!(lab.open("GET", "/v1/readyz", &[], "").await.status(), 503, "its caches are not whole");
    let paths = document()["paths"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert!(!paths.iter().any(|path| path == "/v1/healthz") && paths.iter().any(|path| path == "/healthz"));
}

#[tokio::test]
async fn a_slash_at_the_end_changes_nothing() {
    let lab = Lab::new();
    lab.job(1, json!({"phase": "Running", "attempt": 1}));
    for (method, path, status) in [
        ("GET", "/v1/jobs/", 200),
        ("GET", "/jobs/?limit=1", 200),
        ("GET", "/jobs/?limit=x", 400),
        ("GET", "/healthz/", 200),
        ("DELETE", "/v1/jobs/", 405),
        ("GET", "/v1/jobs//", 404),
        ("GET", "/", 307),
        ("POST", "/", 405),
        ("GET", "//", 404),
        ("GET", "/v1/", 404),
    ] {
        let response = lab.open(method, path, &[("authorization", KEY)], "").await;
        assert_eq!(response.status(), status, "{method} {path}");
    }
    let (status, job) = lab.ask("GET", &format!("/v1/jobs/{JOB_UID}/"), KEY, "").await;
    assert_eq!((status, &job["id"]), (200, &json!(JOB_UID)));
}

#[tokio::test]
async fn a_job_is_found_by_its_uid_in_capitals() {
    const UID: &str = "2abcdef0-0000-4000-8000-00000000000a";
    let lab = Lab::new();
    let mut one = job(1, json!({"phase": "Running", "attempt": 1}));
    one.metadata.uid = Some(UID.to_owned());
    lab.app.jobs.apply(&Arc::new(one));
    for path in [UID.to_owned(), UID.to_uppercase()] {
        let (status, job) = lab.ask("GET", &format!("/v1/jobs/{path}"), KEY, "").await;
        assert_eq!((status, &job["id"]), (200, &json!(UID)), "{path}");
    }
    for other in [UID.replace('-', ""), format!("%7B{UID}%7D"), format!("urn:uuid:{UID}")] {
        assert_eq!(lab.ask("GET", &format!("/v1/jobs/{other}"), KEY, "").await.0, 404, "{other}");
    }
}

#[tokio::test]
async fn a_request_has_one_host() {
    let lab = Lab::new();
    for (version, hosts, status) in [
        (Version::HTTP_11, &["x"][..], 200),
        (Version::HTTP_11, &[], 400),
        (Version::HTTP_11, &["x", "x"], 400),
        (Version::HTTP_10, &[], 200),
    ] {
        let request = Request::builder().version(version).uri("/v1/jobs").header("authorization", KEY);
        let request = hosts.iter().fold(request, |request, host| request.header("host", *host));
        let routes = routes(lab.app.clone(), Metrics::default());
        let response = routes.oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        assert_eq!(response.status(), status, "{version:?} {hosts:?}");
        assert!(response.headers().contains_key("x-request-id"));
        if status == 400 {
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            let problem: Value = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(problem["code"], "malformed_request");
        }
    }
}

#[tokio::test]
async fn one_key_sent_in_both_ways_is_one_key() {
    let lab = Lab::new();
    let of = async |key: &str| {
        let headers = [("authorization", KEY), ("x-api-key", key)];
        lab.open("GET", "/v1/jobs", &headers, "").await.status().as_u16()
    };
    assert_eq!((of("crft_good").await, of("crft_other").await), (200, 400));
}

#[tokio::test]
async fn if_match_takes_a_list_and_a_weak_tag_matches_nothing() {
    let lab = Lab::new();
    lab.job(7, json!({"phase": "Running", "attempt": 1}));
    let path = format!("/v1/jobs/{JOB_UID}/cancel");
    lab.fake.put(
        "/apis/crofter.io/v1alpha1/namespaces/tenant-acme/jobs/j",
        json!(job(7, json!({"phase": "Running"}))),
    );
    let cancel = async |tag: &str| {
        let headers = [("authorization", KEY), ("if-match", tag)];
        lab.open("POST", &path, &headers, "").await.status().as_u16()
    };
    assert_eq!((cancel("W/\"7\"").await, cancel("\"5\", \"6\"").await, cancel("7").await), (412, 412, 400));
    assert_eq!(mock::outline(&lab.fake.calls()), Vec::<String>::new());
    cancel("\"5\", \"7\"").await;
    let calls = lab.fake.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].body["metadata"]["resourceVersion"], "7", "the one that is present is asked for");
}
