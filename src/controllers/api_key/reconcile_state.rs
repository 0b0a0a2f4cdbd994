//! What the controller keeps from one reconcile of a key to the next, by the key's UID.
//!
//! It may be lost at any time: a token that was not delivered is then replaced by a new one. A token is kept only from the
//! write of its hash until that of its Secret.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use kube::ResourceExt;

use crate::{api_types::TenantApiKey, domain::api_key::Key};

/// The token that is being written into the Secret, by UID of key.
#[derive(Default)]
pub(super) struct ReconcileState(Mutex<HashMap<String, Key>>);

impl ReconcileState {
    fn entries(&self) -> MutexGuard<'_, HashMap<String, Key>> {
        // Each method leaves the map whole, so a poisoned lock holds nothing broken.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A version was made, and its hash written.
    pub(super) fn hold(&self, uid: &str, token: Key) {
        self.entries().insert(uid.to_owned(), token);
    }

    /// The token that is being written, if it is that of this version.
    pub(super) fn at_hand(&self, uid: &str, key_id: &str) -> Option<Key> {
        self.entries().get(uid).filter(|token| token.id().as_str() == key_id).cloned()
    }

    /// The Secret holds the token of the newest version.
    pub(super) fn delivered(&self, uid: &str) {
        self.entries().remove(uid);
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
        state.delivered("u");
        assert!(state.at_hand("u", &id).is_none());
    }
}
