//! Objects become rows, the newest state of each; the rows of deleted objects stay as history.

use std::sync::Arc;

use crofter::{
    db::{self, Cause},
    kube_ext::watch::Change,
};
use kube::{ResourceExt, core::error_boundary::InvalidObject};
use serde_json::json;

use crate::{
    objects::{attempt, job, node, tenant, uid},
    world::{CLUSTER, World, until},
};

const JOB_PHASE: &str = "SELECT phase FROM jobs";
const LIVING: &str = "SELECT string_agg(kind || ' ' || name, ', ' ORDER BY kind, name) FROM (
    SELECT 'tenant' AS kind, name FROM tenants WHERE deleted_at IS NULL
    UNION ALL SELECT 'node', name FROM nodes WHERE deleted_at IS NULL
    UNION ALL SELECT 'job', name FROM jobs WHERE deleted_at IS NULL) AS living";

#[tokio::test]
async fn objects_become_rows() {
    // Given a tenant, a node and a queued job.
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    let mirror = world.start().await;
    world.nodes.apply(node("n1", 2, "acme")).await;
    world.jobs.apply(job("render", 3, "acme", json!({"phase": "Queued", "reason": "NoWorkers"}))).await;
    world.sees(LIVING, "job render, node n1, tenant acme").await;

    // Each has a row with its fields.
    let tenant_row =
        "SELECT concat_ws(' ', namespace, plan, status, metadata->>'billing', created_at) FROM tenants";
    world.sees(tenant_row, "tenant-acme basic Active 42 2026-01-01 12:00:00+00").await;
    let node_row =
        "SELECT concat_ws(' ', requested_group, admitted_group, t.name, ready, cpu_millicores, memory_bytes,
        gpus) FROM nodes n JOIN tenants t ON t.uid = n.tenant_uid";
    world.sees(node_row, "acme acme acme t 3900 8589934592 2").await;
    let job_row =
        "SELECT concat_ws(' ', namespace, queue, priority, phase, reason, spec->>'image', spec->'env')
        FROM jobs";
    let expected = r#"tenant-acme default medium Queued NoWorkers busybox [{"name": "PASSWORD"}]"#;
    world.sees(job_row, expected).await;

    // When the job runs, its row follows.
    let running = job("render", 3, "acme", json!({"phase": "Running", "startedAt": "2026-01-01T14:00:00Z"}));
    world.jobs.apply(running.clone()).await;
    world.sees("SELECT phase || ' ' || started_at FROM jobs", "Running 2026-01-01 14:00:00+00").await;
    let version = running.resource_version().unwrap();
    until("the job to be mirrored", || mirror.handle.job_mirrored(&uid(3), &version)).await;

    // When it is deleted, the row stays with the time of deletion.
    world.jobs.delete(&running).await;
    world.sees("SELECT phase || ' ' || deleted_at FROM jobs", "Canceled 2026-01-01 16:00:00+00").await;
    until("the job to be forgotten", || !mirror.handle.job_mirrored(&uid(3), &version)).await;
}

#[tokio::test]
async fn an_older_state_never_replaces_a_newer_one() {
    let mut world = World::new().await;
    let pool = world.pool();
    db::migrate(&pool).await.unwrap();
    let first = db::take_over(&pool, CLUSTER, None).await.unwrap().writer;

    world.tenants.apply(tenant("acme", 1)).await;
    let old = job("render", 3, "acme", json!({"phase": "Queued"}));
    let new = job("render", 3, "acme", json!({"phase": "Completed"}));
    world.jobs.apply(new.clone()).await;
    let _mirror = world.start().await;
    world.sees(JOB_PHASE, "Completed").await;
    // As a watch never does; the marker shows that it was dealt with.
    world.jobs.deliver(Change::Applied(Arc::new(old))).await;
    world.jobs.apply(job("marker", 4, "acme", json!({}))).await;
    world.sees("SELECT count(*)::text FROM jobs", "2").await;
    world.sees("SELECT phase FROM jobs WHERE name = 'render'", "Completed").await;

    let refused = db::write_tenants(&pool, first, &[]).await.unwrap_err();
    assert!(matches!(refused.cause, Cause::Superseded), "the mirror has taken over: {refused}");
}

