//! The jobs that are submitted: all at once, or at a fixed rate whatever becomes of them.

use std::time::Duration;

use anyhow::Context;
use futures::{Stream, StreamExt, TryStreamExt, channel::mpsc::UnboundedSender, stream};
use kube::Client;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    follow::{Meta, key, now},
    stats::count,
};

/// Jobs submitted at once.
const AT_ONCE: usize = 32;

/// What jobs of one kind ask for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// CPU cores.
    pub cores: u32,
    /// How long it runs, in seconds.
    pub seconds: u32,
}

/// A tenant to submit for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    /// Its name.
    pub name: String,
    /// Its plan.
    pub plan: &'static str,
    /// Its UID, once it exists.
    pub uid: String,
}

impl Tenant {
    /// Its namespace.
    pub fn namespace(&self) -> String {
        crofter::names::namespace(crofter::names::DEFAULT_NAMESPACE_PREFIX, &self.name)
    }
}

/// A job to submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its tenant, an index of the list of tenants.
    pub tenant: usize,
    /// What it asks for, an index of the list of shapes.
    pub shape: usize,
}

/// A job that was submitted.
#[derive(Clone, Debug)]
pub struct Submitted {
    /// What was planned.
    pub plan: Planned,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Its version.
    pub version: String,
    /// When the API server had it, in microseconds since 1970.
    pub at: i64,
}

impl Submitted {
    /// Namespace and name in one.
    pub fn key(&self) -> String {
        key(&self.namespace, &self.name)
    }
}

/// `jobs` jobs of one shape, distributed over the tenants by round robin.
pub fn round_robin(jobs: usize, tenants: usize) -> Vec<Planned> {
    (0..jobs).map(|number| Planned { tenant: number % tenants, shape: 0 }).collect()
}

/// What is created for a job: its namespace, the path, and the object.
pub type Creation = (String, String, Value);

/// Submits for tenants.
#[derive(Clone)]
pub struct Submitter {
    /// In whose name.
    pub client: Client,
    /// How a tenant's job of a name and a shape is written.
    pub write: fn(&Tenant, &str, &Shape) -> Creation,
    /// For whom.
    pub tenants: Vec<Tenant>,
    /// What for.
    pub shapes: Vec<Shape>,
}

#[derive(Deserialize)]
struct Answer {
    metadata: Meta,
}

impl Submitter {
    /// Submits all jobs; they are called `<prefix><number>`.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn all(&self, prefix: &str, jobs: &[Planned]) -> anyhow::Result<Vec<Submitted>> {
        self.as_taken(prefix, jobs).try_collect().await
    }

    /// Submits jobs as they are taken, a few ahead.
    pub fn as_taken(&self, prefix: &str, jobs: &[Planned]) -> impl Stream<Item = anyhow::Result<Submitted>> {
        let one = move |(number, job): (usize, &Planned)| self.submit(format!("{prefix}{number}"), *job);
        stream::iter(jobs.iter().enumerate().map(one)).buffered(AT_ONCE)
    }

    /// Submits each job at its time (in seconds from now), however long the ones before it take, and sends each as
    /// soon as the API server has it. Returns how late each was, in seconds.
    ///
    /// # Errors
    /// When one is refused.
    pub async fn at_times(
        &self,
        prefix: &str,
        jobs: &[(f64, Planned)],
        sender: UnboundedSender<Submitted>,
    ) -> anyhow::Result<Vec<f64>> {
        let (begun, mut going) = (Instant::now(), JoinSet::new());
        let mut late = Vec::with_capacity(jobs.len());
        for (number, (at, job)) in jobs.iter().enumerate() {
            let due = begun + Duration::from_secs_f64(*at);
            tokio::time::sleep_until(due).await;
            late.push(due.elapsed().as_secs_f64());
            let (submitter, job, name) = (self.clone(), *job, format!("{prefix}{number}"));
            let sender = sender.clone();
            going
                .spawn(async move { anyhow::Ok(sender.unbounded_send(submitter.submit(name, job).await?)?) });
        }
        while let Some(done) = going.join_next().await {
            done??;
        }
        Ok(late)
    }

    async fn submit(&self, name: String, plan: Planned) -> anyhow::Result<Submitted> {
        let tenant = self.tenants.get(plan.tenant).context("a job of no tenant")?;
        let shape = self.shapes.get(plan.shape).context("a job of no shape")?;
        let (namespace, path, object) = (self.write)(tenant, &name, shape);
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(object.to_string().into_bytes())?;
        let answer: Answer =
            self.client.request(request).await.with_context(|| format!("submitting job {name}"))?;
        let Meta { uid, resource_version, .. } = answer.metadata;
        Ok(Submitted { plan, namespace, name, uid, version: resource_version, at: now() })
    }
}

