//! Tenants, keys, nodes and new jobs as objects of the cluster.

use axum::http::Request;
use k8s_openapi::api::core::v1::{Node as ClusterNode, ResourceQuota, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{ListParams, PostParams},
};
use secrecy::SecretString;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::{
    ISSUE_LIMIT, MANAGER, PAGE, POLL,
    calls::{CONFLICT, called, failed, merged},
    views,
};
use crate::{
    api_types::{self, TenantApiKey, conditions},
    client::{
        IssuedKey, NewKey, TenantChanges,
        error::{Error, Kind, Result},
        model::{Key, Node, Tenant},
    },
    clock::Clock,
    domain::worker,
    names,
    random::Random,
};

/// Most writes to a node that other clients change at the same time.
const MAX_ATTEMPTS: usize = 5;

/// A name that no object has.
pub fn random_name(prefix: &str) -> Result<String> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let mut bytes = [0; 8];
    Random::system()
        .fill(&mut bytes)
        .map_err(|error| Error::new(Kind::Failed, format!("failed to choose a name: {error}")))?;
    let letters = bytes.iter().map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
    Ok(format!("{prefix}-{}", letters.collect::<String>()))
}

/// A Tenant, or of one that may not be read what its namespace's ResourceQuota says.
pub async fn tenant(client: &Client, name: &str, namespace: &str) -> Result<Tenant> {
    let api: Api<api_types::Tenant> = Api::all(client.clone());
    let what = format!("read the tenant {name}");
    let error = match called(&what, api.get(name)).await {
        Ok(tenant) => return Ok(views::tenant(&tenant)),
        Err(error) if error.kind == Kind::Denied => error,
        Err(error) => return Err(error.or_next("tenants list")),
    };
    let quotas: Api<ResourceQuota> = Api::namespaced(client.clone(), namespace);
    let ours = ListParams::default().labels(&format!("{}={name}", names::LABEL_TENANT));
    match called(&what, quotas.list(&ours)).await {
        Ok(found) => {
            let quota = found.items.first().ok_or(error)?;
            Ok(views::tenant_of_quota(name, quota))
        }
        Err(_) => Err(error),
    }
}

/// All Tenants, by name.
pub async fn tenants(client: &Client) -> Result<Vec<Tenant>> {
    let api: Api<api_types::Tenant> = Api::all(client.clone());
    let (mut params, mut all) = (ListParams::default().limit(PAGE), Vec::new());
    loop {
        let page = called("list the tenants", api.list(&params)).await?;
        all.extend(page.items.iter().map(views::tenant));
        match page.metadata.continue_ {
            Some(token) if !token.is_empty() => params = params.continue_token(&token),
            _ => return Ok(all),
        }
    }
}

/// Changes a Tenant's spec.
pub async fn update_tenant(client: &Client, name: &str, changes: &TenantChanges) -> Result<Tenant> {
    let mut spec = Map::new();
    if let Some(plan) = &changes.plan {
        spec.insert("plan".to_owned(), json!(plan));
    }
    if let Some(suspended) = changes.suspended {
        spec.insert("suspended".to_owned(), json!(suspended));
    }
    if let Some(at) = changes.expires_at {
        spec.insert("expiresAt".to_owned(), json!(at));
    }
    if !changes.quotas.is_empty() {
        spec.insert("quotas".to_owned(), changes.quotas.clone().into());
    }
    let api: Api<api_types::Tenant> = Api::all(client.clone());
    let what = format!("change the tenant {name}");
    let changed =
        merged(&what, &api, name, json!({"spec": spec})).await.map_err(|error| match error.kind {
            Kind::NotFound => error.or_next("tenants list"),
            _ => error,
        })?;
    // Its status follows: what is shown is what was requested.
    let mut view = views::tenant(&changed);
    for (field, quota) in &changes.quotas {
        if let (Some(quotas), Some(quota)) = (&mut view.quotas, quota.as_i64()) {
            quotas.insert(super::super::spec::snake(field), quota);
        }
    }
    Ok(view)
}

/// Creates a Job, or only has the API server check it. It refuses a field that no Job has.
pub async fn create_job(
    client: &Client,
    what: &str,
    namespace: &str,
    object: &Value,
    is_dry: bool,
) -> Result<api_types::Job> {
    let path = format!(
        "/apis/{}/{}/namespaces/{namespace}/jobs?fieldManager={MANAGER}&fieldValidation=Strict{}",
        names::GROUP,
        names::VERSION,
        if is_dry { "&dryRun=All" } else { "" },
    );
    let request = Request::post(path)
        .header("content-type", "application/json")
        .body(object.to_string().into_bytes())
        .map_err(|error| failed(what, Kind::Usage, &error.to_string()))?;
    called(what, client.request(request)).await
}

