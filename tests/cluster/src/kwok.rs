//! Simulated nodes, by kwok: hundreds of them cost next to nothing, and their pods do what a test wants.
//!
//! The environment of a pod's first container says how long the pod runs and how it ends, which is what the operator
//! makes of a Job's `parameters`: `CROFTER_PARAM_RUN_SECONDS`, `CROFTER_PARAM_EXIT_CODE`, `CROFTER_PARAM_OUTCOME`,
//! `CROFTER_PARAM_STOP_SECONDS`. See `assets/kwok-stages.yaml`.

use std::{collections::BTreeMap, fs, io, path::Path, path::PathBuf, process::Command, time::Duration};

use k8s_openapi::{
    api::core::v1::{Node, NodeSpec as KubeNodeSpec, NodeStatus, Pod},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{
    cluster::{Cluster, Error as ClusterError},
    control_plane::NODE_GRACE,
    layout::Layout,
    process::{self, Process},
    tools::{self, Tools},
    wait,
};

const STAGES: &str = include_str!("../assets/kwok-stages.yaml");
/// Takes more pods further at once than the four that are the default. The others are the defaults, which kwok 0.8
/// forgets where it is given any options.
const HEAVY_LOAD: &str = "---
apiVersion: config.kwok.x-k8s.io/v1alpha1
kind: KwokConfiguration
options:
  podPlayStageParallelism: 16
  nodePlayStageParallelism: 4
  nodeLeaseParallelism: 4
  podsOnNodeSyncParallelism: 1
  enablePodsOnNodeSyncListPager: true
";
/// Nodes with this label are kwok's; real nodes are left alone.
const MANAGED: &str = "test-cluster.crofter.io/kwok";
/// Pods with this annotation are frozen: their node is lost.
const NODE_LOST: &str = "test-cluster.crofter.io/node-lost";
/// How long a node may take to be what it was asked to be.
const DEADLINE: Duration = Duration::from_secs(60);

/// Why simulated nodes do not do what they should.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// kwok could not be started.
    #[error(transparent)]
    Process(#[from] process::Error),
    /// There is no kwok.
    #[error(transparent)]
    Tools(#[from] tools::Error),
    /// Its configuration could not be written.
    #[error("writing {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The API server refused something.
    #[error("{doing} the node {node}")]
    Node {
        /// What was being done.
        doing: &'static str,
        /// To which node.
        node: String,
        /// What the API server said.
        source: kube::Error,
    },
    /// The node did not become what it was asked to be.
    #[error(transparent)]
    TimedOut(#[from] wait::TimedOut),
}

/// A node to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// Its labels, besides those that every node has.
    pub labels: BTreeMap<String, String>,
    /// Its processors, as a quantity.
    pub cpu: String,
    /// Its memory, as a quantity.
    pub memory: String,
    /// Its `nvidia.com/gpu` count.
    pub gpus: u32,
    /// How many pods it takes.
    pub pods: u32,
}

impl NodeSpec {
    /// A node with 8 processors, 32 GiB, no GPU and room for 110 pods.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let (cpu, memory) = ("8".to_owned(), "32Gi".to_owned());
        Self { name: name.into(), labels: BTreeMap::new(), cpu, memory, gpus: 0, pods: 110 }
    }

    /// With one more label.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// With this much of processors and memory.
    #[must_use]
    pub fn capacity(mut self, cpu: impl Into<String>, memory: impl Into<String>) -> Self {
        self.cpu = cpu.into();
        self.memory = memory.into();
        self
    }

    /// With this many GPUs.
    #[must_use]
    pub fn gpus(mut self, count: u32) -> Self {
        self.gpus = count;
        self
    }

    /// With room for this many pods.
    #[must_use]
    pub fn pods(mut self, count: u32) -> Self {
        self.pods = count;
        self
    }

    fn to_node(&self) -> Node {
        let mut capacity: BTreeMap<String, Quantity> = [
            ("cpu", self.cpu.clone()),
            ("memory", self.memory.clone()),
            ("pods", self.pods.to_string()),
            ("ephemeral-storage", "100Gi".to_owned()),
        ]
        .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
        .into();
        if self.gpus > 0 {
            capacity.insert("nvidia.com/gpu".to_owned(), Quantity(self.gpus.to_string()));
        }
        let mut labels: BTreeMap<String, String> = [
            (MANAGED, "true"),
            ("kubernetes.io/hostname", &self.name),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", "amd64"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        labels.extend(self.labels.clone());
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(labels),
                ..ObjectMeta::default()
            },
            spec: Some(KubeNodeSpec::default()),
            // As a kubelet does: the node is registered with its capacity.
            status: Some(NodeStatus {
                allocatable: Some(capacity.clone()),
                capacity: Some(capacity),
                ..NodeStatus::default()
            }),
        }
    }
}

/// Starts kwok. Its leases are renewed four times in the time after which a silent node counts as lost.
pub(crate) fn start(
    layout: &Layout,
    tools: &Tools,
    kubeconfig: &Path,
    heavy_load: bool,
) -> Result<Process, Error> {
    let path = layout.root().join("kwok-stages.yaml");
    let configuration = if heavy_load { [STAGES, HEAVY_LOAD].concat() } else { STAGES.to_owned() };
    fs::write(&path, configuration).map_err(|source| Error::File { path: path.clone(), source })?;
    let mut command = Command::new(tools.path("kwok")?);
    command.current_dir(layout.root());
    command.arg(format!("--kubeconfig={}", kubeconfig.display()));
    command.arg(format!("--config={}", path.display()));
    command.args(["--cidr=10.200.0.0/16", "--node-ip=10.200.0.1", "--manage-all-nodes=false"]);
    command.arg(format!("--manage-nodes-with-label-selector={MANAGED}=true"));
    command.arg(format!("--node-lease-duration-seconds={}", NODE_GRACE.as_secs()));
    Ok(Process::start(layout, "kwok", command)?)
}

