//! What is installed in the cluster: CRDs, admission policies, a leader; and the clocks of its nodes.

use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::{
    api::coordination::v1::Lease,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use serde_json::json;

use super::{Finding, PAUSE, unanswered};
use crate::{
    api_types::{Tenant, crd},
    kube_ext::{policies, within},
    names,
};

/// What a tenant of no plan is named, which is never stored.
const UNPLANNED: &str = "crofter-check-of-no-plan";
/// A leader renews its Lease every 2 s.
const RENEWED_WITHIN: Duration = Duration::from_secs(20);
/// More than what lies between the time that a kubelet writes and the API server's own, in whole seconds.
const LARGEST_SKEW: SignedDuration = SignedDuration::from_secs(5);

/// Whether each CRD is served, with the schema of this version.
pub(super) async fn crds(client: &Client) -> Finding {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let mut wrong = Vec::new();
    for (_, expected) in crd::all() {
        let name = expected.name_any();
        match within(format!("failed to read CRD {name}"), api.get_opt(&name)).await {
            Ok(found) => {
                wrong.extend(crd_fault(&expected, found.as_ref()).map(|fault| format!("{name} {fault}")))
            }
            Err(error) => return unanswered(error),
        }
    }
    if wrong.is_empty() {
        return Finding::Ok(format!("the CRDs are those of version {}", env!("CARGO_PKG_VERSION")));
    }
    Finding::failed(
        format!("CRD {}", wrong.join(", CRD ")),
        "upgrade the release with crds.install=true, or `crofter crd | kubectl apply --server-side --filename -`",
    )
}

/// What is wrong with a CRD.
fn crd_fault(
    expected: &CustomResourceDefinition,
    found: Option<&CustomResourceDefinition>,
) -> Option<&'static str> {
    let Some(found) = found else { return Some("is not installed") };
    let schemas = |crd: &CustomResourceDefinition| {
        let versions = crd.spec.versions.iter();
        versions.map(|version| (version.name.clone(), json!(version.schema))).collect::<Vec<_>>()
    };
    if schemas(expected) != schemas(found) {
        return Some("is of another version");
    }
    let conditions =
        found.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let established = conditions.iter().any(|c| c.type_ == "Established" && c.status == "True");
    if established { None } else { Some("is not established") }
}

/// Whether the policies and their bindings exist, and the API server applies them.
pub(super) async fn admission(client: &Client) -> Finding {
    match policies::missing(client).await {
        Ok(missing) if missing.is_empty() => in_force(client).await,
        Ok(missing) => Finding::failed(
            format!("admission policies are missing, or don't deny: {}", missing.join(", ")),
            "upgrade the release with policies.install=true",
        ),
        Err(error) => unanswered(error),
    }
}

/// Has the API server refuse a tenant of no plan; it stores none in any case.
async fn in_force(client: &Client) -> Finding {
    let spec = match serde_json::from_value(json!({"plan": UNPLANNED})) {
        Ok(spec) => spec,
        Err(error) => return Finding::failed(error, "report this to Crofter's developers"),
    };
    let (api, dry_run): (Api<Tenant>, _) =
        (Api::all(client.clone()), PostParams { dry_run: true, ..PostParams::default() });
    let tenant = Tenant::new(UNPLANNED, spec);
    match within("failed to try a Tenant of no plan", api.create(&dry_run, &tenant)).await {
        Ok(_) => Finding::failed(
            "the API server admits a Tenant of no plan: the policies are not in force",
            "see `kubectl get validatingadmissionpolicybindings -o yaml`: each but node-names has validationActions [Deny]",
        ),
        Err(error) if error.refusal().is_some_and(|message| message.contains("which is no plan")) => {
            Finding::Ok(format!("all {} admission policies are in force", policies::POLICIES.len()))
        }
        Err(error) => unanswered(error),
    }
}

/// Whether a replica leads: it renews its Lease.
pub(super) async fn leader(client: &Client, namespace: &str) -> Finding {
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let mend =
        format!("kubectl --namespace {namespace} get pods, and see the log of those that are not ready");
    let read =
        || within(format!("failed to read Lease {} in {namespace}", names::LEASE), api.get_opt(names::LEASE));
    let first = match read().await {
        Ok(Some(lease)) => lease,
        Ok(None) => return Finding::failed(format!("no replica has led in {namespace}"), mend),
        Err(error) => return unanswered(error),
    };
    let end = tokio::time::Instant::now() + RENEWED_WITHIN;
    while tokio::time::Instant::now() < end {
        tokio::time::sleep(PAUSE).await;
        match read().await {
            Ok(Some(lease)) if lease.resource_version() != first.resource_version() => {
                let holder = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
                if !holder.is_empty() {
                    return Finding::Ok(format!("{holder} leads"));
                }
            }
            Ok(_) => (),
            Err(error) => return unanswered(error),
        }
    }
    Finding::failed(
        format!("no replica leads: the Lease was not renewed for {} s", RENEWED_WITHIN.as_secs()),
        mend,
    )
}

