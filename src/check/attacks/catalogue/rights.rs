//! What the chart's roles don't give. Each right is tried by everybody who must not have it; its twin is the same request by
//! one who has.

use serde_json::{Value, json};

use super::{
    super::site::{ELSEWHERE, NEIGHBOUR, NODE, TENANT},
    Attack, By, Site, Wall, Who,
    call::{
        self, ACCOUNTS, CLAIMS, CLUSTER_ROLES, CONFIG_MAPS, Call, JOBS, KEYS, LEASES, LIMITS, NAMESPACES,
        NETWORK_POLICIES, NODES, PODS, POLICIES, QUOTAS, ROLE_BINDINGS, Resource, SECRETS, SERVICES, TENANTS,
    },
    claim, harmless, job, pod,
};

/// Members of a tenant, the one with the fewest rights first.
const MEMBERS: [Who; 4] = [Who::Viewer, Who::Developer, Who::TenantOperator, Who::TenantAdmin];
/// Those who have no rights in the tenant's namespace.
const OTHERS: [Who; 5] = [Who::Neighbour, Who::Stranger, Who::JobAccount, Who::Kubelet, Who::Anonymous];

/// A request, and the member with the fewest rights who may make it.
struct Right {
    what: String,
    verb: &'static str,
    of: String,
    call: Call,
    least: Option<Who>,
}

fn right(verb: &'static str, of: Resource, sub: &str, call: Call, least: Option<Who>) -> Right {
    let slash = if sub.is_empty() { "" } else { "/" };
    let of = format!("{}{slash}{sub}", of.plural);
    Right { what: format!("{verb} {of}"), verb, of, call, least }
}

/// Rights in the namespace of the tenant.
fn in_the_tenant(site: &Site) -> Vec<Right> {
    let at = site.namespace();
    let at = at.as_str();
    let (viewer, developer, admin) = (Some(Who::Viewer), Some(Who::Developer), Some(Who::TenantAdmin));
    let operator = Some(Who::TenantOperator);
    let labels = || json!({"metadata": harmless()});
    let binding = |role: &str| {
        json!({
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory"}],
        })
    };
    vec![
        right("list", JOBS, "", call::list(JOBS, at), viewer),
        right("get", JOBS, "", call::get(JOBS, at, "waiting"), viewer),
        right("list", QUOTAS, "", call::list(QUOTAS, at), viewer),
        right("create", JOBS, "", call::create(JOBS, at, "new", job(json!({}))), developer),
        right("patch", JOBS, "", call::patch(JOBS, at, "waiting", labels()), developer),
        right("delete", JOBS, "", call::delete(JOBS, at, "waiting"), developer),
        right("list", PODS, "", call::list(PODS, at), developer),
        right("list", CLAIMS, "", call::list(CLAIMS, at), developer),
        right("list", CONFIG_MAPS, "", call::list(CONFIG_MAPS, at), operator),
        right("create", CONFIG_MAPS, "", call::create(CONFIG_MAPS, at, "new", json!({})), operator),
        right("create", SECRETS, "", call::create(SECRETS, at, "new", json!({})), operator),
        right("create", CLAIMS, "", call::create(CLAIMS, at, "new", claim(json!({}))), operator),
        right("list", SECRETS, "", call::list(SECRETS, at), admin),
        right("get", SECRETS, "", call::get(SECRETS, at, "own"), admin),
        right("get", SECRETS, "", call::get(SECRETS, at, "crofter-key-all"), admin),
        right("list", KEYS, "", call::list(KEYS, at), admin),
        right("create", KEYS, "", call::create(KEYS, at, "new", json!({"spec": {}})), admin),
        right("patch", KEYS, "", call::patch(KEYS, at, "all", json!({"spec": {"revoked": true}})), admin),
        right("delete", KEYS, "", call::delete(KEYS, at, "all"), admin),
        right(
            "patch",
            JOBS,
            "status",
            call::patch(JOBS, at, "waiting/status", json!({"status": {"phase": "Completed"}})),
            None,
        ),
        right("patch", KEYS, "status", call::patch(KEYS, at, "all/status", json!({"status": {}})), None),
        right("create", PODS, "", call::create(PODS, at, "new", pod(json!({}))), None),
        right("patch", PODS, "", call::patch(PODS, at, "plain", labels()), None),
        right("delete", PODS, "", call::delete(PODS, at, "plain"), None),
        right(
            "create",
            PODS,
            "eviction",
            call::create_at(
                PODS,
                at,
                "/plain/eviction",
                json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "plain", "namespace": at}}),
            ),
            None,
        ),
        right(
            "patch",
            PODS,
            "ephemeralcontainers",
            call::patch(PODS, at, "plain/ephemeralcontainers", labels()),
            None,
        ),
        right("patch", QUOTAS, "", call::patch(QUOTAS, at, "crofter", labels()), None),
        right("delete", QUOTAS, "", call::delete(QUOTAS, at, "crofter"), None),
        right("delete", LIMITS, "", call::delete(LIMITS, at, "crofter"), None),
        right(
            "create",
            NETWORK_POLICIES,
            "",
            call::create(NETWORK_POLICIES, at, "open", json!({"spec": {"podSelector": {}, "egress": [{}]}})),
            None,
        ),
        right("create", ROLE_BINDINGS, "", call::create(ROLE_BINDINGS, at, "mine", binding("edit")), None),
        right("create", ACCOUNTS, "", call::create(ACCOUNTS, at, "mine", json!({})), None),
        right(
            "create",
            ACCOUNTS,
            "token",
            call::create_at(
                ACCOUNTS,
                at,
                "/crofter-job/token",
                json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}),
            ),
            None,
        ),
        right(
            "create",
            SERVICES,
            "",
            call::create(SERVICES, at, "open", json!({"spec": {"ports": [{"port": 80}]}})),
            None,
        ),
    ]
}

