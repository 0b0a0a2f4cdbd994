//! For the tests of controllers: an API server in memory, and caches that hold what a test puts there.
//!
//! [`Fake`] keeps objects by path, records every call in order, and refuses the calls that the test names. A test whose
//! API server must know more puts its own answers behind [`client`].

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::{
    Client, Resource,
    client::Body,
    runtime::{
        reflector::{self, Store, store::Writer},
        watcher::Event,
    },
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::events::{self, Events};
use crate::metrics::Metrics;

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    calls: Vec<Call>,
    /// Status code and message, by path.
    refusals: BTreeMap<String, (u16, String)>,
    versions: u64,
}

/// A call as it was made.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Value,
}

/// A client whose calls are answered with a status code and an object.
pub(crate) fn client(answer: impl Fn(Call) -> (u16, Value) + Clone + Send + 'static) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let answer = answer.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            let query = parts.uri.query().unwrap_or_default().to_owned();
            let path = parts.uri.path().to_owned();
            let (code, answer) = answer(Call { method: parts.method, path, query, body });
            let bytes = serde_json::to_vec(&answer).unwrap();
            Ok::<_, Infallible>(Response::builder().status(code).body(Body::from(bytes)).unwrap())
        }
    });
    Client::new(service, "default")
}

/// `METHOD path` of each call, in order; Events by their reason.
pub(crate) fn outline(calls: &[Call]) -> Vec<String> {
    let one = |call: &Call| match call.body["kind"].as_str() {
        Some("Event") => format!("Event {}", call.body["reason"].as_str().unwrap()),
        _ => format!("{} {}", call.method, call.path),
    };
    calls.iter().map(one).collect()
}

/// An API server in memory.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

impl Fake {
    pub(crate) fn client(&self) -> Client {
        let fake = self.clone();
        client(move |call| fake.answer(call))
    }

    /// Puts an object there, or changes it, without a call.
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut state = self.0.lock().unwrap();
        state.versions += 1;
        object["metadata"]["resourceVersion"] = json!(state.versions.to_string());
        state.objects.insert(path.to_owned(), object);
    }

    pub(crate) fn take(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.remove(path)
    }

    pub(crate) fn get(&self, path: &str) -> Value {
        self.0.lock().unwrap().objects.get(path).cloned().unwrap_or(Value::Null)
    }

    /// Refuses every call to that path from now on, with this code; 0 ends it.
    pub(crate) fn refuse(&self, path: &str, code: u16) {
        self.refuse_with(path, code, "refused by the test");
    }

    /// As [`refuse`](Self::refuse), in these words.
    pub(crate) fn refuse_with(&self, path: &str, code: u16, message: &str) {
        self.0.lock().unwrap().refusals.insert(path.to_owned(), (code, message.to_owned()));
    }

    /// The calls since the last call of this method.
    pub(crate) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }

    pub(crate) fn answer(&self, call: Call) -> (u16, Value) {
        let mut state = self.0.lock().unwrap();
        state.calls.push(call.clone());
        state.versions += 1;
        let version = state.versions.to_string();
        let Call { method, path, body, query } = call;
        if let Some((code, message)) = state.refusals.get(&path).filter(|(code, _)| *code > 0) {
            return refusal(*code, message);
        }
        let at = path.trim_end_matches("/status").to_owned();
        match method {
            Method::GET => match state.objects.get(&at) {
                Some(object) => (200, object.clone()),
                None => {
                    let (code, mut status) = refusal(404, "not found");
                    // By this word a client knows that the object is absent.
                    status["reason"] = json!("NotFound");
                    (code, status)
                }
            },
            Method::POST => {
                let mut object = body;
                let path = format!("{path}/{}", object["metadata"]["name"].as_str().unwrap());
                if state.objects.contains_key(&path) {
                    return refusal(409, "already exists");
                }
                object["metadata"]["uid"] = json!(format!("uid-{version}"));
                object["metadata"]["resourceVersion"] = json!(version);
                state.objects.insert(path, object.clone());
                (201, object)
            }
            Method::PATCH => {
                let apply = query.contains("fieldManager");
                if !apply && !state.objects.contains_key(&at) {
                    return refusal(404, "not found");
                }
                let object = state.objects.entry(at).or_insert_with(|| json!({}));
                let given = &body["metadata"]["resourceVersion"];
                if !given.is_null() && *given != object["metadata"]["resourceVersion"] {
                    return refusal(409, "the object has been modified");
                }
                merge(object, &body);
                object["metadata"]["resourceVersion"] = json!(version);
                (200, object.clone())
            }
            Method::PUT => {
                let Some(object) = state.objects.get_mut(&at) else { return refusal(404, "not found") };
                let given = &body["metadata"]["resourceVersion"];
                if !given.is_null() && *given != object["metadata"]["resourceVersion"] {
                    return refusal(409, "the object has been modified");
                }
                *object = body;
                object["metadata"]["resourceVersion"] = json!(version);
                (200, object.clone())
            }
            Method::DELETE => match state.objects.remove(&at) {
                Some(_) => (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
                None => refusal(404, "not found"),
            },
            _ => refusal(405, "no such verb"),
        }
    }
}

/// A refusal in the API server's form.
pub(crate) fn refusal(code: u16, message: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code, "reason": "RefusedByTest",
    });
    (code, status)
}

/// A publisher of Events whose task runs; a test waits with `flush` for what was published.
pub(crate) fn events(client: Client) -> Events {
    let (events, writing) = events::start(client, Metrics::default());
    tokio::spawn(writing);
    events
}

/// Applies a merge-patch (RFC 7386).
pub(crate) fn merge(object: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *object = patch.clone();
        return;
    };
    if !object.is_object() {
        *object = json!({});
    }
    let object = object.as_object_mut().unwrap();
    for (key, value) in patch {
        if value.is_null() {
            object.remove(key);
        } else {
            merge(object.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// A cache that is synced and empty, and its writer.
pub(crate) fn cache<K>() -> (Store<K>, Writer<K>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let (store, mut writer) = reflector::store();
    drop_all(&mut writer);
    (store, writer)
}

/// Lets a cache have an object, as a watch does.
pub(crate) fn put<K>(writer: &mut Writer<K>, object: Value)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + 'static,
{
    writer.apply_watcher_event(&Event::Apply(serde_json::from_value(object).unwrap()));
}

/// Empties a cache, as a relist that finds nothing does.
pub(crate) fn drop_all<K>(writer: &mut Writer<K>)
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    writer.apply_watcher_event(&Event::Init);
    writer.apply_watcher_event(&Event::InitDone);
}
