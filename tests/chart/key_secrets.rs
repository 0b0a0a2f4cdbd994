//! Who reaches the Secret of an API key: whoever has its token is the key. Each verb is tried as each role of a tenant, on
//! such a Secret and on an ordinary one.

use std::time::Duration;

use crofter::{
    api_types::{Job, TenantApiKey},
    names,
};
use crofter_test_cluster::wait;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::{
    core::v1::{Namespace, Secret},
    rbac::v1::RoleBinding,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchParams},
    core::WatchEvent,
};
use serde_json::{Value, json};

use super::{
    NAMESPACE, PROPAGATION_TIMEOUT, forbidden, installed, object, operator,
    policies::{key_secrets_binding, tenant_namespace},
    refused,
};

/// How long Kubernetes may take to delete what a deleted object owned: it learns of new kinds every 30 s.
const COLLECTION_TIMEOUT: Duration = Duration::from_secs(90);
/// The Secret of the key `ci`, and one of the tenant's own.
const KEY: &str = "crofter-key-ci";
const PLAIN: &str = "registry";
/// Every verb on Secrets, and the word of it that RBAC knows.
const VERBS: [(&str, &str); 9] = [
    ("get", "get"),
    ("list", "list"),
    ("watch", "watch"),
    ("deletecollection", "deletecollection"),
    ("create", "create"),
    ("update", "update"),
    ("patch", "patch"),
    ("apply", "patch"),
    ("delete", "delete"),
];

/// Who refuses a verb.
enum Wall {
    Rbac,
    Policy,
    None,
}

/// Tries a verb on a Secret without changing anything. Each form is the one by which most is read: the response to an
/// empty patch is the whole object, and so is that to a deletion that waits for dependents.
async fn attempt(secrets: &Api<Secret>, verb: &str, name: &str) -> kube::Result<()> {
    let body = |name: &str| -> Secret {
        object(json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}}))
    };
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let patch = PatchParams { dry_run: true, ..PatchParams::default() };
    let foreground = DeleteParams::foreground().dry_run();
    let field = format!("metadata.name={name}");
    let this = ListParams::default().fields(&field);
    match verb {
        "get" => secrets.get(name).await.map(drop),
        "list" => secrets.list(&this).await.map(drop),
        "watch" => {
            let watch = secrets.watch(&WatchParams::default().fields(&field), "0").await?;
            match watch.boxed().try_next().await? {
                Some(WatchEvent::Error(status)) => Err(kube::Error::Api(status)),
                _ => Ok(()),
            }
        }
        "deletecollection" => secrets.delete_collection(&foreground, &this).await.map(drop),
        "create" => secrets.create(&dry_run, &body(&format!("{name}-new"))).await.map(drop),
        "update" => secrets.replace(name, &dry_run, &body(name)).await.map(drop),
        "patch" => secrets.patch(name, &patch, &Patch::Merge(json!({}))).await.map(drop),
        "apply" => {
            let params = PatchParams { dry_run: true, ..PatchParams::apply("test") };
            secrets.patch(name, &params, &Patch::Apply(body(name))).await.map(drop)
        }
        "delete" => secrets.delete(name, &foreground).await.map(drop),
        other => unreachable!("{other}"),
    }
}

