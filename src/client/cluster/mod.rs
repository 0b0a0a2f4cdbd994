//! The cluster's own API as a [`Transport`]: what its objects have, with the rights of a kubeconfig.
//!
//! A change is one that kubectl could make: a Job is created, `spec.canceled` and a Tenant's quotas are set, a key is annotated
//! for its rotation or revoked, a node is labelled. The rules of the cluster apply to it as to any other.

mod calls;
mod objects;
#[cfg(test)]
mod tests;
mod views;

use std::{sync::Arc, time::Duration};

use futures::{AsyncReadExt, FutureExt, StreamExt, TryStreamExt, future::BoxFuture, stream};
use k8s_openapi::api::{authentication::v1::SelfSubjectReview, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, LogParams, PostParams},
    runtime::{WatchStreamExt, watcher::watch_object},
};
use serde_json::{Map, json};

use self::calls::{called, failed};
use super::{
    Changes, IssuedKey, JobFilter, Log, LogOptions, NewKey, Scope, TenantChanges, Transport,
    error::{Error, Kind, Result},
    model::{Caller, Job, Jobs, Key, Node, Tenant, Why},
    spec::Submission,
};
use crate::{api_types, names};

/// Field manager of what is created.
const MANAGER: &str = "kubectl-crofter";
/// Objects of a page of a list.
const PAGE: u32 = 500;
/// Errors of a watch in a row before it gives up.
const MAX_FAILURES: u32 = 10;
/// Bytes of one piece of a log.
const PIECE: usize = 16 << 10;
/// How long a key may take to be issued.
const ISSUE_LIMIT: Duration = Duration::from_secs(30);
/// Time between two reads of it.
const POLL: Duration = Duration::from_millis(250);

/// A cluster, with the rights of one user.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    address: String,
    namespace: String,
    prefix: Arc<str>,
}

impl Cluster {
    /// The cluster of a kubeconfig.
    ///
    /// # Errors
    /// Its certificates or credentials can't be used.
    pub fn new(mut config: kube::Config, prefix: &str) -> Result<Self> {
        let (address, namespace) = (config.cluster_url.to_string(), config.default_namespace.clone());
        // A refusal reaches the user at once.
        config.default_retry = false;
        config.connect_timeout = Some(Duration::from_secs(10));
        let agent = concat!("kubectl-crofter/", env!("CARGO_PKG_VERSION"));
        config.headers.push((axum::http::header::USER_AGENT, axum::http::HeaderValue::from_static(agent)));
        let client = Client::try_from(config).map_err(|error| {
            Error::new(Kind::Usage, format!("failed to use the kubeconfig: {error}"))
                .next("login --server URL")
        })?;
        Ok(Self::of(client, address, namespace, prefix))
    }

    /// The cluster of a client, with the namespace that is used where none is named.
    #[must_use]
    pub fn of(client: Client, address: String, namespace: String, prefix: &str) -> Self {
        Self { client, address, namespace, prefix: prefix.into() }
    }

