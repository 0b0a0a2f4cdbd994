//! Typed handles into the slot maps that hold the state of admission.
//!
//! The handle of a removed item never becomes that of another one, so one that outlives its item finds nothing.

slotmap::new_key_type! {
    /// A namespace that is or may be a tenant's.
    pub struct TenantId;
    /// A class of jobs of one tenant.
    pub struct ClassId;
    /// A job.
    pub struct JobIdx;
    /// A worker group: a tenant's own nodes, or a shared pool.
    pub struct PoolId;
    /// A node.
    pub struct NodeId;
    /// A tenant among those that may use a pool.
    pub struct MemberId;
    /// A class among those that wait for room in a pool.
    pub struct BlockedId;
}
