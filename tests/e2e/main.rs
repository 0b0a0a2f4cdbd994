//! Crofter on a real control plane: tenants, workers and jobs, from the outside.
//!
//! One cluster and one operator for all tests here; each test has tenants and nodes of its own.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that can't go on fails")]

#[path = "../common/mod.rs"]
#[expect(dead_code, reason = "other test binaries use the rest")]
mod common;

mod api;
mod bad_input;
mod docs;
mod import;
mod isolation;
mod jobs;
mod keys;
mod phase_transitions;
mod quotas;
mod scenarios;
mod schema;
mod tenants;
mod tls;

use std::sync::LazyLock;

use common::World;
use crofter_test_cluster::Cluster;

/// The cluster of this test binary. It goes when the process does.
fn world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::start(Cluster::builder().audit_log(true)));
    &WORLD
}
