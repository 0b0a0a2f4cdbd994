//! Bad input: a clear error at admission, or a condition with a reason; nothing else is disturbed.

use crofter::api_types::{Job, JobPhase, Tenant, TenantApiKey};
use crofter_test_cluster::wait;
use k8s_openapi::api::{
    admissionregistration::v1::ValidatingWebhookConfiguration,
    core::v1::{Event, Namespace},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Map, Value, json};

use crate::{
    common::{Verbs, WAIT_TIMEOUT, condition_reason, reason, refusal},
    world,
};

#[tokio::test]
async fn what_the_schema_refuses_is_named() {
    let verbs = world().verbs().await;
    // Bad tenants.
    for (name, spec, words) in [
        ("neg", json!({"quotas": {"maxJobs": -2}}), "spec.quotas.maxJobs"),
        ("neg", json!({"plan": "Not A Plan"}), "spec.plan"),
        (
            "neg",
            json!({"access": [{"kind": "ServiceAccount", "name": "x", "role": "viewer"}]}),
            "namespace is given for a ServiceAccount",
        ),
        ("neg", json!({"expiresAt": "tomorrow"}), "spec.expiresAt"),
        ("dotted.name", json!({}), "at most 40 characters"),
        (&"x".repeat(41), json!({}), "at most 40 characters"),
    ] {
        let said = refusal(verbs.new_tenant(name, spec.clone()).await);
        assert!(said.contains(words), "{name} {spec}: {said}");
    }
    // Bad jobs.
    verbs.tenant("strict", json!({})).await;
    for (spec, words) in [
        (json!({"resources": {"cpu": "lots"}}), "spec.resources.cpu"),
        (json!({"resources": {"memory": "-1Gi"}}), "spec.resources.memory"),
        (json!({"image": null}), "give an image, or a scenario"),
        (json!({"scenario": "Train"}), "spec.scenario"),
        (json!({"resources": {"gpus": -1}}), "spec.resources.gpus"),
        (json!({"queue": "express"}), "spec.queue"),
        (json!({"env": [{"name": "CROFTER_JOB", "value": "x"}]}), "CROFTER_ are Crofter's own"),
        (
            json!({"env": [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]}),
            "NVIDIA_VISIBLE_DEVICES is set by the node, for the GPUs of spec.resources.gpus",
        ),
        (
            json!({"env": [{"name": "AMD_VISIBLE_DEVICES", "value": "0"}]}),
            "AMD_VISIBLE_DEVICES is set by the node",
        ),
        (json!({"parameters": {"no spaces": "x"}}), "a parameter's name"),
        (json!({"volumes": [{"name": "v", "mountPath": "/v"}]}), "give either claim or scratch"),
        (json!({"timeoutSeconds": 0}), "spec.timeoutSeconds"),
    ] {
        let said = refusal(verbs.new_job("tenant-strict", "bad", spec.clone()).await);
        assert!(said.contains(words), "{spec}: {said}");
    }
}

/// To a kubelet a limit of zero is none, and a container needs some memory.
#[tokio::test]
async fn a_job_that_asks_for_next_to_nothing_is_refused_with_the_least() {
    let verbs = world().verbs().await;
    let (cpu, memory, disk) = ("give 1m to 100k", "give 16Mi to 1Pi", "give 1Mi to 1Pi");
    for (field, value, least) in [
        ("cpu", json!(0), cpu),
        ("cpu", json!("0.1m"), cpu),
        ("cpu", json!("1e-400"), cpu),
        ("memory", json!("0"), memory),
        ("memory", json!("512m"), memory),
        ("memory", json!("9999999Ei"), memory),
        ("ephemeralStorage", json!(0), disk),
    ] {
        let said = refusal(verbs.new_job("default", "none", json!({"resources": {field: value}})).await);
        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        assert!(said.contains(&format!("spec.resources.{field}")), "{said}");
        assert!(said.contains(&format!("`{shown}` is not allowed: {least}")), "{said}");
    }
    let volumes = json!({"volumes": [{"name": "v", "mountPath": "/v", "scratch": "0"}]});
    let said = refusal(verbs.new_job("default", "none", volumes).await);
    assert!(said.contains("spec.volumes[0].scratch") && said.contains(disk), "{said}");
}

