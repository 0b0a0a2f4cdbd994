//! The chart on real nodes, as an administrator installs it: the image by its digest, in a namespace that admits
//! restricted pods only, with Postgres behind a DNS name. The kubelet starts the operator's pods, and they have no other
//! identity than their service account.
//!
//! Where the machine cannot run real nodes the test is skipped, unless `CROFTER_REQUIRE_REAL_NODES` is set.

use std::{collections::BTreeSet, fs, path::Path, process::Output, time::Duration};

use crofter::{
    api_types::{Job, JobPhase, Tenant, TenantApiKey},
    names,
};
use crofter_test_cluster::{Cluster, image, real, wait};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection};

use super::{NAMESPACE, RELEASE, chart, helm, object, operator::WAIT_TIMEOUT, succeeded, text};

const REPOSITORY: &str = "crofter.test/crofter";
/// The node of the operator, and the one of the tenant.
const SYSTEM_NODE: &str = "real-1";
const WORKER: &str = "real-2";

/// A cluster that has what an administrator has before the install.
struct Site {
    cluster: Cluster,
    digest: String,
    database_url: String,
}

impl Site {
    /// Nodes with the image, the namespace, a database and the Secret with its address.
    async fn prepare() -> Self {
        let cluster = Cluster::builder().real_nodes(2).start().unwrap();
        let reference = format!("{REPOSITORY}:{}", env!("CARGO_PKG_VERSION"));
        let binary = Path::new(env!("CARGO_BIN_EXE_crofter"));
        let archive = image::development_build(&reference, binary, cluster.dir()).unwrap();
        cluster.real_nodes().unwrap().import_image(&archive).unwrap();
        let database_url = cluster.create_database("crofter").await.unwrap();
        let (service, url) = cluster.postgres_service(NAMESPACE, "crofter").unwrap();
        let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {
                    "name": NAMESPACE, "labels": { "pod-security.kubernetes.io/enforce": "restricted" },
                },
            },
            {
                "apiVersion": "v1", "kind": "Secret",
                "metadata": { "name": "crofter-database", "namespace": NAMESPACE },
                "stringData": { "url": url },
            },
            service["items"][0],
            service["items"][1],
        ]});
        let site = Self { cluster, digest: archive.digest, database_url };
        site.write("objects.json", &objects);
        succeeded(&site.kubectl(&["apply", "--filename", &site.path("objects.json")]).await);
        let values = json!({
            // No registry has it: the pods start from what the nodes have under this digest.
            "image": { "repository": REPOSITORY, "digest": site.digest },
            "database": { "existingSecret": "crofter-database" },
            "nodeSelector": { "kubernetes.io/hostname": SYSTEM_NODE },
        });
        site.write("values.yaml", &values);
        site
    }

    fn path(&self, file: &str) -> String {
        self.cluster.dir().join(file).display().to_string()
    }

    fn write(&self, file: &str, content: &Value) {
        fs::write(self.path(file), content.to_string()).unwrap();
    }

    async fn kubectl(&self, arguments: &[&str]) -> Output {
        self.cluster.kubectl(arguments).await.unwrap()
    }

    /// Installs or upgrades the release, and waits until its pods are ready; where they do not become ready, the test
    /// fails with what the cluster says of them.
    async fn helm(&self, verb: &str) {
        let values = self.path("values.yaml");
        let done =
            helm(&self.cluster, verb, &chart(), &["--wait", "--timeout", "120s", "--values", &values]).await;
        if !done.status.success() {
            let pods = self.kubectl(&["describe", "pods", "--namespace", NAMESPACE]).await;
            let logs =
                self.kubectl(&["logs", "--namespace", NAMESPACE, "deployment/crofter", "--tail=40"]).await;
            eprintln!("{}\n{}\n{}", text(&pods.stdout), text(&logs.stdout), text(&logs.stderr));
        }
        succeeded(&done);
    }

    /// Runs a command in a pod of the operator.
    async fn exec(&self, command: &[&str]) -> Output {
        let target = ["exec", "--namespace", NAMESPACE, "deployment/crofter", "--"];
        self.kubectl(&[target.as_slice(), command].concat()).await
    }
}

/// The operator's pods.
async fn pods(client: &Client) -> Vec<Pod> {
    let labelled = ListParams::default().labels("app.kubernetes.io/name=crofter");
    Api::<Pod>::namespaced(client.clone(), NAMESPACE).list(&labelled).await.unwrap().items
}

/// What an upgrade that changes nothing leaves as it is: the pods by their UIDs, and the Deployment's generation.
async fn identity(client: &Client) -> (BTreeSet<String>, Option<i64>) {
    let uids = pods(client).await.iter().filter_map(ResourceExt::uid).collect();
    let deployment = Api::<Deployment>::namespaced(client.clone(), NAMESPACE).get(RELEASE).await.unwrap();
    (uids, deployment.metadata.generation)
}

