//! The REST API as a [`Transport`]: everything, with a key or a Kubernetes token.
//!
//! A key is its tenant's; where a tenant is named the server is asked to compare (`X-Tenant-ID`), so that no request reaches
//! another tenant by mistake. A token acts for the tenant that is named.

mod exchange;
mod follow;
mod sse;

use std::path::Path;

use axum::http::Method;
use futures::{StreamExt, future::BoxFuture};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::OnceCell;

use self::exchange::{Exchange, path};
use super::{
    Changes, IssuedKey, JobFilter, Log, LogOptions, NewKey, Scope, TenantChanges, Transport, UsageSpan,
    error::{Error, Kind, Result},
    model::{Caller, Job, Jobs, Key, Node, Tenant, UsageLine, Why},
    spec::{Submission, snake},
};

/// Most jobs of a page.
const PAGE: usize = 500;
/// Pages that are searched for a job's name.
const SEARCHED_PAGES: usize = 20;

/// A REST API.
#[derive(Debug)]
pub struct Rest {
    exchange: Exchange,
    caller: OnceCell<Caller>,
}

#[derive(Deserialize)]
struct Tenants {
    tenants: Vec<Tenant>,
    #[serde(default)]
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Nodes {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Usage {
    usage: Vec<UsageLine>,
}

#[derive(Deserialize)]
struct Issued {
    #[serde(default)]
    token: Option<String>,
    #[serde(flatten)]
    key: Key,
}

impl Rest {
    /// A client of the REST API at this URL.
    ///
    /// # Errors
    /// The URL, the certificates or the key can't be used.
    pub fn new(server: &str, token: SecretString, ca: Option<&Path>, verbose: bool) -> Result<Self> {
        Ok(Self { exchange: Exchange::new(server, token, ca, verbose)?, caller: OnceCell::new() })
    }

    async fn caller(&self) -> Result<&Caller> {
        let read = || self.exchange.json("read whoami", Method::GET, "/whoami", &[], None);
        self.caller.get_or_try_init(read).await
    }

    /// The tenant of a scope: its name.
    async fn tenant_name(&self, scope: &Scope) -> Result<String> {
        match scope {
            Scope::Tenant(name) => Ok(name.clone()),
            Scope::All => {
                Err(Error::usage("failed to choose a tenant: -A is for lists").next("tenants list"))
            }
            Scope::Own => {
                let caller = self.caller().await?;
                caller.tenant.clone().ok_or_else(|| {
                    let message =
                        format!("failed to choose a tenant: {} is no key of one: give --tenant", caller.name);
                    Error::usage(message).next("tenants list")
                })
            }
        }
    }

    /// The header with the tenant of a scope.
    fn header(scope: &Scope) -> Vec<(&'static str, &str)> {
        match scope {
            Scope::Tenant(name) => vec![("x-tenant-id", name)],
            Scope::Own | Scope::All => Vec::new(),
        }
    }

    /// The parameter with the tenant of a scope, which a token needs for keys.
    fn parameter(&self, scope: &Scope) -> Option<String> {
        match scope {
            Scope::Tenant(name) if !self.exchange.is_key() => Some(name.clone()),
            _ => None,
        }
    }

    async fn page(
        &self,
        scope: &Scope,
        filter: &JobFilter,
        name: Option<&str>,
        limit: usize,
        cursor: Option<String>,
    ) -> Result<Jobs> {
        let query = [
            ("status", filter.status.clone()),
            ("queue", filter.queue.clone()),
            ("name", name.map(ToOwned::to_owned)),
            ("limit", Some(limit.clamp(1, PAGE).to_string())),
            ("cursor", cursor),
        ];
        let path = match scope {
            // This route has a user's jobs by the right to read the tenant, too.
            Scope::Tenant(name) if !self.exchange.is_key() => path(&["tenants", name, "jobs"], &query),
            _ => path(&["jobs"], &query),
        };
        let mut page: Jobs =
            self.exchange.json("list the jobs", Method::GET, &path, &Self::header(scope), None).await?;
        if let Scope::Tenant(name) = scope {
            for job in &mut page.jobs {
                job.tenant = Some(name.clone());
            }
        }
        Ok(page)
    }

    async fn list(&self, scope: &Scope, filter: &JobFilter) -> Result<Jobs> {
        let (mut all, mut cursor) = (Jobs::default(), None);
        loop {
            let left = filter.limit.saturating_sub(all.jobs.len());
            let page = self.page(scope, filter, None, left, cursor).await?;
            all.jobs.extend(page.jobs);
            all.next_cursor.clone_from(&page.next_cursor);
            if page.next_cursor.is_none() || all.jobs.len() >= filter.limit {
                return Ok(all);
            }
            cursor = page.next_cursor;
        }
    }

    async fn find(&self, scope: &Scope, name: &str) -> Result<Job> {
        if uuid::Uuid::try_parse(name).is_ok() {
            let what = format!("read the job {name}");
            let (path, headers) = (path(&["jobs", name], &[]), Self::header(scope));
            let found = self.exchange.json(&what, Method::GET, &path, &headers, None).await;
            return found.map_err(|error| match error.kind {
                Kind::NotFound => error.or_next("jobs"),
                _ => error,
            });
        }
        let (mut cursor, filter) = (None, JobFilter::default());
        for _ in 0..SEARCHED_PAGES {
            let page = self.page(scope, &filter, Some(name), 1, cursor).await?;
            if let Some(job) = page.jobs.into_iter().next() {
                return Ok(job);
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let where_ = if cursor.is_some() {
            "it is not among the newest, and to search all of them takes too long: give its id"
        } else {
            "no job has this name"
        };
        Err(Error::new(Kind::NotFound, format!("failed to find the job {name}: {where_}")).next("jobs"))
    }

    /// A request about one job.
    async fn of_job(
        &self,
        scope: &Scope,
        job: &Job,
        verb: &str,
        method: Method,
        rest: &[&str],
    ) -> Result<Value> {
        let parts = [&["jobs", &job.id], rest].concat();
        let what = format!("{verb} the job {}", job.name);
        self.exchange.json(&what, method, &path(&parts, &[]), &Self::header(scope), None).await
    }

    async fn issued(
        &self,
        scope: &Scope,
        what: &str,
        parts: &[&str],
        body: Option<Value>,
    ) -> Result<IssuedKey> {
        let path = path(parts, &[("tenant", self.parameter(scope))]);
        let issued: Issued =
            self.exchange.json(what, Method::POST, &path, &Self::header(scope), body.as_ref()).await?;
        Ok(IssuedKey { key: issued.key, token: issued.token.map(SecretString::from), stored: None })
    }
}

fn decoded<T: serde::de::DeserializeOwned>(what: &str, value: Value) -> Result<T> {
    serde_json::from_value(value)
        .map_err(|error| Error::new(Kind::Failed, format!("failed to {what}: unexpected response: {error}")))
}

/// The changes as a body: quotas in snake case.
fn changes_body(changes: &TenantChanges) -> Result<Value> {
    let mut body = Map::new();
    if let Some(plan) = &changes.plan {
        body.insert("plan".to_owned(), json!(plan));
    }
    if let Some(suspended) = changes.suspended {
        body.insert("status".to_owned(), json!(if suspended { "suspended" } else { "active" }));
    }
    if let Some(at) = changes.expires_at {
        body.insert("expires_at".to_owned(), json!(at));
    }
    if let Some((name, _)) = changes.quotas.iter().find(|(_, value)| value.is_null()) {
        let message =
            format!("failed to change the tenant: the REST API can't take back {name} alone: give a number");
        return Err(Error::usage(message));
    }
    if !changes.quotas.is_empty() {
        let quotas: Map<String, Value> =
            changes.quotas.iter().map(|(name, value)| (snake(name), value.clone())).collect();
        body.insert("quotas".to_owned(), quotas.into());
    }
    Ok(body.into())
}

impl Transport for Rest {
    fn address(&self) -> String {
        self.exchange.server.clone()
    }

    fn server_version(&self) -> BoxFuture<'_, Result<Vec<(String, String)>>> {
        Box::pin(async move {
            let document: Value =
                self.exchange.json("read the version", Method::GET, "/openapi.json", &[], None).await?;
            let version = document["info"]["version"].as_str().unwrap_or("unknown").to_owned();
            Ok(vec![("REST API".to_owned(), version)])
        })
    }

    fn whoami(&self) -> BoxFuture<'_, Result<Caller>> {
        Box::pin(async move { Ok(self.caller().await?.clone()) })
    }

    fn tenant<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Tenant>> {
        Box::pin(async move {
            let name = self.tenant_name(scope).await?;
            let what = format!("read the tenant {name}");
            self.exchange.json(&what, Method::GET, &path(&["tenants", &name], &[]), &[], None).await
        })
    }

    fn tenants(&self) -> BoxFuture<'_, Result<Vec<Tenant>>> {
        Box::pin(async move {
            let (mut all, mut cursor) = (Vec::new(), None);
            loop {
                let path = path(&["tenants"], &[("limit", Some(PAGE.to_string())), ("cursor", cursor)]);
                let page: Tenants =
                    self.exchange.json("list the tenants", Method::GET, &path, &[], None).await?;
                all.extend(page.tenants);
                cursor = page.next_cursor;
                if cursor.is_none() {
                    return Ok(all);
                }
            }
        })
    }

    fn update_tenant<'a>(
        &'a self,
        name: &'a str,
        changes: &'a TenantChanges,
    ) -> BoxFuture<'a, Result<Tenant>> {
        Box::pin(async move {
            let (what, body) = (format!("change the tenant {name}"), changes_body(changes)?);
            self.exchange.json(&what, Method::PATCH, &path(&["tenants", name], &[]), &[], Some(&body)).await
        })
    }

    fn jobs<'a>(&'a self, scope: &'a Scope, filter: &'a JobFilter) -> BoxFuture<'a, Result<Jobs>> {
        Box::pin(async move {
            if *scope != Scope::All {
                return self.list(scope, filter).await;
            }
            let mut all = Jobs::default();
            for tenant in self.tenants().await? {
                let scope = Scope::Tenant(tenant.name);
                let jobs = self.list(&scope, filter).await?;
                all.next_cursor = all.next_cursor.or(jobs.next_cursor);
                all.jobs.extend(jobs.jobs);
            }
            Ok(all)
        })
    }

    fn job<'a>(&'a self, scope: &'a Scope, name: &'a str) -> BoxFuture<'a, Result<Job>> {
        Box::pin(self.find(scope, name))
    }

    fn why<'a>(&'a self, scope: &'a Scope, job: &'a Job) -> BoxFuture<'a, Result<Why>> {
        Box::pin(async move {
            let why = self.of_job(scope, job, "explain", Method::GET, &["why"]).await?;
            decoded("explain the job", why)
        })
    }

    fn submit<'a>(&'a self, scope: &'a Scope, job: &'a Submission) -> BoxFuture<'a, Result<Job>> {
        Box::pin(async move {
            let mut headers = Self::header(scope);
            if let Some(name) = &job.name {
                headers.push(("idempotency-key", name));
            }
            let body = Value::Object(job.body());
            self.exchange.json("submit the job", Method::POST, "/jobs", &headers, Some(&body)).await
        })
    }

    fn cancel<'a>(&'a self, scope: &'a Scope, job: &'a Job) -> BoxFuture<'a, Result<Job>> {
        Box::pin(async move {
            decoded("cancel the job", self.of_job(scope, job, "cancel", Method::POST, &["cancel"]).await?)
        })
    }

    fn retry<'a>(&'a self, scope: &'a Scope, job: &'a Job) -> BoxFuture<'a, Result<Job>> {
        Box::pin(async move {
            let retried = self.of_job(scope, job, "retry", Method::POST, &["retry"]).await;
            decoded("retry the job", retried.map_err(|error| error.or_next(format!("wait {}", job.name)))?)
        })
    }

    fn changes<'a>(&'a self, scope: &'a Scope, job: &'a Job) -> Changes<'a> {
        follow::changes(self, scope, job).boxed()
    }

    fn log<'a>(
        &'a self,
        scope: &'a Scope,
        job: &'a Job,
        options: &'a LogOptions,
    ) -> BoxFuture<'a, Result<Log<'a>>> {
        Box::pin(follow::log(self, scope, job, options))
    }

    fn keys<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Vec<Key>>> {
        Box::pin(async move {
            let path = path(&["keys"], &[("tenant", self.parameter(scope))]);
            let keys: Keys =
                self.exchange.json("list the keys", Method::GET, &path, &Self::header(scope), None).await?;
            Ok(keys.keys)
        })
    }

    fn create_key<'a>(
        &'a self,
        scope: &'a Scope,
        key: &'a NewKey,
        _: bool,
    ) -> BoxFuture<'a, Result<IssuedKey>> {
        Box::pin(async move {
            let body = json!({
                "display_name": key.display_name.as_ref().or(key.name.as_ref()), "scopes": key.scopes,
                "expires_at": key.expires_at, "rotate_every": key.rotate_every,
            });
            self.issued(scope, "create a key", &["keys"], Some(body)).await
        })
    }

    fn keeps_tokens(&self) -> bool {
        false
    }

    fn rotate_key<'a>(&'a self, scope: &'a Scope, key: &'a Key, _: bool) -> BoxFuture<'a, Result<IssuedKey>> {
        Box::pin(async move {
            let what = format!("rotate the key {}", key.name);
            self.issued(scope, &what, &["keys", &key.id, "rotate"], None).await
        })
    }

    fn revoke_key<'a>(&'a self, scope: &'a Scope, key: &'a Key) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let what = format!("revoke the key {}", key.name);
            let path = path(&["keys", &key.id], &[("tenant", self.parameter(scope))]);
            self.exchange.send(&what, Method::DELETE, &path, &Self::header(scope), None).await.map(drop)
        })
    }

    fn nodes<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Vec<Node>>> {
        Box::pin(async move {
            let path = path(&["tenants", &self.tenant_name(scope).await?, "nodes"], &[]);
            let nodes: Nodes = self.exchange.json("list the nodes", Method::GET, &path, &[], None).await?;
            Ok(nodes.nodes)
        })
    }

    fn assign_node<'a>(&'a self, tenant: &'a str, node: &'a str) -> BoxFuture<'a, Result<Node>> {
        Box::pin(async move {
            let (what, body) = (format!("assign the node {node} to {tenant}"), json!({"node": node}));
            let path = path(&["tenants", tenant, "nodes"], &[]);
            self.exchange.json(&what, Method::POST, &path, &[], Some(&body)).await
        })
    }

    fn release_node<'a>(&'a self, tenant: &'a str, node: &'a str) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let what = format!("release the node {node} of {tenant}");
            let path = path(&["tenants", tenant, "nodes", node], &[]);
            self.exchange.send(&what, Method::DELETE, &path, &[], None).await.map(drop)
        })
    }

    fn usage<'a>(&'a self, scope: &'a Scope, span: &'a UsageSpan) -> BoxFuture<'a, Result<Vec<UsageLine>>> {
        Box::pin(async move {
            let query = [
                ("from", Some(span.from.to_string())),
                ("to", Some(span.to.to_string())),
                ("step", Some(span.step.to_owned())),
            ];
            let path = path(&["tenants", &self.tenant_name(scope).await?, "usage"], &query);
            let usage: Usage = self.exchange.json("read the usage", Method::GET, &path, &[], None).await?;
            Ok(usage.usage)
        })
    }
}
