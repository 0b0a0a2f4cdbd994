//! The end of keys, peppers that change or are missing, and keys that nothing is done for.

use super::*;

#[tokio::test]
async fn revoked_and_expired_keys_are_not_looked_after_any_more() {
    let bench = bench();
    bench.key(json!({}), json!({"rotateEvery": "1h", "expiresAt": "2030-01-01T02:00:00Z"}));
    bench.converge().await;
    let token = bench.token().id();
    bench.after(3600);
    bench.converge().await;
    assert_ne!(bench.token().id(), token, "by schedule");
    assert_eq!(bench.status()["versions"][1]["validUntil"], json!("2030-01-01T02:00:00Z"), "with the key");
    bench.after(3600);
    assert_eq!(bench.reconcile_once().await, [STATUS, "Event KeyExpired"]);
    assert_eq!(
        bench.conditions(),
        conditions(&[("Active", "False/KeyExpired"), ("Ready", "True/KeyExpired")])
    );
    bench.after(3600);
    assert_eq!(bench.reconcile_once().await, [""; 0]);
    bench.change(json!({"spec": {"revoked": true}}));
    assert_eq!(bench.reconcile_once().await, [STATUS, "Event KeyRevoked"]);
    assert_eq!(
        bench.conditions(),
        conditions(&[("Active", "False/KeyRevoked"), ("Ready", "True/KeyRevoked")])
    );
    assert_eq!((bench.ids().len(), bench.status()["keyId"].clone()), (0, Value::Null));
    assert_eq!(bench.reconcile_once().await, [""; 0]);
}

#[tokio::test]
async fn a_key_ends_with_the_key_that_has_created_it() {
    // Given: a key with a token, created by the key `maker`.
    let mut bench = bench();
    let owner =
        json!({"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "name": "maker", "uid": "m1"});
    let maker = |uid: &str, spec: Value| {
        let metadata = json!({"name": "maker", "namespace": "tenant-acme", "uid": uid});
        json!({"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": metadata, "spec": spec})
    };
    put(&mut bench.keys, maker("m1", json!({"expiresAt": "2030-01-01T00:05:00Z"})));
    bench.key(json!({"ownerReferences": [owner]}), json!({}));
    bench.converge().await;
    let ids = bench.ids();
    let action = bench.try_reconcile().await.0.unwrap();
    assert_eq!(action, Action::requeue(std::time::Duration::from_secs(300)), "when the other expires");
    // When the other expires, so does it, and is valid again with it.
    bench.after(300);
    assert_eq!(bench.reconcile_once().await, [STATUS, "Event KeyExpired"]);
    assert_eq!((bench.conditions()["Active"].as_str(), bench.ids()), ("False/KeyExpired", ids.clone()));
    put(&mut bench.keys, maker("m1", json!({})));
    bench.converge().await;
    assert_eq!((bench.conditions()["Active"].as_str(), bench.ids()), ("True/KeyAccepted", ids));
    // When the other is revoked, or replaced by a new key of its name, it is revoked for good.
    for other in [maker("m2", json!({})), maker("m1", json!({"revoked": true}))] {
        let mut bench = self::bench();
        put(&mut bench.keys, maker("m1", json!({})));
        bench.key(json!({"ownerReferences": [owner]}), json!({}));
        bench.converge().await;
        put(&mut bench.keys, other);
        assert_eq!(bench.reconcile_once().await, [STATUS, "Event KeyRevoked"]);
        assert_eq!((bench.conditions()["Active"].as_str(), bench.ids().len()), ("False/KeyRevoked", 0));
        let said = bench.status()["conditions"].to_string();
        assert!(said.contains("key maker, which has created this one, is revoked or deleted"), "{said}");
    }
    // One that is not found may be one that this version can't read: what is left is valid again with it.
    let mut bench = self::bench();
    put(&mut bench.keys, maker("m1", json!({})));
    bench.key(json!({"ownerReferences": [owner]}), json!({}));
    bench.converge().await;
    let ids = bench.ids();
    mock::drop_all(&mut bench.keys);
    assert_eq!(bench.reconcile_once().await, [STATUS, "Event KeyRevoked"]);
    assert_eq!(bench.conditions()["Active"], "False/KeyRevoked");
    put(&mut bench.keys, maker("m1", json!({})));
    bench.converge().await;
    assert_eq!((bench.conditions()["Active"].as_str(), bench.ids()), ("True/KeyAccepted", ids));
}

#[tokio::test]
async fn a_key_outside_of_a_tenants_namespace_gets_nothing() {
    let mut bench = bench();
    mock::drop_all(&mut bench.tenants);
    bench.key(json!({}), json!({}));
    assert_eq!(bench.reconcile_once().await, [STATUS, "Event NotATenantNamespace"]);
    assert_eq!(bench.conditions()["Stalled"], "True/NotATenantNamespace");
    assert_eq!(bench.reconcile_once().await, [""; 0]);
    bench.key(json!({}), json!({"rotateEvery": "0s"}));
    let tenant = json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme", "uid": "t1"},
        "spec": {}, "status": {"namespace": "tenant-acme"},
    });
    put(&mut bench.tenants, tenant);
    assert_eq!(bench.reconcile_once().await, [STATUS, "Event InvalidObject"]);
}

