//! Which text opens what: every version of every key, by key id. Pure, and rebuilt from the watches alone.
//!
//! Whatever the outcome, a well-formed text costs one look-up, one MAC and one comparison in constant time, so neither the
//! answer nor its time tells an unknown id from a wrong secret; that a key is revoked or expired is told only to who
//! holds its text.

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
        Key, KeyId, Mac, Peppers,
        lifecycle::{self, Closed},
    },
};

/// Who presented a key.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The tenant that the key stands for.
    pub tenant: Arc<TenantOf>,
    /// The key's object.
    pub key: Arc<TenantApiKey>,
    /// The version that was presented.
    pub key_id: KeyId,
}

impl Principal {
    /// Whether the key may do this.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.key.spec.scopes.contains(&scope)
    }
}

/// A tenant, as far as a key needs to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantOf {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
}

/// Why a text is refused.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error, strum::IntoStaticStr, strum::EnumIter,
)]
#[strum(serialize_all = "snake_case")]
pub enum Refusal {
    /// It is no key by its form or checksum; nothing was looked up.
    #[error("this is no API key, or it was cut or mistyped")]
    Malformed,
    /// There is no such key, or the secret is another one: the same answer.
    #[error("there is no such API key")]
    Unknown,
    /// It was revoked.
    #[error("the API key was revoked")]
    Revoked,
    /// It has expired, or was rotated and its overlap is over.
    #[error("the API key has expired")]
    Expired,
    /// This process does not know what is true now: ask again, or another one.
    #[error("API keys can't be checked at the moment")]
    Unready,
}

/// One version of a key.
#[derive(Debug)]
struct Entry {
    key: Arc<TenantApiKey>,
    /// Its place in the key's status.
    at: usize,
}

impl Entry {
    fn version(&self) -> Option<&KeyVersion> {
        self.key.status.as_ref()?.versions.get(self.at)
    }
}

/// Namespace and name.
type Name = (String, String);

/// All keys.
#[derive(Debug, Default)]
pub struct Index {
    versions: HashMap<KeyId, Entry>,
    /// The ids that each object brought in.
    ids: HashMap<Name, Vec<KeyId>>,
    /// By namespace.
    tenants: HashMap<String, Arc<TenantOf>>,
}

fn name(key: &TenantApiKey) -> Name {
    (key.namespace().unwrap_or_default(), key.name_any())
}

impl Index {
    /// A key exists, as given.
    pub fn apply(&mut self, key: &Arc<TenantApiKey>) {
        let name = name(key);
        self.forget(&name);
        let versions = key.status.iter().flat_map(|status| &status.versions);
        for (at, version) in versions.enumerate() {
            let Ok(id) = version.key_id.parse::<KeyId>() else { continue };
            match self.versions.entry(id) {
                Slot::Vacant(slot) => {
                    slot.insert(Entry { key: Arc::clone(key), at });
                    self.ids.entry(name.clone()).or_default().push(id);
                }
                // 71 random bits: somebody has copied a status.
                Slot::Occupied(_) => {
                    tracing::error!(key = ?name, %id, "another key has this id already, and keeps it");
                }
            }
        }
    }

    /// A key is deleted, or can't be read any more, so that it is not known whether it was revoked.
    pub fn delete(&mut self, namespace: &str, name: &str) {
        self.forget(&(namespace.to_owned(), name.to_owned()));
    }

    fn forget(&mut self, name: &Name) {
        for id in self.ids.remove(name).unwrap_or_default() {
            self.versions.remove(&id);
        }
    }

    /// A tenant exists, as given.
    pub fn apply_tenant(&mut self, tenant: &Tenant) {
        let (name, uid) = (tenant.name_any(), tenant.uid().unwrap_or_default());
        self.tenants.retain(|_, known| known.name != name);
        // The tenant controller writes the namespace only once it carries the tenant's UID.
        if let Some(namespace) = tenant.status.as_ref().and_then(|status| status.namespace.clone()) {
            let tenant = TenantOf { name, uid, namespace: namespace.clone() };
            self.tenants.insert(namespace, Arc::new(tenant));
        }
    }

    /// A tenant is deleted, or can't be read any more.
    pub fn delete_tenant(&mut self, name: &str) {
        self.tenants.retain(|_, known| known.name != name);
    }

