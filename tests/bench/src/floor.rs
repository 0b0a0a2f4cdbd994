//! The floor: a bare client that writes for each job what the operator writes, and decides nothing.
//!
//! It makes the pods as fast as the API server takes them, within the pool's cores, and writes a status or takes the
//! finalizer away as soon as its watch shows the pod to be so far. Like the operator it ends jobs before it makes more
//! pods: a bounded number is in flight (making them all first, it would make more a second while it ends fewer, and
//! the rest of its work would come after the last pod was made), it leaves out the status Running of a pod that ends
//! within eight seconds, and it lets a pod go a minute after its end. What it reaches is what any operator can reach on
//! this API server, with these nodes, and with as many writes.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, bail};
use crofter::{domain::job_flow::UNDER_LOAD_AFTER, names};
use futures::{Stream, StreamExt};
use kube::Client;
use serde::Deserialize;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};

use crate::{
    follow::{Follower, Light, Meta, PODS, follow, key, lock},
    load::Submitted,
    recipe::{Call, Recipe, Values},
    stage::{FLOOR, Stage},
};

/// Refusals of one write that end by themselves: a quota that is being counted, a version that is not the newest.
const MAX_TRIES: usize = 20;
/// When to try again after one.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// Jobs under way at most for each request in flight: a pod takes a few times as long as a request.
pub const UNDER_WAY: usize = 8;

/// How far a pod is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    #[default]
    Made,
    Running,
    Ended,
}

/// What was last seen of a pod.
#[derive(Clone, Debug, Default)]
struct Pod {
    progress: Progress,
    uid: String,
    version: String,
}

type Pods = Arc<Mutex<HashMap<String, watch::Sender<Pod>>>>;

/// The bare client.
pub struct Floor {
    client: Client,
    recipes: Vec<Recipe>,
    nodes: Vec<String>,
    /// Name and UID of each tenant.
    tenants: Vec<(String, String)>,
    /// Cores of each shape.
    cores: Vec<u32>,
    /// The pods under way.
    pods: Pods,
    follower: Follower,
}

/// How hard it tries.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Requests that wait for an answer at once.
    pub in_flight: usize,
    /// Cores that its pods hold at once.
    pub cores: usize,
    /// How long it leaves a pod that has ended, which its node writes to for some time yet.
    pub linger: Duration,
    /// When to give up.
    pub deadline: Duration,
}

/// What all jobs of a run share.
struct Run {
    floor: Arc<Floor>,
    requests: Semaphore,
    /// Jobs whose pod is made and whose end is not written yet.
    inflight: Semaphore,
    room: Arc<Semaphore>,
    linger: Duration,
}

impl Floor {
    /// A client for the jobs of a stage.
    ///
    /// # Errors
    /// When the API server can't be reached.
    pub async fn new(stage: &Stage) -> anyhow::Result<Arc<Self>> {
        let client = stage.client(FLOOR).await?;
        let pods = Pods::default();
        let known = Arc::clone(&pods);
        let take = move |pod: Light| see(&known, pod);
        let follower =
            follow(client.clone(), PODS, "labelSelector=app.kubernetes.io/managed-by%3Dcrofter", take)
                .await?;
        let submitter = &stage.submitter;
        Ok(Arc::new(Self {
            client,
            recipes: stage.recipes.clone(),
            nodes: stage.nodes.clone(),
            tenants: submitter.tenants.iter().map(|t| (t.name.clone(), t.uid.clone())).collect(),
            cores: submitter.shapes.iter().map(|shape| shape.cores).collect(),
            pods,
            follower,
        }))
    }