impl Cluster {
    /// Adds a simulated node and waits until it is Ready.
    ///
    /// # Errors
    /// When the API server refuses it, or it does not become Ready.
    pub async fn add_node(&self, node: &NodeSpec) -> Result<(), ClusterError> {
        self.add_nodes(std::slice::from_ref(node)).await
    }

    /// Adds many simulated nodes at once and waits until all are Ready.
    ///
    /// # Errors
    /// When the API server refuses one, or one does not become Ready.
    pub async fn add_nodes(&self, nodes: &[NodeSpec]) -> Result<(), ClusterError> {
        let api: Api<Node> = Api::all(self.client().await?);
        let params = PostParams::default();
        for wave in nodes.chunks(20) {
            let creates = wave.iter().map(async |node| {
                api.create(&params, &node.to_node()).await.map_err(failed("creating", &node.name)).map(drop)
            });
            futures::future::try_join_all(creates).await?;
        }
        for node in nodes {
            wait_for_ready(&api, &node.name, "True").await?;
        }
        Ok(())
    }

    /// Makes a simulated node lost or brings it back.
    ///
    /// A lost node is what a crashed machine is: its lease is no longer renewed, its Ready condition is Unknown (at
    /// once, as the controller manager would find after its grace), its pods stay in the API as they were, and nothing
    /// answers when they are deleted. When it comes back, its pods have run on. As in any cluster, the taint that
    /// evicts pods (`NoExecute`) comes only while another node is ready.
    ///
    /// # Errors
    /// When there is no such node, or it does not become what it was asked to be.
    pub async fn set_node_ready(&self, name: &str, ready: bool) -> Result<(), ClusterError> {
        let client = self.client().await?;
        let api: Api<Node> = Api::all(client.clone());
        let manage = |managed: Option<&str>| json!({ "metadata": { "labels": { MANAGED: managed } } });
        let label = async |managed| {
            let patch = Patch::Merge(manage(managed));
            api.patch(name, &PatchParams::default(), &patch)
                .await
                .map_err(failed("labelling", name))
                .map(drop)
        };
        if ready {
            mark_pods(&client, name, None).await?;
            label(Some("true")).await?;
            wait_for_ready(&api, name, "True").await?;
        } else {
            // The pods first: kwok drops its plans for them only while it manages their node.
            mark_pods(&client, name, Some("asked")).await?;
            wait_for_frozen(&client, name).await?;
            label(None).await?;
            let condition = json!({ "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown",
                "message": "Kubelet stopped posting node status." });
            let patch = Patch::Strategic(json!({ "status": { "conditions": [condition] } }));
            api.patch_status(name, &PatchParams::default(), &patch)
                .await
                .map_err(failed("silencing", name))?;
            wait_for_ready(&api, name, "Unknown").await?;
        }
        Ok(())
    }

    /// Removes a node object. Its pods are then removed by the controller manager's garbage collection.
    ///
    /// # Errors
    /// When there is no such node.
    pub async fn remove_node(&self, name: &str) -> Result<(), ClusterError> {
        let api: Api<Node> = Api::all(self.client().await?);
        api.delete(name, &DeleteParams::default()).await.map_err(failed("removing", name))?;
        Ok(())
    }
}

/// Waits until kwok has answered for all pods that [`mark_pods`] asked it to leave alone.
async fn wait_for_frozen(client: &Client, node: &str) -> Result<(), Error> {
    let check = async || {
        let pods = pods_on(client, node).await.map_err(|error| error.to_string())?;
        let asked = |pod: &Pod| pod.annotations().get(NODE_LOST).is_some_and(|lost| lost == "asked");
        let moving = pods.into_iter().find(asked);
        moving.map_or(Ok(()), |pod| Err(format!("{} is not", pod.name_any())))
    };
    Ok(wait::until(DEADLINE, &format!("the pods of node {node} to be left alone"), check).await?)
}

async fn pods_on(client: &Client, node: &str) -> Result<Vec<Pod>, kube::Error> {
    let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
    Ok(Api::all(client.clone()).list(&on_node).await?.items)
}

async fn mark_pods(client: &Client, node: &str, lost: Option<&str>) -> Result<(), Error> {
    let failed = |source| Error::Node { doing: "marking the pods of", node: node.to_owned(), source };
    let patch = Patch::Merge(json!({ "metadata": { "annotations": { NODE_LOST: lost } } }));
    for pod in pods_on(client, node).await.map_err(failed)? {
        let (Some(name), Some(namespace)) = (pod.metadata.name, pod.metadata.namespace) else { continue };
        let api: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        match api.patch_metadata(&name, &PatchParams::default(), &patch).await {
            // It was deleted in the meantime.
            Err(kube::Error::Api(status)) if status.is_not_found() => {}
            answer => drop(answer.map_err(failed)?),
        }
    }
    Ok(())
}

async fn wait_for_ready(api: &Api<Node>, name: &str, wanted: &str) -> Result<(), Error> {
    let check = async || {
        let node = api.get(name).await.map_err(|error| error.to_string())?;
        let conditions = node.status.unwrap_or_default().conditions.unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").map(|c| c.status);
        if ready.as_deref() == Some(wanted) { Ok(()) } else { Err(format!("Ready is {ready:?}")) }
    };
    Ok(wait::until(DEADLINE, &format!("node {name} to have Ready={wanted}"), check).await?)
}

fn failed(doing: &'static str, node: &str) -> impl FnOnce(kube::Error) -> Error {
    let node = node.to_owned();
    move |source| Error::Node { doing, node, source }
}
