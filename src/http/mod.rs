//! The REST API: what `docs/rest-api.md` describes, from the caches, the API server and, for history, Postgres.
//!
//! A request passes the frame ([`frame`]), an extractor that says who asks ([`auth`]), and a handler of a few lines, one
//! file for each endpoint or small family. Nothing here decides about jobs: a submit makes a Job and waits for what the
//! scheduler says of it. Every refusal is a [`problem::Problem`].
//!
//! The server writes with the operator's rights and in the name of who asks: a key is confined to its tenant's
//! namespace by the extractor's [`Context`](auth::Context), an administrator by his own rights in the cluster.

pub mod administrators;
pub mod audit;
pub mod auth;
pub mod body;
pub mod connection;
pub mod cors;
pub mod failures;
pub mod frame;
pub mod header;
pub mod health;
pub mod jobs;
pub mod jobs_index;
pub mod keys;
pub mod openapi;
pub mod path;
pub mod patience;
pub mod problem;
pub mod query;
pub mod routes;
pub mod server;
pub mod shares;
pub mod streams;
pub mod tenants;
#[cfg(test)]
mod tests;

use std::{ops::Deref, sync::Arc};

use axum::{
    Router,
    extract::Request,
    http::{Uri, uri::PathAndQuery},
    middleware,
};
use k8s_openapi::api::core::v1::Node;
use kube::{Client, runtime::reflector::Store};
use serde_json::Value;
use tokio::sync::watch;
use tower::ServiceExt as _;

use self::{
    administrators::Administrators,
    auth::Recognise,
    cors::Origins,
    failures::Failures,
    frame::{Frame, no_method, no_route, surround},
    jobs_index::JobsIndex,
    openapi::Pages,
    routes::Routes,
    shares::Shares,
    streams::Streams,
};
use crate::{
    api_types::{Plans, Scenarios, Tenant, TenantApiKey},
    clock::Clock,
    config::Settings,
    db::Readers,
    kube_ext::pulse::Watches,
    metrics::Metrics,
    random::Random,
    scheduler::SchedulerHandle,
};

/// What handlers work with. Cheap to clone.
#[derive(Clone)]
pub struct App(Arc<Parts>);

/// The parts of an [`App`].
pub struct Parts {
    /// The API server, with the operator's rights.
    pub client: Client,
    /// An administrator's choices.
    pub settings: Settings,
    /// Plans in force.
    pub plans: watch::Receiver<Arc<Plans>>,
    /// Scenarios in force.
    pub scenarios: watch::Receiver<Arc<Scenarios>>,
    /// The time.
    pub clock: Clock,
    /// Names of jobs that were given none.
    pub random: Random,
    /// What the scheduler knows, where this process schedules.
    pub board: Option<SchedulerHandle>,
    /// Recognises keys.
    pub recognise: Arc<dyn Recognise>,
    /// Recognises administrators.
    pub administrators: Administrators,
    /// Refused keys and tokens.
    pub failures: Failures,
    /// Requests under way, by tenant.
    pub shares: Shares,
    /// Answers that go on.
    pub streams: Streams,
    /// Held while a node is given to a tenant.
    pub giving: tokio::sync::Mutex<()>,
    /// All tenants.
    pub tenants: Store<Tenant>,
    /// All jobs.
    pub jobs: JobsIndex,
    /// All keys.
    pub keys: Store<TenantApiKey>,
    /// All nodes.
    pub nodes: Store<Node>,
    /// The watches, by which health is judged.
    pub watches: Watches,
    /// The history, if there is one.
    pub database: Option<Readers>,
    /// Origins of the pages that browsers may let call it.
    pub origins: Origins,
}

impl App {
    /// Puts an app together.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for App {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0
    }
}

/// All routes: under `/v1`, and without it as the seed has them.
fn table(pages: &Pages) -> Routes {
    let versioned = jobs::routes().merge(keys::routes()).merge(tenants::routes());
    health::routes(pages).nest("/v1", versioned)
}

/// What the routes are, as an OpenAPI document.
#[must_use]
pub fn document() -> Value {
    openapi::document(table(&Pages::default()).described())
}

/// The server. A path with a slash at its end is the one without it.
pub fn routes(app: App, metrics: Metrics) -> Router {
    let frame = Frame::new(metrics, app.random.clone(), app.origins.clone());
    let routes = table(&Pages::of(&document()))
        .into_router()
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(frame, surround))
        .with_state(app);
    Router::new().fallback_service(routes.map_request(|mut request: Request| {
        if let Some(uri) = without_slash(request.uri()) {
            *request.uri_mut() = uri;
        }
        request
    }))
}

/// The same without the slash at the end of its path, if it has one.
fn without_slash(uri: &Uri) -> Option<Uri> {
    let path = uri.path().strip_suffix('/').filter(|path| !path.is_empty() && !path.ends_with('/'))?;
    let text = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(PathAndQuery::try_from(text).ok()?);
    Uri::from_parts(parts).ok()
}
