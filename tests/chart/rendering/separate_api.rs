//! The REST API in a Deployment of its own, as it is rendered.

use super::*;

/// Whether the labels of the pods of a Deployment have all that a selector asks for.
fn selects(selector: &Value, deployment: &Value) -> bool {
    let labels = deployment.pointer("/spec/template/metadata/labels").unwrap();
    selector.as_object().unwrap().iter().all(|(name, value)| labels.get(name) == Some(value))
}

#[test]
fn a_separate_rest_api_is_a_deployment_of_the_same_form() {
    let values = format!("{}/tests/chart/values/separate-api.yaml", env!("CARGO_MANIFEST_DIR"));
    let objects = rendered(&["--values", &values]);
    let [operator, api] = of_kind(&objects, "Deployment")[..] else { panic!("{objects:?}") };
    let names = [operator, api].map(|deployment| deployment["metadata"]["name"].as_str().unwrap());
    assert_eq!(names, ["crofter", "crofter-api"]);

    // Each has its own command, replicas, account and resources.
    for (deployment, args, replicas, account, cpu) in [
        (operator, json!(["run", "--no-api"]), 1, "crofter", json!("50m")),
        (api, json!(["api"]), 3, "rest", json!(1)),
    ] {
        let pod = deployment.pointer("/spec/template/spec").unwrap();
        let container = &pod["containers"][0];
        assert_eq!((&container["args"], &deployment["spec"]["replicas"]), (&args, &json!(replicas)));
        assert_eq!(pod["serviceAccountName"], account);
        assert_eq!(container.pointer("/resources/requests/cpu"), Some(&cpu));
        assert_eq!(deployment["spec"]["selector"], pod["topologySpreadConstraints"][0]["labelSelector"]);
        assert!(selects(&deployment["spec"]["selector"]["matchLabels"], deployment));
        assert_eq!(
            mounted_secret(deployment, "CROFTER_DATABASE_URL_FILE"),
            ("crofter-postgres".to_owned(), "url".to_owned())
        );
        assert!(of_kind(&objects, "ServiceAccount").iter().any(|made| made["metadata"]["name"] == account));
    }
    // What only one of them uses is not given to the other.
    for variable in ["CROFTER_TLS_CERT", "CROFTER_TLS_KEY", "CROFTER_CORS_ORIGINS"] {
        assert!(env(operator, variable).is_none() && env(api, variable).is_some(), "{variable}");
    }
    for variable in ["POD_NAME", "CROFTER_DEFAULT_TENANT", "CROFTER_ELASTIC_POOLS"] {
        assert!(env(operator, variable).is_some() && env(api, variable).is_none(), "{variable}");
    }
    assert_eq!(mounted_secret(api, "CROFTER_TLS_CERT"), ("crofter-tls".to_owned(), "tls.crt".to_owned()));
    // All else is the same.
    let shared = |deployment: &Value| {
        let mut pod = deployment.pointer("/spec/template/spec").unwrap().clone();
        let mut container = pod["containers"][0].take();
        for own in ["args", "env", "ports", "lifecycle", "resources", "volumeMounts"] {
            container.as_object_mut().unwrap().remove(own);
        }
        for own in ["containers", "serviceAccountName", "volumes", "topologySpreadConstraints"] {
            pod.as_object_mut().unwrap().remove(own);
        }
        (deployment["spec"]["strategy"].clone(), pod, container)
    };
    assert_eq!(shared(operator), shared(api));

    // The Service selects the pods of the REST API, which have a port for it, and no other selector matches both pods.
    let ports = |deployment: &Value| -> Vec<String> {
        let ports = deployment.pointer("/spec/template/spec/containers/0/ports").unwrap();
        ports.as_array().unwrap().iter().map(|port| port["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(
        (ports(operator), ports(api)),
        (vec!["metrics".to_owned()], vec!["metrics".into(), "api".into()])
    );
    for (kind, selector, of_api) in [
        ("Service", "/spec/selector", "crofter"),
        ("NetworkPolicy", "/spec/podSelector/matchLabels", "crofter-api"),
        ("PodDisruptionBudget", "/spec/selector/matchLabels", "crofter-api"),
    ] {
        let own = of_kind(&objects, kind);
        let own = own.iter().filter(|object| object["metadata"]["name"] != "crofter-postgres");
        for object in own.clone() {
            let selector = object.pointer(selector).unwrap();
            let is_of_api = object["metadata"]["name"] == of_api;
            assert_eq!(
                (selects(selector, api), selects(selector, operator)),
                (is_of_api, !is_of_api),
                "{object}"
            );
        }
        // The one replica of the operator has no budget.
        assert_eq!(own.count(), if kind == "NetworkPolicy" { 2 } else { 1 }, "{kind}");
    }
    let policies = of_kind(&objects, "NetworkPolicy");
    let open = |name: &str| -> Vec<&str> {
        let policy = policies.iter().find(|policy| policy["metadata"]["name"] == name).unwrap();
        let rules = policy.pointer("/spec/ingress").unwrap().as_array().unwrap();
        rules.iter().map(|rule| rule["ports"][0]["port"].as_str().unwrap()).collect()
    };
    assert_eq!((open("crofter"), open("crofter-api")), (vec!["metrics"], vec!["api", "metrics"]));
    // Both reach the Postgres of the chart.
    let postgres = policies.iter().find(|policy| policy["metadata"]["name"] == "crofter-postgres").unwrap();
    let from = postgres.pointer("/spec/ingress/0/from").unwrap().as_array().unwrap();
    for deployment in [operator, api] {
        assert!(from.iter().any(|peer| selects(&peer["podSelector"]["matchLabels"], deployment)), "{from:?}");
    }
    // The policy is about the account that the Deployment has.
    let policies = of_kind(&objects, "ValidatingAdmissionPolicy");
    let reach = policies.iter().find(|policy| policy["metadata"]["name"] == "api-reach.crofter.io").unwrap();
    let is_api = "request.userInfo.username == 'system:serviceaccount:crofter-system:rest'";
    assert_eq!(reach.pointer("/spec/matchConditions/0/expression"), Some(&json!(is_api)));

    // An account of someone else is not made, and needs a name.
    let foreign = "api.deployment.enabled=true,api.serviceAccount.create=false,api.serviceAccount.name=rest";
    let objects = rendered(&["--set", foreign]);
    assert!(!of_kind(&objects, "ServiceAccount").iter().any(|made| made["metadata"]["name"] == "rest"));
}
