//! Tenants: what they get, that it stays so, and that nothing is left of them.

use crofter::api_types::{JobPhase, Tenant, tenant::TenantPhase};
use crofter_test_cluster::wait;
use jiff::Timestamp;
use k8s_openapi::api::{
    core::v1::{LimitRange, Namespace, Node, ResourceQuota, ServiceAccount},
    networking::v1::NetworkPolicy,
    rbac::v1::RoleBinding,
};
use kube::{
    Api, Resource, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    common::{Verbs, WAIT_TIMEOUT, condition, condition_reason, namespace},
    world,
};

#[tokio::test]
async fn a_tenant_is_ready_with_all_that_it_owns() {
    let verbs = world().verbs().await;
    // When a tenant with one binding is created and Ready.
    let access = json!([{"kind": "Group", "name": "acme-devs", "role": "developer"}]);
    verbs.new_tenant("whole", json!({"plan": "pro", "access": access})).await.unwrap();
    let said = world()
        .cluster
        .kubectl(["wait", "tenant/whole", "--for=condition=Ready", "--timeout=60s"])
        .await
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));

    // Then its status has phase, namespace, quotas and conditions,
    let tenant = verbs.all::<Tenant>().get("whole").await.unwrap();
    let status = tenant.status.clone().unwrap();
    assert_eq!(status.observed_generation, tenant.metadata.generation.unwrap());
    assert_eq!(
        (status.phase, status.namespace.as_deref()),
        (Some(TenantPhase::Active), Some("tenant-whole"))
    );
    assert_eq!(status.effective_quotas.unwrap().max_cpu_cores, 64);
    assert_eq!(condition(&tenant, "Active").as_deref(), Some("True"));
    assert_eq!((condition(&tenant, "Reconciling"), condition(&tenant, "Stalled")), (None, None));

    // and its namespace has the labels and every child.
    let ns = verbs.all::<Namespace>().get("tenant-whole").await.unwrap();
    assert_eq!(ns.labels()["crofter.io/tenant-uid"], tenant.uid().unwrap());
    assert_eq!(ns.labels()["pod-security.kubernetes.io/enforce"], "restricted");
    let quota: ResourceQuota = verbs.within("tenant-whole").get("crofter").await.unwrap();
    let quota = quota.spec.unwrap().hard.unwrap();
    assert_eq!((quota["requests.cpu"].0.as_str(), quota["pods"].0.as_str()), ("64", "100"));
    let binding = only::<RoleBinding>(&verbs, "whole").await;
    assert_eq!(binding.role_ref.name, "crofter:tenant-developer");
    only::<LimitRange>(&verbs, "whole").await;
    let account: ServiceAccount = verbs.within("tenant-whole").get("crofter-job").await.unwrap();
    assert_eq!(account.automount_service_account_token, Some(false));
    assert!(!owned::<NetworkPolicy>(&verbs, "whole").await.is_empty());
}

async fn owned<K>(verbs: &Verbs<'_>, tenant: &str) -> Vec<K>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let ours = ListParams::default().labels("app.kubernetes.io/managed-by=crofter");
    verbs.within::<K>(&namespace(tenant)).list(&ours).await.unwrap().items
}

