//! What users write and read: the three custom resources, plans and scenarios, and the closed list of reasons.
//!
//! Plain data without IO. The CRDs in `crds/` are generated from these types, so a field's doc comment here is what
//! `kubectl explain` shows.

pub mod api_key;
pub mod conditions;
pub mod crd;
pub mod job;
pub mod plan;
pub mod quantity;
pub mod quota;
pub mod reason;
pub mod scenario;
pub mod tenant;
pub mod text;
pub mod time;

pub use api_key::TenantApiKey;
pub use job::{Job, JobPhase, JobSpec, JobStatus};
pub use plan::{Plan, Plans, Quotas};
pub use quantity::Quantity;
pub use reason::Reason;
pub use scenario::Scenarios;
pub use tenant::{Tenant, TenantSpec, TenantStatus};
