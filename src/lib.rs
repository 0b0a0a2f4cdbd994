//! Crofter: a Kubernetes operator for multi-tenant job processing.
//!
//! The way through the modules is drawn in `docs/architecture.md`: `api_types` and `domain` are plain data and pure
//! functions; `kube_ext` is the thin edge to the API server; `controllers`, `scheduler` and `mirror` are the actors.

pub mod api_types;
pub mod audit;
pub mod check;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod controllers;
pub mod db;
#[cfg(test)]
mod docs_tests;
pub mod domain;
pub mod fair_semaphore;
#[cfg(test)]
mod fuzz;
pub mod hex;
pub mod http;
pub mod import;
pub mod keys;
pub mod kube_ext;
pub mod metrics;
pub mod mirror;
pub mod names;
pub mod operator;
pub mod pem;
pub mod plugin;
pub mod random;
#[cfg(test)]
mod reference_tests;
pub mod scheduler;
pub mod simulator;
pub mod telemetry;
#[cfg(test)]
mod version_tests;
pub mod yaml;
