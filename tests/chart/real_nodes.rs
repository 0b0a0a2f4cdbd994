//! The two commands of docs/install.md on a bare cluster of real nodes: the kubelets pull the image by its digest from a
//! registry, in a namespace that admits restricted pods only, and the operator's pods have no other identity than their
//! service account.
//!
//! Where the machine cannot run real nodes the test is skipped, unless `CROFTER_REQUIRE_REAL_NODES` is set.

use std::{fs, path::Path};

use crofter::{api_types::JobPhase, names};
use crofter_test_cluster::{image, real, wait};
use sqlx::{Connection, PgConnection};

use super::{
    NAMESPACE,
    operator::WAIT_TIMEOUT,
    shell,
    site::{SYSTEM_NODE, Site, WORKER, create_key, create_tenant, pods, submit, until_phase},
};

#[tokio::test]
async fn two_commands_on_a_bare_cluster_install_it_and_find_nothing_amiss() {
    if !real::available_to_tests() {
        return;
    }
    // Given a cluster that can pull a release, and a node for a pool that tenants share.
    let site = Site::prepare().await;
    let (client, _report) = site.cluster.client_with_report().await.unwrap();
    site.type_in(&format!("kubectl label node {WORKER} {}=shared", names::NODE_POOL)).await;

    // When the first command is typed, the kubelet has pulled that image, and nothing has to be restarted.
    let (install, test) = site.release.install_and_test();
    let notes = site.wait_for_pods(&install).await;
    assert!(notes.contains("https://crofter.crofter-system.svc\n"), "{notes}");
    let running = pods(&client).await;
    assert_eq!(running.len(), 2);
    for pod in running {
        let status = pod.status.unwrap().container_statuses.unwrap().remove(0);
        assert!(status.ready && status.image_id.ends_with(&site.release.digest), "{status:?}");
        assert_eq!(status.restart_count, 0);
        assert_eq!(pod.spec.unwrap().node_name.as_deref(), Some(SYSTEM_NODE));
    }
    let manifest = format!("/v2/example/crofter/manifests/{}", site.release.digest);
    let pulls = || {
        let requests = fs::read_to_string(site.registry.log()).unwrap();
        requests.lines().filter(|line| line.contains(&manifest) && line.contains("containerd/")).count()
    };
    assert!(pulls() > 0);
    let exec =
        |command: &str| format!("kubectl --namespace {NAMESPACE} exec deployment/crofter -- {command}");
    let version = site.type_in(&exec("crofter --version")).await;
    assert_eq!(version.trim(), concat!("crofter ", env!("CARGO_PKG_VERSION")));
    let in_shell = shell(&site.cluster, &site.dir, &exec("sh -c true")).await;
    assert!(!in_shell.status.success(), "the image has a shell");

    // The second one finds all well: a tenant was made and has run a job.
    let found = site.wait_for_pods(&test).await;
    for line in [
        "ok: the CRDs are those of version ",
        "ok: all 14 admission policies are in force",
        " leads\n",
        "ok: the database answers, and its schema is of this version",
        "ok: the clocks of 2 nodes agree with the API server's",
        "ok: Tenant crofter-check was created and is ready",
        "ok: a job has run in a shared pool and completed",
        "ok: Tenant crofter-check was deleted, with its namespace",
    ] {
        assert!(found.contains(line), "{line}:\n{found}");
    }
    assert!(!found.contains("failed: "), "{found}");

    // A tenant's job runs in the pool, of an image that the node has from the check's job: the registry is asked all the same
    // whether it may. Its history reaches Postgres by a DNS name.
    create_tenant(&client, &["shared"]).await;
    let before = pulls();
    let image = format!("{}/crofter@{}", site.release.path, site.release.digest);
    submit(&client, "hello", &image, &["crofter", "--version"]).await;
    let status = until_phase(&client, "hello", JobPhase::Completed).await.status.unwrap();
    assert_eq!((status.node.as_deref(), status.exit_code), (Some(WORKER), Some(0)));
    assert!(pulls() > before, "the image was taken from the node");
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

    // REST returns the job to a client that verifies the certificate, and a client that does not trust it is given none.
    let key = create_key(&client).await;
    let listed = site.jobs_over_tls(&key).await;
    assert_eq!(listed["jobs"][0]["name"], "hello", "{listed}");
    let public = image::certificates(Path::new(image::CERTIFICATES)).unwrap();
    fs::write(site.dir.join("public.crt"), public).unwrap();
    for (authority, host) in [("public.crt", "crofter.crofter-system.svc"), ("ca.crt", "crofter.example.com")]
    {
        let refused = site.rest(authority, host, "/v1/jobs", &key).await.unwrap_err();
        // curl: the server's certificate was not verified.
        assert!(refused.starts_with("exit status: 60"), "{authority} {host}: {refused}");
    }
}
