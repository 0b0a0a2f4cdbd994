//! A cluster of real nodes as an administrator has it who has no checkout of the repository: the release in a registry,
//! a Postgres behind a DNS name, and a certificate for the REST API. What is typed there is what docs/install.md says.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
};

use crofter::{
    api_types::{Job, JobPhase, Tenant, TenantApiKey},
    names,
};
use crofter_test_cluster::{Cluster, Registry, image, pki::Pki, wait};
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::{
    Api, Client,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};
use tokio::sync::SemaphorePermit;

use super::{
    NAMESPACE, block_after, object, operator::WAIT_TIMEOUT, release::Release, shell, succeeded, text,
    turn_of_real_nodes, type_in_at,
};

/// The node of the operator, and the one of the tenants.
pub(crate) const SYSTEM_NODE: &str = "real-1";
pub(crate) const WORKER: &str = "real-2";
/// The namespace of the tenant.
pub(crate) const TENANT_NAMESPACE: &str = "tenant-acme";

/// The name that the certificate of the REST API is for.
const SERVICE: &str = "crofter.crofter-system.svc";

pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) registry: Registry,
    pub(crate) release: Release,
    pub(crate) database_url: String,
    /// What is typed is typed here.
    pub(crate) dir: PathBuf,
    _turn: SemaphorePermit<'static>,
}

impl Site {
    /// Nodes without the image, a registry with the release, a database, and the files of a certificate.
    pub(crate) async fn bare() -> Self {
        let turn = turn_of_real_nodes().await;
        let cluster = Cluster::builder().real_nodes(2).start().unwrap();
        let registry = cluster.start_registry().await.unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_crofter"));
        let version = env!("CARGO_PKG_VERSION");
        let image = image::development_image(&format!("crofter:{version}"), binary, cluster.dir()).unwrap();
        let layout = image.write_layout(&cluster.dir().join("oci")).unwrap();
        let release = Release::publish(&cluster, &registry, &layout.dir).await;

        let dir = cluster.dir().join("site");
        fs::create_dir(&dir).unwrap();
        let pki = Pki::create(&dir).unwrap();
        pki.issue("tls", "crofter", &[], &[SERVICE]).unwrap();
        let database_url = cluster.create_database("crofter").await.unwrap();
        Self { cluster, registry, release, database_url, dir, _turn: turn }
    }

    /// The same with what values.yaml names: the Secrets of the database and of the certificate, in a namespace that
    /// admits restricted pods only.
    pub(crate) async fn prepare() -> Self {
        let site = Self::bare().await;
        let values = block_after("## Install", "yaml");
        let node = format!("nodeSelector: {{kubernetes.io/hostname: {SYSTEM_NODE}}}\n");
        fs::write(site.dir.join("values.yaml"), values + &node).unwrap();
        let url = site.write_postgres(NAMESPACE);
        let secrets = block_after("create the Secrets that it names", "sh");
        let placeholder = "postgres://crofter:…@postgres.example.com/crofter";
        assert!(secrets.contains(placeholder), "{secrets}");
        site.type_in(&secrets.replace(placeholder, &url)).await;
        site.type_in(&format!(
            "kubectl label namespace {NAMESPACE} pod-security.kubernetes.io/enforce=restricted\n\
             kubectl apply --filename postgres.json"
        ))
        .await;
        site
    }

    /// Writes postgres.json, the Service of Postgres in a namespace; returns the URL of the database by its name.
    pub(crate) fn write_postgres(&self, namespace: &str) -> String {
        let (postgres, url) = self.cluster.postgres_service(namespace, "crofter").unwrap();
        fs::write(self.dir.join("postgres.json"), postgres.to_string()).unwrap();
        url
    }

    /// Types commands into a shell in the directory of the site, and ends the test where one fails.
    pub(crate) async fn type_in(&self, commands: &str) -> String {
        type_in_at(&self.cluster, &self.dir, commands).await
    }

    /// The same for commands that wait for the operator's pods: where one fails, what the cluster says of them is
    /// printed.
    pub(crate) async fn wait_for_pods(&self, commands: &str) -> String {
        let output = shell(&self.cluster, &self.dir, commands).await;
        if !output.status.success() {
            let why = format!(
                "kubectl --namespace {NAMESPACE} describe pods\n\
                 kubectl --namespace {NAMESPACE} logs --selector app.kubernetes.io/name=crofter --tail 40 --prefix"
            );
            let why = shell(&self.cluster, &self.dir, &why).await;
            eprintln!("{}\n{}\n{}", text(&output.stdout), text(&why.stdout), text(&why.stderr));
        }
        succeeded(&output)
    }

