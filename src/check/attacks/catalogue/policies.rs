//! What only an admission policy sees: metadata, the options of a deletion, who asks, and where.

use serde_json::{Value, json};

use super::{
    super::site::{ELSEWHERE, NODE, TENANT},
    Attack, By, Site, Wall, Who,
    call::{
        self, ACCOUNTS, CLAIMS, CONFIG_MAPS, Call, JOBS, KEYS, LIMITS, NAMESPACES, NETWORK_POLICIES, NODES,
        PODS, QUOTAS, ROLE_BINDINGS, Resource, SECRETS, TENANTS,
    },
    claim, harmless, job, merge, pod,
};
use crate::names;

/// An object of a kind that members of a tenant write.
fn own(of: Resource) -> Value {
    match of.plural {
        "jobs" => job(json!({})),
        "tenantapikeys" => json!({"spec": {}}),
        "persistentvolumeclaims" => claim(json!({})),
        _ => json!({}),
    }
}

/// The kinds that members write, who writes them, and one that exists.
const WRITTEN: [(Resource, Who, &str); 5] = [
    (JOBS, Who::Developer, "waiting"),
    (CONFIG_MAPS, Who::TenantOperator, "own"),
    (SECRETS, Who::TenantOperator, "own"),
    (CLAIMS, Who::TenantOperator, "own"),
    (KEYS, Who::TenantAdmin, "all"),
];

fn policy(who: Who, name: &'static str) -> By {
    By { who, wall: Wall::Policy(name), code: 403 }
}

/// An object with more metadata.
fn with(mut object: Value, metadata: Value) -> Value {
    if object["metadata"].is_null() {
        object["metadata"] = json!({});
    }
    merge(&mut object["metadata"], metadata);
    object
}

/// A request that makes an object with this metadata, and one that gives it to an object that exists.
fn born_and_changed(
    by: &By,
    site: &Site,
    (of, name): (Resource, &str),
    what: &str,
    metadata: &Value,
    words: &str,
) -> [Attack; 2] {
    let at = site.namespace();
    let kind = of.plural;
    let twin = |call| (by.who, call);
    [
        by.attack(
            format!("create {kind} with {what}"),
            call::create(of, &at, "new", with(own(of), metadata.clone())),
            words,
            twin(call::create(of, &at, "new", with(own(of), harmless()))),
        ),
        by.attack(
            format!("give {kind} {what}"),
            call::note(of, &at, name, metadata),
            words,
            twin(call::note(of, &at, name, &harmless())),
        ),
    ]
}

fn objects(site: &Site) -> Vec<Attack> {
    let at = site.namespace();
    let owner = |kind: &str| {
        json!({"ownerReferences": [
            {"apiVersion": "crofter.io/v1alpha1", "kind": kind, "name": TENANT, "uid": "0b8e9a52"},
        ]})
    };
    let mut all = Vec::new();
    for (of, who, name) in WRITTEN {
        let by = policy(who, "tenant-objects.crofter.io");
        let mut tried = |what: &str, metadata: &Value, words: &str| {
            all.extend(born_and_changed(&by, site, (of, name), what, metadata, words));
        };
        for finalizer in ["example.com/hold", "orphan"] {
            let words = format!("in all namespaces adds one here: {finalizer}");
            tried(&format!("the finalizer {finalizer}"), &json!({"finalizers": [finalizer]}), &words);
        }
        for kind in ["Tenant", "TenantApiKey"] {
            let words = "only Crofter makes what a Tenant or a TenantApiKey owns";
            tried(&format!("a {kind} as owner"), &owner(kind), words);
        }
    }
    let by = policy(Who::Developer, "tenant-objects.crofter.io");
    let retry = json!({"annotations": {names::ANNOTATION_RETRY_OF: "0b8e9a52"}});
    let words = "only Crofter sets the annotation crofter.io/retry-of";
    all.extend(born_and_changed(&by, site, (JOBS, "waiting"), "the mark of a retry", &retry, words));
    // What Crofter is asked to leave alone.
    let pause = json!({"annotations": {names::ANNOTATION_PAUSED: "true"}});
    for (of, who, name) in [(JOBS, Who::Developer, "waiting"), (KEYS, Who::TenantAdmin, "all")] {
        let by = policy(who, "paused.crofter.io");
        let words = "crofter.io/paused is for who may update the Tenant";
        all.extend(born_and_changed(
            &by,
            site,
            (of, name),
            "the annotation crofter.io/paused",
            &pause,
            words,
        ));
        // The operator keeps all of it in memory.
        let by = By { who, wall: Wall::Policy("object-size.crofter.io"), code: 422 };
        let large = json!({"annotations": {"example.com/note": "x".repeat(140_000)}});
        let words = "labels and annotations have";
        all.extend(born_and_changed(&by, site, (of, name), "137 KiB of annotations", &large, words));
        for (what, metadata, words) in too_much() {
            all.extend(born_and_changed(&by, site, (of, name), what, &metadata, words));
        }
    }
    let by = policy(Who::Developer, "job-deletion.crofter.io");
    let words = "can't be deleted with propagationPolicy Orphan";
    let twin = || (Who::Developer, call::delete(JOBS, &at, "waiting"));
    all.push(by.attack("delete a Job and leave its pods", call::orphan(JOBS, &at, "waiting"), words, twin()));
    let admin = policy(Who::TenantAdmin, "job-deletion.crofter.io");
    let key = call::orphan(KEYS, &at, "all");
    let twin_of_key = (Who::TenantAdmin, call::delete(KEYS, &at, "all"));
    all.push(admin.attack("delete a key and leave those that it has made", key, words, twin_of_key));
    all.push(by.attack("delete all Jobs and leave their pods", call::orphan(JOBS, &at, ""), words, twin()));
    all
}