#[tokio::test]
async fn what_no_pod_can_have_is_refused_at_submit() {
    let verbs = world().verbs().await;
    let volume =
        |name: &str, path: &str, claim: &str| json!({"name": name, "mountPath": path, "claim": claim});
    // Jobs whose pod the API server would refuse.
    for (spec, field) in [
        (json!({"image": "busybox\n"}), "spec.image"),
        (json!({"image": "a b"}), "spec.image"),
        (json!({"command": ["a\u{0}b"]}), "spec.command[0]"),
        (json!({"args": ["ok", "a\u{0}b"]}), "spec.args[1]"),
        (json!({"workingDir": "data"}), "spec.workingDir"),
        (json!({"pool": "GPU"}), "spec.pool"),
        (json!({"envFrom": [{"secret": "A B"}]}), "spec.envFrom[0].secret"),
        (json!({"envFrom": [{"configMap": "a..b"}]}), "spec.envFrom[0].configMap"),
        (json!({"env": [{"name": ".."}]}), "spec.env[0].name"),
        (json!({"env": [{"name": "A", "value": "a\u{0}b"}]}), "spec.env[0].value"),
        (
            json!({"env": [{"name": "A", "secretKeyRef": {"name": "A", "key": "k"}}]}),
            "spec.env[0].secretKeyRef.name",
        ),
        (
            json!({"env": [{"name": "A", "configMapKeyRef": {"name": "a", "key": ".."}}]}),
            "spec.env[0].configMapKeyRef.key",
        ),
        (json!({"imagePullSecrets": ["My Secret"]}), "spec.imagePullSecrets[0]"),
        (json!({"imagePullSecrets": ["a\n"]}), "spec.imagePullSecrets[0]"),
        (json!({"imagePullSecrets": ["../../x"]}), "spec.imagePullSecrets[0]"),
        (json!({"envFrom": [{"secret": "a/b"}]}), "spec.envFrom[0].secret"),
        (json!({"envFrom": [{"secret": "a\u{0}b"}]}), "spec.envFrom[0].secret"),
        (json!({"volumes": [volume("v", "/v", "../../x")]}), "spec.volumes[0].claim"),
        (json!({"volumes": [volume("v", "/v", "a/b")]}), "spec.volumes[0].claim"),
        (json!({"volumes": [volume("v", "/v", "a\n")]}), "spec.volumes[0].claim"),
        (json!({"volumes": [volume("v", "/v", "Not A Claim")]}), "spec.volumes[0].claim"),
        (json!({"volumes": [volume("v", "/", "c")]}), "spec.volumes[0].mountPath"),
        (json!({"volumes": [volume("v", "/a:b", "c")]}), "spec.volumes[0].mountPath"),
        (json!({"volumes": [volume("v", "/a", "c"), volume("v", "/b", "c")]}), "spec.volumes[1]"),
        (
            json!({"volumes": [volume("v", "/a", "c"), volume("w", "/a", "c")]}),
            "two volumes have one mountPath",
        ),
        (json!({"parameters": {"a": "a\u{0}b"}}), "spec.parameters.a"),
    ] {
        let said = refusal(verbs.new_job("default", "bad", spec.clone()).await);
        assert!(said.contains(field), "{spec}: {said}");
    }
    // A key whose Secret it would refuse.
    let said = refusal(make_key(&verbs, json!({"secretName": "crofter-key-a..b"})).await);
    assert!(said.contains("spec.secretName"), "{said}");
    // Tenants whose RoleBinding it would refuse.
    for access in [
        json!({"kind": "ServiceAccount", "name": "A B", "namespace": "build", "role": "viewer"}),
        json!({"kind": "ServiceAccount", "name": "ci", "namespace": "B", "role": "viewer"}),
    ] {
        let said = refusal(verbs.new_tenant("badly", json!({"access": [access]})).await);
        assert!(said.contains("spec.access[0]"), "{said}");
    }
}

async fn make_key(verbs: &Verbs<'_>, spec: Value) -> Result<TenantApiKey, kube::Error> {
    let key = json!({"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": {"name": "k"}, "spec": spec});
    verbs.create(&verbs.within::<TenantApiKey>("default"), &key).await
}

