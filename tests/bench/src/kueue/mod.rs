//! Kueue's manager as a process next to the API server, on the pool and for the tenants of a stage.
//!
//! It is the program of its release, built from its Go module, with its own CRDs and webhooks; the webhooks are found
//! at a port of this machine in the place of a Service. While it is stopped they are not installed, as nothing could be
//! written to then. The API server knows it by a user of its own, and batch Jobs are run by kube-controller-manager,
//! whose job controller has a user of its own, too.

pub mod manifests;

use std::{collections::BTreeMap, fs, net::TcpListener, path::PathBuf, process::Command};

use anyhow::{Context, bail};
use crofter_test_cluster::{
    process::Process,
    tools::{KUEUE as PROGRAM, KUEUE_MODULE},
    wait,
};
use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Pod, ServiceAccount},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, Client, ResourceExt,
    runtime::wait::{await_condition, conditions},
};
use serde_json::{Value, json};

use self::manifests::{CLUSTER_QUEUES, Endpoint, NAMESPACE, Setup, WORKLOADS};
use crate::{
    audit::{Request, writes},
    follow::{Completions, now},
    load::{Planned, Submitted, Submitter, Tenant},
    measure::{Measured, Seen},
    process::{Reading, peak_memory},
    say,
    sides::{OtherRun, deadline},
    stage::{GRACE, Stage, WAIT_TIMEOUT, delete_all},
    stats::count,
};

/// Who Kueue is for the API server.
const KUEUE: &str = "bench-kueue";
/// Who the job controller is.
const JOB_CONTROLLER: &str = "system:serviceaccount:kube-system:job-controller";
/// Whose writes a job costs, by what they are called in the results.
const WRITERS: [(&str, &str); 2] = [("Kueue", KUEUE), ("job controller", JOB_CONTROLLER)];
/// Where batch Jobs are.
const JOBS: &str = "/apis/batch/v1/jobs";
/// Selects those whose pod has ended well.
const SUCCEEDED: &str = "fieldSelector=status.successful%3D1";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// Kueue, installed; the manager is stopped but while it is measured.
pub struct Kueue {
    process: Option<Process>,
    program: PathBuf,
    /// Its configuration and certificate.
    dir: PathBuf,
    endpoint: Endpoint,
    /// The configuration of its release.
    shipped: String,
    /// The manifests of its webhooks.
    webhooks: String,
    /// The webhook configurations that are installed, as paths.
    installed: Vec<String>,
    /// Submits batch Jobs, for the tenants of the stage.
    submitter: Submitter,
    completions: Completions,
}

impl Kueue {
    /// Installs Kueue with a namespace and queues for each tenant, which share `cores`, and has it take one job through
    /// its life.
    ///
    /// # Errors
    /// When it can't be built or does not come up.
    pub async fn set_up(stage: &Stage, cores: u32) -> anyhow::Result<Self> {
        let build = || anyhow::Ok((PROGRAM.build()?.join("kueue"), PROGRAM.source_of(KUEUE_MODULE)?));
        let (program, source) = tokio::task::spawn_blocking(build).await??;
        say(&format!("  installing Kueue of {}", source.display()));
        let components = source.join("config/components");
        let read = |file: &str| {
            let path = components.join(file);
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
        };
        let dir = stage.cluster().dir().join("kueue");
        fs::create_dir(&dir).context("making a directory for Kueue")?;
        let certificate = stage.cluster().server_certificate("kueue", &["127.0.0.1"])?;
        // By the names that its webhook server wants.
        fs::copy(&certificate.certificate, dir.join("tls.crt")).context("copying Kueue's certificate")?;
        fs::copy(&certificate.key, dir.join("tls.key")).context("copying the key of Kueue's certificate")?;
        let client = stage.submitter.client.clone();
        let mut kueue = Self {
            process: None,
            program,
            dir,
            endpoint: Endpoint {
                // Free at this moment.
                port: TcpListener::bind("127.0.0.1:0")?.local_addr()?.port(),
                authority: fs::read(stage.cluster().authority()).context("reading the authority")?,
            },
            shipped: read("manager/controller_manager_config.yaml")?,
            webhooks: read("webhook/manifests.yaml")?,
            installed: Vec::new(),
            submitter: Submitter { write: manifests::job, ..stage.submitter.clone() },
            completions: Completions::start(client, JOBS, SUCCEEDED).await?,
        };
        for file in fs::read_dir(components.join("crd/bases")).context("reading Kueue's CRDs")? {
            kueue.install_crd(&fs::read_to_string(file?.path())?).await?;
        }
        kueue.make_namespaces().await?;
        kueue.start(stage, Setup::Tuned).await?;
        kueue.make_queues(cores).await?;
        kueue.submitter.all("rehearsal", &[Planned { tenant: 0, shape: 0 }]).await?;
        kueue.until_ended(1).await?;
        kueue.clear().await?;
        kueue.stop().await?;
        Ok(kueue)
    }

