//! The cluster that is measured: a control plane, one shared pool of simulated workers, tenants that use it, and the
//! release-built operator as a process of its own.
//!
//! Operator, bare client and load each have a user of their own, by which the audit log separates them; all are in
//! `system:masters`, so that the API server's fairness between clients slows none of them down.

use std::{fmt::Debug, net::TcpListener, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, bail};
use crofter::{
    api_types::{Job, Tenant as TenantObject, crd},
    kube_ext::call,
    names,
};
use crofter_test_cluster::{Cluster, NodeSpec, kept_logs, process::Process, wait};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::{
    api::core::v1::{Namespace, Node, Pod},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
    runtime::wait::{await_condition, conditions},
};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::{
    audit,
    follow::{COMPLETED, Completions, JOBS, now},
    load::{Planned, Shape, Submitter, Tenant, job},
    recipe::{Recipe, Values},
    say,
};

/// Who the operator is for the API server.
pub const OPERATOR: &str = "bench-operator";
/// Who the bare client is.
pub const FLOOR: &str = "bench-floor";
/// Who submits the jobs.
const LOAD: &str = "bench-load";
/// The shared pool.
pub const POOL: &str = "bench";
/// Its name.
const PROBE: &str = "benchprobe";
/// How long tenants, nodes or a recorded job may take.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long the operator, or what it is compared with, may take to finish what it is doing.
pub const GRACE: Duration = Duration::from_secs(20);
/// After this time without a write all is written.
const IDLE_INTERVAL: Duration = Duration::from_secs(1);

/// What to bring up.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Who submits jobs.
    pub tenants: Vec<Tenant>,
    /// Kinds of jobs.
    pub shapes: Vec<Shape>,
    /// Workers.
    pub nodes: u32,
    /// Cores of each.
    pub cores: u32,
    /// Whether there is a Postgres, which the operator mirrors into.
    pub postgres: bool,
}

impl Setting {
    /// Tenants `t0`, `t1`, … with these plans.
    pub fn tenants(plans: impl IntoIterator<Item = &'static str>) -> Vec<Tenant> {
        let tenant = |(number, plan)| Tenant { name: format!("t{number}"), plan, uid: String::new() };
        plans.into_iter().enumerate().map(tenant).collect()
    }
}

/// The cluster, ready to be measured; the operator is stopped.
pub struct Stage {
    // Dropped, and so stopped, before the cluster that it talks to.
    pub operator: Option<Process>,
    program: PathBuf,
    /// Submits jobs of the tenants.
    pub submitter: Submitter,
    /// How jobs of each shape are written.
    pub recipes: Vec<Recipe>,
    /// Names of the workers.
    pub nodes: Vec<String>,
    /// All requests.
    pub audit: audit::Log,
    /// Jobs that have ended.
    pub completions: Completions,
    /// Where the operator serves the REST API.
    api_port: u16,
    cluster: Cluster,
}

impl Stage {
    /// Brings it up and has the operator set up tenants and workers, and take a job of each shape through its life.
    ///
    /// # Errors
    /// When something does not come up; the cluster's logs are kept then.
    pub async fn bring_up(program: PathBuf, setting: Setting) -> anyhow::Result<Self> {
        say(&format!("a cluster with {} workers and {} tenants", setting.nodes, setting.tenants.len()));
        let probe = probe();
        let builder = Cluster::builder().postgres(setting.postgres).audit_log(true).heavy_load(true);
        let builder = builder.audit_bodies_in(probe.namespace());
        let cluster = tokio::task::spawn_blocking(|| builder.start()).await??;
        let client = client_of(&cluster, LOAD).await?;
        install(&client).await?;
        let Setting { tenants, shapes, nodes, cores, postgres: _ } = setting;
        let mut stage = Self {
            operator: None,
            program,
            submitter: Submitter { client: client.clone(), write: job, tenants, shapes },
            recipes: Vec::new(),
            nodes: (0..nodes).map(|number| format!("bench-node-{number:04}")).collect(),
            audit: audit::Log::new(cluster.audit_log().context("a cluster without audit log")?.to_owned()),
            completions: Completions::start(client, JOBS, COMPLETED).await?,
            // Free at this moment.
            api_port: TcpListener::bind("127.0.0.1:0")?.local_addr()?.port(),
            cluster,
        };
        let ready = stage.set_up(probe, cores).await;
        stage.explain(ready)?;
        Ok(stage)
    }

