//! The objects that a test has requested, printed as they are when the test fails.
//!
//! The client records the path of each object and list that it requests. The report reads each of them once more at the
//! failure, with a client of its own, so it also says what has happened since. Secrets' values are never printed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use futures::future::join_all;
use http::Method;
use kube::{Client, client::Body};
use serde_json::{Map, Value};
use tokio::time::timeout;
use tower::util::MapRequestLayer;

use crate::cluster::{Cluster, Error};

/// The number of paths that are read again: those that were requested last.
const MAX_PATHS: usize = 20;
/// The number of objects that are printed, those of lists included.
const MAX_OBJECTS: usize = 20;
/// The bytes of YAML that are printed of one object.
const MAX_OBJECT_BYTES: usize = 6 * 1024;
/// How long reading the objects may take in all: the API server may be what failed.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The paths of the objects and lists that a client has requested, the latest last, each once.
type Requested = Arc<Mutex<Vec<String>>>;

/// Prints the objects that a client has requested when it is dropped by a thread that panics.
#[must_use = "the report is printed when it is dropped"]
pub struct ObjectReport<'a> {
    cluster: &'a Cluster,
    requested: Requested,
    print: Box<dyn Fn(&str) + Send + Sync>,
}

impl Cluster {
    /// An administrator's client as [`Self::client`], and the report of the objects that it requests.
    ///
    /// # Errors
    /// When the client configuration cannot be used.
    pub async fn client_with_report(&self) -> Result<(Client, ObjectReport<'_>), Error> {
        let requested = Requested::default();
        let recorder = Arc::clone(&requested);
        let layer = MapRequestLayer::new(move |request: http::Request<Body>| {
            if let Some(path) = object_path(request.method(), request.uri()) {
                record(&recorder, path);
            }
            request
        });
        let client = self.client_builder().await?.with_layer(&layer).build();
        let print = Box::new(|text: &str| eprint!("{text}"));
        Ok((client, ObjectReport { cluster: self, requested, print }))
    }
}

impl ObjectReport<'_> {
    /// Prints with `print` instead of to standard error.
    pub fn printed_by(mut self, print: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.print = Box::new(print);
        self
    }
}

impl Drop for ObjectReport<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let paths = self.requested.lock().unwrap_or_else(PoisonError::into_inner).clone();
            (self.print)(&report(self.cluster, &paths));
        }
    }
}

fn record(requested: &Requested, path: String) {
    let mut paths = requested.lock().unwrap_or_else(PoisonError::into_inner);
    paths.retain(|known| *known != path);
    paths.push(path);
    let surplus = paths.len().saturating_sub(MAX_PATHS);
    paths.drain(..surplus);
}

/// The path that reads the object or the list of a request again; `None` if the request concerns neither.
fn object_path(method: &Method, uri: &http::Uri) -> Option<String> {
    let segments: Vec<&str> = uri.path().split('/').filter(|segment| !segment.is_empty()).collect();
    let prefix = match *segments.first()? {
        "api" => 2,
        "apis" => 3,
        _ => return None,
    };
    // A namespace itself is an object, with the same first segments as those in it.
    let in_namespace = segments.get(prefix) == Some(&"namespaces")
        && segments.get(prefix + 2).is_some_and(|next| !["status", "finalize"].contains(next));
    let plural = if in_namespace { prefix + 2 } else { prefix };
    segments.get(plural)?;
    if segments.len() > plural + 1 {
        // Without a subresource.
        return Some(format!("/{}", segments[..plural + 2].join("/")));
    }
    let selectors: Vec<&str> = uri.query().into_iter().flat_map(|query| query.split('&')).collect();
    let selectors =
        selectors.into_iter().filter(|pair| pair.contains("Selector=")).map(|pair| format!("&{pair}"));
    let list = |selectors: String| format!("/{}?limit={MAX_OBJECTS}{selectors}", segments.join("/"));
    (*method == Method::GET).then(|| list(selectors.collect()))
}

/// The objects at these paths, as YAML. Never fails: what could not be read is said instead.
fn report(cluster: &Cluster, paths: &[String]) -> String {
    if paths.is_empty() {
        return "--- the test requested no objects\n".to_owned();
    }
    let read = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime
            .map(|runtime| runtime.block_on(async { timeout(READ_TIMEOUT, read_all(cluster, paths)).await }))
    };
    let read = thread::scope(|scope| scope.spawn(read).join());
    match read {
        Ok(Ok(Ok(Ok(answers)))) => print_all(paths.iter().zip(answers)),
        failed => {
            let cause = match failed {
                Ok(Ok(Ok(Err(error)))) => error.to_string(),
                Ok(Ok(_)) => format!("no response within {READ_TIMEOUT:?}"),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the reading thread panicked".to_owned(),
            };
            format!(
                "--- failed to read the objects that the test requested ({}): {cause}\n",
                paths.join(", ")
            )
        }
    }
}

