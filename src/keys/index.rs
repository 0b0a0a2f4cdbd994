//! The index of all versions of all keys, by key id, which authenticates tokens. Pure, and rebuilt from the watches alone.
//!
//! Whatever the result, a well-formed token costs one lookup, one MAC and one comparison in constant time, so neither the
//! result nor its time distinguishes an unknown id from a wrong secret. Only a caller with the token of a revoked or expired
//! key learns that it is one.

use std::{
    collections::{HashMap, hash_map::Entry as Slot},
    sync::Arc,
};

use jiff::Timestamp;
use kube::ResourceExt;

use crate::{
    api_types::{
        Tenant, TenantApiKey,
        api_key::{KeyVersion, Scope},
    },
    domain::api_key::{
        Key, KeyId, Lineage, Mac, Peppers,
        lifecycle::{self, Closed},
    },
};

/// An authenticated key and its tenant.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The tenant of the key.
    pub tenant: Arc<TenantOf>,
    /// The TenantApiKey.
    pub key: Arc<TenantApiKey>,
    /// The id of the version whose token was sent.
    pub key_id: KeyId,
    /// The scopes of the key; of one that a key has made, those that its ancestors have too.
    pub scopes: Vec<Scope>,
}

impl Principal {
    /// Whether the key has this scope.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope)
    }
}

/// The parts of a Tenant that a key needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantOf {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
}

/// Why the server refuses a token.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error, strum::IntoStaticStr, strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
pub enum Refusal {
    /// The token does not have the form or the checksum of one; there was no lookup.
    #[error("this is not an API key, or it was cut or mistyped")]
    Malformed,
    /// The key does not exist, or has another secret: the result is the same.
    #[error("this API key does not exist")]
    Unknown,
    /// The key, or one that it comes from, is revoked.
    #[error("the API key is revoked")]
    Revoked,
    /// The key, or one that it comes from, has expired, or this version ended with the overlap of a rotation.
    #[error("the API key has expired")]
    Expired,
    /// This process can't prove that its cache is up to date; a retry or another replica may succeed.
    #[error("this server can't check API keys at the moment")]
    Unready,
}

/// One version of a key.
#[derive(Debug)]
struct Entry {
    key: Arc<TenantApiKey>,
    /// The position of the version in the key's status.
    position: usize,
}

impl Entry {
    fn version(&self) -> Option<&KeyVersion> {
        self.key.status.as_ref()?.versions.get(self.position)
    }
}

/// Namespace and name of a key.
type ObjectKey = (String, String);

/// All keys, and the tenants of their namespaces.
#[derive(Debug, Default)]
pub struct Index {
    versions: HashMap<KeyId, Entry>,
    /// Each key, and the ids of its versions.
    keys: HashMap<ObjectKey, (Arc<TenantApiKey>, Vec<KeyId>)>,
    /// By namespace.
    tenants: HashMap<String, Arc<TenantOf>>,
}

fn object_key(key: &TenantApiKey) -> ObjectKey {
    (key.namespace().unwrap_or_default(), key.name_any())
}

impl Index {
    /// Adds or updates a key.
    pub fn apply(&mut self, key: &Arc<TenantApiKey>) {
        let name = object_key(key);
        self.remove(&name);
        let mut ids = Vec::new();
        let versions = key.status.iter().flat_map(|status| &status.versions);
        for (position, version) in versions.enumerate() {
            let Ok(id) = version.key_id.parse::<KeyId>() else { continue };
            match self.versions.entry(id) {
                Slot::Vacant(slot) => {
                    slot.insert(Entry { key: Arc::clone(key), position });
                    ids.push(id);
                }
                // Ids have 71 random bits, so this status is a copy.
                Slot::Occupied(_) => {
                    tracing::error!(key = ?name, %id, "another key has this id already and keeps it");
                }
            }
        }
        self.keys.insert(name, (Arc::clone(key), ids));
    }

