//! What is written to install Kueue and to use it. Pure; what is Kueue's own is read from its module, as text.

use std::path::Path;

use anyhow::Context;
use crofter::{names, yaml};
use k8s_openapi::ByteString;
use serde_json::{Value, json};

use crate::{
    load::{Creation, IMAGE, MEMORY, Shape, Tenant},
    stage::POOL,
};

/// The LocalQueue of each tenant.
const QUEUE: &str = "main";
/// The only flavor: the nodes of the pool.
const FLAVOR: &str = "bench";
/// What all ClusterQueues may borrow from each other in.
const COHORT: &str = "bench";
/// Where Kueue would have its Deployment.
pub const NAMESPACE: &str = "kueue-system";
/// Where ClusterQueues are.
pub const CLUSTER_QUEUES: &str = "/apis/kueue.x-k8s.io/v1beta2/clusterqueues";
/// Where Workloads are.
pub const WORKLOADS: &str = "/apis/kueue.x-k8s.io/v1beta2/workloads";

/// The CRDs that Kueue's release installs with a conversion by webhook.
const CONVERTED: [&str; 5] = ["clusterqueues", "cohorts", "localqueues", "multikueueclusters", "workloads"];

/// How Kueue is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// For this load: nothing slows its requests, more is reconciled at once, and of its integrations and webhooks it
    /// has those of batch Jobs.
    Tuned,
    /// As its release installs it.
    Shipped,
}

/// Where the API server finds Kueue's webhooks.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// On the loopback address.
    pub port: u16,
    /// The certificate of the authority that it is trusted by, as PEM.
    pub authority: Vec<u8>,
}

impl Endpoint {
    fn client_config(&self, path: &str) -> Value {
        let Self { port, authority } = self;
        json!({"url": format!("https://127.0.0.1:{port}{path}"), "caBundle": ByteString(authority.clone())})
    }

    /// What has a CRD's versions converted.
    fn conversion(&self) -> Value {
        let webhook =
            json!({"clientConfig": self.client_config("/convert"), "conversionReviewVersions": ["v1"]});
        json!({"strategy": "Webhook", "webhook": webhook})
    }

    /// The CRD of `manifest`. Those that have a version behind them whose objects differ are converted by Kueue.
    ///
    /// # Errors
    /// When it is none.
    pub fn crd(&self, manifest: &str) -> anyhow::Result<Value> {
        let mut crd: Value = yaml::read(manifest)?;
        let plural =
            crd.pointer("/spec/names/plural").and_then(Value::as_str).context("a CRD without name")?;
        if CONVERTED.contains(&plural) {
            json_patch::merge(&mut crd, &json!({"spec": {"conversion": self.conversion()}}));
        }
        Ok(crd)
    }

    /// The webhook configurations of `manifests`, that name a Service, with this endpoint in its place.
    ///
    /// # Errors
    /// When the manifests are not what they are expected to be.
    pub fn webhooks(&self, manifests: &str, setup: Setup) -> anyhow::Result<Vec<Value>> {
        let mut all: Vec<Value> = yaml::read_all(manifests)?;
        for configuration in &mut all {
            let webhooks = configuration.get_mut("webhooks").and_then(Value::as_array_mut);
            let webhooks = webhooks.context("a configuration without webhooks")?;
            webhooks.retain(|webhook| setup == Setup::Shipped || is_of_jobs(webhook));
            for webhook in webhooks {
                let config = webhook.get_mut("clientConfig").context("a webhook without address")?;
                let path = config.pointer("/service/path").and_then(Value::as_str);
                *config = self.client_config(path.context("a webhook without path")?);
            }
        }
        Ok(all)
    }
}

/// Whether a webhook is for batch Jobs or for Kueue's own objects.
fn is_of_jobs(webhook: &Value) -> bool {
    let groups = webhook.pointer("/rules/0/apiGroups/0").and_then(Value::as_str);
    groups.is_some_and(|group| ["batch", "kueue.x-k8s.io"].contains(&group))
}