/// Rights that no member of a tenant has, in the cluster and elsewhere.
fn in_the_cluster(site: &Site) -> Vec<Right> {
    let home = site.home.as_str();
    let next = site.next();
    let at = site.namespace();
    let labels = || json!({"metadata": harmless()});
    let rules = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    let spec = |spec: Value| json!({"spec": spec});
    let more = spec(json!({"quotas": {"maxJobs": -1}}));
    let none = None;
    vec![
        right("list", TENANTS, "", call::list(TENANTS, ""), none),
        right("create", TENANTS, "", call::create(TENANTS, "", "mine", spec(json!({"plan": "free"}))), none),
        right("patch", TENANTS, "", call::patch(TENANTS, "", TENANT, more.clone()), none),
        right("delete", TENANTS, "", call::delete(TENANTS, "", NEIGHBOUR), none),
        right(
            "patch",
            TENANTS,
            "status",
            call::patch(TENANTS, "", &format!("{}/status", TENANT), json!({"status": {"message": "x"}})),
            none,
        ),
        right("list", JOBS, "", call::list(JOBS, ""), none),
        right("list", SECRETS, "", call::list(SECRETS, ""), none),
        right("list", PODS, "", call::list(PODS, ""), none),
        right("list", JOBS, "", call::list(JOBS, &next), none),
        right("create", JOBS, "", call::create(JOBS, &next, "new", job(json!({}))), none),
        right("list", SECRETS, "", call::list(SECRETS, home), none),
        right("get", SECRETS, "", call::get(SECRETS, home, crate::names::PEPPER_SECRET), none),
        right("patch", LEASES, "", call::patch(LEASES, home, crate::names::LEASE, labels()), none),
        right("delete", LEASES, "", call::delete(LEASES, home, crate::names::LEASE), none),
        right("create", CONFIG_MAPS, "", call::create(CONFIG_MAPS, home, "mine", json!({})), none),
        right("patch", NAMESPACES, "", call::patch(NAMESPACES, "", &at, labels()), none),
        right("delete", NAMESPACES, "", call::delete(NAMESPACES, "", &next), none),
        right("create", CLUSTER_ROLES, "", call::create(CLUSTER_ROLES, "", "mine", rules), none),
        right("delete", POLICIES, "", call::delete(POLICIES, "", "ownership.crofter.io"), none),
    ]
}

/// Rights on nodes, which a kubelet has for its own.
fn on_nodes() -> Vec<Right> {
    let node = NODE;
    let label = json!({"metadata": {"labels": {crate::names::NODE_TENANT: TENANT}}});
    vec![
        right("list", NODES, "", call::list(NODES, ""), None),
        right("patch", NODES, "", call::patch(NODES, "", node, label), None),
        right("delete", NODES, "", call::delete(NODES, "", node), None),
    ]
}

