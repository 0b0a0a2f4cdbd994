//! The Postgres that the chart can install: what its pod may do and is made of, and its server on real nodes.
//!
//! No registry is reached, so the server is this machine's in an image of the test cluster. Of the official image
//! (docker.io/library/postgres) that image takes over what the chart relies on:
//! - the user `postgres` is 999:999, and the entrypoint started as that user neither changes owners nor the user;
//! - `PGDATA` may be anywhere: the entrypoint creates it, and continues where it may not change the modes of a directory of
//!   another user's, such as a mounted volume;
//! - an empty `PGDATA` gets the superuser `POSTGRES_USER` with `POSTGRES_PASSWORD` and the database `POSTGRES_DB`, by a server
//!   that listens to no network, so that probes over TCP fail until all is done; another one is used as it is;
//! - it writes below `PGDATA`, `/var/run/postgresql` and `/tmp` alone;
//! - it is stopped by SIGINT, which ends connections: by SIGTERM it would wait for the operator's.

use std::{fs, path::Path, process::Command};

use crofter::{
    api_types::{Job, JobPhase, Tenant, TenantApiKey},
    names,
};
use crofter_test_cluster::{Cluster, image, real, wait};
use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{Namespace, Node, PersistentVolumeClaim, Pod, Secret},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use tokio::sync::SemaphorePermit;

use super::{
    NAMESPACE, PROPAGATION_TIMEOUT, RELEASE, block_after, chart, helm, object, operator::WAIT_TIMEOUT,
    succeeded, text, turn_of_real_nodes, type_in,
};

/// Its StatefulSet, and what has the same name.
const POSTGRES: &str = "crofter-postgres";
/// Its pod.
const POD: &str = "crofter-postgres-0";

/// Runs what the init container runs, with the rights that it has.
async fn init_container(cluster: &Cluster, client: &Client) {
    let sets: Api<StatefulSet> = Api::namespaced(client.clone(), NAMESPACE);
    let pod = sets.get(POSTGRES).await.unwrap().spec.unwrap().template.spec.unwrap();
    let init = pod.init_containers.unwrap().remove(0);
    let kubeconfig =
        cluster.kubeconfig_for_service_account(NAMESPACE, &pod.service_account_name.unwrap()).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
    command.args(init.args.unwrap()).env("KUBECONFIG", kubeconfig.unwrap());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[tokio::test]
async fn its_secret_is_created_once_and_its_pod_is_restricted() {
    let cluster = Cluster::builder().postgres(false).start().unwrap();
    let (client, _report) = cluster.client_with_report().await.unwrap();
    let strict = json!({"metadata": {
        "name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"},
    }});
    Api::<Namespace>::all(client.clone()).create(&PostParams::default(), &object(strict)).await.unwrap();
    let bundled = ["--set", "database.bundled.enabled=true"];
    let notes = succeeded(&helm(&cluster, "install", &chart(), &bundled).await);
    assert!(notes.contains("WARNING: database.bundled is for a first try"), "{notes}");
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    wait::until(PROPAGATION_TIMEOUT, "its pod in a restricted namespace", || pods.get(POD)).await.unwrap();

    let secrets: Api<Secret> = Api::namespaced(client.clone(), NAMESPACE);
    assert!(secrets.get_opt(POSTGRES).await.unwrap().is_none());
    init_container(&cluster, &client).await;
    let made = secrets.get(POSTGRES).await.unwrap();
    let data = made.data.as_ref().unwrap();
    let value = |key: &str| text(&data[key].0);
    assert_eq!(value("password").len(), 48);
    let url = format!("postgres://crofter:{}@crofter-postgres.crofter-system.svc/crofter", value("password"));
    assert_eq!(value("url"), url);
    init_container(&cluster, &client).await;
    assert_eq!(secrets.get(POSTGRES).await.unwrap(), made);

    // Its service account reads no Secret, and creates none elsewhere.
    let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, POSTGRES).await.unwrap();
    let postgres = cluster.client_for(&kubeconfig).await.unwrap();
    let code = |error: kube::Error| match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    };
    let own: Api<Secret> = Api::namespaced(postgres.clone(), NAMESPACE);
    assert_eq!(code(own.get(POSTGRES).await.unwrap_err()), 403);
    assert_eq!(code(own.list(&ListParams::default()).await.unwrap_err()), 403);
    let other: Secret = object(json!({"metadata": {"name": "other"}}));
    let elsewhere: Api<Secret> = Api::namespaced(postgres, "default");
    assert_eq!(code(elsewhere.create(&PostParams::default(), &other).await.unwrap_err()), 403);

    // An uninstall leaves the Secret with the volume that needs it.
    let uninstall = ["uninstall", "crofter", "--namespace", NAMESPACE];
    succeeded(&cluster.helm(uninstall).await.unwrap());
    assert_eq!(secrets.get(POSTGRES).await.unwrap().data, made.data);

    // What docs/install.md says to delete to begin again is all of it.
    type_in(&cluster, &block_after("to begin again, delete both", "sh")).await;
    assert!(secrets.get_opt(POSTGRES).await.unwrap().is_none());
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client, NAMESPACE);
    assert_eq!(claims.list(&ListParams::default()).await.unwrap().items, []);
}