/// A tenant's namespace with the key `ci`, its Secret, and one of the tenant's own.
async fn with_key(tenant: &str) -> (Client, String) {
    let cluster = installed().await;
    let (admin, _report) = cluster.client_with_report().await.unwrap();
    let operator = operator(cluster).await;
    let namespace = tenant_namespace(&operator, tenant).await;
    let key = TenantApiKey::new("ci", object(json!({"scopes": ["jobs:read"]})));
    let keys: Api<TenantApiKey> = Api::namespaced(admin.clone(), &namespace);
    let uid = keys.create(&PostParams::default(), &key).await.unwrap().uid().unwrap();
    let owner =
        json!([{"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "name": "ci", "uid": uid}]);
    for (client, name, owners) in [(&operator, KEY, owner), (&admin, PLAIN, Value::Null)] {
        let secret = object(json!({"metadata": {"name": name, "ownerReferences": owners}}));
        Api::<Secret>::namespaced(client.clone(), &namespace)
            .create(&PostParams::default(), &secret)
            .await
            .unwrap();
    }
    (admin, namespace)
}

/// A user with a role of the tenant, once the role has its rights.
async fn person(admin: &Client, namespace: &str, role: &str) -> Client {
    let user = format!("{role}-of-{namespace}");
    let binding: RoleBinding = object(json!({
        "metadata": {"name": role},
        "roleRef": {
            "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": format!("crofter:tenant-{role}"),
        },
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
    }));
    Api::namespaced(admin.clone(), namespace).create(&PostParams::default(), &binding).await.unwrap();
    let cluster = installed().await;
    let client = cluster.client_for(&cluster.kubeconfig_for_user(&user, &[]).unwrap()).await.unwrap();
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    wait::until(PROPAGATION_TIMEOUT, &format!("the rights of {user}"), || async {
        jobs.list_metadata(&ListParams::default()).await?;
        match role {
            "operator" | "admin" => attempt(&secrets, "create", PLAIN).await,
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
    client
}

#[tokio::test]
async fn the_secret_of_a_key_is_for_who_makes_keys() {
    let (admin, namespace) = with_key("tenant-key-secrets").await;
    for role in ["viewer", "developer", "operator", "admin"] {
        let client = person(&admin, &namespace, role).await;
        let secrets: Api<Secret> = Api::namespaced(client, &namespace);
        // Each verb on an ordinary Secret and on that of a key.
        for ((verb, word), name) in VERBS.into_iter().flat_map(|verb| [(verb, PLAIN), (verb, KEY)]) {
            let reads = ["get", "list", "watch", "deletecollection"].contains(&verb);
            let wall = match role {
                "admin" => Wall::None,
                "operator" if reads => Wall::Rbac,
                "operator" if name == KEY => Wall::Policy,
                "operator" => Wall::None,
                _ => Wall::Rbac,
            };
            let what = async || attempt(&secrets, verb, name).await;
            match wall {
                Wall::Rbac => forbidden(&format!("cannot {word} resource \"secrets\""), what).await,
                Wall::Policy => {
                    forbidden("is for an API key: only who may delete tenantapikeys here writes it", what)
                        .await;
                }
                Wall::None => what().await.unwrap_or_else(|error| panic!("{role} {verb} {name}: {error}")),
            }
        }
        if role == "operator" {
            let generated: Secret = object(json!({"metadata": {"generateName": names::KEY_SECRET_PREFIX}}));
            let dry_run = PostParams { dry_run: true, ..PostParams::default() };
            forbidden("is for an API key", async || secrets.create(&dry_run, &generated).await).await;
        }
    }
}

/// Kubernetes deletes the Secret with its key, whoever deletes the key.
#[tokio::test]
async fn the_secret_of_a_key_is_deleted_with_the_key() {
    let (admin, namespace) = with_key("tenant-key-ends").await;
    let keys: Api<TenantApiKey> = Api::namespaced(admin.clone(), &namespace);
    let secrets: Api<Secret> = Api::namespaced(admin, &namespace);
    keys.delete("ci", &DeleteParams::default()).await.unwrap();
    wait::until(COLLECTION_TIMEOUT, "the deletion of the Secret", || async {
        match secrets.get_opt(KEY).await {
            Ok(None) => Ok(()),
            other => Err(other.map(|secret| secret.map(|secret| secret.name_any()))),
        }
    })
    .await
    .unwrap();
    secrets.get(PLAIN).await.unwrap();
}

/// The operator's rights hold in the whole cluster, so that on Secrets is bound where a tenant is. Elsewhere it can neither
/// read one, nor give itself the right, nor make the namespace a tenant's.
#[tokio::test]
async fn the_operator_reads_secrets_of_tenants_alone() {
    let (admin, namespace) = with_key("tenant-key-reach").await;
    let operator = operator(installed().await).await;
    // Elsewhere it reads none, and gives itself no right to.
    let theirs: Api<Secret> = Api::namespaced(admin.clone(), "default");
    theirs.create(&PostParams::default(), &object(json!({"metadata": {"name": "theirs"}}))).await.unwrap();
    for (place, name) in [("default", "theirs"), (NAMESPACE, names::PEPPER_SECRET)] {
        let secrets: Api<Secret> = Api::namespaced(operator.clone(), place);
        let cannot = "cannot get resource \"secrets\"";
        forbidden(cannot, async || secrets.get(name).await).await;
        forbidden("cannot list resource", async || secrets.list(&ListParams::default()).await).await;
        let bindings: Api<RoleBinding> = Api::namespaced(operator.clone(), place);
        let none = format!("Crofter works in tenants' namespaces only, and {place} is none");
        refused(&bindings, &key_secrets_binding(), &none).await;
    }
    let everywhere: Api<Secret> = Api::all(operator.clone());
    forbidden("at the cluster scope", async || everywhere.list(&ListParams::default()).await).await;
    let namespaces: Api<Namespace> = Api::all(operator.clone());
    let claim = Patch::Merge(json!({"metadata": {"labels": {names::LABEL_TENANT: "default"}}}));
    let dry_run = PatchParams { dry_run: true, ..PatchParams::default() };
    forbidden("Crofter works in tenants' namespaces only", async || {
        namespaces.patch("default", &dry_run, &claim).await
    })
    .await;

    let ours: Api<Secret> = Api::namespaced(operator.clone(), &namespace);
    ours.get(KEY).await.unwrap();
    forbidden("cannot list resource", async || ours.list(&ListParams::default()).await).await;
    let peppers: Api<Secret> = Api::namespaced(operator, NAMESPACE);
    let pepper = ListParams::default().fields(&format!("metadata.name={}", names::PEPPER_SECRET));
    peppers.list(&pepper).await.unwrap();
}
