//! What the attacks are on: throwaway tenants with keys, jobs and files, a namespace that is no tenant's, and a node that no
//! kubelet runs. All of it is deleted afterwards.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        authentication::v1::{TokenRequest, TokenRequestSpec},
        core::v1::{ConfigMap, Namespace, Node, PersistentVolumeClaim, Pod, Secret, ServiceAccount},
        rbac::v1::RoleBinding,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use strum::IntoEnumIterator;

use super::{
    super::{Finding, trial, unanswered},
    catalogue,
    site::{ELSEWHERE, NEIGHBOUR, NODE, SUSPENDED, Site, TENANT, Who},
};
use crate::{
    api_types::{Job, Tenant, TenantApiKey},
    kube_ext::{CallError, within},
    names,
};

/// All scopes.
const SCOPES: [&str; 5] = ["jobs:read", "jobs:write", "keys:read", "keys:write", "tenant:read"];
/// A key that looks like one, and is none.
const FORGED_KEY: &str = "crft_AAAAAAAAAAAAAAAAAAAAAAAA_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// A token that looks like one, and is none.
const FORGED_TOKEN: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZG1pbiJ9.e30";

/// What was created for the attacks.
#[derive(Clone, Debug, Default)]
pub struct Fixtures {
    /// Tokens of the clients of the REST API.
    pub tokens: BTreeMap<Who, String>,
    /// Texts that requests have in place of these names.
    pub ids: Vec<(&'static str, String)>,
}

/// Creates the node, which comes first: where it exists another check runs, and has all the rest.
///
/// # Errors
/// It could not be created.
pub async fn begin(client: &Client) -> Result<Node, Finding> {
    let node = json!({"metadata": {"name": NODE}, "spec": {"unschedulable": true}});
    create(&Api::all(client.clone()), node).await
}

/// Creates all the rest of it, and waits until it is as the attacks need it.
///
/// # Errors
/// What could not be created, and how to mend that.
pub async fn make(
    client: &Client,
    site: &Site,
    node: &Node,
    plan: &str,
    limit: Duration,
) -> Result<Fixtures, Finding> {
    let (tenant, next) = (site.namespace(), site.next());
    elsewhere(client).await?;
    let member =
        |who: Who| json!({"kind": "User", "name": who.user(site).map(|user| user.0), "role": who.role()});
    let account = |who: Who, role: &str| json!({"kind": "ServiceAccount", "namespace": ELSEWHERE, "name": who.account(), "role": role});
    let mut members =
        [Who::Viewer, Who::Developer, Who::TenantOperator, Who::TenantAdmin].map(member).to_vec();
    members.extend([account(Who::AdminToken, "admin"), account(Who::ViewerToken, "viewer")]);
    let admin =
        json!({"kind": "User", "name": Who::Neighbour.user(site).map(|user| user.0), "role": "admin"});
    let admins = [admin, account(Who::NeighbourToken, "admin")];
    for (name, spec) in [
        (TENANT, json!({"access": members})),
        (NEIGHBOUR, json!({"access": admins})),
        (SUSPENDED, json!({"preventDeletion": true})),
    ] {
        let mut spec = spec;
        spec["plan"] = json!(plan);
        let object = json!({"apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": name}, "spec": spec});
        let _: Tenant = create(&Api::all(client.clone()), object).await?;
    }
    for name in [TENANT, NEIGHBOUR, SUSPENDED] {
        trial::ready(client, name, limit).await?;
    }
    let mut fixtures = Fixtures::default();
    let suspended = names::namespace(&site.prefix, SUSPENDED);
    for (who, namespace, name, scopes) in [
        (Who::Key, &tenant, "all", &SCOPES[..]),
        (Who::KeyWithoutScopes, &tenant, "scopeless", &[]),
        (Who::KeyOfKeys, &tenant, "of-keys", &SCOPES[2..4]),
        (Who::RevokedKey, &tenant, "revoked", &SCOPES[..]),
        (Who::NeighbourKey, &next, "all", &SCOPES[..]),
        (Who::SuspendedKey, &suspended, "all", &SCOPES[..]),
    ] {
        let (uid, token) = key(client, namespace, name, scopes, limit).await?;
        fixtures.tokens.insert(who, token);
        match who {
            Who::Key => fixtures.ids.push(("{own}", uid)),
            Who::KeyWithoutScopes => fixtures.ids.push(("{scopeless}", uid)),
            _ => (),
        }
    }
    for who in Who::iter() {
        if let Some(name) = who.account() {
            fixtures.tokens.insert(who, token(client, name).await?);
        }
    }
    fixtures.tokens.insert(Who::ForgedKey, FORGED_KEY.to_owned());
    fixtures.tokens.insert(Who::ForgedToken, FORGED_TOKEN.to_owned());
    let victim = key(client, &tenant, "victim", &[], limit).await?.0;
    let spare = key(client, &tenant, "spare", &[], limit).await?.0;
    let second_spare = key(client, &tenant, "second-spare", &[], limit).await?.0;
    let [job, spared, second_spared, canceled] = [
        self::job(client, &tenant, "waiting").await?,
        self::job(client, &tenant, "spare").await?,
        self::job(client, &tenant, "second-spare").await?,
        self::job(client, &tenant, "canceled").await?,
    ];
    files(client, &tenant).await?;
    change::<Job>(client, &tenant, "canceled", json!({"spec": {"canceled": true}})).await?;
    change::<TenantApiKey>(client, &tenant, "revoked", json!({"spec": {"revoked": true}})).await?;
    let tenants: Api<Tenant> = Api::all(client.clone());
    let suspend = Patch::Merge(json!({"spec": {"suspended": true}}));
    answered(
        within("failed to suspend a tenant", tenants.patch(SUSPENDED, &PatchParams::default(), &suspend))
            .await,
    )?;
    let of_tenant = answered(within("failed to read a tenant", tenants.get(TENANT)).await)?;
    fixtures.ids.extend([
        ("{tenant}", uid(&of_tenant)),
        ("{next}", NEIGHBOUR.to_owned()),
        ("{job}", job),
        ("{spare}", spared),
        ("{canceled}", canceled),
        ("{key}", victim),
        ("{sparekey}", spare),
        ("{spare2}", second_spared),
        ("{sparekey2}", second_spare),
        ("{node}", uid(node)),
    ]);
    Ok(fixtures)
}