/// A cluster of real nodes with the images, a namespace that admits restricted pods only, and a volume on one node.
struct Site {
    cluster: Cluster,
    client: Client,
    _turn: SemaphorePermit<'static>,
}

impl Site {
    async fn prepare() -> Self {
        let turn = turn_of_real_nodes().await;
        let cluster = Cluster::builder().postgres(false).real_nodes(2).start().unwrap();
        let reference = format!("crofter.test/crofter:{}", env!("CARGO_PKG_VERSION"));
        let binary = Path::new(env!("CARGO_BIN_EXE_crofter"));
        let crofter = image::development_build(&reference, binary, cluster.dir()).unwrap();
        let postgres = image::postgres("crofter.test/postgres:1").unwrap();
        let postgres = postgres.write(&cluster.dir().join("postgres.tar")).unwrap();
        for image in [&crofter, &postgres] {
            cluster.real_nodes().unwrap().import_image(image).unwrap();
        }
        let volume = cluster.dir().join("volume");
        fs::create_dir(&volume).unwrap();
        let objects = json!({ "apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
            },
            // The kubelet gives a volume of this type to the pod's group, as it does with a cloud's.
            {
                "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "local"},
                "spec": {
                    "capacity": {"storage": "8Gi"}, "accessModes": ["ReadWriteOnce"],
                    "local": {"path": volume},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["real-1"]},
                    ]}]}},
                },
            },
        ]});
        let values = json!({
            "image": {"repository": crofter.repository, "digest": crofter.digest},
            "database": {"bundled": {
                "enabled": true, "image": {"repository": postgres.repository, "digest": postgres.digest},
            }},
            "api": {"deployment": {"enabled": true}},
            "nodeSelector": {"kubernetes.io/hostname": "real-1"},
        });
        for (file, content) in [("objects.json", objects), ("values.json", values)] {
            fs::write(cluster.dir().join(file), content.to_string()).unwrap();
        }
        let client = cluster.client().await.unwrap();
        let site = Self { cluster, client, _turn: turn };
        succeeded(&site.kubectl(&["apply", "--filename", &site.path("objects.json")]).await);
        site
    }

    fn path(&self, file: &str) -> String {
        self.cluster.dir().join(file).display().to_string()
    }

    async fn kubectl(&self, arguments: &[&str]) -> std::process::Output {
        self.cluster.kubectl(arguments).await.unwrap()
    }

    fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Installs the release, and waits until all its pods are ready.
    async fn install(&self) {
        let values = self.path("values.json");
        let wait = ["--wait", "--timeout", "180s", "--values", &values];
        let done = helm(&self.cluster, "install", &chart(), &wait).await;
        if !done.status.success() {
            let pods = self.kubectl(&["describe", "pods,pvc", "--namespace", NAMESPACE]).await;
            let logs = self.kubectl(&["logs", "--namespace", NAMESPACE, POD, "--all-containers"]).await;
            eprintln!("{}\n{}\n{}", text(&pods.stdout), text(&logs.stdout), text(&logs.stderr));
        }
        succeeded(&done);
    }

    /// What a query returns, by the program in the pod.
    async fn query(&self, query: &str) -> Result<String, String> {
        let psql = ["psql", "--username=crofter", "--dbname=crofter", "--no-align", "--tuples-only"];
        let exec = ["exec", "--namespace", NAMESPACE, POD, "--container=postgres", "--"];
        let command = format!("--command={query}");
        let output = self.kubectl(&[&exec, psql.as_slice(), &[&command]].concat()).await;
        let printed = text(&output.stdout).trim().to_owned();
        if output.status.success() { Ok(printed) } else { Err(text(&output.stderr)) }
    }

    /// Runs a job of the tenant, and waits until the database has its end.
    async fn run_job(&self, name: &str) {
        let jobs: Api<Job> = self.api("tenant-acme");
        let job: Job = object(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": {"name": name},
            "spec": {
                "image": "crofter.test/busybox:1", "command": ["echo", "hello"],
                "resources": {"cpu": "100m", "memory": "32Mi"},
            },
        }));
        let plainly = PostParams::default();
        wait::until(WAIT_TIMEOUT, "the job to be accepted", || jobs.create(&plainly, &job)).await.unwrap();
        wait::until(WAIT_TIMEOUT, "the job to complete", async || {
            let status = jobs.get(name).await.unwrap().status;
            if status.as_ref().is_some_and(|s| s.phase == JobPhase::Completed) { Ok(()) } else { Err(status) }
        })
        .await
        .unwrap();
        wait::until(WAIT_TIMEOUT, "its end in the database", async || {
            match self.query(&format!("SELECT phase FROM jobs WHERE name = '{name}'")).await {
                Ok(phase) if phase == "Completed" => Ok(()),
                other => Err(other),
            }
        })
        .await
        .unwrap();
    }

    /// A key for reading jobs.
    async fn key(&self) -> String {
        let reader = json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": {"name": "reader"},
            "spec": {"scopes": ["jobs:read"]},
        });
        let keys: Api<TenantApiKey> = self.api("tenant-acme");
        keys.create(&PostParams::default(), &object(reader)).await.unwrap();
        let secrets: Api<Secret> = self.api("tenant-acme");
        wait::until(WAIT_TIMEOUT, "the token of the key", async || {
            let secret = secrets.get_opt("crofter-key-reader").await.unwrap().ok_or("no Secret")?;
            let token = secret.data.and_then(|mut data| data.remove(names::SECRET_TOKEN));
            token.map(|token| text(&token.0)).ok_or("no token")
        })
        .await
        .unwrap()
    }

    /// What the REST API returns through its Service, which the API server calls in the caller's place.
    async fn rest(&self, path: &str, key: &str) -> Result<String, String> {
        let url = format!("/api/v1/namespaces/{NAMESPACE}/services/{RELEASE}:http/proxy{path}");
        let request = http::Request::get(url).header("x-api-key", key).body(Vec::new()).unwrap();
        self.client.request_text(request).await.map_err(|error| error.to_string())
    }
}

