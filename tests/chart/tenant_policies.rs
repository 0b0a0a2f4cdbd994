//! What a tenant's people may not do in its namespace, though their roles let them write the kinds. Each refusal has a
//! twin: the same verb on the same kind, by a client that must still be admitted.

use crofter::{
    api_types::{Job, TenantApiKey},
    names,
};
use crofter_test_cluster::wait;
use k8s_openapi::api::{
    core::v1::{ConfigMap, PersistentVolume, PersistentVolumeClaim, Secret, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding},
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    PROPAGATION_TIMEOUT, forbidden, installed, object, operator,
    policies::{tenant_admin, tenant_namespace},
};

/// The clients that act in a tenant's namespace.
struct Tenancy {
    namespace: String,
    /// A person of the tenant, with its greatest role.
    person: Client,
    /// An administrator of the cluster.
    admin: Client,
    /// The operator.
    operator: Client,
}

impl Tenancy {
    async fn new(tenant: &str) -> Self {
        let cluster = installed().await;
        let (admin, _report) = cluster.client_with_report().await.unwrap();
        let operator = operator(cluster).await;
        let namespace = tenant_namespace(&operator, tenant).await;
        let person = tenant_admin(cluster, &namespace, &format!("person-of-{tenant}")).await;
        Self { namespace, person, admin, operator }
    }

    fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(client.clone(), &self.namespace)
    }

    /// Every kind that the roles of tenants write: for this client, and an object of it.
    fn kinds(&self, client: &Client, name: &str) -> Vec<(Api<DynamicObject>, DynamicObject)> {
        let of = |resource: ApiResource, content: Value| {
            let object = DynamicObject::new(name, &resource).data(content);
            (Api::namespaced_with(client.clone(), &self.namespace, &resource), object)
        };
        let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}});
        vec![
            of(ApiResource::erase::<Job>(&()), json!({"spec": {"image": "none"}})),
            of(ApiResource::erase::<TenantApiKey>(&()), json!({"spec": {"scopes": ["jobs:read"]}})),
            of(ApiResource::erase::<ConfigMap>(&()), json!({})),
            of(ApiResource::erase::<Secret>(&()), json!({})),
            of(ApiResource::erase::<PersistentVolumeClaim>(&()), json!({"spec": claim})),
        ]
    }
}

fn plainly() -> PostParams {
    PostParams::default()
}

fn dry_run() -> PostParams {
    PostParams { dry_run: true, ..PostParams::default() }
}

fn try_patch() -> PatchParams {
    PatchParams { dry_run: true, ..PatchParams::default() }
}

fn metadata(changes: &Value) -> Patch<Value> {
    Patch::Merge(json!({"metadata": changes}))
}

/// With a finalizer of its own on anything in its namespace, a tenant would keep the namespace and itself for ever.
#[tokio::test]
async fn a_tenants_people_add_no_finalizers() {
    let tenancy = Tenancy::new("tenant-finalizers").await;
    let add = |finalizers: Value| metadata(&json!({"finalizers": finalizers}));
    for (theirs, plain) in tenancy.kinds(&tenancy.person, "held") {
        let kind = plain.types.clone().unwrap().kind;
        let stored = theirs.create(&plainly(), &plain).await.unwrap();
        assert_eq!(stored.finalizers().len(), usize::from(kind == "PersistentVolumeClaim"), "{kind}");
        // That of claims is removed from claims only.
        let of_claims = (kind != "PersistentVolumeClaim").then_some("kubernetes.io/pvc-protection");
        for finalizer in ["example.com/hold", "orphan", "foregroundDeletion"].into_iter().chain(of_claims) {
            let words = format!("in all namespaces adds one here: {finalizer}");
            let mut born = plain.clone();
            born.metadata.name = Some("born-held".to_owned());
            born.metadata.finalizers = Some(vec![finalizer.to_owned()]);
            forbidden(&words, async || theirs.create(&dry_run(), &born).await).await;
            let change = add(json!([finalizer]));
            forbidden(&words, async || theirs.patch("held", &try_patch(), &change).await).await;
        }
    }
    // Who may write the kind in all namespaces adds one, and the tenant's people change and release what has it.
    for (everyones, plain) in tenancy.kinds(&tenancy.admin, "by-admin") {
        let mut held = plain.clone();
        held.metadata.finalizers = Some(vec!["example.com/hold".to_owned()]);
        everyones.create(&plainly(), &held).await.unwrap();
    }
    for (theirs, _) in tenancy.kinds(&tenancy.person, "by-admin") {
        let note = metadata(&json!({"labels": {"example.com/note": "seen"}}));
        theirs.patch("by-admin", &PatchParams::default(), &note).await.unwrap();
        theirs.patch("by-admin", &PatchParams::default(), &add(Value::Null)).await.unwrap();
    }
}