    /// Submits jobs, starts Kueue on them and follows it until all have ended. It begins with the start of its process.
    ///
    /// # Errors
    /// When Kueue ends, or the jobs don't in time.
    pub async fn drain(
        &mut self,
        stage: &Stage,
        setup: Setup,
        prefix: &str,
        plan: &[Planned],
    ) -> anyhow::Result<OtherRun> {
        let jobs = self.submitter.all(prefix, plan).await?;
        // It writes to each Job that it is suspended.
        stage.until_quiet(JOB_CONTROLLER).await?;
        let name = match setup {
            Setup::Tuned => "Kueue",
            Setup::Shipped => "Kueue as shipped",
        };
        say(&format!("  {name}: {} jobs", jobs.len()));
        let (mark, ended) = (stage.audit.end()?, self.completions.count());
        let before = Reading::of(&stage.processes())?;
        let begun = self.start(stage, setup).await?;
        self.until_ended(ended + jobs.len()).await?;
        for (_, user) in WRITERS {
            stage.until_quiet(user).await?;
        }
        let pid = self.process.as_ref().context("Kueue does not run")?.pid();
        let mut processes = stage.processes();
        processes.push(("kueue".to_owned(), pid));
        let processor_seconds = Reading::of(&processes)?.since(&before);
        let peak_mib = peak_memory(pid)?;
        let mut requests = Vec::new();
        stage.audit.read(mark, |request| {
            if WRITERS.iter().any(|(_, user)| *user == request.user) {
                requests.push(request);
            }
        })?;
        // Kueue removes the finalizers of its Workloads.
        self.clear().await?;
        self.stop().await?;
        let completed = self.completions.times();
        let seen = Seen { begun, jobs: &jobs, requests: &requests, completed: &completed };
        let measured = Measured { processor_seconds, peak_mib, ..seen.evaluate_unnamed() };
        let pods = measured.curves.admitted.len();
        if pods != jobs.len() {
            bail!("{pods} pods were made for {} batch Jobs", jobs.len());
        }
        Ok(by_writer(name, measured, &requests, &jobs))
    }

    async fn start(&mut self, stage: &Stage, setup: Setup) -> anyhow::Result<i64> {
        let Self { dir, endpoint, .. } = self;
        let configuration = manifests::configuration(&self.shipped, setup, endpoint.port, dir)?;
        let path = dir.join("configuration.json");
        fs::write(&path, configuration.to_string()).context("writing Kueue's configuration")?;
        for webhooks in endpoint.webhooks(&self.webhooks, setup)? {
            let path = path_of_webhooks(&webhooks)?;
            create(&self.submitter.client, &path, &webhooks).await?;
            let name = webhooks.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            self.installed.push(format!("{path}/{name}"));
        }
        let mut command = Command::new(&self.program);
        command.arg(format!("--config={}", path.display()));
        if setup == Setup::Shipped {
            command.arg("--zap-log-level=2");
        }
        command.env("KUBECONFIG", stage.cluster().kubeconfig_for_user(KUEUE, &["system:masters"])?);
        let started = now();
        self.process = Some(stage.cluster().start_process("kueue", command)?);
        Ok(started)
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        for path in std::mem::take(&mut self.installed) {
            let request = http::Request::delete(&path).body(Vec::new())?;
            let deleted = self.submitter.client.request::<Value>(request).await;
            deleted.with_context(|| format!("deleting {path}"))?;
        }
        let stop = |mut process: Process| Ok(process.stop(GRACE)?);
        tokio::task::block_in_place(|| self.process.take().map_or(Ok(()), stop))
    }

    async fn until_ended(&mut self, wanted: usize) -> anyhow::Result<()> {
        let Self { completions, process, .. } = self;
        let check = || Ok(process.as_mut().map_or(Ok(()), Process::check)?);
        completions.until(wanted, deadline(wanted), check).await
    }

    async fn install_crd(&self, manifest: &str) -> anyhow::Result<()> {
        let crd = self.endpoint.crd(manifest)?;
        create(&self.submitter.client, CRDS, &crd).await?;
        let api: Api<CustomResourceDefinition> = Api::all(self.submitter.client.clone());
        let name = crd.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        await_condition(api, name, conditions::is_crd_established()).await?;
        Ok(())
    }

