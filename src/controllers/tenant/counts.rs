//! Whether Kubernetes counts Jobs, so that a quota may bound their number.
//!
//! Kubernetes' quota controller learns of a new kind within 30 s, and does not return to the quotas that already name
//! it before its next full resync (5 min). Until then the API server refuses every create of that kind in the namespace
//! of such a quota (`status unknown for quota`): a cluster's first tenants would not take a job for minutes. So the
//! quota that counts Jobs is made only once another one has the number of Jobs in its status: the chart's
//! `crofter-counts`, in the operator's own namespace, where nothing makes Jobs.
//!
//! From then on it stays: what the quota controller has counted once it does not lose.

use std::time::Duration;

use k8s_openapi::api::core::v1::ResourceQuota;
use kube::{Api, Client};
use tokio::sync::watch;

use crate::{
    kube_ext::{CallError, call::within_opt},
    names,
};

/// The resource that the quota of objects bounds, and by whose usage it is seen that it is counted.
pub(super) const JOBS: &str = "count/jobs.crofter.io";
/// How often the chart's quota is read.
const INTERVAL: Duration = Duration::from_secs(15);

/// Waits until Jobs are counted, and sends that.
pub(super) async fn wait(client: Client, namespace: String, counted: watch::Sender<bool>) {
    loop {
        match are_counted(&client, &namespace).await {
            Ok(true) => break,
            Ok(false) => (),
            Err(error) => tracing::debug!(%error, "failed to see whether Jobs are counted, will retry"),
        }
        tokio::time::sleep(INTERVAL).await;
    }
    tracing::info!("Kubernetes counts Jobs: the number of a tenant's objects is bounded");
    counted.send_replace(true);
}

async fn are_counted(client: &Client, namespace: &str) -> Result<bool, CallError> {
    let api: Api<ResourceQuota> = Api::namespaced(client.clone(), namespace);
    let quota = within_opt("failed to read ResourceQuota crofter-counts", api.get(names::COUNTS)).await?;
    let used = quota.and_then(|quota| quota.status?.used);
    Ok(used.is_some_and(|used| used.contains_key(JOBS)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kube_ext::mock::Fake;

    const PATH: &str = "/api/v1/namespaces/crofter-system/resourcequotas/crofter-counts";

    fn quota(status: Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "ResourceQuota",
            "metadata": {"name": "crofter-counts", "namespace": "crofter-system"},
            "spec": {"hard": {JOBS: "0"}}, "status": status,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_are_counted_once_the_status_of_a_quota_has_their_number() {
        let fake = Fake::default();
        let (sender, receiver) = watch::channel(false);
        let waiting = tokio::spawn(wait(fake.client(), "crofter-system".to_owned(), sender));
        let hard = json!({JOBS: "0"});
        for status in [json!({}), json!({"hard": hard}), json!({"hard": hard, "used": {"pods": "0"}})] {
            fake.put(PATH, quota(status.clone()));
            tokio::time::sleep(INTERVAL * 2).await;
            assert!(!*receiver.borrow(), "{status}");
        }
        fake.put(PATH, quota(json!({"hard": hard, "used": {JOBS: "0"}})));
        tokio::time::timeout(INTERVAL * 2, waiting).await.unwrap().unwrap();
        assert!(*receiver.borrow());
    }
}