/// Whoever may submit jobs is not whoever may read keys.
#[tokio::test]
async fn no_job_can_refer_to_the_secret_of_an_api_key() {
    let verbs = world().verbs().await;
    for spec in [
        json!({"envFrom": [{"secret": "crofter-key-ci"}]}),
        json!({"env": [{"name": "A", "secretKeyRef": {"name": "crofter-key-ci", "key": "token"}}]}),
        json!({"imagePullSecrets": ["crofter-key-ci"]}),
    ] {
        let said = refusal(verbs.new_job("default", "thief", spec).await);
        assert!(said.contains("hold API keys: a job can't refer to them"), "{said}");
    }
    let maps = json!({"envFrom": [{"configMap": "crofter-key-ci"}]});
    verbs.new_job("default", "crofter-key-map", maps).await.unwrap();
    for other in ["ci", "crofter-keys", "database"] {
        let said = refusal(make_key(&verbs, json!({"secretName": other})).await);
        assert!(said.contains("begins with crofter-key-"), "{said}");
    }
}

#[tokio::test]
async fn a_spec_is_refused_beyond_64_kib_with_its_bytes() {
    let verbs = world().verbs().await;
    let bytes = |args: Vec<String>| json!({"args": args, "image": "i"});
    let said = refusal(verbs.new_job("default", "large", bytes(vec!["x".repeat(4200); 178])).await);
    assert!(said.contains("the texts of the spec have 747601 bytes in all: give at most 65536"), "{said}");
    let two_bytes_each = bytes(vec!["ä".repeat(32_768)]);
    let said = refusal(verbs.new_job("default", "large", two_bytes_each).await);
    assert!(said.contains("have 65537 bytes"), "{said}");
    verbs.new_job("default", "just-fits", bytes(vec!["x".repeat(32_767), "x".repeat(32_768)])).await.unwrap();
    let parameters: Map<_, _> = (0..16).map(|n| (format!("p{n}"), json!("x".repeat(4096)))).collect();
    let said = refusal(verbs.new_job("default", "large", json!({"parameters": parameters})).await);
    assert!(said.contains("bytes in all"), "{said}");
    let env: Vec<_> = (0..3).map(|n| json!({"name": format!("E{n}"), "value": "x".repeat(32_000)})).collect();
    let said = refusal(verbs.new_job("default", "large", json!({"env": env})).await);
    assert!(said.contains("bytes in all"), "{said}");
}