/// The manager's configuration: the one that is `shipped`, with fair sharing on, as a process of this machine, and by
/// `setup`. Its certificate is in `certificates`.
///
/// # Errors
/// When it can't be read.
pub fn configuration(shipped: &str, setup: Setup, port: u16, certificates: &Path) -> anyhow::Result<Value> {
    let mut configuration: Value = yaml::read(shipped)?;
    let here = json!({
        "namespace": NAMESPACE,
        "leaderElection": {"resourceNamespace": NAMESPACE},
        "health": {"healthProbeBindAddress": "0"},
        "metrics": {"bindAddress": "127.0.0.1:0"},
        "webhook": {"host": "127.0.0.1", "port": port, "certDir": certificates},
        "internalCertManagement": {"enable": false},
        // An API server of its own, for which there is no Service to be reached by.
        "featureGates": {"VisibilityOnDemand": false},
        "fairSharing": {"preemptionStrategies": ["LessThanOrEqualToFinalShare", "LessThanInitialShare"]},
    });
    json_patch::merge(&mut configuration, &here);
    if setup == Setup::Tuned {
        let at_once = json!({
            "Job.batch": 32, "Workload.kueue.x-k8s.io": 32,
            "LocalQueue.kueue.x-k8s.io": 16, "ClusterQueue.kueue.x-k8s.io": 16,
        });
        let tuned = json!({
            "clientConnection": {"qps": 5000, "burst": 10_000},
            "controller": {"groupKindConcurrency": at_once},
            "integrations": {"frameworks": ["batch/job"]},
        });
        json_patch::merge(&mut configuration, &tuned);
    }
    Ok(configuration)
}

/// A tenant's namespace.
pub fn namespace(tenant: &Tenant) -> String {
    format!("kueue-{}", tenant.name)
}

/// The flavor: pods of its Workloads go to the nodes of the pool, as Crofter's do.
pub fn flavor() -> (String, Value) {
    let spec = json!({
        "nodeLabels": {names::NODE_POOL: POOL},
        "tolerations": [{"key": names::NODE_ADMITTED, "operator": "Exists", "effect": "NoSchedule"}],
    });
    ("/apis/kueue.x-k8s.io/v1beta2/resourceflavors".to_owned(), object("ResourceFlavor", FLAVOR, spec))
}

/// A tenant's queues. Its equal part of `cores` is its quota; what others leave it may borrow.
pub fn queues(tenant: &Tenant, cores: u32, tenants: usize) -> Vec<(String, Value)> {
    let cores = usize::try_from(cores).unwrap_or_default() / tenants.max(1);
    let quotas = [("cpu", cores.to_string()), ("memory", format!("{cores}Gi"))]
        .map(|(resource, quota)| json!({"name": resource, "nominalQuota": quota}));
    let cluster_queue = json!({
        "cohortName": COHORT,
        "namespaceSelector": {},
        "resourceGroups": [{
            "coveredResources": ["cpu", "memory"],
            "flavors": [{"name": FLAVOR, "resources": quotas}],
        }],
    });
    let local_queues = format!("/apis/kueue.x-k8s.io/v1beta2/namespaces/{}/localqueues", namespace(tenant));
    vec![
        (CLUSTER_QUEUES.to_owned(), object("ClusterQueue", &tenant.name, cluster_queue)),
        (local_queues, object("LocalQueue", QUEUE, json!({"clusterQueue": tenant.name}))),
    ]
}

/// Whether a ClusterQueue admits Workloads.
pub fn is_active(cluster_queue: &Value) -> bool {
    let conditions = cluster_queue.pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|one| one["type"] == "Active" && one["status"] == "True")
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": "kueue.x-k8s.io/v1beta2", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// The creation of a batch Job that waits to be admitted: one pod, which is asked of the simulated nodes what a Job of
/// Crofter asks of them.
pub fn job(tenant: &Tenant, name: &str, shape: &Shape) -> Creation {
    let namespace = namespace(tenant);
    let amounts = json!({"cpu": shape.cores.to_string(), "memory": MEMORY});
    let container = json!({
        "name": "job",
        "image": IMAGE,
        "env": [{"name": "CROFTER_PARAM_RUN_SECONDS", "value": shape.seconds.to_string()}],
        "resources": {"requests": amounts, "limits": amounts},
    });
    let pod = json!({
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "containers": [container],
    });
    let object = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"kueue.x-k8s.io/queue-name": QUEUE}},
        "spec": {"suspend": true, "template": {"spec": pod}},
    });
    let path = format!("/apis/batch/v1/namespaces/{namespace}/jobs");
    (namespace, path, object)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = "
apiVersion: config.kueue.x-k8s.io/v1beta2
kind: Configuration
webhook:
  port: 9443
controller:
  groupKindConcurrency:
    Job.batch: 5
    Pod: 5
clientConnection:
  qps: 300
integrations:
  frameworks: [batch/job, pod]
";
    const WEBHOOKS: &str = "
---
kind: MutatingWebhookConfiguration
webhooks:
- name: mjob.kb.io
  clientConfig: {service: {name: webhook-service, namespace: system, path: /mutate-batch-v1-job}}
  rules: [{apiGroups: [batch]}]
- name: mpod.kb.io
  clientConfig: {service: {name: webhook-service, namespace: system, path: /mutate--v1-pod}}
  rules: [{apiGroups: ['']}]
---
kind: ValidatingWebhookConfiguration
webhooks:
- name: vworkload.kb.io
  clientConfig: {service: {name: webhook-service, namespace: system, path: /validate-workload}}
  rules: [{apiGroups: [kueue.x-k8s.io]}]