/// Metadata that Kubernetes does not bound. Field managers come of requests, not of objects: tests/chart has them.
fn too_much() -> [(&'static str, Value, &'static str); 2] {
    let owner = json!({"apiVersion": "none.example/v1", "kind": "None", "name": "x".repeat(9_000), "uid": "0b8e9a52"});
    let notes: serde_json::Map<String, Value> =
        (0..129).map(|n| (format!("example.com/{n}"), json!(""))).collect();
    [
        (
            "an ownerReference of 9 kB",
            json!({"ownerReferences": [owner]}),
            "finalizers and ownerReferences have",
        ),
        ("129 annotations", json!({"annotations": notes}), "labels and annotations: give at most 128"),
    ]
}

fn volumes_and_tokens(site: &Site) -> Vec<Attack> {
    let at = site.namespace();
    let at = at.as_str();
    let mut all = Vec::new();
    // Every write returns what is stored, which here is the key.
    let by = policy(Who::TenantOperator, "tenant-secrets.crofter.io");
    let (words, key) =
        ("is for an API key: only who may delete tenantapikeys here writes it", "crofter-key-all");
    let twin = |call| (Who::TenantOperator, call);
    let note = |name: &str| call::note(SECRETS, at, name, &harmless());
    let create = |name: &str| call::create(SECRETS, at, name, json!({}));
    all.push(by.attack("change the Secret of a key", note(key), words, twin(note("own"))));
    let delete = |name: &str| call::delete(SECRETS, at, name);
    all.push(by.attack("delete the Secret of a key", delete(key), words, twin(delete("own"))));
    all.push(by.attack(
        "take the Secret of a new key",
        create("crofter-key-new"),
        words,
        twin(create("new")),
    ));
    // All GPUs of a node, for a job that asks for one.
    let by = policy(Who::TenantOperator, "tenant-objects.crofter.io");
    for of in [CONFIG_MAPS, SECRETS] {
        let data = |name: &str| call::create(of, at, "new", json!({"data": {name: "YWxs"}}));
        for (name, _) in names::VISIBLE_GPUS {
            let words = format!("the entry {name} is the node's");
            let what = format!("create {} that make all GPUs visible by {name}", of.plural);
            all.push(by.attack(what, data(name), words, twin(data("OTHER"))));
        }
    }
    for who in [Who::TenantOperator, Who::TenantAdmin] {
        let by = policy(who, "tenant-secrets.crofter.io");
        let account = |name: &str, kind: &str| {
            let annotations = json!({"annotations": {"kubernetes.io/service-account.name": name}});
            call::create(SECRETS, at, "new", with(json!({"type": kind}), annotations))
        };
        for name in [names::JOB_SERVICE_ACCOUNT, "default"] {
            let token = account(name, "kubernetes.io/service-account-token");
            let words = "a Secret of the type kubernetes.io/service-account-token";
            let twin = (who, account(name, "Opaque"));
            all.push(by.attack(format!("make an everlasting token of account {name}"), token, words, twin));
        }
        let by = policy(who, "tenant-claims.crofter.io");
        let words = "only who may write persistentvolumes gives ";
        let selector = json!({"selector": {"matchLabels": {"tenant": "other"}}});
        for (what, more) in [("by name", json!({"volumeName": "theirs"})), ("by a selector", selector)] {
            let chosen = call::create(CLAIMS, at, "new", claim(more));
            let twin = (who, call::create(CLAIMS, at, "new", claim(json!({}))));
            all.push(by.attack(format!("claim a volume of another tenant {what}"), chosen, words, twin));
        }
        let named = call::patch(CLAIMS, at, "own", json!({"spec": {"volumeName": "theirs"}}));
        let twin = (who, call::note(CLAIMS, at, "own", &harmless()));
        all.push(by.attack("bind a claim to a volume of another tenant", named, words, twin));
    }
    all
}