/// Gives the tenant `acme` the worker, and has it run a job.
async fn run_job(client: &Client) -> Job {
    let acme = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme"},
        "spec": {"plan": "basic"},
    });
    let tenants: Api<Tenant> = Api::all(client.clone());
    tenants.create(&PostParams::default(), &object(acme)).await.unwrap();
    let label = Patch::Merge(json!({"metadata": {"labels": {names::NODE_TENANT: "acme"}}}));
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.patch(WORKER, &PatchParams::default(), &label).await.unwrap();

    let jobs: Api<Job> = Api::namespaced(client.clone(), "tenant-acme");
    let hello: Job = object(json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": {"name": "hello"},
        "spec": {
            "image": "crofter.test/busybox:1", "command": ["echo", "hello"],
            "resources": {"cpu": "100m", "memory": "32Mi"},
        },
    }));
    let plainly = PostParams::default();
    wait::until(WAIT_TIMEOUT, "the job to be accepted", || jobs.create(&plainly, &hello)).await.unwrap();
    wait::until(WAIT_TIMEOUT, "the job to complete", || async {
        let job = jobs.get("hello").await.map_err(|error| error.to_string())?;
        let phase = job.status.as_ref().map(|status| status.phase);
        if phase == Some(JobPhase::Completed) { Ok(job) } else { Err(format!("{:?}", job.status)) }
    })
    .await
    .unwrap()
}

/// A key of the tenant for reading jobs.
async fn key(client: &Client) -> String {
    let reader = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": {"name": "reader"},
        "spec": {"scopes": ["jobs:read"]},
    });
    let keys: Api<TenantApiKey> = Api::namespaced(client.clone(), "tenant-acme");
    keys.create(&PostParams::default(), &object(reader)).await.unwrap();
    let secrets: Api<Secret> = Api::namespaced(client.clone(), "tenant-acme");
    wait::until(WAIT_TIMEOUT, "the token of the key", || async {
        let secret = secrets.get("crofter-key-reader").await.map_err(|error| error.to_string())?;
        let token = secret.data.and_then(|mut data| data.remove(names::SECRET_TOKEN));
        token.and_then(|token| String::from_utf8(token.0).ok()).ok_or_else(|| "no token yet".to_owned())
    })
    .await
    .unwrap()
}

/// What the REST API returns through its Service, which the API server calls in the caller's place.
async fn rest(client: &Client, path: &str, key: &str) -> Result<Value, String> {
    let url = format!("/api/v1/namespaces/{NAMESPACE}/services/{RELEASE}:http/proxy{path}");
    let request = http::Request::get(url).header("x-api-key", key).body(Vec::new()).unwrap();
    client.request(request).await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn an_operator_from_its_image_serves_a_tenant_and_survives_an_upgrade() {
    if !real::available_to_tests() {
        return;
    }
    // Given nodes with the image, and a namespace that admits restricted pods only.
    let site = Site::prepare().await;
    let (client, _report) = site.cluster.client_with_report().await.unwrap();

    // When the chart is installed, the kubelet runs that image, and nothing of it has to be restarted.
    site.helm("install").await;
    let installed = identity(&client).await;
    for pod in pods(&client).await {
        let status = pod.status.unwrap().container_statuses.unwrap().remove(0);
        assert!(status.ready && status.image_id.ends_with(&site.digest), "{status:?}");
        assert_eq!(status.restart_count, 0);
        assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some(SYSTEM_NODE));
    }
    let version = succeeded(&site.exec(&["crofter", "--version"]).await);
    assert_eq!(version.trim(), concat!("crofter ", env!("CARGO_PKG_VERSION")));
    assert!(!site.exec(&["sh", "-c", "true"]).await.status.success(), "the image has a shell");

    // A tenant's job runs on the tenant's node, and its history reaches Postgres by a DNS name.
    let status = run_job(&client).await.status.unwrap();
    assert_eq!((status.node.as_deref(), status.exit_code), (Some(WORKER), Some(0)));
    wait::until(WAIT_TIMEOUT, "the job's history", || async {
        let mut database =
            PgConnection::connect(&site.database_url).await.map_err(|error| error.to_string())?;
        let query = "SELECT phase FROM jobs WHERE name = 'hello'";
        match sqlx::query_scalar::<_, Option<String>>(query).fetch_optional(&mut database).await {
            Ok(Some(Some(phase))) if phase == "Completed" => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();

    // The REST API returns the job through the Service.
    let key = key(&client).await;
    let jobs = wait::until(WAIT_TIMEOUT, "the REST API to admit the key", || rest(&client, "/v1/jobs", &key));
    let jobs = jobs.await.unwrap();
    assert_eq!(jobs["jobs"][0]["name"], "hello", "{jobs}");

    // An upgrade with the same values changes no pod.
    site.helm("upgrade").await;
    assert_eq!(identity(&client).await, installed);

    // After the uninstall no pod of the operator remains, and the tenant does.
    let uninstall = ["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"];
    succeeded(&site.cluster.helm(uninstall).await.unwrap());
    wait::until(Duration::from_secs(40), "the operator's pods to end", || async {
        let left = pods(&client).await;
        if left.is_empty() { Ok(()) } else { Err(left.iter().map(ResourceExt::name_any).collect::<Vec<_>>()) }
    })
    .await
    .unwrap();
    assert!(Api::<Tenant>::all(client.clone()).get_opt("acme").await.unwrap().is_some());
    let jobs: Api<Job> = Api::namespaced(client.clone(), "tenant-acme");
    assert_eq!(jobs.get("hello").await.unwrap().status.unwrap().phase, JobPhase::Completed);
}