";

    fn tenant() -> Tenant {
        Tenant { name: "t3".to_owned(), plan: "enterprise", uid: String::new() }
    }

    #[test]
    fn the_shipped_configuration_is_kept_but_for_where_it_runs() {
        let shipped = configuration(SHIPPED, Setup::Shipped, 7001, Path::new("/certs")).unwrap();
        assert_eq!(shipped["webhook"], json!({"host": "127.0.0.1", "port": 7001, "certDir": "/certs"}));
        assert_eq!(shipped["clientConnection"], json!({"qps": 300}));
        assert_eq!(shipped["integrations"]["frameworks"], json!(["batch/job", "pod"]));
        assert_eq!(shipped["controller"]["groupKindConcurrency"], json!({"Job.batch": 5, "Pod": 5}));
        assert!(shipped["fairSharing"]["preemptionStrategies"].is_array());

        let tuned = configuration(SHIPPED, Setup::Tuned, 7001, Path::new("/certs")).unwrap();
        assert_eq!(tuned["clientConnection"], json!({"qps": 5000, "burst": 10_000}));
        assert_eq!(tuned["integrations"]["frameworks"], json!(["batch/job"]));
        assert_eq!(tuned["controller"]["groupKindConcurrency"]["Job.batch"], 32);
        assert_eq!(tuned["controller"]["groupKindConcurrency"]["Pod"], 5);
    }

    #[test]
    fn webhooks_are_found_without_a_service() {
        let endpoint = Endpoint { port: 7001, authority: b"pem".to_vec() };
        let all = endpoint.webhooks(WEBHOOKS, Setup::Shipped).unwrap();
        let config = json!({"url": "https://127.0.0.1:7001/mutate-batch-v1-job", "caBundle": "cGVt"});
        assert_eq!(all[0]["webhooks"][0]["clientConfig"], config);
        assert_eq!(all[0]["webhooks"][1]["clientConfig"]["url"], "https://127.0.0.1:7001/mutate--v1-pod");
        let crd = |plural: &str| endpoint.crd(&format!("spec: {{names: {{plural: {plural}}}}}")).unwrap();
        let conversion = &crd("workloads")["spec"]["conversion"];
        assert_eq!(conversion["webhook"]["clientConfig"]["url"], "https://127.0.0.1:7001/convert");
        assert_eq!(crd("resourceflavors")["spec"].get("conversion"), None);

        let tuned = endpoint.webhooks(WEBHOOKS, Setup::Tuned).unwrap();
        let names = |configuration: &Value| {
            let webhooks = configuration["webhooks"].as_array().unwrap().iter();
            webhooks.map(|webhook| webhook["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&tuned[0]), ["mjob.kb.io"], "no other kind of job is submitted");
        assert_eq!(names(&tuned[1]), ["vworkload.kb.io"]);
        assert!(endpoint.webhooks("kind: Service", Setup::Tuned).is_err());
    }

    #[test]
    fn a_job_asks_for_what_a_job_of_crofter_does() {
        let shape = Shape { cores: 2, seconds: 3 };
        let (namespace, path, object) = job(&tenant(), "j1", &shape);
        assert_eq!(
            (namespace.as_str(), path.as_str()),
            ("kueue-t3", "/apis/batch/v1/namespaces/kueue-t3/jobs")
        );
        let container = &object["spec"]["template"]["spec"]["containers"][0];
        let crofter = crate::load::job_object("j1", &shape);
        assert_eq!(container["resources"]["limits"], crofter["spec"]["resources"]);
        assert_eq!(container["image"], crofter["spec"]["image"]);
        assert_eq!(container["env"][0]["value"], crofter["spec"]["parameters"]["run-seconds"]);
        assert_eq!(object["spec"]["suspend"], true);
    }

    #[test]
    fn the_queues_share_the_cores_equally() {
        let all = queues(&tenant(), 2_000, 30);
        let flavor = &all[0].1["spec"]["resourceGroups"][0]["flavors"][0];
        assert_eq!(flavor["resources"][0], json!({"name": "cpu", "nominalQuota": "66"}));
        assert_eq!(flavor["name"], super::flavor().1["metadata"]["name"]);
        assert_eq!(all[1].0, "/apis/kueue.x-k8s.io/v1beta2/namespaces/kueue-t3/localqueues");
        assert_eq!(all[1].1["spec"]["clusterQueue"], all[0].1["metadata"]["name"]);
        let with = |status: &str| json!({"status": {"conditions": [{"type": "Active", "status": status}]}});
        assert!(is_active(&with("True")) && !is_active(&with("False")) && !is_active(&all[0].1));
        let (_, _, job) = job(&tenant(), "j1", &Shape { cores: 1, seconds: 1 });
        assert_eq!(job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"], all[1].1["metadata"]["name"]);
    }
}