/// A controller of storage is no administrator: it may write claims in all namespaces, and little else.
#[tokio::test]
async fn a_controller_of_the_cluster_adds_its_finalizer() {
    let cluster = installed().await;
    let tenancy = Tenancy::new("tenant-snapshots").await;
    let role: ClusterRole = object(json!({
        "metadata": {"name": "snapshots"},
        "rules": [{"apiGroups": [""], "resources": ["persistentvolumeclaims"], "verbs": ["get", "patch"]}],
    }));
    let binding: ClusterRoleBinding = object(json!({
        "metadata": {"name": "snapshots"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "snapshots"},
        "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": "snapshots"}],
    }));
    Api::all(tenancy.admin.clone()).create(&plainly(), &role).await.unwrap();
    Api::all(tenancy.admin.clone()).create(&plainly(), &binding).await.unwrap();
    let (theirs, claim) = tenancy.kinds(&tenancy.person, "data").pop().unwrap();
    theirs.create(&plainly(), &claim).await.unwrap();

    let kubeconfig = cluster.kubeconfig_for_user("snapshots", &[]).unwrap();
    let controller = cluster.client_for(&kubeconfig).await.unwrap();
    let claims: Api<PersistentVolumeClaim> = tenancy.api(&controller);
    let hold = metadata(&json!({"finalizers": ["kubernetes.io/pvc-protection", "example.com/as-source"]}));
    let (plainly, words) = (PatchParams::default(), "the controller's finalizer to be admitted");
    wait::until(PROPAGATION_TIMEOUT, words, || claims.patch("data", &plainly, &hold)).await.unwrap();
    let release = metadata(&json!({"finalizers": null}));
    claims.patch("data", &plainly, &release).await.unwrap();
}

/// The operator takes an object for its own by its owner.
#[tokio::test]
async fn only_crofter_makes_what_a_tenant_or_a_key_owns() {
    let tenancy = Tenancy::new("tenant-owners").await;
    // The owner that an object has already doesn't become another one under its UID.
    let account =
        tenancy.api::<ServiceAccount>(&tenancy.admin).get(names::JOB_SERVICE_ACCOUNT).await.unwrap();
    let uid = account.uid().unwrap();
    let owner = |kind: &str, version: &str| json!([{"apiVersion": format!("crofter.io/{version}"), "kind": kind, "name": "acme", "uid": uid}]);
    for (theirs, mut plain) in tenancy.kinds(&tenancy.person, "owned") {
        let first =
            json!([{"apiVersion": "v1", "kind": "ServiceAccount", "name": account.name_any(), "uid": uid}]);
        plain.metadata.owner_references = Some(object(first));
        theirs.create(&plainly(), &plain).await.unwrap();
        for (kind, version) in
            [("Tenant", names::VERSION), ("TenantApiKey", names::VERSION), ("Tenant", "v9")]
        {
            let words = format!(
                "only Crofter makes what a Tenant or a TenantApiKey owns (metadata.ownerReferences): {kind} acme"
            );
            let mut born = plain.clone();
            born.metadata.name = Some("born-owned".to_owned());
            born.metadata.owner_references = Some(object(owner(kind, version)));
            forbidden(&words, async || theirs.create(&dry_run(), &born).await).await;
            let change = metadata(&json!({"ownerReferences": owner(kind, version)}));
            forbidden(&words, async || theirs.patch("owned", &try_patch(), &change).await).await;
        }
        // A job owns the files that it was given, which are deleted with it.
        let change = metadata(&json!({"ownerReferences": owner("Job", names::VERSION)}));
        theirs.patch("owned", &try_patch(), &change).await.unwrap();
    }
    let mut token: Secret = object(json!({"metadata": {"name": "crofter-key-ci"}}));
    token.metadata.owner_references = Some(object(owner("TenantApiKey", names::VERSION)));
    tenancy.api(&tenancy.operator).create(&dry_run(), &token).await.unwrap();
}

