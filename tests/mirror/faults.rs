//! The database is away, is back, takes no writes, is another cluster's, or has another writer.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crofter::db::{self, Cause, JobsWanted, Options};
use crofter_test_cluster::DatabaseServer;
use futures::FutureExt;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    objects::{ended_pod, job, tenant, uid},
    proxy::Way,
    world::{CLUSTER, World, soon, until},
};

const JOBS: &str = "SELECT count(*)::text FROM jobs";

#[tokio::test]
async fn it_starts_with_the_database_away_and_catches_up() {
    let mut world = World::new().await;
    world.proxy.set(Way::Cut);
    world.tenants.apply(tenant("acme", 1)).await;
    let mirror = world.start().await;
    world.jobs.apply(job("render", 3, "acme", json!({}))).await;
    until("the mirror to be behind", || mirror.handle.behind()).await;
    world.proxy.set(Way::Open);
    world.sees(JOBS, "1").await;
    until("the mirror to have caught up", || !mirror.handle.behind()).await;
}

#[tokio::test]
async fn an_outage_loses_nothing_and_delays_no_controller() {
    for way in [Way::Cut, Way::Frozen] {
        let mut world = World::new().await;
        world.tenants.apply(tenant("acme", 1)).await;
        world.jobs.apply(job("before", 3, "acme", json!({}))).await;
        let mirror = world.start().await;
        world.sees(JOBS, "1").await;

        world.proxy.set(way);
        // Far more than the channels hold: the mirror still receives.
        for round in 0..200 {
            for number in 0..20 {
                let phase = if round == 199 { "Completed" } else { "Running" };
                let update = job(&format!("j{number}"), 100 + number, "acme", json!({"phase": phase}));
                soon(world.jobs.apply(update)).await;
            }
        }
        let short_lived = job("short-lived", 50, "acme", json!({"phase": "Canceled"}));
        world.jobs.apply(short_lived.clone()).await;
        world.jobs.delete(&short_lived).await;
        world.pods.apply(ended_pod(7, 3, 1, ("acme", 1))).await;
        until("the mirror to be behind", || mirror.handle.behind()).await;
        assert!(!mirror.handle.committed(&uid(3), 1));

        world.proxy.set(Way::Open);
        until("the attempt to be committed", || mirror.handle.committed(&uid(3), 1)).await;
        world.sees("SELECT count(*)::text FROM jobs WHERE phase = 'Completed'", "20").await;
        world.sees("SELECT phase FROM jobs WHERE deleted_at IS NOT NULL", "Canceled").await;
        until("the mirror to have caught up", || !mirror.handle.behind()).await;
    }
}

#[tokio::test]
async fn a_batch_that_fails_is_kept() {
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    world.jobs.apply(job("render", 3, "acme", json!({}))).await;
    let mirror = world.start().await;
    world.sees(JOBS, "1").await;
    // Connecting goes well, and writing does not.
    world.execute("ALTER TABLE usage_events RENAME TO elsewhere").await;
    let short_lived = job("short-lived", 50, "acme", json!({"phase": "Canceled"}));
    world.jobs.apply(short_lived.clone()).await;
    world.jobs.delete(&short_lived).await;
    world.pods.apply(ended_pod(7, 3, 1, ("acme", 1))).await;
    let written = mirror.handle.written();
    until("the mirror to be behind", || mirror.handle.behind()).await;
    assert!(written.now_or_never().is_none());
    world.execute("ALTER TABLE elsewhere RENAME TO usage_events").await;
    soon(mirror.handle.written()).await;
    assert!(mirror.handle.committed(&uid(3), 1));
    world.sees("SELECT phase FROM jobs WHERE deleted_at IS NOT NULL", "Canceled").await;
    until("the mirror to have caught up", || !mirror.handle.behind()).await;
}