    /// How many versions there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.versions.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.versions.is_empty()
    }

    /// Who presents this key, by what the index knows.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn authenticate(
        &self,
        presented: &Key,
        peppers: &Peppers,
        now: Timestamp,
    ) -> Result<Principal, Refusal> {
        let entry = self.versions.get(&presented.id());
        let version = entry.and_then(Entry::version);
        let under = |pepper| Some((pepper, lifecycle::mac_of(version?, pepper)?));
        // One MAC in any case; an unknown id is compared with what is the MAC of nothing.
        let stored = peppers.versions().find_map(under);
        let (pepper, expected) = stored.unwrap_or((peppers.newest(), Mac::NOTHING));
        let is_same = peppers.mac(pepper, presented).is_some_and(|mac| mac.is(&expected));
        let (Some(entry), Some(version), true) = (entry, version, is_same && stored.is_some()) else {
            return Err(Refusal::Unknown);
        };
        self.opened(entry, version, presented.id(), now)
    }

    /// Who presented a key, known from before, as it is now.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn again(&self, before: &Principal, now: Timestamp) -> Result<Principal, Refusal> {
        let entry = self.versions.get(&before.key_id);
        let entry = entry.filter(|entry| entry.key.metadata.uid == before.key.metadata.uid);
        let (Some(entry), Some(version)) = (entry, entry.and_then(Entry::version)) else {
            return Err(Refusal::Unknown);
        };
        let principal = self.opened(entry, version, before.key_id, now)?;
        if principal.tenant.uid == before.tenant.uid { Ok(principal) } else { Err(Refusal::Unknown) }
    }

    /// What a version opens, whose text is known to be its own.
    fn opened(
        &self,
        entry: &Entry,
        version: &KeyVersion,
        key_id: KeyId,
        now: Timestamp,
    ) -> Result<Principal, Refusal> {
        let tenant = self.tenants.get(entry.key.metadata.namespace.as_deref().unwrap_or_default());
        let tenant = tenant.ok_or(Refusal::Unknown)?;
        match lifecycle::refused(&entry.key.spec, version, now) {
            Some(Closed::Revoked) => Err(Refusal::Revoked),
            Some(Closed::Expired) => Err(Refusal::Expired),
            None => Ok(Principal { tenant: Arc::clone(tenant), key: Arc::clone(&entry.key), key_id }),
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

    fn text(byte: u8) -> Key {
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
    fn a_key_opens_its_tenant_with_its_scopes() {
        let mut index = index();
        index.apply(&object("ci", json!({"scopes": ["jobs:read"]}), &[version(&text(1), &peppers(&[1]))]));
        let principal = index.authenticate(&text(1), &peppers(&[1]), at(9)).unwrap();
        assert_eq!((principal.tenant.name.as_str(), principal.tenant.uid.as_str()), ("acme", "u1"));
        assert!(principal.may(Scope::JobsRead) && !principal.may(Scope::JobsWrite));
        assert_eq!(principal.key_id, text(1).id());
        assert!(!format!("{principal:?}").contains(&text(1).text().expose_secret()[18..]));
    }

    #[test]
    fn an_unknown_id_a_wrong_secret_and_a_lost_pepper_have_one_answer() {
        let mut index = index();
        let mut forged = version(&text(1), &peppers(&[1]));
        forged.key_id = text(2).id().to_string();
        index.apply(&object("ci", json!({"revoked": true}), &[version(&text(1), &peppers(&[1])), forged]));
        let refusal = |key, pepper| index.authenticate(&key, &peppers(&[pepper]), at(9)).unwrap_err();
        assert_eq!(refusal(text(3), 1), Refusal::Unknown);
        assert_eq!(
            refusal(text(2), 1),
            Refusal::Unknown,
            "the MAC of another text; nor is it told as revoked"
        );
        assert_eq!(refusal(text(1), 2), Refusal::Unknown);
        assert_eq!(refusal(text(1), 1), Refusal::Revoked);
    }

    #[test]
    fn every_version_ends_when_it_should() {
        let mut index = index();
        let mut old = version(&text(1), &peppers(&[1]));
        old.valid_until = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(50)));
        let spec = json!({"expiresAt": "1970-01-01T00:01:40Z"});
        index.apply(&object("ci", spec, &[version(&text(2), &peppers(&[1])), old]));
        let open = |key, now| index.authenticate(&key, &peppers(&[1]), at(now)).map(drop);
        assert_eq!((open(text(1), 49), open(text(1), 50)), (Ok(()), Err(Refusal::Expired)));
        assert_eq!((open(text(2), 99), open(text(2), 100)), (Ok(()), Err(Refusal::Expired)));
    }

    #[test]
    fn while_a_pepper_is_replaced_old_and_new_hashes_are_recognised() {
        let mut index = index();
        let old = version(&text(1), &peppers(&[1]));
        index.apply(&object("ci", json!({}), std::slice::from_ref(&old)));
        let open = |index: &Index, with: &[u8]| index.authenticate(&text(1), &peppers(with), at(9)).is_ok();
        assert!(open(&index, &[1]) && open(&index, &[1, 2]) && !open(&index, &[2]));
        index.apply(&object("ci", json!({}), &[lifecycle::rehashed(&old, &text(1), &peppers(&[1, 2]))]));
        assert!(open(&index, &[1]) && open(&index, &[1, 2]) && open(&index, &[2]));
    }

    #[test]
    fn what_is_gone_opens_nothing() {
        let mut index = index();
        let (one, two) = (version(&text(1), &peppers(&[1])), version(&text(2), &peppers(&[1])));
        let opens = |index: &Index, key| index.authenticate(&key, &peppers(&[1]), at(9)).is_ok();
        index.apply(&object("ci", json!({}), &[one.clone(), two.clone()]));
        index.apply(&object("thief", json!({}), std::slice::from_ref(&one)));
        index.delete("tenant-acme", "thief");
        assert!(opens(&index, text(1)) && opens(&index, text(2)), "a copy takes nothing away");
        index.apply(&object("ci", json!({}), &[two]));
        assert!(!opens(&index, text(1)) && opens(&index, text(2)));
        index.delete("tenant-acme", "ci");
        assert!(!opens(&index, text(2)) && index.is_empty() && index.ids.is_empty());
    }

    #[test]
    fn a_key_of_no_tenant_opens_nothing() {
        let mut index = index();
        index.apply(&object("ci", json!({}), &[version(&text(1), &peppers(&[1]))]));
        let opens =
            |index: &Index| index.authenticate(&text(1), &peppers(&[1]), at(9)).map(|p| p.tenant.uid.clone());
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
