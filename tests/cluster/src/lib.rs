//! A real Kubernetes control plane, kwok and real nodes and Postgres, in one call.

mod access;
mod cluster;
mod control_plane;
mod faults;
mod kwok;
pub mod layout;
pub mod pki;
mod ports;
mod postgres;
pub mod process;
pub mod real;
mod reaper;
pub mod requirements;
pub mod tools;
pub mod wait;

pub use access::Error as AccessError;
pub use cluster::{Builder, Cluster, Error};
pub use control_plane::Error as ControlPlaneError;
pub use faults::FrozenApi;
pub use kwok::{Error as KwokError, NodeSpec};
pub use postgres::Error as PostgresError;
pub use reaper::kept_logs;
