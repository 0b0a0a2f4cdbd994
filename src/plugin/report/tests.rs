//! Canaries: what must not be in a report is put wherever it could come from.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::*;
use crate::{kube_ext::mock, yaml};

const CANARY: &str = "geheim";

/// A cluster whose every object has a canary in each field that a report must not have.
async fn collected(asked: &Arc<Mutex<Vec<String>>>) -> Value {
    let paths = Arc::clone(asked);
    let client = mock::client(move |call| {
        paths.lock().unwrap().push(call.path.clone());
        if call.path.ends_with("/log") {
            return (
                200,
                json!(format!("failed to reach postgres://u:{CANARY}@db/x\nAuthorization: Bearer {CANARY}")),
            );
        }
        let object = json!({
            "metadata": {
                "name": "o", "labels": {"crofter.io/tenant": "acme", "theirs": CANARY},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": CANARY, "crofter.io/paused": "true"},
                "managedFields": [{"manager": CANARY}],
            },
            "spec": {
                "plan": "basic", "displayName": CANARY, "metadata": {"note": CANARY}, "access": [{"name": CANARY}],
                "nodeName": "w1", "holderIdentity": "crofter-0",
                "containers": [{"name": "job", "image": "i", "env": [{"name": "P", "value": CANARY}], "args": [CANARY], "command": [CANARY]}],
                "template": {"spec": {"containers": [{"env": [{"value": CANARY}]}]}},
            },
            "status": {"phase": "Running", "message": format!("password={CANARY}")},
            "involvedObject": {"kind": "Job", "name": "j"}, "reason": "Failed",
            "message": format!("failed to reach postgres://u:{CANARY}@db/x with crft_abcdefghijkl_{CANARY}"),
            "data": {"token": CANARY},
        });
        (200, json!({"items": [object]}))
    });
    let parts = collect::cluster(&client, "crofter-system", Some("tenant-acme")).await;
    scrubbed(Value::Object(parts))
}

#[tokio::test]
async fn a_report_has_no_canary_and_reads_no_secret() {
    let asked = Arc::default();
    let report = collected(&asked).await;
    let text = yaml::write(&report).unwrap();
    assert!(!text.contains(CANARY), "{text}");
    // It says something all the same.
    for expected in ["crofter.io/tenant", "basic", "w1", "(hidden)", "postgres://(hidden)@db/x"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let asked = asked.lock().unwrap();
    assert!(
        asked.len() > 8 && !asked.iter().any(|path| path.contains("secret") || path.contains("configmap")),
        "{asked:?}"
    );
}

#[test]
fn objects_of_the_rest_api_have_no_canary_either() {
    let job = json!({
        "id": "u", "name": "j", "status": "failed", "parameters": {"a": CANARY, "b": CANARY}, "command": [CANARY], "args": [CANARY],
        "env": ["NAME"], "image": "i", "new_field_of_a_newer_server": CANARY,
    });
    let kept = collect::job(&job);
    assert!(!kept.to_string().contains(CANARY), "{kept}");
    assert_eq!(
        (&kept["parameters_count"], &kept["command_count"], &kept["image"]),
        (&json!(2), &json!(1), &json!("i"))
    );
    let tenant = collect::tenant(
        &json!({"name": "acme", "metadata": {"note": CANARY}, "display_name": CANARY, "plan": "pro"}),
    );
    assert!(!tenant.to_string().contains(CANARY) && tenant["plan"] == "pro", "{tenant}");
    let key = collect::key(&json!({"name": "ci", "token": CANARY, "key_id": "k"}));
    assert!(!key.to_string().contains(CANARY) && key["key_id"] == "k", "{key}");
}