async fn read_all(cluster: &Cluster, paths: &[String]) -> Result<Vec<Result<Value, String>>, Error> {
    let client = cluster.client().await?;
    let read = paths.iter().map(async |path| {
        let request = http::Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
        client.request::<Value>(request).await.map_err(|error| match error {
            kube::Error::Api(status) => status.message,
            other => other.to_string(),
        })
    });
    Ok(join_all(read).await)
}

fn print_all<'a>(answers: impl Iterator<Item = (&'a String, Result<Value, String>)>) -> String {
    let mut text = "--- the objects that the test requested, the latest last, as they are now\n".to_owned();
    let mut printed: Vec<(Value, Value)> = Vec::new();
    for (path, answer) in answers {
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                text.push_str(&format!("--- {path}: {error}\n"));
                continue;
            }
        };
        let objects = match answer.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) if items.is_empty() => {
                text.push_str(&format!("--- {path}: no items\n"));
                items
            }
            // Items have no kind of their own.
            Some(Value::Array(items)) => {
                let kind = answer["kind"].as_str().unwrap_or_default().trim_end_matches("List").to_owned();
                let with_kind = |mut item: Value| {
                    item["kind"] = Value::from(kind.as_str());
                    item
                };
                items.into_iter().map(with_kind).collect()
            }
            _ => vec![answer],
        };
        for object in objects {
            let id = (object["kind"].clone(), object["metadata"]["uid"].clone());
            if printed.contains(&id) {
                continue;
            }
            if printed.len() == MAX_OBJECTS {
                text.push_str(&format!("--- more than {MAX_OBJECTS} objects: the others are left out\n"));
                return text;
            }
            printed.push(id);
            text.push_str(&print_one(object));
        }
    }
    text
}

