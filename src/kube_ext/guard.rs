//! Objects of a list or a watch, each read for itself: one that can't be read stops none of the others.

use std::borrow::Cow;

use kube::{
    Resource,
    core::{ObjectMeta, PartialObjectMeta, error_boundary::InvalidObject},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error},
};
use serde_json::value::RawValue;

use crate::names::PREFIX;

/// An object, or why it can't be read.
///
/// As kube's `DeserializeGuard`, but for JSON only, and so in one step: kube's makes a tree of each object, copies
/// that, and reads the copy, which took a quarter of the operator's time under load. Here the object is read from its
/// text.
#[derive(Clone, Debug)]
pub struct Guarded<K>(pub Result<K, InvalidObject>);

impl<'de, K: Resource + DeserializeOwned> Deserialize<'de> for Guarded<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Box::<RawValue>::deserialize(deserializer)?;
        serde_json::from_str(text.get())
            .map(Ok)
            .or_else(|error| {
                let PartialObjectMeta::<K> { mut metadata, .. } =
                    serde_json::from_str(text.get()).map_err(D::Error::custom)?;
                // It is kept for as long as the object can't be read, and nothing else bounds it.
                metadata.managed_fields = None;
                if let Some(annotations) = &mut metadata.annotations {
                    annotations.retain(|name, _| name.starts_with(PREFIX));
                }
                Ok(Err(InvalidObject { error: error.to_string(), metadata }))
            })
            .map(Guarded)
    }
}

impl<K: Resource> Resource for Guarded<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(of: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &Self::DynamicType) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &Self::DynamicType) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.as_ref().map_or_else(|invalid| &invalid.metadata, K::meta)
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.as_mut().map_or_else(|invalid| &mut invalid.metadata, K::meta_mut)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::core::{ObjectList, WatchEvent};

    use super::*;

    const GOOD: &str = r#"{"metadata":{"name":"good"},"data":{"a":"b"}}"#;
    const BAD: &str = r#"{"metadata":{"name":"bad","uid":"u"},"data":{"a":1}}"#;

    fn summary(object: &Guarded<ConfigMap>) -> (Option<&str>, Result<usize, &str>) {
        let read = object.0.as_ref().map(|map| map.data.as_ref().map_or(0, |data| data.len()));
        (object.meta().name.as_deref(), read.map_err(|invalid| invalid.error.as_str()))
    }

    const WORDS: &str = "invalid type: integer `1`, expected a string at line 1 column 50";

    #[test]
    fn one_that_cannot_be_read_stops_none_of_a_list() {
        let list = format!(r#"{{"kind":"ConfigMapList","metadata":{{}},"items":[{BAD},{GOOD}]}}"#);
        let list: ObjectList<Guarded<ConfigMap>> = serde_json::from_str(&list).unwrap();
        let all: Vec<_> = list.items.iter().map(summary).collect();
        assert_eq!(all, [(Some("bad"), Err(WORDS)), (Some("good"), Ok(1))]);
    }

    #[test]
    fn of_one_that_cannot_be_read_no_more_is_kept_than_is_asked_of_it() {
        let text = format!(
            r#"{{"metadata":{{"name":"bad","annotations":{{"crofter.io/paused":"true","large":"{}"}},
            "managedFields":[{{"manager":"m"}}]}},"data":{{"a":1}}}}"#,
            "x".repeat(100_000)
        );
        let Guarded(Err(bad)) = serde_json::from_str::<Guarded<ConfigMap>>(&text).unwrap() else {
            panic!("it is read")
        };
        let paused = [("crofter.io/paused".to_owned(), "true".to_owned())];
        assert_eq!((bad.metadata.annotations, bad.metadata.managed_fields), (Some(paused.into()), None));
    }

    #[test]
    fn one_that_cannot_be_read_is_an_event_of_a_watch() {
        let event = |object: &str| {
            let line = format!(r#"{{"type":"MODIFIED","object":{object}}}"#);
            serde_json::from_str::<WatchEvent<Guarded<ConfigMap>>>(&line)
        };
        let WatchEvent::Modified(bad) = event(BAD).unwrap() else { panic!("another event") };
        assert_eq!(summary(&bad), (Some("bad"), Err(WORDS)));
        let WatchEvent::Modified(good) = event(GOOD).unwrap() else { panic!("another event") };
        assert_eq!(summary(&good), (Some("good"), Ok(1)));
        assert!(event(r#"{"metadata":7}"#).is_err(), "invalid metadata names no object");
    }
}
