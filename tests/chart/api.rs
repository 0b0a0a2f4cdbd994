//! The REST API in a Deployment of its own: its account has the rights that its routes use and no others, and the operator
//! serves none.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::Command,
};

use crofter::{
    api_types::{TenantApiKey, api_key::TenantApiKeySpec},
    names,
};
use crofter_test_cluster::{Cluster, NodeSpec, process::Process, wait};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Namespace, Node},
};
use kube::{
    Api, Client, Config,
    api::{Patch, PatchParams, PostParams},
    client::Body,
};
use serde_json::{Value, json};

use super::{
    NAMESPACE, RELEASE, chart, helm,
    operator::{WAIT_TIMEOUT, refusals},
    policies::tenant_namespace,
    refused_call,
    rights::{lines, rights, used},
    succeeded,
};

/// Its Deployment, and the account of that.
const API: &str = "crofter-api";

pub(crate) async fn installed() -> Cluster {
    let cluster = Cluster::builder().postgres(false).audit_log(true).start().unwrap();
    let separate = ["--create-namespace", "--set", "api.deployment.enabled=true"];
    succeeded(&helm(&cluster, "install", &chart(), &separate).await);
    cluster
}

/// The rights of the role: in every namespace, what is added in its own, and what in those of tenants.
fn granted() -> [BTreeSet<String>; 3] {
    let everywhere = lines(&[
        ("tenants.crofter.io", "create delete list patch watch"),
        ("jobs.crofter.io", "create delete get list patch watch"),
        ("tenantapikeys.crofter.io", "create delete list patch watch"),
        ("nodes.", "get list patch watch"),
        ("namespaces. kube-system", "get"),
        ("pods.", "get"),
        ("pods/log.", "get"),
    ]);
    [everywhere, lines(&[("secrets. crofter-pepper", "list watch")]), lines(&[("secrets.", "get")])]
}

#[tokio::test]
async fn its_account_has_the_rights_of_its_routes_and_no_others() {
    // Given the chart, the account has these rights in other namespaces, and in its own the peppers.
    let cluster = installed().await;
    let account = cluster.kubeconfig_for_service_account(NAMESPACE, API).await.unwrap();
    let client = cluster.client_for(&account).await.unwrap();
    let [everywhere, at_home, _] = granted();
    assert_eq!(rights(&client, "kube-system").await, everywhere);
    assert_eq!(rights(&client, NAMESPACE).await, everywhere.union(&at_home).cloned().collect());

    // The operator has no more those rights that only the REST API uses.
    let operator = super::operator(&cluster).await;
    let left = rights(&operator, "kube-system").await;
    let kinds = lines(&[
        ("tenants.crofter.io", "create get list patch watch"),
        ("jobs.crofter.io", "delete get list patch watch"),
        ("tenantapikeys.crofter.io", "get list patch watch"),
    ]);
    assert!(left.is_superset(&kinds), "{left:#?}");
    assert!(!left.iter().any(|right| right.starts_with("pods/log.")), "{left:#?}");

    // Its role holds in the whole cluster. The policy keeps it to tenants' namespaces, but for the probe;
    let namespace = tenant_namespace(&operator, "tenant-rest").await;
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let key = |name: &str| {
        TenantApiKey::new(name, TenantApiKeySpec { revoked: true, ..TenantApiKeySpec::default() })
    };
    for outside in ["default", NAMESPACE] {
        let keys: Api<TenantApiKey> = Api::namespaced(client.clone(), outside);
        let none = format!("the REST API works in tenants' namespaces only, and {outside} is none");
        refused_call(&none, || async { keys.create(&dry_run, &key("forged")).await }).await;
    }
    let probes: Api<TenantApiKey> = Api::namespaced(client.clone(), NAMESPACE);
    probes.create(&dry_run, &key(names::KEY_PROBE)).await.unwrap();
    Api::<TenantApiKey>::namespaced(client.clone(), &namespace).create(&dry_run, &key("ci")).await.unwrap();

    // and of a node it changes the label of the tenant alone.
    cluster.add_node(&NodeSpec::new("w1")).await.unwrap();
    let nodes: Api<Node> = Api::all(client);
    let try_it = PatchParams { dry_run: true, ..PatchParams::default() };
    for change in [
        json!({"metadata": {"labels": {names::NODE_POOL: "shared"}}}),
        json!({"metadata": {"labels": {names::NODE_TENANT: "acme", "example.com/note": "x"}}}),
        json!({"metadata": {"annotations": {"example.com/note": "x"}}}),
        json!({"metadata": {"finalizers": ["example.com/x"]}}),
        json!({"spec": {"unschedulable": true}}),
        json!({"spec": {"taints": [{"key": "x", "effect": "NoExecute"}]}}),
    ] {
        let change = Patch::Merge(change);
        let only = "the REST API changes no more of a node than the label of its tenant";
        refused_call(only, || nodes.patch("w1", &try_it, &change)).await;
    }
    let assign = Patch::Merge(json!({"metadata": {"labels": {names::NODE_TENANT: "acme"}}}));
    nodes.patch("w1", &try_it, &assign).await.unwrap();
}

