//! A job's log over the REST API, as its container prints it.

use crofter::{
    api_types::{JobPhase, TenantApiKey},
    names,
};
use crofter_test_cluster::wait;
use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use serde_json::json;

use crate::{
    NODE_LOCK,
    common::{WAIT_TIMEOUT, namespace},
    forward, script, world,
};

const TENANT: &str = "alpha";
/// Prints its last line when a file is there.
const LINES: &str = r#"
for i in 1 2 3; do echo "line $i"; sleep 1; done
until test -e /tmp/go; do sleep 0.1; done
echo "last" >&2
"#;

#[tokio::test]
async fn a_log_is_followed_from_before_the_start_to_the_end() {
    let Some(world) = world() else { return };
    let _shared = NODE_LOCK.read().await;
    let verbs = world.verbs().await;
    // Given the REST API behind a port forward, and a key that it accepts.
    let _forward = forward(&world.cluster, "port-forward", world.api_port).await;
    let key = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": {"name": "reader"},
        "spec": {"scopes": ["jobs:read"]},
    });
    verbs.create(&verbs.within::<TenantApiKey>(&namespace(TENANT)), &key).await.unwrap();
    let secrets = verbs.within::<Secret>(&namespace(TENANT));
    let text = wait::until(WAIT_TIMEOUT, "the key's text", || async {
        let secret = secrets.get("crofter-key-reader").await.map_err(|error| error.to_string())?;
        let text = secret.data.and_then(|data| data.get(names::SECRET_TOKEN).map(|text| text.0.clone()));
        text.and_then(|text| String::from_utf8(text).ok()).ok_or_else(|| "no text".to_owned())
    })
    .await
    .unwrap();
    let bearer = format!("Bearer {text}");
    let headers = [("authorization", bearer.as_str())];
    wait::until(WAIT_TIMEOUT, "the key to be let in", || async {
        match world.rest("GET", "/whoami", &headers, None).await {
            Ok(answer) if answer.status == 200 => Ok(()),
            other => Err(other.map(|answer| answer.status)),
        }
    })
    .await
    .unwrap();

    // When a log is followed from before its pod's start, each line comes as it is printed.
    let job = verbs.job(TENANT, "log", script(LINES)).await;
    let path = format!("/v1/jobs/{}/logs", job.uid().unwrap());
    wait::until(WAIT_TIMEOUT, "the job to be known", || async {
        match world.rest("GET", &path, &headers, None).await {
            Ok(answer) if answer.status != 404 => Ok(()),
            other => Err(other),
        }
    })
    .await
    .unwrap();
    let mut log = world.rest_open(&format!("{path}?follow=true"), &headers).await;
    log.until("line 1").await;
    let running = verbs.jobs(TENANT).get("log").await.unwrap();
    assert!(!log.seen.contains("last"), "it comes as it is printed: {:?}", running.status);
    let pod = running.status.unwrap().pod.unwrap();
    let touch = ["exec", "-n", &namespace(TENANT), &pod, "--", "touch", "/tmp/go"];
    wait::until(WAIT_TIMEOUT, "the job to continue", async || {
        let output = world.cluster.kubectl(touch).await.unwrap();
        if output.status.success() { Ok(()) } else { Err(output) }
    })
    .await
    .unwrap();
    // The stream ends with the pod and has all lines.
    let (text, whole) = log.ended().await;
    assert!(whole, "{text}");
    for line in ["line 2", "line 3", "last"] {
        assert!(text.contains(line), "{text}");
    }
    verbs.until_phase(TENANT, "log", JobPhase::Completed).await;

    // Afterwards the tail, timestamps and the attempt can be chosen.
    let tail = world.rest("GET", &format!("{path}?tail_lines=1"), &headers, None).await.unwrap();
    assert!(tail.status == 200 && tail.body.to_string().contains("last"), "{tail:?}");
    assert!(!tail.body.to_string().contains("line"), "{tail:?}");
    let stamped = world.rest("GET", &format!("{path}?timestamps&attempt=1"), &headers, None).await.unwrap();
    assert!(stamped.body.to_string().contains("Z line 1"), "{stamped:?}");
    let none = world.rest("GET", &format!("{path}?attempt=2"), &headers, None).await.unwrap();
    assert_eq!(none.status, 404, "{none:?}");
}
