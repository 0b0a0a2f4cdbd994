//! Objects that are stored in a form that can't be read: by hand, or under another schema.
//!
//! They stop no other client. [`split_invalid`] takes them out of a watch's changes for a controller of their own, which
//! works on their metadata and says on the object itself what is wrong, in the decoder's words. What the cache of
//! readable objects still holds of such an object is an earlier state: [`InvalidObjects::contains`] says so.

use std::{fmt::Debug, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject},
    core::{ObjectMeta, PartialObjectMeta, PartialObjectMetaExt},
    runtime::{
        reflector::{self, ObjectRef, Store, store::Writer},
        watcher,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::{
    call::within_opt,
    events::Events,
    status::{self, StatusError},
    watch::Change,
};
use crate::api_types::{
    Reason,
    conditions::{self, Wanted},
};

/// The metadata of an object, which can always be read.
pub type Meta<K> = PartialObjectMeta<K>;

/// Which objects of a kind can't be read, as they are stored now.
#[derive(Clone)]
pub struct InvalidObjects<K: Resource<DynamicType = ()> + 'static>(Store<Meta<K>>);

/// An empty cache, and its writer for [`split_invalid`].
#[must_use]
pub fn cache<K: Resource<DynamicType = ()> + Clone + 'static>() -> (InvalidObjects<K>, Writer<Meta<K>>) {
    let (store, mut writer) = reflector::store();
    // Ready from the start: it is filled by what the watch of readable objects can't read.
    writer.apply_watcher_event(&watcher::Event::Init);
    writer.apply_watcher_event(&watcher::Event::InitDone);
    (InvalidObjects(store), writer)
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> InvalidObjects<K> {
    /// The cache itself, for a controller.
    #[must_use]
    pub fn store(&self) -> Store<Meta<K>> {
        self.0.clone()
    }

    /// Whether the object, as it is stored now, can't be read, so that `object` is an earlier state of it.
    #[must_use]
    pub fn contains(&self, object: &K) -> bool {
        let (name, namespace) = (object.name_any(), object.namespace());
        self.uid(&name, namespace.as_deref()).is_some_and(|uid| Some(uid) == object.uid())
    }

    /// The UID of the unreadable object of that name, if there is one.
    #[must_use]
    pub fn uid(&self, name: &str, namespace: Option<&str>) -> Option<String> {
        let reference = ObjectRef::new(name);
        let reference = match namespace {
            Some(namespace) => reference.within(namespace),
            None => reference,
        };
        self.0.get(&reference)?.uid()
    }
}

/// Sends each object to the controller that can deal with it, and keeps the cache of invalid objects; `deleted` is
/// called for each that was deleted. Ends when the watch or a controller does.
pub async fn split_invalid<K>(
    mut changes: mpsc::Receiver<Change<K>>,
    mut invalid: Writer<Meta<K>>,
    valid_sender: mpsc::Sender<Arc<K>>,
    invalid_sender: mpsc::Sender<Arc<Meta<K>>>,
    deleted: impl Fn(&K),
) where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let meta = |metadata: &ObjectMeta| metadata.clone().into_request_partial::<K>();
    while let Some(change) = changes.recv().await {
        let sent = match change {
            Change::Applied(object) => {
                invalid.apply_watcher_event(&watcher::Event::Delete(meta(object.meta())));
                valid_sender.send(object).await.is_ok()
            }
            Change::Deleted(object) => {
                invalid.apply_watcher_event(&watcher::Event::Delete(meta(object.meta())));
                deleted(&object);
                valid_sender.send(object).await.is_ok()
            }
            Change::Invalid(object) => {
                let found = meta(&object.metadata);
                let (kind, name, namespace) = (K::kind(&()), found.name_any(), found.namespace());
                tracing::warn!(%kind, name, namespace, error = object.error, "an object can't be read");
                invalid.apply_watcher_event(&watcher::Event::Apply(found.clone()));
                invalid_sender.send(Arc::new(found)).await.is_ok()
            }
            Change::Synced => true,
        };
        if !sent {
            return;
        }
    }
}

