//! Pages on a bare cluster of real nodes, which pull the release from a registry: as a new administrator types them.

use std::net::TcpListener;

use crofter_test_cluster::real;

use super::{List, Stage, type_pages};
use crate::site::{Site, WORKER};

#[tokio::test]
async fn pages_on_real_nodes_say_what_happens() {
    if !real::available_to_tests() {
        return;
    }
    let site = Site::bare().await;
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let names = vec![
        ("{registry}", site.release.path.clone()),
        ("{worker}", WORKER.to_owned()),
        ("{database}", site.write_postgres("default")),
        ("{port}", port.to_string()),
        ("{repository}", env!("CARGO_MANIFEST_DIR").to_owned()),
    ];
    let stage = Stage { cluster: &site.cluster, dir: site.dir.clone(), names, variables: Vec::new() };
    let list = List::read();
    type_pages(&stage, &list, &list.real).await;
}