    /// Takes all jobs through their lives, in the order in which they come, and returns them. No other client may
    /// manage them.
    ///
    /// # Errors
    /// When a job does not come, a write is refused for good, or the deadline passes.
    pub async fn run(
        self: &Arc<Self>,
        jobs: impl Stream<Item = anyhow::Result<Submitted>>,
        pace: Pace,
    ) -> anyhow::Result<Vec<Submitted>> {
        let run = Arc::new(Run {
            floor: Arc::clone(self),
            requests: Semaphore::new(pace.in_flight),
            inflight: Semaphore::new(UNDER_WAY * pace.in_flight),
            room: Arc::new(Semaphore::new(pace.cores)),
            linger: pace.linger,
        });
        let all = async {
            let (mut lives, mut done) = (JoinSet::new(), Vec::new());
            let mut jobs = pin!(jobs.enumerate());
            while let Some((number, job)) = jobs.next().await {
                let job = job?;
                let cores = self.cores.get(job.plan.shape).copied().unwrap_or(1);
                let held = Arc::clone(&run.room).acquire_many_owned(cores).await?;
                let run = Arc::clone(&run);
                lives.spawn(async move { run.life(&job, number, held).await.map(|()| job) });
                while let Some(life) = lives.try_join_next() {
                    done.push(life??);
                }
            }
            while let Some(life) = lives.join_next().await {
                done.push(life??);
            }
            anyhow::Ok(done)
        };
        let result = tokio::time::timeout(pace.deadline, all).await;
        if self.follower.has_ended() {
            bail!("the bare client's watch of pods has ended");
        }
        result
            .with_context(|| format!("the bare client was not done within {} s", pace.deadline.as_secs()))?
    }
}

fn see(pods: &Pods, pod: Light) {
    let progress = match pod.status.phase.as_str() {
        "Running" => Progress::Running,
        "Succeeded" | "Failed" => Progress::Ended,
        _ => return,
    };
    if let Some(known) = lock(pods).get(&pod.key()) {
        known.send_replace(Pod { progress, uid: pod.metadata.uid, version: pod.metadata.resource_version });
    }
}

impl Run {
    async fn life(
        &self,
        job: &Submitted,
        number: usize,
        held: tokio::sync::OwnedSemaphorePermit,
    ) -> anyhow::Result<()> {
        let floor = &*self.floor;
        let recipe = floor.recipes.get(job.plan.shape).context("a shape without recipe")?;
        let (tenant, tenant_uid) = floor.tenants.get(job.plan.tenant).context("a job of no tenant")?;
        let pod = names::pod(&job.name, &job.uid, 1);
        let node = floor.nodes.get(number % floor.nodes.len()).context("no workers")?;
        let values = Values {
            tenant,
            tenant_uid,
            job: &job.name,
            job_uid: &job.uid,
            pod: &pod,
            node,
            ..Values::default()
        };
        let (sender, mut seen) = watch::channel(Pod::default());
        let key = key(&job.namespace, &pod);
        lock(&floor.pods).insert(key.clone(), sender);
        let inflight = self.inflight.acquire().await?;
        self.write(&recipe.create, &values, String::new).await?;
        let mut version = job.version.clone();
        seen.wait_for(|pod| pod.progress >= Progress::Running).await?;
        let short = seen.wait_for(|pod| pod.progress == Progress::Ended);
        let long = tokio::time::timeout(UNDER_LOAD_AFTER.unsigned_abs(), short).await.is_err();
        if long {
            for call in &recipe.running {
                version = self.write(call, &values, || version.clone()).await?;
            }
        }
        let pod_uid = seen.wait_for(|pod| pod.progress == Progress::Ended).await?.uid.clone();
        drop(held);
        let end = if long { &recipe.end[..] } else { std::slice::from_ref(&recipe.only_end) };
        for call in end {
            version = self.write(call, &values, || version.clone()).await?;
        }
        drop(inflight);
        tokio::time::sleep(self.linger).await;
        for call in &recipe.release {
            self.write(call, &Values { pod_uid: &pod_uid, ..values }, || seen.borrow().version.clone())
                .await?;
        }
        lock(&floor.pods).remove(&key);
        Ok(())
    }

    /// Writes over the version that is known at each try; returns the one after the write.
    async fn write(
        &self,
        call: &Call,
        values: &Values<'_>,
        known: impl Fn() -> String,
    ) -> anyhow::Result<String> {
        #[derive(Deserialize)]
        struct Answer {
            metadata: Meta,
        }
        for _ in 1..MAX_TRIES {
            let permit = self.requests.acquire().await?;
            let version = known();
            let request = call.request(&Values { version: &version, ..*values })?;
            match self.floor.client.request::<Answer>(request).await {
                Ok(answer) => return Ok(answer.metadata.resource_version),
                // The last is a quota that was not evaluated in time.
                Err(kube::Error::Api(status)) if [403, 409, 500].contains(&status.code) => {
                    drop(permit);
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
                Err(error) => return Err(error).context("a write of the bare client"),
            }
        }
        bail!("the bare client's write for job {} was refused {MAX_TRIES} times", values.job)
    }
}