    /// The client, for what only the cluster has.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    fn namespace(&self, scope: &Scope) -> String {
        match scope {
            Scope::Tenant(name) => names::namespace(&self.prefix, name),
            Scope::Own | Scope::All => self.namespace.clone(),
        }
    }

    fn tenant_name(&self, scope: &Scope) -> Result<String> {
        if let Scope::Tenant(name) = scope {
            return Ok(name.clone());
        }
        let name = self.namespace.strip_prefix(&*self.prefix);
        name.filter(|name| !name.is_empty()).map(str::to_owned).ok_or_else(|| {
            let message = format!(
                "failed to choose a tenant: the namespace {} of the kubeconfig is no tenant's: give --tenant",
                self.namespace
            );
            Error::usage(message).next("tenants list")
        })
    }

    fn job_api(&self, scope: &Scope) -> Api<api_types::Job> {
        match scope {
            Scope::All => Api::all(self.client.clone()),
            _ => Api::namespaced(self.client.clone(), &self.namespace(scope)),
        }
    }

    /// The namespace of a job that was read before.
    fn of_job<K>(&self, scope: &Scope, job: &Job) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        let namespace = job.namespace.clone().unwrap_or_else(|| self.namespace(scope));
        Api::namespaced(self.client.clone(), &namespace)
    }

    fn view(&self, job: &api_types::Job) -> Result<Job> {
        views::job(job, &self.prefix)
    }

    async fn list(&self, scope: &Scope, filter: &JobFilter) -> Result<Jobs> {
        let (api, mut all) = (self.job_api(scope), Vec::new());
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = called("list the jobs", api.list(&params)).await?;
            for job in &page.items {
                let view = self.view(job)?;
                let is_wanted = |wanted: &Option<String>, has: Option<&str>| {
                    wanted.as_deref().is_none_or(|wanted| Some(wanted) == has)
                };
                if is_wanted(&filter.status, Some(view.state()))
                    && is_wanted(&filter.queue, view.queue.as_deref())
                {
                    all.push(view);
                }
            }
            match page.metadata.continue_ {
                Some(token) if !token.is_empty() => params = params.continue_token(&token),
                _ => break,
            }
        }
        all.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.name.cmp(&b.name)));
        let has_more = all.len() > filter.limit;
        all.truncate(filter.limit);
        Ok(Jobs { jobs: all, next_cursor: has_more.then(|| "more".to_owned()) })
    }

    async fn find(&self, scope: &Scope, name: &str) -> Result<api_types::Job> {
        let what = format!("find the job {name}");
        if uuid::Uuid::try_parse(name).is_ok() {
            let all = called(&what, self.job_api(scope).list(&ListParams::default())).await?;
            let found = all.items.into_iter().find(|job| job.uid().as_deref() == Some(name));
            return found.ok_or_else(|| absent(&what, &self.namespace(scope)));
        }
        if *scope == Scope::All {
            let params = ListParams::default().fields(&format!("metadata.name={name}"));
            let mut found = called(&what, self.job_api(scope).list(&params)).await?.items;
            return match (found.pop(), found.is_empty()) {
                (Some(job), true) => Ok(job),
                (Some(_), false) => {
                    Err(Error::usage(format!("failed to {what}: several tenants have one: give --tenant")))
                }
                (None, _) => Err(absent(&what, "any namespace")),
            };
        }
        let found = called(&what, self.job_api(scope).get_opt(name)).await?;
        found.ok_or_else(|| absent(&what, &self.namespace(scope)))
    }

    async fn submitted(&self, scope: &Scope, job: &Submission, is_dry: bool) -> Result<Job> {
        let namespace = match scope {
            Scope::Own => job.namespace.clone().unwrap_or_else(|| self.namespace.clone()),
            _ => self.namespace(scope),
        };
        let name = match &job.name {
            Some(name) => name.clone(),
            None => objects::random_name("job")?,
        };
        let object = json!({
            "apiVersion": format!("{}/{}", names::GROUP, names::VERSION), "kind": "Job",
            "metadata": {"name": name}, "spec": job.spec,
        });
        let what = format!("submit the job {name} to {namespace}");
        let created = objects::create_job(&self.client, &what, &namespace, &object, is_dry).await?;
        self.view(&created)
    }

    async fn open_log(&self, scope: &Scope, job: &Job, options: &LogOptions) -> Result<Log<'static>> {
        let what = format!("read the log of the job {}", job.name);
        let attempt = options.attempt.unwrap_or(job.attempt);
        if attempt == 0 {
            let error = failed(&what, Kind::Refused, "it has not started");
            return Err(
                Error { code: Some("not_started".to_owned()), ..error }.next(format!("logs -f {}", job.name))
            );
        }
        let params = LogParams {
            container: Some(names::JOB_CONTAINER.to_owned()),
            follow: options.follow,
            tail_lines: options.tail.map(Into::into),
            since_seconds: options.since_seconds.map(Into::into),
            timestamps: options.timestamps,
            ..LogParams::default()
        };
        let pods: Api<Pod> = self.of_job(scope, job);
        let pod = names::pod(&job.name, &job.id, attempt);
        let reader = called(&what, pods.log_stream(&pod, &params)).await.map_err(|error| {
            let code = match error.kind {
                Kind::NotFound => "log_gone",
                // The kubelet, of a container that has not started.
                _ if error.message.contains("is waiting to start")
                    || error.message.contains("ContainerCreating") =>
                {
                    "not_started"
                }
                _ => return error,
            };
            Error { code: Some(code.to_owned()), ..error }.or_next(format!("jobs {}", job.name))
        })?;
        let pieces = stream::try_unfold(reader, move |mut reader| {
            let what = what.clone();
            async move {
                let mut piece = vec![0; PIECE];
                let read = reader.read(&mut piece).await;
                let read =
                    read.map_err(|error| failed(&what, Kind::Unreachable, &format!("it was cut: {error}")))?;
                piece.truncate(read);
                Ok::<_, Error>((read > 0).then_some((piece, reader)))
            }
        });
        Ok(pieces.boxed())
    }

    fn watch<'a>(&'a self, scope: &'a Scope, job: &'a Job) -> Changes<'a> {
        let (mut failures, mut is_over) = (0, false);
        let states = watch_object(self.of_job::<api_types::Job>(scope, job), &job.name).default_backoff();
        let states = states.filter_map(move |state| {
            let state = match state {
                Ok(Some(found)) if found.uid().as_deref() == Some(&*job.id) => {
                    failures = 0;
                    Some(self.view(&found).map(Some))
                }
                // Deleted, or replaced by another of its name.
                Ok(_) => Some(Ok(None)),
                Err(error) => {
                    failures += 1;
                    let error = failed(
                        &format!("follow the job {}", job.name),
                        Kind::Unreachable,
                        &error.to_string(),
                    );
                    (failures >= MAX_FAILURES).then_some(Err(error))
                }
            };
            std::future::ready(state)
        });
        let until_end = states.take_while(move |state| {
            let goes_on = !is_over;
            is_over = !matches!(state, Ok(Some(job)) if !job.has_ended());
            std::future::ready(goes_on)
        });
        until_end.boxed()
    }
}