/// Marks by which Crofter knows what is its own.
fn marks(site: &Site) -> Vec<Attack> {
    let at = site.namespace();
    let at = at.as_str();
    let labels = |label: &str, value: Value| json!({"labels": {label: value}});
    let (words, held) = (
        "only Crofter sets, changes or removes labels of crofter.io here",
        "only Crofter sets or removes the finalizer crofter.io/accounted",
    );
    let finalizer = json!({"finalizers": [names::FINALIZER_ACCOUNTED]});
    let mut all = Vec::new();
    let forged = [
        ("the label of a tenant", labels(names::LABEL_TENANT, json!(TENANT)), words),
        ("the UID of a tenant", labels(names::LABEL_TENANT_UID, json!("0b8e9a52")), words),
        ("the UID of a job", labels(names::LABEL_JOB_UID, json!("0b8e9a52")), words),
        ("the number of an attempt", labels(names::LABEL_ATTEMPT, json!("1")), words),
        ("the manager crofter", labels(names::LABEL_MANAGED_BY, json!(names::MANAGER)), words),
        ("the finalizer of what is counted", finalizer, held),
    ];
    for (who, namespace) in [(Who::Stranger, ELSEWHERE), (Who::Administrator, at)] {
        let by = policy(who, "ownership.crofter.io");
        for (what, metadata, words) in &forged {
            let create = call::create(PODS, namespace, "new", with(pod(json!({})), metadata.clone()));
            let twin = (who, call::create(PODS, namespace, "new", with(pod(json!({})), harmless())));
            all.push(by.attack(format!("create a pod with {what}"), create, *words, twin));
            let change = call::note(PODS, namespace, "plain", metadata);
            let twin = (who, call::note(PODS, namespace, "plain", &harmless()));
            all.push(by.attack(format!("give a pod {what}"), change, *words, twin));
        }
    }
    let administrator = policy(Who::Administrator, "ownership.crofter.io");
    for (what, metadata, words) in &forged {
        let change = call::note(PODS, at, "plain/status", metadata);
        let twin = (Who::Administrator, call::note(PODS, at, "plain/status", &harmless()));
        let what = format!("give a pod {what} through its status");
        all.push(administrator.attack(what, change, *words, twin));
    }
    let developer = policy(Who::Developer, "ownership.crofter.io");
    // The finalizer of what is counted is refused by tenant-objects already.
    let label = labels(names::LABEL_TENANT, json!("other"));
    all.extend(born_and_changed(&developer, site, (JOBS, "waiting"), "a label of Crofter", &label, words));
    for (what, namespace, metadata) in [
        ("take a namespace from its tenant", at, labels(names::LABEL_TENANT, Value::Null)),
        ("hand a namespace to another tenant", at, labels(names::LABEL_TENANT, json!("other"))),
        ("make a namespace a tenant's", ELSEWHERE, labels(names::LABEL_TENANT, json!(TENANT))),
    ] {
        let twin = (Who::Administrator, call::note(NAMESPACES, "", namespace, &harmless()));
        all.push(administrator.attack(what, call::note(NAMESPACES, "", namespace, &metadata), words, twin));
    }
    all
}

