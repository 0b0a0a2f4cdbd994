//! Administrators: who shows a Kubernetes token, checked by the cluster itself.
//!
//! A TokenReview says whose token it is, and a SubjectAccessReview whether that user may do to the Crofter resource what
//! the route does. Answers are kept for some seconds, by the token's hash, in maps of bounded size: a right that was
//! taken away counts for at most [`REMEMBERED`] more.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::{
    authentication::v1::{TokenReview, TokenReviewSpec},
    authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
};
use kube::{Api, Client, api::PostParams};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::problem::{Code, Problem};
use crate::{kube_ext::within, names};

/// How long an answer counts.
pub const REMEMBERED: Duration = Duration::from_secs(10);
/// Answers kept of each kind.
const MOST: usize = 1024;
/// Longest token that is shown to the API server.
const LONGEST_TOKEN: usize = 16 * 1024;

/// A user of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    /// Name.
    pub name: String,
    uid: Option<String>,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// What a route does to a resource.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Act {
    /// Kubernetes verb.
    pub verb: &'static str,
    /// Group of the resource.
    pub group: &'static str,
    /// Version of the group.
    pub version: &'static str,
    /// Plural of the resource.
    pub resource: &'static str,
    /// Namespace, for namespaced ones.
    pub namespace: Option<String>,
    /// Name, where it is about one.
    pub name: Option<String>,
}

impl Act {
    /// Of a resource in Crofter's group.
    #[must_use]
    pub fn ours(
        verb: &'static str,
        resource: &'static str,
        namespace: Option<String>,
        name: Option<String>,
    ) -> Self {
        Self { verb, group: names::GROUP, version: names::VERSION, resource, namespace, name }
    }

    /// Of a node, which is the cluster's.
    #[must_use]
    pub fn of_node(verb: &'static str, name: &str) -> Self {
        let name = Some(name.to_owned());
        Self { verb, group: "", version: "v1", resource: "nodes", namespace: None, name }
    }
}

/// Asks the cluster about administrators.
pub struct Administrators {
    client: Client,
    users: Remembered<[u8; 32], Option<User>>,
    rights: Remembered<(User, Act), bool>,
}