fn absent(what: &str, namespace: &str) -> Error {
    failed(what, Kind::NotFound, &format!("there is none of this name in {namespace}")).next("jobs")
}

impl Transport for Cluster {
    fn address(&self) -> String {
        self.address.clone()
    }

    fn server_version(&self) -> BoxFuture<'_, Result<Vec<(String, String)>>> {
        async move {
            let kubernetes = called("read the version", self.client.apiserver_version()).await?;
            let groups = called("read the API groups", self.client.list_api_groups()).await?;
            let group = groups.groups.iter().find(|group| group.name == names::GROUP);
            let versions =
                group.map(|group| group.versions.iter().map(|v| v.group_version.clone()).collect::<Vec<_>>());
            let crofter = versions.map_or("not installed".to_owned(), |versions| versions.join(", "));
            Ok(vec![("Kubernetes".to_owned(), kubernetes.git_version), ("Crofter's API".to_owned(), crofter)])
        }
        .boxed()
    }

    fn whoami(&self) -> BoxFuture<'_, Result<Caller>> {
        async move {
            let api: Api<SelfSubjectReview> = Api::all(self.client.clone());
            let params = PostParams::default();
            let review = called("read whoami", api.create(&params, &SelfSubjectReview::default())).await?;
            let user = review.status.and_then(|status| status.user_info).unwrap_or_default();
            let mut rest = Map::new();
            rest.insert("groups".to_owned(), json!(user.groups.unwrap_or_default()));
            rest.insert("namespace".to_owned(), json!(self.namespace));
            let name = user.username.unwrap_or_default();
            Ok(Caller { kind: "user".to_owned(), name, tenant: None, scopes: Vec::new(), rest })
        }
        .boxed()
    }

    fn tenant<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Tenant>> {
        async move { objects::tenant(&self.client, &self.tenant_name(scope)?, &self.namespace(scope)).await }
            .boxed()
    }

    fn tenants(&self) -> BoxFuture<'_, Result<Vec<Tenant>>> {
        objects::tenants(&self.client).boxed()
    }

    fn update_tenant<'a>(
        &'a self,
        name: &'a str,
        changes: &'a TenantChanges,
    ) -> BoxFuture<'a, Result<Tenant>> {
        objects::update_tenant(&self.client, name, changes).boxed()
    }

    fn jobs<'a>(&'a self, scope: &'a Scope, filter: &'a JobFilter) -> BoxFuture<'a, Result<Jobs>> {
        self.list(scope, filter).boxed()
    }

    fn job<'a>(&'a self, scope: &'a Scope, name: &'a str) -> BoxFuture<'a, Result<Job>> {
        async move { self.view(&self.find(scope, name).await?) }.boxed()
    }

    fn why<'a>(&'a self, scope: &'a Scope, job: &'a Job) -> BoxFuture<'a, Result<Why>> {
        async move {
            let api: Api<api_types::Job> = self.of_job(scope, job);
            let what = format!("explain the job {}", job.name);
            let found = called(&what, api.get(&job.name)).await?;
            Ok(views::why(&found))
        }
        .boxed()
    }

    fn submit<'a>(&'a self, scope: &'a Scope, job: &'a Submission) -> BoxFuture<'a, Result<Job>> {
        self.submitted(scope, job, false).boxed()
    }

    fn dry_run<'a>(&'a self, scope: &'a Scope, job: &'a Submission) -> BoxFuture<'a, Result<bool>> {
        self.submitted(scope, job, true).map(|checked| checked.map(|_| true)).boxed()
    }

    fn cluster(&self) -> Option<&Cluster> {
        Some(self)
    }

    fn cancel<'a>(&'a self, scope: &'a Scope, job: &'a Job) -> BoxFuture<'a, Result<Job>> {
        async move {
            let what = format!("cancel the job {}", job.name);
            if job.has_ended() {
                let cause = format!("it has ended: it is {}", job.state());
                return Err(failed(&what, Kind::Refused, &cause).next(format!("jobs {}", job.name)));
            }
            let api: Api<api_types::Job> = self.of_job(scope, job);
            let change = json!({"metadata": {"uid": job.id}, "spec": {"canceled": true}});
            self.view(&calls::merged(&what, &api, &job.name, change).await?)
        }
        .boxed()
    }

    fn retry<'a>(&'a self, scope: &'a Scope, job: &'a Job) -> BoxFuture<'a, Result<Job>> {
        async move {
            let what = format!("retry the job {}", job.name);
            if !job.has_ended() {
                let cause = format!("it has not ended: it is {}", job.state());
                return Err(failed(&what, Kind::Refused, &cause).next(format!("wait {}", job.name)));
            }
            let api: Api<api_types::Job> = self.of_job(scope, job);
            let found = called(&what, api.get(&job.name)).await?;
            let again = objects::again(&found)?;
            let namespace = found.namespace().unwrap_or_default();
            self.view(&objects::create_job(&self.client, &what, &namespace, &again, false).await?)
        }
        .boxed()
    }

    fn changes<'a>(&'a self, scope: &'a Scope, job: &'a Job) -> Changes<'a> {
        self.watch(scope, job)
    }

    fn log<'a>(
        &'a self,
        scope: &'a Scope,
        job: &'a Job,
        options: &'a LogOptions,
    ) -> BoxFuture<'a, Result<Log<'a>>> {
        async move { self.open_log(scope, job, options).await.map(|log| log.into_stream().boxed()) }.boxed()
    }

    fn keys<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Vec<Key>>> {
        async move { objects::keys(&self.client, &self.namespace(scope)).await }.boxed()
    }

    fn create_key<'a>(
        &'a self,
        scope: &'a Scope,
        key: &'a NewKey,
        wants_token: bool,
    ) -> BoxFuture<'a, Result<IssuedKey>> {
        async move { objects::create_key(&self.client, &self.namespace(scope), key, wants_token).await }
            .boxed()
    }

    fn rotate_key<'a>(
        &'a self,
        scope: &'a Scope,
        key: &'a Key,
        wants_token: bool,
    ) -> BoxFuture<'a, Result<IssuedKey>> {
        async move { objects::rotate_key(&self.client, &self.namespace(scope), key, wants_token).await }
            .boxed()
    }

    fn keeps_tokens(&self) -> bool {
        true
    }

    fn revoke_key<'a>(&'a self, scope: &'a Scope, key: &'a Key) -> BoxFuture<'a, Result<()>> {
        async move { objects::revoke_key(&self.client, &self.namespace(scope), key).await }.boxed()
    }

    fn nodes<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Vec<Node>>> {
        async move { objects::nodes(&self.client, &self.tenant_name(scope)?).await }.boxed()
    }

    fn assign_node<'a>(&'a self, tenant: &'a str, node: &'a str) -> BoxFuture<'a, Result<Node>> {
        objects::assign_node(&self.client, tenant, node).boxed()
    }

    fn release_node<'a>(&'a self, tenant: &'a str, node: &'a str) -> BoxFuture<'a, Result<()>> {
        objects::release_node(&self.client, tenant, node).boxed()
    }
}
