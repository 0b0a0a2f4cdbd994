//! Pages on a bare cluster of real nodes, which pull the release from a registry: as a new administrator types them.

use std::net::TcpListener;

use crofter_test_cluster::real;

use super::{Page, Stage, type_pages};
use crate::site::{Site, WORKER};

/// The pages in the order in which they are typed.
pub(super) const PAGES: &[Page] = &[
    Page {
        path: "docs/quickstart.md",
        words: &[
            ("registry.example.com", "{registry}"),
            ("worker-1", "{worker}"),
            ("docker.io/library/busybox:1.37", "crofter.test/busybox:1"),
        ],
        given: "",
    },
    Page {
        path: "docs/users.md",
        words: &[
            ("worker-1", "{worker}"),
            ("docker.io/library/busybox:1.37", "crofter.test/busybox:1"),
            ("https://crofter.example.org", "http://{rest}"),
        ],
        // Crofter with its database and without TLS, its REST API on this machine, and a tenant that runs one job at a time.
        given: r#"helm upgrade --install crofter oci://{registry}/charts/crofter --namespace crofter-system --wait \
            --set database.existingSecret=crofter-database
            kubectl --namespace crofter-system port-forward service/crofter {rest_port}:80 >port-forward.log 2>&1 &
            kubectl label node {worker} crofter.node-restriction.kubernetes.io/tenant=acme
            echo '{"apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme"},
            "spec": {"plan": "basic", "quotas": {"maxJobs": 1}}}' | kubectl apply --filename -
            kubectl wait --for=condition=Ready tenant/acme
            "#,
    },
];

#[tokio::test]
async fn the_pages_of_real_nodes_say_what_happens() {
    if !real::available_to_tests() {
        return;
    }
    let site = Site::prepare().await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let names = vec![
        ("{registry}", site.release.path.clone()),
        ("{worker}", WORKER.to_owned()),
        ("{rest}", format!("127.0.0.1:{port}")),
        ("{rest_port}", port.to_string()),
    ];
    let stage = Stage { cluster: &site.cluster, dir: site.dir.clone(), names, variables: Vec::new() };
    type_pages(&stage, PAGES).await;
}
