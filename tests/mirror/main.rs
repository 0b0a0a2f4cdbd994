//! The mirror against a real Postgres: what it promises in `src/mirror/mod.rs`, with the watches played by the test.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod audit;
mod charging;
mod deleted;
mod failover;
mod faults;
mod objects;
mod password;
mod payload;
mod proxy;
mod reading;
mod rows;
mod slow;
mod tls;
mod world;
