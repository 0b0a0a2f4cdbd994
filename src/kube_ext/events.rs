//! Events on objects, for people who run `kubectl describe`.
//!
//! An Event is a courtesy: a failure to write one is logged and never holds up what it tells of. Each is an object of its
//! own: kube's recorder would count a second one of the same reason within six minutes on the first and drop its text,
//! and it is the numbers in the text that change. Callers tell of changes only, so there is no flood.

use kube::{
    Client, Resource,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use super::call::within;
use crate::{api_types::Reason, names};

/// Writes Events in Crofter's name.
#[derive(Clone)]
pub struct Events {
    client: Client,
}

impl Events {
    /// A writer that uses `client`.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client }
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
        let reporter = Reporter { controller: names::MANAGER.to_owned(), instance: None };
        let recorder = Recorder::new(self.client.clone(), reporter);
        if let Err(error) = within("writing an Event", recorder.publish(&event, &reference)).await {
            tracing::warn!(%error, event.reason, "an Event was not written");
        }
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Events")
    }
}
