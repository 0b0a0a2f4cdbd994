//! What is written, against the mock API server.

use axum::http::Method;
use serde_json::{Value, json};

use super::*;
use crate::{
    client::UsageSpan,
    kube_ext::mock::{self, Fake},
};

const JOB: &str = "/apis/crofter.io/v1alpha1/namespaces/tenant-acme/jobs/render";
const TENANT: &str = "/apis/crofter.io/v1alpha1/tenants/acme";

fn cluster(client: Client) -> Cluster {
    Cluster::of(client, "https://c".to_owned(), "default".to_owned(), "tenant-")
}

fn acme() -> Scope {
    Scope::Tenant("acme".to_owned())
}

fn stored(phase: &str) -> Value {
    json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Job",
        "metadata": {"name": "render", "namespace": "tenant-acme", "uid": "u"},
        "spec": {"image": "i", "canceled": true}, "status": {"phase": phase},
    })
}

#[tokio::test]
async fn a_job_is_canceled_by_its_spec_and_by_its_uid() {
    let fake = Fake::default();
    fake.put(JOB, stored("Running"));
    let cluster = cluster(fake.client());
    let job = cluster.job(&acme(), "render").await.unwrap();
    fake.calls();
    cluster.cancel(&acme(), &job).await.unwrap();
    let calls = fake.calls();
    assert_eq!((&calls[0].method, calls[0].path.as_str()), (&Method::PATCH, JOB));
    assert_eq!(calls[0].body, json!({"metadata": {"uid": "u"}, "spec": {"canceled": true}}));
    // One that has ended is refused without a call.
    fake.put(JOB, stored("Completed"));
    let ended = cluster.job(&acme(), "render").await.unwrap();
    fake.calls();
    assert_eq!(cluster.cancel(&acme(), &ended).await.unwrap_err().kind, Kind::Refused);
    assert_eq!(fake.calls().len(), 0);
}

#[tokio::test]
async fn a_job_is_run_again_under_another_name_and_is_not_canceled() {
    let fake = Fake::default();
    fake.put(JOB, stored("Canceled"));
    let cluster = cluster(fake.client());
    let job = cluster.job(&acme(), "render").await.unwrap();
    let again = cluster.retry(&acme(), &job).await.unwrap();
    assert!(again.name.starts_with("render-") && again.name.len() == "render-".len() + 8, "{}", again.name);
    let created = fake.calls().pop().unwrap();
    assert_eq!((created.method, &created.body["spec"]["canceled"]), (Method::POST, &json!(false)));
    assert!(created.query.contains("fieldValidation=Strict"), "{}", created.query);
}

#[tokio::test]
async fn a_quota_is_merged_into_the_tenant() {
    let fake = Fake::default();
    fake.put(TENANT, json!({"metadata": {"name": "acme"}, "spec": {"quotas": {"maxGpus": 1}}}));
    let quotas = json!({"maxJobs": 30, "maxGpus": null}).as_object().unwrap().clone();
    let changes = TenantChanges { quotas, suspended: Some(false), ..TenantChanges::default() };
    cluster(fake.client()).update_tenant("acme", &changes).await.unwrap();
    assert_eq!(fake.get(TENANT)["spec"], json!({"quotas": {"maxJobs": 30}, "suspended": false}));
}

#[tokio::test]
async fn a_node_that_its_kubelet_changes_meanwhile_is_labelled_all_the_same() {
    // Given a node that changes between each of the first two reads and writes.
    let fake = Fake::default();
    fake.put(TENANT, json!({"metadata": {"name": "acme"}}));
    fake.put("/api/v1/nodes/w1", json!({"metadata": {"name": "w1"}}));
    let changes = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let api = fake.clone();
    let client = mock::client(move |call| {
        let is_label = call.method == Method::PATCH;
        if is_label && changes.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 2 {
            let node = api.get("/api/v1/nodes/w1");
            api.put("/api/v1/nodes/w1", node);
        }
        api.answer(call)
    });
    let cluster = cluster(client);
    // It is labelled at the third attempt.
    cluster.assign_node("acme", "w1").await.unwrap();
    assert_eq!(fake.get("/api/v1/nodes/w1")["metadata"]["labels"][names::NODE_TENANT], "acme");
    // Another tenant's node is refused with the command that releases it.
    fake.put("/apis/crofter.io/v1alpha1/tenants/other", json!({"metadata": {"name": "other"}}));
    let error = cluster.assign_node("other", "w1").await.unwrap_err();
    assert_eq!(error.next.as_deref(), Some("nodes release w1 --tenant acme"));
}

#[tokio::test]
async fn what_the_cluster_does_not_have_says_so() {
    let cluster = cluster(Fake::default().client());
    let span = UsageSpan { from: jiff::Timestamp::UNIX_EPOCH, to: jiff::Timestamp::MAX, step: "day" };
    assert_eq!(cluster.usage(&acme(), &span).await.unwrap_err().kind, Kind::NeedsRest);
    // A namespace that is no tenant's names none.
    let error = cluster.tenant(&Scope::Own).await.unwrap_err();
    assert!(error.message.contains("the namespace default of the kubeconfig is no tenant's"), "{error}");
}
