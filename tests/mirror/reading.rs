//! What the REST API reads: bounded in the server too, and not waited for while the database is away.

use std::time::Duration;

use crofter::db::{self, Cause, JobsWanted, LONGEST_SCAN, Options, Readers};
use sqlx::{Connection, PgConnection};
use tokio::time::Instant;
use uuid::Uuid;

use crate::{
    proxy::Way,
    world::{WAIT_TIMEOUT, World, soon},
};

const TENANT: Uuid = Uuid::from_u128(1);
const WAITS_FOR_A_LOCK: &str = "SELECT count(*)::text FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'";

async fn list(readers: &Readers) -> Result<db::JobsPage, db::Error> {
    db::jobs_of(readers, TENANT, JobsWanted { most: 10, ..JobsWanted::default() }).await
}

async fn lock(world: &World) -> PgConnection {
    db::migrate(&world.pool()).await.unwrap();
    let mut other = PgConnection::connect(&world.url).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE jobs").execute(&mut other).await.unwrap();
    other
}

#[tokio::test]
async fn a_read_ends_in_the_server_before_its_caller_gives_up() {
    let world = World::new().await;
    let other = lock(&world).await;
    let call = Duration::from_secs(5);
    let readers = world.readers_with(Options { connections: 1, connect: call, call });
    let late = list(&readers).await.unwrap_err();
    let code = match &late.cause {
        Cause::Sql(sqlx::Error::Database(error)) => error.code().map(|code| code.into_owned()),
        _ => None,
    };
    assert_eq!(code.as_deref(), Some("57014"), "canceled by the server: {late}");
    world.sees(WAITS_FOR_A_LOCK, "0").await;
    other.close().await.unwrap();
    // A server that says so is not away: the next one is not turned off.
    list(&readers).await.unwrap();
}

#[tokio::test]
async fn a_read_that_is_given_up_ends_in_the_server() {
    let world = World::new().await;
    let other = lock(&world).await;
    let call = WAIT_TIMEOUT;
    let readers = world.readers_with(Options { connections: 1, connect: call, call });
    let reading = tokio::spawn(async move { list(&readers).await.map(drop) });
    world.sees(WAITS_FOR_A_LOCK, "1").await;
    reading.abort();
    // Of its own accord that would be when the call's time is over.
    let began = Instant::now();
    world.sees(WAITS_FOR_A_LOCK, "0").await;
    assert!(began.elapsed() < call / 2, "{:?}", began.elapsed());
    other.close().await.unwrap();
}