/// The same job applied again, written otherwise, is no edit.
#[tokio::test]
async fn a_job_of_equal_meaning_is_no_edit() {
    let verbs = world().verbs().await;
    let jobs = verbs.within::<Job>("default");
    let volumes = |scratch: &str| json!([{"name": "a", "mountPath": "/a", "claim": "c"}, {"name": "b", "mountPath": "/b", "scratch": scratch}]);
    let spec = json!({
        "resources": {"cpu": "1", "memory": "1Gi", "ephemeralStorage": "2Gi"}, "volumes": volumes("1Gi"), "args": ["x"],
    });
    verbs.new_job("default", "equal", spec).await.unwrap();
    let patch = async |spec: Value| {
        let patch = Patch::Merge(json!({"spec": spec}));
        jobs.patch("equal", &PatchParams::default(), &patch).await
    };
    let mut turned = volumes("1024Mi");
    turned.as_array_mut().unwrap().reverse();
    for same in [
        json!({"resources": {"cpu": 1}}),
        json!({"resources": {"cpu": "1000m", "memory": "1024Mi", "ephemeralStorage": 2_147_483_648_u64}}),
        json!({"resources": {"gpus": 0, "bandwidthMbps": 0}}),
        json!({"resources": {"gpus": null, "cpu": null}}),
        json!({"resources": {"cpu": "1"}}),
        json!({"command": [], "env": [], "envFrom": [], "imagePullSecrets": [], "parameters": {}}),
        json!({"command": null, "env": null}),
        json!({"volumes": volumes("1073741824")}),
        json!({"volumes": turned}),
        json!({"canceled": false, "maxRetries": 3}),
    ] {
        patch(same.clone()).await.unwrap_or_else(|error| panic!("{same}: {error}"));
    }
    for (other, field) in [
        (json!({"resources": {"cpu": "1001m"}}), "spec.resources.cpu"),
        (json!({"resources": {"memory": null}}), "spec.resources.memory"),
        (json!({"resources": {"gpus": 1}}), "spec.resources.gpus"),
        (json!({"resources": {"ephemeralStorage": null}}), "spec.resources.ephemeralStorage"),
        (json!({"resources": {"bandwidthMbps": 1}}), "spec.resources.bandwidthMbps"),
        (json!({"image": "other"}), "spec.image"),
        (json!({"command": ["c"]}), "spec.command"),
        (json!({"args": []}), "spec.args"),
        (json!({"workingDir": "/w"}), "spec.workingDir"),
        (json!({"env": [{"name": "A"}]}), "spec.env"),
        (json!({"envFrom": [{"secret": "s"}]}), "spec.envFrom"),
        (json!({"parameters": {"a": "b"}}), "spec.parameters"),
        (json!({"scenario": "s"}), "spec.scenario"),
        (json!({"runAsUser": 0}), "spec.runAsUser"),
        (json!({"volumes": volumes("2Gi")}), "spec.volumes"),
        (json!({"volumes": []}), "spec.volumes"),
        (json!({"imagePullSecrets": ["s"]}), "spec.imagePullSecrets"),
        (json!({"timeoutSeconds": 1}), "spec.timeoutSeconds"),
        (json!({"maxRetries": 4}), "spec.maxRetries"),
        (json!({"retryPolicy": "Always"}), "spec.retryPolicy"),
        (json!({"pool": "p"}), "spec.pool"),
        (json!({"onQuota": "Reject"}), "spec.onQuota"),
        (json!({"ttlSecondsAfterFinished": 1}), "spec.ttlSecondsAfterFinished"),
    ] {
        let said = refusal(patch(other.clone()).await);
        assert!(said.contains(&format!("{field}: ")), "{other}: {said}");
        assert!(said.contains(&format!("{field} can't change once the job is submitted")), "{other}: {said}");
    }
    // What a scenario would give is not the same as nothing.
    let spec = json!({"scenario": "s", "resources": null});
    verbs.new_job("default", "of-a-scenario", spec).await.unwrap();
    let patch = Patch::Merge(json!({"spec": {"resources": {"gpus": 0}}}));
    let said = refusal(jobs.patch("of-a-scenario", &PatchParams::default(), &patch).await);
    assert!(said.contains("spec.resources.gpus"), "{said}");
}

#[tokio::test]
async fn parameters_that_no_process_can_be_given_are_refused_at_submit() {
    let verbs = world().verbs().await;
    verbs.tenant("wordy", json!({})).await;
    let parameters = |count: usize, value: &str| {
        let all: Map<_, _> = (0..count).map(|n| (format!("p{n:02}"), json!(value))).collect();
        json!({"parameters": all})
    };
    let said = refusal(verbs.new_job("tenant-wordy", "bad", parameters(32, &"x".repeat(4096))).await);
    assert!(said.contains("bytes in all: give at most 65536"), "{said}");
    verbs.new_job("tenant-wordy", "large", parameters(15, &"x".repeat(4096))).await.unwrap();
    // As many and as long names as there may be: the API server bounds what a rule may cost.
    let names = (0..64).map(|n| (format!("p{n:02}{}", "-x".repeat(30)), json!("x")));
    let many = json!({"parameters": names.collect::<Map<_, _>>()});
    verbs.new_job("tenant-wordy", "many", many).await.unwrap();
}

