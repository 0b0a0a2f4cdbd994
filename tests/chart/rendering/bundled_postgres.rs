//! The Postgres that the chart can install, as it is rendered.

use super::*;

/// Its pod is none of the operator's: no Service, policy or budget of the operator selects it, and the other way round.
#[test]
fn the_bundled_postgres_is_reached_by_the_operator_alone() {
    let objects = rendered(&["--set", "database.bundled.enabled=true"]);
    let postgres = of_kind(&objects, "StatefulSet")[0];
    let labels = postgres.pointer("/spec/template/metadata/labels").unwrap().as_object().unwrap();
    let operator = of_kind(&objects, "Deployment")[0].pointer("/spec/template/metadata/labels").unwrap();
    let selects = |selector: &Value, labels: &serde_json::Map<String, Value>| {
        selector.as_object().unwrap().iter().all(|(name, value)| labels.get(name) == Some(value))
    };
    // Each selector matches one of the two pods.
    for (kind, selector, of_postgres) in [
        ("Service", "/spec/selector", "crofter-postgres"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels", "crofter-postgres"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels", ""),
    ] {
        for object in of_kind(&objects, kind) {
            let selector = object.pointer(selector).unwrap();
            assert_eq!(selects(selector, labels), object["metadata"]["name"] == of_postgres, "{object}");
            assert_ne!(
                selects(selector, labels),
                selects(selector, operator.as_object().unwrap()),
                "{object}"
            );
        }
    }
    // Besides the operator, the pod of `helm test` reaches it.
    let policies = of_kind(&objects, "NetworkPolicy");
    let policy = policies.iter().find(|policy| policy["metadata"]["name"] == "crofter-postgres").unwrap();
    let from = policy.pointer("/spec/ingress/0/from").unwrap().as_array().unwrap();
    assert_eq!(policy["spec"]["ingress"].as_array().unwrap().len(), 1);
    let check = of_kind(&objects, "Pod")[0].pointer("/metadata/labels").unwrap();
    for (peer, labels) in from.iter().zip([operator, check]) {
        assert!(selects(&peer["podSelector"]["matchLabels"], labels.as_object().unwrap()), "{peer}");
    }
    assert_eq!(from.len(), 2);
}

/// No password is in what is rendered: the init container creates the Secret that both sides refer to.
#[test]
fn the_bundled_postgres_and_the_operator_share_a_secret_that_is_made_in_the_cluster() {
    let objects = rendered(&["--set", "database.bundled.enabled=true"]);
    assert!(of_kind(&objects, "Secret").is_empty());
    let deployment = of_kind(&objects, "Deployment")[0];
    let url = mounted_secret(deployment, "CROFTER_DATABASE_URL_FILE");
    assert_eq!(url, ("crofter-postgres".to_owned(), "url".to_owned()));
    let pod = of_kind(&objects, "StatefulSet")[0].pointer("/spec/template/spec").unwrap();
    let (secret, postgres) = (&pod["initContainers"][0], &pod["containers"][0]);
    assert_eq!(
        secret["image"],
        deployment.pointer("/spec/template/spec/containers/0/image").unwrap().clone()
    );
    let args = json!([
        "database-secret",
        "--namespace=crofter-system",
        "--name=crofter-postgres",
        "--host=crofter-postgres.crofter-system.svc",
    ]);
    assert_eq!(secret["args"], args);
    let mut environment = postgres["env"].as_array().unwrap().iter();
    let password = environment.find(|e| e["name"] == "POSTGRES_PASSWORD").unwrap();
    let password = password.pointer("/valueFrom/secretKeyRef").unwrap();
    assert_eq!(password, &json!({"name": "crofter-postgres", "key": "password"}));
    // The token of the API server is in the init container alone.
    assert_eq!(pod["automountServiceAccountToken"], false);
    let mounts = |container: &Value| {
        let mounts = container["volumeMounts"].as_array().unwrap().iter();
        mounts.map(|mount| mount["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(mounts(secret), ["token"]);
    assert_eq!(mounts(postgres), ["data", "scratch", "scratch"]);
}