#[tokio::test]
async fn deletions_without_a_running_mirror_are_found() {
    let mut world = World::new().await;
    world.tenants.begin_with(vec![tenant("acme", 1), tenant("deleted", 2)]);
    world.nodes.begin_with(vec![node("n1", 3, "acme"), node("n2", 4, "acme")]);
    let (kept, bad) = (job("kept", 5, "acme", json!({})), job("unreadable", 6, "acme", json!({})));
    world.jobs.begin_with(vec![kept.clone(), bad.clone(), job("went", 7, "acme", json!({}))]);
    drop({
        let mirror = world.start().await;
        world
            .sees(LIVING, "job kept, job unreadable, job went, node n1, node n2, tenant acme, tenant deleted")
            .await;
        mirror
    });

    world.tenants.begin_with(vec![tenant("acme", 1)]);
    world.nodes.begin_with(vec![node("n1", 3, "acme")]);
    world.jobs.begin_with(vec![kept.clone()]);
    let invalid = InvalidObject { error: "bad".into(), metadata: bad.metadata.clone() };
    let invalid = Arc::new(invalid);
    world.jobs.unreadable = vec![Arc::clone(&invalid)];
    let mirror = world.start().await;
    world.sees(LIVING, "job kept, job unreadable, node n1, tenant acme").await;

    // A relist of a running watch.
    world.jobs.begin_with(Vec::new());
    world.jobs.deliver(Change::Invalid(invalid)).await;
    world.jobs.deliver(Change::Synced).await;
    world.sees(LIVING, "job unreadable, node n1, tenant acme").await;
    world.jobs.deliver(Change::Synced).await;
    world.sees(LIVING, "node n1, tenant acme").await;
    drop(mirror);
}

#[tokio::test]
async fn one_of_the_same_name_is_another_one() {
    let mut world = World::new().await;
    let (first, first_job) = (tenant("acme", 1), job("render", 3, "acme", json!({"phase": "Completed"})));
    let first_node = node("n1", 5, "acme");
    world.tenants.apply(first.clone()).await;
    world.nodes.apply(first_node.clone()).await;
    world.jobs.apply(first_job.clone()).await;
    let mut mirror = world.start().await;
    world.sees(LIVING, "job render, node n1, tenant acme").await;

    for with_events in [true, false] {
        let shift = if with_events { 10 } else { 20 };
        let mut second = tenant("acme", shift + 1);
        second.metadata.creation_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(
            "2026-01-01T12:30:00Z".parse().unwrap(),
        ));
        let (second_job, second_node) =
            (job("render", shift + 3, "acme", json!({})), node("n1", shift + 5, "acme"));
        if with_events {
            // All in one batch: the mirror can't write in between.
            world.proxy.set(crate::proxy::Way::Cut);
            world.jobs.delete(&first_job).await;
            world.tenants.delete(&first).await;
            world.nodes.delete(&first_node).await;
            world.tenants.apply(second).await;
            world.nodes.apply(second_node).await;
            world.jobs.apply(second_job).await;
            world.proxy.set(crate::proxy::Way::Open);
        } else {
            drop(mirror);
            world.tenants.begin_with(vec![second]);
            world.nodes.begin_with(vec![second_node]);
            world.jobs.begin_with(vec![second_job]);
            mirror = world.start().await;
        }
        world
            .sees(
                "SELECT count(*)::text FROM jobs j JOIN tenants t ON t.uid = j.tenant_uid",
                if with_events { "2" } else { "3" },
            )
            .await;
        world.sees(LIVING, "job render, node n1, tenant acme").await;
        world.sees("SELECT j.uid::text FROM jobs j WHERE deleted_at IS NULL", &uid(shift + 3)).await;
        let owner = "SELECT tenant_uid::text FROM jobs WHERE deleted_at IS NULL";
        world.sees(owner, &uid(shift + 1)).await;
    }
    world.sees("SELECT tenant_uid::text FROM jobs WHERE phase = 'Completed'", &uid(1)).await;
}