/// Tenants that can't be, or must stay.
fn tenants() -> Vec<Attack> {
    let by = |name, code| By { who: Who::Administrator, wall: Wall::Policy(name), code };
    let plan = |plan: &str| json!({"spec": {"plan": plan}});
    let planned = by("tenant-plan.crofter.io", 422);
    let words = "which is no plan: the plans are";
    vec![
        planned.attack(
            "create a Tenant of no plan",
            call::create(TENANTS, "", "crofter-attacks-new", plan("platinum")),
            words,
            (Who::Administrator, call::create(TENANTS, "", "crofter-attacks-new", plan("free"))),
        ),
        planned.attack(
            "change a Tenant to no plan",
            call::patch(TENANTS, "", TENANT, plan("platinum")),
            words,
            (Who::Administrator, call::note(TENANTS, "", TENANT, &harmless())),
        ),
        by("tenant-deletion.crofter.io", 403).attack(
            "delete a Tenant that is to stay",
            call::delete(TENANTS, "", super::super::site::SUSPENDED),
            "can't be deleted while its spec.preventDeletion is true",
            (Who::Administrator, call::delete(TENANTS, "", TENANT)),
        ),
    ]
}

/// Kubelets, and pods of other people on the nodes of tenants.
fn nodes(site: &Site) -> Vec<Attack> {
    let at = site.namespace();
    let kubelet = policy(Who::Kubelet, "kubelets.crofter.io");
    let note = |annotation: &str| json!({"annotations": {annotation: "2020-01-02T03:04:05Z acme"}});
    let mut all = Vec::new();
    let words = "a kubelet doesn't set, change or remove annotations of crofter.io on its node";
    for annotation in [names::ANNOTATION_PAUSED, names::NODE_WORKER_SINCE, names::NODE_FENCE] {
        let twin = |name: &str| (Who::Kubelet, call::note(NODES, "", name, &note("example.com/note")));
        for name in [NODE.to_owned(), format!("{NODE}/status")] {
            let change = call::note(NODES, "", &name, &note(annotation));
            let what = format!("annotate its own node ({}) with {annotation}", name.trim_start_matches(NODE));
            all.push(kubelet.attack(what.replace("() ", ""), change, words, twin(&name)));
        }
    }
    let mirror = |namespace: &str| {
        let mirror = with(
            pod(json!({"nodeName": NODE, "schedulingGates": null})),
            json!({
                "annotations": {"kubernetes.io/config.mirror": "0b8e9a52"},
                "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Node", "name": NODE, "uid": "{node}", "controller": true},
                ],
            }),
        );
        call::create(PODS, namespace, &format!("static-{NODE}"), mirror)
    };
    all.push(kubelet.attack(
        "mirror a static pod into a tenant's namespace",
        mirror(&at),
        "a kubelet makes no pods in a tenant's namespace",
        (Who::Kubelet, mirror(ELSEWHERE)),
    ));
    let restricted = By { who: Who::Kubelet, wall: Wall::NodeRestriction, code: 403 };
    for label in [names::NODE_TENANT, names::NODE_POOL, names::NODE_ADMITTED] {
        let change = call::note(NODES, "", NODE, &json!({"labels": {label: TENANT}}));
        let twin = (Who::Kubelet, call::note(NODES, "", NODE, &harmless()));
        let words = "is not allowed to modify labels";
        all.push(restricted.attack(format!("label its own node with {label}"), change, words, twin));
    }
    let stranger = policy(Who::Stranger, "worker-tolerations.crofter.io");
    let tolerating =
        |toleration: Value| call::create(PODS, ELSEWHERE, "new", pod(json!({"tolerations": [toleration]})));
    let other = json!({"key": "example.com/gpu", "operator": "Exists"});
    for (what, toleration) in [
        ("the taint of workers", json!({"key": names::NODE_ADMITTED, "operator": "Exists"})),
        (
            "the taint of a tenant's workers",
            json!({"key": names::NODE_ADMITTED, "value": TENANT, "effect": "NoSchedule"}),
        ),
        ("all taints", json!({"operator": "Exists"})),
        ("all taints that keep pods off", json!({"operator": "Exists", "effect": "NoSchedule"})),
    ] {
        let words = "keeps workers for their tenants";
        let twin = (Who::Stranger, tolerating(other.clone()));
        all.push(stranger.attack(
            format!("create a pod that tolerates {what}"),
            tolerating(toleration),
            words,
            twin,
        ));
    }
    all
}

