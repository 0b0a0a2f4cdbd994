//! The rules, as plain functions over plain data: no client, no clock, no pool.

pub mod admission;
pub mod api_key;
pub mod attempt;
pub mod environment;
pub mod estimate;
pub mod job_flow;
pub mod job_pod;
pub mod job_state;
pub mod leadership;
pub mod metering;
pub mod node_admission;
pub mod pod_create;
pub mod pod_requests;
pub mod rate_window;
pub mod resources;
pub mod retry;
pub mod start_error;
pub mod tenant_state;
pub mod waiting;
pub mod worker;