    async fn set_up(&mut self, probe: Tenant, cores: u32) -> anyhow::Result<()> {
        self.start_operator()?;
        let node = |name: &String| {
            NodeSpec::new(name).label(names::NODE_POOL, POOL).capacity(cores.to_string(), "1Ti").pods(1000)
        };
        self.cluster.add_nodes(&self.nodes.iter().map(node).collect::<Vec<_>>()).await?;
        self.make_tenants(&probe).await?;
        self.until_admitted().await?;
        self.recipes = self.rehearse(probe).await?;
        self.stop_operator()
    }

    /// Has the cluster's logs kept when `result` is a failure; where the operator has ended, that is the better reason.
    ///
    /// # Errors
    /// That of `result`, or the operator's end.
    pub fn explain<T>(&mut self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        result.or_else(|error| {
            self.cluster.keep_logs();
            say(&format!("the logs are kept in {}", kept_logs().display()));
            self.check_operator().and(Err(error))
        })
    }

    async fn make_tenants(&mut self, probe: &Tenant) -> anyhow::Result<()> {
        let api: Api<TenantObject> = Api::all(self.submitter.client.clone());
        let all = self.submitter.tenants.iter().chain([probe]);
        let creates = all.map(|tenant| async {
            api.create(&PostParams::default(), &tenant_object(tenant)?)
                .await
                .with_context(|| format!("making tenant {}", tenant.name))
        });
        // Polled concurrently, not boxed as a tuple of references.
        let made: Vec<TenantObject> =
            stream::iter(creates.collect::<Vec<_>>()).buffer_unordered(16).try_collect().await?;
        for tenant in &mut self.submitter.tenants {
            let object = made.iter().find(|object| object.name_any() == tenant.name);
            tenant.uid = object.and_then(ResourceExt::uid).context("a tenant without UID")?;
        }
        wait::until(WAIT_TIMEOUT, "all tenants to be ready", || async {
            let list = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let waiting = list.iter().filter(|tenant| !is_ready(tenant)).count();
            if waiting == 0 { Ok(()) } else { Err(format!("{waiting} are not")) }
        })
        .await?;
        Ok(())
    }

    async fn until_admitted(&self) -> anyhow::Result<()> {
        let api: Api<Node> = Api::all(self.submitter.client.clone());
        wait::until(WAIT_TIMEOUT, "all workers to be admitted", || async {
            let list = api.list_metadata(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let waiting =
                list.iter().filter(|node| !node.labels().contains_key(names::NODE_ADMITTED)).count();
            if waiting == 0 { Ok(()) } else { Err(format!("{waiting} are not")) }
        })
        .await?;
        Ok(())
    }

    /// Has one job of each shape run, and records what the operator writes.
    async fn rehearse(&self, probe: Tenant) -> anyhow::Result<Vec<Recipe>> {
        let api: Api<TenantObject> = Api::all(self.submitter.client.clone());
        let tenant_uid = api.get(PROBE).await?.uid().context("a tenant without UID")?;
        let submitter = Submitter { tenants: vec![probe], ..self.submitter.clone() };
        let shapes = 0..submitter.shapes.len();
        let jobs: Vec<Planned> = shapes.map(|shape| Planned { tenant: 0, shape }).collect();
        let mark = self.audit.end()?;
        let jobs = submitter.all("benchprobejob", &jobs).await?;
        self.completions.until(jobs.len(), WAIT_TIMEOUT, || Ok(())).await?;
        // The last write of a pod's life: without it the bare client would have one less to make.
        self.until_released(OPERATOR, mark, jobs.len()).await?;
        let requests = self.audit.of_user(OPERATOR, mark)?;
        let recipes = jobs.iter().map(|job| {
            let pod = names::pod(&job.name, &job.uid, 1);
            let made = requests.iter().find(|r| r.made_pod() && r.name == pod);
            let body =
                made.and_then(|r| r.body.as_deref()).with_context(|| format!("no request created {pod}"))?;
            let node = self.nodes.iter().find(|node| body.contains(node.as_str()));
            let names = Values {
                tenant: PROBE,
                tenant_uid: &tenant_uid,
                job: &job.name,
                job_uid: &job.uid,
                pod: &pod,
                // A pod that prefers no node holds no node's name.
                node: node.map_or("", String::as_str),
                ..Values::default()
            };
            Recipe::from_audit(&requests, &names).with_context(|| format!("recording {}", job.name))
        });
        recipes.collect()
    }

    /// Starts the operator; returns when, in microseconds since 1970.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn start_operator(&mut self) -> anyhow::Result<i64> {
        let mut command = Command::new(&self.program);
        command.env_remove("DATABASE_URL");
        command.envs(self.database_url().map(|url| ("DATABASE_URL", url)));
        command
            .args([
                "run",
                "--metrics-addr",
                "127.0.0.1:0",
                "--api-addr",
                &format!("127.0.0.1:{}", self.api_port),
            ])
            .env("KUBECONFIG", self.cluster.kubeconfig_for_user(OPERATOR, &["system:masters"])?)
            .env("RUST_LOG", "info");
        let started = now();
        self.operator = Some(self.cluster.start_process("operator", command)?);
        Ok(started)
    }

