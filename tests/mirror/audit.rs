//! The audit log in Postgres: what is written through outages, read page by page, and deleted once it is old.

use std::{collections::BTreeSet, time::Duration};

use crofter::{
    audit::{self, AuditLog, ClusterUid, QUEUE, retention},
    clock::Clock,
    db::{
        self, AuditEntry, AuditWanted, AuditedTenant, CallerKind, Cause, Options, PORTION, PURGE_PORTION,
        Readers,
    },
    random::Random,
};
use crofter_test_cluster::DatabaseServer;
use futures::FutureExt as _;
use jiff::Timestamp;
use uuid::Uuid;

use crate::{
    proxy::Way,
    world::{CALL, WAIT_TIMEOUT, World},
};

const ENTRIES: &str = "SELECT count(*)::text FROM audit_log";
const ACME: Uuid = Uuid::from_u128(0xac);
/// Clusters, and a database that mirrors one.
const OURS: Uuid = Uuid::from_u128(1);
const THEIRS: Uuid = Uuid::from_u128(2);
const DAY: Duration = Duration::from_hours(24);

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn entry(id: Uuid, time: &str) -> AuditEntry {
    AuditEntry {
        at: at(time),
        id,
        request_id: "r-1".to_owned(),
        caller_kind: CallerKind::Key,
        caller: Some("k1".to_owned()),
        tenant: Some("acme".to_owned()),
        tenant_uid: Some(ACME),
        action: "POST /jobs".to_owned(),
        object: Some("n1".to_owned()),
        made: Some("uid".to_owned()),
        status: Some(201),
        client_address: Some("::1".to_owned()),
    }
}

fn cluster(uid: Uuid) -> ClusterUid {
    std::future::ready(Some(uid)).boxed().shared()
}

/// A queue whose entries are written to the database of a world, where a call may take this long.
fn writing(world: &World, call: Duration) -> AuditLog {
    let (log, queued) = audit::queue(&Random::system(), world.metrics.clone()).unwrap();
    let pool = world.pool_with(Options { connections: 1, connect: call, call });
    tokio::spawn(queued.write_to(pool.written_while(|| false), cluster(OURS)));
    log
}

/// Records entries of many tenants: each has a rate.
fn record(log: &AuditLog, entries: usize) {
    for n in 0..entries {
        let tenant_uid = Some(Uuid::from_u128(n as u128 % 32));
        log.record(AuditEntry { tenant_uid, ..entry(log.next_id(), "2026-01-01T00:00:00Z") });
    }
}

fn counted(world: &World, result: &str) -> usize {
    let text = world.metrics.text().unwrap();
    let name = format!("crofter_audit_entries_total{{result=\"{result}\"}} ");
    text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |count| count.parse().unwrap())
}

async fn page(readers: &Readers, wanted: AuditWanted<'_>) -> Vec<AuditEntry> {
    db::audit_page(readers, Some(OURS), wanted).await.unwrap()
}

fn everything() -> AuditWanted<'static> {
    let before = (Timestamp::MAX, Uuid::nil());
    AuditWanted { tenant: None, caller: None, from: Timestamp::MIN, before, most: 100 }
}

#[tokio::test]
async fn audit_entries_are_written_with_all_their_fields_and_once() {
    let world = World::new().await;
    let pool = world.pool();
    db::migrate(&pool).await.unwrap();
    let known = entry(Uuid::from_u128(1), "2026-01-01T00:00:00.123456Z");
    let unknown = AuditEntry {
        id: Uuid::from_u128(2),
        caller_kind: CallerKind::Unknown,
        caller: None,
        tenant: None,
        tenant_uid: None,
        object: None,
        made: None,
        status: None,
        client_address: None,
        ..known.clone()
    };
    db::write_audit(&pool, Some(OURS), std::slice::from_ref(&known)).await.unwrap();
    // The answer to the first write was lost: it is written again, with others.
    let all = [known.clone(), unknown.clone()];
    db::write_audit(&pool, Some(OURS), &all).await.unwrap();
    db::write_audit(&pool, Some(OURS), &all).await.unwrap();
    assert_eq!(page(&world.readers(1), everything()).await, [unknown, known], "the newest first");
}

