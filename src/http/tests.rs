//! Handlers behind their whole router, with an API server in memory.

mod all_events;
mod audit;
mod browsers;
mod captured;
mod ended;
mod estimates;
mod events;
mod fuzz;
mod health;
mod keys;
mod lists;
mod logs;
mod nodes;
mod offer;
mod paths;
mod people;
mod refusals;
mod replicas;
mod retry;
mod server;
mod spans;
mod submit;
mod throttle;
mod tls;

use std::{
    collections::VecDeque,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::body::Body;
use futures::{FutureExt as _, StreamExt, future::BoxFuture, stream};
use http::{Request, Response};
use http_body_util::BodyExt;
use kube::{Client, runtime::reflector::store::Writer};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tower::ServiceExt as _;

use super::*;
use crate::{
    api_types::{Job, api_key::Scope},
    domain::api_key::{Key, KeyId, Seed},
    keys::{Principal, Refusal, TenantOf},
    kube_ext::{
        lease::Leadership,
        mock::{self, Call, Fake, cache},
    },
    names,
};

pub(super) const TENANT_UID: &str = "10000000-0000-4000-8000-000000000000";
pub(super) const JOB_UID: &str = "20000000-0000-4000-8000-000000000000";
pub(super) const KEY: &str = "Bearer crft_good";
pub(super) const ORIGIN: &str = "https://app.example.org";
pub(super) const ADMIN: &str = "Bearer boss";

/// An app with an API server in memory.
pub(super) struct Lab {
    pub(super) fake: Fake,
    pub(super) app: App,
    pub(super) key: Arc<OneKey>,
    pub(super) stop: watch::Sender<bool>,
    /// The pieces of each log, or the status with which the API server refuses it.
    pub(super) logs: Logs,
    /// Whether a node controller runs, which admits labelled nodes.
    pub(super) admits: Arc<AtomicBool>,
    pub(super) reviews: Arc<Reviews>,
    pub(super) tenants: Writer<Tenant>,
}

/// Authenticates one key.
pub(super) struct OneKey {
    id: KeyId,
    pub(super) revoked: AtomicBool,
}

impl OneKey {
    fn principal(&self) -> Result<Principal, Refusal> {
        if self.revoked.load(Ordering::SeqCst) {
            return Err(Refusal::Revoked);
        }
        let tenant =
            TenantOf { name: "acme".into(), uid: TENANT_UID.into(), namespace: "tenant-acme".into() };
        let mut key = TenantApiKey::new("ci", Default::default());
        key.spec.scopes = vec![Scope::JobsRead, Scope::JobsWrite];
        let scopes = key.spec.scopes.clone();
        Ok(Principal { tenant: Arc::new(tenant), key: Arc::new(key), key_id: self.id, scopes })
    }
}

impl KeyAuthenticator for OneKey {
    fn authenticate<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Principal, Refusal>> {
        let answer = if token == "crft_good" { self.principal() } else { Err(Refusal::Unknown) };
        Box::pin(async move { answer })
    }

    fn revalidate<'a>(&'a self, _: &'a Principal) -> BoxFuture<'a, Result<Principal, Refusal>> {
        let answer = self.principal();
        Box::pin(async move { answer })
    }
}

/// How the API server reviews tokens and rights.
#[derive(Default)]
pub(super) struct Reviews {
    /// It accepts no token.
    pub(super) expired: AtomicBool,
    /// It allows nothing.
    pub(super) forbidden: AtomicBool,
    /// It fails.
    pub(super) failing: AtomicBool,
    /// It never answers.
    pub(super) silent: AtomicBool,
}

/// Reviews in which boss has all rights, clerk those on tenants and no others, and stranger none. That of a token which begins
/// with `ey.` takes 20 ms. A user whose name begins with `may:` has the rights that follow in the namespace of acme.
fn review(reviews: &Reviews, call: &Call) -> Option<(u16, Value)> {
    let spec = &call.body["spec"];
    let answer = |status: Value| Some((201, json!({"metadata": {}, "spec": spec, "status": status})));
    let is = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
    if is(&reviews.failing) && call.path.ends_with("reviews") {
        return Some(mock::refusal(500, "no reviews today"));
    }
    match call.path.rsplit('/').next()? {
        "tokenreviews" if is(&reviews.expired) => answer(json!({"authenticated": false})),
        "subjectaccessreviews" if is(&reviews.forbidden) => answer(json!({"allowed": false})),
        "tokenreviews" => match spec["token"].as_str() {
            Some(name @ ("boss" | "clerk" | "stranger" | "mal\nlory")) => {
                answer(json!({"authenticated": true, "user": {"username": name}}))
            }
            Some(name) if name.starts_with("may:") => {
                answer(json!({"authenticated": true, "user": {"username": name}}))
            }
            _ => answer(json!({"authenticated": false})),
        },
        "subjectaccessreviews" => {
            let of = &spec["resourceAttributes"];
            if let Some(rights) = spec["user"].as_str().and_then(|user| user.strip_prefix("may:")) {
                let (verb, resource) = (of["verb"].as_str()?, of["resource"].as_str()?);
                let subresource = of["subresource"].as_str().map_or(String::new(), |name| format!("/{name}"));
                let group =
                    if ["pods", "secrets", "resourcequotas"].contains(&resource) { "" } else { names::GROUP };
                let asked = format!("{verb}-{resource}{subresource}");
                let is_there = of["namespace"] == "tenant-acme" && of["group"] == group;
                return answer(json!({"allowed": is_there && rights.split('+').any(|right| right == asked)}));
            }
            let of_clerk = spec["user"] != "stranger" && of["resource"] == "tenants";
            answer(json!({"allowed": spec["user"] == "boss" || of_clerk}))
        }
        _ => None,
    }
}

impl Lab {
    pub(super) fn new() -> Self {
        Self::with(None)
    }

    /// An app whose process schedules.
    pub(super) fn with(scheduler: Option<SchedulerHandle>) -> Self {
        let (fake, logs) = (Fake::default(), Arc::<Mutex<VecDeque<_>>>::default());
        let admits = Arc::<AtomicBool>::default();
        let reviews = Arc::<Reviews>::default();
        let client = client(fake.clone(), Arc::clone(&logs), Arc::clone(&admits), Arc::clone(&reviews));
        let (tenants, mut tenants_writer) = cache();
        mock::put(&mut tenants_writer, tenant(json!({"plan": "free"})));
        let nodes = cache().0;
        let (jobs, decided) = (JobsIndex::default(), scheduler.clone());
        let synced = jobs.clone();
        let leadership = match &scheduler {
            Some(_) => Leadership::led(),
            None => Leadership::new(Clock::system()),
        };
        let (stop, mut stopped) = watch::channel(false);
        let stopped = async move {
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let seed = Seed::of(|bytes| {
            bytes.fill(7);
            Ok::<_, ()>(())
        });
        let key = Arc::new(OneKey { id: Key::new(&seed.unwrap()).id(), revoked: AtomicBool::new(false) });
        let settings = Settings::default();
        let app = App::new(Parts {
            client: client.clone(),
            settings,
            plans: watch::channel(Arc::new(Plans::built_in().unwrap())).1,
            scenarios: watch::channel(Arc::new(Scenarios::default())).1,
            clock: Clock::of(|| "2030-01-01T00:00:00Z".parse().unwrap()),
            random: Random::of(|bytes| {
                bytes.fill(1);
                Ok(())
            }),
            scheduler: scheduler.unwrap_or_default(),
            leadership,
            is_ready: Arc::new(move || {
                synced.is_synced() && decided.as_ref().is_none_or(SchedulerHandle::is_ready)
            }),
            authenticator: Arc::clone(&key) as Arc<dyn KeyAuthenticator>,
            administrators: Administrators::new(
                client,
                Clock::of(|| "2030-01-01T00:00:00Z".parse().unwrap()),
            ),
            auth_throttle: AuthThrottle::default(),
            streams: Streams::new(Metrics::default(), stopped),
            estimates: jobs::Estimates::default(),
            places: Places::default(),
            assigning: tokio::sync::Mutex::default(),
            tenants,
            jobs,
            keys: cache().0,
            nodes,
            watches: Watches::default(),
            database: None,
            audit: None,
            cluster: futures::future::ready(None).boxed().shared(),
            schedules: true,
            origins: Origins::new(&[ORIGIN.to_owned()]),
        });
        Self { fake, app, key, stop, logs, admits, reviews, tenants: tenants_writer }
    }

    /// Allows these origins and no others.
    pub(super) fn origins(&mut self, origins: &[String]) {
        let parts = Arc::get_mut(&mut self.app.0).unwrap();
        parts.origins = Origins::new(origins);
    }

    /// Puts a job with this status, and the pod of its attempt.
    pub(super) fn job(&self, version: u64, status: Value) -> Arc<Job> {
        if let Some(attempt) = status["attempt"].as_u64() {
            self.pod(attempt, json!({}));
        }
        let job = Arc::new(job(version, status));
        self.app.jobs.apply(&job);
        job
    }

    /// Stores the ended pod of an attempt.
    pub(super) fn pod(&self, attempt: u64, changes: Value) {
        let name = format!("j-200000000000-{attempt}");
        let mut metadata = json!({
            "name": name, "namespace": "tenant-acme",
            "labels": {
                "app.kubernetes.io/managed-by": "crofter", "crofter.io/tenant": "acme",
                "crofter.io/tenant-uid": TENANT_UID, "crofter.io/job-uid": JOB_UID,
                "crofter.io/attempt": attempt.to_string(),
            },
            "ownerReferences": [
                {"apiVersion": "crofter.io/v1alpha1", "kind": "Job", "name": "j", "uid": JOB_UID, "controller": true},
            ],
        });
        mock::merge(&mut metadata, &changes);
        let status = json!({"phase": "Succeeded"});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status});
        self.fake.put(&format!("/api/v1/namespaces/tenant-acme/pods/{name}"), pod);
    }

    /// The response, whose body may be a stream.
    pub(super) async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path).header("host", "x");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        routes(self.app.clone(), Metrics::default()).oneshot(request).await.unwrap()
    }

    /// Status and body of a response.
    pub(super) async fn ask(&self, method: &str, path: &str, who: &str, body: &str) -> (u16, Value) {
        let response = self.open(method, path, &[("authorization", who)], body).await;
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }
}

