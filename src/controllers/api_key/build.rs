//! Third step: the Secret of a key. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    ByteString,
    api::core::v1::Secret,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::Resource;
use secrecy::ExposeSecret;

use super::validate::Validated;
use crate::{api_types::TenantApiKey, domain::api_key::Key, names};

/// The Secret with this token. It is deleted with its key, by owner reference.
pub(super) fn secret(valid: &Validated, token: &Key) -> Secret {
    let (tenant, tenant_uid) = &valid.tenant;
    let labels = [
        (names::LABEL_MANAGED_BY, names::MANAGER),
        (names::LABEL_TENANT, tenant),
        (names::LABEL_TENANT_UID, tenant_uid),
    ];
    let id = token.id();
    let data = [(names::SECRET_TOKEN, token.token().expose_secret()), (names::SECRET_KEY_ID, id.as_str())];
    let bytes = |(name, value): (&str, &str)| (name.to_owned(), ByteString(value.as_bytes().to_vec()));
    Secret {
        metadata: ObjectMeta {
            name: Some(valid.secret_name.clone()),
            namespace: Some(valid.namespace.clone()),
            labels: Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            owner_references: Some(vec![owner(valid)]),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from(data.map(bytes))),
        ..Secret::default()
    }
}

fn owner(valid: &Validated) -> OwnerReference {
    OwnerReference {
        api_version: TenantApiKey::api_version(&()).into_owned(),
        kind: TenantApiKey::kind(&()).into_owned(),
        name: valid.name.clone(),
        uid: valid.uid.clone(),
        controller: Some(true),
        block_owner_deletion: None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::api_key::Seed;

    #[test]
    fn the_whole_secret() {
        // Given: a valid key and a token of known bytes.
        let seed = Seed::of(|bytes| {
            bytes.fill(0xff);
            Ok::<_, ()>(())
        });
        let valid = Validated {
            tenant: ("acme".into(), "t1".into()),
            namespace: "tenant-acme".into(),
            name: "ci".into(),
            uid: "k1".into(),
            secret_name: "ci-token".into(),
            rotate_every: None,
            request: None,
        };
        // When: its Secret is built.
        let built = serde_json::to_value(secret(&valid, &Key::new(&seed.unwrap()))).unwrap();
        // Then: it is this as a whole.
        let expected = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {
                "name": "ci-token", "namespace": "tenant-acme",
                "labels": {
                    "app.kubernetes.io/managed-by": "crofter", "crofter.io/tenant": "acme", "crofter.io/tenant-uid": "t1",
                },
                "ownerReferences": [{
                    "apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "name": "ci", "uid": "k1",
                    "controller": true,
                }],
            },
            "data": {
                "keyId": "bGs5bjhtdDdGaGM3",
                "token": "Y3JmdF9sazluOG10N0ZoYzdfeWhqc2t3ZEE2T1oxQUwxWW1IV1pXbThMTEc3SGpudUNBMmo1ck93OFhwMTRUSzVQbA==",
            },
        });
        assert_eq!(built, expected);
    }
}