/// Deletes all of it, and waits until it is deleted.
pub async fn remove(client: &Client, site: &Site, limit: Duration) -> Finding {
    let tenants: Api<Tenant> = Api::all(client.clone());
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let (patch_params, delete_params) = (PatchParams::default(), DeleteParams::default());
    let release = Patch::Merge(json!({"spec": {"preventDeletion": false}}));
    let removed = async {
        let patched = tenants.patch(SUSPENDED, &patch_params, &release);
        gone(within("failed to change a tenant", patched).await)?;
        for name in [TENANT, NEIGHBOUR, SUSPENDED] {
            gone(within("failed to delete a tenant", tenants.delete(name, &delete_params)).await)?;
        }
        let deleted = namespaces.delete(ELSEWHERE, &delete_params);
        gone(within("failed to delete a namespace", deleted).await)?;
        let nodes: Api<Node> = Api::all(client.clone());
        gone(within("failed to delete a node", nodes.delete(NODE, &delete_params)).await)?;
        let all = [TENANT, NEIGHBOUR, SUSPENDED].map(|name| names::namespace(&site.prefix, name));
        let are_deleted = || async {
            for name in all.iter().map(String::as_str).chain([ELSEWHERE]) {
                let left = within("failed to read a namespace", namespaces.get_metadata_opt(name)).await?;
                if left.is_some() {
                    return Ok(Err(name.to_owned()));
                }
            }
            Ok(Ok(()))
        };
        trial::wait(limit, are_deleted).await
    };
    match removed.await {
        Ok(Ok(())) => Finding::Ok("what was created for the attacks was deleted".to_owned()),
        Ok(Err(name)) => Finding::failed(
            format!("namespace {name} is not deleted after {} s", limit.as_secs()),
            format!("see the conditions of namespace {name}"),
        ),
        Err(error) => unanswered(error),
    }
}

/// What is deleted already needs no deletion.
fn gone<T>(answer: Result<T, CallError>) -> Result<(), CallError> {
    match answer {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error),
    }
}

/// A namespace of ordinary users, with one of them and a pod.
async fn elsewhere(client: &Client) -> Result<(), Finding> {
    let _: Namespace = create(&Api::all(client.clone()), json!({"metadata": {"name": ELSEWHERE}})).await?;
    let binding = json!({
        "metadata": {"name": "edit"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "edit"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": format!("{ELSEWHERE}:edit")}],
    });
    let _: RoleBinding = create(&Api::namespaced(client.clone(), ELSEWHERE), binding).await?;
    let own = json!({"metadata": {"name": "own"}});
    let _: Secret = create(&Api::namespaced(client.clone(), ELSEWHERE), own).await?;
    pod(client, ELSEWHERE).await
}

/// A token of a new service account, for a check that takes no longer than an hour.
async fn token(client: &Client, name: &str) -> Result<String, Finding> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), ELSEWHERE);
    let _: ServiceAccount = create(&accounts, json!({"metadata": {"name": name}})).await?;
    let request = TokenRequest {
        spec: TokenRequestSpec { expiration_seconds: Some(3600), ..TokenRequestSpec::default() },
        ..TokenRequest::default()
    };
    let params = PostParams::default();
    let issued = accounts.create_token_request(name, &params, &request);
    let issued = answered(within("failed to create a token of a ServiceAccount", issued).await)?;
    Ok(issued.status.map(|status| status.token).unwrap_or_default())
}