/// Gives the tenant `acme` the other node.
async fn tenant(site: &Site) {
    let acme = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme"},
        "spec": {"plan": "basic"},
    });
    let tenants: Api<Tenant> = Api::all(site.client.clone());
    tenants.create(&PostParams::default(), &object(acme)).await.unwrap();
    let label = Patch::Merge(json!({"metadata": {"labels": {names::NODE_TENANT: "acme"}}}));
    let nodes: Api<Node> = Api::all(site.client.clone());
    nodes.patch("real-2", &PatchParams::default(), &label).await.unwrap();
}

/// With the REST API in a Deployment of its own, which reads the database, too.
#[tokio::test]
async fn its_server_keeps_the_history_through_restarts_and_a_reinstall() {
    if !real::available_to_tests() {
        return;
    }
    // Given the chart with its own Postgres, all pods become ready, and the server runs as the user of the official image.
    let site = Site::prepare().await;
    site.install().await;
    let user =
        site.kubectl(&["exec", "--namespace", NAMESPACE, POD, "--container=postgres", "--", "id"]).await;
    assert!(succeeded(&user).starts_with("uid=999(postgres) gid=999(postgres)"), "{}", text(&user.stdout));
    assert_eq!(site.query("SHOW data_directory").await.unwrap(), "/data/pgdata");

    // A job's history arrives, over the Secret that was made in the cluster.
    tenant(&site).await;
    site.run_job("first").await;
    // The REST API returns the job's log out of the kubelet, and once the Job is deleted the history's row.
    let key = site.key().await;
    let list = async || site.rest("/v1/jobs", &key).await;
    let jobs: Value = serde_json::from_str(
        &wait::until(WAIT_TIMEOUT, "the REST API to admit the key", list).await.unwrap(),
    )
    .unwrap();
    let log = format!("/v1/jobs/{}/logs", jobs["jobs"][0]["id"].as_str().unwrap());
    assert_eq!(site.rest(&log, &key).await.unwrap(), "hello\n");
    let stored: Api<Job> = site.api("tenant-acme");
    stored.delete("first", &DeleteParams::default()).await.unwrap();
    wait::until(WAIT_TIMEOUT, "the Job to be deleted", async || {
        if stored.get_opt("first").await.unwrap().is_none() { Ok(()) } else { Err("it exists") }
    })
    .await
    .unwrap();
    let jobs = list().await.unwrap();
    assert!(jobs.contains("\"first\""), "{jobs}");

    // A deleted pod starts again with its data, and the operator writes there.
    let pods: Api<Pod> = site.api(NAMESPACE);
    let before = pods.get(POD).await.unwrap();
    pods.delete(POD, &DeleteParams::default()).await.unwrap();
    wait::until(WAIT_TIMEOUT, "another pod", async || match pods.get_opt(POD).await.unwrap() {
        Some(pod) if pod.uid() != before.uid() => Ok(()),
        other => Err(other.map(|pod| pod.status)),
    })
    .await
    .unwrap();
    site.run_job("second").await;
    assert_eq!(site.query("SELECT count(*) FROM jobs").await.unwrap(), "2");

    // An uninstall leaves the Secret and the claim, and the next install uses both.
    let (secrets, claims): (Api<Secret>, Api<PersistentVolumeClaim>) =
        (site.api(NAMESPACE), site.api(NAMESPACE));
    let kept = async || {
        let secret = secrets.get(POSTGRES).await.unwrap();
        let claim = claims.get(&format!("data-{POD}")).await.unwrap();
        (secret.metadata.uid, secret.data, claim.metadata.uid, claim.spec.unwrap().volume_name)
    };
    let before = kept().await;
    let uninstall = ["uninstall", RELEASE, "--namespace", NAMESPACE, "--wait"];
    succeeded(&site.cluster.helm(uninstall).await.unwrap());
    wait::until(WAIT_TIMEOUT, "the pod to end", async || {
        if pods.get_opt(POD).await.unwrap().is_none() { Ok(()) } else { Err("it exists") }
    })
    .await
    .unwrap();
    site.install().await;
    assert_eq!(kept().await, before);
    site.run_job("third").await;
    assert_eq!(site.query("SELECT count(*) FROM jobs").await.unwrap(), "3");
}
