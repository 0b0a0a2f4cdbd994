//! The operator is killed between the write of a key's hash and that of its text.
//!
//! It may write Secrets or not: without that right it comes just as far as the hash, and is killed there.

use crofter::{
    api_types::{TenantApiKey, api_key::TenantApiKeyStatus},
    domain::api_key::{Key, lifecycle},
    keys::pepper,
    names,
};
use crofter_test_cluster::wait;
use k8s_openapi::api::{
    core::v1::Secret,
    rbac::v1::{ClusterRole, ClusterRoleBinding, RoleBinding},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    OPERATOR_FAULTS,
    common::{Verbs, WAIT_TIMEOUT, World},
};

const OPERATOR: &str = "keyless-operator";
const NAMESPACE: &str = "tenant-orphan";

fn subject() -> Value {
    json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": OPERATOR}])
}

fn role(name: &str) -> Value {
    json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name})
}

/// Everything but to write Secrets; those in the operator's own namespace it may write, too.
async fn prepare(verbs: &Verbs<'_>) {
    let all = json!(["*"]);
    let rest = json!([
        "namespaces",
        "leases",
        "nodes",
        "events",
        "resourcequotas",
        "limitranges",
        "serviceaccounts",
        "rolebindings",
        "networkpolicies",
        "tenants",
        "tenants/status",
        "tenants/finalizers",
        "tenantapikeys",
        "tenantapikeys/status"
    ]);
    let base = json!([{"apiGroups": all, "resources": all, "verbs": ["get", "list", "watch"]},
        {"apiGroups": all, "resources": rest, "verbs": all}]);
    let secrets = json!([{"apiGroups": [""], "resources": ["secrets"], "verbs": ["create", "patch"]}]);
    for (name, rules) in [("keyless-base", base), ("keyless-secrets", secrets)] {
        let role: ClusterRole = object(json!({"metadata": {"name": name}, "rules": rules}));
        verbs.all::<ClusterRole>().create(&PostParams::default(), &role).await.unwrap();
    }
    let binding =
        json!({"metadata": {"name": "keyless"}, "roleRef": role("keyless-base"), "subjects": subject()});
    let bindings: Api<ClusterRoleBinding> = verbs.all();
    bindings.create(&PostParams::default(), &object(binding)).await.unwrap();
    allow(verbs, names::DEFAULT_NAMESPACE).await;
}

fn object<K: serde::de::DeserializeOwned>(json: Value) -> K {
    serde_json::from_value(json).unwrap()
}

async fn allow(verbs: &Verbs<'_>, namespace: &str) {
    let binding =
        json!({"metadata": {"name": "keyless"}, "roleRef": role("keyless-secrets"), "subjects": subject()});
    let api: Api<RoleBinding> = verbs.within(namespace);
    api.create(&PostParams::default(), &object(binding)).await.unwrap();
}

async fn until(
    verbs: &Verbs<'_>,
    what: &str,
    holds: impl Fn(&TenantApiKeyStatus) -> bool,
) -> TenantApiKeyStatus {
    let api: Api<TenantApiKey> = verbs.within(NAMESPACE);
    wait::until(WAIT_TIMEOUT, what, || async {
        let status = api.get("ci").await.map_err(|e| e.to_string())?.status.unwrap_or_default();
        if holds(&status) { Ok(status) } else { Err(format!("{status:?}")) }
    })
    .await
    .unwrap()
}

fn says(status: &TenantApiKeyStatus, kind: &str, reason: &str) -> bool {
    status.conditions.iter().any(|c| c.type_ == kind && c.status == "True" && c.reason == reason)
}

/// Kills the operator once it has come as far as the hash, and gives its next life the right that was missing.
async fn killed_after_the_hash(world: &World, verbs: &Verbs<'_>, versions: usize) -> TenantApiKeyStatus {
    let stuck = |status: &TenantApiKeyStatus| {
        status.versions.len() == versions && says(status, "Reconciling", "ApiError")
    };
    let left = until(verbs, "a hash without its text", stuck).await;
    world.kill_operator();
    allow(verbs, NAMESPACE).await;
    world.start_operator();
    left
}

/// Waits until the key is Ready, and checks that what is in its Secret is what its newest hash is of.
async fn until_it_opens(verbs: &Verbs<'_>, besides: &str) -> TenantApiKeyStatus {
    let other = |status: &TenantApiKeyStatus| {
        says(status, "Ready", "KeyIssued") && status.key_id.as_deref().is_some_and(|id| id != besides)
    };
    let status = until(verbs, "Ready with another version", other).await;
    let secret = |namespace: &str, name: &'static str| {
        let api: Api<Secret> = verbs.within(namespace);
        async move { api.get(name).await.unwrap() }
    };
    let text = secret(NAMESPACE, "crofter-key-ci").await.data.unwrap()["token"].0.clone();
    let text = Key::parse(std::str::from_utf8(&text).unwrap()).unwrap();
    let peppers = pepper::read(&secret(names::DEFAULT_NAMESPACE, names::PEPPER_SECRET).await).unwrap();
    assert!(lifecycle::recognises(&status.versions[0], &text, &peppers));
    status
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_whose_text_was_lost_gets_another_and_the_one_before_stays() {
    let (world, _exclusive) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    prepare(&verbs).await;
    // Given an operator that may not write the key's Secret.
    world.operator_as(&world.cluster.kubeconfig_for_user(OPERATOR, &[]).unwrap());
    world.start_operator();
    verbs.tenant("orphan", json!({"plan": "basic"})).await;
    let keys: Api<TenantApiKey> = verbs.within(NAMESPACE);
    let key = json!({"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": {"name": "ci"}, "spec": {}});
    verbs.create(&keys, &key).await.unwrap();

    // When it is killed after it stored the first hash, the next operator issues another version.
    let left = killed_after_the_hash(world, &verbs, 1).await;
    assert_eq!(left.key_id, None);
    let first = until_it_opens(&verbs, &left.versions[0].key_id).await;
    assert_eq!(first.versions.len(), 1);
    assert_ne!(first.versions[0].key_id, left.versions[0].key_id);

    // When the same happens to a rotation, the delivered version stays accepted.
    world.kill_operator();
    let bindings: Api<RoleBinding> = verbs.within(NAMESPACE);
    bindings.delete("keyless", &DeleteParams::default()).await.unwrap();
    let rotate = json!({"metadata": {"annotations": {names::ANNOTATION_ROTATE: "x"}}});
    keys.patch("ci", &PatchParams::default(), &Patch::Merge(rotate)).await.unwrap();
    world.start_operator();
    let left = killed_after_the_hash(world, &verbs, 2).await;
    assert_eq!(
        (&left.key_id, &left.versions[1].valid_until),
        (&first.key_id, &None),
        "the Secret's text stays valid"
    );
    // Then a third version is delivered, and the lost one is dropped.
    let second = until_it_opens(&verbs, first.key_id.as_deref().unwrap()).await;
    let ids: Vec<_> = second.versions.iter().map(|version| &version.key_id).collect();
    assert_eq!((ids.len(), ids[1]), (2, &first.versions[0].key_id));
    assert_ne!(ids[0], &left.versions[0].key_id, "that version was never delivered");
    world.kill_operator();
}
