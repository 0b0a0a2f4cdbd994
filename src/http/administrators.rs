//! Administrators: callers with a Kubernetes token, which the cluster itself checks.
//!
//! A TokenReview says which user a token authenticates, and a SubjectAccessReview whether that user may do to the Crofter
//! resource what the route does. The server caches the results for [`REVIEW_TTL`], tokens by their hash, at most
//! [`MAX_REVIEWS`] of each kind: a right that is revoked stays valid for at most that long, and a token that says when it
//! expires (a JSON Web Token does) no longer than it lives. Concurrent requests with one
//! token share one review.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::{TokenReview, TokenReviewSpec},
        authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
    },
};
use kube::{Api, Client, api::PostParams};
use moka::{Expiry, future::Cache};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::problem::{Code, Problem};
use crate::{
    clock::Clock,
    kube_ext::{CallError, within},
    names,
};

/// How long the result of a review is valid.
pub const REVIEW_TTL: Duration = Duration::from_secs(10);
/// How long the server knows that it has accepted a token. It is reviewed again after [`REVIEW_TTL`], but never waits.
pub const ACCEPTED_FOR: Duration = Duration::from_hours(1);
/// Most cached results of each kind.
pub const MAX_REVIEWS: u64 = 1024;
/// Longest token that the server sends to the API server, in bytes.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// A user of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct User {
    /// The name of the user.
    pub name: String,
    uid: Option<String>,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// What a route does to a resource, for a SubjectAccessReview.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AccessReview {
    /// Kubernetes verb.
    pub verb: &'static str,
    /// API group of the resource.
    pub group: &'static str,
    /// Version of the API group.
    pub version: &'static str,
    /// Plural of the resource.
    pub resource: &'static str,
    /// Subresource, such as `log`.
    pub subresource: Option<&'static str>,
    /// Namespace, for namespaced resources.
    pub namespace: Option<String>,
    /// Name, where the route acts on one object.
    pub name: Option<String>,
}

/// As in the messages of the API server: `get jobs.crofter.io`, `get pods/log`.
impl fmt::Display for AccessReview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)?;
        if let Some(subresource) = self.subresource {
            write!(f, "/{subresource}")?;
        }
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

impl AccessReview {
    /// The review of a verb on a resource in Crofter's group.
    #[must_use]
    pub fn ours(
        verb: &'static str,
        resource: &'static str,
        namespace: Option<String>,
        name: Option<String>,
    ) -> Self {
        Self {
            verb,
            group: names::GROUP,
            version: names::VERSION,
            resource,
            subresource: None,
            namespace,
            name,
        }
    }

    /// The review of a verb on a node.
    #[must_use]
    pub fn of_node(verb: &'static str, name: &str) -> Self {
        let name = Some(name.to_owned());
        Self { verb, group: "", version: "v1", resource: "nodes", subresource: None, namespace: None, name }
    }
}

/// The result of the review of a token.
#[derive(Clone)]
struct ReviewedToken {
    /// The user; `None` where the cluster does not accept the token.
    user: Option<User>,
    /// How long the token is valid after its review, where it says so.
    lifetime: Option<Duration>,
}

/// Removes the review of a token when the token expires.
struct WhileValid;

impl Expiry<[u8; 32], ReviewedToken> for WhileValid {
    fn expire_after_create(&self, _: &[u8; 32], token: &ReviewedToken, _: Instant) -> Option<Duration> {
        token.lifetime
    }
}

/// When a JSON Web Token says that it expires (RFC 7519, 4.1.4). No signature is checked: the cluster does that, and an early
/// end only makes it review the token again.
fn expiry(token: &str) -> Option<Timestamp> {
    let claims = token.split('.').nth(1)?;
    // The alphabet of base64url, without padding, in that of base64.
    let mut text = claims.replace('-', "+").replace('_', "/");
    text.extend(std::iter::repeat_n('=', text.len().wrapping_neg() % 4));
    let ByteString(bytes) = serde_json::from_value(text.into()).ok()?;
    let claims: Value = serde_json::from_slice(&bytes).ok()?;
    Timestamp::from_second(claims["exp"].as_i64()?).ok()
}

fn left(now: Timestamp, end: Timestamp) -> Duration {
    Duration::try_from(end.duration_since(now)).unwrap_or_default()
}

/// Authenticates and authorises administrators.
pub struct Administrators {
    client: Client,
    clock: Clock,
    /// By a token's hash.
    users: Cache<[u8; 32], ReviewedToken>,
    /// The hashes of tokens that the cluster accepted at their last review.
    accepted: Cache<[u8; 32], ()>,
    allowed: Cache<(User, AccessReview), bool>,
    /// The names of users who had a right in the whole cluster at their last review.
    administrators: Cache<String, ()>,
}

impl Administrators {
    /// Administrators of this cluster, with empty caches.
    #[must_use]
    pub fn new(client: Client, clock: Clock) -> Self {
        Self::with_ttl(client, clock, REVIEW_TTL)
    }

