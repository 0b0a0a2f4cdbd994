//! The second wall behind the operator's own code: whatever a tenant submits, every pod that the operator makes of it is
//! admitted by the policy on job pods and by Pod Security.

use std::{collections::BTreeSet, fs, time::Duration};

use crofter::{
    api_types::{Job, JobPhase, Tenant},
    names,
};
use crofter_test_cluster::{NodeSpec, wait};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::{Map, Value, json};

use super::{HOME, Installed, RELEASE};

/// Jobs that are submitted; the CRD refuses some of them.
const JOBS: usize = 250;
/// How long the tenant, and all pods, may take.
const TIMEOUT: Duration = Duration::from_secs(180);

/// Values for each field of a spec: what is usual, what is at a bound, and what leads elsewhere where it is taken at its word.
fn fields() -> Vec<(&'static str, Vec<Value>)> {
    let volume = |name: &str, more: Value| {
        let mut volume = json!({"name": name, "mountPath": format!("/{name}")});
        volume.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        volume
    };
    let parameters = |name: &str, value: &str| json!({name: value});
    vec![
        (
            "image",
            vec![
                json!("busybox:1"),
                json!("a"),
                json!("[::1]:5000/x@sha256:0"),
                json!("x".repeat(1024)),
                json!("../x"),
            ],
        ),
        (
            "command",
            vec![json!([]), json!(["sh", "-c", "$(CROFTER_TENANT) $$(A)"]), json!([""]), json!(["\u{202e}"])],
        ),
        ("args", vec![json!([]), json!(vec!["x"; 256]), json!(["--privileged", "hostNetwork: true"])]),
        ("workingDir", vec![json!("/"), json!("/a/../../etc"), json!("/proc/1/root")]),
        (
            "env",
            vec![
                json!([{"name": "NVIDIA_DRIVER_CAPABILITIES", "value": "all"}, {"name": "LD_PRELOAD", "value": "/x"}]),
                json!([{"name": "A", "secretKeyRef": {"name": "s", "key": "k"}}, {"name": "A", "value": "$(A)"}]),
                json!([{"name": "KUBERNETES_SERVICE_HOST", "value": "10.0.0.1"}]),
            ],
        ),
        (
            "envFrom",
            vec![json!([{"secret": "s"}, {"configMap": "c"}]), json!([{"secret": "crofter-key-ci"}])],
        ),
        (
            "parameters",
            vec![
                parameters("a", "$(CROFTER_JOB)"),
                parameters("serviceAccountName", "default"),
                parameters("x-y.z", "\n"),
            ],
        ),
        ("runAsUser", vec![json!(1), json!(65_532), json!(2_147_483_647)]),
        ("imagePullSecrets", vec![json!(["pull"]), json!(["a", "b", "c"])]),
        (
            "volumes",
            vec![
                json!([volume("v", json!({"claim": "c"}))]),
                json!([
                    volume("s", json!({"scratch": "1Gi"})),
                    volume("t", json!({"scratch": "1Mi", "readOnly": true}))
                ]),
                json!([{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount", "scratch": "1Mi"}]),
                json!([{"name": "v", "mountPath": "/../../host", "claim": "c", "readOnly": true}]),
                json!([{"name": "job", "mountPath": "/proc", "scratch": "1Mi"}]),
            ],
        ),
        (
            "resources",
            vec![
                json!({"cpu": "1m", "memory": "16Mi"}),
                json!({"cpu": "100m", "memory": "64Mi", "ephemeralStorage": "1Mi", "bandwidthMbps": 1}),
                json!({"cpu": "0.001", "memory": 16_777_216, "gpus": 0}),
            ],
        ),
        ("timeoutSeconds", vec![json!(1), json!(600), json!(31_536_000)]),
        ("maxRetries", vec![json!(0), json!(100)]),
        ("retryPolicy", vec![json!("Always"), json!("Infrastructure")]),
        ("queue", vec![json!("live"), json!("batch")]),
        ("priority", vec![json!("high"), json!("low")]),
        ("ttlSecondsAfterFinished", vec![json!(31_536_000)]),
        ("pool", vec![json!("shared")]),
    ]
}

/// A spec of some of the fields.
fn spec(random: &mut fastrand::Rng) -> Value {
    let mut spec = Map::from_iter([("image".to_owned(), json!("busybox:1"))]);
    for (name, values) in fields() {
        if random.u8(..) < 100 {
            spec.insert(name.to_owned(), values[random.usize(..values.len())].clone());
        }
    }
    spec.entry("resources").or_insert_with(|| json!({"cpu": "1m", "memory": "16Mi"}));
    spec.into()
}

#[tokio::test]
async fn of_no_job_does_the_operator_make_a_pod_that_its_own_walls_refuse() {
    let installed = Installed::with_audit_log().await;
    let cluster = &installed.cluster;
    let (client, _report) = cluster.client_with_report().await.unwrap();
    for (node, label, value) in [("w1", names::NODE_TENANT, "any"), ("w2", names::NODE_POOL, "shared")] {
        cluster.add_node(&NodeSpec::new(node).label(label, value)).await.unwrap();
    }
    let unlimited =
        ["maxJobs", "maxCpuCores", "maxMemoryGb", "maxJobsPerHour", "maxBandwidthMbps", "maxQueuedJobs"];
    let quotas: Map<String, Value> =
        unlimited.into_iter().map(|quota| (quota.to_owned(), json!(-1))).collect();
    let tenant: Tenant = serde_json::from_value(json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "any"},
        "spec": {"plan": "pro", "quotas": quotas, "sharedPools": ["shared"]},
    }))
    .unwrap();
    let tenants: Api<Tenant> = Api::all(client.clone());
    tenants.create(&PostParams::default(), &tenant).await.unwrap();
    wait::until(TIMEOUT, "the tenant to be ready", async || {
        let status = tenants.get("any").await.unwrap().status.unwrap_or_default();
        let is_ready = status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        if is_ready { Ok(()) } else { Err(status) }
    })
    .await
    .unwrap();

    // Jobs of any spec that the CRD admits, from a seed that a failure prints.
    let seed = fastrand::u64(..);
    eprintln!("the specs are those of seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let jobs: Api<Job> = Api::namespaced(client.clone(), "tenant-any");
    let mut admitted = BTreeSet::new();
    for n in 0..JOBS {
        let name = format!("job-{n}");
        let job = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": {"name": name}, "spec": spec(&mut random),
        });
        let job: Job = serde_json::from_value(job).unwrap();
        match jobs.create(&PostParams::default(), &job).await {
            Ok(_) => drop(admitted.insert(name)),
            Err(kube::Error::Api(status)) => assert_eq!(status.code, 422, "{status}"),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(admitted.len() > JOBS / 4, "the CRD admitted {} of {JOBS}", admitted.len());

    // Each has had a pod, or has ended without one; none because a wall refused it.
    let pods: Api<Pod> = Api::namespaced(client, "tenant-any");
    let seen = wait::until(TIMEOUT, "a pod of every job", async || {
        let all = ListParams::default();
        let with_pod: BTreeSet<String> = pods
            .list_metadata(&all)
            .await
            .unwrap()
            .items
            .into_iter()
            .filter_map(|pod| pod.labels().get(names::LABEL_JOB).cloned())
            .collect();
        let jobs = jobs.list(&all).await.unwrap().items;
        let without: Vec<_> = jobs
            .into_iter()
            .filter(|job| !with_pod.contains(&job.name_any()))
            .filter(|job| job.status.as_ref().is_none_or(|status| status.attempt == 0))
            .map(|job| {
                (job.name_any(), job.status.map(|status| (status.phase, status.reason, status.message)))
            })
            .collect();
        let waits = without.iter().any(|(_, status)| {
            status.as_ref().is_none_or(|(phase, ..)| !matches!(phase, JobPhase::Rejected))
        });
        if waits { Err(without) } else { Ok(without) }
    })
    .await
    .unwrap();
    assert!(seen.is_empty(), "rejected: {seen:?}");
    let log = fs::read_to_string(cluster.audit_log().unwrap()).unwrap();
    let user = format!("system:serviceaccount:{HOME}:{RELEASE}");
    let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let made = |event: &Value| {
        event["user"]["username"] == user.as_str()
            && event["verb"] == "create"
            && event["objectRef"]["resource"] == "pods"
    };
    let refused: Vec<_> = events
        .filter(made)
        .map(|event| event["responseStatus"].clone())
        .filter(|status| status["code"] == 403)
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
}