#[tokio::test]
async fn an_outage_loses_no_entry_that_the_queue_has_room_for_and_counts_the_others() {
    for way in [Way::Cut, Way::Frozen] {
        // Given: a replica that does not lead, whose database answers.
        let world = World::new().await;
        db::migrate(&world.pool()).await.unwrap();
        let log = writing(&world, Duration::from_secs(1));
        record(&log, 3);
        world.sees(ENTRIES, "3").await;
        assert_eq!(log.flush(WAIT_TIMEOUT).await, 0);

        // When it is away, as many entries wait as the queue has room for.
        world.proxy.set(way);
        record(&log, QUEUE);
        assert_eq!((counted(&world, "dropped"), log.flush(Duration::ZERO).await), (0, QUEUE), "{way:?}");
        // Those beyond are dropped, but for a batch that the writer has taken out of the queue.
        record(&log, 3 * PORTION);
        let dropped = counted(&world, "dropped");
        assert!((2 * PORTION..=3 * PORTION).contains(&dropped), "{way:?}: {dropped}");

        // Then: once it is back, all others are written, each once.
        world.proxy.set(Way::Open);
        assert_eq!(log.flush(WAIT_TIMEOUT).await, 0, "{way:?}");
        let kept = 3 + QUEUE + 3 * PORTION - dropped;
        assert_eq!(counted(&world, "written"), kept, "{way:?}");
        assert_eq!(world.ask(ENTRIES).await.unwrap(), kept.to_string(), "{way:?}");
    }
}

#[tokio::test]
async fn audit_entries_wait_for_a_server_that_takes_no_writes() {
    let server = DatabaseServer::start().unwrap();
    let world = World::on(&server).await;
    db::migrate(&world.pool()).await.unwrap();
    world.execute("ALTER SYSTEM SET default_transaction_read_only = on").await;
    world.execute("SELECT pg_reload_conf()").await;
    world.sees("SHOW transaction_read_only", "on").await;
    let log = writing(&world, CALL);
    record(&log, 3);
    let error =
        db::write_audit(&world.pool(), Some(OURS), &[entry(log.next_id(), "2026-01-01T00:00:00Z")]).await;
    assert!(matches!(error.unwrap_err().cause, Cause::ReadOnly));
    assert_eq!(log.flush(Duration::from_millis(300)).await, 3);
    world.execute("ALTER SYSTEM RESET default_transaction_read_only").await;
    world.execute("SELECT pg_reload_conf()").await;
    assert_eq!(log.flush(WAIT_TIMEOUT).await, 0);
    assert_eq!(world.ask(ENTRIES).await.unwrap(), "3");
}

#[tokio::test]
async fn a_schema_that_is_not_up_to_date_is_waited_for() {
    // Given: a replica of this version, while the leader of the one before has not migrated yet.
    let world = World::new().await;
    let log = writing(&world, CALL);
    record(&log, 3);
    assert_eq!(log.flush(Duration::from_millis(300)).await, 3);
    db::migrate(&world.pool()).await.unwrap();
    assert_eq!(log.flush(WAIT_TIMEOUT).await, 0);
    assert_eq!(world.ask(ENTRIES).await.unwrap(), "3");
}

#[tokio::test]
async fn an_entry_that_the_database_refuses_is_left_out_and_no_other() {
    let world = World::new().await;
    db::migrate(&world.pool()).await.unwrap();
    world.execute("ALTER TABLE audit_log ADD CHECK (action <> 'bad')").await;
    let log = writing(&world, CALL);
    for n in 0..100 {
        let one = entry(log.next_id(), "2026-01-01T00:00:00Z");
        log.record(if n == 60 { AuditEntry { action: "bad".to_owned(), ..one } } else { one });
    }
    assert_eq!(log.flush(WAIT_TIMEOUT).await, 0);
    assert_eq!((counted(&world, "written"), counted(&world, "refused")), (99, 1));
    assert_eq!(world.ask(ENTRIES).await.unwrap(), "99");
}

#[tokio::test]
async fn an_entry_that_a_trigger_raises_an_error_for_is_left_out_and_no_other() {
    // Given: an administrator's trigger, whose error is none of the row's own.
    let world = World::new().await;
    db::migrate(&world.pool()).await.unwrap();
    world
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON audit_log FOR EACH ROW WHEN (NEW.action = 'bad')
             EXECUTE FUNCTION refuse();",
        )
        .await;
    let log = writing(&world, CALL);
    for n in 0..3 {
        let one = entry(log.next_id(), "2026-01-01T00:00:00Z");
        log.record(if n == 1 { AuditEntry { action: "bad".to_owned(), ..one } } else { one });
    }
    assert_eq!(log.flush(WAIT_TIMEOUT).await, 0);
    assert_eq!((counted(&world, "written"), counted(&world, "refused")), (2, 1));
    assert_eq!(world.ask(ENTRIES).await.unwrap(), "2");
}