/// Whether the clocks of the nodes agree with the API server's: a kubelet writes its time into its Lease, and the API server
/// notes when that was.
pub(super) async fn clocks(client: &Client) -> Finding {
    let api: Api<Lease> = Api::namespaced(client.clone(), "kube-node-lease");
    let leases = match within("failed to list the Leases of nodes", api.list(&ListParams::default())).await {
        Ok(leases) => leases.items,
        Err(error) => return unanswered(error),
    };
    let skews: Vec<(String, SignedDuration)> =
        leases.iter().filter_map(|lease| Some((lease.name_any(), skew(lease)?))).collect();
    let wrong: Vec<String> = skews
        .iter()
        .filter(|(_, skew)| skew.abs() > LARGEST_SKEW)
        .map(|(node, skew)| format!("{node} by {} s", skew.as_secs()))
        .collect();
    if wrong.is_empty() {
        return Finding::Ok(format!("the clocks of {} nodes agree with the API server's", skews.len()));
    }
    Finding::failed(
        format!("clocks differ from the API server's: {}", wrong.join(", ")),
        "synchronise the time of these nodes (chrony, systemd-timesyncd)",
    )
}

/// By how much a node's clock is ahead of the API server's, at the last renewal of its Lease.
fn skew(lease: &Lease) -> Option<SignedDuration> {
    let renewed = lease.spec.as_ref()?.renew_time.as_ref()?.0;
    let managed = lease.metadata.managed_fields.as_deref().unwrap_or_default();
    let stored = managed.iter().filter_map(|fields| fields.time.as_ref()).map(|time| time.0).max()?;
    Some(renewed.duration_since(stored))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube_ext::mock::{Fake, client as answering};

    const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/crofter-system/leases/crofter";

    #[test]
    fn a_crd_is_absent_of_another_version_or_as_it_should_be() {
        let (_, expected) = crd::all().remove(0);
        assert_eq!(crd_fault(&expected, None), Some("is not installed"));
        assert_eq!(crd_fault(&expected, Some(&expected)), Some("is not established"));
        let mut found = expected.clone();
        let status = json!({"conditions": [{"type": "Established", "status": "True"}]});
        found.status = Some(serde_json::from_value(status).unwrap());
        assert_eq!(crd_fault(&expected, Some(&found)), None);
        found.spec.versions[0].schema = None;
        assert_eq!(crd_fault(&expected, Some(&found)), Some("is of another version"));
    }

    fn lease(renewed: &str, stored: &str) -> Lease {
        serde_json::from_value(json!({
            "metadata": {"name": "n1", "managedFields": [
                {"manager": "other", "time": "2026-01-01T00:00:00Z"}, {"manager": "kubelet", "time": stored},
            ]},
            "spec": {"renewTime": renewed},
        }))
        .unwrap()
    }

    #[tokio::test]
    async fn the_node_whose_clock_is_wrong_is_named() {
        let right = lease("2026-05-05T10:00:00.900000Z", "2026-05-05T10:00:00Z");
        assert_eq!(skew(&right), Some(SignedDuration::from_millis(900)));
        let ahead = lease("2026-05-05T11:00:00.000000Z", "2026-05-05T10:00:00Z");
        let list = |lease: &Lease| json!({"metadata": {}, "items": [lease]});
        let (good, bad) = (list(&right), list(&ahead));
        let found = clocks(&answering(move |_| (200, good.clone()))).await;
        assert_eq!(found, Finding::Ok("the clocks of 1 nodes agree with the API server's".to_owned()));
        let found = clocks(&answering(move |_| (200, bad.clone()))).await.to_string();
        assert!(found.starts_with("failed: clocks differ from the API server's: n1 by 3600 s"), "{found}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_not_renewed_is_no_leader() {
        let fake = Fake::default();
        let found = leader(&fake.client(), "crofter-system").await.to_string();
        assert!(found.starts_with("failed: no replica has led in crofter-system"), "{found}");
        fake.put(LEASE, json!({"metadata": {"name": "crofter"}, "spec": {"holderIdentity": "a"}}));
        let found = leader(&fake.client(), "crofter-system").await.to_string();
        assert!(found.starts_with("failed: no replica leads: "), "{found}");
        let renewing = fake.clone();
        let renew = async move {
            loop {
                tokio::time::sleep(Duration::from_secs(2)).await;
                renewing
                    .put(LEASE, json!({"metadata": {"name": "crofter"}, "spec": {"holderIdentity": "b"}}));
            }
        };
        let client = fake.client();
        let found = tokio::select! { found = leader(&client, "crofter-system") => found, () = renew => unreachable!() };
        assert_eq!(found, Finding::Ok("b leads".to_owned()));
    }

    #[tokio::test]
    async fn a_right_that_is_missing_is_no_other_fault() {
        let refuse = |_| {
            (
                403,
                json!({"kind": "Status", "status": "Failure", "message": "no", "reason": "Forbidden", "code": 403}),
            )
        };
        for found in [crds(&answering(refuse)).await, admission(&answering(refuse)).await] {
            assert!(found.to_string().contains("run it with the rights of the chart's test"), "{found}");
        }
    }
}
