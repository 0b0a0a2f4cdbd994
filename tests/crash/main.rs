//! Crofter under faults, on a real control plane: killed and stopped at any moment, with an API server that dies or hangs,
//! with nodes that are lost, and with objects that can't be read.
//!
//! Tests that hurt the operator or the API server take their cluster for themselves and come one after the other; the
//! others share one that has no database at all. Run with `--test-threads 8`: most of the time is waiting.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that can't go on fails")]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "other test binaries use the rest")]
mod common;

mod api_server;
mod audit;
mod canaries;
mod canary;
mod churn;
mod every_write;
mod faults;
mod history;
mod hostile;
mod hour;
mod idempotency;
mod keys;
mod kills;
mod kstatus;
mod kubelet;
mod moves;
mod no_database;
mod nodes;
mod postgres;
mod stored;
mod tenant_writes;

use std::sync::LazyLock;

use common::World;
use crofter_test_cluster::Cluster;
use tokio::sync::{Mutex, MutexGuard};

/// A cluster for one test at a time.
struct Alone {
    world: World,
    taken: Mutex<()>,
}

impl Alone {
    fn new() -> Self {
        Self { world: World::without_operator(Cluster::builder().audit_log(true)), taken: Mutex::new(()) }
    }

    /// Takes the cluster, with no operator running.
    async fn take(&self) -> (&World, MutexGuard<'_, ()>) {
        let guard = self.taken.lock().await;
        // An earlier test may have failed anywhere.
        self.world.kill_operator();
        self.world.operator_as(self.world.cluster.kubeconfig());
        self.world.operator_flags(&[]);
        self.world.operator_logs(None);
        self.world.cluster.start_postgres().await.expect("starting Postgres");
        (&self.world, guard)
    }
}

/// Where the operator is killed.
static KILLS: LazyLock<Alone> = LazyLock::new(Alone::new);
/// Where the API server is.
static API_FAULTS: LazyLock<Alone> = LazyLock::new(Alone::new);

/// Where nothing is, and where there is no database.
fn calm() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::start(Cluster::builder().postgres(false)));
    &WORLD
}