/// The creation of a Job.
pub fn job(tenant: &Tenant, name: &str, shape: &Shape) -> Creation {
    let namespace = tenant.namespace();
    let path = format!("/apis/crofter.io/v1alpha1/namespaces/{namespace}/jobs");
    (namespace, path, job_object(name, shape))
}

/// The image of all jobs; no node runs it.
pub const IMAGE: &str = "crofter.test/work:1";
/// What all jobs ask for of memory.
pub const MEMORY: &str = "64Mi";

/// A Job.
pub fn job_object(name: &str, shape: &Shape) -> Value {
    json!({
        "apiVersion": "crofter.io/v1alpha1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "image": IMAGE,
            "resources": {"cpu": shape.cores.to_string(), "memory": MEMORY},
            "parameters": {"run-seconds": shape.seconds.to_string()},
        },
    })
}

/// Arrivals at a rate (a second) for a number of seconds: a Poisson process, the same for the same seed.
pub fn arrivals(rate: f64, seconds: f64, random: &mut fastrand::Rng) -> Vec<f64> {
    let gap = |random: &mut fastrand::Rng| -(1.0 - random.f64()).ln() / rate;
    let mut at = gap(random);
    let mut times = Vec::new();
    while at < seconds {
        times.push(at);
        at += gap(random);
    }
    times
}

/// Parts of `total` by weight; each is rounded down, and what is missing goes to the first.
pub fn by_weight(total: usize, weights: &[u32]) -> Vec<usize> {
    let sum: u32 = weights.iter().sum();
    let part = |weight: &u32| {
        total * usize::try_from(*weight).unwrap_or(0) / usize::try_from(sum).unwrap_or(1).max(1)
    };
    let mut parts: Vec<usize> = weights.iter().map(part).collect();
    let missing = total - parts.iter().sum::<usize>();
    for part in parts.iter_mut().take(missing) {
        *part += 1;
    }
    parts
}

/// `full` at a scale, at least `least`.
pub fn scaled(full: usize, scale: f64, least: usize) -> usize {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts of jobs times a scale of at most 1"
    )]
    let scaled = (count(full) * scale.clamp(0.0, 1.0)).round() as usize;
    scaled.max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_keep_their_rate_and_repeat() {
        let times = arrivals(50.0, 100.0, &mut fastrand::Rng::with_seed(7));
        assert!((4_700..5_300).contains(&times.len()), "{}", times.len());
        assert!(times.is_sorted() && times.iter().all(|at| (0.0..100.0).contains(at)));
        assert_eq!(times, arrivals(50.0, 100.0, &mut fastrand::Rng::with_seed(7)));
        assert_ne!(times, arrivals(50.0, 100.0, &mut fastrand::Rng::with_seed(8)));
    }

    #[test]
    fn parts_are_by_weight_and_whole() {
        assert_eq!(by_weight(15, &[1, 2, 4, 8]), [1, 2, 4, 8]);
        assert_eq!(by_weight(10, &[1, 1, 1]), [4, 3, 3]);
        assert_eq!(round_robin(3, 2).iter().map(|job| job.tenant).collect::<Vec<_>>(), [0, 1, 0]);
    }

    #[test]
    fn a_scale_makes_less_but_not_nothing() {
        assert_eq!(scaled(3_000, 0.1, 100), 300);
        assert_eq!(scaled(3_000, 0.001, 100), 100);
        assert_eq!(scaled(3_000, 7.0, 100), 3_000);
    }
}