/// The API server visits the entries of a map in any order.
#[tokio::test]
async fn parameters_that_are_one_variable_are_refused_with_both_names() {
    let verbs = world().verbs().await;
    verbs.tenant("collide", json!({})).await;
    let named = async |parameters: Value| {
        let said = refusal(verbs.new_job("tenant-collide", "bad", json!({"parameters": parameters})).await);
        let (_, rest) = said.split_once("parameters [").unwrap_or_else(|| panic!("no names: {said}"));
        let (names, rest) = rest.split_once(']').unwrap();
        assert!(rest.contains("would be one environment variable: rename them"), "{said}");
        let mut names: Vec<String> = names.split(", ").map(|name| name.replace('"', "")).collect();
        names.sort_unstable();
        names
    };
    let two = named(json!({"frame-no": "1", "other": "2", "FRAME.no": "3"})).await;
    assert_eq!(two, ["FRAME.no", "frame-no"]);
    let all = named(json!({"frame-no": "", "frame_no": "", "frame.no": "", "FRAME-NO": ""})).await;
    assert_eq!(all, ["FRAME-NO", "frame-no", "frame.no", "frame_no"]);
    // As many and as long names as there may be, all of them in pairs.
    let of_pair = |n: usize| [format!("p{n:02}{}", "-x".repeat(30)), format!("P{n:02}{}", ".X".repeat(30))];
    let mut most: Vec<String> = (0..32).flat_map(of_pair).collect();
    let parameters: Map<_, _> = most.iter().map(|name| (name.clone(), json!(""))).collect();
    most.sort_unstable();
    assert_eq!(named(json!(parameters)).await, most);
}

/// A pod admission webhook that is down: no quota or node is reserved, and status and Event say what the job waits for.
#[tokio::test]
async fn a_job_whose_pod_a_dead_webhook_refuses_waits_and_says_so() {
    let verbs = world().verbs().await;
    // Given a tenant with a worker, and a webhook for its pods that does not respond.
    verbs.tenant("hooked", json!({"plan": "basic"})).await;
    verbs.worker("hooked-1", "hooked", "2").await;
    let webhook = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "down.example.com"},
        "webhooks": [{
            "name": "down.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"url": "https://127.0.0.1:1/"}, "failurePolicy": "Fail",
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "tenant-hooked"}},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"], "operations": ["CREATE"]}],
        }],
    });
    let webhooks = verbs.all::<ValidatingWebhookConfiguration>();
    verbs.create(&webhooks, &webhook).await.unwrap();
    // When a job is submitted, its status and an Event name the webhook.
    verbs.job("hooked", "j", json!({})).await;
    let waiting = verbs.until_reason("hooked", "j", "PodRefused").await;
    let status = waiting.status.clone().unwrap();
    assert_eq!((status.phase, status.attempt, status.retries), (JobPhase::Queued, 0, 0));
    assert!(status.message.unwrap().contains("failed calling webhook \"down.example.com\""));
    let events = verbs.within::<Event>("tenant-hooked");
    wait::until(WAIT_TIMEOUT, "the Event", || async {
        let all = events.list(&ListParams::default()).await.unwrap().items;
        let published = all.iter().any(|event| event.reason.as_deref() == Some("PodRefused"));
        if published { Ok(()) } else { Err(all) }
    })
    .await
    .unwrap();
    // When the webhook is deleted, the job runs.
    webhooks.delete("down.example.com", &DeleteParams::default()).await.unwrap();
    verbs.until_phase("hooked", "j", JobPhase::Completed).await;
}

#[tokio::test]
async fn a_job_can_not_be_edited_once_submitted() {
    let verbs = world().verbs().await;
    verbs.tenant("fixed", json!({"plan": "basic"})).await;
    verbs.job("fixed", "j", json!({"parameters": {"run-seconds": "forever"}})).await;
    verbs.patch_job("fixed", "j", json!({"spec": {"queue": "batch", "priority": "low"}})).await.unwrap();
    let said = refusal(verbs.patch_job("fixed", "j", json!({"spec": {"image": "other"}})).await);
    assert!(said.contains("spec.image can't change once the job is submitted"), "{said}");
    verbs.worker("fixed-1", "fixed", "2").await;
    verbs.until_phase("fixed", "j", JobPhase::Running).await;
    let said = refusal(verbs.patch_job("fixed", "j", json!({"spec": {"queue": "live"}})).await);
    assert!(said.contains("spec.queue can change only while the job is queued"), "{said}");
    verbs.patch_job("fixed", "j", json!({"spec": {"canceled": true}})).await.unwrap();
    let said = refusal(verbs.patch_job("fixed", "j", json!({"spec": {"canceled": false}})).await);
    assert!(said.contains("stays canceled"), "{said}");
    verbs.until_phase("fixed", "j", JobPhase::Canceled).await;
}

