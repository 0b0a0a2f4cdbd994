//! Invalid objects in etcd: their status reports them, they recover, and they stop no other object.

use crofter::api_types::{Job, JobPhase, Tenant};
use crofter_test_cluster::wait;
use k8s_openapi::{
    api::core::v1::Pod, apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, CustomResourceExt, ResourceExt,
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    API_FAULTS,
    common::{FINALIZER_WAIT_TIMEOUT, Verbs, WAIT_TIMEOUT, phase},
    history::check_completed_once,
};

/// Lets objects of a kind be stored in any form.
async fn loosen<K: CustomResourceExt>(verbs: &Verbs<'_>) -> CustomResourceDefinition {
    let strict = verbs.all::<CustomResourceDefinition>().get(K::crd_name()).await.unwrap();
    let any = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let mut loose = strict.clone();
    let version = &mut loose.spec.versions[0];
    version.selectable_fields = None;
    version.schema.as_mut().unwrap().open_api_v3_schema = Some(serde_json::from_value(any).unwrap());
    replace(verbs, loose).await;
    strict
}

async fn replace(verbs: &Verbs<'_>, mut crd: CustomResourceDefinition) {
    let api = verbs.all::<CustomResourceDefinition>();
    crd.metadata.resource_version = api.get(&crd.name_any()).await.unwrap().resource_version();
    api.replace(&crd.name_any(), &PostParams::default(), &crd).await.unwrap();
}

fn raw<K: kube::Resource<DynamicType = ()>>(
    verbs: &Verbs<'_>,
    namespace: Option<&str>,
) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<K>(&());
    match namespace {
        Some(namespace) => Api::namespaced_with(verbs.client.clone(), namespace, &resource),
        None => Api::all_with(verbs.client.clone(), &resource),
    }
}

/// The API server applies the loose schema some moments after the CRD was changed.
async fn stored<T, E: std::fmt::Debug>(store: impl AsyncFn() -> Result<T, E>) -> T {
    wait::until(WAIT_TIMEOUT, "the loose schema", || store()).await.unwrap()
}

/// Waits until an object's status reports that it is invalid, and returns its conditions by type.
async fn until_invalid(api: &Api<DynamicObject>, name: &str) -> Vec<String> {
    wait::until(WAIT_TIMEOUT, &format!("{name} to be Stalled/InvalidObject"), || async {
        let object = api.get(name).await.unwrap();
        let all = object.data.pointer("/status/conditions").and_then(Value::as_array).cloned();
        let all = all.unwrap_or_default();
        let stalled = all.iter().find(|c| c["type"] == "Stalled" && c["reason"] == "InvalidObject");
        match stalled {
            Some(_) => Ok(all.iter().map(|c| c["type"].as_str().unwrap().to_owned()).collect()),
            None => Err(object.data),
        }
    })
    .await
    .unwrap()
}

