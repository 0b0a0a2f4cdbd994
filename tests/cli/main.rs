//! `kubectl crofter` as people use it: with a kubeconfig, with a URL and a key, at a terminal and in a pipe, against an operator
//! on a real control plane.
//!
//! One cluster for all tests here; each test has tenants of its own.

#![expect(clippy::unwrap_used, clippy::panic, clippy::expect_used, reason = "a test that can't go on fails")]

#[path = "../common/mod.rs"]
#[expect(dead_code, unused_imports, reason = "other test binaries use the rest")]
mod common;

mod administration;
mod extensions;
mod jobs;
mod reading;
mod shell;
mod support;

use std::sync::LazyLock;

use common::World;
use crofter_test_cluster::Cluster;

/// The cluster of this test binary. It goes when the process does.
fn world() -> &'static World {
    static WORLD: LazyLock<World> = LazyLock::new(|| World::start(Cluster::builder()));
    &WORLD
}
