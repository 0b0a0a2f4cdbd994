//! Whatever a key holds, a reconcile ends, and writes no Secret but one that is for keys.

use proptest::prelude::*;

use super::*;
use crate::{fuzz, names};

proptest! {
    #[test]
    fn fuzz_a_key_of_any_spec_writes_no_secret_but_its_own(
        spec in fuzz::like(json!({
            "displayName": "CI", "scopes": ["jobs:read", "keys:write"], "expiresAt": "2030-06-01T00:00:00Z",
            "rotateEvery": "720h", "overlapSeconds": 60, "revoked": false, "secretName": "crofter-key-other",
        })),
        metadata in fuzz::like(json!({
            "annotations": {"crofter.io/rotate-requested-at": "now", "crofter.io/paused": "true"},
            "deletionTimestamp": START, "generation": 9,
        })),
    ) {
        fuzz::run(async {
            let bench = bench();
            bench.key(metadata, spec);
            if serde_json::from_value::<TenantApiKey>(bench.fake.get(KEY)).is_err() {
                return;
            }
            for _ in 0..3 {
                let (_, calls) = bench.try_reconcile().await;
                for call in calls.iter().filter(|call| call.method != http::Method::GET) {
                    let secret = call.path.strip_prefix(SECRETS);
                    // A create has the name in its body.
                    let name = secret.map(|rest| {
                        let named = call.body["metadata"]["name"].as_str();
                        rest.strip_prefix('/').or(named).unwrap_or_default().to_owned()
                    });
                    assert!(name.is_none_or(|name| names::is_key_secret(&name)), "{call:?}");
                }
            }
        });
    }
}
