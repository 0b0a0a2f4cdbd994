//! Watches of our own: the events of pods and jobs, and when each was received.
//!
//! Only names, versions and phases are decoded, so that looking costs little of the processors that are measured. A
//! watch begins at the present and resumes where it was when the API server closes it; one that cannot resume ends, and
//! whoever waits for it fails instead of waiting for ever.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, bail};
use crofter::clock::Clock;
use futures::{TryStreamExt, pin_mut};
use kube::{Client, core::WatchEvent};
use serde::Deserialize;
use tokio::{sync::watch, task::JoinHandle};

/// Where all pods are.
pub const PODS: &str = "/api/v1/pods";
/// Where all Jobs are.
pub const JOBS: &str = "/apis/crofter.io/v1alpha1/jobs";
/// Selects those that have ended well.
pub const COMPLETED: &str = "fieldSelector=status.phase%3DCompleted";

/// What is read of an object.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Light {
    /// Its name and version.
    pub metadata: Meta,
    /// Where it is.
    #[serde(default)]
    pub status: Status,
}

/// Name and version.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its UID.
    pub uid: String,
    /// Its version.
    pub resource_version: String,
}

/// The phase.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Of a pod or a Job.
    pub phase: String,
}

impl Light {
    /// Namespace and name in one.
    pub fn key(&self) -> String {
        key(&self.metadata.namespace, &self.metadata.name)
    }
}

/// Namespace and name in one.
pub fn key(namespace: &str, name: &str) -> String {
    format!("{namespace}/{name}")
}

/// The time of day in microseconds since 1970, as the audit log counts it.
pub fn now() -> i64 {
    Clock::system().now().as_microsecond()
}

/// A watch that runs until this is dropped.
#[derive(Debug)]
pub struct Follower(JoinHandle<()>);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Follower {
    /// Whether the watch has ended, which it does only when it cannot go on.
    pub fn has_ended(&self) -> bool {
        self.0.is_finished()
    }
}

/// Passes each object at `path` that `selector` (a query) selects to `take` when it appears or changes from now on.
///
/// # Errors
/// When the API server does not say where the present is.
pub async fn follow(
    client: Client,
    path: &'static str,
    selector: &'static str,
    mut take: impl FnMut(Light) + Send + 'static,
) -> anyhow::Result<Follower> {
    let mut version = list(&client, path, "limit=1").await?.metadata.resource_version;
    Ok(Follower(tokio::spawn(async move {
        loop {
            if let Err(error) = go_on(&client, path, selector, &mut version, &mut take).await {
                eprintln!("the watch of {path} has ended: {error:#}");
                return;
            }
        }
    })))
}

#[derive(Deserialize)]
struct List {
    metadata: Meta,
    items: Vec<Light>,
}

async fn list(client: &Client, path: &str, query: &str) -> anyhow::Result<List> {
    let request = http::Request::get(format!("{path}?{query}")).body(Vec::new())?;
    client.request(request).await.with_context(|| format!("listing {path}"))
}

/// The version to watch from is not kept any more.
const GONE: u16 = 410;

/// One watch request, until the API server closes it.
async fn go_on(
    client: &Client,
    path: &str,
    selector: &str,
    version: &mut String,
    take: &mut impl FnMut(Light),
) -> anyhow::Result<()> {
    let uri = format!("{path}?watch=true&allowWatchBookmarks=true&resourceVersion={version}&{selector}");
    let events = client.request_events::<Light>(http::Request::get(uri).body(Vec::new())?).await?;
    pin_mut!(events);
    while let Some(event) = events.try_next().await? {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                version.clone_from(&object.metadata.resource_version);
                take(object);
            }
            WatchEvent::Deleted(object) => *version = object.metadata.resource_version,
            WatchEvent::Bookmark(mark) => *version = mark.metadata.resource_version,
            // The API server has rebuilt its cache, as it does some seconds after a CRD was made.
            WatchEvent::Error(status) if status.code == GONE => {
                let List { metadata, items } = list(client, path, selector).await?;
                *version = metadata.resource_version;
                items.into_iter().for_each(take);
                return Ok(());
            }
            WatchEvent::Error(status) => bail!("{}", status.message),
        }
    }
    Ok(())
}

/// When jobs were first seen to have ended well.
#[derive(Debug)]
pub struct Completions {
    times: Arc<Mutex<HashMap<String, i64>>>,
    count: watch::Receiver<usize>,
    follower: Follower,
}

impl Completions {
    /// Begins to watch the jobs at `path`. One event comes for each: when `selector` begins to select it.
    ///
    /// # Errors
    /// As [`follow`].
    pub async fn start(client: Client, path: &'static str, selector: &'static str) -> anyhow::Result<Self> {
        let times: Arc<Mutex<HashMap<String, i64>>> = Arc::default();
        let (sender, count) = watch::channel(0);
        let seen = Arc::clone(&times);
        let take = move |job: Light| {
            let mut times = lock(&seen);
            times.entry(job.key()).or_insert_with(now);
            sender.send_replace(times.len());
        };
        let follower = follow(client, path, selector, take).await?;
        Ok(Self { times, count, follower })
    }

    /// How many there are so far.
    pub fn count(&self) -> usize {
        *self.count.borrow()
    }

    /// Waits until there are `wanted` in all.
    ///
    /// # Errors
    /// When there are fewer at the `deadline`, or when `check` finds that there will be fewer.
    pub async fn until(
        &self,
        wanted: usize,
        deadline: Duration,
        mut check: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let end = tokio::time::Instant::now() + deadline;
        let mut count = self.count.clone();
        loop {
            let come = tokio::time::timeout(Duration::from_secs(1), count.wait_for(|n| *n >= wanted)).await;
            if let Ok(come) = come {
                return come.map(drop).context("the watch of completed jobs has ended");
            }
            check()?;
            if self.follower.has_ended() || tokio::time::Instant::now() > end {
                bail!("{} of {wanted} jobs have ended after {} s", self.count(), deadline.as_secs());
            }
        }
    }

    /// When each has ended, in microseconds since 1970, by namespace and name.
    pub fn times(&self) -> HashMap<String, i64> {
        lock(&self.times).clone()
    }
}

/// A lock on what a panic elsewhere does not make inconsistent.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
