//! Second step: what a tenant asks for, checked and completed. Pure.
//!
//! The schema refuses most of what is wrong at admission. What it can't state (the plan table, the namespace's length)
//! and what was stored past it is refused here, with the name or number that is wrong and what to do.

use std::collections::{BTreeMap, BTreeSet};

use kube::ResourceExt;

use crate::{
    api_types::{
        Plans, Reason, Tenant,
        plan::{EffectiveQuotas, QUOTA_RULE},
        tenant::{AccessGrant, AccessRole, NetworkIsolation, PodSecurity, SubjectKind},
    },
    config::{Accounts, Settings},
    names,
};

/// Longest name of a namespace.
const NAMESPACE_ROOM: usize = 63;

/// The tenant that owns a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) namespace: String,
}

impl Owner {
    pub(super) fn of(tenant: &Tenant, settings: &Settings) -> Self {
        let name = tenant.name_any();
        let namespace = names::namespace(&settings.namespace_prefix, &name);
        Self { namespace, uid: tenant.uid().unwrap_or_default(), name }
    }
}

/// A tenant that can be provisioned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Validated {
    pub(super) owner: Owner,
    pub(super) quotas: EffectiveQuotas,
    /// The subjects of each role; roles without subjects are absent.
    pub(super) access: BTreeMap<AccessRole, BTreeSet<Subject>>,
    pub(super) isolation: NetworkIsolation,
    pub(super) pod_security: PodSecurity,
    pub(super) gpu_resource: String,
    /// Who reads the Secrets of API keys here.
    pub(super) accounts: Accounts,
    /// Kubernetes counts Jobs, so that a quota may bound their number.
    pub(super) counts_objects: bool,
}

/// Who is granted a role.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    User(String),
    Group(String),
    ServiceAccount { namespace: String, name: String },
}

/// Why a tenant can't be provisioned before a user changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl Refusal {
    fn invalid(message: String) -> Self {
        Self { reason: Reason::InvalidObject, message }
    }
}

/// Checks a tenant's spec against the plan table and the rules that the schema can't state.
pub(super) fn validate(
    tenant: &Tenant,
    plans: &Plans,
    settings: &Settings,
    counts_objects: bool,
) -> Result<Validated, Refusal> {
    let owner = Owner::of(tenant, settings);
    if owner.namespace.len() > NAMESPACE_ROOM {
        return Err(Refusal::invalid(format!(
            "the namespace `{}` would have {} characters, {NAMESPACE_ROOM} are allowed: give the tenant a shorter name",
            owner.namespace,
            owner.namespace.len(),
        )));
    }
    let spec = &tenant.spec;
    let Some(plan) = plans.get(&spec.plan) else {
        let known = plans.names().collect::<Vec<_>>().join(", ");
        let message = format!("there is no plan `{}`: the plans are {known}; nothing was changed", spec.plan);
        return Err(Refusal { reason: Reason::UnknownPlan, message });
    };
    let quotas = plan.effective(&spec.quotas);
    // Numbers below -1 would otherwise read as unlimited.
    if let Some((field, value)) = quotas.meaningless() {
        return Err(Refusal::invalid(format!("spec.quotas.{field} is {value}: {QUOTA_RULE}")));
    }
    Ok(Validated {
        owner,
        quotas,
        access: roles(&spec.access)?,
        isolation: spec.network_isolation,
        pod_security: spec.pod_security,
        gpu_resource: settings.gpu_resource.clone(),
        accounts: settings.accounts.clone(),
        counts_objects,
    })
}

fn roles(access: &[AccessGrant]) -> Result<BTreeMap<AccessRole, BTreeSet<Subject>>, Refusal> {
    let mut roles: BTreeMap<AccessRole, BTreeSet<Subject>> = BTreeMap::new();
    for grant in access {
        let AccessGrant { kind, name, namespace, role } = grant.clone();
        let subject = match (kind, namespace) {
            (SubjectKind::User, _) => Subject::User(name),
            (SubjectKind::Group, _) => Subject::Group(name),
            (SubjectKind::ServiceAccount, Some(namespace)) => Subject::ServiceAccount { namespace, name },
            (SubjectKind::ServiceAccount, None) => {
                return Err(Refusal::invalid(format!(
                    "spec.access: the ServiceAccount `{name}` needs a namespace"
                )));
            }
        };
        roles.entry(role).or_default().insert(subject);
    }
    Ok(roles)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refusal(name: &str, spec: serde_json::Value) -> Refusal {
        let settings = Settings::default();
        let object = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec,
        });
        let tenant: Tenant = serde_json::from_value(object).unwrap();
        validate(&tenant, &Plans::built_in().unwrap(), &settings, false).unwrap_err()
    }

    #[test]
    fn each_refusal_names_what_is_wrong() {
        let plan = refusal("a", json!({"plan": "gold"}));
        assert_eq!(plan.reason, Reason::UnknownPlan);
        assert!(plan.message.contains("`gold`: the plans are basic, enterprise, free, pro"), "{plan:?}");
        let quota = refusal("a", json!({"quotas": {"maxStorageGb": -2}}));
        assert_eq!(quota.reason, Reason::InvalidObject);
        assert!(quota.message.contains("maxStorageGb is -2"), "{quota:?}");
        let access = json!({"access": [{"kind": "ServiceAccount", "name": "ci", "role": "admin"}]});
        assert!(refusal("a", access).message.contains("`ci` needs a namespace"));
        assert!(refusal(&"x".repeat(60), json!({})).message.contains("67 characters"));
    }
}