    async fn make_namespaces(&self) -> anyhow::Result<()> {
        let Submitter { client, tenants, .. } = &self.submitter;
        for name in tenants.iter().map(manifests::namespace).chain([NAMESPACE.to_owned()]) {
            create(client, "/api/v1/namespaces", &json!({"metadata": {"name": name}})).await?;
        }
        // Without it pods are refused, and the job controller backs off.
        let accounts: Api<ServiceAccount> = Api::all(client.clone());
        let ready = || async {
            let list =
                accounts.list_metadata(&Default::default()).await.map_err(|error| error.to_string())?;
            let has = |tenant: &&Tenant| {
                let namespace = Some(manifests::namespace(tenant));
                list.iter().any(|account| account.name_any() == "default" && account.namespace() == namespace)
            };
            let ready = tenants.iter().filter(has).count();
            if ready == tenants.len() { Ok(()) } else { Err(format!("{ready} namespaces have theirs")) }
        };
        Ok(wait::until(WAIT_TIMEOUT, "the service accounts of the namespaces", ready).await?)
    }

    async fn make_queues(&mut self, cores: u32) -> anyhow::Result<()> {
        let Self { process, submitter: Submitter { client, tenants, .. }, .. } = self;
        let (path, flavor) = manifests::flavor();
        wait::until(WAIT_TIMEOUT, "Kueue's webhooks", || {
            let running = process.as_mut().map_or(Ok(()), Process::check);
            let (client, path, flavor) = (&*client, &path, &flavor);
            async move {
                match running {
                    Ok(()) => create(client, path, flavor).await.map(Ok),
                    Err(ended) => Ok(Err(ended)),
                }
            }
        })
        .await??;
        for tenant in &*tenants {
            for (path, queue) in manifests::queues(tenant, cores, tenants.len()) {
                create(client, &path, &queue).await?;
            }
        }
        let all_active = || async {
            let queues = list(client, CLUSTER_QUEUES, "").await.map_err(|error| error.to_string())?;
            let active = queues.iter().filter(|queue| manifests::is_active(queue)).count();
            if active == tenants.len() { Ok(()) } else { Err(format!("{active} are")) }
        };
        Ok(wait::until(WAIT_TIMEOUT, "all ClusterQueues to be active", all_active).await?)
    }

    /// Deletes Jobs and pods, and waits until their Workloads no longer exist, so that no controller reconciles them
    /// during the next measurement.
    async fn clear(&self) -> anyhow::Result<()> {
        let Submitter { client, tenants, .. } = &self.submitter;
        for namespace in tenants.iter().map(manifests::namespace) {
            delete_all(&Api::<Job>::namespaced(client.clone(), &namespace)).await?;
            delete_all(&Api::<Pod>::namespaced(client.clone(), &namespace)).await?;
        }
        let none_left = || async {
            for path in [JOBS, WORKLOADS] {
                let left = list(client, path, "?limit=1").await.map_err(|error| error.to_string())?;
                if !left.is_empty() {
                    return Err(format!("{path} has some"));
                }
            }
            Ok(())
        };
        Ok(wait::until(WAIT_TIMEOUT, "ended Jobs and their Workloads to be deleted", none_left).await?)
    }
}

/// The numbers, with the writes of each writer by themselves.
fn by_writer(name: &str, measured: Measured, requests: &[Request], jobs: &[Submitted]) -> OtherRun {
    let (mut all, mut writes_per_job) = (BTreeMap::new(), BTreeMap::new());
    for (writer, user) in WRITERS {
        let own = writes(requests.iter().filter(|request| request.user == user));
        let done = own.values().map(|tally| tally.done).sum();
        writes_per_job.insert(writer, count(done) / count(jobs.len().max(1)));
        all.extend(own.into_iter().map(|(kind, tally)| (format!("{writer}: {kind}"), tally)));
    }
    OtherRun { name: name.to_owned(), measured: Measured { writes: all, ..measured }, writes_per_job }
}

/// Where a webhook configuration is created.
fn path_of_webhooks(object: &Value) -> anyhow::Result<String> {
    let plural = match object.get("kind").and_then(Value::as_str) {
        Some("MutatingWebhookConfiguration") => "mutatingwebhookconfigurations",
        Some("ValidatingWebhookConfiguration") => "validatingwebhookconfigurations",
        other => bail!("{other:?} is no webhook configuration"),
    };
    Ok(format!("/apis/admissionregistration.k8s.io/v1/{plural}"))
}

async fn create(client: &Client, path: &str, object: &Value) -> anyhow::Result<()> {
    let request = http::Request::post(path)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(object.to_string().into_bytes())?;
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    client.request::<Value>(request).await.map(drop).with_context(|| format!("creating {name} at {path}"))
}

async fn list(client: &Client, path: &str, query: &str) -> anyhow::Result<Vec<Value>> {
    let request = http::Request::get(format!("{path}{query}")).body(Vec::new())?;
    let mut list: Value = client.request(request).await.with_context(|| format!("listing {path}"))?;
    match list.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => Ok(items),
        _ => bail!("{path} is no list"),
    }
}
