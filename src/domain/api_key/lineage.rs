//! The keys that a key comes from. One that a key has made over REST has an ownerReference to it, its parent, and ends with
//! it: a key that is revoked leaves no other behind that can still do what it could.
//!
//! A parent is known by its UID, so that a new key of the same name is not taken for it. Kubernetes deletes the children of a
//! deleted key; that they are refused does not wait for this.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Resource, ResourceExt};

use super::lifecycle::{self, Closed};
use crate::{
    api_types::{TenantApiKey, api_key::Scope},
    names,
};

/// Most keys in a line: a bound for ownerReferences in a circle.
const MAX_ANCESTORS: usize = 100;

/// The parent of a key, if a key has made it.
#[must_use]
pub fn parent(key: &TenantApiKey) -> Option<&OwnerReference> {
    let is_key = |owner: &&OwnerReference| {
        owner.kind == TenantApiKey::kind(&()) && owner.api_version.split('/').next() == Some(names::GROUP)
    };
    key.owner_references().iter().find(is_key)
}

/// The keys that a key comes from, its parent first.
#[derive(Clone, Debug)]
pub struct Lineage {
    ancestors: Vec<Arc<TenantApiKey>>,
    /// The name of an ancestor that does not exist (any more), or can't be read.
    missing: Option<String>,
    /// Whether there is another key of that name in its place.
    replaced: bool,
}

impl Lineage {
    /// The lineage of a key; `find` finds the key of a name in the same namespace.
    #[must_use]
    pub fn of(key: &TenantApiKey, find: impl Fn(&str) -> Option<Arc<TenantApiKey>>) -> Self {
        let mut lineage = Self { ancestors: Vec::new(), missing: None, replaced: false };
        while let Some(parent) = parent(lineage.ancestors.last().map_or(key, |last| last)) {
            let named = find(&parent.name).filter(|_| lineage.ancestors.len() < MAX_ANCESTORS);
            lineage.replaced =
                named.as_ref().is_some_and(|found| found.metadata.uid.as_ref() != Some(&parent.uid));
            match named.filter(|_| !lineage.replaced) {
                Some(found) => lineage.ancestors.push(found),
                None => {
                    lineage.missing = Some(parent.name.clone());
                    break;
                }
            }
        }
        lineage
    }

    /// The ancestor with which the key has ended, by name, and how it has ended; `None` where all are accepted. One that does
    /// not exist counts as revoked.
    #[must_use]
    pub fn ended(&self, now: Timestamp) -> Option<(String, Closed)> {
        let missing = self.missing.clone().map(|name| (name, Closed::Revoked));
        let closed = |key: &Arc<TenantApiKey>| Some((key.name_any(), lifecycle::closed(&key.spec, now)?));
        missing.or_else(|| self.ancestors.iter().find_map(closed))
    }

    /// Whether an ancestor is not found, and may be one that can't be read.
    #[must_use]
    pub fn misses_one(&self) -> bool {
        self.missing.is_some() && !self.replaced
    }

    /// When the first ancestor expires.
    #[must_use]
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.ancestors.iter().filter_map(|key| Some(key.spec.expires_at.as_ref()?.0)).min()
    }

    /// Those of a key's scopes that all of its ancestors have.
    #[must_use]
    pub fn scopes(&self, key: &TenantApiKey) -> Vec<Scope> {
        let has_each = |scope: &&Scope| self.ancestors.iter().all(|key| key.spec.scopes.contains(scope));
        key.spec.scopes.iter().filter(has_each).copied().collect()
    }

    /// Whether the key comes from this one.
    #[must_use]
    pub fn contains(&self, other: &TenantApiKey) -> bool {
        self.ancestors.iter().any(|key| key.metadata.uid == other.metadata.uid)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A key whose UID is `u-` and its name, made by the key of this name and UID.
    fn key(name: &str, made_by: Option<(&str, &str)>, spec: Value) -> Arc<TenantApiKey> {
        let owner = |(name, uid): (&str, &str)| json!({"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "name": name, "uid": uid});
        let owners: Vec<Value> = made_by.map(owner).into_iter().collect();
        let metadata = json!({"name": name, "uid": format!("u-{name}"), "ownerReferences": owners});
        let whole = json!({"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": metadata, "spec": spec});
        Arc::new(serde_json::from_value(whole).unwrap())
    }

    fn lineage(all: &[Arc<TenantApiKey>]) -> Lineage {
        Lineage::of(&all[0], |name| all.iter().find(|key| key.name_any() == name).cloned())
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn a_key_ends_with_each_of_its_ancestors_and_has_no_scope_beyond_theirs() {
        let child = key("c", Some(("b", "u-b")), json!({"scopes": ["jobs:read", "keys:write"]}));
        let parent = key("b", Some(("a", "u-a")), json!({"scopes": ["jobs:read", "keys:write"]}));
        let with = |first: Value| lineage(&[child.clone(), parent.clone(), key("a", None, first)]);
        let all = with(json!({"scopes": ["keys:write"], "expiresAt": "1970-01-01T00:00:09Z"}));
        assert_eq!(all.ended(at(8)), None);
        assert_eq!(all.ended(at(9)), Some(("a".to_owned(), Closed::Expired)));
        assert_eq!(all.expires_at(), Some(at(9)));
        assert_eq!(all.scopes(&child), [Scope::KeysWrite]);
        assert!(all.contains(&parent) && !all.contains(&child));
        assert_eq!(with(json!({"revoked": true})).ended(at(0)), Some(("a".to_owned(), Closed::Revoked)));
        let gone = lineage(&[child.clone(), parent.clone()]);
        assert_eq!(gone.ended(at(0)), Some(("a".to_owned(), Closed::Revoked)), "deleted");
        assert!(gone.misses_one() && !all.misses_one());
        let none = lineage(&[key("a", None, json!({"scopes": ["jobs:read"]}))]);
        assert_eq!((none.ended(at(0)), none.expires_at()), (None, None));
    }

    #[test]
    fn a_parent_of_another_uid_and_a_circle_are_no_lineage() {
        let child = key("c", Some(("b", "u-before")), json!({}));
        let all = lineage(&[child, key("b", None, json!({}))]);
        assert_eq!(all.ended(at(0)), Some(("b".to_owned(), Closed::Revoked)));
        let circle =
            lineage(&[key("c", Some(("b", "u-b")), json!({})), key("b", Some(("c", "u-c")), json!({}))]);
        assert_eq!(circle.ended(at(0)).map(|(_, closed)| closed), Some(Closed::Revoked));
        let mut other = TenantApiKey::clone(&key("c", Some(("b", "u-b")), json!({})));
        other.metadata.owner_references.as_mut().unwrap()[0].kind = "Tenant".to_owned();
        assert_eq!(parent(&other), None, "an owner of another kind");
    }
}
