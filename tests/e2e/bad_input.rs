//! Bad input: a clear error at admission, or a condition with a reason; nothing else is disturbed.

use crofter::api_types::{JobPhase, Tenant};
use crofter_test_cluster::wait;
use k8s_openapi::api::{
    admissionregistration::v1::ValidatingWebhookConfiguration,
    core::v1::{Event, Namespace},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Map, json};

use crate::{
    common::{PATIENCE, condition_reason, reason, refusal},
    world,
};

#[tokio::test]
async fn what_the_schema_refuses_is_named() {
    let verbs = world().verbs().await;
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
    verbs.tenant("strict", json!({})).await;
    for (spec, words) in [
        (json!({"resources": {"cpu": "lots"}}), "spec.resources.cpu"),
        (json!({"resources": {"memory": "-1Gi"}}), "must be a quantity of 0 or more"),
        (json!({"image": null}), "give an image, or a scenario"),
        (json!({"scenario": "Train"}), "spec.scenario"),
        (json!({"resources": {"gpus": -1}}), "spec.resources.gpus"),
        (json!({"queue": "express"}), "spec.queue"),
        (json!({"env": [{"name": "CROFTER_JOB", "value": "x"}]}), "CROFTER_ are Crofter's own"),
        (json!({"parameters": {"no spaces": "x"}}), "a parameter's name"),
        (json!({"volumes": [{"name": "v", "mountPath": "/v"}]}), "give either claim or scratch"),
        (json!({"timeoutSeconds": 0}), "spec.timeoutSeconds"),
        (
            json!({"parameters": {"frame-no": "1", "other": "2", "FRAME.no": "3"}}),
            "would be one environment variable",
        ),
    ] {
        let said = refusal(verbs.new_job("tenant-strict", "bad", spec.clone()).await);
        assert!(said.contains(words), "{spec}: {said}");
    }
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
    assert!(said.contains("the parameters have more than 131000 characters as JSON"), "{said}");
    verbs.new_job("tenant-wordy", "large", parameters(31, &"x".repeat(4096))).await.unwrap();
    // As many and as long names as there may be: the API server bounds what a rule may cost.
    let names = (0..64).map(|n| (format!("p{n:02}{}", "-x".repeat(30)), json!("x")));
    let many = json!({"parameters": names.collect::<Map<_, _>>()});
    verbs.new_job("tenant-wordy", "many", many).await.unwrap();
}

/// A pod admission webhook that is down: no place is held, and status and Event say what the job waits for.
#[tokio::test]
async fn a_job_whose_pod_a_dead_webhook_refuses_waits_and_says_so() {
    let verbs = world().verbs().await;
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
    verbs.job("hooked", "j", json!({})).await;
    let waiting = verbs.until_reason("hooked", "j", "PodRefused").await;
    let status = waiting.status.clone().unwrap();
    assert_eq!((status.phase, status.attempt, status.retries), (JobPhase::Queued, 0, 0));
    assert!(status.message.unwrap().contains("failed calling webhook \"down.example.com\""));
    let events = verbs.within::<Event>("tenant-hooked");
    wait::until(PATIENCE, "the Event", || async {
        let all = events.list(&ListParams::default()).await.unwrap().items;
        let published = all.iter().any(|event| event.reason.as_deref() == Some("PodRefused"));
        if published { Ok(()) } else { Err(all) }
    })
    .await
    .unwrap();
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
    assert!(said.contains("can't be edited once submitted"), "{said}");
    verbs.worker("fixed-1", "fixed", "2").await;
    verbs.until_phase("fixed", "j", JobPhase::Running).await;
    let said = refusal(verbs.patch_job("fixed", "j", json!({"spec": {"queue": "live"}})).await);
    assert!(said.contains("only while the job is queued"), "{said}");
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
    // The conflict ends when the namespace goes; until then nobody else was disturbed.
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
    let said =
        tenant.status.unwrap().conditions.iter().find(|c| c.type_ == "Stalled").unwrap().message.clone();
    assert!(said.contains("platinum") && said.contains("basic") && said.contains("enterprise"), "{said}");
    verbs.patch_tenant("planless", json!({"spec": {"plan": "free"}})).await.unwrap();
    verbs
        .until_tenant("planless", "Ready", |t| {
            crate::common::condition(t, "Ready").as_deref() == Some("True")
        })
        .await;
}

#[tokio::test]
async fn ten_thousand_labels_disturb_nobody() {
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