    pub(super) fn with_ttl(client: Client, clock: Clock, ttl: Duration) -> Self {
        let users = Cache::builder().max_capacity(MAX_REVIEWS).time_to_live(ttl);
        let users = users.expire_after(WhileValid).build();
        let accepted = Cache::builder().max_capacity(MAX_REVIEWS).time_to_live(ACCEPTED_FOR).build();
        let allowed = Cache::builder().max_capacity(MAX_REVIEWS).time_to_live(ttl).build();
        let administrators = Cache::builder().max_capacity(MAX_REVIEWS).time_to_live(ACCEPTED_FOR).build();
        Self { client, clock, users, accepted, allowed, administrators }
    }

    /// Whether the review of a token is cached, or has accepted it within [`ACCEPTED_FOR`]: it costs no review, or is
    /// probably valid.
    pub async fn is_known(&self, token: &str) -> bool {
        let digest = digest(token);
        self.users.get(&digest).await.is_some() || self.accepted.get(&digest).await.is_some()
    }

    /// Whether a user had a right in the whole cluster within [`ACCEPTED_FOR`]. It authorises nothing: the user is probably an
    /// administrator.
    pub async fn is_administrator(&self, user: &User) -> bool {
        self.administrators.get(&user.name).await.is_some()
    }

    /// The user of a token; `None` where the cluster does not accept it.
    ///
    /// # Errors
    /// `cluster_unavailable`.
    pub async fn user(&self, token: &str) -> Result<Option<User>, Problem> {
        if token.len() > MAX_TOKEN_BYTES {
            return Ok(None);
        }
        let digest = digest(token);
        let review = async {
            let user = self.review_token(token).await?;
            match user {
                Some(_) => self.accepted.insert(digest, ()).await,
                None => self.accepted.invalidate(&digest).await,
            }
            let lifetime = expiry(token).map(|expiry| left(self.clock.now(), expiry));
            Ok(ReviewedToken { user, lifetime })
        };
        let reviewed = self.users.try_get_with(digest, review).await;
        let reviewed = reviewed.map_err(|problem: Arc<Problem>| Problem::clone(&problem))?;
        Ok(reviewed.user)
    }

    /// Authorises a user.
    ///
    /// # Errors
    /// `forbidden` with the right that is lacking; `cluster_unavailable`.
    pub async fn authorise(&self, user: &User, review: AccessReview) -> Result<(), Problem> {
        if self.allows(user, &review).await? {
            if review.namespace.is_none() {
                self.administrators.insert(user.name.clone(), ()).await;
            }
            return Ok(());
        }
        let place =
            if review.namespace.is_some() { "in the namespace of the tenant" } else { "in the cluster" };
        let detail = format!("your rights {place} do not allow to {review}");
        Err(Problem::new(Code::Forbidden, detail))
    }

    /// Whether a user has a right.
    ///
    /// # Errors
    /// `cluster_unavailable`.
    pub async fn allows(&self, user: &User, review: &AccessReview) -> Result<bool, Problem> {
        let key = (user.clone(), review.clone());
        let allowed = self.allowed.try_get_with(key, self.review_access(user, review)).await;
        allowed.map_err(|problem: Arc<Problem>| Problem::clone(&problem))
    }