/// A pod that is never scheduled.
async fn pod(client: &Client, namespace: &str) -> Result<(), Finding> {
    let mut pod = catalogue::pod(json!({}));
    pod["metadata"]["name"] = json!("plain");
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    // The namespace has its account a moment after its creation.
    let created = || async {
        let object = serde_json::from_value::<Pod>(pod.clone());
        let Ok(object) = object else { return Ok(Ok(())) };
        match within("failed to create a pod", pods.create(&PostParams::default(), &object)).await {
            Err(error) if error.code() == Some(403) => Ok(Err(error.to_string())),
            Err(error) if !error.is_conflict() => Err(error),
            _ => Ok(Ok(())),
        }
    };
    match trial::wait(Duration::from_secs(20), created).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(said)) => Err(Finding::failed(said, "see the message, and run the check again")),
        Err(error) => Err(unanswered(error)),
    }
}

/// What the tenant has in its namespace besides.
async fn files(client: &Client, namespace: &str) -> Result<(), Finding> {
    let own = json!({"metadata": {"name": "own"}});
    let _: Secret = create(&Api::namespaced(client.clone(), namespace), own.clone()).await?;
    let _: ConfigMap = create(&Api::namespaced(client.clone(), namespace), own).await?;
    let mut claim = catalogue::claim(json!({}));
    claim["metadata"] = json!({"name": "own"});
    let _: PersistentVolumeClaim = create(&Api::namespaced(client.clone(), namespace), claim).await?;
    pod(client, namespace).await
}

/// The UID of a new Job, which waits: its tenant has no nodes.
async fn job(client: &Client, namespace: &str, name: &str) -> Result<String, Finding> {
    let job = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": {"name": name}, "spec": {"image": "none"},
    });
    let job: Job = create(&Api::namespaced(client.clone(), namespace), job).await?;
    Ok(uid(&job))
}

/// The UID and the token of a new key.
async fn key(
    client: &Client,
    namespace: &str,
    name: &str,
    scopes: &[&str],
    limit: Duration,
) -> Result<(String, String), Finding> {
    let key = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": {"name": name},
        "spec": {"scopes": scopes},
    });
    let key: TenantApiKey = create(&Api::namespaced(client.clone(), namespace), key).await?;
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let secret = names::key_secret(name);
    let token = std::sync::Mutex::new(None);
    let has_one = || async {
        let found = within("failed to read the Secret of a key", secrets.get_opt(&secret)).await?;
        let text = found.and_then(|secret| secret.data?.remove(names::SECRET_TOKEN));
        let text = text.and_then(|bytes| String::from_utf8(bytes.0).ok());
        let is_there = text.is_some();
        if let Ok(mut token) = token.lock() {
            *token = text;
        }
        Ok(if is_there { Ok(()) } else { Err("it has no token") })
    };
    let waited = trial::wait(limit, has_one).await.map_err(unanswered)?;
    let token = token.into_inner().ok().flatten();
    match (waited, token) {
        (Ok(()), Some(token)) => Ok((uid(&key), token)),
        _ => Err(Finding::failed(
            format!("TenantApiKey {name} has no token after {} s", limit.as_secs()),
            "see the log of the leader",
        )),
    }
}

/// Creates an object. One that exists is of another check, and stays as it is.
async fn create<K>(api: &Api<K>, object: Value) -> Result<K, Finding>
where
    K: Clone + Debug + DeserializeOwned + Serialize + Resource<DynamicType = ()>,
{
    let kind = K::kind(&());
    let object: K = serde_json::from_value(object)
        .map_err(|error| Finding::failed(error, "report this to Crofter's developers"))?;
    let name = object.name_any();
    let what = format!("failed to create {kind} {name}");
    match within(what, api.create(&PostParams::default(), &object)).await {
        Err(error) if error.is_conflict() => Err(Finding::failed(
            format!("{kind} {name} exists: another check runs, or was ended"),
            format!(
                "wait until it ends, or set spec.preventDeletion of Tenant {SUSPENDED} to false, and delete the Tenants, the \
                 Namespace and the Node whose names begin with {TENANT}"
            ),
        )),
        other => answered(other),
    }
}

async fn change<K>(client: &Client, namespace: &str, name: &str, change: Value) -> Result<K, Finding>
where
    K: Clone + Debug + DeserializeOwned + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let what = format!("failed to change {} {name}", K::kind(&()));
    answered(within(what, api.patch(name, &PatchParams::default(), &Patch::Merge(change))).await)
}

fn answered<T>(answer: Result<T, CallError>) -> Result<T, Finding> {
    answer.map_err(unanswered)
}

fn uid(object: &impl ResourceExt) -> String {
    object.uid().unwrap_or_default()
}
