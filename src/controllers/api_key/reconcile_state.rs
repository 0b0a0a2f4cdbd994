//! What the controller keeps from one reconcile of a key to the next, by the key's UID.
//!
//! All of it may be lost at any time: a token that was not delivered is then replaced by a new one, and a Secret is read
//! once more. A token is kept only from the write of its hash until that of its Secret.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kube::ResourceExt;

use crate::{api_types::TenantApiKey, domain::api_key::Key};

#[derive(Default)]
struct Entry {
    /// The token that is being written into the Secret.
    at_hand: Option<Key>,
    /// The version of the Secret that was read, and the id of the version whose token it holds.
    verified: Option<(String, String)>,
}

/// By UID of key.
#[derive(Default)]
pub(super) struct ReconcileState(Mutex<HashMap<String, Entry>>);

impl ReconcileState {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        // Each method leaves the map whole, so a poisoned lock holds nothing broken.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A version was made, and its hash written.
    pub(super) fn hold(&self, uid: &str, token: Key) {
        self.entries().entry(uid.to_owned()).or_default().at_hand = Some(token);
    }

    /// The token that is being written, if it is that of this version.
    pub(super) fn at_hand(&self, uid: &str, key_id: &str) -> Option<Key> {
        let entries = self.entries();
        entries.get(uid)?.at_hand.as_ref().filter(|token| token.id().as_str() == key_id).cloned()
    }

    /// The Secret of this version holds the token of this one, which is written.
    pub(super) fn verified(&self, uid: &str, secret_version: String, key_id: &str) {
        let mut entries = self.entries();
        let entry = entries.entry(uid.to_owned()).or_default();
        entry.verified = Some((secret_version, key_id.to_owned()));
        entry.at_hand = None;
    }

    /// Whether the Secret in this version is known to hold the token of this version of the key.
    pub(super) fn is_verified(&self, uid: &str, secret_version: &str, key_id: &str) -> bool {
        let known = |entry: &Entry| {
            entry.verified.as_ref().is_some_and(|(secret, id)| secret == secret_version && id == key_id)
        };
        self.entries().get(uid).is_some_and(known)
    }

    /// The key is deleted, or ended.
    pub(super) fn forget(&self, key: &TenantApiKey) {
        self.entries().remove(&key.uid().unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::api_key::Seed;

    #[test]
    fn a_text_is_there_until_it_was_delivered_and_only_for_its_version() {
        let seed = Seed::of(|bytes| {
            bytes.fill(3);
            Ok::<_, ()>(())
        });
        let token = Key::new(&seed.unwrap());
        let id = token.id().to_string();
        let state = ReconcileState::default();
        state.hold("u", token);
        assert!(state.at_hand("u", "another").is_none() && state.at_hand("v", &id).is_none());
        assert!(state.at_hand("u", &id).is_some());
        state.verified("u", "7".into(), &id);
        assert!(state.at_hand("u", &id).is_none());
        assert!(state.is_verified("u", "7", &id));
        assert!(!state.is_verified("u", "8", &id) && !state.is_verified("u", "7", "another"));
    }
}
