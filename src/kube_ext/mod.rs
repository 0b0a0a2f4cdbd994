//! The thin, typed edge to the API server: calls under a deadline, apply, status, events, finalizers, and the watch
//! caches that everything else reads from.

pub mod apply;
pub mod backoff;
pub mod call;
mod change;
pub mod controller;
pub mod courtesy;
pub mod date_header;
pub mod events;
pub mod finalizer;
pub mod guard;
pub mod invalid;
pub mod leader_gate;
pub mod lease;
mod list_watch;
#[cfg(test)]
pub(crate) mod mock;
pub mod mutation_cache;
mod outbox;
pub mod policies;
pub mod pulse;
pub mod status;
pub mod streams;
pub mod watch;

pub use call::{CallError, within};

/// Whether an administrator has asked to leave the object alone.
#[must_use]
pub fn is_paused<K: kube::Resource>(object: &K) -> bool {
    object
        .meta()
        .annotations
        .as_ref()
        .and_then(|all| all.get(crate::names::ANNOTATION_PAUSED))
        .is_some_and(|v| v == "true")
}