/// What Crofter's own account may not do: it makes what tenants get, and has no way to more.
fn of_the_operator(site: &Site) -> Vec<Right> {
    let (home, at, node) = (site.home.as_str(), site.namespace(), NODE);
    let rules = json!({"rules": [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}]});
    let labels = || json!({"metadata": harmless()});
    let own = format!("/{}/token", site.account.name);
    let token = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    vec![
        right("create", CLUSTER_ROLES, "", call::create(CLUSTER_ROLES, "", "mine", rules), None),
        right("delete", CLUSTER_ROLES, "", call::delete(CLUSTER_ROLES, "", "crofter:operator"), None),
        right("delete", NODES, "", call::delete(NODES, "", node), None),
        right("create", NODES, "", call::create(NODES, "", "mine", json!({})), None),
        right("delete", SECRETS, "", call::delete(SECRETS, &at, "own"), None),
        right("list", SECRETS, "", call::list(SECRETS, &at), None),
        right("list", SECRETS, "", call::list(SECRETS, ""), None),
        right("list", SECRETS, "", call::list(SECRETS, home), None),
        right("get", SECRETS, "", call::get(SECRETS, ELSEWHERE, "own"), None),
        right("create", SECRETS, "", call::create(SECRETS, ELSEWHERE, "new", json!({})), None),
        right(
            "create",
            SERVICES,
            "",
            call::create(SERVICES, &at, "x", json!({"spec": {"ports": [{"port": 80}]}})),
            None,
        ),
        right("patch", CONFIG_MAPS, "", call::patch(CONFIG_MAPS, &at, "own", labels()), None),
        right("list", CONFIG_MAPS, "", call::list(CONFIG_MAPS, ""), None),
        right("delete", CLAIMS, "", call::delete(CLAIMS, &at, "own"), None),
        right("list", CLAIMS, "", call::list(CLAIMS, &at), None),
        right("create", ACCOUNTS, "token", call::create_at(ACCOUNTS, home, &own, token), None),
        right("delete", POLICIES, "", call::delete(POLICIES, "", "operator-reach.crofter.io"), None),
    ]
}

/// Each right, tried by those who must not have it.
pub(super) fn all(site: &Site) -> Vec<Attack> {
    let tried = |rights: Vec<Right>, by: &[Who]| -> Vec<Attack> {
        let lacks = |who: &Who, right: &Right| {
            let rank = |who: &Who| MEMBERS.iter().position(|member| member == who);
            match (rank(who), right.least.as_ref().and_then(rank)) {
                (Some(own), Some(least)) => own < least,
                _ => true,
            }
        };
        let each = rights.iter().flat_map(|right| by.iter().map(move |who| (who, right)));
        each.filter(|(who, right)| lacks(who, right))
            .map(|(who, right)| {
                let words = format!("cannot {} resource \"{}\"", right.verb, right.of);
                let twin = (right.least.unwrap_or(Who::Administrator), right.call.clone());
                let by = By { who: *who, wall: Wall::Rbac, code: 403 };
                by.attack(right.what.clone(), right.call.clone(), words, twin)
            })
            .collect()
    };
    let everybody: Vec<Who> = MEMBERS.into_iter().chain(OTHERS).collect();
    // A kubelet may read much of what concerns its node, by name, and evict its pods.
    let but_kubelets: Vec<Who> = everybody.iter().copied().filter(|who| *who != Who::Kubelet).collect();
    let members_and_strangers: Vec<Who> =
        MEMBERS.into_iter().chain([Who::Stranger, Who::JobAccount, Who::Anonymous]).collect();
    let is_a_kubelets = |right: &Right| {
        matches!(
            (right.verb, right.of.as_str()),
            ("list", "pods")
                | ("create" | "delete", "pods")
                | ("create", "pods/eviction" | "serviceaccounts/token")
        )
    };
    let (of_kubelets, others): (Vec<_>, Vec<_>) = in_the_tenant(site).into_iter().partition(is_a_kubelets);
    let (next, cluster): (Vec<_>, Vec<_>) =
        in_the_cluster(site).into_iter().partition(|right| right.call.path.contains(&site.next()));
    let (pods, cluster): (Vec<_>, Vec<_>) = cluster.into_iter().partition(is_a_kubelets);
    [
        tried(others, &everybody),
        tried(of_kubelets, &but_kubelets),
        tried(next, &members_and_strangers),
        tried(cluster, &everybody),
        tried(pods, &but_kubelets),
        tried(on_nodes(), &but_kubelets),
        tried(of_the_operator(site), &[Who::Operator]),
    ]
    .concat()
}
