//! Who may do what by the chart's roles, asked of the real authorizer: exactly the list below, not more.

use std::collections::{BTreeMap, BTreeSet};

use crofter_test_cluster::{Cluster, wait};
use k8s_openapi::api::{authorization::v1::SelfSubjectRulesReview, rbac::v1::RoleBinding};
use kube::{Api, Client, api::PostParams};
use serde_json::json;

use super::{
    NAMESPACE, PROPAGATION_TIMEOUT, RELEASE, installed, object, operator, operator::audited, refused,
};

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection get list patch update watch";

/// What a client may do in a namespace, one line per resource, but for what everybody may ask about himself.
pub(crate) async fn rights(client: &Client, namespace: &str) -> BTreeSet<String> {
    let review: SelfSubjectRulesReview = object(json!({"spec": {"namespace": namespace}}));
    let answer = Api::all(client.clone()).create(&PostParams::default(), &review).await.unwrap();
    let mut by_resource = BTreeMap::<String, BTreeSet<String>>::new();
    for rule in answer.status.unwrap().resource_rules {
        for group in rule.api_groups.iter().flatten() {
            if group == "authorization.k8s.io" || group == "authentication.k8s.io" {
                continue;
            }
            for resource in rule.resources.iter().flatten() {
                let names = rule.resource_names.as_deref().unwrap_or_default();
                let one = if names.is_empty() { String::new() } else { format!(" {}", names.join(" ")) };
                let verbs = by_resource.entry(format!("{resource}.{group}{one}")).or_default();
                verbs.extend(rule.verbs.iter().cloned());
            }
        }
    }
    let line = |(resource, verbs): (String, BTreeSet<String>)| {
        format!("{resource}: {}", verbs.into_iter().collect::<Vec<_>>().join(" "))
    };
    by_resource.into_iter().map(line).collect()
}

