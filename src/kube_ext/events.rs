//! Events on objects, for people who run `kubectl describe`.
//!
//! An Event is a courtesy: a failure to write one is logged and never holds up what it tells of.

use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use super::call::within;
use crate::{api_types::Reason, names};

/// Writes Events in Crofter's name.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// A writer that uses `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        let reporter = Reporter { controller: names::MANAGER.to_owned(), instance: None };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Tells that something happened to `object`.
    pub async fn normal<K>(&self, object: &K, reason: Reason, note: String)
    where
        K: Resource<DynamicType = ()>,
    {
        self.publish(object, EventType::Normal, reason, note).await;
    }

    /// Tells that something about `object` needs somebody's attention.
    pub async fn warning<K>(&self, object: &K, reason: Reason, note: String)
    where
        K: Resource<DynamicType = ()>,
    {
        self.publish(object, EventType::Warning, reason, note).await;
    }

    async fn publish<K>(&self, object: &K, type_: EventType, reason: Reason, mut note: String)
    where
        K: Resource<DynamicType = ()>,
    {
        /// The API server refuses a longer note.
        const LONGEST_NOTE: usize = 1024;
        if note.len() > LONGEST_NOTE {
            note = note.chars().take(LONGEST_NOTE / 4).collect();
        }
        let reason = reason.as_str().to_owned();
        let event = Event { type_, action: reason.clone(), reason, note: Some(note), secondary: None };
        let reference = object.object_ref(&());
        if let Err(error) = within("writing an Event", self.recorder.publish(&event, &reference)).await {
            tracing::warn!(%error, event.reason, "an Event was not written");
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}
