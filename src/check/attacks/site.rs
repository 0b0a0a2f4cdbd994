//! Who attacks what: the identities of the attacks, and the names of what is created for them.

use std::fmt;

use crate::{config::Account, names};

/// Tenant whose members attack, and which others attack.
pub const TENANT: &str = "crofter-attacks";
/// Another tenant.
pub const NEIGHBOUR: &str = "crofter-attacks-next";
/// A tenant that is suspended.
pub const SUSPENDED: &str = "crofter-attacks-off";
/// Namespace of a user who has nothing to do with Crofter.
pub const ELSEWHERE: &str = "crofter-attacks-elsewhere";
/// Node that no kubelet runs.
pub const NODE: &str = "crofter-attacks-node";

/// Where the attacks take place: the names that depend on the installation.
#[derive(Clone, Debug)]
pub struct Site {
    /// Namespace of the operator.
    pub home: String,
    /// Service account of the operator.
    pub account: Account,
    /// Prefix of tenant namespaces.
    pub prefix: String,
}

impl Site {
    /// Namespace of [`TENANT`].
    #[must_use]
    pub fn namespace(&self) -> String {
        names::namespace(&self.prefix, TENANT)
    }

    /// Namespace of the other tenant.
    #[must_use]
    pub fn next(&self) -> String {
        names::namespace(&self.prefix, NEIGHBOUR)
    }
}

/// Who makes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, strum::EnumIter)]
pub enum Who {
    /// A member of the tenant with the role viewer.
    Viewer,
    /// A member with the role developer.
    Developer,
    /// A member with the role operator.
    TenantOperator,
    /// A member with the role admin.
    TenantAdmin,
    /// An admin of another tenant.
    Neighbour,
    /// A user who may edit a namespace that is no tenant's.
    Stranger,
    /// The service account of job pods.
    JobAccount,
    /// The kubelet of a node.
    Kubelet,
    /// A client without credentials.
    Anonymous,
    /// A holder of the operator's own account.
    Operator,
    /// An administrator of the cluster.
    Administrator,
    /// A holder of a key with every scope.
    Key,
    /// A holder of a key without scopes.
    KeyWithoutScopes,
    /// A holder of a key that may read and write keys.
    KeyOfKeys,
    /// A holder of a key with every scope of another tenant.
    NeighbourKey,
    /// A holder of a key of a suspended tenant.
    SuspendedKey,
    /// A holder of a revoked key.
    RevokedKey,
    /// A holder of a Kubernetes token, who has the role admin.
    AdminToken,
    /// The same with the role viewer.
    ViewerToken,
    /// An admin of another tenant, with a Kubernetes token.
    NeighbourToken,
    /// A user without rights, with a Kubernetes token.
    StrangerToken,
    /// A client of the REST API that sends no key.
    NoKey,
    /// A client of the REST API that invents a key.
    ForgedKey,
    /// A client of the REST API that invents a token.
    ForgedToken,
}

impl Who {
    /// Whether this identity uses the REST API, the others the API server.
    #[must_use]
    pub fn is_of_rest(self) -> bool {
        use Who::{
            AdminToken, ForgedKey, ForgedToken, Key, KeyOfKeys, KeyWithoutScopes, NeighbourKey,
            NeighbourToken, NoKey, RevokedKey, StrangerToken, SuspendedKey, ViewerToken,
        };
        matches!(
            self,
            Key | KeyOfKeys
                | KeyWithoutScopes
                | NeighbourKey
                | SuspendedKey
                | RevokedKey
                | AdminToken
                | ViewerToken
                | NeighbourToken
                | StrangerToken
                | NoKey
                | ForgedKey
                | ForgedToken
        )
    }

    /// The service account of this identity in [`ELSEWHERE`], whose tokens it sends.
    #[must_use]
    pub fn account(self) -> Option<&'static str> {
        Some(match self {
            Self::AdminToken => "admin",
            Self::ViewerToken => "viewer",
            Self::NeighbourToken => "neighbour",
            Self::StrangerToken => "stranger",
            _ => return None,
        })
    }

    /// The role of a member of the tenant, by which the Tenant grants it access.
    #[must_use]
    pub fn role(self) -> Option<&'static str> {
        Some(match self {
            Self::Viewer => "viewer",
            Self::Developer => "developer",
            Self::TenantOperator => "operator",
            Self::TenantAdmin => "admin",
            _ => return None,
        })
    }

    /// The user name and the groups as which the request is made; `None` for an administrator, who makes it as himself, and for
    /// clients of the REST API.
    #[must_use]
    pub fn user(self, site: &Site) -> Option<(String, Vec<String>)> {
        let authenticated = || vec!["system:authenticated".to_owned()];
        let account = |namespace: &str, name: &str| {
            let groups = ["system:serviceaccounts".to_owned(), format!("system:serviceaccounts:{namespace}")];
            let groups = authenticated().into_iter().chain(groups).collect();
            (format!("system:serviceaccount:{namespace}:{name}"), groups)
        };
        Some(match self {
            Self::Viewer | Self::Developer | Self::TenantOperator | Self::TenantAdmin => {
                (format!("{TENANT}:{}", self.role()?), authenticated())
            }
            Self::Neighbour => (format!("{NEIGHBOUR}:admin"), authenticated()),
            Self::Stranger => (format!("{ELSEWHERE}:edit"), authenticated()),
            Self::JobAccount => account(&site.namespace(), names::JOB_SERVICE_ACCOUNT),
            Self::Operator => account(&site.account.namespace, &site.account.name),
            Self::Kubelet => {
                let groups = authenticated().into_iter().chain(["system:nodes".to_owned()]).collect();
                (format!("system:node:{NODE}"), groups)
            }
            Self::Anonymous => ("system:anonymous".to_owned(), vec!["system:unauthenticated".to_owned()]),
            _ => return None,
        })
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Viewer => "a viewer of the tenant",
            Self::Developer => "a developer of the tenant",
            Self::TenantOperator => "an operator of the tenant",
            Self::TenantAdmin => "an admin of the tenant",
            Self::Neighbour => "an admin of another tenant",
            Self::Stranger => "a user of another namespace",
            Self::JobAccount => "the account of job pods",
            Self::Kubelet => "a kubelet",
            Self::Anonymous => "a client without credentials",
            Self::Operator => "a holder of Crofter's own account",
            Self::Administrator => "an administrator of the cluster",
            Self::Key => "a key with all scopes",
            Self::KeyWithoutScopes => "a key without scopes",
            Self::KeyOfKeys => "a key with the scopes of keys",
            Self::NeighbourKey => "a key of another tenant",
            Self::SuspendedKey => "a key of a suspended tenant",
            Self::RevokedKey => "a revoked key",
            Self::AdminToken => "a token of an admin",
            Self::ViewerToken => "a token of a viewer",
            Self::NeighbourToken => "a token of an admin of another tenant",
            Self::StrangerToken => "a token of a user without rights",
            Self::NoKey => "a request without a key",
            Self::ForgedKey => "an invented key",
            Self::ForgedToken => "an invented token",
        })
    }
}
