//! What the cluster tests share: a real control plane with the operator running against it, and a few verbs.
//!
//! A cluster is started once for each test binary and used by all its tests, each with tenants of its own.

pub mod keys;
pub mod rest;
pub mod world;

use std::{fmt::Debug, time::Duration};

use crofter::{
    api_types::{Job, JobPhase, Tenant},
    controllers::attempt,
};
use crofter_test_cluster::{NodeSpec, ObjectReport, wait};
use jiff::Timestamp;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

pub use self::{rest::Answer, world::World};

/// How long anything may take before a test gives up. Generous: the machines are shared.
pub const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The same for a pod's finalizer to be removed: a pod that is not deleted keeps it for a minute after its end.
pub const FINALIZER_WAIT_TIMEOUT: Duration =
    WAIT_TIMEOUT.saturating_add(Duration::from_secs(attempt::FINALIZER_DELAY.as_secs().unsigned_abs()));

/// What a test does to a cluster.
pub struct Verbs<'a> {
    pub world: &'a World,
    pub client: Client,
    /// Prints the objects that `client` requested when the test fails.
    _objects: ObjectReport<'a>,
}

impl Drop for Verbs<'_> {
    /// A test that fails prints the end of the operator's log; the report of the objects follows.
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(log) = self.world.log_tail()
        {
            eprintln!("--- the last lines of the operator's log\n{log}\n---");
        }
    }
}

/// The time of day, which is the API server's, too: it runs on this machine.
#[expect(clippy::disallowed_methods, reason = "a test compares what was recorded with the time of day")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// The namespace of a tenant.
pub fn namespace(tenant: &str) -> String {
    format!("tenant-{tenant}")
}

