//! Whatever a Tenant holds, a reconcile ends, and touches the tenant and its own namespace alone.

use proptest::prelude::*;

use super::*;
use crate::fuzz;

proptest! {
    #[test]
    fn fuzz_a_tenant_of_any_spec_touches_nothing_but_its_own(
        spec in fuzz::like(json!({
            "displayName": "Acme", "plan": "basic", "suspended": true, "suspendPolicy": "Drain",
            "expiresAt": "2030-01-01T00:00:00Z", "quotas": {"maxJobs": 3, "maxCpuCores": -1, "maxMemoryGb": 0},
            "sharedPools": ["p"], "access": [
                {"kind": "User", "name": "ann", "role": "admin"},
                {"kind": "ServiceAccount", "name": "ci", "namespace": "build", "role": "viewer"},
            ],
            "networkIsolation": "None", "podSecurity": "Baseline", "elastic": true, "deletionPolicy": "Retain",
            "preventDeletion": true, "metadata": {"a": "b"},
        })),
        metadata in fuzz::like(json!({
            "finalizers": ["crofter.io/tenant"], "annotations": {"crofter.io/paused": "true"},
            "deletionTimestamp": "2030-01-01T00:00:00Z", "labels": {"a": "b"},
        })),
    ) {
        fuzz::run(async {
            let bench = bench();
            bench.tenant_with(metadata, spec);
            if serde_json::from_value::<Tenant>(bench.fake.get(TENANT)).is_err() {
                return;
            }
            // It touches the tenant, its namespace and what is in that; and it publishes Events.
            let (_, calls) = bench.reconcile_once().await;
            for call in &calls {
                let is_own = |prefix: &str| {
                    call.path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                let in_namespace = call.path.contains("/namespaces/tenant-acme/");
                let makes_it = call.path == "/api/v1/namespaces" && call.body["metadata"]["name"] == "tenant-acme";
                let of_events = call.path.starts_with("/apis/events.k8s.io/");
                assert!(is_own(TENANT) || is_own(NAMESPACE) || in_namespace || makes_it || of_events, "{call:?}");
            }
        });
    }
}