/// A database that does not answer: no route of these tests needs it. (The operator has none, for before a tenant is deleted
/// it waits until the history has what was used.)
const DATABASE_AWAY: &str = "postgres://crofter@127.0.0.1:9/crofter";

/// A process of a Deployment, under its account.
struct Running {
    _process: Process,
    /// Its port of the REST API.
    api: u16,
    /// A client of its probes.
    metrics: Rest,
}

impl Running {
    async fn start(cluster: &Cluster, deployment: &str) -> Self {
        let deployments: Api<Deployment> = Api::namespaced(cluster.client().await.unwrap(), NAMESPACE);
        let pod = deployments.get(deployment).await.unwrap().spec.unwrap().template.spec.unwrap();
        let account = pod.service_account_name.as_deref().unwrap();
        let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, account).await.unwrap();
        let free = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let [api, metrics] = [free(), free()].map(|socket| socket.local_addr().unwrap().port());
        let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
        command.args(pod.containers[0].args.as_ref().unwrap());
        let accounts =
            pod.containers[0].env.iter().flatten().filter(|env| env.name.ends_with("SERVICE_ACCOUNT"));
        command.envs(accounts.map(|env| (&env.name, env.value.as_ref().unwrap())));
        command.args(["--metrics-addr", &format!("127.0.0.1:{metrics}")]);
        command.args(["--api-addr", &format!("127.0.0.1:{api}")]);
        command.env("KUBECONFIG", kubeconfig).env_remove("DATABASE_URL");
        if deployment == API {
            command.env("DATABASE_URL", DATABASE_AWAY);
        }
        let process = cluster.start_process(deployment, command).unwrap();
        let running = Self { _process: process, api, metrics: Rest::at(metrics) };
        wait::until(WAIT_TIMEOUT, "a ready process", async || {
            match running.metrics.ask("GET", "/readyz", "", None).await {
                Ok((200, _)) => Ok(()),
                other => Err(other),
            }
        })
        .await
        .unwrap();
        running
    }
}

/// A client of a server on this machine.
struct Rest(Client);

impl Rest {
    fn at(port: u16) -> Self {
        let mut config = Config::new(format!("http://127.0.0.1:{port}").parse().unwrap());
        config.default_retry = false;
        Self(Client::try_from(config).unwrap())
    }

    /// Status and body of a response.
    async fn ask(
        &self,
        method: &str,
        path: &str,
        token: &str,
        body: Option<Value>,
    ) -> Result<(u16, Value), String> {
        let request = http::Request::builder().method(method).uri(path);
        let request = request.header("authorization", format!("Bearer {token}"));
        let (request, body) = match body {
            Some(body) => (request.header("content-type", "application/json"), body.to_string().into_bytes()),
            None => (request, Vec::new()),
        };
        let request = request.body(Body::from(body)).unwrap();
        let response = self.0.send(request).await.map_err(|error| error.to_string())?;
        let (head, body) = response.into_parts();
        let body = body.collect_bytes().await.map_err(|error| error.to_string())?;
        let text = || Value::String(String::from_utf8_lossy(&body).into_owned());
        Ok((head.status.as_u16(), serde_json::from_slice(&body).unwrap_or_else(|_| text())))
    }

