//! An attempt is charged once, whatever reports it.

use crofter::db;
use futures::StreamExt;
use kube::runtime::reflector::ObjectRef;
use serde_json::json;
use uuid::Uuid;

use crate::{
    objects::{attempt, ended_pod, job, tenant, uid},
    world::{World, soon, until},
};

const HOURS: &str =
    "SELECT string_agg(concat_ws(' ', to_char(hour, 'HH24'), running_millis, cpu_millicore_millis,
    memory_byte_millis, gpu_millis, bandwidth_mbps_millis), ', ' ORDER BY hour) FROM usage_hourly";
/// One attempt: an hour of 2 cores, 1 GiB and 10 Mbit/s, half of it in each of two hours.
const ONE: &str =
    "14 1800000 3600000000 1932735283200000 0 18000000, 15 1800000 3600000000 1932735283200000 0 18000000";
const TWO: &str =
    "14 3600000 7200000000 3865470566400000 0 36000000, 15 3600000 7200000000 3865470566400000 0 36000000";

#[tokio::test]
async fn an_ended_pod_is_charged_and_the_charge_is_reported() {
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    world.jobs.apply(job("render", 3, "acme", json!({"phase": "Running"}))).await;
    let mirror = world.start().await;
    let mut commits = Box::pin(mirror.handle.commits());
    let pod = ended_pod(7, 3, 1, ("acme", 1));
    world.pods.apply(pod.clone()).await;
    assert_eq!(soon(commits.next()).await, Some(ObjectRef::from_obj(&pod)));
    assert!(mirror.handle.committed(&uid(3), 1));
    assert!(!mirror.handle.committed(&uid(3), 2) && !mirror.handle.committed(&uid(4), 1));
    world.sees(HOURS, ONE).await;

    let events = db::usage_events(&world.pool(), 10).await.unwrap();
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!((event.tenant.as_str(), event.job.as_str(), event.attempt), ("acme", "render", 1));
    assert_eq!(event.job_uid, Uuid::from_u128(3));
    assert_eq!(event.usage.memory_byte_millis, 3_865_470_566_400_000);

    world.pods.delete(&pod).await;
    until("the pod to be forgotten", || !mirror.handle.committed(&uid(3), 1)).await;
}

#[tokio::test]
async fn a_repeated_event_changes_nothing() {
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    let ended = json!({"phase": "Completed", "attempts": [attempt(1), attempt(2)]});
    for round in 0..3 {
        // In any order, from pod and job and both, and from a new process each time.
        let mirror = world.start().await;
        if round != 1 {
            world.jobs.apply(job("render", 3, "acme", ended.clone())).await;
        }
        world.pods.apply(ended_pod(7 + round, 3, 1, ("acme", 1))).await;
        world.jobs.apply(job("render", 3, "acme", ended.clone())).await;
        world.jobs.apply(job("marker", 100 + round, "acme", json!({}))).await;
        until("the attempt to be known as committed", || mirror.handle.committed(&uid(3), 1)).await;
        world.sees("SELECT count(*)::text FROM usage_events", "2").await;
        let version = kube::ResourceExt::resource_version(&job("later", 9, "acme", json!({}))).unwrap();
        assert!(!mirror.handle.job_mirrored(&uid(3), &version));
    }
    world.sees(HOURS, TWO).await;
    world.sees("SELECT count(*)::text FROM job_attempts", "2").await;
}

#[tokio::test]
async fn two_writers_of_one_attempt_charge_it_once() {
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    world.jobs.apply(job("render", 3, "acme", json!({}))).await;
    let pool = world.pool();
    drop({
        let mirror = world.start().await;
        world.sees("SELECT count(*)::text FROM jobs", "1").await;
        mirror
    });
    let writer = db::take_over(&pool, crate::world::CLUSTER, None).await.unwrap().writer;
    let rows = [1, 2].map(|number| db::AttemptRow {
        job_uid: Uuid::from_u128(3),
        record: attempt(number),
        seen: None,
    });
    let writes = (0..8).map(|_| db::write_attempts(&pool, writer, &rows));
    for written in futures::future::join_all(writes).await {
        written.unwrap();
    }
    world.sees(HOURS, TWO).await;
}

#[tokio::test]
async fn an_attempt_that_never_started_is_an_event_of_nothing() {
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    let mut never = attempt(1);
    never.started_at = None;
    world.jobs.apply(job("render", 3, "acme", json!({"phase": "Retrying", "attempts": [never]}))).await;
    let _mirror = world.start().await;
    let event =
        "SELECT concat_ws(' ', attempt, started_at, running_millis, cpu_millicore_millis) FROM usage_events";
    world.sees(event, "1 0 0").await;
    world.sees("SELECT count(*)::text FROM usage_hourly", "0").await;
}

#[tokio::test]
async fn a_pod_outlives_its_job_and_its_tenant() {
    let mut world = World::new().await;
    let mirror = world.start().await;
    world.pods.apply(ended_pod(7, 3, 1, ("acme", 1))).await;
    until("the attempt to be committed", || mirror.handle.committed(&uid(3), 1)).await;
    world.sees(HOURS, ONE).await;
    let row = "SELECT concat_ws(' ', t.name, j.namespace, j.name, j.phase, j.deleted_at IS NOT NULL)
        FROM jobs j JOIN tenants t ON t.uid = j.tenant_uid";
    world.sees(row, "acme tenant-acme render t").await;

    // What was known from the pod alone gives way to the objects, should they appear.
    world.tenants.apply(tenant("acme", 1)).await;
    world.jobs.apply(job("render", 3, "acme", json!({"phase": "Completed"}))).await;
    world.sees(row, "acme tenant-acme render Completed f").await;
    world.sees("SELECT epoch::text FROM mirror_state", "1").await;
}

/// Who creates a pod chooses its labels.
#[tokio::test]
async fn a_pod_that_names_the_tenant_of_another_namespace_charges_no_tenant() {
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    let mut elsewhere = ended_pod(7, 3, 1, ("acme", 1));
    elsewhere.metadata.namespace = Some("tenant-umbra".to_owned());
    // The name of one tenant with the UID of another.
    let mixed = ended_pod(8, 4, 1, ("umbra", 1));
    for pod in [elsewhere, mixed, ended_pod(9, 5, 1, ("acme", 1))] {
        world.pods.apply(pod).await;
    }
    let _mirror = world.start().await;
    let charged = "SELECT string_agg(concat_ws(' ', tenant_uid, job_uid), ', ') FROM usage_events";
    world.sees(charged, &format!("{} {}", uid(1), uid(5))).await;
    world.sees(HOURS, ONE).await;
}

/// An attempt is charged once, so that the first of its name counts.
#[tokio::test]
async fn a_forged_pod_of_an_attempt_does_not_take_its_charge() {
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    // Given: a forged pod of the attempt in another namespace, which was there first, and one whose charge shows that it was seen.
    let mut forged = ended_pod(7, 3, 1, ("acme", 1));
    forged.metadata.namespace = Some("tenant-umbra".to_owned());
    for pod in [forged, ended_pod(8, 4, 1, ("acme", 1))] {
        world.pods.apply(pod).await;
    }
    let _mirror = world.start().await;
    let charged = "SELECT string_agg(job_uid::text, ', ' ORDER BY job_uid) FROM usage_events";
    world.sees(charged, &uid(4).to_string()).await;
    // When the attempt itself ends. Then: it is charged.
    world.pods.apply(ended_pod(9, 3, 1, ("acme", 1))).await;
    world.sees(charged, &format!("{}, {}", uid(3), uid(4))).await;
}
