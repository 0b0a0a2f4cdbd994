//! `TenantApiKey`: a key with which programs use the REST API as a tenant.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::tenant::unobserved;

/// A key with which programs use the REST API as the tenant of this namespace.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
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
    doc = "A key with which programs use the REST API as the tenant of this namespace.",
    printcolumn(name = "Key ID", type_ = "string", json_path = ".status.keyId"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Expires", type_ = "string", json_path = ".spec.expiresAt"),
    printcolumn(name = "Revoked", type_ = "boolean", json_path = ".spec.revoked", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!oldSelf.revoked || self.revoked").message("a revoked key stays revoked: make a new one"))]
pub struct TenantApiKeySpec {
    /// Name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    pub display_name: Option<String>,
    /// What the key may do.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub scopes: Vec<Scope>,
    /// From this time on the key is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Time>,
    /// Make a new version after this time, such as `720h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(h|m|s))+$"))]
    pub rotate_every: Option<String>,
    /// How long the version before stays valid after a rotation, in seconds, at most 7 days.
    #[serde(default = "default_overlap")]
    #[schemars(range(min = 0, max = 604_800))]
    pub overlap_seconds: i64,
    /// Refuse the key from now on. Can't be taken back.
    #[serde(default)]
    pub revoked: bool,
    /// Name of the Secret that receives the key's text; by default the key's own name.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub secret_name: Option<String>,
}

fn default_overlap() -> i64 {
    86_400
}

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum Scope {
    /// Read jobs, their logs and events.
    #[serde(rename = "jobs:read")]
    JobsRead,
    /// Submit, cancel and retry jobs.
    #[serde(rename = "jobs:write")]
    JobsWrite,
    /// Read keys.
    #[serde(rename = "keys:read")]
    KeysRead,
    /// Make, rotate and revoke keys.
    #[serde(rename = "keys:write")]
    KeysWrite,
    /// Read the tenant itself, its nodes, quotas and usage.
    #[serde(rename = "tenant:read")]
    TenantRead,
}

/// What Crofter says of a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TenantApiKeyStatus {
    /// The generation of the spec that this status speaks of; -1 before the first look.
    #[serde(default = "unobserved")]
    pub observed_generation: i64,
    /// Public id of the newest version: the part of the text before the secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// Ready; Reconciling and Stalled only while True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
