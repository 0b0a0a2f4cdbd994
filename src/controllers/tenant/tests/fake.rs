//! An API server in memory: keeps objects by path, records every call in order, and fails where it is told to.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
};

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    calls: Vec<Call>,
    refusals: BTreeMap<String, u16>,
    versions: u64,
}

/// A call as it was made.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) body: Value,
}

#[derive(Clone, Default)]
pub(super) struct Fake(Arc<Mutex<State>>);

impl Fake {
    pub(super) fn client(&self) -> Client {
        let fake = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let fake = fake.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let query = parts.uri.query().unwrap_or_default().to_owned();
                let path = parts.uri.path().to_owned();
                let (code, answer) = fake.answer(Call { method: parts.method, path, query, body });
                let bytes = serde_json::to_vec(&answer).unwrap();
                Ok::<_, Infallible>(Response::builder().status(code).body(Body::from(bytes)).unwrap())
            }
        });
        Client::new(service, "default")
    }

    /// Puts an object there, or changes it, without a call.
    pub(super) fn put(&self, path: &str, mut object: Value) {
        let mut state = self.0.lock().unwrap();
        state.versions += 1;
        object["metadata"]["resourceVersion"] = json!(state.versions.to_string());
        state.objects.insert(path.to_owned(), object);
    }

    pub(super) fn take(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.remove(path)
    }

    pub(super) fn get(&self, path: &str) -> Value {
        self.0.lock().unwrap().objects.get(path).cloned().unwrap_or(Value::Null)
    }

    /// Refuses every call to that path from now on, with this code; 0 ends it.
    pub(super) fn refuse(&self, path: &str, code: u16) {
        self.0.lock().unwrap().refusals.insert(path.to_owned(), code);
    }

    /// The calls since the last look.
    pub(super) fn calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.0.lock().unwrap().calls)
    }

    fn answer(&self, call: Call) -> (u16, Value) {
        let mut state = self.0.lock().unwrap();
        state.calls.push(call.clone());
        state.versions += 1;
        let version = state.versions.to_string();
        let Call { method, path, body, query } = call;
        if let Some(code) = state.refusals.get(&path).filter(|code| **code > 0) {
            return refusal(*code, "told to");
        }
        let at = path.trim_end_matches("/status").to_owned();
        match method {
            Method::GET => match state.objects.get(&at) {
                Some(object) => (200, object.clone()),
                None => refusal(404, "not found"),
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
            Method::DELETE => match state.objects.remove(&at) {
                Some(_) => (200, json!({"kind": "Status", "apiVersion": "v1", "status": "Success"})),
                None => refusal(404, "not found"),
            },
            _ => refusal(405, "no such verb"),
        }
    }
}

fn refusal(code: u16, message: &str) -> (u16, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": code, "reason": "Told",
    });
    (code, status)
}

/// RFC 7386.
fn merge(object: &mut Value, patch: &Value) {
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
