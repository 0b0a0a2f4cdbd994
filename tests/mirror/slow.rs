//! Rows that the database does not take in time.

use std::time::Duration;

use crofter::db;
use serde_json::json;
use uuid::Uuid;

use crate::{
    objects::{attempt, job, tenant},
    world::World,
};

/// How long a call may take: what a busy machine keeps for all rows but the slow ones.
const CALL: Duration = Duration::from_secs(5);

/// A job's row that matches is never written in time.
fn slow(condition: &'static str) -> String {
    format!(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
         $$ BEGIN IF {condition} THEN PERFORM pg_sleep(120); END IF; RETURN NEW; END $$;
         CREATE TRIGGER slow BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION slow()"
    )
}

async fn world(condition: &'static str) -> World {
    let mut world = World::new().await;
    db::migrate(&world.pool()).await.unwrap();
    world.execute(slow(condition).leak()).await;
    world.call = CALL;
    world.tenants.apply(tenant("acme", 1)).await;
    world
}

#[tokio::test]
async fn one_row_that_is_never_written_in_time_stops_no_others() {
    let mut world = world("NEW.name = 'poison'").await;
    let ended = json!({"phase": "Completed", "attempts": [attempt(1)]});
    let jobs = (0..60).map(|n| job(&format!("j{n}"), 100 + n, "acme", ended.clone()));
    world.jobs.begin_with(jobs.chain([job("poison", 3, "acme", ended.clone())]).collect());
    let mirror = world.start().await;
    world.sees("SELECT count(*)::text FROM jobs WHERE phase = 'Completed'", "60").await;
    let counted = "crofter_mirror_rows_set_aside_total{kind=\"job\",cause=\"slow\"} 1";
    crate::world::until("the row to be set aside", || world.metrics.text().unwrap().contains(counted)).await;

    // What comes later is not held up any more, by the poisonous one's changes neither.
    for round in 0..3 {
        world.jobs.apply(job("poison", 3, "acme", json!({"phase": "Completed", "retries": round}))).await;
        world.jobs.apply(job(&format!("later{round}"), 500 + round, "acme", ended.clone())).await;
    }
    world.sees("SELECT count(*)::text FROM jobs WHERE phase = 'Completed'", "63").await;
    crate::world::until("all the rest to be written", || !mirror.handle.behind()).await;
    assert!(!mirror.handle.job_mirrored(&Uuid::from_u128(3).to_string(), "1000"));
}

#[tokio::test]
async fn attempts_are_charged_though_no_job_can_be_written() {
    // What an attempt makes known of its job has no phase.
    let mut world = world("NEW.phase IS NOT NULL").await;
    let ended = json!({"phase": "Completed", "attempts": [attempt(1)]});
    world.jobs.begin_with((0..20).map(|n| job(&format!("j{n}"), 100 + n, "acme", ended.clone())).collect());
    let _mirror = world.start().await;
    world.sees("SELECT count(*)::text FROM usage_events", "20").await;
    world.sees("SELECT count(*)::text FROM jobs WHERE phase IS NOT NULL", "0").await;
}

#[tokio::test]
async fn a_writer_that_is_cut_off_within_a_transaction_holds_up_no_other() {
    use sqlx::{Connection, PgConnection};

    let mut world = World::new().await;
    world.call = CALL;
    let pool = world.pool();
    db::migrate(&pool).await.unwrap();
    let writer = db::take_over(&pool, crate::world::CLUSTER, None).await.unwrap().writer;
    let mut other = PgConnection::connect(&world.url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE tenants").execute(&mut other).await.unwrap();
    let strand = async {
        let locked = "SELECT count(*)::text FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        world.sees(locked, "1").await;
        world.proxy.strand();
        // Its statement ends well in the server, and it never learns of it.
        other.close().await.unwrap();
    };
    let (late, ()) = futures::join!(db::write_tenants(&pool, writer, &[]), strand);
    assert!(matches!(late.unwrap_err().cause, db::Cause::Deadline(_)));
    let idle = "SELECT count(*)::text FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    world.sees(idle, "0").await;
    crate::world::soon(db::take_over(&pool, crate::world::CLUSTER, None)).await.unwrap();
}
