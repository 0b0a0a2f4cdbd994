//! Crofter under faults, on a real control plane: killed and stopped at any moment, with an API server that dies or
//! hangs, with nodes that are lost, and with objects that can't be read.
//!
//! Tests that kill the operator or the API server lock their cluster and run one after the other; the others share one
//! without a database. Run with `--test-threads 8`: most of the time is waiting.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that can't go on fails")]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "other test binaries use the rest")]
mod common;

mod api_server;
mod audit;
mod estimates;
mod every_write;
mod fake_clock;
mod faults;
mod history;
mod idempotency;
mod invalid_objects;
mod keys;
mod kstatus;
mod kubelet;
mod large_lists;
mod leadership;
mod load;
mod no_database;
mod nodes;
mod operator_kill;
mod phase_transitions;
mod postgres;
mod rate_window;
mod rolling_update;
mod secret_encodings;
mod secret_leaks;
mod slow_clients;
mod tenant_writes;
mod upgrade;

use std::sync::LazyLock;

use common::World;
use crofter_test_cluster::Cluster;
use tokio::sync::{Mutex, MutexGuard};

/// A cluster for one test at a time.
struct ExclusiveCluster {
    world: World,
    taken: Mutex<()>,
}

impl ExclusiveCluster {
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

/// The cluster whose operator the tests kill.
static OPERATOR_FAULTS: LazyLock<ExclusiveCluster> = LazyLock::new(ExclusiveCluster::new);
/// The cluster whose API server the tests kill or freeze.
static API_FAULTS: LazyLock<ExclusiveCluster> = LazyLock::new(ExclusiveCluster::new);

/// The cluster without faults and without a database.
fn fault_free() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::start(Cluster::builder().postgres(false)));
    &WORLD
}