#[tokio::test]
async fn an_invalid_row_may_be_replaced() {
    let mut world = World::new().await;
    let (old_tenant, old_node) = (tenant("acme", 1), node("n1", 2, "acme"));
    let old_job = job("render", 3, "acme", json!({}));
    world.tenants.begin_with(vec![old_tenant.clone()]);
    world.nodes.begin_with(vec![old_node.clone()]);
    world.jobs.begin_with(vec![old_job.clone()]);
    drop({
        let mirror = world.start().await;
        world.sees(LIVING, "job render, node n1, tenant acme").await;
        mirror
    });
    // No watch has delivered them, so none delivers their deletion.
    let invalid = |metadata| vec![Arc::new(InvalidObject { error: "bad".into(), metadata })];
    world.tenants.begin_with(Vec::new());
    world.nodes.begin_with(Vec::new());
    world.jobs.begin_with(Vec::new());
    world.tenants.unreadable = invalid(old_tenant.metadata);
    world.nodes.unreadable = invalid(old_node.metadata);
    world.jobs.unreadable = invalid(old_job.metadata);
    let _mirror = world.start().await;
    world.tenants.apply(tenant("acme", 11)).await;
    world.nodes.apply(node("n1", 12, "acme")).await;
    world.jobs.apply(job("render", 13, "acme", json!({}))).await;
    world.sees("SELECT uid::text FROM tenants WHERE deleted_at IS NULL", &uid(11)).await;
    world.sees("SELECT uid::text FROM nodes WHERE deleted_at IS NULL", &uid(12)).await;
    world.sees("SELECT uid::text FROM jobs WHERE deleted_at IS NULL", &uid(13)).await;
}

#[tokio::test]
async fn jobs_and_nodes_wait_for_their_tenant() {
    let mut world = World::new().await;
    let _mirror = world.start().await;
    world.jobs.apply(job("early", 3, "acme", json!({}))).await;
    world.jobs.apply(job("stray", 4, "absent", json!({}))).await;
    world.nodes.apply(node("n1", 5, "acme")).await;
    world.sees(LIVING, "node n1").await;
    world.sees("SELECT tenant_uid::text FROM nodes", "NULL").await;

    // The cache knows a tenant a moment before its change is heard.
    let acme = tenant("acme", 1);
    world.tenants.begin_with(vec![acme.clone()]);
    world.nodes.apply(node("n1", 5, "acme")).await;
    world.jobs.apply(job("late", 6, "acme", json!({}))).await;
    world.nodes.apply(node("n2", 7, "absent")).await;
    world.sees(LIVING, "node n1, node n2").await;
    world.tenants.deliver(Change::Applied(Arc::new(acme))).await;
    world.sees(LIVING, "job early, job late, node n1, node n2, tenant acme").await;
    world.sees("SELECT tenant_uid::text FROM nodes WHERE name = 'n1'", &uid(1)).await;
}

#[tokio::test]
async fn one_job_is_searched_only_among_those_of_its_tenant() {
    let world = World::new().await;
    db::migrate(&world.pool()).await.unwrap();
    world
        .execute(
            "INSERT INTO tenants (uid, name, created_at, epoch, resource_version)
             SELECT lpad(n::text, 32, '0')::uuid, 't' || n, now(), 1, 1 FROM generate_series(1, 10) n;
             INSERT INTO jobs (uid, tenant_uid, namespace, name, attempt, retries, created_at, epoch, resource_version)
             SELECT lpad(n::text, 32, '0')::uuid, lpad((1 + n % 10)::text, 32, '0')::uuid, 't' || 1 + n % 10,
                    'job-' || n, 0, 0, now(), 1, 1 FROM generate_series(1, 5000) n;
             ANALYZE",
        )
        .await;
    let readers = world.readers(1);
    let read = async |job: &str| {
        let [tenant, job] = ["1", job].map(|digits| format!("{digits:0>32}").parse().unwrap());
        db::job_of(&readers, tenant, job).await.unwrap().map(|job| job.name)
    };
    let (own, foreign, absent) = (read("10").await, read("11").await, read("abc").await);
    assert_eq!((own.as_deref(), foreign, absent), (Some("job-10"), None, None));
    // With its connection closed, what it did is counted.
    drop(readers);
    let used = "SELECT string_agg(indexrelname || ' ' || idx_scan, ', ') FROM pg_stat_user_indexes
        WHERE relname = 'jobs' AND idx_scan > 0";
    world.sees(used, "jobs_of_tenant 3").await;
}