/// An object as it is stored, that its type can't be made of.
pub struct Raw<K: Resource<DynamicType = ()>> {
    /// Its metadata.
    pub meta: Meta<K>,
    /// All the rest.
    pub data: Value,
    /// Why it can't be read.
    pub error: serde_json::Error,
}

/// Reads an object raw; `None` when it is deleted, or can be read after all (which the watch delivers).
///
/// # Errors
/// The call's.
pub async fn read<K>(api: &Api<DynamicObject>, name: &str) -> Result<Option<Raw<K>>, StatusError>
where
    K: Resource<DynamicType = ()> + DeserializeOwned,
{
    let what = format!("failed to read {} {name}", K::kind(&()));
    let Some(object) = within_opt(what, api.get(name)).await? else { return Ok(None) };
    let Err(error) = serde_json::from_value::<K>(serde_json::to_value(&object)?) else { return Ok(None) };
    let meta = object.metadata.into_request_partial();
    Ok(Some(Raw { meta, data: object.data, error }))
}

/// What the status of an invalid object is to say.
pub struct Report {
    /// Why it is invalid, in a sentence; the note of the Event.
    pub message: String,
    /// Its conditions.
    pub conditions: Vec<Wanted>,
    /// Types of conditions that stay as they are.
    pub keep: &'static [&'static str],
    /// Other fields.
    pub fields: Map<String, Value>,
}

/// Writes into the status of an invalid object what `describe` makes of it, with an Event where that is new. Nothing is
/// written where the object is deleted or valid by now, which the watch delivers.
///
/// # Errors
/// The call's; a conflict (409) means that the object has changed meanwhile.
pub async fn report<K>(
    client: &Client,
    object: &Meta<K>,
    events: &Events,
    now: Timestamp,
    describe: impl FnOnce(&Raw<K>) -> Report,
) -> Result<(), StatusError>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    let api = Api::namespaced_with(client.clone(), &namespace, &ApiResource::erase::<K>(&()));
    let Some(raw) = read::<K>(&api, &name).await? else { return Ok(()) };
    let Report { message, conditions, keep, fields } = describe(&raw);
    let api: Api<Meta<K>> = Api::namespaced(client.clone(), &namespace);
    if write_status(&api, &raw, conditions, keep, fields, now).await? {
        events.warning(&raw.meta, Reason::InvalidObject, message);
    }
    Ok(())
}

/// Writes `wanted` and the fields `more` into the object's status, where they are not there yet; other conditions go,
/// but for those in `keep`. True when something was written.
///
/// # Errors
/// The call's; a conflict (409) means that the object has changed meanwhile.
pub async fn write_status<K>(
    api: &Api<Meta<K>>,
    raw: &Raw<K>,
    wanted: Vec<Wanted>,
    keep: &[&str],
    more: Map<String, Value>,
    now: Timestamp,
) -> Result<bool, StatusError>
where
    K: Resource<DynamicType = ()> + Clone + Debug + 'static,
    Meta<K>: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let old_status = raw.data.get("status").cloned().unwrap_or(Value::Null);
    let old = old_status.get("conditions").cloned().unwrap_or_default();
    // Conditions that can't be read are written again.
    let old: Vec<_> = serde_json::from_value(old).unwrap_or_default();
    let generation = raw.meta.meta().generation;
    let mut all = conditions::merge(&old, wanted, generation, now);
    all.extend(old.into_iter().filter(|condition| keep.contains(&condition.type_.as_str())));
    let mut new = old_status.as_object().cloned().unwrap_or_default();
    new.insert("conditions".to_owned(), serde_json::to_value(all)?);
    new.insert("observedGeneration".to_owned(), json!(generation));
    new.extend(more);
    Ok(status::write(api, &raw.meta, Some(&old_status), &Value::Object(new)).await?.is_some())
}