async fn only<K>(verbs: &Verbs<'_>, tenant: &str) -> K
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned,
{
    let mut all = owned::<K>(verbs, tenant).await;
    assert_eq!(all.len(), 1, "{} of {tenant}", K::kind(&()));
    all.remove(0)
}

/// Deletes every child of a kind, and spoils every child of it; both are put right.
async fn repaired<K>(verbs: &Verbs<'_>, tenant: &str, spoil: serde_json::Value)
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + serde::Serialize,
{
    let api: Api<K> = verbs.within(&namespace(tenant));
    let plain = |child: &K| {
        let mut json = serde_json::to_value(child).unwrap();
        for field in ["metadata", "status", "secrets"] {
            json.as_object_mut().unwrap().remove(field);
        }
        json
    };
    // The quota of objects, made once those are counted, has no number in common with the other one.
    let all = owned::<K>(verbs, tenant).await.into_iter();
    for child in all.filter(|child| child.name_any() != "crofter-objects") {
        let (name, right) = (child.name_any(), plain(&child));
        api.patch(&name, &PatchParams::default(), &Patch::Merge(&spoil)).await.unwrap();
        let what = format!("{} {name} as it was", K::kind(&()));
        let same = || async {
            let now = api.get_opt(&name).await.unwrap();
            match now {
                Some(now) if plain(&now) == right => Ok(now),
                other => Err(other),
            }
        };
        wait::until(WAIT_TIMEOUT, &what, same).await.unwrap();
        api.delete(&name, &DeleteParams::default()).await.unwrap();
        let again = wait::until(WAIT_TIMEOUT, &what, || async {
            same().await.and_then(|now| if now.uid() == child.uid() { Err(Some(now)) } else { Ok(now) })
        });
        again.await.unwrap();
    }
}

#[tokio::test]
async fn drift_of_every_child_is_repaired() {
    let verbs = world().verbs().await;
    // Given a tenant with a child of each kind.
    let access = json!([{"kind": "User", "name": "eve", "role": "viewer"}]);
    verbs.tenant("drift", json!({"plan": "basic", "access": access})).await;
    // A changed or deleted child is restored,
    repaired::<ResourceQuota>(&verbs, "drift", json!({"spec": {"hard": {"pods": "999"}}})).await;
    repaired::<LimitRange>(
        &verbs,
        "drift",
        json!({"spec": {"limits": [{"type": "Container", "default": {"cpu": "7"}}]}}),
    )
    .await;
    repaired::<RoleBinding>(&verbs, "drift", json!({"subjects": []})).await;
    repaired::<ServiceAccount>(&verbs, "drift", json!({"automountServiceAccountToken": true})).await;
    repaired::<NetworkPolicy>(
        &verbs,
        "drift",
        json!({"spec": {"podSelector": {"matchLabels": {"none": "such"}}}}),
    )
    .await;

    // and so is the namespace's label.
    let namespaces = verbs.all::<Namespace>();
    let spoil = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "privileged"}}});
    namespaces.patch("tenant-drift", &PatchParams::default(), &Patch::Merge(&spoil)).await.unwrap();
    wait::until(WAIT_TIMEOUT, "the namespace's label", || async {
        let now =
            namespaces.get("tenant-drift").await.unwrap().labels()["pod-security.kubernetes.io/enforce"]
                .clone();
        if now == "restricted" { Ok(()) } else { Err(now) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn deletion_leaves_nothing_and_the_next_of_that_name_inherits_nothing() {
    let verbs = world().verbs().await;
    // Given a tenant with a worker, an ended and a running job.
    let first = verbs.tenant("phoenix", json!({"plan": "basic"})).await;
    verbs.worker("phoenix-1", "phoenix", "4").await;
    verbs.job("phoenix", "done", json!({})).await;
    verbs.until_phase("phoenix", "done", JobPhase::Completed).await;
    verbs.job("phoenix", "long", json!({"parameters": {"run-seconds": "forever"}})).await;
    verbs.until_phase("phoenix", "long", JobPhase::Running).await;

    // When it is deleted, its namespace and the node's labels and taints are removed.
    verbs.delete_tenant("phoenix").await;
    assert!(verbs.all::<Namespace>().get_opt("tenant-phoenix").await.unwrap().is_none());
    let node = verbs.all::<Node>().get("phoenix-1").await.unwrap();
    let ours =
        |key: &String| key.starts_with("crofter") && key != "crofter.node-restriction.kubernetes.io/tenant";
    assert_eq!(node.labels().keys().filter(|k| ours(k)).count(), 0, "{:?}", node.labels());
    assert!(
        !node.spec.unwrap_or_default().taints.unwrap_or_default().iter().any(|t| t.key.contains("crofter"))
    );

    // A new tenant of that name gets the node, but neither jobs nor usage.
    let second = verbs.tenant("phoenix", json!({"plan": "free"})).await;
    assert_ne!(first.uid(), second.uid());
    verbs.until_admitted("phoenix-1", Some("phoenix")).await;
    assert_eq!(verbs.jobs("phoenix").list(&ListParams::default()).await.unwrap().items.len(), 0);
    let fresh = verbs
        .until_tenant("phoenix", "usage", |t| t.status.as_ref().is_some_and(|s| s.usage.is_some()))
        .await;
    let usage = fresh.status.unwrap().usage.unwrap();
    assert_eq!((usage.active_jobs, usage.ended.completed), (0, 0));
}

#[tokio::test]
async fn a_suspended_tenant_admits_nothing_and_is_ready() {
    let verbs = world().verbs().await;
    verbs.tenant("sleepy", json!({"plan": "basic"})).await;
    verbs.worker("sleepy-1", "sleepy", "4").await;
    verbs.job("sleepy", "before", json!({"parameters": {"run-seconds": "15"}})).await;
    verbs.until_phase("sleepy", "before", JobPhase::Running).await;
    verbs.patch_tenant("sleepy", json!({"spec": {"suspended": true}})).await.unwrap();
    let tenant = verbs
        .until_tenant("sleepy", "Suspended", |t| condition(t, "Active").as_deref() == Some("False"))
        .await;
    assert_eq!(condition(&tenant, "Ready").as_deref(), Some("True"), "its spec says so: nothing is wrong");
    assert_eq!(condition_reason(&tenant, "Active").as_deref(), Some("TenantSuspended"));
    verbs.job("sleepy", "queued", json!({})).await;
    verbs.until_reason("sleepy", "queued", "TenantSuspended").await;
    verbs.until_phase("sleepy", "before", JobPhase::Completed).await;
    verbs.patch_tenant("sleepy", json!({"spec": {"suspended": false}})).await.unwrap();
    verbs.until_phase("sleepy", "queued", JobPhase::Completed).await;
}

#[tokio::test]
async fn a_drained_tenant_requeues_what_runs_without_charging_a_retry() {
    let verbs = world().verbs().await;
    verbs.tenant("drain", json!({"plan": "basic", "suspendPolicy": "Drain"})).await;
    verbs.worker("drain-1", "drain", "4").await;
    verbs.job("drain", "long", json!({"parameters": {"run-seconds": "forever"}, "maxRetries": 0})).await;
    verbs.until_phase("drain", "long", JobPhase::Running).await;
    verbs.patch_tenant("drain", json!({"spec": {"suspended": true}})).await.unwrap();
    let queued = verbs.until_reason("drain", "long", "TenantSuspended").await;
    let queued = match crate::common::phase(&queued) {
        JobPhase::Queued => queued,
        _ => verbs.until_phase("drain", "long", JobPhase::Queued).await,
    };
    assert_eq!(queued.status.unwrap().retries, 0);
    verbs.patch_tenant("drain", json!({"spec": {"suspended": false}})).await.unwrap();
    let again = verbs.until_phase("drain", "long", JobPhase::Running).await;
    assert_eq!(again.status.unwrap().attempt, 2);
    verbs.patch_job("drain", "long", json!({"spec": {"canceled": true}})).await.unwrap();
    verbs.until_phase("drain", "long", JobPhase::Canceled).await;
}

#[tokio::test]
async fn expiry_comes_by_itself_and_can_be_extended() {
    let verbs = world().verbs().await;
    #[expect(clippy::disallowed_methods, reason = "an expiry on the API server's real clock")]
    let soon = Timestamp::now() + jiff::SignedDuration::from_secs(4);
    verbs.tenant("mayfly", json!({"expiresAt": soon.to_string()})).await;
    verbs.worker("mayfly-1", "mayfly", "2").await;
    let expired = |t: &Tenant| t.status.as_ref().and_then(|s| s.phase) == Some(TenantPhase::Expired);
    let tenant = verbs.until_tenant("mayfly", "Expired", expired).await;
    assert_eq!(condition(&tenant, "Ready").as_deref(), Some("True"));
    verbs.job("mayfly", "late", json!({})).await;
    verbs.until_reason("mayfly", "late", "TenantExpired").await;
    verbs.patch_tenant("mayfly", json!({"spec": {"expiresAt": null}})).await.unwrap();
    verbs.until_phase("mayfly", "late", JobPhase::Completed).await;
}

#[tokio::test]
async fn what_must_stay_is_kept_until_it_may_go() {
    let verbs = world().verbs().await;
    verbs.tenant("keeper", json!({"preventDeletion": true})).await;
    verbs.all::<Tenant>().delete("keeper", &DeleteParams::default()).await.unwrap();
    let prevented =
        |t: &Tenant| t.status.iter().flat_map(|s| &s.conditions).any(|c| c.reason == "DeletionPrevented");
    verbs.until_tenant("keeper", "DeletionPrevented", prevented).await;
    assert!(verbs.all::<Namespace>().get_opt("tenant-keeper").await.unwrap().is_some());
    verbs.patch_tenant("keeper", json!({"spec": {"preventDeletion": false}})).await.unwrap();
    verbs.until_deleted(&verbs.all::<Tenant>(), "keeper").await;
    assert!(verbs.all::<Namespace>().get_opt("tenant-keeper").await.unwrap().is_none());
}
