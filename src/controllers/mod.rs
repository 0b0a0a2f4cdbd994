//! The controllers: each brings the cluster in line with one kind of object, from whatever state it finds, and is the
//! one writer of what it writes. A reconcile is dereference, validate, build, apply, status.

pub mod api_key;
pub mod attempt;
pub mod job;
pub mod node;
pub mod tenant;
