//! The controllers: each turns what is asked for into what is, one kind of object at a time.

/// Admits nodes to tenants and shared pools, and takes them back.
pub mod node;
