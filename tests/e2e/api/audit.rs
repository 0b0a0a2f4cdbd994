//! The audit log as a list: what was requested over REST is in it, for those who may read it.

use std::path::Path;

use crofter_test_cluster::wait;
use serde_json::{Value, json};

use super::{
    ask, code, id, job,
    people::{account, kubectl},
    tenant,
};
use crate::{
    common::{Answer, WAIT_TIMEOUT, now},
    world,
};

/// The chart's role of auditors. The operator of these tests is not installed by the chart.
async fn auditor(name: &str) -> String {
    let manifests = Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/manifests/base/install.yaml");
    let all = std::fs::read_to_string(manifests).unwrap();
    let role = all.split("\n---\n").find(|one| one.contains("name: crofter:auditor\n")).unwrap();
    let file = world().cluster.dir().join("auditor.yaml");
    std::fs::write(&file, role).unwrap();
    kubectl(&["apply", "-f", file.to_str().unwrap()]).await;
    let subject = format!("--serviceaccount=default:{name}");
    let token = account(name).await;
    kubectl(&["create", "clusterrolebinding", name, "--clusterrole=crofter:auditor", &subject]).await;
    token
}

/// An account that may change tenants, and read no audit log.
async fn administrator(name: &str) -> String {
    let token = account(name).await;
    let verbs = "--verb=get,list,watch,create,patch,delete";
    kubectl(&["create", "clusterrole", name, verbs, "--resource=tenants.crofter.io"]).await;
    let (role, subject) = (format!("--clusterrole={name}"), format!("--serviceaccount=default:{name}"));
    kubectl(&["create", "clusterrolebinding", name, &role, &subject]).await;
    token
}

fn entries(answer: &Answer) -> &[Value] {
    answer.body["entries"].as_array().map_or(&[], Vec::as_slice)
}