/// The annotation is the record of what the REST API was asked for.
#[tokio::test]
async fn only_crofter_says_which_job_is_run_again() {
    let tenancy = Tenancy::new("tenant-retries").await;
    let job = |name: &str, of: Option<&str>| -> Job {
        let annotations = of.map(|uid| json!({names::ANNOTATION_RETRY_OF: uid}));
        object(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Job",
            "metadata": {"name": name, "annotations": annotations}, "spec": {"image": "none"},
        }))
    };
    let words = "only Crofter sets the annotation crofter.io/retry-of";
    let set = |uid: Value| metadata(&json!({"annotations": {names::ANNOTATION_RETRY_OF: uid}}));
    let (theirs, ours): (Api<Job>, Api<Job>) = (tenancy.api(&tenancy.person), tenancy.api(&tenancy.operator));
    theirs.create(&plainly(), &job("plain", None)).await.unwrap();
    ours.create(&plainly(), &job("retry", Some("0b8e9a52"))).await.unwrap();
    forbidden(words, async || theirs.create(&dry_run(), &job("forged", Some("0b8e9a52"))).await).await;
    for name in ["plain", "retry"] {
        forbidden(words, async || theirs.patch(name, &try_patch(), &set(json!("another"))).await).await;
    }
    // Who may write jobs everywhere restores one from a backup.
    tenancy.api::<Job>(&tenancy.admin).create(&dry_run(), &job("restored", Some("0b8e9a52"))).await.unwrap();
    // A retry is changed as any job.
    let cancel = Patch::Merge(json!({"spec": {"canceled": true}}));
    theirs.patch("retry", &PatchParams::default(), &cancel).await.unwrap();
    ours.patch("plain", &PatchParams::default(), &set(json!("0b8e9a52"))).await.unwrap();
}

/// A pod that outlives its job would run outside of the tenant's quotas until the operator ends it.
#[tokio::test]
async fn a_job_is_deleted_with_its_pods() {
    let tenancy = Tenancy::new("tenant-orphans").await;
    let words = "it can't be deleted with propagationPolicy Orphan";
    let job = Job::new("kept", object(json!({"image": "none"})));
    tenancy.api(&tenancy.person).create(&plainly(), &job).await.unwrap();
    let all = ListParams::default();
    for client in [&tenancy.person, &tenancy.admin] {
        let jobs: Api<Job> = tenancy.api(client);
        let orphan = DeleteParams::orphan().dry_run();
        forbidden(words, async || jobs.delete("kept", &orphan).await).await;
        forbidden(words, async || jobs.delete_collection(&orphan, &all).await).await;
        // As old clients ask for it.
        let path = format!("/apis/crofter.io/v1alpha1/namespaces/{}/jobs/kept", tenancy.namespace);
        let options =
            json!({"kind": "DeleteOptions", "apiVersion": "v1", "orphanDependents": true, "dryRun": ["All"]});
        forbidden(words, async || {
            let request = http::Request::delete(&path).header("content-type", "application/json");
            client.request::<Value>(request.body(options.to_string().into_bytes()).unwrap()).await
        })
        .await;

        for admitted in [DeleteParams::background(), DeleteParams::foreground(), DeleteParams::default()] {
            jobs.delete("kept", &admitted.clone().dry_run()).await.unwrap();
            jobs.delete_collection(&admitted.dry_run(), &all).await.unwrap();
        }
        // Without any options, as `kubectl delete --raw` sends it.
        let plain = http::Request::delete(format!("{path}?dryRun=All")).body(Vec::new()).unwrap();
        client.request::<Value>(plain).await.unwrap();
    }
}

/// As a variable of a job, by `envFrom`, it would give GPUs of others.
#[tokio::test]
async fn no_map_names_the_gpus_of_a_container() {
    let tenancy = Tenancy::new("tenant-gpus").await;
    for (theirs, plain) in tenancy.kinds(&tenancy.person, "variables") {
        let kind = plain.types.clone().unwrap().kind;
        if !["ConfigMap", "Secret"].contains(&&*kind) {
            continue;
        }
        let with = |name: &str| {
            let mut map = plain.clone();
            map.data["data"] = json!({name: "YWxs"});
            map
        };
        theirs.create(&plainly(), &with("NVIDIA_DRIVER_CAPABILITIES")).await.unwrap();
        let change = |name: &str| Patch::Merge(json!({"data": {name: "YWxs"}}));
        theirs.patch("variables", &try_patch(), &change("OTHER")).await.unwrap();
        for (name, _) in names::VISIBLE_GPUS {
            let words = format!("the entry {name} is the node's");
            let all = change(name);
            forbidden(&words, async || theirs.patch("variables", &try_patch(), &all).await).await;
            let mut born = with(name);
            born.metadata.name = Some("born".to_owned());
            forbidden(&words, async || theirs.create(&dry_run(), &born).await).await;
        }
    }
}

