//! Whatever a client sends, the REST API answers, and with a problem where it refuses.

use proptest::prelude::*;

use super::*;
use crate::fuzz;

/// A path of the API with texts for its ids and its query, as any text would be in a URL.
fn path() -> impl Strategy<Value = String> {
    let templates = [
        "/v1/jobs",
        "/v1/jobs/{}",
        "/v1/jobs/{}/why",
        "/v1/jobs/{}/logs",
        "/v1/jobs/{}/cancel",
        "/v1/jobs/{}/retry",
        "/v1/jobs/{}/events",
        "/v1/keys",
        "/v1/keys/{}",
        "/v1/keys/{}/rotate",
        "/v1/tenants",
        "/v1/tenants/{}",
        "/v1/tenants/{}/stats",
        "/v1/tenants/{}/jobs",
        "/v1/tenants/{}/nodes",
        "/v1/tenants/{}/usage",
        "/v1/tenants/{}/nodes/{}",
        "/v1/whoami",
        "/reasons/{}",
        "/problems/{}",
        "/{}",
    ];
    let names = [
        "limit",
        "cursor",
        "status",
        "queue",
        "follow",
        "tail_lines",
        "since_seconds",
        "tenant",
        "from",
        "to",
        "step",
        "x",
    ];
    let query = prop::collection::vec((prop::sample::select(names.to_vec()), fuzz::text()), 0..3);
    (prop::sample::select(templates.to_vec()), fuzz::text(), query).prop_map(|(template, id, query)| {
        // A proxy would refuse longer ones.
        let escaped =
            |text: &str| -> String {
                let bytes = text.bytes().take(300);
                bytes
                    .map(|b| {
                        if b.is_ascii_alphanumeric() {
                            char::from(b).to_string()
                        } else {
                            format!("%{b:02X}")
                        }
                    })
                    .collect()
            };
        let mut path = template.replace("{}", &escaped(&id));
        for (index, (name, value)) in query.iter().enumerate() {
            path += &format!("{}{name}={}", if index == 0 { '?' } else { '&' }, escaped(value));
        }
        path
    })
}

fn body() -> impl Strategy<Value = String> {
    let job = json!({
        "image": "busybox:1", "command": ["sh"], "args": ["a"], "working_dir": "/w", "env": [{"name": "A", "value": "1"}],
        "env_from": [{"secret": "s"}], "parameters": {"a": "b"}, "resources": {"cpu": "1", "memory": "64Mi", "gpus": 0},
        "run_as_user": 1000, "volumes": [{"name": "v", "mount_path": "/v", "claim": "c"}], "image_pull_secrets": ["p"],
        "queue": "live", "priority": "high", "timeout_seconds": 60, "max_retries": 1, "retry_policy": "always",
        "pool": "p", "on_quota": "queue", "ttl_seconds_after_finished": 1, "scenario": "s",
    });
    let tenant = json!({
        "name": "acme", "display_name": "Acme", "plan": "free", "quotas": {"max_jobs": 1}, "status": "suspended",
        "expires_at": "2030-01-01T00:00:00Z", "metadata": {"a": "b"}, "shared_pools": ["p"], "prevent_deletion": true,
        "node": "n1", "scopes": ["jobs:read"], "rotate_every": "720h", "overlap_seconds": 1, "reset_quotas": true,
    });
    prop_oneof![
        4 => fuzz::like(job).prop_map(|body| body.to_string()),
        2 => fuzz::like(tenant).prop_map(|body| body.to_string()),
        1 => fuzz::json().prop_map(|body| body.to_string()),
        1 => any::<Vec<u8>>().prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    ]
}

proptest! {
    #[test]
    fn fuzz_any_request_gets_an_answer(
        method in prop::sample::select(vec!["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        path in path(),
        body in body(),
        who in prop_oneof![
            4 => prop::sample::select(vec![KEY, ADMIN]).prop_map(str::to_owned),
            1 => "[!-~]{0,80}".prop_map(|text| format!("Bearer {text}")),
        ],
        header in prop::sample::select(vec!["if-match", "idempotency-key", "x-tenant-id", "last-event-id", "x-api-key", "origin", "accept"]),
        value in "[ -~]{0,300}",
    ) {
        fuzz::run(async {
            let lab = Lab::new();
            lab.job(1, json!({"phase": "Queued"}));
            let response = lab.open(method, &path, &[("authorization", &who), (header, &value)], &body).await;
            let status = response.status().as_u16();
            // 501 is what an API without a database says of history, 503 what one says that can't ask.
            assert!(status < 500 || [501, 503, 504].contains(&status), "{method} {path} {body}: {status}");
            let kind = response.headers().get("content-type").cloned();
            if (400..600).contains(&status) && method != "OPTIONS" {
                assert_eq!(kind.unwrap(), "application/problem+json", "{method} {path} {body}: {status}");
            }
        });
    }
}