    /// Removes a key that was deleted, or that can't be read any more and may be revoked.
    pub fn delete(&mut self, namespace: &str, name: &str) {
        self.remove(&(namespace.to_owned(), name.to_owned()));
    }

    fn remove(&mut self, name: &ObjectKey) {
        for id in self.keys.remove(name).into_iter().flat_map(|(_, ids)| ids) {
            self.versions.remove(&id);
        }
    }

    /// Adds or updates a tenant.
    pub fn apply_tenant(&mut self, tenant: &Tenant) {
        let (name, uid) = (tenant.name_any(), tenant.uid().unwrap_or_default());
        self.tenants.retain(|_, known| known.name != name);
        // The tenant controller writes the namespace only once it carries the tenant's UID.
        if let Some(namespace) = tenant.status.as_ref().and_then(|status| status.namespace.clone()) {
            let tenant = TenantOf { name, uid, namespace: namespace.clone() };
            self.tenants.insert(namespace, Arc::new(tenant));
        }
    }

    /// Removes a tenant that was deleted, or that can't be read any more.
    pub fn delete_tenant(&mut self, name: &str) {
        self.tenants.retain(|_, known| known.name != name);
    }

    /// The number of versions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.versions.len()
    }

    /// Whether the index has no versions.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// Authenticates a token.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn authenticate(&self, token: &Key, peppers: &Peppers, now: Timestamp) -> Result<Principal, Refusal> {
        let entry = self.versions.get(&token.id());
        let version = entry.and_then(Entry::version);
        let under = |pepper| Some((pepper, lifecycle::mac_of(version?, pepper)?));
        // Always one MAC; the MAC of an unknown id is compared with one that no token has.
        let stored = peppers.versions().find_map(under);
        let (pepper, expected) = stored.unwrap_or((peppers.newest(), Mac::NOTHING));
        let is_same = peppers.mac(pepper, token).is_some_and(|mac| mac.is(&expected));
        let (Some(entry), Some(version), true) = (entry, version, is_same && stored.is_some()) else {
            return Err(Refusal::Unknown);
        };
        self.principal(entry, version, token.id(), now)
    }

    /// The current state of a principal that was authenticated before.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn revalidate(&self, before: &Principal, now: Timestamp) -> Result<Principal, Refusal> {
        let entry = self.versions.get(&before.key_id);
        let entry = entry.filter(|entry| entry.key.metadata.uid == before.key.metadata.uid);
        let (Some(entry), Some(version)) = (entry, entry.and_then(Entry::version)) else {
            return Err(Refusal::Unknown);
        };
        let principal = self.principal(entry, version, before.key_id, now)?;
        if principal.tenant.uid == before.tenant.uid { Ok(principal) } else { Err(Refusal::Unknown) }
    }

    /// The principal of a version whose token was verified.
    fn principal(
        &self,
        entry: &Entry,
        version: &KeyVersion,
        key_id: KeyId,
        now: Timestamp,
    ) -> Result<Principal, Refusal> {
        let namespace = entry.key.metadata.namespace.as_deref().unwrap_or_default();
        let tenant = self.tenants.get(namespace).ok_or(Refusal::Unknown)?;
        let lineage = Lineage::of(&entry.key, |name| {
            self.keys.get(&(namespace.to_owned(), name.to_owned())).map(|(key, _)| Arc::clone(key))
        });
        let closed = lifecycle::refused(&entry.key.spec, version, now);
        match closed.or_else(|| lineage.ended(now).map(|(_, closed)| closed)) {
            Some(Closed::Revoked) => Err(Refusal::Revoked),
            Some(Closed::Expired) => Err(Refusal::Expired),
            None => {
                let scopes = lineage.scopes(&entry.key);
                Ok(Principal { tenant: Arc::clone(tenant), key: Arc::clone(&entry.key), key_id, scopes })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use secrecy::{ExposeSecret, SecretSlice};
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::api_key::{PepperVersion, Seed};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn peppers(numbers: &[u8]) -> Peppers {
        let one = |n: &u8| (PepperVersion((*n).into()), SecretSlice::from(vec![*n; 32]));
        Peppers::new(numbers.iter().map(one)).unwrap()
    }

    fn token(byte: u8) -> Key {
        Key::new(
            &Seed::of(|bytes| {
                bytes.fill(byte);
                Ok::<_, ()>(())
            })
            .unwrap(),
        )
    }

    fn object(name: &str, spec: Value, versions: &[KeyVersion]) -> Arc<TenantApiKey> {
        let whole = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey",
            "metadata": {"name": name, "namespace": "tenant-acme", "uid": name}, "spec": spec,
            "status": {"versions": versions},
        });
        Arc::new(serde_json::from_value(whole).unwrap())
    }

    fn tenant(name: &str, uid: &str, namespace: Value) -> Tenant {
        let whole = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": name, "uid": uid},
            "spec": {}, "status": {"namespace": namespace},
        });
        serde_json::from_value(whole).unwrap()
    }

    fn version(key: &Key, peppers: &Peppers) -> KeyVersion {
        lifecycle::version(key, peppers, at(0)).unwrap()
    }

    fn index() -> Index {
        let mut index = Index::default();
        index.apply_tenant(&tenant("acme", "u1", json!("tenant-acme")));
        index
    }

    #[test]
    fn a_key_authenticates_its_tenant_with_its_scopes() {
        let mut index = index();
        index.apply(&object("ci", json!({"scopes": ["jobs:read"]}), &[version(&token(1), &peppers(&[1]))]));
        let principal = index.authenticate(&token(1), &peppers(&[1]), at(9)).unwrap();
        assert_eq!((principal.tenant.name.as_str(), principal.tenant.uid.as_str()), ("acme", "u1"));
        assert!(principal.may(Scope::JobsRead) && !principal.may(Scope::JobsWrite));
        assert_eq!(principal.key_id, token(1).id());
        assert!(!format!("{principal:?}").contains(&token(1).token().expose_secret()[18..]));
    }

    #[test]
    fn an_unknown_id_a_wrong_secret_and_a_lost_pepper_have_one_result() {
        let mut index = index();
        let mut forged = version(&token(1), &peppers(&[1]));
        forged.key_id = token(2).id().to_string();
        index.apply(&object("ci", json!({"revoked": true}), &[version(&token(1), &peppers(&[1])), forged]));
        let refusal = |key, pepper| index.authenticate(&key, &peppers(&[pepper]), at(9)).unwrap_err();
        assert_eq!(refusal(token(3), 1), Refusal::Unknown);
        assert_eq!(
            refusal(token(2), 1),
            Refusal::Unknown,
            "the MAC of another token, and the key is not reported as revoked"
        );
        assert_eq!(refusal(token(1), 2), Refusal::Unknown);
        assert_eq!(refusal(token(1), 1), Refusal::Revoked);
    }

    #[test]
    fn every_version_ends_when_it_should() {
        let mut index = index();
        let mut old = version(&token(1), &peppers(&[1]));
        old.valid_until = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(50)));
        let spec = json!({"expiresAt": "1970-01-01T00:01:40Z"});
        index.apply(&object("ci", spec, &[version(&token(2), &peppers(&[1])), old]));
        let open = |key, now| index.authenticate(&key, &peppers(&[1]), at(now)).map(drop);
        assert_eq!((open(token(1), 49), open(token(1), 50)), (Ok(()), Err(Refusal::Expired)));
        assert_eq!((open(token(2), 99), open(token(2), 100)), (Ok(()), Err(Refusal::Expired)));
    }

    #[test]
    fn while_a_pepper_is_replaced_old_and_new_hashes_are_accepted() {
        let mut index = index();
        let old = version(&token(1), &peppers(&[1]));
        index.apply(&object("ci", json!({}), std::slice::from_ref(&old)));
        let open = |index: &Index, with: &[u8]| index.authenticate(&token(1), &peppers(with), at(9)).is_ok();
        assert!(open(&index, &[1]) && open(&index, &[1, 2]) && !open(&index, &[2]));
        index.apply(&object("ci", json!({}), &[lifecycle::rehashed(&old, &token(1), &peppers(&[1, 2]))]));
        assert!(open(&index, &[1]) && open(&index, &[1, 2]) && open(&index, &[2]));
    }

    #[test]
    fn a_deleted_key_authenticates_nothing() {
        let mut index = index();
        let (one, two) = (version(&token(1), &peppers(&[1])), version(&token(2), &peppers(&[1])));
        let opens = |index: &Index, key| index.authenticate(&key, &peppers(&[1]), at(9)).is_ok();
        index.apply(&object("ci", json!({}), &[one.clone(), two.clone()]));
        index.apply(&object("thief", json!({}), std::slice::from_ref(&one)));
        index.delete("tenant-acme", "thief");
        assert!(opens(&index, token(1)) && opens(&index, token(2)), "a copy takes nothing away");
        index.apply(&object("ci", json!({}), &[two]));
        assert!(!opens(&index, token(1)) && opens(&index, token(2)));
        index.delete("tenant-acme", "ci");
        assert!(!opens(&index, token(2)) && index.is_empty() && index.keys.is_empty());
    }

    #[test]
    fn a_key_that_a_key_has_created_ends_with_it() {
        let created = |by: &str, uid: &str| {
            let spec = json!({"scopes": ["jobs:read", "keys:write"]});
            let mut key = TenantApiKey::clone(&object("child", spec, &[version(&token(1), &peppers(&[1]))]));
            let owner = json!([{"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "name": by, "uid": uid}]);
            key.metadata.owner_references = serde_json::from_value(owner).unwrap();
            Arc::new(key)
        };
        let mut index = index();
        let scopes = |index: &Index| {
            index.authenticate(&token(1), &peppers(&[1]), at(9)).map(|principal| principal.scopes)
        };
        // Step 1: it is accepted while the other exists, with the scopes that both have.
        index.apply(&created("ci", "ci"));
        assert_eq!(scopes(&index), Err(Refusal::Revoked), "the other does not exist");
        index.apply(&object("ci", json!({"scopes": ["jobs:read"]}), &[]));
        assert_eq!(scopes(&index), Ok(vec![Scope::JobsRead]), "and no scope beyond the other's");
        // Step 2: it ends with the other, and does not begin again with a new one of that name.
        let principal = index.authenticate(&token(1), &peppers(&[1]), at(9)).unwrap();
        for (spec, refusal) in [
            (json!({"expiresAt": "1970-01-01T00:00:09Z"}), Refusal::Expired),
            (json!({"revoked": true}), Refusal::Revoked),
        ] {
            index.apply(&object("ci", spec, &[]));
            assert_eq!(scopes(&index), Err(refusal));
            assert_eq!(index.revalidate(&principal, at(9)).err(), Some(refusal));
        }
        index.apply(&object("ci", json!({}), &[]));
        index.apply(&created("ci", "before"));
        assert_eq!(scopes(&index), Err(Refusal::Revoked), "a new key of the same name");
    }

    #[test]
    fn a_key_without_a_tenant_authenticates_nothing() {
        let mut index = index();
        index.apply(&object("ci", json!({}), &[version(&token(1), &peppers(&[1]))]));
        let opens = |index: &Index| {
            index.authenticate(&token(1), &peppers(&[1]), at(9)).map(|p| p.tenant.uid.clone())
        };
        index.delete_tenant("other");
        assert_eq!(opens(&index), Ok("u1".to_owned()));
        index.apply_tenant(&tenant("acme", "u2", json!(null)));
        assert_eq!(opens(&index), Err(Refusal::Unknown));
        index.apply_tenant(&tenant("acme", "u2", json!("tenant-acme")));
        assert_eq!(opens(&index), Ok("u2".to_owned()));
        index.delete_tenant("acme");
        assert_eq!(opens(&index), Err(Refusal::Unknown));
    }
}
