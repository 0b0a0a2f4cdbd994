//! The REST API: what `docs/rest-api.md` describes, from the caches, the API server and, for history, Postgres.
//!
//! A request passes the [`middleware`], an extractor that authenticates its caller ([`auth`]) and, on the routes of a tenant, authorises the caller ([`by_tenant`]), and a handler: one file for
//! each verb of a resource, with its description. Nothing here decides about jobs: a submit creates a Job and waits for the
//! scheduler's verdict. Every refusal is a [`problem::Problem`].
//!
//! The server writes with the operator's rights on behalf of the caller: the extractor's [`Context`](by_tenant::Context)
//! confines a request to the namespace of one tenant, and access reviews confine a user to their own rights in the cluster.

pub mod administrators;
pub mod audit;
pub mod audit_log;
pub mod auth;
pub mod auth_throttle;
pub mod body;
pub mod by_tenant;
pub mod concurrency_limit;
pub mod connection;
pub mod cors;
pub mod cursor;
pub mod header;
pub mod health;
pub mod jobs;
pub mod jobs_index;
pub mod keys;
pub mod middleware;
pub mod offer;
pub mod openapi;
pub mod path;
pub mod places;
pub mod problem;
pub mod query;
pub mod request_id;
pub mod rights;
pub mod routes;
pub mod server;
pub mod streams;
pub mod strict_json;
pub mod tenants;
pub mod tls;
pub mod write_timeout;

#[cfg(test)]
mod tests;

use std::{ops::Deref, sync::Arc};

use axum::{
    Router,
    extract::Request,
    http::{Uri, uri::PathAndQuery},
    middleware::from_fn_with_state,
    response::Redirect,
    routing::get,
};
use k8s_openapi::api::core::v1::Node;
use kube::{Client, runtime::reflector::Store};
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt as _;

use self::{
    administrators::Administrators,
    audit::AuditSink,
    auth::KeyAuthenticator,
    auth_throttle::AuthThrottle,
    cors::Origins,
    jobs::Estimates,
    jobs_index::JobsIndex,
    middleware::{RequestMiddleware, handle, no_method, no_route},
    openapi::Pages,
    places::Places,
    routes::Routes,
    streams::Streams,
};
use crate::{
    api_types::{Plans, Scenarios, Tenant, TenantApiKey},
    audit::{AuditLog, ClusterUid},
    clock::Clock,
    config::Settings,
    db::Readers,
    kube_ext::{lease::Leadership, pulse::Watches},
    metrics::Metrics,
    random::Random,
    scheduler::SchedulerHandle,
    telemetry::IsReady,
};

/// What handlers use. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// The parts of an [`App`].
pub struct Parts {
    /// The API server, with the operator's rights.
    pub client: Client,
    /// The settings of the installation.
    pub settings: Settings,
    /// Plans in force.
    pub plans: watch::Receiver<Arc<Plans>>,
    /// Scenarios in force.
    pub scenarios: watch::Receiver<Arc<Scenarios>>,
    /// The time.
    pub clock: Clock,
    /// Random names of jobs and ids of requests.
    pub random: Random,
    /// The scheduler; handlers take it from [`App::scheduler`].
    pub scheduler: SchedulerHandle,
    /// Whether this process leads, and so schedules.
    pub leadership: Leadership,
    /// Whether the process is ready.
    pub is_ready: IsReady,
    /// Authenticates API keys.
    pub authenticator: Arc<dyn KeyAuthenticator>,
    /// Authenticates and authorises administrators.
    pub administrators: Administrators,
    /// Limits refused keys and tokens.
    pub auth_throttle: AuthThrottle,
    /// Places of requests in flight.
    pub places: Places,
    /// Streaming responses.
    pub streams: Streams,
    /// Estimates of when jobs start.
    pub estimates: Estimates,
    /// Held while a handler assigns a node to a tenant.
    pub assigning: tokio::sync::Mutex<()>,
    /// All tenants.
    pub tenants: Store<Tenant>,
    /// All jobs.
    pub jobs: JobsIndex,
    /// All keys.
    pub keys: Store<TenantApiKey>,
    /// All nodes.
    pub nodes: Store<Node>,
    /// The watches, which decide about health.
    pub watches: Watches,
    /// The history, if a database is configured.
    pub database: Option<Readers>,
    /// The way of the audit log to the database, if one is configured.
    pub audit: Option<AuditLog>,
    /// The cluster, whose database it must be.
    pub cluster: ClusterUid,
    /// Whether the scheduler runs here once this process leads.
    pub schedules: bool,
    /// Origins of the pages that browsers allow to call the API.
    pub origins: Origins,
}

impl App {
    /// An app with these parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The scheduler, while this process leads. Elsewhere its decisions are in the status of objects.
    #[must_use]
    pub fn scheduler(&self) -> Option<&SchedulerHandle> {
        self.leadership.leads().then_some(&self.scheduler)
    }
}

impl Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// All routes: under `/v1`, and for backwards compatibility without it.
fn table(pages: &Pages) -> Routes {
    let versioned = jobs::routes().merge(keys::routes()).merge(tenants::routes()).merge(offer::routes());
    let versioned = versioned.merge(audit_log::routes());
    health::routes(pages).nest("/v1", versioned)
}

/// The routes as an OpenAPI document.
#[must_use]
pub fn document() -> Value {
    openapi::document(table(&Pages::default()).described())
}

/// The router. A path with a slash at its end is the same as without it.
pub fn routes(app: App, metrics: Metrics) -> Router {
    let audit = AuditSink { tenants: app.tenants.clone(), clock: app.clock.clone(), log: app.audit.clone() };
    let middleware = RequestMiddleware::new(metrics, app.random.clone(), app.origins.clone(), audit);
    let routes = table(&Pages::of(&document()))
        .into_router()
        // Not a part of the API, which the document describes: for people who open the server's address.
        .route("/", get(async || Redirect::temporary("/docs")))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(from_fn_with_state(middleware, handle))
        .with_state(app);
    Router::new().fallback_service(routes.map_request(|mut request: Request| {
        if let Some(uri) = without_slash(request.uri()) {
            *request.uri_mut() = uri;
        }
        request
    }))
}

/// The URI without the slash at the end of its path, if it has one.
fn without_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path().strip_suffix('/').filter(|path| !path.is_empty() && !path.ends_with('/'))?;
    let text = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).ok()?);
    Uri::from_parts(parts).ok()
}