/// What an account asked the API server for, in the form of [`rights`], but for what everybody may ask. Rights to objects of
/// the names `named` are by name.
pub(crate) fn used(cluster: &Cluster, account: &str, named: &[&str]) -> BTreeSet<String> {
    let mut by_resource = BTreeMap::<String, BTreeSet<String>>::new();
    for event in audited(cluster, account) {
        let of = &event["objectRef"];
        let field = |name: &str| of[name].as_str().unwrap_or_default();
        if field("resource").is_empty() || field("resource").ends_with("reviews") {
            continue;
        }
        let subresource = of["subresource"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
        // Rights by name: a create has no name yet.
        let verb = event["verb"].as_str().unwrap();
        let is_named = named.contains(&field("name"));
        let one = if is_named && verb != "create" { format!(" {}", field("name")) } else { String::new() };
        let resource = format!("{}{subresource}.{}{one}", field("resource"), field("apiGroup"));
        by_resource.entry(resource).or_default().insert(verb.to_owned());
    }
    let line = |(resource, verbs): (String, BTreeSet<String>)| {
        format!("{resource}: {}", verbs.into_iter().collect::<Vec<_>>().join(" "))
    };
    by_resource.into_iter().map(line).collect()
}

pub(crate) fn lines(list: &[(&str, &str)]) -> BTreeSet<String> {
    list.iter().map(|(resource, verbs)| format!("{resource}: {verbs}")).collect()
}

#[tokio::test]
async fn the_operator_may_do_its_work_and_nothing_else() {
    let cluster = installed().await;
    let operator = operator(cluster).await;
    // The rights that its controllers need in every namespace.
    let (seen, children) = ("create delete get list patch watch", "create delete list patch watch");
    let everywhere = lines(&[
        ("tenants.crofter.io", "create delete get list patch watch"),
        ("jobs.crofter.io", "create delete get list patch watch"),
        ("tenantapikeys.crofter.io", "create delete get list patch watch"),
        ("tenants/status.crofter.io", "patch"),
        ("jobs/status.crofter.io", "patch"),
        ("tenantapikeys/status.crofter.io", "patch"),
        ("tenants/finalizers.crofter.io", "update"),
        ("jobs/finalizers.crofter.io", "update"),
        ("tenantapikeys/finalizers.crofter.io", "update"),
        ("namespaces.", seen),
        ("resourcequotas.", seen),
        ("limitranges.", children),
        ("serviceaccounts.", children),
        ("networkpolicies.networking.k8s.io", children),
        ("rolebindings.rbac.authorization.k8s.io", children),
        ("pods.", seen),
        ("pods/log.", "get"),
        ("nodes.", "get list patch watch"),
        ("validatingadmissionpolicies.admissionregistration.k8s.io", "get"),
        ("validatingadmissionpolicybindings.admissionregistration.k8s.io", "get"),
        ("events.events.k8s.io", "create patch"),
        (
            "clusterroles.rbac.authorization.k8s.io crofter:tenant-admin crofter:tenant-operator \
             crofter:tenant-developer crofter:tenant-viewer crofter:key-secrets",
            "bind",
        ),
    ]);
    // Nothing more, but for its lease, the peppers, and the record of the default tenant, in its own namespace.
    assert_eq!(rights(&operator, "kube-system").await, everywhere);

    let mut at_home = everywhere;
    at_home.extend(lines(&[
        ("leases.coordination.k8s.io", "create get update"),
        ("configmaps.", "create"),
        ("configmaps. crofter-default-tenant", "get"),
        ("secrets.", "create"),
        ("secrets. crofter-pepper", "list watch"),
    ]));
    assert_eq!(rights(&operator, NAMESPACE).await, at_home);
}

#[tokio::test]
async fn each_role_of_tenants_holds_what_it_says() {
    let cluster = installed().await;
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    // The documented rights of each role, which contain those of the role before.
    let viewer = lines(&[
        ("jobs.crofter.io", READ),
        ("events.", READ),
        ("events.events.k8s.io", READ),
        ("resourcequotas.", READ),
        ("limitranges.", READ),
    ]);
    let mut developer = viewer.clone();
    developer.remove(&format!("jobs.crofter.io: {READ}"));
    developer.extend(lines(&[
        ("jobs.crofter.io", WRITE),
        ("pods.", READ),
        ("pods/log.", READ),
        ("persistentvolumeclaims.", READ),
    ]));
    let mut operator = developer.clone();
    operator.remove(&format!("persistentvolumeclaims.: {READ}"));
    operator.extend(lines(&[
        ("secrets.", "create delete patch update"),
        ("configmaps.", WRITE),
        ("persistentvolumeclaims.", WRITE),
    ]));
    let mut administrator = operator.clone();
    administrator.remove("secrets.: create delete patch update");
    administrator.extend(lines(&[("secrets.", WRITE), ("tenantapikeys.crofter.io", WRITE)]));

    // A user with the role has these rights in the namespace and none elsewhere.
    for (role, expected) in
        [("viewer", viewer), ("developer", developer), ("operator", operator), ("admin", administrator)]
    {
        let user = format!("a-{role}");
        let binding = binding(role, &format!("crofter:tenant-{role}"), &user);
        Api::namespaced(admin.clone(), "default").create(&PostParams::default(), &binding).await.unwrap();
        let client = cluster.client_for(&cluster.kubeconfig_for_user(&user, &[]).unwrap()).await.unwrap();
        wait::until(PROPAGATION_TIMEOUT, &format!("the rights of {user}: {expected:#?}"), || async {
            let seen = rights(&client, "default").await;
            if seen == expected { Ok(()) } else { Err(seen) }
        })
        .await
        .unwrap();
        assert!(rights(&client, NAMESPACE).await.is_empty(), "{user}");
    }
}

/// The operator makes a tenant's bindings, so it must not be able to hand out anything but the tenants' roles.
#[tokio::test]
async fn the_operator_binds_only_the_roles_of_tenants() {
    let cluster = installed().await;
    let operator = operator(cluster).await;
    let namespace = super::policies::tenant_namespace(&operator, "tenant-binds").await;
    let bindings: Api<RoleBinding> = Api::namespaced(operator, &namespace);
    let refusal = "attempting to grant RBAC permissions not currently held";
    for role in ["admin", "cluster-admin", "view", "crofter:aggregate-to-tenant-operator"] {
        refused(&bindings, &binding("x", role, "mallory"), refusal).await;
    }
    for role in ["admin", "operator", "developer", "viewer"] {
        let binding = binding(role, &format!("crofter:tenant-{role}"), "alice");
        bindings.create(&PostParams::default(), &binding).await.unwrap();
    }
}

fn binding(name: &str, role: &str, user: &str) -> RoleBinding {
    object(json!({
        "metadata": {"name": format!("{RELEASE}-{name}")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }))
}
