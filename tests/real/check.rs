//! `helm test` where all of it is real: the image, the restrictions of its pod, its rights, and the clocks of kubelets.

use crate::{NODE_LOCK, succeeded, world};

#[tokio::test]
async fn helm_test_finds_nothing_amiss_and_leaves_its_log_alone() {
    let Some(world) = world() else { return };
    let _shared = NODE_LOCK.read().await;
    let test = ["test", "crofter", "--namespace", "crofter-system", "--logs", "--timeout", "5m"];
    let printed = succeeded(&world.cluster.helm(test).await.unwrap());
    for line in [
        "ok: the CRDs are those of version ",
        "ok: all 14 admission policies are in force",
        " leads\n",
        "ok: no database is configured",
        "ok: the clocks of 3 nodes agree with the API server's",
        "ok: Tenant crofter-check was created and is ready",
        "ok: no job was run: no node has the label ",
        "ok: Tenant crofter-check was deleted, with its namespace",
    ] {
        assert!(printed.contains(line), "{line}:\n{printed}");
    }
    assert!(!printed.contains("failed: "), "{printed}");
    let left = ["get", "clusterrole,clusterrolebinding,tenant", "--output=name"];
    let left = succeeded(&world.cluster.kubectl(left).await.unwrap());
    assert!(!left.contains("check"), "{left}");
}