/// A new Job of the same spec.
pub fn again(job: &api_types::Job) -> Result<Value> {
    let mut spec = job.spec.clone();
    spec.canceled = false;
    if !spec.has_payload() {
        return Err(Error::needs_rest(&format!(
            "retry the job {}, whose spec only the history has",
            job.name_any()
        )));
    }
    // 12 characters are added.
    let base: String = job.name_any().chars().take(50).collect();
    let name = random_name(base.trim_end_matches(['-', '.']))?;
    Ok(json!({
        "apiVersion": format!("{}/{}", names::GROUP, names::VERSION), "kind": "Job",
        "metadata": {"name": name}, "spec": spec,
    }))
}

fn key_api(client: &Client, namespace: &str) -> Api<TenantApiKey> {
    Api::namespaced(client.clone(), namespace)
}

/// The keys of a namespace, the newest first.
pub async fn keys(client: &Client, namespace: &str) -> Result<Vec<Key>> {
    let found = called("list the keys", key_api(client, namespace).list(&ListParams::default())).await?;
    let mut keys = found.items.iter().map(views::key).collect::<Result<Vec<Key>>>()?;
    keys.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.name.cmp(&b.name)));
    Ok(keys)
}

/// Waits until a key is issued, and returns it.
async fn until_issued(
    client: &Client,
    namespace: &str,
    name: &str,
    is_new: impl Fn(&TenantApiKey) -> bool,
) -> Result<TenantApiKey> {
    let (api, what) = (key_api(client, namespace), format!("wait for the key {name}"));
    let end = Instant::now() + ISSUE_LIMIT;
    loop {
        let key = called(&what, api.get(name)).await?;
        let all = key.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let ready = all.iter().find(|condition| condition.type_ == conditions::READY);
        if is_new(&key) && ready.is_some_and(|ready| ready.status == "True") {
            return Ok(key);
        }
        if Instant::now() >= end {
            let reason = ready.map_or("the operator has not seen it", |ready| ready.message.as_str());
            let cause = format!("it is not issued after {} s: {reason}", ISSUE_LIMIT.as_secs());
            return Err(failed(&what, Kind::TimedOut, &cause).next("check"));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn issued(
    client: &Client,
    namespace: &str,
    key: &TenantApiKey,
    wants_token: bool,
) -> Result<IssuedKey> {
    let secret = key.secret_name();
    let token = if wants_token {
        let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
        let found = called(&format!("read the Secret {secret}"), api.get(&secret)).await?;
        let bytes = found.data.and_then(|mut data| data.remove(names::SECRET_TOKEN));
        bytes.and_then(|bytes| String::from_utf8(bytes.0).ok()).map(SecretString::from)
    } else {
        None
    };
    let stored = Some(format!("Secret {secret} in {namespace}, key {}", names::SECRET_TOKEN));
    Ok(IssuedKey { key: views::key(key)?, token, stored })
}

/// Creates a key, and waits until it is issued.
pub async fn create_key(
    client: &Client,
    namespace: &str,
    key: &NewKey,
    wants_token: bool,
) -> Result<IssuedKey> {
    let name = match &key.name {
        Some(name) => name.clone(),
        None => random_name("key")?,
    };
    let mut spec = json!({"scopes": key.scopes});
    for (field, value) in [
        ("displayName", key.display_name.as_ref().map(|name| json!(name))),
        ("expiresAt", key.expires_at.map(|at| json!(at))),
        ("rotateEvery", key.rotate_every.as_ref().map(|every| json!(every))),
    ] {
        if let Some(value) = value {
            spec[field] = value;
        }
    }
    let what = format!("create the key {name}");
    let object = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))
        .map_err(|error| failed(&what, Kind::Usage, &error.to_string()))?;
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    called(&what, key_api(client, namespace).create(&params, &object)).await?;
    let key = until_issued(client, namespace, &name, |_| true).await?;
    issued(client, namespace, &key, wants_token).await
}

/// Requests a new version of a key, and waits until it is issued.
pub async fn rotate_key(client: &Client, namespace: &str, key: &Key, wants_token: bool) -> Result<IssuedKey> {
    let what = format!("rotate the key {}", key.name);
    if key.revoked || !key.active {
        let cause = format!("it is not accepted: {}", key.reason.as_deref().unwrap_or("not issued yet"));
        return Err(failed(&what, Kind::Refused, &cause).next("keys create"));
    }
    let mut annotations = Map::new();
    let request = random_name(&Clock::system().now().as_second().to_string())?;
    annotations.insert(names::ANNOTATION_ROTATE.to_owned(), json!(request));
    let change = json!({"metadata": {"uid": key.id, "annotations": annotations}});
    merged(&what, &key_api(client, namespace), &key.name, change).await?;
    let is_new = |found: &TenantApiKey| {
        let status = found.status.as_ref();
        status.is_some_and(|status| status.last_rotate_request.as_deref() == Some(&*request))
    };
    let rotated = until_issued(client, namespace, &key.name, is_new).await?;
    issued(client, namespace, &rotated, wants_token).await
}

/// Revokes a key: it stays as an object, and is refused from now on.
pub async fn revoke_key(client: &Client, namespace: &str, key: &Key) -> Result<()> {
    let change = json!({"metadata": {"uid": key.id}, "spec": {"revoked": true}});
    let what = format!("revoke the key {}", key.name);
    merged(&what, &key_api(client, namespace), &key.name, change).await.map(drop)
}

fn node_view(node: &ClusterNode, tenant: &str) -> Node {
    views::node(node, tenant, names::DEFAULT_GPU_RESOURCE)
}

/// The nodes that are labelled for a tenant.
pub async fn nodes(client: &Client, tenant: &str) -> Result<Vec<Node>> {
    let api: Api<ClusterNode> = Api::all(client.clone());
    let labelled = ListParams::default().labels(&format!("{}={tenant}", names::NODE_TENANT));
    let found = called("list the nodes", api.list(&labelled)).await?;
    Ok(found.items.iter().map(|node| node_view(node, tenant)).collect())
}

async fn read_node(client: &Client, what: &str, name: &str) -> Result<ClusterNode> {
    let api: Api<ClusterNode> = Api::all(client.clone());
    let found = called(what, api.get_opt(name)).await?;
    found.ok_or_else(|| failed(what, Kind::NotFound, &format!("there is no node {name}")).next("nodes list"))
}

/// Sets the label of a node as it was read; `None` where another client, such as its kubelet, has changed the node meanwhile.
async fn label_node(
    client: &Client,
    what: &str,
    node: &ClusterNode,
    label: Option<&str>,
) -> Result<Option<ClusterNode>> {
    let mut labels = Map::new();
    labels.insert(names::NODE_TENANT.to_owned(), json!(label));
    let metadata = json!({"resourceVersion": node.metadata.resource_version, "labels": labels});
    let change = json!({"metadata": metadata});
    match merged(what, &Api::all(client.clone()), &node.name_any(), change).await {
        Err(error) if error.code.as_deref() == Some(CONFLICT) => Ok(None),
        labelled => labelled.map(Some),
    }
}

/// The error of a node that changes too often.
fn changes_too_often(what: &str) -> Error {
    failed(what, Kind::Refused, "other clients keep changing the node: try again").next("nodes list")
}

/// Labels a node for a tenant, as an administrator would; whether it is admitted, the operator decides.
pub async fn assign_node(client: &Client, tenant: &str, name: &str) -> Result<Node> {
    let what = format!("assign the node {name} to {tenant}");
    let tenants: Api<api_types::Tenant> = Api::all(client.clone());
    if called(&what, tenants.get_metadata_opt(tenant)).await?.is_none() {
        return Err(failed(&what, Kind::NotFound, "there is no such tenant").next("tenants list"));
    }
    for _ in 0..MAX_ATTEMPTS {
        let node = read_node(client, &what, name).await?;
        match worker::label(&node, names::NODE_TENANT) {
            Some(other) if other != tenant => {
                let next = format!("nodes release {name} --tenant {other}");
                let cause = format!("it is the tenant {other}'s");
                return Err(failed(&what, Kind::Refused, &cause).next(next));
            }
            Some(_) => return Ok(node_view(&node, tenant)),
            None => {
                if let Some(labelled) = label_node(client, &what, &node, Some(tenant)).await? {
                    return Ok(node_view(&labelled, tenant));
                }
            }
        }
    }
    Err(changes_too_often(&what))
}

/// Removes a tenant's label from a node. Jobs that run there finish.
pub async fn release_node(client: &Client, tenant: &str, name: &str) -> Result<()> {
    let what = format!("release the node {name} of {tenant}");
    for _ in 0..MAX_ATTEMPTS {
        let node = read_node(client, &what, name).await?;
        if worker::label(&node, names::NODE_TENANT) != Some(tenant) {
            return Err(failed(&what, Kind::NotFound, "it is not that tenant's").next("nodes list"));
        }
        if label_node(client, &what, &node, None).await?.is_some() {
            return Ok(());
        }
    }
    Err(changes_too_often(&what))
}
