//! What a watch delivers to its subscribers.

use std::sync::Arc;

use kube::{Resource, core::error_boundary::InvalidObject};

/// What happened to an object.
#[derive(Debug)]
pub enum Change<K: Resource> {
    /// It exists, as given.
    Applied(Arc<K>),
    /// It is deleted; as last seen.
    Deleted(Arc<K>),
    /// It exists and can't be read.
    Invalid(Arc<InvalidObject>),
    /// The cache is whole: everything that existed when the list was made has been delivered.
    Synced,
}

// Derived `Clone` would ask for `K: Clone`, which an `Arc<K>` does not need.
impl<K: Resource> Clone for Change<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Applied(object) => Self::Applied(Arc::clone(object)),
            Self::Deleted(object) => Self::Deleted(Arc::clone(object)),
            Self::Invalid(object) => Self::Invalid(Arc::clone(object)),
            Self::Synced => Self::Synced,
        }
    }
}
