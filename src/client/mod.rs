//! The servers that `kubectl-crofter` uses: the REST API with a URL and a key or token, or the cluster's own API with a
//! kubeconfig. Both are one trait, [`Transport`], and say everything in the form of the REST API.
//!
//! The REST API has everything. The cluster's API has what its objects have: reading, submitting, canceling, a Tenant's
//! quotas, the annotation that rotates a key, the label of a node. What it does not have is an error that names the command to
//! run next; nothing is invented in its place.
//!
//! No error, `Debug` text or verbose line has a key or token.

pub mod cluster;
pub mod connect;
pub mod error;
pub mod model;
pub mod profile;
pub mod rest;
pub mod spec;

use futures::{future::BoxFuture, stream::BoxStream};
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::{Map, Value};

pub use self::{
    connect::{Connection, connect},
    error::{Error, Kind, Result},
};
use self::{
    model::{Caller, Job, Jobs, Key, Node, Tenant, UsageLine, Why},
    spec::Submission,
};

/// Which tenant's objects a request is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// That of the credentials, of the profile or of the kubeconfig's namespace.
    #[default]
    Own,
    /// The tenant of this name.
    Tenant(String),
    /// All tenants.
    All,
}

/// Which jobs are listed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Only those in this state (`queued`, `running`, …).
    pub status: Option<String>,
    /// Only those of this queue.
    pub queue: Option<String>,
    /// At most this many, the newest.
    pub limit: usize,
}

/// Which part of a log is read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// The log continues until the attempt ends.
    pub follow: bool,
    /// Only this many lines from the end.
    pub tail: Option<u32>,
    /// Only what was printed in these last seconds.
    pub since_seconds: Option<u32>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// The attempt; the current or last one without.
    pub attempt: Option<u32>,
}

/// A key that is to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewKey {
    /// Name of the TenantApiKey; the REST API gives names itself.
    pub name: Option<String>,
    /// Name for people.
    pub display_name: Option<String>,
    /// What it may do.
    pub scopes: Vec<String>,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// How often it is rotated by itself, such as `720h`.
    pub rotate_every: Option<String>,
}

/// A key that was created or rotated.
#[derive(Debug)]
pub struct IssuedKey {
    /// The key.
    pub key: Key,
    /// Its token, which is shown only where the user asks for it.
    pub token: Option<SecretString>,
    /// Where else the token is.
    pub stored: Option<String>,
}

/// Changes of a tenant, by the names of the cluster's API (`maxJobs`). What is absent stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TenantChanges {
    /// The plan.
    pub plan: Option<String>,
    /// Quotas of its own; `None` as a value takes the plan's again.
    pub quotas: Map<String, Value>,
    /// Whether it is suspended.
    pub suspended: Option<bool>,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
}

/// The time span and step of a usage report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageSpan {
    /// First moment that counts.
    pub from: Timestamp,
    /// First moment that does not count any more.
    pub to: Timestamp,
    /// `hour` or `day`.
    pub step: &'static str,
}

/// The states of a job: first the current one, then each change; `None` once it is deleted. The stream ends after the job's
/// end.
pub type Changes<'a> = BoxStream<'a, Result<Option<Job>>>;
/// The pieces of a log. It ends when the log is complete; a log that was cut ends with an error.
pub type Log<'a> = BoxStream<'a, Result<Vec<u8>>>;

