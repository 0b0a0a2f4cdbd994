//! A real Kubernetes control plane, kwok and real nodes and Postgres, in one call.
//!
//! ```no_run
//! use crofter_test_cluster::{Cluster, NodeSpec};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cluster = Cluster::builder().start()?;
//! cluster.add_node(&NodeSpec::new("worker-1").label("pool", "a").gpus(2)).await?;
//! let admin = cluster.client().await?;
//! let database = cluster.create_database("this_test").await?;
//! let limited = cluster.kubeconfig_for_service_account("default", "default").await?;
//! # Ok(())
//! # }
//! ```
//!
//! Any number of clusters can run side by side. Each is removed when its [`Cluster`] is dropped or its process ends,
//! however it ends; a cluster in a static is fine. The first start builds the programs from their Go modules, with
//! progress on the terminal; after that a start takes about four seconds. `cargo run -p crofter-test-cluster -- up` is
//! the same for people.

mod access;
mod cluster;
mod control_plane;
mod database;
mod faults;
pub mod image;
mod kwok;
pub mod layout;
mod object_report;
pub mod pki;
mod ports;
mod postgres;
pub mod process;
pub mod real;
mod reaper;
mod registry;
pub mod requirements;
pub mod tools;
pub mod wait;

pub use access::Error as AccessError;
pub use cluster::{Builder, Cluster, Error};
pub use control_plane::Error as ControlPlaneError;
pub use database::DatabaseServer;
pub use faults::FrozenApi;
pub use kwok::{Error as KwokError, NodeSpec};
pub use object_report::ObjectReport;
pub use postgres::Error as PostgresError;
pub use reaper::kept_logs;
pub use registry::Registry;