    /// Where the operator mirrors into, if it does.
    pub fn database_url(&self) -> Option<&str> {
        self.cluster.database_url()
    }

    /// Has the operator finish what it is doing, and waits for its end.
    ///
    /// # Errors
    /// When it can't be waited for.
    pub fn stop_operator(&mut self) -> anyhow::Result<()> {
        let stop = |mut operator: Process| Ok(operator.stop(GRACE)?);
        tokio::task::block_in_place(|| self.operator.take().map_or(Ok(()), stop))
    }

    /// An error with the end of its log when the operator has ended by itself.
    ///
    /// # Errors
    /// Just that.
    pub fn check_operator(&mut self) -> anyhow::Result<()> {
        self.operator.as_mut().map_or(Ok(()), |operator| Ok(operator.check()?))
    }

    /// All that runs, by name and process id: control plane, operator, and this process.
    pub fn processes(&self) -> Vec<(String, u32)> {
        let mut all = self.cluster.processes();
        all.extend(self.operator.as_ref().map(|operator| ("operator".to_owned(), operator.pid())));
        all.push(("bench".to_owned(), std::process::id()));
        all
    }

    /// The control plane.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The operator's process id.
    ///
    /// # Errors
    /// When it does not run.
    pub fn operator_pid(&self) -> anyhow::Result<u32> {
        Ok(self.operator.as_ref().context("no operator runs")?.pid())
    }

    /// The address of the REST API.
    pub fn api_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.api_port)
    }

    /// A client in a user's name.
    ///
    /// # Errors
    /// When it can't be made.
    pub async fn client(&self, user: &str) -> anyhow::Result<Client> {
        client_of(&self.cluster, user).await
    }

    /// Deletes ended Jobs and pods, and waits until they no longer exist, so that no controller reconciles them during
    /// the next measurement.
    ///
    /// # Errors
    /// When it can't be deleted, or takes for ever.
    pub async fn clear(&self) -> anyhow::Result<()> {
        let client = &self.submitter.client;
        let namespaces: Vec<_> = self.submitter.tenants.iter().map(Tenant::namespace).collect();
        for namespace in &namespaces {
            delete_all(&Api::<Job>::namespaced(client.clone(), namespace)).await?;
            delete_all(&Api::<Pod>::namespaced(client.clone(), namespace)).await?;
        }
        let ours = format!("{}={}", names::LABEL_MANAGED_BY, names::MANAGER);
        let not_recorded = format!("metadata.namespace!={}", probe().namespace());
        let one = ListParams::default().labels(&ours).fields(&not_recorded).limit(1);
        let none_left = || async {
            let pods = Api::<Pod>::all(client.clone()).list_metadata(&one).await;
            let left = pods.map_err(|error| error.to_string())?.items;
            left.first().map_or(Ok(()), |pod| Err(format!("{} is still there", pod.name_any())))
        };
        Ok(wait::until(WAIT_TIMEOUT, "ended Jobs and pods to be deleted", none_left).await?)
    }

    /// Waits until a user has removed the finalizers of `pods` pods since `mark`, a minute after their end.
    ///
    /// # Errors
    /// When the audit log can't be read, or it takes for ever.
    pub async fn until_released(&self, user: &str, mark: audit::Mark, pods: usize) -> anyhow::Result<()> {
        let (mut mark, mut released) = (mark, 0);
        let end = tokio::time::Instant::now() + WAIT_TIMEOUT;
        while tokio::time::Instant::now() < end {
            mark = self.audit.read(mark, |request| {
                released += usize::from(request.user == user && request.released_pod());
            })?;
            if released >= pods {
                return Ok(());
            }
            tokio::time::sleep(IDLE_INTERVAL).await;
        }
        bail!(
            "{user} has removed the finalizers of {released} of {pods} pods after {} s",
            WAIT_TIMEOUT.as_secs()
        )
    }

    /// Waits until a user has written nothing for a second.
    ///
    /// # Errors
    /// When the audit log can't be read, or the user never stops.
    pub async fn until_quiet(&self, user: &str) -> anyhow::Result<()> {
        let mut mark = self.audit.end()?;
        let end = tokio::time::Instant::now() + WAIT_TIMEOUT;
        while tokio::time::Instant::now() < end {
            tokio::time::sleep(IDLE_INTERVAL).await;
            let mut written = 0;
            mark = self.audit.read(mark, |request| {
                written += usize::from(request.user == user && request.is_write());
            })?;
            if written == 0 {
                return Ok(());
            }
        }
        bail!("{user} still writes after {} s", WAIT_TIMEOUT.as_secs())
    }
}

