//! What is asked of the API server itself, because a cache that lags, or lacks what can't be decoded, would say that
//! something is deleted that is not.

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt, api::ListParams};

use super::{Context, Error, Seen, live};
use crate::{
    api_types::{Reason, Tenant},
    domain::{job_pod::JobPod, node_admission::Refusal, worker},
    kube_ext::call::{within, within_opt},
    names,
};

impl Context {
    /// Asks the API server whether no job pod but those of `group` is left on a node.
    pub(super) async fn is_drained(&self, node: &Node, group: Option<&String>) -> Result<bool, Error> {
        let name = node.name_any();
        let ours = format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGER);
        let params = ListParams::default().fields(&format!("spec.nodeName={name}")).labels(&ours);
        let api = Api::<Pod>::all(self.client.clone());
        let pods =
            within(format!("failed to list the job pods on node {name}"), async { api.list(&params).await })
                .await?;
        let own = pods.iter().filter(|pod| JobPod::of(&pod.metadata, &self.namespace_prefix).is_some());
        Ok(live(own).keys().all(|owner| Some(owner) == group))
    }

    /// Whether a node would be released only because its tenant, though it exists, can't be read.
    pub(super) async fn is_tenant_invalid(
        &self,
        seen: &Seen,
        group: &str,
        because: Option<&Refusal>,
    ) -> Result<bool, Error> {
        let gone = because.is_some_and(|refusal| refusal.reason == Reason::NoSuchTenant);
        let own = worker::label(&seen.node, names::NODE_TENANT) == Some(group);
        Ok(gone && own && self.exists(group).await?)
    }

    /// Asks the API server whether there is a tenant of that name, readable or not.
    pub(super) async fn exists(&self, tenant: &str) -> Result<bool, Error> {
        let api = Api::<Tenant>::all(self.client.clone());
        let call = async { api.get_metadata(tenant).await };
        Ok(within_opt(format!("failed to look up tenant {tenant}"), call).await?.is_some())
    }
}
