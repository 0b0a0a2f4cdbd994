//! The API server's own record of who asked for what, read as it grows.

use std::{
    collections::BTreeSet,
    io::{Read, Seek, SeekFrom},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crofter_test_cluster::{Cluster, wait};
use serde_json::Value;

/// A request as the audit log has it.
#[derive(Clone, Debug)]
pub struct Request {
    pub user: String,
    /// What its client calls itself.
    pub agent: String,
    pub verb: String,
    /// With its subresource, as RBAC names it: `jobs/status`.
    pub resource: String,
    pub namespace: String,
    /// Empty for collections.
    pub name: String,
    pub code: u64,
}

impl Request {
    /// Whether it is a write of the operator.
    pub fn is_write_of_operator(&self) -> bool {
        // A leader renews its Lease all the time.
        self.agent.starts_with("crofter/")
            && !matches!(self.verb.as_str(), "get" | "list" | "watch")
            && self.resource != "leases"
    }
}

/// A position in the audit log.
pub struct Audit {
    path: PathBuf,
    at: AtomicU64,
}

impl Audit {
    /// From the beginning.
    pub fn of(cluster: &Cluster) -> Self {
        Self {
            path: cluster.audit_log().expect("a cluster with an audit log").to_owned(),
            at: AtomicU64::new(0),
        }
    }

    /// Moves behind the next request that is `wanted`, and returns it; `None` while the log has none.
    pub fn find(&self, mut wanted: impl FnMut(&Request) -> bool) -> Option<Request> {
        let mut file = std::fs::File::open(&self.path).ok()?;
        file.seek(SeekFrom::Start(self.at.load(Ordering::Relaxed))).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
            self.at.fetch_add(line.len() as u64, Ordering::Relaxed);
            let request = parse(&serde_json::from_str(line).unwrap());
            if wanted(&request) {
                return Some(request);
            }
        }
        None
    }

    /// The requests since the last call of this or of [`Audit::find`].
    pub fn next(&self) -> Vec<Request> {
        let mut all = Vec::new();
        self.find(|request| {
            all.push(request.clone());
            false
        });
        all
    }

    /// What a user's requests since the beginning call their client.
    pub fn agents(&self, user: &str) -> BTreeSet<String> {
        let text = std::fs::read_to_string(&self.path).unwrap();
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let entries = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        let of_user = entries.filter(|entry| entry["user"]["username"] == user);
        of_user.map(|entry| entry["userAgent"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// Waits for the next request that is `wanted`.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Request) -> bool) -> Request {
        wait::until(Duration::from_secs(60), what, || async { self.find(&wanted).ok_or("no such request") })
            .await
            .unwrap()
    }
}

fn parse(entry: &Value) -> Request {
    let text = |pointer: &str| entry.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (resource, sub) = (text("/objectRef/resource"), text("/objectRef/subresource"));
    Request {
        user: text("/user/username"),
        agent: text("/userAgent"),
        verb: text("/verb"),
        resource: if sub.is_empty() { resource } else { format!("{resource}/{sub}") },
        namespace: text("/objectRef/namespace"),
        name: text("/objectRef/name"),
        code: entry.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default(),
    }
}