#[tokio::test]
async fn a_restored_etcd_is_believed() {
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    let (before, unchanged) =
        (job("render", 3, "acme", json!({"phase": "Queued"})), job("other", 4, "acme", json!({})));
    let back = job("back", 5, "acme", json!({}));
    let after = job("render", 3, "acme", json!({"phase": "Completed"}));
    world.jobs.begin_with(vec![after, unchanged.clone(), back.clone()]);
    {
        let _mirror = world.start().await;
        world.sees("SELECT phase FROM jobs WHERE name = 'render'", "Completed").await;
        world.sees("SELECT count(*)::text FROM jobs", "3").await;
        world.jobs.delete(&back).await;
        world.sees("SELECT count(*)::text FROM jobs WHERE deleted_at IS NULL", "2").await;
    }
    world.jobs.begin_with(vec![before, unchanged, back]);
    let mirror = world.start().await;
    world.sees("SELECT phase FROM jobs WHERE name = 'render'", "Queued").await;
    world.sees("SELECT count(*)::text FROM jobs WHERE deleted_at IS NULL", "3").await;
    world.sees("SELECT epoch::text FROM mirror_state", "2").await;
    drop(mirror);
    let _mirror = world.start().await;
    world.jobs.apply(job("marker", 6, "acme", json!({}))).await;
    world.sees("SELECT count(*)::text FROM jobs", "4").await;
    world.sees("SELECT epoch::text FROM mirror_state", "2").await;
}

#[tokio::test]
async fn ten_thousand_jobs_are_a_batch() {
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    let status = json!({"phase": "Completed", "attempts": [attempt(1)]});
    world
        .jobs
        .begin_with((0..10_000).map(|n| job(&format!("j{n}"), 100 + n, "acme", status.clone())).collect());
    let mirror = world.start().await;
    world.sees("SELECT count(*)::text FROM usage_events", "10000").await;
    world.sees("SELECT sum(running_millis)::text FROM usage_hourly", "36000000000").await;
    until("all to be mirrored", || (0..10_000).all(|n| mirror.handle.job_mirrored(&uid(100 + n), "1000")))
        .await;
}

#[tokio::test]
async fn what_postgres_refuses_stops_nothing_else() {
    let mut world = World::new().await;
    // Given texts with a NUL, a bad version and an attempt that the table refuses.
    let mut acme = tenant("acme", 1);
    acme.spec.display_name = Some("a\0b".into());
    world.tenants.apply(acme).await;
    let mut with_nul = job("nul", 3, "acme", json!({"phase": "Failed", "message": "exit\0"}));
    with_nul.spec.args = vec!["\0".into(), "\u{1f600}".into()];
    let bad = json!({"phase": "Failed", "attempts": [attempt(0), attempt(1)]});
    let mut no_version = job("odd", 5, "acme", json!({}));
    no_version.metadata.resource_version = Some("x".into());
    let refused = job("refused", 4, "acme", bad);
    let fine = job("fine", 6, "acme", json!({}));
    let version = fine.resource_version().unwrap();
    world.jobs.begin_with(vec![with_nul, refused.clone(), no_version, fine]);
    // Then the other rows are written, and NULs are replaced.
    let mirror = world.start().await;
    world.sees(LIVING, "job fine, job nul, job refused, tenant acme").await;
    world.sees("SELECT display_name FROM tenants", "a\u{fffd}b").await;
    world
        .sees(
            "SELECT message || (spec->'args')::text FROM jobs WHERE name = 'nul'",
            "exit\u{fffd}[\"\u{fffd}\", \"\u{1f600}\"]",
        )
        .await;
    // Only the refused attempt is missing, and its job does not count as mirrored.
    world.sees("SELECT string_agg(attempt::text, ',') FROM usage_events", "1").await;
    until("the good ones to be mirrored", || mirror.handle.job_mirrored(&uid(6), &version)).await;
    assert!(
        !mirror.handle.job_mirrored(&uid(4), &refused.resource_version().unwrap()),
        "not all of it is written"
    );
}
