//! The database goes back: a standby takes over that lacks the last commits, or a backup is restored.

use std::time::Duration;

use crofter::db;
use serde_json::json;

use crate::{
    objects::{attempt, ended_pod, job, tenant, uid},
    world::{CLUSTER, World, until},
};

const CHARGED: &str = "SELECT count(*)::text FROM usage_events";
const MILLIS: &str = "SELECT sum(running_millis)::text FROM usage_hourly";

/// Three jobs of an hour each: one is charged before the standby falls behind; of two it knows nothing, and of one of
/// these nothing is left in the cluster.
async fn with_a_standby_that_lacks_the_last_commits(world: &mut World) -> crate::world::Running {
    world.tenants.apply(tenant("acme", 1)).await;
    let mirror = world.start().await;
    // Their rows are the same before and after: only what they were charged is lost.
    for number in [4, 5] {
        world.jobs.apply(job(&format!("j{number}"), number, "acme", json!({"phase": "Running"}))).await;
    }
    world.jobs.apply(job("early", 3, "acme", json!({"phase": "Completed", "attempts": [attempt(1)]}))).await;
    world.sees(CHARGED, "1").await;
    world.sees("SELECT count(*)::text FROM jobs", "3").await;
    world.fork().await;
    let deleted = ended_pod(7, 4, 1, ("acme", 1));
    world.pods.apply(deleted.clone()).await;
    world.pods.apply(ended_pod(8, 5, 1, ("acme", 1))).await;
    until("both to be committed", || {
        mirror.handle.committed(&uid(4), 1) && mirror.handle.committed(&uid(5), 1)
    })
    .await;
    world.pods.delete(&deleted).await;
    mirror
}

#[tokio::test]
async fn what_a_promoted_standby_lacks_is_charged_again() {
    let mut world = World::new().await;
    let mirror = with_a_standby_that_lacks_the_last_commits(&mut world).await;
    world.promote().await;
    world.sees(CHARGED, "1").await;
    // The next write shows it.
    world.jobs.apply(job("marker", 9, "acme", json!({}))).await;
    world.sees(CHARGED, "3").await;
    world.sees(MILLIS, "10800000").await;
    world.sees("SELECT count(*)::text FROM jobs", "4").await;
    until("the existing pod to be committed again", || mirror.handle.committed(&uid(5), 1)).await;
    let metrics = world.metrics.text().unwrap();
    assert!(!metrics.contains("crofter_mirror_transactions_lost_total 0"), "{metrics}");
    assert!(metrics.contains("crofter_mirror_losses_unrecovered_total 0"), "nothing is missing: {metrics}");
}

#[tokio::test]
async fn a_mirror_with_nothing_to_write_notices_it_too() {
    let mut world = World::new().await;
    world.verify_interval = Duration::from_millis(100);
    let _mirror = with_a_standby_that_lacks_the_last_commits(&mut world).await;
    world.promote().await;
    world.sees(CHARGED, "3").await;
    world.sees(MILLIS, "10800000").await;
}

#[tokio::test]
async fn the_next_process_says_that_the_server_is_not_the_one_of_before() {
    let mut world = World::new().await;
    let pool = world.pool();
    db::migrate(&pool).await.unwrap();
    let first = db::take_over(&pool, CLUSTER, None).await.unwrap();
    assert!(first.new && !first.moved && first.lost == 0, "{first:?}");
    let timeline = "SELECT (server ~ '^[0-9]+/00000001$')::text FROM mirror_state";
    world.sees(timeline, "true").await;
    let again = db::take_over(&pool, CLUSTER, Some(first.writer)).await.unwrap();
    assert!(!again.new && !again.moved, "{again:?}");

    world.execute("UPDATE mirror_state SET server = '1/00000001'").await;
    let _mirror = world.start().await;
    world.sees(timeline, "true").await;
    let said = || world.metrics.text().unwrap().contains("crofter_mirror_losses_unrecovered_total 1");
    until("the failover to be counted", said).await;
}