#[tokio::test]
async fn the_audit_log_of_another_cluster_is_neither_written_nor_read_nor_deleted() {
    // Given: a database that mirrors another cluster, with an old entry of it.
    let world = World::new().await;
    let pool = world.pool();
    db::migrate(&pool).await.unwrap();
    db::take_over(&pool, THEIRS, None).await.unwrap();
    let old = entry(Uuid::from_u128(1), "2001-01-01T00:00:00Z");
    db::write_audit(&pool, Some(THEIRS), std::slice::from_ref(&old)).await.unwrap();
    // When a replica of this cluster writes, reads and deletes, each is refused, and its entries wait.
    let log = writing(&world, CALL);
    record(&log, 2);
    assert_eq!(log.flush(Duration::from_millis(700)).await, 2);
    let written = db::write_audit(&pool, Some(OURS), std::slice::from_ref(&old)).await.unwrap_err();
    let read = db::audit_page(&world.readers(1), Some(OURS), everything()).await.unwrap_err();
    let deleted = retention::purge(&pool, OURS, Duration::ZERO, &Clock::system()).await.unwrap_err();
    for error in [written, read, deleted] {
        let of = |cause: &Cause| match cause {
            Cause::OtherCluster { theirs, ours } => Some((*theirs, *ours)),
            _ => None,
        };
        assert_eq!(of(&error.cause), Some((THEIRS, OURS)), "{error}");
    }
    assert_eq!(world.ask(ENTRIES).await.unwrap(), "1");
    // Then, once the database is handed over, they are written.
    world.execute("UPDATE mirror_state SET cluster_uid = NULL").await;
    assert_eq!(log.flush(WAIT_TIMEOUT).await, 0);
    assert_eq!(world.ask(ENTRIES).await.unwrap(), "3");
}

#[tokio::test]
async fn pages_of_the_audit_log_are_stable_while_entries_of_the_same_instant_are_written() {
    const INSTANT: &str = "2026-01-01T00:00:00Z";
    // Given: 25 entries of one instant.
    let world = World::new().await;
    let (pool, readers) = (world.pool(), world.readers(1));
    db::migrate(&pool).await.unwrap();
    let ids = |range: std::ops::Range<u128>| range.map(|n| Uuid::from_u128(10 * n));
    let first: Vec<AuditEntry> = ids(1..26).map(|id| entry(id, INSTANT)).collect();
    db::write_audit(&pool, Some(OURS), &first).await.unwrap();
    // When others of that instant are written between two pages, before and after the position of each.
    let (mut seen, mut before) = (Vec::new(), everything().before);
    for round in 1..=4_u128 {
        let found = page(&readers, AuditWanted { before, most: 10, ..everything() }).await;
        before = found.last().map_or(before, |last| (last.at, last.id));
        seen.extend(found.into_iter().map(|entry| entry.id));
        let others = ids(1..26).map(|id| entry(Uuid::from_u128(id.as_u128() + round), INSTANT));
        db::write_audit(&pool, Some(OURS), &others.collect::<Vec<_>>()).await.unwrap();
    }
    // Then: no entry is listed twice, and none of those that were there is left out down to the last position.
    assert!(seen.is_sorted_by(|one, next| one > next), "{seen:?}");
    let seen: BTreeSet<Uuid> = seen.into_iter().collect();
    for id in ids(1..26).filter(|id| *id >= before.1) {
        assert!(seen.contains(&id), "{id}");
    }
    assert!(seen.len() > 30, "{seen:?}");
}

#[tokio::test]
async fn the_audit_log_is_filtered_by_tenant_caller_and_time() {
    let world = World::new().await;
    let (pool, readers) = (world.pool(), world.readers(1));
    db::migrate(&pool).await.unwrap();
    let (first, last) = ("2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z");
    // Two tenants of one name, one after the other, and one that never existed.
    let of = |id: u128, time: &str, tenant_uid: Option<Uuid>, caller: &str| AuditEntry {
        tenant_uid,
        caller: Some(caller.to_owned()),
        ..entry(Uuid::from_u128(id), time)
    };
    let other = AuditEntry { tenant: Some("nowhere".to_owned()), ..of(4, last, None, "boss") };
    let all = [
        of(1, first, Some(Uuid::from_u128(1)), "k1"),
        of(2, "2026-01-02T00:00:00Z", Some(ACME), "k1"),
        of(3, last, Some(ACME), "boss"),
        other,
    ];
    db::write_audit(&pool, Some(OURS), &all).await.unwrap();
    let listed = async |wanted: AuditWanted<'_>| -> Vec<u128> {
        page(&readers, wanted).await.iter().map(|entry| entry.id.as_u128()).collect()
    };
    let (name, uid) = (Some(AuditedTenant::Name("acme")), Some(AuditedTenant::Uid(ACME)));
    let (k1, boss) = (Some("k1"), Some("boss"));
    for (tenant, caller, expected) in [
        (None, None, &[4, 3, 2, 1][..]),
        (name, None, &[3, 2, 1]),
        (uid, None, &[3, 2]),
        (None, boss, &[4, 3]),
        (name, k1, &[2, 1]),
        (uid, k1, &[2]),
        (Some(AuditedTenant::Name("Acme")), None, &[]),
        (None, Some("k"), &[]),
    ] {
        assert_eq!(
            listed(AuditWanted { tenant, caller, ..everything() }).await,
            expected,
            "{tenant:?} {caller:?}"
        );
    }
    // From the first moment on, and without the last one.
    let times = AuditWanted { from: at(first), before: (at(last), Uuid::nil()), ..everything() };
    assert_eq!(listed(times).await, [2, 1]);
    assert_eq!(listed(AuditWanted { from: at("2026-01-01T00:00:00.000001Z"), ..times }).await, [2]);
}