impl Verbs<'_> {
    /// All objects of a kind, or those of one namespace.
    pub fn all<K: Resource<DynamicType = ()>>(&self) -> Api<K> {
        Api::all(self.client.clone())
    }

    pub fn within<K>(&self, namespace: &str) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    pub fn jobs(&self, tenant: &str) -> Api<Job> {
        self.within(&namespace(tenant))
    }

    /// Makes a tenant and waits until it is Ready.
    pub async fn tenant(&self, name: &str, spec: Value) -> Tenant {
        self.new_tenant(name, spec).await.unwrap();
        self.until_tenant(name, "Ready", |t| condition(t, "Ready").as_deref() == Some("True")).await
    }

    /// Makes a tenant, or returns the API server's error.
    pub async fn new_tenant(&self, name: &str, spec: Value) -> Result<Tenant, kube::Error> {
        let tenant = json!({"apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec});
        self.create(&self.all::<Tenant>(), &tenant).await
    }

    /// Creates an object from JSON as it is, past our own types.
    pub async fn create<K, R>(&self, api: &Api<K>, object: &R) -> Result<K, kube::Error>
    where
        K: Resource + DeserializeOwned,
        R: Serialize,
    {
        let text = serde_json::to_vec(object).unwrap();
        let request =
            kube::core::Request::new(api.resource_url()).create(&PostParams::default(), text).unwrap();
        self.client.request(request).await
    }

    /// Merges a patch into a tenant.
    pub async fn patch_tenant(&self, name: &str, patch: Value) -> Result<Tenant, kube::Error> {
        self.all::<Tenant>().patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    /// Waits for something of a tenant.
    pub async fn until_tenant(&self, name: &str, what: &str, holds: impl Fn(&Tenant) -> bool) -> Tenant {
        let api = self.all::<Tenant>();
        let what = format!("tenant {name}: {what}");
        wait::until(WAIT_TIMEOUT, &what, || async {
            let tenant = api.get(name).await.map_err(|e| e.to_string())?;
            if holds(&tenant) { Ok(tenant) } else { Err(format!("{:?}", tenant.status)) }
        })
        .await
        .unwrap()
    }

    /// Waits until an object no longer exists.
    pub async fn until_deleted<K>(&self, api: &Api<K>, name: &str)
    where
        K: Clone + Debug + DeserializeOwned,
    {
        wait::until(WAIT_TIMEOUT, &format!("{name} to be deleted"), || async {
            match api.get_opt(name).await {
                Ok(None) => Ok(()),
                other => Err(other),
            }
        })
        .await
        .unwrap();
    }

    /// Makes a kwok node that an administrator has labelled for a tenant, and waits until it is admitted.
    pub async fn worker(&self, name: &str, tenant: &str, cpu: &str) {
        let label = "crofter.node-restriction.kubernetes.io/tenant";
        let node = NodeSpec::new(name).label(label, tenant).capacity(cpu, "32Gi");
        self.world.cluster.add_node(&node).await.unwrap();
        self.until_admitted(name, Some(tenant)).await;
    }

    /// Waits until a node is admitted to a group, or to none.
    pub async fn until_admitted(&self, name: &str, group: Option<&str>) {
        let key = "crofter.node-restriction.kubernetes.io/admitted";
        let api = self.all::<k8s_openapi::api::core::v1::Node>();
        wait::until(WAIT_TIMEOUT, &format!("node {name} admitted to {group:?}"), || async {
            let node = api.get(name).await.map_err(|e| e.to_string())?;
            let label = node.labels().get(key).cloned();
            let taints = node.spec.unwrap_or_default().taints.unwrap_or_default();
            let taint = taints.iter().find(|t| t.key == key).map(|t| t.value.clone().unwrap_or_default());
            if label.as_deref() == group && taint.as_deref() == group {
                Ok(())
            } else {
                Err(format!("{label:?} {taint:?}"))
            }
        })
        .await
        .unwrap();
    }

    /// Submits a job.
    pub async fn job(&self, tenant: &str, name: &str, spec: Value) -> Job {
        self.new_job(&namespace(tenant), name, spec).await.unwrap()
    }

    /// Submits a job that is younger than all before it: the time of submission, by which jobs of one score are
    /// ordered, has no fractions of seconds.
    pub async fn later_job(&self, tenant: &str, name: &str, spec: Value) -> Job {
        let second = now().as_second();
        wait::until(WAIT_TIMEOUT, "the next second", async || match now().as_second() {
            later if later > second => Ok(()),
            same => Err(same),
        })
        .await
        .unwrap();
        self.job(tenant, name, spec).await
    }

    /// Submits a job, or returns the API server's error.
    pub async fn new_job(&self, namespace: &str, name: &str, spec: Value) -> Result<Job, kube::Error> {
        let mut whole =
            json!({"image": "crofter.test/busybox:1", "resources": {"cpu": "100m", "memory": "64Mi"}});
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        whole.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let job = json!({"apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": {"name": name}, "spec": whole});
        self.create(&self.within::<Job>(namespace), &job).await
    }

    /// Merges a patch into a job.
    pub async fn patch_job(&self, tenant: &str, name: &str, patch: Value) -> Result<Job, kube::Error> {
        self.jobs(tenant).patch(name, &PatchParams::default(), &Patch::Merge(patch)).await
    }

    /// Waits until a job is in a phase.
    pub async fn until_phase(&self, tenant: &str, name: &str, phase: JobPhase) -> Job {
        self.until_job(tenant, name, &format!("{phase}"), |job| self::phase(job) == phase).await
    }

    /// Waits until a queued job gives this reason.
    pub async fn until_reason(&self, tenant: &str, name: &str, reason: &str) -> Job {
        self.until_job(tenant, name, reason, |job| self::reason(job) == reason).await
    }

    /// Waits for something of a job.
    pub async fn until_job(&self, tenant: &str, name: &str, what: &str, holds: impl Fn(&Job) -> bool) -> Job {
        let api = self.jobs(tenant);
        let what = format!("job {tenant}/{name}: {what}");
        wait::until(WAIT_TIMEOUT, &what, || async {
            let job = api.get(name).await.map_err(|e| e.to_string())?;
            if holds(&job) { Ok(job) } else { Err(format!("{:?}", job.status)) }
        })
        .await
        .unwrap()
    }

    /// Deletes a tenant and waits until it no longer exists.
    pub async fn delete_tenant(&self, name: &str) {
        self.all::<Tenant>().delete(name, &DeleteParams::default()).await.unwrap();
        self.until_deleted(&self.all::<Tenant>(), name).await;
    }
}

/// The status word of a tenant's condition.
pub fn condition(tenant: &Tenant, kind: &str) -> Option<String> {
    let all = &tenant.status.as_ref()?.conditions;
    all.iter().find(|c| c.type_ == kind).map(|c| c.status.clone())
}

/// The reason of a tenant's condition.
pub fn condition_reason(tenant: &Tenant, kind: &str) -> Option<String> {
    let all = &tenant.status.as_ref()?.conditions;
    all.iter().find(|c| c.type_ == kind).map(|c| c.reason.clone())
}

/// The phase of a job; Queued before it has a status.
pub fn phase(job: &Job) -> JobPhase {
    job.status.as_ref().map_or(JobPhase::Queued, |s| s.phase)
}

/// The reason of that phase.
pub fn reason(job: &Job) -> &str {
    job.status.as_ref().and_then(|s| s.reason.as_deref()).unwrap_or_default()
}

/// The words of a refusal.
pub fn refusal<T: Debug>(result: Result<T, kube::Error>) -> String {
    match result.expect_err("should have been refused") {
        kube::Error::Api(status) => status.message,
        other => panic!("no refusal: {other}"),
    }
}
