//! Crofter: a Kubernetes operator for multi-tenant job processing.

fn main() {}
