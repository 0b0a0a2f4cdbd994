//! What a caller needs for a route of a tenant: an API key its scope, and a user of the cluster rights in the tenant's
//! namespace, which are those that kubectl would need for the same.

use std::fmt;

use super::administrators::AccessReview;
use crate::{api_types::api_key::Scope, names};

/// A right to objects of a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Right {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: Option<&'static str>,
}

const fn ours(verb: &'static str, resource: &'static str) -> Right {
    Right { verb, group: names::GROUP, version: names::VERSION, resource, subresource: None }
}

const fn core(verb: &'static str, resource: &'static str) -> Right {
    Right { verb, group: "", version: "v1", resource, subresource: None }
}

const GET_JOBS: Right = ours("get", "jobs");
const LIST_JOBS: Right = ours("list", "jobs");
const WATCH_JOBS: Right = ours("watch", "jobs");
const CREATE_JOBS: Right = ours("create", "jobs");
const PATCH_JOBS: Right = ours("patch", "jobs");
const DELETE_JOBS: Right = ours("delete", "jobs");
const READ_LOGS: Right = Right { subresource: Some("log"), ..core("get", "pods") };
const LIST_KEYS: Right = ours("list", "tenantapikeys");
const CREATE_KEYS: Right = ours("create", "tenantapikeys");
const PATCH_KEYS: Right = ours("patch", "tenantapikeys");
const DELETE_KEYS: Right = ours("delete", "tenantapikeys");
/// A token is in the Secret of its key.
const GET_SECRETS: Right = core("get", "secrets");
const GET_QUOTAS: Right = core("get", "resourcequotas");

/// As in the messages of the API server: `get jobs.crofter.io`, `get pods/log`.
impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.review("").fmt(f)
    }
}

/// All rights that routes of a tenant need.
pub const ALL: [Right; 13] = [
    GET_JOBS,
    LIST_JOBS,
    WATCH_JOBS,
    READ_LOGS,
    CREATE_JOBS,
    PATCH_JOBS,
    DELETE_JOBS,
    LIST_KEYS,
    CREATE_KEYS,
    PATCH_KEYS,
    DELETE_KEYS,
    GET_SECRETS,
    GET_QUOTAS,
];

impl Right {
    /// The review of this right in a namespace.
    #[must_use]
    pub fn review(self, namespace: &str) -> AccessReview {
        let Self { verb, group, version, resource, subresource } = self;
        AccessReview {
            verb,
            group,
            version,
            resource,
            subresource,
            namespace: Some(namespace.to_owned()),
            name: None,
        }
    }
}

/// The rights of a user that are worth a scope of a key: who lacks one of them creates no key with that scope, as the key
/// could do more than the user.
#[must_use]
pub fn of_scope(scope: Scope) -> &'static [Right] {
    match scope {
        Scope::JobsRead => &[GET_JOBS, LIST_JOBS, WATCH_JOBS, READ_LOGS],
        Scope::JobsWrite => &[GET_JOBS, CREATE_JOBS, PATCH_JOBS, DELETE_JOBS],
        Scope::KeysRead => &[LIST_KEYS],
        Scope::KeysWrite => &[CREATE_KEYS, PATCH_KEYS, DELETE_KEYS, GET_SECRETS],
        Scope::TenantRead => &[GET_QUOTAS],
    }
}

/// What a route of a tenant needs, as a type, for the signatures of handlers.
pub trait Needs: Send + Sync + 'static {
    /// The scope of a key.
    const SCOPE: Scope;
    /// The rights of a user in the tenant's namespace. Of a route without any, the handler checks them.
    const RIGHTS: &'static [Right];
    /// Whether the tenant must be active for a user too; for a key it must always be.
    const ACTIVE: bool;
}

macro_rules! needs {
    ($($(#[$doc:meta])* $name:ident: $scope:ident, $active:literal, [$($right:ident),*];)*) => { $(
        $(#[$doc])*
        pub struct $name;
        impl Needs for $name {
            const SCOPE: Scope = Scope::$scope;
            const RIGHTS: &'static [Right] = &[$($right),*];
            const ACTIVE: bool = $active;
        }
    )* };
}

needs! {
    /// Reads one job.
    GetJob: JobsRead, false, [GET_JOBS];
    /// Reads all jobs.
    ListJobs: JobsRead, false, [LIST_JOBS];
    /// Follows one job.
    WatchJob: JobsRead, false, [GET_JOBS, WATCH_JOBS];
    /// Follows all jobs.
    WatchJobs: JobsRead, false, [LIST_JOBS, WATCH_JOBS];
    /// Reads the log of a job.
    ReadLog: JobsRead, false, [GET_JOBS, READ_LOGS];
    /// Submits a job.
    CreateJob: JobsWrite, true, [CREATE_JOBS];
    /// Submits the spec of an earlier job.
    RetryJob: JobsWrite, true, [GET_JOBS, CREATE_JOBS];
    /// Cancels a job.
    CancelJob: JobsWrite, true, [PATCH_JOBS];
    /// Deletes a job.
    DeleteJob: JobsWrite, true, [DELETE_JOBS];
    /// Reads all keys.
    ListKeys: KeysRead, false, [LIST_KEYS];
    /// Creates a key and reads its token.
    CreateKey: KeysWrite, false, [CREATE_KEYS, GET_SECRETS];
    /// Rotates a key and reads its token.
    RotateKey: KeysWrite, false, [PATCH_KEYS, GET_SECRETS];
    /// Deletes a key.
    DeleteKey: KeysWrite, false, [DELETE_KEYS];
    /// Reads the quotas and the usage of the tenant.
    ReadTenant: TenantRead, false, [GET_QUOTAS];
}