    /// The body of a response with one of these statuses.
    async fn get(
        &self,
        method: &str,
        path: &str,
        token: &str,
        body: Option<Value>,
        statuses: &[u16],
    ) -> Value {
        let (status, body) = self.ask(method, path, token, body).await.unwrap();
        assert!(statuses.contains(&status), "{method} {path}: {status} {body}");
        body
    }
}

/// The token of an administrator of the cluster.
async fn administrator(cluster: &Cluster) -> String {
    let kubectl = async |args: &[&str]| succeeded(&cluster.kubectl(args).await.unwrap());
    kubectl(&["create", "serviceaccount", "boss"]).await;
    let role = ["--clusterrole=cluster-admin", "--serviceaccount=default:boss"];
    kubectl(&[&["create", "clusterrolebinding", "boss"], role.as_slice()].concat()).await;
    kubectl(&["create", "token", "boss"]).await.trim().to_owned()
}

#[tokio::test]
async fn every_route_works_while_the_operator_serves_none() {
    // Given both Deployments' processes under their accounts, only one of them serves the REST API.
    let cluster = installed().await;
    let operator = Running::start(&cluster, RELEASE).await;
    let api = Running::start(&cluster, API).await;
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, operator.api)).is_err(), "the operator serves it");
    let (rest, boss) = (Rest::at(api.api), administrator(&cluster).await);
    let (client, _report) = cluster.client_with_report().await.unwrap();

    // An administrator makes a tenant, changes it, and gives it a node.
    let acme = json!({"name": "acme", "plan": "basic"});
    rest.get("POST", "/v1/tenants", &boss, Some(acme), &[201]).await;
    let at = "/v1/tenants/acme";
    let shown =
        wait::until(WAIT_TIMEOUT, "the tenant", async || match rest.ask("GET", at, &boss, None).await {
            Ok((200, tenant)) => Ok(tenant),
            other => Err(other),
        });
    assert_eq!(shown.await.unwrap()["name"], "acme");
    let renamed = json!({"display_name": "Acme"});
    rest.get("PATCH", at, &boss, Some(renamed), &[200]).await;
    // In its namespace, and in no other but for the peppers, the account reads Secrets.
    let account = cluster.kubeconfig_for_service_account(NAMESPACE, API).await.unwrap();
    let account = cluster.client_for(&account).await.unwrap();
    let [everywhere, _, in_tenants] = granted();
    let expected = everywhere.union(&in_tenants).cloned().collect();
    wait::until(WAIT_TIMEOUT, "the rights of the account", async || {
        let seen = rights(&account, "tenant-acme").await;
        if seen == expected { Ok(()) } else { Err(seen) }
    })
    .await
    .unwrap();
    cluster.add_node(&NodeSpec::new("w1")).await.unwrap();
    let w1 = json!({"node": "w1"});
    let given = async || match rest.ask("POST", &format!("{at}/nodes"), &boss, Some(w1.clone())).await {
        Ok((200 | 201, node)) => Ok(node),
        other => Err(other),
    };
    wait::until(WAIT_TIMEOUT, "the node to be admitted", given).await.unwrap();
    for route in ["", "/acme/stats", "/acme/jobs", "/acme/nodes"] {
        rest.get("GET", &format!("/v1/tenants{route}"), &boss, None, &[200]).await;
    }

    // The key that it makes is accepted, and makes another one with a token.
    let scopes = json!({"scopes": ["jobs:read", "jobs:write", "keys:read", "keys:write", "tenant:read"]});
    let made = async |path: &str, token: &str| {
        let made = async || match rest.ask("POST", path, token, Some(scopes.clone())).await {
            Ok((201, key)) => Ok(key),
            other => Err(other),
        };
        wait::until(WAIT_TIMEOUT, "a key with its token", made).await.unwrap()
    };
    let first = made("/v1/keys?tenant=acme", &boss).await;
    let key = first["token"].as_str().unwrap();
    let accepted = async |token: &str| {
        let known = async || match rest.ask("GET", "/v1/whoami", token, None).await {
            Ok((200, _)) => Ok(()),
            other => Err(other),
        };
        wait::until(WAIT_TIMEOUT, "a key to be accepted", known).await.unwrap();
    };
    accepted(key).await;
    let second = made("/v1/keys", key).await;
    let path = format!("/v1/keys/{}", second["id"].as_str().unwrap());
    let rotated = async || match rest.ask("POST", &format!("{path}/rotate"), key, None).await {
        Ok((200, key)) => Ok(key),
        other => Err(other),
    };
    let rotated = wait::until(WAIT_TIMEOUT, "the next token", rotated).await.unwrap();
    assert_ne!(rotated["token"], second["token"]);
    accepted(rotated["token"].as_str().unwrap()).await;
    rest.get("DELETE", &path, key, None, &[204]).await;

    // Its jobs run, end, are run again, canceled and deleted.
    let job = |parameters: Value| json!({"image": "none", "parameters": parameters, "on_quota": "queue"});
    let submit = async |job: Value| {
        let job = rest.get("POST", "/v1/jobs", key, Some(job), &[201, 202]).await;
        format!("/v1/jobs/{}", job["id"].as_str().unwrap())
    };
    let until = async |path: &str, status: &str| {
        let shown = async || match rest.ask("GET", path, key, None).await {
            Ok((200, job)) if job["status"] == status => Ok(()),
            other => Err(other),
        };
        wait::until(WAIT_TIMEOUT, status, shown).await.unwrap();
    };
    let ended = submit(job(json!({"run-seconds": "1"}))).await;
    until(&ended, "completed").await;
    let again = rest.get("POST", &format!("{ended}/retry"), key, None, &[201, 202]).await;
    until(&format!("/v1/jobs/{}", again["id"].as_str().unwrap()), "completed").await;
    let endless = submit(job(json!({"run-seconds": "forever"}))).await;
    until(&endless, "running").await;
    // This cluster's nodes have no kubelet that would send the log.
    rest.get("GET", &format!("{endless}/logs"), key, None, &[410, 503]).await;
    rest.get("POST", &format!("{endless}/cancel"), key, None, &[202]).await;
    rest.get("DELETE", &ended, key, None, &[204]).await;
    // A list comes from the server's watch and the history, which see a deletion a moment after its answer.
    let without_the_deleted = async || match rest.ask("GET", "/v1/jobs", key, None).await {
        Ok((200, list)) if list["jobs"].as_array().is_some_and(|jobs| jobs.len() == 2) => Ok(()),
        other => Err(other),
    };
    wait::until(WAIT_TIMEOUT, "the list without the deleted job", without_the_deleted).await.unwrap();

    // The node is released, and the tenant deleted.
    rest.get("DELETE", &format!("{at}/nodes/w1"), &boss, None, &[204]).await;
    rest.get("DELETE", at, &boss, None, &[204]).await;
    let namespaces: Api<Namespace> = Api::all(client);
    wait::until(WAIT_TIMEOUT, "the tenant's namespace to be deleted", async || {
        match namespaces.get_opt("tenant-acme").await.unwrap() {
            None => Ok(()),
            Some(namespace) => Err(namespace.status),
        }
    })
    .await
    .unwrap();

    // Nothing of this was refused to either account, and the one of the REST API used every right that it has.
    for account in [RELEASE, API] {
        assert_eq!(refusals(&cluster, account), Vec::<String>::new(), "{account}");
    }
    let used = used(&cluster, API, &[names::PEPPER_SECRET, "kube-system"]);
    assert_eq!(used, granted().into_iter().flatten().collect());
}