fn kinds(job: &Job) -> Vec<&str> {
    job.status.iter().flat_map(|s| &s.conditions).map(|c| c.type_.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn invalid_objects_are_reported_and_stop_no_others() {
    let (world, _exclusive) = API_FAULTS.take().await;
    let verbs = world.verbs().await;
    world.start_operator();
    verbs.tenant("mixed", json!({"plan": "basic"})).await;
    verbs.worker("mixed-1", "mixed", "4").await;
    verbs.job("mixed", "over", json!({})).await;
    verbs.job("mixed", "ends", json!({"parameters": {"run-seconds": "30"}})).await;
    verbs.job("mixed", "runs", json!({"parameters": {"run-seconds": "forever"}})).await;
    check_completed_once(&verbs.until_phase("mixed", "over", JobPhase::Completed).await);
    verbs.until_phase("mixed", "ends", JobPhase::Running).await;
    let running = verbs.until_phase("mixed", "runs", JobPhase::Running).await;

    let strict = [loosen::<Tenant>(&verbs).await, loosen::<Job>(&verbs).await];
    let (tenants, jobs) = (raw::<Tenant>(&verbs, None), raw::<Job>(&verbs, Some("tenant-mixed")));
    let tenant = json!({"apiVersion": "crofter.io/v1alpha1", "kind": "Tenant",
        "metadata": {"name": "garbled"}, "spec": {"plan": "basic", "quotas": "lots"}});
    stored(async || verbs.create(&tenants, &tenant).await).await;
    let job = json!({"apiVersion": "crofter.io/v1alpha1", "kind": "Job",
        "metadata": {"name": "fresh"}, "spec": {"image": "crofter.test/busybox:1", "queue": "express"}});
    stored(async || verbs.create(&jobs, &job).await).await;
    let spoil = |name: &'static str, status: Value| {
        let jobs = &jobs;
        async move {
            let patch = Patch::Merge(json!({"status": status}));
            stored(async || jobs.patch_status(name, &PatchParams::default(), &patch).await).await;
        }
    };
    spoil("over", json!({"exitCode": "zero"})).await;
    spoil("ends", json!({"attempt": "one"})).await;
    spoil("runs", json!({"attempt": "one", "phase": "Sleeping"})).await;
    for crd in strict {
        replace(&verbs, crd).await;
    }

    until_invalid(&tenants, "garbled").await;
    assert_eq!(until_invalid(&jobs, "fresh").await, ["Stalled"]);
    let over = until_invalid(&jobs, "over").await;
    assert_eq!(over, ["Stalled", "Finished", "Complete"], "how it ended stays to be seen");
    assert_eq!(until_invalid(&jobs, "ends").await, ["Stalled"]);
    assert_eq!(until_invalid(&jobs, "runs").await, ["Stalled"]);
    let fresh = jobs.get("fresh").await.unwrap().data;
    let said = fresh.pointer("/status/message").and_then(Value::as_str).unwrap_or_default();
    assert!(said.contains("express") && said.contains("live"), "{said}");
    assert_eq!(fresh.pointer("/status/reason"), Some(&json!("InvalidObject")));

    // Nor after a restart, when nothing earlier is known of them.
    world.kill_operator();
    world.start_operator();
    verbs.tenant("bystander", json!({"plan": "basic"})).await;
    verbs.worker("bystander-1", "bystander", "2").await;
    for tenant in ["bystander", "mixed"] {
        verbs.job(tenant, "next", json!({})).await;
        check_completed_once(&verbs.until_phase(tenant, "next", JobPhase::Completed).await);
    }
    held_until_recorded(&verbs).await;

    let mend = async |name: &str, patch: Value| {
        jobs.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    };
    mend("over", json!({"status": {"exitCode": 0}})).await;
    mend("ends", json!({"status": {"attempt": 1}})).await;
    mend("runs", json!({"status": {"attempt": 1, "phase": "Running"}})).await;
    let patch = Patch::Merge(json!({"spec": {"queue": "default"}}));
    jobs.patch("fresh", &PatchParams::default(), &patch).await.unwrap();
    let patch = Patch::Merge(json!({"spec": {"quotas": {}}}));
    tenants.patch("garbled", &PatchParams::default(), &patch).await.unwrap();

    verbs
        .until_tenant("garbled", "Ready", |t| crate::common::condition(t, "Ready").as_deref() == Some("True"))
        .await;
    check_completed_once(&verbs.until_phase("mixed", "fresh", JobPhase::Completed).await);
    check_completed_once(&verbs.until_phase("mixed", "ends", JobPhase::Completed).await);
    let complete = |job: &Job| kinds(job) == ["Finished", "Complete"];
    let over = verbs.until_job("mixed", "over", "Complete", complete).await;
    check_completed_once(&over);
    let runs = verbs.until_job("mixed", "runs", "Reconciling", |job| kinds(job) == ["Reconciling"]).await;
    let status = runs.status.clone().unwrap();
    assert_eq!((phase(&runs), status.reason.as_deref()), (JobPhase::Running, Some("Running")));
    assert_eq!(status.pod, running.status.unwrap().pod, "the same pod still");
    verbs.patch_job("mixed", "runs", json!({"spec": {"canceled": true}})).await.unwrap();
    verbs.until_phase("mixed", "runs", JobPhase::Canceled).await;
}

/// The pod of an invalid job has ended and keeps its finalizer: its end is not recorded.
async fn held_until_recorded(verbs: &Verbs<'_>) {
    let pod = wait::until(WAIT_TIMEOUT, "the pod to end", || async {
        let pods = verbs.within::<Pod>("tenant-mixed").list(&ListParams::default()).await.unwrap().items;
        let pod = pods.into_iter().find(|pod| pod.name_any().starts_with("ends-")).unwrap();
        let phase = pod.status.as_ref().and_then(|status| status.phase.clone());
        if phase.as_deref() == Some("Succeeded") { Ok(pod) } else { Err(phase) }
    })
    .await
    .unwrap();
    // The finalizer of another job's pod that ended later is removed: the operator reconciles pods.
    verbs.job("mixed", "later", json!({})).await;
    let later = verbs.until_phase("mixed", "later", JobPhase::Completed).await.status.unwrap().pod.unwrap();
    let api = verbs.within::<Pod>("tenant-mixed");
    wait::until(FINALIZER_WAIT_TIMEOUT, "the later pod's finalizer to be removed", || async {
        let finalizers = api.get(&later).await.unwrap().metadata.finalizers;
        if finalizers.is_none() { Ok(()) } else { Err(finalizers) }
    })
    .await
    .unwrap();
    let pod = api.get(&pod.name_any()).await.unwrap();
    assert_eq!(pod.finalizers(), ["crofter.io/accounted"]);
}
