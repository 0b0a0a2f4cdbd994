//! Whatever a Job holds, a reconcile ends, and makes no pod that leaves its worker group, its account or its sandbox: what the
//! policy `job-pods.crofter.io` and Pod Security ask of the same pod in a cluster.

use proptest::prelude::*;

use super::*;
use crate::{fuzz, names};

/// Every field of a spec, as it could be.
fn spec() -> impl Strategy<Value = Value> {
    fuzz::like(json!({
        "image": "busybox:1", "command": ["sh"], "args": ["-c", "$(A) $$"], "workingDir": "/w",
        "env": [{"name": "A", "value": "$(B)"}, {"name": "B", "secretKeyRef": {"name": "s", "key": "k"}}],
        "envFrom": [{"secret": "s"}, {"configMap": "c"}], "parameters": {"frame-no": "7"},
        "resources": {"cpu": "500m", "memory": "64Mi", "gpus": 1, "ephemeralStorage": "1Gi", "bandwidthMbps": 10},
        "runAsUser": 1000, "imagePullSecrets": ["pull"],
        "volumes": [{"name": "v", "mountPath": "/v", "claim": "c"}, {"name": "s", "mountPath": "/s", "scratch": "1Gi"}],
        "queue": "live", "priority": "high", "timeoutSeconds": 60, "maxRetries": 3, "retryPolicy": "Always",
        "pool": "p", "onQuota": "Reject", "ttlSecondsAfterFinished": 1, "canceled": false, "scenario": "s",
    }))
}

fn tenant() -> impl Strategy<Value = Value> {
    let security = prop::sample::select(vec!["Restricted", "Baseline"]);
    (security, any::<bool>()).prop_map(|(security, suspended)| {
        json!({"podSecurity": security, "suspended": suspended, "suspendPolicy": "Drain"})
    })
}

fn is_safe(pod: &Value, restricted: bool) {
    let spec = &pod["spec"];
    assert_eq!(spec["serviceAccountName"], names::JOB_SERVICE_ACCOUNT);
    assert_eq!(spec["automountServiceAccountToken"], false);
    let placed =
        ["nodeName", "schedulerName", "nodeSelector", "hostNetwork", "hostPID", "hostIPC", "initContainers"];
    assert!(placed.iter().all(|field| spec[field].is_null()), "{spec}");
    let admitted = json!({"key": names::NODE_ADMITTED, "operator": "In", "values": ["acme"]});
    let terms = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    assert_eq!(terms, &json!([{"matchExpressions": [admitted]}]));
    let taint =
        json!({"key": names::NODE_ADMITTED, "operator": "Equal", "value": "acme", "effect": "NoSchedule"});
    assert_eq!(spec["tolerations"], json!([taint]));
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        let kinds: Vec<_> = volume.as_object().unwrap().keys().filter(|key| *key != "name").collect();
        assert!(kinds == ["persistentVolumeClaim"] || kinds == ["emptyDir"], "{volume}");
    }
    let containers = spec["containers"].as_array().unwrap();
    assert_eq!(containers.len(), 1);
    let (container, context) = (&containers[0], &containers[0]["securityContext"]);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert!(context["privileged"].is_null() && context["capabilities"]["add"].is_null(), "{context}");
    if restricted {
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true);
        assert_ne!(spec["securityContext"]["runAsUser"], 0);
    }
    for resource in ["cpu", "memory"] {
        let limit = &container["resources"]["limits"][resource];
        assert!(limit.is_string() && limit != "0" && limit != "0m", "{resource}: {limit}");
    }
    // Of two variables with one name the last one counts: Crofter's own.
    let last =
        container["env"].as_array().unwrap().iter().rfind(|variable| variable["name"] == "CROFTER_TENANT");
    assert_eq!(last.unwrap()["value"], "acme");
}

proptest! {
    #![proptest_config(ProptestConfig { max_global_rejects: u32::MAX, ..ProptestConfig::default() })]

    #[test]
    fn fuzz_a_job_of_any_spec_is_reconciled_to_a_safe_pod_or_none(spec in spec(), tenant in tenant()) {
        fuzz::run(async {
            let mut bench = bench(admitted());
            bench.tenant(tenant.clone());
            // A merge takes fields away that are null.
            bench.job(json!({}), spec, json!({}));
            // What is no Job is for another part of the controller (`invalid`).
            if serde_json::from_value::<Job>(bench.fake.get(JOB)).is_err() {
                return;
            }
            let (_, calls) = bench.step().await;
            for call in &calls {
                assert!(!call.path.starts_with("/api/v1/") || call.path.starts_with(PODS), "{call:?}");
            }
            let pods = calls.iter().filter(|call| call.method == http::Method::POST && call.path == PODS);
            for pod in pods {
                is_safe(&pod.body, tenant["podSecurity"] == "Restricted");
            }
        });
    }

    #[test]
    fn fuzz_a_job_of_any_status_is_reconciled(
        status in fuzz::like(json!({
            "observedGeneration": 1, "phase": "Running", "reason": "Running", "attempt": 1, "retries": 0,
            "pod": "render-j1-1", "node": "n1", "startedAt": START, "finishedAt": START, "exitCode": 1,
            "message": "m", "retryAt": START, "ranSeconds": 5, "attempts": [],
        })),
        metadata in fuzz::like(json!({
            "annotations": {"crofter.io/paused": "true", "crofter.io/stop-requested": "now"},
            "finalizers": ["crofter.io/accounted"], "deletionTimestamp": START, "generation": 7,
        })),
    ) {
        fuzz::run(async {
            let bench = bench(admitted());
            bench.job(metadata, json!({}), status);
            if serde_json::from_value::<Job>(bench.fake.get(JOB)).is_ok() {
                let _ = bench.step().await;
            }
        });
    }
}