#[tokio::test]
async fn the_first_key_has_the_pepper_created_and_an_unusable_one_is_reported() {
    let bench = bench();
    bench.peppers.send_replace(pepper::State::Absent);
    bench.key(json!({}), json!({}));
    assert_eq!(bench.reconcile_once().await, ["POST /api/v1/namespaces/crofter-system/secrets"]);
    bench.peppers.send_replace(pepper::State::Pending);
    assert_eq!(bench.reconcile_once().await, [""; 0], "until the watch delivers it");
    bench.peppers.send_replace(pepper::State::Unusable(crate::domain::api_key::mac::NoPepper::Short));
    assert_eq!(bench.reconcile_once().await, [STATUS, "Event PepperUnusable"]);
    assert_eq!(bench.conditions()["Stalled"], "True/PepperUnusable");
    bench.peppers.send_replace(pepper::State::Absent);
    bench.key(json!({}), json!({"revoked": true}));
    assert_eq!(bench.reconcile_once().await, [STATUS, "Event KeyRevoked"], "needs none");
}

#[tokio::test]
async fn a_new_pepper_hashes_the_text_that_is_there() {
    let bench = bench();
    bench.key(json!({}), json!({}));
    bench.converge().await;
    let (token, conditions) = (bench.token().id(), bench.status()["conditions"].clone());
    for (in_force, hashed) in [([1, 2].as_slice(), json!([2, 1])), (&[2], json!([2]))] {
        bench.peppers.send_replace(peppers(in_force));
        assert_eq!(bench.reconcile_once().await, [get(), STATUS.into()]);
        let macs = bench.status()["versions"][0]["macs"].as_array().unwrap().clone();
        assert_eq!(json!(macs.iter().map(|mac| &mac["pepper"]).collect::<Vec<_>>()), hashed);
        assert!(bench.opens());
        bench.converge().await;
    }
    assert_eq!((bench.token().id(), bench.status()["conditions"].clone()), (token, conditions));
}

#[tokio::test]
async fn a_paused_key_is_left_alone_and_one_on_its_way_out_too() {
    let bench = bench();
    bench.key(json!({"annotations": {names::ANNOTATION_PAUSED: "true"}}), json!({}));
    assert_eq!(bench.reconcile_once().await, [""; 0]);
    bench.key(json!({"deletionTimestamp": START, "finalizers": ["x.io/x"]}), json!({}));
    assert_eq!(bench.reconcile_once().await, [""; 0]);
}

#[tokio::test]
async fn being_paused_keeps_no_key_from_its_end() {
    let bench = bench();
    bench.key(json!({"annotations": {names::ANNOTATION_PAUSED: "true"}}), json!({"revoked": true}));
    bench.reconcile_once().await;
    assert_eq!(bench.conditions()["Active"], "False/KeyRevoked");
}

#[tokio::test]
async fn an_invalid_key_is_reported() {
    let bench = bench();
    bench.key(json!({}), json!({"scopes": "all"}));
    let meta: Meta<TenantApiKey> = serde_json::from_value(bench.fake.get(KEY)).unwrap();
    invalid::reconcile(Arc::new(meta), Arc::clone(&bench.context)).await.unwrap();
    bench.context.dependencies.events.flush(std::time::Duration::from_secs(1)).await;
    assert_eq!(
        outline(&bench.fake.calls()),
        [format!("GET {KEY}"), STATUS.into(), "Event InvalidObject".into()]
    );
    assert_eq!(bench.conditions()["Active"], "False/InvalidObject");
}
