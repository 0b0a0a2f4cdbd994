//! Keys as the API takes and shows them.

use jiff::Timestamp;
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api_types::{TenantApiKey, api_key::Scope, conditions, time::timestamp};

/// A key.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Key")]
pub struct KeyView {
    /// UID.
    pub id: String,
    /// Name of the TenantApiKey.
    pub name: String,
    /// UID of the tenant.
    pub tenant_id: String,
    /// Name for people.
    pub display_name: Option<String>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Public part of the newest version's text.
    pub key_id: Option<String>,
    /// Whether it is accepted.
    pub active: bool,
    /// Why, or why not.
    pub reason: Option<String>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// From this time on it is refused.
    pub expires_at: Option<Timestamp>,
    /// How often there is a new version by itself.
    pub rotate_every: Option<String>,
    /// How long the version before stays valid.
    pub overlap_seconds: i64,
    /// Whether it was revoked.
    pub revoked: bool,
}

/// A key with its text.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "IssuedKey")]
pub struct Issued {
    /// The key.
    #[serde(flatten)]
    pub key: KeyView,
    /// The text.
    pub token: String,
}

/// All keys of a tenant.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Keys")]
pub struct KeysView {
    /// The newest first.
    pub keys: Vec<KeyView>,
    /// Always null: there are few, so there is one page.
    pub next_cursor: (),
}

/// A key as it is shown.
#[must_use]
pub fn view(key: &TenantApiKey, tenant_uid: &str) -> KeyView {
    let status = key.status.clone().unwrap_or_default();
    let active = status.conditions.iter().find(|condition| condition.type_ == conditions::ACTIVE);
    KeyView {
        id: key.uid().unwrap_or_default(),
        name: key.name_any(),
        tenant_id: tenant_uid.to_owned(),
        display_name: key.spec.display_name.clone(),
        scopes: key.spec.scopes.clone(),
        key_id: status.key_id.clone(),
        active: active.is_some_and(|condition| condition.status == "True"),
        reason: active.map(|condition| condition.reason.clone()),
        created_at: key.metadata.creation_timestamp.as_ref().map(|time| time.0),
        expires_at: key.spec.expires_at.as_ref().map(|time| time.0),
        rotate_every: key.spec.rotate_every.clone(),
        overlap_seconds: key.spec.overlap_seconds,
        revoked: key.spec.revoked,
    }
}

/// A key to make.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewKey")]
pub struct New {
    /// Name for people.
    pub display_name: Option<String>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// From this time on it is refused.
    #[serde(default, deserialize_with = "timestamp")]
    pub expires_at: Option<Timestamp>,
    /// How often there is a new version by itself, such as `720h`; at least `1m`.
    pub rotate_every: Option<String>,
    /// How long the version before stays valid, by default a day.
    pub overlap_seconds: Option<i64>,
}

/// Who asks.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Who {
    /// A tenant, by a key.
    Key {
        /// UID of the tenant.
        tenant_id: String,
        /// Name of the tenant.
        tenant: String,
        /// UID of the key.
        id: Option<String>,
        /// Name of the TenantApiKey.
        name: String,
        /// Public part of the text that was shown.
        key_id: String,
        /// What it may do.
        scopes: Vec<Scope>,
    },
    /// A user of the cluster.
    Administrator {
        /// His name.
        name: String,
    },
}