/// The tenant whose jobs are recorded.
fn probe() -> Tenant {
    Tenant { name: PROBE.to_owned(), plan: "enterprise", uid: String::new() }
}

async fn client_of(cluster: &Cluster, user: &str) -> anyhow::Result<Client> {
    Ok(cluster.client_for(&cluster.kubeconfig_for_user(user, &["system:masters"])?).await?)
}

/// Deletes all objects of a namespace, each by itself: those of a collection an API server deletes one after the other,
/// and no more than it can in the minute that it gives a request. kube 5.0 leaves out the limit that would divide it.
/// What they own is deleted with them, which for a batch Job is not the default.
///
/// # Errors
/// When one can't be deleted.
pub async fn delete_all<K>(api: &Api<K>) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    const AT_ONCE: usize = 32;
    let now = DeleteParams::background().grace_period(0);
    let all = api.list_metadata(&ListParams::default()).await?;
    let deletions = all.iter().map(|object| object.name_any()).map(|name| {
        let now = &now;
        async move { call::within_opt(format!("deleting {name}"), api.delete(&name, now)).await.map(drop) }
    });
    Ok(stream::iter(deletions).buffer_unordered(AT_ONCE).try_collect().await?)
}

/// The CRDs, and the namespace in which the operator keeps what keys are hashed with.
async fn install(client: &Client) -> anyhow::Result<()> {
    let home: Namespace = serde_json::from_value(json!({"metadata": {"name": names::DEFAULT_NAMESPACE}}))?;
    Api::all(client.clone()).create(&PostParams::default(), &home).await.context("making the namespace")?;
    for (_, crd) in crd::all() {
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        api.create(&PostParams::default(), &crd).await.context("installing the CRDs")?;
        await_condition(api, &crd.name_any(), conditions::is_crd_established()).await?;
    }
    Ok(())
}

/// A tenant of the pool. Its quotas are finite, so that the API server counts them, and never reached.
fn tenant_object(tenant: &Tenant) -> anyhow::Result<TenantObject> {
    let quotas = json!({
        "maxJobs": 100_000, "maxQueuedJobs": 1_000_000, "maxJobsPerHour": 1_000_000_000,
        "maxCpuCores": 1_000_000, "maxMemoryGb": 10_000_000,
    });
    let object = json!({
        "apiVersion": "crofter.io/v1alpha1",
        "kind": "Tenant",
        "metadata": {"name": tenant.name},
        "spec": {"plan": tenant.plan, "quotas": quotas, "sharedPools": [POOL]},
    });
    Ok(serde_json::from_value(object)?)
}

fn is_ready(tenant: &TenantObject) -> bool {
    let conditions = tenant.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}