    async fn review_token(&self, token: &str) -> Result<Option<User>, Problem> {
        let spec = TokenReviewSpec { token: Some(token.to_owned()), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let api: Api<TokenReview> = Api::all(self.client.clone());
        let reviewed =
            within("failed to create a TokenReview", api.create(&PostParams::default(), &review)).await;
        let status = reviewed.map_err(unavailable)?.status.unwrap_or_default();
        Ok(match (status.authenticated, status.user) {
            (Some(true), Some(user)) => user.username.filter(|name| !name.is_empty()).map(|name| User {
                name,
                uid: user.uid,
                groups: user.groups.unwrap_or_default(),
                extra: user.extra.unwrap_or_default(),
            }),
            _ => None,
        })
    }

    async fn review_access(&self, user: &User, review: &AccessReview) -> Result<bool, Problem> {
        let attributes = ResourceAttributes {
            group: Some(review.group.to_owned()),
            version: Some(review.version.to_owned()),
            resource: Some(review.resource.to_owned()),
            subresource: review.subresource.map(str::to_owned),
            verb: Some(review.verb.to_owned()),
            namespace: review.namespace.clone(),
            name: review.name.clone(),
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
        let reviewed =
            within("failed to create a SubjectAccessReview", api.create(&PostParams::default(), &review))
                .await;
        let status = reviewed.map_err(unavailable)?.status.unwrap_or_default();
        Ok(status.allowed && status.denied != Some(true))
    }
}

fn unavailable(error: CallError) -> Problem {
    let detail = "the Kubernetes API server does not answer at the moment";
    Problem::new(Code::ClusterUnavailable, detail).with_cause(error)
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use serde_json::json;

    use super::*;
    use crate::kube_ext::mock::{client, refusal};

    fn review(verb: &'static str) -> AccessReview {
        AccessReview::ours(verb, "tenants", None, None)
    }

    /// A cluster in which the token `good` is alice's, who may list tenants; and the number of its reviews.
    fn cluster() -> (Client, Arc<AtomicUsize>) {
        let reviews = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&reviews);
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
        (client, reviews)
    }

    #[tokio::test]
    async fn a_review_is_cached_for_ten_seconds_and_a_bounded_number_of_them() {
        let (client, reviews) = cluster();
        let admins = Administrators::new(client, Clock::system());
        for _ in 0..2 {
            let alice = admins.user("good").await.unwrap().unwrap();
            assert_eq!(admins.user("bad").await.unwrap(), None);
            admins.authorise(&alice, review("list")).await.unwrap();
            assert_eq!(admins.authorise(&alice, review("delete")).await.unwrap_err().code, Code::Forbidden);
        }
        assert_eq!(reviews.load(Ordering::SeqCst), 4);
        let policies = [admins.users.policy(), admins.allowed.policy()];
        for policy in policies {
            assert_eq!(
                (policy.time_to_live(), policy.max_capacity()),
                (Some(Duration::from_secs(10)), Some(1024))
            );
        }
        for n in 0..3 * MAX_REVIEWS {
            assert_eq!(admins.user(&format!("bad-{n}")).await.unwrap(), None);
        }
        admins.users.run_pending_tasks().await;
        assert!(admins.users.entry_count() <= MAX_REVIEWS, "{}", admins.users.entry_count());
    }

    #[tokio::test]
    async fn a_review_expires_although_it_is_used() {
        let (client, reviews) = cluster();
        let ttl = Duration::from_millis(50);
        let admins = Administrators::with_ttl(client, Clock::system(), ttl);
        let begun = Instant::now();
        while reviews.load(Ordering::SeqCst) < 4 {
            let alice = admins.user("good").await.unwrap().unwrap();
            admins.authorise(&alice, review("list")).await.unwrap();
            assert!(begun.elapsed() < Duration::from_secs(30), "nothing expires");
            tokio::task::yield_now().await;
        }
        assert!(begun.elapsed() >= ttl);
    }

    #[tokio::test]
    async fn concurrent_requests_with_one_token_share_a_review() {
        let (client, reviews) = cluster();
        let admins = Administrators::new(client, Clock::system());
        let users = futures::future::join_all((0..10).map(|_| admins.user("good"))).await;
        assert!(users.into_iter().all(|user| user.unwrap().is_some_and(|user| user.name == "alice")));
        assert_eq!(reviews.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_review_is_cached_no_longer_than_its_token_lives() {
        const NOW: i64 = 1_900_000_000;
        let token = |claims: &str| {
            let text = serde_json::to_string(&ByteString(claims.as_bytes().to_vec())).unwrap();
            format!("e30.{}.c2ln", text.trim_matches(['"', '=']).replace('+', "-").replace('/', "_"))
        };
        for (claims, is_cached) in [
            (format!("{{\"exp\": {}}}", NOW + 60), true),
            (format!("{{\"exp\": {NOW}}}"), false),
            (format!("{{\"exp\": {}, \"sub\": \"\u{ff}?~>\"}}", NOW - 60), false),
            ("{}".to_owned(), true),
            ("{\"exp\": \"soon\"}".to_owned(), true),
            (format!("{{\"exp\": {}}}", i64::MAX), true),
            ("no JSON".to_owned(), true),
        ] {
            let (client, reviews) = cluster();
            let admins = Administrators::new(client, Clock::of(|| Timestamp::from_second(NOW).unwrap()));
            for _ in 0..3 {
                admins.user(&token(&claims)).await.unwrap();
            }
            let expected = if is_cached { 1 } else { 3 };
            assert_eq!(reviews.load(Ordering::SeqCst), expected, "{claims}");
        }
        assert_eq!((expiry("a"), expiry("a.b.c"), expiry("a..c"), expiry("")), (None, None, None, None));
    }

    #[tokio::test]
    async fn each_resource_is_named_with_the_version_of_its_group() {
        let client = client(|call| {
            let of = &call.body["spec"]["resourceAttributes"];
            let right = match of["resource"].as_str() {
                Some("nodes") => json!(["", "v1", "n1"]),
                _ => json!(["crofter.io", "v1alpha1", "acme"]),
            };
            let allowed = json!([of["group"], of["version"], of["name"]]) == right;
            (201, json!({"metadata": {}, "spec": call.body["spec"], "status": {"allowed": allowed}}))
        });
        let admins = Administrators::new(client, Clock::system());
        let user = User { name: "u".into(), uid: None, groups: Vec::new(), extra: BTreeMap::new() };
        for review in [
            AccessReview::of_node("patch", "n1"),
            AccessReview::ours("patch", "tenants", None, Some("acme".into())),
        ] {
            admins.authorise(&user, review).await.unwrap();
        }
    }

    #[tokio::test]
    async fn no_token_is_accepted_while_the_cluster_is_unavailable() {
        let admins = Administrators::new(client(|_| refusal(500, "down")), Clock::system());
        for _ in 0..2 {
            assert_eq!(admins.user("good").await.unwrap_err().code, Code::ClusterUnavailable, "not cached");
        }
        assert_eq!(
            admins.user(&"x".repeat(20_000)).await.unwrap(),
            None,
            "no review of a token that is too long"
        );
    }
}