#[tokio::test]
async fn a_foreign_namespace_is_never_taken_over() {
    let verbs = world().verbs().await;
    let taken: Namespace = serde_json::from_value(json!({"metadata": {"name": "tenant-squat"}})).unwrap();
    verbs.all::<Namespace>().create(&PostParams::default(), &taken).await.unwrap();
    verbs.new_tenant("squat", json!({})).await.unwrap();
    let conflict = |t: &Tenant| condition_reason(t, "Stalled").as_deref() == Some("NamespaceConflict");
    verbs.until_tenant("squat", "NamespaceConflict", conflict).await;
    let namespace = verbs.all::<Namespace>().get("tenant-squat").await.unwrap();
    assert!(!namespace.labels().keys().any(|k| k.contains("crofter")), "{:?}", namespace.labels());
    // A job there waits, and says so.
    verbs.new_job("tenant-squat", "lost", json!({})).await.unwrap();
    verbs.until_reason("squat", "lost", "NotATenantNamespace").await;
    // The conflict ends when the namespace is deleted; until then it affects no other tenant.
    verbs.tenant("neighbour", json!({})).await;
    verbs.all::<Namespace>().delete("tenant-squat", &kube::api::DeleteParams::default()).await.unwrap();
    let ready = |t: &Tenant| crate::common::condition(t, "Ready").as_deref() == Some("True");
    verbs.until_tenant("squat", "Ready", ready).await;
}

#[tokio::test]
async fn an_unknown_plan_stalls_with_the_known_names() {
    let verbs = world().verbs().await;
    verbs.new_tenant("planless", json!({"plan": "platinum"})).await.unwrap();
    let stalled = |t: &Tenant| condition_reason(t, "Stalled").as_deref() == Some("UnknownPlan");
    let tenant = verbs.until_tenant("planless", "UnknownPlan", stalled).await;
    let status = tenant.status.unwrap();
    assert_eq!(status.phase.unwrap().to_string(), "Stalled");
    let said = &status.conditions.iter().find(|c| c.type_ == "Stalled").unwrap().message;
    assert!(said.contains("platinum") && said.contains("basic") && said.contains("enterprise"), "{said}");
    verbs.patch_tenant("planless", json!({"spec": {"plan": "free"}})).await.unwrap();
    verbs
        .until_tenant("planless", "Ready", |t| {
            crate::common::condition(t, "Ready").as_deref() == Some("True")
        })
        .await;
}

#[tokio::test]
async fn ten_thousand_labels_affect_no_other_tenant() {
    let verbs = world().verbs().await;
    let labels: Map<_, _> = (0..10_000).map(|n| (format!("label-{n}"), json!("x"))).collect();
    let tenant = json!({"apiVersion": "crofter.io/v1alpha1", "kind": "Tenant",
        "metadata": {"name": "labelled", "labels": labels}, "spec": {}});
    verbs.create(&verbs.all::<Tenant>(), &tenant).await.unwrap();
    let ready = |t: &Tenant| crate::common::condition(t, "Ready").as_deref() == Some("True");
    let tenant = verbs.until_tenant("labelled", "Ready", ready).await;
    assert_eq!(tenant.labels().len(), 10_000);
    let namespace = verbs.all::<Namespace>().get("tenant-labelled").await.unwrap();
    assert!(namespace.labels().len() < 20, "a tenant's own labels are not handed on");
}

#[tokio::test]
async fn a_job_that_no_pod_can_be_made_of_is_rejected() {
    let verbs = world().verbs().await;
    verbs.tenant("picky", json!({"plan": "basic"})).await;
    verbs.worker("picky-1", "picky", "2").await;
    verbs.job("picky", "root", json!({"runAsUser": 0})).await;
    let refused = verbs.until_phase("picky", "root", JobPhase::Rejected).await;
    assert_eq!(reason(&refused), "PodRefused");
    assert!(refused.status.unwrap().message.unwrap().contains("PodSecurity"));
    verbs.job("picky", "fine", json!({})).await;
    verbs.until_phase("picky", "fine", JobPhase::Completed).await;
}
