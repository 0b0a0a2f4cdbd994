//! Second step: what a key asks for, checked and completed. Pure.

use jiff::SignedDuration;
use kube::{Resource, ResourceExt};

use crate::{
    api_types::{Reason, Tenant, TenantApiKey},
    domain::{api_key::lifecycle, tenant_state},
    names,
};

/// A key that can be reconciled.
#[derive(Clone, Debug)]
pub(super) struct Validated {
    /// Name and UID of the tenant.
    pub(super) tenant: (String, String),
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) secret_name: String,
    pub(super) rotate_every: Option<SignedDuration>,
    /// The rotation asked for by annotation, as it is remembered.
    pub(super) request: Option<String>,
}

/// Why nothing can be done for a key before a user changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: Reason,
    pub(super) message: String,
}

/// Checks a key; `tenant` is the one of its namespace, if the namespace is one's.
pub(super) fn validate(key: &TenantApiKey, tenant: Option<&Tenant>) -> Result<Validated, Refusal> {
    let namespace = key.namespace().unwrap_or_default();
    let Some(tenant) = tenant else {
        let message = format!(
            "namespace {namespace} is not that of a tenant: a key is made in the namespace of the tenant that it is for"
        );
        return Err(Refusal { reason: Reason::NotATenantNamespace, message });
    };
    if tenant_state::terminating(tenant) {
        let message = "the tenant is being deleted: its keys are revoked, and no new one is made".to_owned();
        return Err(Refusal { reason: Reason::Terminating, message });
    }
    let rotate_every = match key.spec.rotate_every.as_deref() {
        None => None,
        Some(text) => Some(lifecycle::period(text).ok_or_else(|| Refusal {
            reason: Reason::InvalidObject,
            message: format!(
                "spec.rotateEvery is `{text}`: give hours, minutes and seconds such as 720h or 1h30m, at least 1h"
            ),
        })?),
    };
    let secret_name = key.secret_name();
    if !names::is_key_secret(&secret_name) {
        let message = format!(
            "spec.secretName is `{secret_name}`: the name of a key's Secret begins with {}, so that no job can refer to it: \
             make a new key",
            names::KEY_SECRET_PREFIX
        );
        return Err(Refusal { reason: Reason::InvalidObject, message });
    }
    let annotations = key.meta().annotations.as_ref();
    let request = annotations.and_then(|all| all.get(names::ANNOTATION_ROTATE));
    Ok(Validated {
        tenant: (tenant.name_any(), tenant.uid().unwrap_or_default()),
        namespace,
        secret_name,
        name: key.name_any(),
        uid: key.uid().unwrap_or_default(),
        rotate_every,
        request: request.map(|value| lifecycle::request(value)),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn key(spec: Value) -> TenantApiKey {
        let metadata = json!({
            "name": "ci", "namespace": "tenant-acme", "uid": "k1",
            "annotations": {names::ANNOTATION_ROTATE: "now"},
        });
        let whole = json!({"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": metadata, "spec": spec});
        serde_json::from_value(whole).unwrap()
    }

    fn tenant(deleted: bool) -> Tenant {
        let mut metadata = json!({"name": "acme", "uid": "t1"});
        if deleted {
            metadata["deletionTimestamp"] = json!("2030-01-01T00:00:00Z");
        }
        let whole =
            json!({"apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": metadata, "spec": {}});
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn defaults_are_filled_in() {
        let valid = validate(&key(json!({"rotateEvery": "2h"})), Some(&tenant(false))).unwrap();
        assert_eq!(valid.secret_name, "crofter-key-ci");
        assert_eq!(valid.rotate_every, Some(SignedDuration::from_hours(2)));
        assert_eq!(valid.request.as_deref(), Some("now"));
        assert_eq!(valid.tenant, ("acme".to_owned(), "t1".to_owned()));
        let spec = json!({"secretName": "crofter-key-other"});
        let named = validate(&key(spec), Some(&tenant(false))).unwrap();
        assert_eq!(named.secret_name, "crofter-key-other");
    }

    #[test]
    fn each_refusal_names_what_is_wrong() {
        let refusal = |spec, tenant: Option<Tenant>| validate(&key(spec), tenant.as_ref()).unwrap_err();
        let none = refusal(json!({}), None);
        assert_eq!(none.reason, Reason::NotATenantNamespace);
        assert!(none.message.contains("tenant-acme"), "{none:?}");
        assert_eq!(refusal(json!({}), Some(tenant(true))).reason, Reason::Terminating);
        let period = refusal(json!({"rotateEvery": "0s"}), Some(tenant(false)));
        assert_eq!(period.reason, Reason::InvalidObject);
        assert!(period.message.contains("`0s`"), "{period:?}");
        let secret = refusal(json!({"secretName": "shared"}), Some(tenant(false)));
        assert_eq!(secret.reason, Reason::InvalidObject);
        assert!(secret.message.contains("`shared`"), "{secret:?}");
    }
}
