//! The controllers: dereference, validate, build, apply, status. Each is the one writer of what it writes.

pub mod attempt;
pub mod job;
