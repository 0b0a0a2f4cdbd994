//! The rules, as plain functions over plain data: no client, no clock, no pool.

pub mod tenant_state;
