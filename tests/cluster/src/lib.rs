//! A real Kubernetes control plane, kwok and real nodes and Postgres, in one call.

pub mod layout;
pub mod pki;
pub mod process;
pub mod tools;
