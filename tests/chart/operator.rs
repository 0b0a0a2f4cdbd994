//! The operator under the chart's service account: what it does in a tenant's whole life needs no right that the chart
//! does not give.

use std::{fs, process::Command, time::Duration};

use crofter::{
    api_types::{Job, JobPhase, Tenant, TenantApiKey, api_key::TenantApiKeySpec},
    names,
};
use crofter_test_cluster::{Cluster, NodeSpec, wait};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, Secret},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kube::{
    Api,
    api::{DeleteParams, ListParams, PostParams},
};
use serde_json::{Value, json};

use super::{NAMESPACE, RELEASE, chart, helm, object, succeeded};

/// How long a tenant or a job may take.
pub(crate) const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The requests of a service account of the operator's namespace, out of the audit log.
pub(crate) fn audited(cluster: &Cluster, account: &str) -> Vec<Value> {
    let user = format!("system:serviceaccount:{NAMESPACE}:{account}");
    let log = fs::read_to_string(cluster.audit_log().unwrap()).unwrap();
    let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let own: Vec<_> = events.filter(|event| event["user"]["username"] == user.as_str()).collect();
    assert!(!own.is_empty(), "{account} has asked for nothing");
    own
}

/// What the API server refused it, but for Events in a namespace that is being deleted.
pub(crate) fn refusals(cluster: &Cluster, account: &str) -> Vec<String> {
    audited(cluster, account)
        .into_iter()
        .filter(|event| event["responseStatus"]["code"] == 403)
        .map(|event| {
            format!("{} {}: {}", event["verb"], event["requestURI"], event["responseStatus"]["message"])
        })
        .filter(|refusal| !refusal.contains("because it is being terminated"))
        .collect()
}

#[tokio::test]
async fn it_works_with_the_charts_rights() {
    let cluster = Cluster::builder().postgres(false).audit_log(true).start().unwrap();
    succeeded(&helm(&cluster, "install", &chart(), &["--create-namespace"]).await);
    let kubeconfig = cluster.kubeconfig_for_service_account(NAMESPACE, RELEASE).await.unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_crofter"));
    command.args(["run", "--metrics-addr", "127.0.0.1:0", "--api-addr", "127.0.0.1:0"]);
    command.args(["--default-tenant", "enterprise", "--service-account", &format!("{NAMESPACE}/{RELEASE}")]);
    command.env("KUBECONFIG", kubeconfig).env_remove("DATABASE_URL");
    let _operator = cluster.start_process("crofter", command).unwrap();

    let (admin, _report) = cluster.client_with_report().await.unwrap();
    let tenants: Api<Tenant> = Api::all(admin.clone());
    cluster.add_node(&NodeSpec::new("w1").label(names::NODE_TENANT, "acme")).await.unwrap();
    let acme = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme"},
        "spec": {"plan": "basic", "access": [{"kind": "User", "name": "alice", "role": "developer"}]},
    });
    tenants.create(&PostParams::default(), &object(acme)).await.unwrap();
    wait::until(WAIT_TIMEOUT, "the tenants to be ready", || async {
        let statuses =
            tenants.list(&ListParams::default()).await.unwrap().items.into_iter().map(|t| t.status);
        let conditions: Vec<_> = statuses.map(|s| s.unwrap_or_default().conditions).collect();
        let ready = |all: &Vec<Condition>| all.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        if conditions.iter().all(ready) { Ok(()) } else { Err(conditions) }
    })
    .await
    .unwrap();

    // Alice's own rights are enough for a job.
    let alice = cluster.client_for(&cluster.kubeconfig_for_user("alice", &[]).unwrap()).await.unwrap();
    let jobs: Api<Job> = Api::namespaced(alice, "tenant-acme");
    let job: Job = object(json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": {"name": "hello"},
        "spec": {"image": "none"},
    }));
    // The role behind alice's binding is put together by the controller manager, a moment after the install.
    let plainly = PostParams::default();
    wait::until(WAIT_TIMEOUT, "the job to be accepted", || jobs.create(&plainly, &job)).await.unwrap();
    // What a policy refuses her is in the audit log with the policy and the tenant.
    let mut paused = job.clone();
    paused.metadata.annotations = Some([(names::ANNOTATION_PAUSED.to_owned(), "true".to_owned())].into());
    let refused = async || match jobs.create(&plainly, &paused).await {
        Err(kube::Error::Api(status)) if status.code == 403 => Ok(()),
        other => Err(other),
    };
    wait::until(WAIT_TIMEOUT, "the policy to refuse it", refused).await.unwrap();
    let log = fs::read_to_string(cluster.audit_log().unwrap()).unwrap();
    let events = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let of_policy = |event: &Value| event["annotations"]["paused.crofter.io/tenant"] == "acme";
    let failure = "validation.policy.admission.k8s.io/validation_failure";
    let audited = events.filter(of_policy).find(|event| event["annotations"][failure].is_string()).unwrap();
    assert_eq!(audited["user"]["username"], "alice");
    assert!(audited["annotations"][failure].as_str().unwrap().contains("paused.crofter.io"), "{audited}");

    let all_jobs: Api<Job> = Api::namespaced(admin.clone(), "tenant-acme");
    wait::until(WAIT_TIMEOUT, "the job to end", || async {
        let status = all_jobs.get("hello").await.unwrap().status;
        if status.as_ref().is_some_and(|s| s.phase == JobPhase::Completed) { Ok(()) } else { Err(status) }
    })
    .await
    .unwrap();

    // An API key gets its Secret, by the right that the operator has given itself in this namespace.
    let keys: Api<TenantApiKey> = Api::namespaced(admin.clone(), "tenant-acme");
    keys.create(&plainly, &TenantApiKey::new("ci", TenantApiKeySpec::default())).await.unwrap();
    wait::until(WAIT_TIMEOUT, "the key to be ready", || async {
        let conditions = keys.get("ci").await.unwrap().status.unwrap_or_default().conditions;
        let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        if ready { Ok(()) } else { Err(conditions) }
    })
    .await
    .unwrap();
    let secrets: Api<Secret> = Api::namespaced(admin.clone(), "tenant-acme");
    assert!(secrets.get("crofter-key-ci").await.unwrap().data.unwrap().contains_key(names::SECRET_TOKEN));

    let records: Api<ConfigMap> = Api::namespaced(admin.clone(), NAMESPACE);
    assert!(tenants.get_opt(names::DEFAULT_TENANT).await.unwrap().is_some());
    assert!(records.get_opt(names::DEFAULT_TENANT_RECORD).await.unwrap().is_some());

    tenants.delete("acme", &DeleteParams::default()).await.unwrap();
    wait::until(WAIT_TIMEOUT, "the tenant to go", || async {
        let namespace = Api::<Namespace>::all(admin.clone()).get_opt("tenant-acme").await.unwrap();
        match (tenants.get_opt("acme").await.unwrap(), namespace) {
            (None, None) => Ok(()),
            (tenant, namespace) => Err((tenant.and_then(|t| t.status), namespace.and_then(|n| n.status))),
        }
    })
    .await
    .unwrap();
    assert_eq!(refusals(&cluster, RELEASE), Vec::<String>::new());
}
