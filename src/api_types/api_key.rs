//! `TenantApiKey`: a key with which programs use the REST API as a tenant.

use k8s_openapi::{
    ByteString,
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use kube::{CustomResource, KubeSchema, ResourceExt};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{tenant::unobserved, text};
use crate::names::{self, KEY_SECRET_PREFIX};

/// TenantApiKey is a key with which programs use the REST API as the tenant of this namespace.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "crofter.io",
    version = "v1alpha1",
    kind = "TenantApiKey",
    plural = "tenantapikeys",
    namespaced,
    status = "TenantApiKeyStatus",
    shortname = "tkey",
    category = "crofter",
    derive = "PartialEq",
    doc = "TenantApiKey is a key with which programs use the REST API as the tenant of this namespace.",
    printcolumn(name = "Key ID", type_ = "string", json_path = ".status.keyId"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Active",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Active")].status"#
    ),
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt"),
    printcolumn(name = "Issued", type_ = "date", json_path = ".status.versions[0].createdAt"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Active")].reason"#,
        priority = 1
    ),
    printcolumn(name = "Revoked", type_ = "boolean", json_path = ".spec.revoked", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("has(self.spec.secretName) || self.metadata.name.size() <= 240")
        .message("without spec.secretName a key's name is at most 240 characters: its Secret's is crofter-key- and that name")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!oldSelf.revoked || self.revoked").message("a revoked key stays revoked: make a new one"))]
#[x_kube(validation = Rule::new(
    "has(self.secretName) == has(oldSelf.secretName) && (!has(self.secretName) || self.secretName == oldSelf.secretName)"
).message("secretName can't change: make a new key"))]
pub struct TenantApiKeySpec {
    /// Name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub display_name: Option<String>,
    /// Scopes of the key, which say what it may do.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub scopes: Vec<Scope>,
    /// Time from which the server refuses the key.
    #[serde(default, deserialize_with = "super::time::time", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// Time after which the key gets a new version, such as `720h`; at least an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(h|m|s))+$"))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1h')").message("rotateEvery is at least 1h"))]
    pub rotate_every: Option<String>,
    /// How long the previous version stays valid once the Secret has the new one, in seconds, at most 7 days.
    #[serde(default = "default_overlap")]
    #[schemars(range(min = 0, max = 604_800))]
    pub overlap_seconds: i64,
    /// Whether the key is revoked. A revoked key can't be restored.
    #[serde(default)]
    pub revoked: bool,
    /// Name of the Secret that receives the key's text (`data.token`, `data.keyId`); by default `crofter-key-` and the
    /// key's own name. Begins with `crofter-key-`: no job can refer to such a Secret. Can't change.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = text::KEY_SECRET))]
    #[x_kube(validation = Rule::new(format!("self.startsWith('{KEY_SECRET_PREFIX}')"))
        .message("the name of a key's Secret begins with crofter-key-: no job can refer to such a Secret"))]
    pub secret_name: Option<String>,
}

impl TenantApiKey {
    /// Name of the Secret that holds the key's text.
    #[must_use]
    pub fn secret_name(&self) -> String {
        self.spec.secret_name.clone().unwrap_or_else(|| names::key_secret(&self.name_any()))
    }
}

fn default_overlap() -> i64 {
    86_400
}

/// A scope says what a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Scope {
    /// The key may read jobs, their logs and events.
    #[serde(rename = "jobs:read")]
    JobsRead,
    /// The key may submit, cancel and retry jobs.
    #[serde(rename = "jobs:write")]
    JobsWrite,
    /// The key may read keys.
    #[serde(rename = "keys:read")]
    KeysRead,
    /// The key may create, rotate and delete keys.
    #[serde(rename = "keys:write")]
    KeysWrite,
    /// The key may read the tenant itself, its nodes, quotas and usage.
    #[serde(rename = "tenant:read")]
    TenantRead,
}

/// TenantApiKeyStatus is the observed state of a TenantApiKey.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantApiKeyStatus {
    /// Generation of the spec that this status describes; -1 before the first reconcile.
    #[serde(default = "unobserved")]
    pub observed_generation: i64,
    /// Public id of the version whose token is in the Secret: the part before the last underscore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Versions that the server accepts, the newest first: the one of the Secret, and the previous one during the
    /// overlap.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["keyId"]))]
    pub versions: Vec<KeyVersion>,
    /// Value of the annotation `crofter.io/rotate-requested-at` for which the newest version was made (a long value
    /// as its hash); any other value requests a rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub last_rotate_request: Option<String>,
    /// Conditions: Ready; Reconciling and Stalled only while they are True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// A version of a key: what the server needs to verify its token, and nothing from which the token can be derived.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyVersion {
    /// Public id of the version.
    #[schemars(regex(pattern = r"^[0-9A-Za-z]{12}$"))]
    pub key_id: String,
    /// Keyed hashes of the token: one under the pepper in force, and one under the previous pepper while that is
    /// being replaced.
    #[schemars(length(max = 2), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pepper"]))]
    pub macs: Vec<KeyMac>,
    /// When the version was made.
    pub created_at: Time,
    /// Time from which the server refuses the version; absent for a version that was not replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_until: Option<Time>,
}

/// HMAC-SHA256 of key id and secret under a pepper.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyMac {
    /// The number of the pepper, from 1.
    #[schemars(range(min = 1, max = 4_294_967_295_i64))]
    pub pepper: i64,
    /// The hash, in base64.
    #[schemars(with = "String", length(max = 44), extend("format" = "byte"), regex(pattern = "^[A-Za-z0-9+/]*=?=?$"))]
    pub mac: ByteString,
}
