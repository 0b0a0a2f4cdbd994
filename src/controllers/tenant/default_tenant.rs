//! The tenant `default`: the first leader of an installation creates it, once.
//!
//! The chart can't: what it renders is applied again with each upgrade, and would undo an administrator's changes. That the
//! tenant was created is recorded in a ConfigMap of the operator's namespace, so that it stays deleted where an
//! administrator deletes it.

use std::{collections::BTreeMap, convert::Infallible, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use serde_json::json;

use crate::{
    api_types::Tenant,
    kube_ext::{CallError, backoff::Backoff, within},
    names,
};

/// Longest time between two attempts.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The tenant `default` with this plan; its `spec.preventDeletion` is true.
///
/// # Errors
/// The spec can't be read back; its fields but the plan are constant.
pub fn build(plan: &str) -> serde_json::Result<Tenant> {
    let spec = json!({"displayName": "Default", "plan": plan, "preventDeletion": true});
    Ok(Tenant::new(names::DEFAULT_TENANT, serde_json::from_value(spec)?))
}

/// Creates the tenant unless that was done before, and repeats that until the API server has it. Never returns, as an
/// essential part of the operator.
pub async fn ensure(client: Client, namespace: String, tenant: Tenant) -> Infallible {
    let backoff = Backoff::new(LONGEST_RETRY);
    while let Err(error) = create_once(&client, &namespace, &tenant).await {
        tracing::warn!(%error, plan = tenant.spec.plan, "failed to create the default tenant, will retry");
        tokio::time::sleep(backoff.failed(names::DEFAULT_TENANT)).await;
    }
    std::future::pending().await
}

/// Creates the tenant, and then the record of that: a process that ends in between leaves it to the next leader, which finds
/// the tenant.
async fn create_once(client: &Client, namespace: &str, tenant: &Tenant) -> Result<(), CallError> {
    let records: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    let read = records.get_metadata_opt(names::DEFAULT_TENANT_RECORD);
    if within("failed to read the record of the default tenant", read).await?.is_some() {
        return Ok(());
    }
    create(client, tenant).await?;
    let record = ConfigMap {
        metadata: ObjectMeta { name: Some(names::DEFAULT_TENANT_RECORD.to_owned()), ..ObjectMeta::default() },
        data: Some(BTreeMap::from([("plan".to_owned(), tenant.spec.plan.clone())])),
        ..ConfigMap::default()
    };
    let params = PostParams::default();
    let write = records.create(&params, &record);
    ignore_existing(within("failed to record that the default tenant exists", write).await).map(drop)
}

/// An existing tenant is read first: admission may refuse one that is created before it is seen that it exists.
async fn create(client: &Client, tenant: &Tenant) -> Result<(), CallError> {
    let api: Api<Tenant> = Api::all(client.clone());
    let read = api.get_metadata_opt(names::DEFAULT_TENANT);
    if within("failed to read the default tenant", read).await?.is_some() {
        return Ok(());
    }
    let params = PostParams::default();
    let write = api.create(&params, tenant);
    if ignore_existing(within("failed to create the default tenant", write).await)? {
        tracing::info!(plan = tenant.spec.plan, "created the default tenant");
    }
    Ok(())
}

/// Whether an object was created: false where it existed.
fn ignore_existing<T>(created: Result<T, CallError>) -> Result<bool, CallError> {
    match created {
        Err(error) if error.is_conflict() => Ok(false),
        other => other.map(|_| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube_ext::mock::{Fake, outline};

    const TENANTS: &str = "/apis/crofter.io/v1alpha1/tenants";
    const TENANT: &str = "/apis/crofter.io/v1alpha1/tenants/default";
    const RECORDS: &str = "/api/v1/namespaces/crofter-system/configmaps";
    const RECORD: &str = "/api/v1/namespaces/crofter-system/configmaps/crofter-default-tenant";

    async fn ensured(fake: &Fake, plan: &str) {
        let ensure = ensure(fake.client(), "crofter-system".to_owned(), build(plan).unwrap());
        let ended = tokio::time::timeout(2 * LONGEST_RETRY, ensure).await;
        assert!(ended.is_err(), "an essential part never ends");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_created_once_and_stays_changed_or_deleted() {
        let fake = Fake::default();
        ensured(&fake, "enterprise").await;
        let spec = &fake.get(TENANT)["spec"];
        assert_eq!((&spec["plan"], &spec["preventDeletion"]), (&json!("enterprise"), &json!(true)));
        let calls = [("GET", RECORD), ("GET", TENANT), ("POST", TENANTS), ("POST", RECORDS)];
        assert_eq!(outline(&fake.calls()), calls.map(|(verb, path)| format!("{verb} {path}")));
        // The next leader, with another plan: it reads, and writes nothing.
        ensured(&fake, "free").await;
        assert_eq!(fake.get(TENANT)["spec"]["plan"], "enterprise");
        fake.take(TENANT);
        ensured(&fake, "free").await;
        assert!(fake.get(TENANT).is_null());
        assert_eq!(outline(&fake.calls()), vec![format!("GET {RECORD}"); 2]);
    }

    /// As one that an earlier chart has made, or a leader that ended before it wrote the record.
    #[tokio::test(start_paused = true)]
    async fn an_existing_tenant_is_recorded_and_stays_as_it_is() {
        let fake = Fake::default();
        fake.put(TENANT, json!({"metadata": {"name": "default"}, "spec": {"plan": "pro"}}));
        ensured(&fake, "free").await;
        assert_eq!(fake.get(TENANT)["spec"]["plan"], "pro");
        assert!(!fake.get(RECORD).is_null());
    }

    /// As where the CRD is not served yet.
    #[tokio::test(start_paused = true)]
    async fn what_is_refused_is_repeated() {
        let fake = Fake::default();
        fake.refuse(TENANTS, 404);
        ensured(&fake, "free").await;
        assert!(fake.calls().len() > 4);
        assert!(fake.get(TENANT).is_null() && fake.get(RECORD).is_null());
        fake.refuse(TENANTS, 0);
        ensured(&fake, "free").await;
        assert_eq!(fake.get(TENANT)["spec"]["plan"], "free");
    }
}
