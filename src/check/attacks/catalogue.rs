//! The attacks, each with its twin: the same verb on the same kind, which has to be admitted. Without it a refusal might have
//! any cause.

mod pods;
mod policies;
mod quotas;
mod rest;
mod rights;
mod schema;

use serde_json::{Value, json};

use super::{
    call::{self, Call},
    site::{Site, Who},
};
use crate::names;

/// What an attack is refused by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Wall {
    /// The rights that the chart's roles give.
    Rbac,
    /// The schema of the CRDs, and its rules.
    Schema,
    /// An admission policy of the chart.
    Policy(&'static str),
    /// The Pod Security Standard of the tenant's namespace.
    PodSecurity,
    /// The ResourceQuota of the tenant.
    Quota,
    /// NodeRestriction, an admission plugin of Kubernetes.
    NodeRestriction,
    /// The REST API knows no such key, or no more.
    Credential,
    /// The scopes of a key.
    Scope,
    /// The rights of a user of the cluster in the tenant's namespace.
    Rights,
    /// The REST API shows a tenant its own objects only.
    OwnObjects,
    /// The REST API checks what it is sent.
    Input,
}

impl std::fmt::Display for Wall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rbac => f.write_str("RBAC"),
            Self::Schema => f.write_str("CRD schema"),
            Self::Policy(name) => write!(f, "policy `{name}`"),
            Self::PodSecurity => f.write_str("Pod Security"),
            Self::Quota => f.write_str("ResourceQuota"),
            Self::NodeRestriction => f.write_str("NodeRestriction"),
            Self::Credential => f.write_str("REST: credentials"),
            Self::Scope => f.write_str("REST: scopes"),
            Self::Rights => f.write_str("REST: rights"),
            Self::OwnObjects => f.write_str("REST: own objects"),
            Self::Input => f.write_str("REST: input"),
        }
    }
}

/// An attack.
#[derive(Clone, Debug)]
pub struct Attack {
    /// Who makes it.
    pub who: Who,
    /// What is tried, for people.
    pub what: String,
    /// What refuses it.
    pub wall: Wall,
    /// The request.
    pub call: Call,
    /// The status of the refusal.
    pub code: u16,
    /// Words of the refusal.
    pub words: String,
    /// Who makes the twin, and its request.
    pub twin: (Who, Call),
}

/// All attacks.
#[must_use]
pub fn all(site: &Site) -> Vec<Attack> {
    [rights::all, schema::all, policies::all, pods::all, quotas::all, rest::all]
        .into_iter()
        .flat_map(|part| part(site))
        .collect()
}

/// Attacks on one wall by one identity, which the wall refuses with the same status.
struct By {
    who: Who,
    wall: Wall,
    code: u16,
}

impl By {
    fn attack(
        &self,
        what: impl Into<String>,
        call: Call,
        words: impl Into<String>,
        twin: (Who, Call),
    ) -> Attack {
        let (what, words) = (what.into(), words.into());
        Attack { who: self.who, what, wall: self.wall, call, code: self.code, words, twin }
    }
}

/// A Job with more fields in its spec.
fn job(more: Value) -> Value {
    let mut spec = json!({"image": "none"});
    merge(&mut spec, more);
    json!({"spec": spec})
}

/// A pod that Pod Security admits, which no scheduler places, with more fields in its spec.
pub(super) fn pod(more: Value) -> Value {
    let mut spec = json!({
        "schedulingGates": [{"name": "crofter.io/never"}],
        "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container(json!({}))],
    });
    merge(&mut spec, more);
    json!({"metadata": {}, "spec": spec})
}

/// Its container, with more fields.
fn container(more: Value) -> Value {
    let mut container = json!({
        "name": names::JOB_CONTAINER, "image": "none",
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}},
        "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
    });
    merge(&mut container, more);
    container
}

/// A claim, with more fields in its spec.
pub(super) fn claim(more: Value) -> Value {
    let mut spec = json!({
        "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}, "storageClassName": "none",
    });
    merge(&mut spec, more);
    json!({"spec": spec})
}

/// Puts the fields of an object into another one, in place of those that have the same name.
fn merge(into: &mut Value, fields: Value) {
    if let (Value::Object(into), Value::Object(fields)) = (into, fields) {
        into.extend(fields);
    }
}

/// A note that whoever may write an object may make on it.
fn harmless() -> Value {
    json!({"labels": {"example.com/note": "seen"}})
}
