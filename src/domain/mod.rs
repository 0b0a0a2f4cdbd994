//! The rules of Crofter: pure functions over plain data, without client, clock or pool.

/// Which nodes work for whom.
pub mod node_admission;