#[tokio::test]
async fn while_the_database_refuses_or_hangs_reads_fail_at_once() {
    for way in [Way::Cut, Way::Frozen] {
        let world = World::new().await;
        db::migrate(&world.pool()).await.unwrap();
        let call = Duration::from_secs(5);
        let readers = world.readers_with(Options { connections: 2, connect: call, call });
        list(&readers).await.unwrap();
        world.proxy.set(way);
        list(&readers).await.unwrap_err();
        for _ in 0..100 {
            // The cause says that it was not waited for.
            let refused = list(&readers).await.unwrap_err();
            assert!(matches!(refused.cause, Cause::CircuitOpen), "{way:?}: {refused}");
        }
        world.proxy.set(Way::Open);
        // No caller has to ask for that: a probe asks in the background.
        soon(async {
            while list(&readers).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_filtered_list_scans_up_to_its_limit_and_returns_a_cursor() {
    let world = World::new().await;
    db::migrate(&world.pool()).await.unwrap();
    world
        .execute(
            "INSERT INTO tenants (uid, name, created_at, epoch, resource_version)
             VALUES ('00000000-0000-0000-0000-000000000001', 'acme', now(), 1, 1);
             INSERT INTO jobs (uid, tenant_uid, namespace, name, phase, queue, attempt, retries, created_at, epoch,
                               resource_version)
             SELECT lpad(n::text, 32, '0')::uuid, '00000000-0000-0000-0000-000000000001', 'tenant-acme', 'j' || n,
                    CASE n WHEN 1 THEN 'Failed' WHEN 10010 THEN 'Failed' ELSE 'Completed' END, 'batch', 0, 0,
                    '2026-01-01'::timestamptz + n * interval '1 second', 1, 1
             FROM generate_series(1, 10020) n;
             ANALYZE jobs",
        )
        .await;
    let readers = world.readers(1);
    let failed = async |before| {
        let wanted = JobsWanted { phase: Some("Failed"), before, most: 5, ..JobsWanted::default() };
        let page = db::jobs_of(&readers, TENANT, wanted).await.unwrap();
        (page.jobs.into_iter().map(|job| job.name).collect::<Vec<_>>(), page.searched_to)
    };
    let (first, searched_to) = failed(None).await;
    assert_eq!(first, ["j10010"]);
    let (_, last) = searched_to.expect("there are more");
    assert_eq!(last, format!("{:0>32}", 10_020 - LONGEST_SCAN + 1).parse::<Uuid>().unwrap());
    assert_eq!(failed(searched_to).await, (vec!["j1".to_owned()], None));

    // Enough found: the page ends with the last of them, as without a filter.
    let wanted = JobsWanted { queue: Some("batch"), most: 5, ..JobsWanted::default() };
    let page = db::jobs_of(&readers, TENANT, wanted).await.unwrap();
    assert_eq!((page.jobs.len(), page.searched_to), (5, None));
    // By name the search continues as by phase.
    let named = async |before| {
        let wanted = JobsWanted { name: Some("j10"), before, most: 5, ..JobsWanted::default() };
        let page = db::jobs_of(&readers, TENANT, wanted).await.unwrap();
        (page.jobs.into_iter().map(|job| job.name).collect::<Vec<_>>(), page.searched_to)
    };
    assert_eq!(named(None).await, (vec![], searched_to));
    assert_eq!(named(searched_to).await, (vec!["j10".to_owned()], None));
    // Before the first there is nothing, however early.
    let before = Some(("-009999-01-02T01:59:59Z".parse().unwrap(), Uuid::max()));
    let wanted = JobsWanted { before, most: 5, ..JobsWanted::default() };
    assert!(db::jobs_of(&readers, TENANT, wanted).await.unwrap().jobs.is_empty());
    let (from, to) = ("-009999-01-02T01:59:59Z".parse().unwrap(), "9999-12-30T22:00:00Z".parse().unwrap());
    assert!(db::usage_of(&readers, TENANT, from, to, true).await.unwrap().is_empty());
}

#[tokio::test]
async fn all_that_lives_is_compared_page_by_page() {
    let world = World::new().await;
    let pool = world.pool();
    db::migrate(&pool).await.unwrap();
    world
        .execute(
            "INSERT INTO tenants (uid, name, created_at, epoch, resource_version)
             VALUES ('00000000-0000-0000-0000-000000000001', 'acme', now(), 1, 1);
             INSERT INTO jobs (uid, tenant_uid, namespace, name, attempt, retries, created_at, deleted_at, epoch,
                               resource_version)
             SELECT lpad(n::text, 32, '0')::uuid, '00000000-0000-0000-0000-000000000001', 'tenant-' || n % 3, 'j' || n,
                    0, 0, now(), CASE WHEN n > 25000 THEN now() END, 1, n
             FROM generate_series(1, 25010) n",
        )
        .await;
    let deleted: Vec<Uuid> = (20_000..26_000).map(|n| format!("{n:0>32}").parse().unwrap()).collect();
    let mut versions = db::job_versions(&pool, &deleted).await.unwrap();
    versions.sort_by_key(|row| row.resource_version);
    let numbers: Vec<i64> = versions.iter().map(|row| row.resource_version).collect();
    assert_eq!(numbers, (1..=25_010).collect::<Vec<i64>>(), "each once");
    assert!(versions.iter().all(|row| row.living == (row.resource_version <= 25_000)));
}
