//! Pages on a bare cluster of real nodes, which pull the release from a registry: as a new administrator types them.

use crofter_test_cluster::real;

use super::{Page, Stage, type_pages};
use crate::site::{Site, WORKER};

/// The pages in the order in which they are typed.
pub(super) const PAGES: &[Page] = &[Page {
    path: "docs/quickstart.md",
    words: &[
        ("registry.example.com", "{registry}"),
        ("worker-1", "{worker}"),
        ("docker.io/library/busybox:1.37", "crofter.test/busybox:1"),
    ],
    given: "",
}];

#[tokio::test]
async fn the_pages_of_real_nodes_say_what_happens() {
    if !real::available_to_tests() {
        return;
    }
    let site = Site::prepare().await;
    let names = vec![("{registry}", site.release.path.clone()), ("{worker}", WORKER.to_owned())];
    let stage = Stage { cluster: &site.cluster, dir: site.dir.clone(), names, variables: Vec::new() };
    type_pages(&stage, PAGES).await;
}