type Logs = Arc<Mutex<VecDeque<Result<mpsc::Receiver<String>, u16>>>>;

/// The fake API server, which streams logs.
fn client(fake: Fake, logs: Logs, admits: Arc<AtomicBool>, reviews: Arc<Reviews>) -> Client {
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let (fake, logs, admits) = (fake.clone(), Arc::clone(&logs), admits.load(Ordering::SeqCst));
        let reviews = Arc::clone(&reviews);
        async move {
            let (parts, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
            if body["spec"]["token"].as_str().is_some_and(|token| token.starts_with("ey.")) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            if reviews.silent.load(Ordering::SeqCst) && parts.uri.path().ends_with("reviews") {
                std::future::pending::<()>().await;
            }
            let (path, query) =
                (parts.uri.path().to_owned(), parts.uri.query().unwrap_or_default().to_owned());
            let call = Call { method: parts.method, path, query, body };
            let (code, answer) = if call.path.ends_with("/log") {
                let next = logs.lock().unwrap().pop_front().unwrap_or(Err(404));
                let _ = fake.answer(call);
                match next {
                    Ok(pieces) => {
                        let pieces = stream::unfold(pieces, async |mut pieces| {
                            pieces.recv().await.map(|piece| (Ok::<_, Infallible>(piece), pieces))
                        });
                        return Ok::<_, Infallible>(Response::new(Body::from_stream(pieces)));
                    }
                    Err(code) => mock::refusal(code, "refused by the test"),
                }
            } else if let Some(answer) = review(&reviews, &call) {
                answer
            } else if call.method == http::Method::GET && call.path == "/api/v1/nodes" {
                let mut nodes: Vec<Value> =
                    ["n0", "n1"].map(|name| fake.get(&format!("/api/v1/nodes/{name}"))).into();
                let label = |node: &Value| node["metadata"]["labels"][names::NODE_TENANT].clone();
                if call.query.contains("labelSelector") {
                    nodes.retain(|node| label(node) == "acme");
                } else {
                    nodes.retain(|node| node["metadata"]["name"] == "n1");
                }
                for node in nodes.iter_mut().filter(|_| admits) {
                    let group = label(node);
                    node["spec"]["taints"] =
                        json!([{"key": names::NODE_ADMITTED, "value": group, "effect": "NoSchedule"}]);
                    node["metadata"]["labels"][names::NODE_ADMITTED] = group;
                }
                let list = json!({"kind": "NodeList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": nodes});
                (200, list)
            } else {
                fake.answer(call)
            };
            let bytes = serde_json::to_vec(&answer).unwrap();
            Ok(Response::builder().status(code).body(Body::from(bytes)).unwrap())
        }
    });
    Client::new(service, "default")
}

pub(super) fn tenant(spec: Value) -> Value {
    json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme", "uid": TENANT_UID},
        "spec": spec, "status": {"namespace": "tenant-acme"},
    })
}

pub(super) fn job(version: u64, status: Value) -> Job {
    serde_json::from_value(json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Job",
        "metadata": {
            "name": "j", "namespace": "tenant-acme", "uid": JOB_UID, "resourceVersion": version.to_string(),
            "creationTimestamp": "2030-01-01T00:00:00Z",
        },
        "spec": {"image": "i"}, "status": status,
    }))
    .unwrap()
}

/// The next piece of a body: `None` at its end, `Err` where it is aborted.
pub(super) async fn piece(
    body: &mut (impl futures::Stream<Item = Result<axum::body::Bytes, axum::Error>> + Unpin),
) -> Result<Option<String>, String> {
    match body.next().await {
        None => Ok(None),
        Some(Ok(bytes)) => Ok(Some(String::from_utf8(bytes.to_vec()).unwrap())),
        Some(Err(error)) => Err(error.to_string()),
    }
}
