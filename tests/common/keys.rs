//! API keys as objects of the cluster.

use crofter::{
    api_types::{TenantApiKey, api_key::TenantApiKeyStatus},
    names,
};
use crofter_test_cluster::wait;
use k8s_openapi::api::core::v1::Secret;
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use serde_json::{Value, json};

use super::{Verbs, WAIT_TIMEOUT, namespace};

pub fn keys(verbs: &Verbs<'_>, tenant: &str) -> Api<TenantApiKey> {
    verbs.within(&namespace(tenant))
}

pub fn secrets(verbs: &Verbs<'_>, tenant: &str) -> Api<Secret> {
    verbs.within(&namespace(tenant))
}

pub async fn make(
    verbs: &Verbs<'_>,
    tenant: &str,
    name: &str,
    spec: Value,
) -> Result<TenantApiKey, kube::Error> {
    let key = json!({"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": {"name": name}, "spec": spec});
    verbs.create(&keys(verbs, tenant), &key).await
}

pub async fn patch(
    verbs: &Verbs<'_>,
    tenant: &str,
    name: &str,
    patch: Value,
) -> Result<TenantApiKey, kube::Error> {
    keys(verbs, tenant).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
}

pub fn status(key: &TenantApiKey) -> TenantApiKeyStatus {
    key.status.clone().unwrap_or_default()
}

pub fn condition(key: &TenantApiKey, kind: &str) -> String {
    let all = status(key).conditions;
    all.iter().find(|c| c.type_ == kind).map(|c| format!("{}/{}", c.status, c.reason)).unwrap_or_default()
}

/// Waits for something of a key.
pub async fn until_key(
    verbs: &Verbs<'_>,
    tenant: &str,
    name: &str,
    what: &str,
    holds: impl Fn(&TenantApiKey) -> bool,
) -> TenantApiKey {
    let api = keys(verbs, tenant);
    wait::until(WAIT_TIMEOUT, &format!("key {tenant}/{name}: {what}"), || async {
        let key = api.get(name).await.map_err(|e| e.to_string())?;
        if holds(&key) { Ok(key) } else { Err(format!("{:?}", status(&key))) }
    })
    .await
    .unwrap()
}

pub async fn until_ready(verbs: &Verbs<'_>, tenant: &str, name: &str) -> TenantApiKey {
    until_key(verbs, tenant, name, "Ready", |key| condition(key, "Ready") == "True/KeyIssued").await
}

/// The text in a key's Secret.
pub async fn text(verbs: &Verbs<'_>, tenant: &str, name: &str) -> String {
    let secret = secrets(verbs, tenant).get(&names::key_secret(name)).await.unwrap();
    String::from_utf8(secret.data.unwrap()["token"].0.clone()).unwrap()
}
