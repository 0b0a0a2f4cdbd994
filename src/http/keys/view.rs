//! Keys in requests and responses.

use jiff::Timestamp;
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api_types::{TenantApiKey, api_key::Scope, conditions, time::timestamp};

/// A key is an API key of a tenant, without its token.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Key")]
pub struct KeyView {
    /// This is the UID of the key.
    pub id: String,
    /// This is the name of the TenantApiKey.
    pub name: String,
    /// This is the UID of the tenant.
    pub tenant_id: String,
    /// This is the name that is shown to people.
    pub display_name: Option<String>,
    /// These scopes say what the key may do.
    pub scopes: Vec<Scope>,
    /// This is the public part of the newest token.
    pub key_id: Option<String>,
    /// Whether the server accepts the key.
    pub active: bool,
    /// This says in one word why the server accepts or refuses the key.
    pub reason: Option<String>,
    /// This is when the key was created.
    pub created_at: Option<Timestamp>,
    /// This is when the key expires.
    pub expires_at: Option<Timestamp>,
    /// This is how often the key is rotated automatically.
    pub rotate_every: Option<String>,
    /// This is how many seconds the previous token stays valid after a rotation.
    pub overlap_seconds: i64,
    /// Whether the key is revoked.
    pub revoked: bool,
}

/// An issued key has its token, which no other response shows.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "IssuedKey")]
pub struct Issued {
    /// This is the key.
    #[serde(flatten)]
    pub key: KeyView,
    /// This is the token, which authenticates the tenant.
    pub token: String,
}

/// These are all keys of a tenant.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Keys")]
pub struct KeysView {
    /// These are the keys, the newest first.
    pub keys: Vec<KeyView>,
    /// This is always null, because there is one page.
    pub next_cursor: Option<String>,
}

/// The view of a key.
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

/// This describes the key that is to be created.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KeyCreate")]
pub struct NewKey {
    /// This is the name that is shown to people.
    pub display_name: Option<String>,
    /// These scopes say what the key may do.
    pub scopes: Vec<Scope>,
    /// This is when the key expires.
    #[serde(default, deserialize_with = "timestamp")]
    pub expires_at: Option<Timestamp>,
    /// This is how often the key is rotated automatically, such as `720h`. It is at least `1h`.
    pub rotate_every: Option<String>,
    /// This is how many seconds the previous token stays valid after a rotation. By default it is a day.
    pub overlap_seconds: Option<i64>,
}

/// A caller is whom the credentials of a request authenticate.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Caller", extend("discriminator" = {
    "propertyName": "kind",
    "mapping": {
        "key": "#/components/schemas/KeyCaller",
        "administrator": "#/components/schemas/AdministratorCaller",
        "user": "#/components/schemas/UserCaller",
    },
}))]
pub enum CallerView {
    /// A tenant, by a key.
    Key(KeyCaller),
    /// A user of the cluster, who may list the tenants.
    Administrator(AdministratorCaller),
    /// Any other user of the cluster, and each in a tenant.
    User(UserCaller),
}

/// A key caller is a tenant, which an API key authenticates.
#[derive(Debug, Serialize, JsonSchema)]
pub struct KeyCaller {
    /// This is always `key`.
    #[schemars(extend("enum" = ["key"]))]
    pub kind: &'static str,
    /// This is the UID of the tenant.
    pub tenant_id: String,
    /// This is the name of the tenant.
    pub tenant: String,
    /// This is the UID of the key.
    pub id: Option<String>,
    /// This is the name of the TenantApiKey.
    pub name: String,
    /// This is the public part of the token that was sent.
    pub key_id: String,
    /// These scopes say what the key may do.
    pub scopes: Vec<Scope>,
}

/// A user caller is a user of the cluster, whom a Kubernetes token authenticates, with rights in the tenant that the request
/// names.
#[derive(Debug, Serialize, JsonSchema)]
pub struct UserCaller {
    /// This is always `user`.
    #[schemars(extend("enum" = ["user"]))]
    pub kind: &'static str,
    /// This is the name of the user in the cluster.
    pub name: String,
    /// This is the UID of the tenant, where the request names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// This is the name of the tenant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// These are the user's rights in the namespace of the tenant, such as `get jobs.crofter.io`, of those that routes
    /// need; none without a tenant.
    pub rights: Vec<String>,
}

/// An administrator caller is a user of the cluster, whom a Kubernetes token authenticates, and who may list the tenants. The
/// request names none.
#[derive(Debug, Serialize, JsonSchema)]
pub struct AdministratorCaller {
    /// This is always `administrator`.
    #[schemars(extend("enum" = ["administrator"]))]
    pub kind: &'static str,
    /// This is the name of the user in the cluster.
    pub name: String,
}