/// One object: metadata and status first, because a long text is cut.
fn print_one(object: Value) -> String {
    let Value::Object(mut object) = object else { return format!("--- no object: {object}\n") };
    let metadata = object.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(metadata) = metadata {
        metadata.remove("managedFields");
    }
    let of = |field: &str| metadata[field].as_str().unwrap_or_default();
    let name = [of("namespace"), of("name")].into_iter().filter(|part| !part.is_empty());
    let name = name.collect::<Vec<_>>().join("/");
    let kind = object.get("kind").and_then(Value::as_str).unwrap_or("(no kind)").to_owned();
    if kind == "Secret" {
        mask(&mut object);
    }
    object.remove("kind");
    let first = ["metadata", "status"].map(|field| (field.to_owned(), object.remove(field)));
    let fields = first.into_iter().filter_map(|(field, value)| Some((field, value?)));
    let mut text = format!("--- {kind} {name}\n");
    let end = text.len() + MAX_OBJECT_BYTES;
    for (field, value) in fields.chain(object) {
        let section = Map::from_iter([(field, value)]);
        match serde_saphyr::to_string(&section) {
            Ok(yaml) => text.push_str(&yaml),
            Err(error) => text.push_str(&format!("# failed to write YAML: {error}\n")),
        }
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    if text.len() > end {
        let cut = text.len() - end;
        text.truncate(text.floor_char_boundary(end));
        text.push_str(&format!("\n# {cut} more bytes\n"));
    }
    text
}

/// Replaces a Secret's values by their lengths. Annotations go as well: `kubectl apply` copies values into one.
fn mask(secret: &mut Map<String, Value>) {
    if let Some(metadata) = secret.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("annotations");
    }
    for field in ["data", "stringData"] {
        for value in
            secret.get_mut(field).and_then(Value::as_object_mut).into_iter().flat_map(Map::values_mut)
        {
            let length = value.as_str().map_or(0, str::len);
            *value = Value::from(format!("(masked, {length} bytes as stored)"));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path(method: &Method, uri: &str) -> Option<String> {
        object_path(method, &uri.parse().unwrap())
    }

    #[test]
    fn the_path_of_an_object_has_no_subresource_and_the_path_of_a_list_keeps_its_selectors() {
        for (method, uri, expected) in [
            (Method::GET, "/api/v1/namespaces/a/pods/p", "/api/v1/namespaces/a/pods/p"),
            (Method::GET, "/api/v1/namespaces/a/pods/p/log?follow=true", "/api/v1/namespaces/a/pods/p"),
            (Method::PATCH, "/apis/x.io/v1/namespaces/a/jobs/j/status?", "/apis/x.io/v1/namespaces/a/jobs/j"),
            (Method::DELETE, "/apis/x.io/v1/tenants/t", "/apis/x.io/v1/tenants/t"),
            (Method::GET, "/api/v1/namespaces/a", "/api/v1/namespaces/a"),
            (Method::PUT, "/api/v1/namespaces/a/finalize", "/api/v1/namespaces/a"),
            (Method::GET, "/api/v1/namespaces/a/pods?&limit=500", "/api/v1/namespaces/a/pods?limit=20"),
            (
                Method::GET,
                "/api/v1/pods?watch=true&labelSelector=a%3Db&timeoutSeconds=290",
                "/api/v1/pods?limit=20&labelSelector=a%3Db",
            ),
        ] {
            assert_eq!(path(&method, uri).as_deref(), Some(expected), "{method} {uri}");
        }
    }

    #[test]
    fn requests_that_concern_no_object_are_not_recorded() {
        for (method, uri) in [
            (Method::GET, "/readyz"),
            (Method::GET, "/version"),
            (Method::GET, "/"),
            (Method::GET, "/api/v1"),
            (Method::GET, "/apis/apps/v1"),
            (Method::POST, "/api/v1/namespaces/a/pods"),
            (Method::POST, "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"),
        ] {
            assert_eq!(path(&method, uri), None, "{method} {uri}");
        }
    }

    #[test]
    fn the_latest_paths_are_kept_each_once() {
        let requested = Requested::default();
        for number in (0..100).chain([90]) {
            record(&requested, format!("/{number}"));
        }
        let paths = requested.lock().unwrap();
        assert_eq!(paths.len(), MAX_PATHS);
        assert_eq!((paths.first().unwrap().as_str(), paths.last().unwrap().as_str()), ("/80", "/90"));
    }

    #[test]
    fn a_secret_is_printed_without_its_values() {
        let text = print_one(json!({"apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": "key", "namespace": "a", "annotations": {"last-applied": "aHVzaA=="}},
            "data": {"token": "aHVzaA=="}, "stringData": {"plain": "hush", "number": 1}}));
        assert!(text.starts_with("--- Secret a/key\nmetadata:\n"), "{text}");
        assert!(text.contains("token: (masked, 8 bytes as stored)") && text.contains("plain: "), "{text}");
        for value in ["aHVzaA", "hush"] {
            assert!(!text.contains(value), "{text}");
        }
    }

    #[test]
    fn a_long_object_is_cut_after_its_metadata_and_status() {
        let object = |length| {
            json!({"kind": "ConfigMap", "data": {"x": "é".repeat(length)}, "status": {"phase": "Odd"},
                "metadata": {"name": "big", "managedFields": [{"manager": "m"}]}})
        };
        let text = print_one(object(100_000));
        assert!(
            text.starts_with("--- ConfigMap big\nmetadata:\n  name: big\nstatus:\n  phase: Odd\n"),
            "{text}"
        );
        assert!(text.len() < MAX_OBJECT_BYTES + 100 && text.ends_with(" more bytes\n"), "{}", text.len());
        assert!(!print_one(object(1)).contains("more bytes"));
    }

    #[test]
    fn lists_and_objects_are_printed_up_to_the_limit_each_object_once_and_failures_are_named() {
        let item = |n: usize| json!({"metadata": {"name": format!("pod-{n}"), "uid": n}});
        let list = json!({"kind": "PodList", "items": (0..15).map(item).collect::<Vec<_>>()});
        let mut single = item(3);
        single["kind"] = json!("Pod");
        let more = json!({"kind": "PodList", "items": (15..30).map(item).collect::<Vec<_>>()});
        let empty = json!({"kind": "JobList", "items": []});
        let paths = ["/list", "/absent", "/single", "/empty", "/more"].map(str::to_owned);
        let answers = [Ok(list), Err("not found".to_owned()), Ok(single), Ok(empty), Ok(more)];
        let text = print_all(paths.iter().zip(answers));
        assert_eq!(text.matches("--- Pod pod-").count(), MAX_OBJECTS, "{text}");
        assert_eq!(text.matches("--- Pod pod-3\n").count(), 1, "{text}");
        assert!(!text.contains("items:"), "{text}");
        for words in ["--- /absent: not found\n", "--- /empty: no items\n", "the others are left out\n"] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }
}