#[tokio::test]
async fn a_call_ends_when_the_server_does_not_answer() {
    let world = World::new().await;
    db::migrate(&world.pool()).await.unwrap();
    let one = Options { connections: 1, call: Duration::from_secs(2), ..Options::default() };
    let pool = world.pool_with(one);
    soon(async { while db::usage_events(&pool, 1).await.is_err() {} }).await;
    // While it is given back, or idle.
    world.proxy.strand();
    let late = db::usage_events(&pool, 1).await.unwrap_err();
    assert!(matches!(late.cause, Cause::Deadline(_)), "{late}");
    // There may be one connection only, and it is not the one that waits for ever.
    soon(async { while db::usage_events(&pool, 1).await.is_err() {} }).await;

    // While it is at work.
    let mut other = PgConnection::connect(&world.url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE usage_events").execute(&mut other).await.unwrap();
    let strand = async {
        let locked = "SELECT count(*)::text FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        world.sees(locked, "1").await;
        world.proxy.strand();
    };
    let (late, ()) = futures::join!(db::usage_events(&pool, 1), strand);
    assert!(matches!(late.unwrap_err().cause, Cause::Deadline(_)));
    other.close().await.unwrap();
    soon(async { while db::usage_events(&pool, 1).await.is_err() {} }).await;
}

#[tokio::test]
async fn a_server_that_became_read_only_is_left_alone() {
    // One of its own: the whole server changes, its open connections too, as when a primary is demoted.
    let server = DatabaseServer::start().unwrap();
    let mut world = World::on(&server).await;
    world.tenants.apply(tenant("acme", 1)).await;
    let mirror = world.start().await;
    world.sees("SELECT count(*)::text FROM tenants", "1").await;

    world.execute("ALTER SYSTEM SET default_transaction_read_only = on").await;
    world.execute("SELECT pg_reload_conf()").await;
    world.sees("SHOW transaction_read_only", "on").await;
    let refused = db::migrate(&world.pool()).await.unwrap_err();
    assert!(matches!(refused.cause, Cause::ReadOnly), "{refused}");
    world.jobs.apply(job("render", 3, "acme", json!({}))).await;
    until("the mirror to be behind", || mirror.handle.behind()).await;
    world.sees(JOBS, "0").await;

    world.execute("ALTER SYSTEM RESET default_transaction_read_only").await;
    world.execute("SELECT pg_reload_conf()").await;
    world.sees(JOBS, "1").await;
    until("the mirror to have caught up", || !mirror.handle.behind()).await;
}

#[tokio::test]
async fn a_dropped_mirror_is_rebuilt() {
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    world.jobs.apply(job("render", 3, "acme", json!({"attempts": [crate::objects::attempt(1)]}))).await;
    world.pods.apply(ended_pod(7, 5, 1, ("acme", 1))).await;
    let _mirror = world.start().await;
    world.sees("SELECT count(*)::text FROM usage_events", "2").await;
    world.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await;
    world.jobs.apply(job("marker", 4, "acme", json!({}))).await;
    let living = "SELECT string_agg(name, ', ' ORDER BY name) FROM jobs WHERE deleted_at IS NULL";
    world.sees(living, "marker, render").await;
    world.sees("SELECT count(*)::text FROM usage_events", "2").await;
}

#[tokio::test]
async fn the_one_who_took_over_last_writes() {
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    let mut first = world.start().await;
    world.sees("SELECT count(*)::text FROM tenants", "1").await;
    let second = world.start().await;
    world.sees("SELECT writer::text FROM mirror_state", "2").await;
    world.jobs.apply(job("render", 3, "acme", json!({}))).await;
    let ended = soon(&mut first.task).await.unwrap().unwrap_err();
    assert!(matches!(ended.cause, Cause::Superseded), "{ended}");
    world.sees(JOBS, "1").await;
    drop(second);
}

#[tokio::test]
async fn another_clusters_database_is_not_touched() {
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    drop({
        let mirror = world.start().await;
        world.sees("SELECT count(*)::text FROM tenants WHERE deleted_at IS NULL", "1").await;
        mirror
    });
    world.tenants.begin_with(vec![tenant("other", 2)]);
    let mirror = world.start_as(Uuid::from_u128(0xc2)).await;
    until("the mirror to be behind", || mirror.handle.behind()).await;
    world.sees("SELECT string_agg(name, ', ') FROM tenants WHERE deleted_at IS NULL", "acme").await;
    let refused = db::take_over(&world.pool(), Uuid::from_u128(0xc2), None).await.unwrap_err();
    let sentence = refused.to_string();
    assert!(sentence.contains(&CLUSTER.to_string()), "{sentence}");

    world.execute("UPDATE mirror_state SET cluster_uid = NULL").await;
    world.sees("SELECT string_agg(name, ', ') FROM tenants WHERE deleted_at IS NULL", "other").await;
}

#[tokio::test]
async fn many_may_migrate_at_once() {
    let world = World::new().await;
    let pools: Vec<_> = (0..5).map(|_| world.pool()).collect();
    for done in futures::future::join_all(pools.iter().map(db::migrate)).await {
        done.unwrap();
    }
    world.sees("SELECT count(*)::text FROM mirror_state", "1").await;
}

#[tokio::test]
async fn one_tenant_s_flood_of_reads_keeps_no_other_waiting() {
    const FLOOD: usize = 300;
    let world = World::new().await;
    db::migrate(&world.pool()).await.unwrap();
    let readers = world.readers(2);
    let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let read = async |tenant| {
        let wanted = JobsWanted { most: 10, ..JobsWanted::default() };
        db::jobs_of(&readers, Uuid::from_u128(tenant), wanted).await.unwrap()
    };
    let flood = futures::future::join_all((0..FLOOD).map(async |_| {
        begun.fetch_add(1, Ordering::Relaxed);
        read(1).await;
        done.fetch_add(1, Ordering::Relaxed);
    }));
    let other = async {
        while begun.load(Ordering::Relaxed) < FLOOD {
            tokio::task::yield_now().await;
        }
        let before = done.load(Ordering::Relaxed);
        read(2).await;
        done.load(Ordering::Relaxed) - before
    };
    let (_, waited_for) = tokio::join!(flood, other);
    assert!(waited_for < FLOOD / 10, "the other one waited for {waited_for} of {FLOOD} reads of the flood");
}

#[tokio::test]
async fn a_url_that_is_none_is_refused_without_its_password() {
    let error =
        db::Pool::new(&"nonsense://u:hunter2@h/d?sslmode=what".into(), Options::default()).unwrap_err();
    let text = format!("{error} {error:?}");
    assert!(text.contains("DATABASE_URL") && !text.contains("hunter2"), "{text}");
}
