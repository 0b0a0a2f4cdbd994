//! A release in a registry of this machine: the image is pushed as an index and pulled by its digest, and the chart is
//! installed from `oci://`, as docs/install.md says, and names that digest.

use std::path::{Path, PathBuf};

use crofter_test_cluster::{Cluster, Registry, image};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use serde_json::Value;

use super::{NAMESPACE, RELEASE, block_after, type_in, type_in_at};

/// Where docs/install.md says that the release is.
const PLACEHOLDER: &str = "registry.example.com";

/// The repository of the release, to which links in alerts lead.
const SOURCE_URL: &str = "https://git.example.com/crofter";

/// A release in a registry.
pub(crate) struct Release {
    /// Host and path, below which are the image and the chart.
    pub(crate) path: String,
    /// Of the image.
    pub(crate) digest: String,
}

impl Release {
    /// Pushes the image in a layout, and the chart that names it.
    pub(crate) async fn publish(cluster: &Cluster, registry: &Registry, layout: &Path) -> Self {
        let path = format!("{}/example", registry.address());
        let files = cluster.dir().join("release");
        let script = format!("SOURCE_URL={SOURCE_URL} RELEASE_FILES='{}' scripts/release", files.display());
        let image = format!("{script} image {path} '{}'", layout.display());
        let digest = type_in(cluster, &image).await.trim().to_owned();
        assert!(digest.starts_with("sha256:") && digest.len() == 71, "{digest}");
        type_in(cluster, &format!("{script} chart {path} {digest}")).await;
        Self { path, digest }
    }

    /// What docs/install.md says to type, for this registry.
    pub(crate) fn of_page(&self, words: &str) -> String {
        let commands = block_after(words, "sh");
        assert!(commands.contains(&format!("oci://{PLACEHOLDER}/charts/crofter")), "{commands}");
        commands.replace(PLACEHOLDER, &self.path)
    }

    /// The two commands by which it is installed and tried.
    pub(crate) fn install_and_test(&self) -> (String, String) {
        let commands = self.of_page("Then two commands");
        let (install, test) = commands.split_once("\nhelm ").unwrap();
        let (install, test) = (install.to_owned(), format!("helm {test}"));
        assert!(install.starts_with("helm install crofter oci://"), "{install}");
        assert!(test.starts_with("helm test crofter "), "{test}");
        // One command each.
        assert_eq!((install.replace("\\\n", "").lines().count(), test.lines().count()), (1, 1), "{commands}");
        (install, test)
    }
}

/// The layout of an image. Its program is a small one: what is tested is the way to the registry and back.
fn layout(dir: &Path, version: &str) -> PathBuf {
    let details = image::Details { version, ..image::Details::default() };
    let program = which("busybox");
    let image =
        image::operator(&format!("crofter:{version}"), &program, "no certificates\n", details).unwrap();
    image.write_layout(&dir.join("oci")).unwrap().dir
}

fn which(program: &str) -> PathBuf {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&dirs).map(|dir| dir.join(program)).find(|path| path.exists()).unwrap()
}

#[tokio::test]
async fn a_release_is_installed_from_its_registry() {
    // Step 1: the image is pushed, and comes back by the digest that was printed.
    let cluster = Cluster::builder().postgres(false).start().unwrap();
    let registry = cluster.start_registry().await.unwrap();
    let layout = layout(cluster.dir(), env!("CARGO_PKG_VERSION"));
    let release = Release::publish(&cluster, &registry, &layout).await;
    let named = format!("docker://{}/crofter@{}", release.path, release.digest);
    let index = type_in(&cluster, &format!("skopeo inspect --raw {named}")).await;
    let index: Value = serde_json::from_str(&index).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 1, "{index}");
    assert_eq!(index["manifests"][0]["platform"]["os"], "linux", "{index}");
    type_in_at(&cluster, cluster.dir(), &format!("skopeo copy {named} oci:pulled:it")).await;

    // Step 2: the chart is installed from the registry alone. No node is here to run its pods.
    std::fs::write(cluster.dir().join("values.yaml"), block_after("## Install", "yaml")).unwrap();
    let (install, _) = release.install_and_test();
    let alerts = " --wait --set metrics.prometheusRule.enabled=true --dry-run=client ";
    let printed = type_in_at(&cluster, cluster.dir(), &install.replace(" --wait ", alerts)).await;
    let link = format!("runbook_url: {SOURCE_URL}/blob/v{}/docs/", env!("CARGO_PKG_VERSION"));
    assert_eq!(printed.matches(&link).count(), crate::alerts::alerts().len());
    type_in_at(&cluster, cluster.dir(), &install.replace(" --wait ", " ")).await;
    let deployments: Api<Deployment> = Api::namespaced(cluster.client().await.unwrap(), NAMESPACE);
    let pod = deployments.get(RELEASE).await.unwrap().spec.unwrap().template.spec.unwrap();
    let image = format!("{}/crofter@{}", release.path, release.digest);
    assert_eq!(pod.containers[0].image.as_deref(), Some(image.as_str()));
}