fn only_rest<'a, T: Send + 'a>(what: &'static str) -> BoxFuture<'a, Result<T>> {
    Box::pin(std::future::ready(Err(Error::needs_rest(what))))
}

/// A server. A method without a body of its own is one that only the REST API has.
pub trait Transport: Send + Sync {
    /// Where it is, for people: the URL or the context.
    fn address(&self) -> String;

    /// Name and version of what answers there.
    fn server_version(&self) -> BoxFuture<'_, Result<Vec<(String, String)>>>;

    /// Who the credentials are.
    fn whoami(&self) -> BoxFuture<'_, Result<Caller>>;

    /// A tenant: the one of the scope.
    fn tenant<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Tenant>>;

    /// All tenants, by name.
    fn tenants(&self) -> BoxFuture<'_, Result<Vec<Tenant>>>;

    /// Changes a tenant.
    fn update_tenant<'a>(
        &'a self,
        name: &'a str,
        changes: &'a TenantChanges,
    ) -> BoxFuture<'a, Result<Tenant>>;

    /// Jobs, the newest first. `next_cursor` says that there are more.
    fn jobs<'a>(&'a self, scope: &'a Scope, filter: &'a JobFilter) -> BoxFuture<'a, Result<Jobs>>;

    /// A job by its name or UID.
    fn job<'a>(&'a self, scope: &'a Scope, name: &'a str) -> BoxFuture<'a, Result<Job>>;

    /// Why a job waits.
    fn why<'a>(&'a self, scope: &'a Scope, job: &'a Job) -> BoxFuture<'a, Result<Why>>;

    /// Has the server check a job without creating it; false where it can't.
    fn dry_run<'a>(&'a self, scope: &'a Scope, job: &'a Submission) -> BoxFuture<'a, Result<bool>> {
        let _ = (scope, job);
        Box::pin(std::future::ready(Ok(false)))
    }

    /// The cluster, for what only its objects have.
    fn cluster(&self) -> Option<&cluster::Cluster> {
        None
    }

    /// Submits a job.
    fn submit<'a>(&'a self, scope: &'a Scope, job: &'a Submission) -> BoxFuture<'a, Result<Job>>;

    /// Requests the end of a job.
    fn cancel<'a>(&'a self, scope: &'a Scope, job: &'a Job) -> BoxFuture<'a, Result<Job>>;

    /// Submits the spec of a job that has ended again.
    fn retry<'a>(&'a self, scope: &'a Scope, job: &'a Job) -> BoxFuture<'a, Result<Job>>;

    /// The states of a job from now on.
    fn changes<'a>(&'a self, scope: &'a Scope, job: &'a Job) -> Changes<'a>;

    /// The log of one attempt.
    fn log<'a>(
        &'a self,
        scope: &'a Scope,
        job: &'a Job,
        options: &'a LogOptions,
    ) -> BoxFuture<'a, Result<Log<'a>>>;

    /// The keys of a tenant.
    fn keys<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Vec<Key>>>;

    /// Creates a key. Its token is read only where it is wanted.
    fn create_key<'a>(
        &'a self,
        scope: &'a Scope,
        key: &'a NewKey,
        wants_token: bool,
    ) -> BoxFuture<'a, Result<IssuedKey>>;

    /// Makes a new version of a key. Its token is read only where it is wanted.
    fn rotate_key<'a>(
        &'a self,
        scope: &'a Scope,
        key: &'a Key,
        wants_token: bool,
    ) -> BoxFuture<'a, Result<IssuedKey>>;

    /// Whether a token that is not taken from the response of its creation can still be read elsewhere.
    fn keeps_tokens(&self) -> bool;

    /// Ends a key for good.
    fn revoke_key<'a>(&'a self, scope: &'a Scope, key: &'a Key) -> BoxFuture<'a, Result<()>>;

    /// The nodes of a tenant.
    fn nodes<'a>(&'a self, scope: &'a Scope) -> BoxFuture<'a, Result<Vec<Node>>>;

    /// Assigns a node to a tenant.
    fn assign_node<'a>(&'a self, tenant: &'a str, node: &'a str) -> BoxFuture<'a, Result<Node>>;

    /// Releases a node.
    fn release_node<'a>(&'a self, tenant: &'a str, node: &'a str) -> BoxFuture<'a, Result<()>>;

    /// What a tenant has used: history, which only the REST API has.
    fn usage<'a>(&'a self, scope: &'a Scope, span: &'a UsageSpan) -> BoxFuture<'a, Result<Vec<UsageLine>>> {
        let _ = (scope, span);
        only_rest("read the usage")
    }
}
