//! What was submitted of jobs that have ended: the cache lacks it.

use serde_json::{Value, json};

use crate::{
    objects::{job, tenant},
    world::World,
};

const IMAGES: &str = "SELECT string_agg(concat_ws(' ', name, phase, coalesce(spec->>'image', '-'),
    coalesce(spec->>'canceled', '-')), ', ' ORDER BY name) FROM jobs";

fn ended() -> Value {
    json!({"phase": "Completed", "attempt": 0, "finishedAt": "2026-01-01T15:30:00Z"})
}

async fn world() -> World {
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    world
}

#[tokio::test]
async fn a_row_keeps_what_was_submitted_when_its_job_ends() {
    let mut world = world().await;
    let _mirror = world.start().await;
    world.jobs.apply(job("a", 3, "acme", json!({"phase": "Running"}))).await;
    world.sees(IMAGES, "a Running busybox false").await;
    let mut end = job("a", 3, "acme", ended());
    end.spec.canceled = true;
    end.spec.drop_payload();
    world.jobs.apply(end).await;
    world.sees(IMAGES, "a Completed busybox true").await;
    assert_eq!(world.api.reads(), 0, "the row has it");
}

#[tokio::test]
async fn of_a_job_that_ended_unmirrored_it_is_read_from_the_api_server() {
    let mut world = world().await;
    let (whole, deleted) = (job("a", 3, "acme", ended()), job("b", 4, "acme", ended()));
    let successor = job("c", 6, "acme", ended());
    world.api.put(&whole);
    world.api.put(&successor);
    world.api.set_away(true);
    let of_old = job("c", 5, "acme", ended());
    let cached = [whole, deleted, of_old].map(|mut job| {
        job.spec.drop_payload();
        job
    });
    world.jobs.begin_with(cached.to_vec());
    let _mirror = world.start().await;
    // What needs no read is not held up.
    world.jobs.apply(job("d", 7, "acme", json!({"phase": "Running"}))).await;
    world.sees(IMAGES, "d Running busybox false").await;
    assert!(world.api.reads() > 0);
    world.api.set_away(false);
    let all = "a Completed busybox false, b Completed - false, c Completed - false, d Running busybox false";
    world.sees(IMAGES, all).await;
}