/// With a Secret of that type a tenant would have a token of any account of its namespace, for ever.
#[tokio::test]
async fn no_secret_holds_the_token_of_an_account() {
    let tenancy = Tenancy::new("tenant-tokens").await;
    let secret = |kind: &str| -> Secret {
        let annotations = json!({"kubernetes.io/service-account.name": names::JOB_SERVICE_ACCOUNT});
        object(json!({"metadata": {"name": "token", "annotations": annotations}, "type": kind}))
    };
    let words =
        "a Secret of the type kubernetes.io/service-account-token can't be made in a tenant's namespace";
    let of_account = secret("kubernetes.io/service-account-token");
    for client in [&tenancy.person, &tenancy.admin] {
        let secrets: Api<Secret> = tenancy.api(client);
        forbidden(words, async || secrets.create(&dry_run(), &of_account).await).await;
        secrets.create(&dry_run(), &secret("Opaque")).await.unwrap();
        secrets.create(&dry_run(), &secret("example.com/other")).await.unwrap();
    }
    let elsewhere: Api<Secret> = Api::namespaced(tenancy.admin, "default");
    elsewhere.create(&dry_run(), &of_account).await.unwrap();
}

/// By name or selector a claim could take a volume that waits for another tenant.
#[tokio::test]
async fn a_claim_chooses_no_volume() {
    let tenancy = Tenancy::new("tenant-claims").await;
    let claim = |name: &str, more: Value| -> PersistentVolumeClaim {
        let mut spec = json!({
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}},
            "storageClassName": "kept",
        });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object(json!({"metadata": {"name": name}, "spec": spec}))
    };
    let words = "only who may write persistentvolumes gives ";
    let named = claim("chosen", json!({"volumeName": "theirs"}));
    let selected = claim("chosen", json!({"selector": {"matchLabels": {"tenant": "other"}}}));
    let both =
        claim("chosen", json!({"volumeName": "theirs", "selector": {"matchLabels": {"tenant": "other"}}}));
    let theirs: Api<PersistentVolumeClaim> = tenancy.api(&tenancy.person);
    let everyones: Api<PersistentVolumeClaim> = tenancy.api(&tenancy.admin);
    theirs.create(&plainly(), &claim("data", json!({}))).await.unwrap();
    let choose = Patch::Merge(json!({"spec": {"volumeName": "theirs"}}));
    for (claim, what) in [
        (&named, "spec.volumeName"),
        (&selected, "spec.selector"),
        (&both, "spec.volumeName and spec.selector"),
    ] {
        forbidden(&format!("{words}{what}"), async || theirs.create(&dry_run(), claim).await).await;
        everyones.create(&dry_run(), claim).await.unwrap();
    }
    forbidden(&format!("{words}spec.volumeName"), async || theirs.patch("data", &try_patch(), &choose).await)
        .await;
    everyones.patch("data", &try_patch(), &choose).await.unwrap();

    // The controller of volumes binds a volume that an administrator keeps for the claim, and the claim can be changed.
    let kept: PersistentVolume = object(json!({"metadata": {"name": "kept-for-data"}, "spec": {
        "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Mi"}, "storageClassName": "kept",
        "hostPath": {"path": "/tmp/kept"}, "claimRef": {"namespace": tenancy.namespace, "name": "data"},
    }}));
    Api::all(tenancy.admin.clone()).create(&plainly(), &kept).await.unwrap();
    wait::until(PROPAGATION_TIMEOUT, "the claim to be bound", || async {
        let spec = theirs.get("data").await.unwrap().spec.unwrap();
        if spec.volume_name.as_deref() == Some("kept-for-data") { Ok(()) } else { Err(spec) }
    })
    .await
    .unwrap();
    let note = metadata(&json!({"labels": {"example.com/note": "seen"}}));
    theirs.patch("data", &PatchParams::default(), &note).await.unwrap();
}