#[tokio::test]
async fn old_entries_of_the_audit_log_are_deleted_and_a_clock_that_is_ahead_deletes_none_too_early() {
    // Given: more old entries than one call deletes, and some that are not old.
    let world = World::new().await;
    let pool = world.pool();
    db::migrate(&pool).await.unwrap();
    world
        .execute(
            "INSERT INTO audit_log (at, id, request_id, caller_kind, action)
             SELECT now() - interval '91 days' - n * interval '1 s', gen_random_uuid(), 'r', 'key', 'POST /jobs'
             FROM generate_series(1, 12000) n
             UNION ALL
             SELECT now() - n * interval '29 days', gen_random_uuid(), 'new', 'key', 'POST /jobs'
             FROM generate_series(0, 3) n",
        )
        .await;
    const { assert!(PURGE_PORTION < 12_000) };
    // A clock that is behind keeps more, and one that is ahead no less.
    let purge = async |clock: Clock| retention::purge(&pool, OURS, 90 * DAY, &clock).await.unwrap();
    assert_eq!(purge(Clock::of(|| at("2001-01-01T00:00:00Z"))).await, 0);
    assert_eq!(purge(Clock::of(|| Timestamp::MIN)).await, 0);
    assert_eq!(purge(Clock::of(|| at("2199-01-01T00:00:00Z"))).await, 12_000);
    assert_eq!(purge(Clock::system()).await, 0);
    world.sees("SELECT string_agg(request_id, ',') FROM audit_log", "new,new,new,new").await;
    // A replica that does not lead deletes nothing.
    let follower = world.pool().written_while(|| false);
    let refused = retention::purge(&follower, OURS, Duration::ZERO, &Clock::system()).await.unwrap_err();
    assert!(matches!(refused.cause, Cause::NotLeader), "{refused}");
    world.sees(ENTRIES, "4").await;
}

#[tokio::test]
async fn each_filter_of_the_audit_log_is_served_by_its_index() {
    let world = World::new().await;
    db::migrate(&world.pool()).await.unwrap();
    // Given: a tenant and a caller with few entries among many, and a server that keeps one plan for all values.
    world
        .execute(
            "INSERT INTO audit_log (at, id, request_id, caller_kind, caller, tenant, tenant_uid, action)
             SELECT '2026-01-01'::timestamptz + n * interval '1 s', gen_random_uuid(), 'r', 'key', 'k' || n % 1000,
                    't' || n % 1000, lpad((n % 1000)::text, 32, '0')::uuid, 'POST /jobs'
             FROM generate_series(1, 50000) n;
             ANALYZE audit_log;",
        )
        .await;
    // When: each list is read often enough that the server may keep a plan for all values.
    let readers = world.readers(1);
    let (name, uid) = (AuditedTenant::Name("t7"), AuditedTenant::Uid(Uuid::from_u128(7)));
    for _ in 0..10 {
        for (tenant, caller) in [(None, None), (Some(name), None), (Some(uid), None), (None, Some("k7"))] {
            let found = page(&readers, AuditWanted { tenant, caller, ..everything() }).await;
            assert_eq!(found.len(), if tenant.is_some() || caller.is_some() { 50 } else { 100 });
        }
    }
    // Then: each index has served the lists of its filter.
    world
        .sees(
            "SELECT string_agg(indexrelname, ' ' ORDER BY indexrelname) FROM pg_stat_user_indexes
             WHERE relname = 'audit_log' AND idx_scan >= 10",
            "audit_log_caller audit_log_pkey audit_log_tenant audit_log_tenant_uid",
        )
        .await;
}
