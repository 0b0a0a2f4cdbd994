//! The thin, typed edge to the API server: calls under a deadline, apply, status, events, finalizers, and the watch
//! caches that everything else reads from.

pub mod apply;
pub mod call;
pub mod events;
pub mod finalizer;
pub mod status;
pub mod unreadable;
pub mod watch;

pub use call::{CallError, within};