/// A holder of Crofter's own account: it works in tenants' namespaces only.
fn operator(site: &Site) -> Vec<Attack> {
    let (home, at) = (site.home.as_str(), site.namespace());
    let at = at.as_str();
    let by = policy(Who::Operator, "operator-reach.crofter.io");
    let none =
        |namespace: &str| format!("Crofter works in tenants' namespaces only, and {namespace} is none");
    let system = "kube-system";
    let plain = |of: Resource, namespace: &str| call::create(of, namespace, "new", json!({}));
    let quota = json!({"spec": {"hard": {"pods": "1"}}});
    let policies = json!({"spec": {"podSelector": {}}});
    let limits = json!({"spec": {"limits": []}});
    let binding = json!({
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "crofter:tenant-admin"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "mallory"}],
    });
    let standard = |enforced: &str| {
        let labels = json!({names::LABEL_TENANT: "new", "pod-security.kubernetes.io/enforce": enforced});
        call::create(NAMESPACES, "", "new", with(json!({}), json!({"labels": labels})))
    };
    let enforce = |enforced: &str| {
        call::note(NAMESPACES, "", at, &json!({"labels": {"pod-security.kubernetes.io/enforce": enforced}}))
    };
    let mut all: Vec<Attack> = Vec::new();
    let mut tried = |what: &str, attack: Call, words: &str, twin: Call| {
        all.push(by.attack(what, attack, words, (Who::Operator, twin)));
    };
    for (of, object) in [
        (ACCOUNTS, json!({})),
        (QUOTAS, quota),
        (LIMITS, limits),
        (NETWORK_POLICIES, policies),
        (ROLE_BINDINGS, binding),
    ] {
        for namespace in [system, ELSEWHERE, home] {
            let create = |namespace: &str| call::create(of, namespace, "new", object.clone());
            let what = format!("create {} in {namespace}", of.plural);
            tried(&what, create(namespace), &none(namespace), create(at));
        }
    }
    let owned = |kind: &str| {
        let owner =
            json!({"apiVersion": "crofter.io/v1alpha1", "kind": kind, "name": "ci", "uid": "0b8e9a52"});
        call::create(SECRETS, at, "new", with(json!({}), json!({"ownerReferences": [owner]})))
    };
    let only = "Crofter writes only the Secrets of API keys";
    tried("create a Secret of no key", owned("Job"), only, owned("TenantApiKey"));
    tried(
        "create a namespace that is no tenant's",
        plain(NAMESPACES, ""),
        &none("new"),
        standard("baseline"),
    );
    let enforced = "a tenant's namespace enforces the Pod Security Standard";
    tried(
        "create a tenant's namespace for privileged pods",
        standard("privileged"),
        enforced,
        standard("restricted"),
    );
    tried(
        "admit privileged pods to a tenant's namespace",
        enforce("privileged"),
        enforced,
        enforce("baseline"),
    );
    let adopt = call::note(NAMESPACES, "", ELSEWHERE, &json!({"labels": {names::LABEL_TENANT: TENANT}}));
    let note = call::note(NAMESPACES, "", at, &harmless());
    tried("make a namespace a tenant's", adopt, &none(ELSEWHERE), note);
    // Kubernetes itself keeps that of the system.
    for namespace in [ELSEWHERE, home] {
        let delete = |name: &str| call::delete(NAMESPACES, "", name);
        tried(&format!("delete namespace {namespace}"), delete(namespace), &none(namespace), delete(at));
    }
    let delete = |namespace: &str, name: &str| call::delete(ACCOUNTS, namespace, name);
    let account = names::JOB_SERVICE_ACCOUNT;
    tried("delete an account of the system", delete(system, "default"), &none(system), delete(at, account));
    let pods = call::create(PODS, ELSEWHERE, "new", pod(json!({})));
    let own = call::create(PODS, at, "new", super::pods::job_pod(json!({})));
    tried("create a pod in another namespace", pods, &none(ELSEWHERE), own.clone());
    tried(
        "delete a pod of another namespace",
        call::delete(PODS, ELSEWHERE, "plain"),
        &none(ELSEWHERE),
        call::delete(PODS, at, "plain"),
    );
    all
}

pub(super) fn all(site: &Site) -> Vec<Attack> {
    [objects(site), volumes_and_tokens(site), marks(site), tenants(), nodes(site), operator(site)].concat()
}
