//! Submits that are refused before anything is made.

use super::*;

#[tokio::test]
async fn parameters_that_are_one_variable_are_refused_with_both_names_and_no_job_is_made() {
    let lab = Lab::new();
    let body = json!({"image": "i", "parameters": {"frame-no": "1", "frame_no": "2"}});
    let (status, answer) = lab.ask("POST", "/jobs", KEY, &body.to_string()).await;
    let words =
        "parameters frame-no and frame_no are both given as CROFTER_PARAM_FRAME_NO: rename one of them";
    assert_eq!((status, &answer["code"], &answer["detail"]), (422, &json!("invalid_object"), &json!(words)));
    let many: serde_json::Map<_, _> =
        (0..32).map(|n| (format!("p{n:02}"), json!("x".repeat(4096)))).collect();
    let body = json!({"image": "i", "parameters": many});
    let (status, answer) = lab.ask("POST", "/jobs", KEY, &body.to_string()).await;
    assert!(status == 422 && answer["detail"].as_str().unwrap().contains("131380 bytes"), "{answer}");
    assert!(lab.fake.calls().iter().all(|call| call.method != http::Method::POST), "nothing is made");
}