/// Waits until a list has this many entries.
async fn listed(auditor: &str, path: &str, number: usize) -> Answer {
    wait::until(WAIT_TIMEOUT, &format!("{number} entries of {path}"), || async {
        let answer = ask("GET", path, auditor, None).await;
        if entries(&answer).len() == number { Ok(answer) } else { Err(answer) }
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn api_a_change_is_in_the_audit_log_for_those_who_may_read_it() {
    const NAME: &str = "api-audit";
    // Given: a tenant with a key, an administrator and an auditor.
    let verbs = world().verbs().await;
    let token = tenant(&verbs, NAME, json!({"plan": "basic"})).await;
    let (auditor, boss) = (auditor("api-audit-auditor").await, administrator("api-audit-boss").await);
    let from = now();
    // When: each of them requests something, the last one in vain, and a job is read.
    let path = format!("/v1/tenants/{NAME}");
    let submitted = ask("POST", "/v1/jobs", &token, Some(&job())).await;
    assert!(submitted.is_made(), "{submitted:?}");
    let patched = ask("PATCH", &path, &boss, Some(&json!({"display_name": "geheim"}))).await;
    assert_eq!(patched.status, 200, "{patched:?}");
    assert_eq!(ask("DELETE", &path, &auditor, None).await.status, 403);
    assert_eq!(ask("GET", &format!("/v1/jobs/{}", id(&submitted)), &token, None).await.status, 200);

    // Then: the log has the three changes, the newest first, by the name of the tenant and by its UID.
    let uid = patched.body["id"].as_str().unwrap().to_owned();
    let all = listed(&auditor, &format!("/v1/audit?tenant={NAME}&from={from}"), 3).await;
    let account = |name: &str| format!("system:serviceaccount:default:{name}");
    let brief = |entry: &Value| {
        json!([entry["who"], entry["user"], entry["action"], entry["object"], entry["made"], entry["status"]])
    };
    let expected = [
        json!(["administrator", account("api-audit-auditor"), "DELETE /tenants/{id}", NAME, null, 403]),
        json!(["administrator", account("api-audit-boss"), "PATCH /tenants/{id}", NAME, null, 200]),
        json!(["key", null, "POST /jobs", null, id(&submitted), submitted.status]),
    ];
    assert_eq!(entries(&all).iter().map(brief).collect::<Vec<_>>(), expected, "{all:?}");
    for entry in entries(&all) {
        assert_eq!((&entry["tenant"], &entry["tenant_id"]), (&json!(NAME), &json!(uid)), "{entry}");
        assert!(entry["client_address"].as_str().unwrap().starts_with("127."), "{entry}");
    }
    let request_id = submitted.header("x-request-id").unwrap();
    assert_eq!(entries(&all)[2]["request_id"], request_id);
    let whoami = ask("GET", "/v1/whoami", &token, None).await;
    assert!(whoami.body.to_string().contains(entries(&all)[2]["key_id"].as_str().unwrap()), "{whoami:?}");
    let text = all.body.to_string();
    assert!(
        ![&token, &auditor, &boss, "crft_", "geheim"].iter().any(|secret| text.contains(*secret)),
        "{text}"
    );
    assert_eq!(listed(&auditor, &format!("/audit?tenant={uid}&from={from}"), 3).await.body, all.body);

    // It is read page by page, and by caller.
    let mut pages = Vec::new();
    let mut cursor = String::new();
    for _ in 0..3 {
        let page =
            ask("GET", &format!("/v1/audit?tenant={uid}&from={from}&limit=1{cursor}"), &auditor, None).await;
        pages.extend(entries(&page).iter().cloned());
        cursor = page.body["next_cursor"].as_str().map_or_else(String::new, |next| format!("&cursor={next}"));
    }
    assert_eq!((pages.as_slice(), cursor.as_str()), (entries(&all), ""));
    let by_boss = format!("/v1/audit?caller={}&from={from}", account("api-audit-boss"));
    assert_eq!(entries(&listed(&auditor, &by_boss, 1).await), &entries(&all)[1..2]);

    // No other caller reads it: not the tenant's key, and not an administrator of tenants without the right.
    for token in [&token, &boss] {
        let refused = ask("GET", "/v1/audit", token, None).await;
        assert_eq!((refused.status, code(&refused).as_str()), (403, "forbidden"), "{refused:?}");
    }
}

#[tokio::test]
async fn api_the_audit_log_has_the_changes_of_a_tenant_that_was_deleted() {
    const NAME: &str = "api-audit-gone";
    let verbs = world().verbs().await;
    let (auditor, boss) =
        (auditor("api-audit-gone-auditor").await, administrator("api-audit-gone-boss").await);
    // Given: a tenant that was created over REST and deleted, and another one of the same name.
    let body = json!({"name": NAME});
    let first = ask("POST", "/v1/tenants", &boss, Some(&body)).await;
    assert_eq!(first.status, 201, "{first:?}");
    let path = format!("/v1/tenants/{NAME}");
    wait::until(WAIT_TIMEOUT, "the tenant to be known", || async {
        let answer = ask("GET", &path, &boss, None).await;
        if answer.status == 200 { Ok(()) } else { Err(answer) }
    })
    .await
    .unwrap();
    assert_eq!(ask("DELETE", &path, &boss, None).await.status, 204);
    verbs.until_deleted(&verbs.all::<crofter::api_types::Tenant>(), NAME).await;
    let second = ask("POST", "/v1/tenants", &boss, Some(&body)).await;
    assert_eq!(second.status, 201, "{second:?}");
    // Then: the changes of each are listed by its UID, and those of both by their name.
    let of =
        async |tenant: &str, number| listed(&auditor, &format!("/v1/audit?tenant={tenant}"), number).await;
    let action = |entry: &Value| entry["action"].as_str().unwrap().to_owned();
    let actions = |answer: &Answer| entries(answer).iter().map(action).collect::<Vec<_>>();
    let (create, delete) = ("POST /tenants", "DELETE /tenants/{id}");
    assert_eq!(actions(&of(&id(&first), 2).await), [delete, create]);
    assert_eq!(actions(&of(&id(&second), 1).await), [create]);
    assert_eq!(actions(&of(NAME, 3).await), [create, delete, create]);
}
