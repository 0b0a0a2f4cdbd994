//! What a key may do to other keys: what it creates ends with it, and it neither ends nor takes over any that may more.

use crofter_test_cluster::wait;
use kube::{ResourceExt, api::DeleteParams};
use serde_json::{Value, json};

use super::{ask, code, id, key, token};
use crate::{
    common::{Answer, Verbs, WAIT_TIMEOUT, keys, rest::ALL},
    world,
};

/// The token of a key that a key has created.
async fn created(verbs: &Verbs<'_>, tenant: &str, by: &str, body: Value) -> (Answer, String) {
    let made = ask("POST", "/v1/keys", by, Some(&body)).await;
    let token = token(verbs, tenant, &made, None).await;
    world().until_answered(&token, 200).await;
    (made, token)
}

/// A key with these scopes, which the REST API lists, and its id.
async fn listed(verbs: &Verbs<'_>, tenant: &str, name: &str, scopes: Value, reader: &str) -> String {
    key(verbs, tenant, name, json!({"scopes": scopes})).await;
    let uid = keys::keys(verbs, tenant).get(name).await.unwrap().uid().unwrap();
    wait::until(WAIT_TIMEOUT, "the key to be listed", || async {
        let list = ask("GET", "/v1/keys", reader, None).await;
        if list.body.to_string().contains(&uid) { Ok(()) } else { Err(list) }
    })
    .await
    .unwrap();
    uid
}

#[tokio::test]
async fn api_keys_end_with_the_key_that_has_created_them() {
    const TENANT: &str = "api-lineage";
    let verbs = world().verbs().await;
    verbs.tenant(TENANT, json!({"plan": "basic"})).await;
    let end = "2099-01-01T00:00:00Z";
    let spec = json!({"scopes": ["keys:write", "jobs:read"], "expiresAt": end});
    let maker = key(&verbs, TENANT, "maker", spec.clone()).await;
    // Given a key that it has created, and one that this has created: both expire with it.
    let (child, child_token) =
        created(&verbs, TENANT, &maker, json!({"scopes": ["keys:write", "jobs:read"]})).await;
    let (grandchild, grandchild_token) =
        created(&verbs, TENANT, &child_token, json!({"scopes": ["jobs:read"]})).await;
    assert_eq!([&child.body["expires_at"], &grandchild.body["expires_at"]], [end, end]);
    let later = json!({"scopes": [], "expires_at": "2099-01-01T00:00:01Z"});
    let refused = ask("POST", "/v1/keys", &maker, Some(&later)).await;
    assert_eq!((refused.status, code(&refused).as_str()), (422, "invalid_object"), "{refused:?}");
    assert!(refused.body["detail"].as_str().unwrap().contains(end), "{refused:?}");
    // When the first is revoked, all are refused and say so.
    keys::patch(&verbs, TENANT, "maker", json!({"spec": {"revoked": true}})).await.unwrap();
    for token in [&maker, &child_token, &grandchild_token] {
        world().until_answered(token, 401).await;
    }
    for made in [&child, &grandchild] {
        let name = made.body["name"].as_str().unwrap();
        let revoked = |key: &_| keys::condition(key, "Active") == "False/KeyRevoked";
        keys::until_key(&verbs, TENANT, name, "revoked with its parent", revoked).await;
    }

    // When a key is deleted, what it has created is deleted too, also where a new key has its name by then.
    let maker = key(&verbs, TENANT, "other", spec.clone()).await;
    let (child, child_token) = created(&verbs, TENANT, &maker, json!({"scopes": ["jobs:read"]})).await;
    keys::keys(&verbs, TENANT).delete("other", &DeleteParams::default()).await.unwrap();
    verbs.until_deleted(&keys::keys(&verbs, TENANT), "other").await;
    keys::make(&verbs, TENANT, "other", spec).await.unwrap();
    world().until_answered(&child_token, 401).await;
    verbs.until_deleted(&keys::keys(&verbs, TENANT), child.body["name"].as_str().unwrap()).await;
}

#[tokio::test]
async fn api_a_key_ends_and_takes_over_no_key_that_may_more() {
    const TENANT: &str = "api-strength";
    let verbs = world().verbs().await;
    verbs.tenant(TENANT, json!({"plan": "basic"})).await;
    let maker = key(&verbs, TENANT, "maker", json!({"scopes": ["keys:read", "keys:write"]})).await;
    let strong = listed(&verbs, TENANT, "strong", json!(ALL), &maker).await;
    let weak = listed(&verbs, TENANT, "weak", json!(["keys:read"]), &maker).await;
    // A stronger key is neither deleted nor rotated.
    for (method, at) in
        [("DELETE", format!("/v1/keys/{strong}")), ("POST", format!("/v1/keys/{strong}/rotate"))]
    {
        let refused = ask(method, &at, &maker, None).await;
        assert_eq!((refused.status, code(&refused).as_str()), (403, "missing_scope"), "{refused:?}");
        assert!(refused.body["detail"].as_str().unwrap().contains("scopes beyond its own"), "{refused:?}");
    }
    assert!(keys::keys(&verbs, TENANT).get("strong").await.is_ok());
    // The token of a key that it has not created would outlive its own. It may be deleted.
    let refused = ask("POST", &format!("/v1/keys/{weak}/rotate"), &maker, None).await;
    assert_eq!((refused.status, code(&refused).as_str()), (403, "forbidden"), "{refused:?}");
    assert!(refused.body["detail"].as_str().unwrap().contains("only itself"), "{refused:?}");
    assert_eq!(ask("DELETE", &format!("/v1/keys/{weak}"), &maker, None).await.status, 204);
    // It rotates what it has created, and rotates and deletes itself.
    let (child, before) = created(&verbs, TENANT, &maker, json!({"scopes": ["keys:read"]})).await;
    let rotated = ask("POST", &format!("/v1/keys/{}/rotate", id(&child)), &maker, None).await;
    assert_ne!(token(&verbs, TENANT, &rotated, Some(&before)).await, before);
    let own = ask("GET", "/v1/whoami", &maker, None).await;
    let at = format!("/v1/keys/{}", id(&own));
    let rotated = ask("POST", &format!("{at}/rotate"), &maker, None).await;
    let second = token(&verbs, TENANT, &rotated, Some(&maker)).await;
    world().until_answered(&second, 200).await;
    assert_eq!(ask("DELETE", &at, &second, None).await.status, 204);
    world().until_answered(&second, 401).await;
}