    /// What a client is answered that trusts the certificates in `authority`, asks for `host`, and is led to a pod of
    /// the operator by `kubectl port-forward`. An error of curl is its exit status and what it says.
    pub(crate) async fn rest(
        &self,
        authority: &str,
        host: &str,
        path: &str,
        key: &str,
    ) -> Result<Value, String> {
        let commands = format!(
            "exec 3< <(exec kubectl --namespace {NAMESPACE} port-forward service/crofter :443)\n\
             trap \"kill $!\" EXIT\n\
             read -r _ _ address _ <&3\n\
             curl --silent --show-error --fail-with-body --max-time 20 --cacert {authority} \
             --connect-to \"{host}:443:$address\" --header 'x-api-key: {key}' https://{host}{path}"
        );
        let Output { status, stdout, stderr } = shell(&self.cluster, &self.dir, &commands).await;
        if status.success() {
            return serde_json::from_slice(&stdout).map_err(|error| error.to_string());
        }
        Err(format!("{status}: {}{}", text(&stdout), text(&stderr)))
    }

    /// The jobs of the tenant of this key, by a client that verifies the certificate.
    pub(crate) async fn jobs_over_tls(&self, key: &str) -> Value {
        let asked = || self.rest("ca.crt", SERVICE, "/v1/jobs", key);
        wait::until(WAIT_TIMEOUT, "the REST API to admit the key", asked).await.unwrap()
    }
}

/// The operator's pods.
pub(crate) async fn pods(client: &Client) -> Vec<Pod> {
    let labelled = ListParams::default().labels("app.kubernetes.io/name=crofter");
    Api::<Pod>::namespaced(client.clone(), NAMESPACE).list(&labelled).await.unwrap().items
}

/// Creates the tenant `acme`, whose jobs may run in the shared pools, too.
pub(crate) async fn create_tenant(client: &Client, shared_pools: &[&str]) {
    let acme = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme"},
        "spec": {"plan": "basic", "sharedPools": shared_pools},
    });
    let tenants: Api<Tenant> = Api::all(client.clone());
    tenants.create(&PostParams::default(), &object(acme)).await.unwrap();
}

pub(crate) fn jobs(client: &Client) -> Api<Job> {
    Api::namespaced(client.clone(), TENANT_NAMESPACE)
}

/// Submits a job of one shell script, of an image that every node has.
pub(crate) async fn submit_script(client: &Client, name: &str, script: &str) {
    submit(client, name, "crofter.test/busybox:1", &["sh", "-c", script]).await;
}

/// Submits a job.
pub(crate) async fn submit(client: &Client, name: &str, image: &str, command: &[&str]) {
    let job: Job = object(json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": {"name": name},
        "spec": {
            "image": image, "command": command,
            "resources": {"cpu": "100m", "memory": "32Mi"},
        },
    }));
    let (jobs, plainly) = (jobs(client), PostParams::default());
    wait::until(WAIT_TIMEOUT, "the job to be accepted", || jobs.create(&plainly, &job)).await.unwrap();
}

/// Waits until a job is in a phase.
pub(crate) async fn until_phase(client: &Client, name: &str, phase: JobPhase) -> Job {
    let jobs = jobs(client);
    wait::until(WAIT_TIMEOUT, &format!("{name} to be {phase}"), || async {
        let job = jobs.get(name).await.map_err(|error| error.to_string())?;
        if job.status.as_ref().is_some_and(|status| status.phase == phase) {
            Ok(job)
        } else {
            Err(format!("{:?}", job.status))
        }
    })
    .await
    .unwrap()
}

/// A key of the tenant for reading jobs.
pub(crate) async fn create_key(client: &Client) -> String {
    let reader = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": {"name": "reader"},
        "spec": {"scopes": ["jobs:read"]},
    });
    let keys: Api<TenantApiKey> = Api::namespaced(client.clone(), TENANT_NAMESPACE);
    keys.create(&PostParams::default(), &object(reader)).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), TENANT_NAMESPACE);
    wait::until(WAIT_TIMEOUT, "the token of the key", || async {
        let secret = secrets.get("crofter-key-reader").await.map_err(|error| error.to_string())?;
        let token = secret.data.and_then(|mut data| data.remove(names::SECRET_TOKEN));
        token.and_then(|token| String::from_utf8(token.0).ok()).ok_or_else(|| "no token yet".to_owned())
    })
    .await
    .unwrap()
}
