//! The admission policies of the chart. Without them much is possible that RBAC and the CRDs can't refuse
//! (docs/security.md), so every replica of the operator looks whether they are there, and says so where they are not.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use kube::{Api, Client};
use tokio::sync::watch;

use super::{CallError, within};

/// The policies that the chart installs.
pub const POLICIES: [&str; 14] = [
    "tenant-plan.crofter.io",
    "tenant-deletion.crofter.io",
    "ownership.crofter.io",
    "paused.crofter.io",
    "object-size.crofter.io",
    "operator-reach.crofter.io",
    "tenant-objects.crofter.io",
    "job-deletion.crofter.io",
    "tenant-secrets.crofter.io",
    "tenant-claims.crofter.io",
    "job-pods.crofter.io",
    "kubelets.crofter.io",
    "worker-tolerations.crofter.io",
    NODE_NAMES,
];
/// The one whose binding denies only where the chart's values say so.
pub const NODE_NAMES: &str = "node-names.crofter.io";
/// Policies with a second binding, and its name.
const SECOND_BINDINGS: [(&str, &str); 1] = [("ownership.crofter.io", "ownership-of-pods.crofter.io")];
/// How often a replica looks.
const INTERVAL: Duration = Duration::from_secs(600);
/// The same where the API server did not answer.
const RETRY: Duration = Duration::from_secs(30);

/// The policies that are not in force: the policy or a binding of it is missing, or the binding does not deny, or the
/// policy lets pass what it can't judge.
///
/// # Errors
/// A read fails.
pub async fn missing(client: &Client) -> Result<Vec<&'static str>, CallError> {
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(client.clone());
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(client.clone());
    let mut missing = Vec::new();
    for name in POLICIES {
        let what = format!("failed to read ValidatingAdmissionPolicy {name}");
        let policy = within(what, policies.get_opt(name)).await?.and_then(|policy| policy.spec);
        let mut denies = policy.is_some_and(|spec| spec.failure_policy.as_deref() == Some("Fail"));
        let second =
            SECOND_BINDINGS.into_iter().filter(|(policy, _)| *policy == name).map(|(_, binding)| binding);
        for binding in second.chain([name]) {
            let what = format!("failed to read ValidatingAdmissionPolicyBinding {binding}");
            let spec = within(what, bindings.get_opt(binding)).await?.and_then(|binding| binding.spec);
            denies &= spec.is_some_and(|spec| {
                let actions = spec.validation_actions.unwrap_or_default();
                let of_policy = spec.policy_name.as_deref() == Some(name);
                of_policy && (name == NODE_NAMES || actions.iter().any(|action| action == "Deny"))
            });
        }
        if !denies {
            missing.push(name);
        }
    }
    Ok(missing)
}

/// Which policies are missing; `None` until that is known.
pub type Missing = Option<Vec<&'static str>>;

/// Looks again and again, and logs what has changed. Never ends.
pub async fn follow(client: Client, known: watch::Sender<Missing>) {
    loop {
        let pause = match missing(&client).await {
            Ok(missing) => {
                let changed = known.borrow().as_ref() != Some(&missing);
                if changed && !missing.is_empty() {
                    tracing::warn!(
                        policies = missing.join(", "),
                        "admission policies are missing or don't deny, so tenants may do what nothing else refuses: \
                         install the chart with policies.install=true"
                    );
                }
                if changed {
                    known.send_replace(Some(missing));
                }
                INTERVAL
            }
            Err(error) => {
                tracing::debug!(%error, "failed to look for the admission policies");
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kube_ext::mock::Fake;

    #[tokio::test(start_paused = true)]
    async fn a_policy_without_a_binding_that_denies_is_missing() {
        // Given a cluster with all of them but one, one binding that only warns, and one that may.
        let fake = Fake::default();
        let at = "/apis/admissionregistration.k8s.io/v1";
        let put = |name: &str, action: &str| {
            let of = |kind: &str, spec| {
                json!({
                    "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec,
                })
            };
            let policy = of("ValidatingAdmissionPolicy", json!({"failurePolicy": "Fail"}));
            fake.put(&format!("{at}/validatingadmissionpolicies/{name}"), policy);
            let second = SECOND_BINDINGS.into_iter().filter(|(policy, _)| *policy == name);
            for binding in second.map(|(_, binding)| binding).chain([name]) {
                let spec = json!({"policyName": name, "validationActions": [action, "Audit"]});
                let object = of("ValidatingAdmissionPolicyBinding", spec);
                fake.put(&format!("{at}/validatingadmissionpolicybindings/{binding}"), object);
            }
        };
        for name in POLICIES.into_iter().filter(|name| *name != "paused.crofter.io") {
            put(name, if ["job-pods.crofter.io", NODE_NAMES].contains(&name) { "Warn" } else { "Deny" });
        }
        let (sender, mut known) = watch::channel(None);
        let following = tokio::spawn(follow(fake.client(), sender));
        known.changed().await.unwrap();
        assert_eq!(*known.borrow_and_update(), Some(vec!["paused.crofter.io", "job-pods.crofter.io"]));

        // When they are installed, that is seen at the next look.
        put("paused.crofter.io", "Deny");
        put("job-pods.crofter.io", "Deny");
        known.changed().await.unwrap();
        assert_eq!(*known.borrow(), Some(Vec::new()));
        following.abort();
    }
}