impl Administrators {
    /// Remembers nothing yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, users: Remembered::default(), rights: Remembered::default() }
    }

    /// What is remembered of a token: whose it is, or that it is nobody's.
    #[must_use]
    pub fn remembered(&self, token: &str) -> Option<Option<User>> {
        self.users.get(&digest(token))
    }

    /// Whose token this is; `None` where it is nobody's.
    ///
    /// # Errors
    /// `cluster_unavailable`.
    pub async fn user(&self, token: &str) -> Result<Option<User>, Problem> {
        if token.len() > LONGEST_TOKEN {
            return Ok(None);
        }
        let key = digest(token);
        if let Some(known) = self.users.get(&key) {
            return Ok(known);
        }
        let spec = TokenReviewSpec { token: Some(token.to_owned()), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let answer = within("failed to review a token", api.create(&PostParams::default(), &review)).await;
        let status = answer.map_err(unanswered)?.status.unwrap_or_default();
        let user = match (status.authenticated, status.user) {
            (Some(true), Some(user)) => user.username.filter(|name| !name.is_empty()).map(|name| User {
                name,
                uid: user.uid,
                groups: user.groups.unwrap_or_default(),
                extra: user.extra.unwrap_or_default(),
            }),
            _ => None,
        };
        self.users.put(key, user.clone());
        Ok(user)
    }

    /// Whether a user may do this.
    ///
    /// # Errors
    /// `forbidden` with the right that is lacking; `cluster_unavailable`.
    pub async fn may(&self, user: &User, act: Act) -> Result<(), Problem> {
        let key = (user.clone(), act.clone());
        let allowed = match self.rights.get(&key) {
            Some(allowed) => allowed,
            None => {
                let allowed = self.review(user, &act).await?;
                self.rights.put(key, allowed);
                allowed
            }
        };
        if allowed {
            return Ok(());
        }
        let Act { verb, group, resource, .. } = act;
        let dot = if group.is_empty() { "" } else { "." };
        let detail = format!("your rights in the cluster do not allow to {verb} {resource}{dot}{group}");
        Err(Problem::new(Code::Forbidden, detail))
    }

    async fn review(&self, user: &User, act: &Act) -> Result<bool, Problem> {
        let attributes = ResourceAttributes {
            group: Some(act.group.to_owned()),
            version: Some(act.version.to_owned()),
            resource: Some(act.resource.to_owned()),
            verb: Some(act.verb.to_owned()),
            namespace: act.namespace.clone(),
            name: act.name.clone(),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(user.name.clone()),
            uid: user.uid.clone(),
            groups: Some(user.groups.clone()),
            extra: Some(user.extra.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let api: Api<SubjectAccessReview> = Api::all(self.client.clone());
        let answer = within("failed to review a right", api.create(&PostParams::default(), &review)).await;
        let status = answer.map_err(unanswered)?.status.unwrap_or_default();
        Ok(status.allowed && status.denied != Some(true))
    }
}

fn unanswered(error: crate::kube_ext::CallError) -> Problem {
    let detail = "the Kubernetes API server does not answer at the moment";
    Problem::new(Code::ClusterUnavailable, detail).inside(error)
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Answers of the last seconds.
struct Remembered<K, V>(Mutex<HashMap<K, (Instant, V)>>);

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Hash + Eq, V: Clone> Remembered<K, V> {
    fn get(&self, key: &K) -> Option<V> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(key).filter(|(at, _)| at.elapsed() < REMEMBERED).map(|(_, value)| value.clone())
    }

    fn put(&self, key: K, value: V) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.retain(|_, (at, _)| at.elapsed() < REMEMBERED);
        }
        if all.len() >= MOST {
            all.clear();
        }
        all.insert(key, (Instant::now(), value));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use serde_json::json;

    use super::*;
    use crate::kube_ext::mock::{client, refusal};

    fn act(verb: &'static str) -> Act {
        Act::ours(verb, "tenants", None, None)
    }

    #[tokio::test(start_paused = true)]
    async fn the_cluster_is_asked_once_in_some_seconds() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let client = client(move |call| {
            count.fetch_add(1, Ordering::SeqCst);
            let spec = &call.body["spec"];
            match call.path.rsplit('/').next() {
                Some("tokenreviews") if spec["token"] == "good" => {
                    let user = json!({"username": "alice", "groups": ["admins"]});
                    (
                        201,
                        json!({"metadata": {}, "spec": spec, "status": {"authenticated": true, "user": user}}),
                    )
                }
                Some("tokenreviews") => {
                    (201, json!({"metadata": {}, "spec": spec, "status": {"error": "bad"}}))
                }
                _ => {
                    assert_eq!(spec["resourceAttributes"]["group"], "crofter.io");
                    assert_eq!(spec["groups"], json!(["admins"]));
                    let allowed = spec["resourceAttributes"]["verb"] == "list";
                    (201, json!({"metadata": {}, "spec": spec, "status": {"allowed": allowed}}))
                }
            }
        });
        let admins = Administrators::new(client);
        for _ in 0..2 {
            let alice = admins.user("good").await.unwrap().unwrap();
            assert_eq!(admins.user("bad").await.unwrap(), None);
            admins.may(&alice, act("list")).await.unwrap();
            assert_eq!(admins.may(&alice, act("delete")).await.unwrap_err().code, Code::Forbidden);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 4);
        tokio::time::advance(REMEMBERED).await;
        assert!(admins.remembered("good").is_none());
        admins.user("good").await.unwrap().unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 5);
    }

    #[tokio::test]
    async fn each_resource_is_named_with_the_version_of_its_group() {
        let admins = Administrators::new(client(|call| {
            let of = &call.body["spec"]["resourceAttributes"];
            let right = match of["resource"].as_str() {
                Some("nodes") => json!(["", "v1", "n1"]),
                _ => json!(["crofter.io", "v1alpha1", "acme"]),
            };
            let allowed = json!([of["group"], of["version"], of["name"]]) == right;
            (201, json!({"metadata": {}, "spec": call.body["spec"], "status": {"allowed": allowed}}))
        }));
        let user = User { name: "u".into(), uid: None, groups: Vec::new(), extra: BTreeMap::new() };
        for act in [Act::of_node("patch", "n1"), Act::ours("patch", "tenants", None, Some("acme".into()))] {
            admins.may(&user, act).await.unwrap();
        }
    }

    #[tokio::test]
    async fn nobody_is_let_in_while_the_cluster_is_away() {
        let admins = Administrators::new(client(|_| refusal(500, "down")));
        assert_eq!(admins.user("good").await.unwrap_err().code, Code::ClusterUnavailable);
        assert_eq!(admins.user(&"x".repeat(20_000)).await.unwrap(), None, "and is not asked about nonsense");
    }
}
