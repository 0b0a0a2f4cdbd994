//! A job that is deleted before its end has an end in the history.

use serde_json::{Value, json};

use crate::{
    objects::{attempt, ended_pod, job, tenant},
    proxy::Way,
    world::World,
};

/// What the last row of `render` says.
const END: &str =
    "SELECT concat_ws(', ', phase, reason, message, attempt, exit_code, to_char(started_at, 'HH24:MI'),
    to_char(finished_at, 'HH24:MI'), deleted_at IS NOT NULL) FROM jobs WHERE name = 'render'";
const WAITED: &str = "Canceled, JobDeleted, the job was deleted while it waited, 0, 16:00, t";
const RAN: &str = "Canceled, JobDeleted, the job was deleted before it had ended, 1, 14:30, 16:00, t";

fn running() -> Value {
    json!({"phase": "Running", "attempt": 1, "startedAt": "2026-01-01T14:30:00Z"})
}

async fn world() -> World {
    let mut world = World::new().await;
    world.tenants.apply(tenant("acme", 1)).await;
    world
}

#[tokio::test]
async fn a_job_that_is_deleted_while_it_waits_was_canceled() {
    let mut world = world().await;
    let _mirror = world.start().await;
    let waits =
        job("render", 3, "acme", json!({"phase": "Queued", "reason": "NoWorkers", "message": "none"}));
    world.jobs.apply(waits.clone()).await;
    world.sees("SELECT phase FROM jobs", "Queued").await;
    world.jobs.delete(&waits).await;
    world.sees(END, WAITED).await;
}

#[tokio::test]
async fn a_job_that_is_deleted_while_it_runs_was_canceled_when_its_pod_ended() {
    let mut world = world().await;
    let _mirror = world.start().await;
    let runs = job("render", 3, "acme", running());
    world.jobs.apply(runs.clone()).await;
    world.sees("SELECT phase FROM jobs", "Running").await;
    world.jobs.delete(&runs).await;
    world.sees(END, RAN).await;

    let mut killed = ended_pod(7, 3, 1, ("acme", 1));
    killed.metadata.deletion_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time("2026-01-01T15:29:55Z".parse().unwrap()));
    killed.metadata.deletion_grace_period_seconds = Some(30);
    world.pods.apply(killed).await;
    world
        .sees(END, "Canceled, JobDeleted, the job was deleted before it had ended, 1, 0, 14:30, 15:30, t")
        .await;
}

#[tokio::test]
async fn a_job_whose_pod_had_ended_by_itself_ended_so() {
    for (before, after) in [(Way::Open, Way::Open), (Way::Cut, Way::Open)] {
        let mut world = world().await;
        let _mirror = world.start().await;
        let runs = job("render", 3, "acme", running());
        world.jobs.apply(runs.clone()).await;
        world.sees("SELECT phase FROM jobs", "Running").await;
        // One after the other, or all in one batch.
        world.proxy.set(before);
        world.jobs.delete(&runs).await;
        if before == Way::Open {
            world.sees(END, RAN).await;
        }
        world.pods.apply(ended_pod(7, 3, 1, ("acme", 1))).await;
        world.proxy.set(after);
        world.sees(END, "Completed, Succeeded, exit code 0, 1, 0, 14:30, 15:30, t").await;
    }
}

#[tokio::test]
async fn a_job_that_is_deleted_between_two_attempts_was_canceled_whatever_became_of_the_first() {
    let mut world = world().await;
    let _mirror = world.start().await;
    let mut first = attempt(1);
    first.reason = "NonZeroExit".into();
    let retrying = json!({"phase": "Retrying", "attempt": 1, "attempts": [first]});
    let retried = job("render", 3, "acme", retrying);
    world.jobs.apply(retried.clone()).await;
    world.sees("SELECT count(*)::text FROM usage_events", "1").await;
    world.jobs.delete(&retried).await;
    world.sees(END, "Canceled, JobDeleted, the job was deleted while it waited, 1, 16:00, t").await;
    // The same attempt again, from its pod; and the next one, whose start was not seen.
    world.pods.apply(ended_pod(7, 3, 1, ("acme", 1))).await;
    world.pods.apply(ended_pod(8, 3, 2, ("acme", 1))).await;
    world.sees("SELECT count(*)::text FROM usage_events", "2").await;
    world.sees(END, "Completed, Succeeded, exit code 0, 2, 0, 14:30, 15:30, t").await;
    world.pods.apply(ended_pod(9, 3, 2, ("acme", 1))).await;
    world.jobs.apply(job("marker", 4, "acme", json!({}))).await;
    world.sees("SELECT count(*)::text FROM jobs", "2").await;
    world.sees(END, "Completed, Succeeded, exit code 0, 2, 0, 14:30, 15:30, t").await;
}

#[tokio::test]
async fn a_job_that_was_deleted_without_a_running_mirror_has_an_end_too() {
    let all = "SELECT string_agg(name || ' ' || phase, ', ' ORDER BY name, phase) FROM jobs";
    let mut world = world().await;
    let waits = job("waits", 4, "acme", json!({"phase": "Queued"}));
    let ended = job("ended", 5, "acme", json!({"phase": "Failed", "reason": "NonZeroExit"}));
    let again = job("again", 6, "acme", json!({"phase": "Assigned"}));
    world.jobs.begin_with(vec![job("render", 3, "acme", running()), waits, ended, again]);
    drop({
        let mirror = world.start().await;
        world.sees(all, "again Assigned, ended Failed, render Running, waits Queued").await;
        mirror
    });
    // A job of the same name exists now: its row takes the name over.
    world.jobs.begin_with(vec![job("again", 16, "acme", json!({"phase": "Queued"}))]);
    let _mirror = world.start().await;
    world.sees(all, "again Canceled, again Queued, ended Failed, render Canceled, waits Canceled").await;
    world.sees(END, RAN).await;
    world.sees("SELECT reason FROM jobs WHERE name = 'ended'", "NonZeroExit").await;
}

#[tokio::test]
async fn what_was_deleted_before_the_schema_knew_of_it_is_mended() {
    let mut world = world().await;
    {
        let _mirror = world.start().await;
        world.sees("SELECT count(*)::text FROM tenants", "1").await;
    }
    // As a program without this migration left it.
    world
        .execute(
            "ALTER TABLE mirror_state DROP COLUMN commits, DROP COLUMN server;
             ALTER TABLE jobs DROP COLUMN deleted_phase;
             DELETE FROM _sqlx_migrations WHERE version = 3;
             INSERT INTO jobs (uid, tenant_uid, namespace, name, phase, attempt, retries, created_at, deleted_at, epoch,
                               resource_version)
             SELECT lpad((50 + n)::text, 32, '0')::uuid, (SELECT uid FROM tenants), 'tenant-acme', 'j' || n, phase, 0, 0,
                    '2026-01-01', '2026-01-02', 1, 1
             FROM unnest(ARRAY['Queued', 'Running', 'Completed', NULL]) WITH ORDINALITY AS old (phase, n)",
        )
        .await;
    let _mirror = world.start().await;
    let all =
        "SELECT string_agg(concat_ws(' ', name, phase, finished_at::date), ', ' ORDER BY name) FROM jobs";
    world.sees(all, "j1 Canceled 2026-01-02, j2 Canceled 2026-01-02, j3 Completed, j4").await;
}
