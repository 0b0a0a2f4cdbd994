//! What the chart renders, without a cluster.

mod bundled_postgres;
mod metrics;
mod separate_api;

use std::{fs, process::Command};

use crofter::{
    api_types::{Plans, Scenarios, crd, quota::QuotaDimension},
    names, yaml,
};
use crofter_test_cluster::tools::Tools;
use serde_json::{Value, json};

use super::{NAMESPACE, block_after, chart, failed, succeeded};

/// Runs helm on the chart alone.
fn helm(args: &[&str]) -> std::process::Output {
    let helm = Tools::control_plane().unwrap().path("helm").unwrap();
    Command::new(helm).args(args).arg(chart()).output().unwrap()
}

/// What the chart renders with these arguments.
pub(crate) fn helm_template(args: &[&str]) -> String {
    succeeded(&helm(&[&["template", "crofter", "--namespace", "crofter-system"], args].concat()))
}

/// What kubectl prints, in the directory of the project.
pub(crate) fn kubectl(args: &[&str]) -> String {
    let kubectl = Tools::control_plane().unwrap().path("kubectl").unwrap();
    succeeded(&Command::new(kubectl).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap())
}

/// The objects that the chart renders with these arguments.
fn rendered(args: &[&str]) -> Vec<Value> {
    let documents: Vec<Value> = yaml::read_all(&helm_template(args)).unwrap();
    documents.into_iter().filter(|object| !object.is_null()).collect()
}

pub(crate) fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|o| o["kind"] == kind).collect()
}

fn env<'a>(deployment: &'a Value, name: &str) -> Option<&'a Value> {
    let env = deployment.pointer("/spec/template/spec/containers/0/env").unwrap().as_array().unwrap();
    env.iter().find(|e| e["name"] == name)
}

/// A plan table with every quota.
fn plans() -> String {
    let mut gold: Value = QuotaDimension::all().map(|dimension| (dimension.field(), json!(100))).collect();
    gold["weight"] = json!(9);
    gold["maxJobs"] = json!(5_000_000);
    gold["maxQueuedJobs"] = json!(-1);
    gold["maxGpus"] = json!(0);
    format!("plans={}", json!({"gold": gold}))
}

const SCENARIO: &str = r#"{"train": {"description": "training & <more>", "image": "registry/train:3",
    "command": ["/train"], "args": ["--epochs", "10"], "env": [{"name": "LOG", "value": "info"}],
    "resources": {"cpu": 4, "memory": "8Gi", "gpus": 1, "ephemeralStorage": "1Gi", "bandwidthMbps": 1000000},
    "timeoutSeconds": 31536000, "runAsUser": 2000000000}}"#;

#[test]
fn lints_without_a_warning() {
    succeeded(&helm(&["lint", "--strict"]));
}

#[test]
fn its_crds_are_the_generated_ones() {
    let dir = chart().join("files/crds");
    let mut files: Vec<_> =
        fs::read_dir(&dir).unwrap().map(|f| f.unwrap().file_name().into_string().unwrap()).collect();
    files.sort();
    let mut expected: Vec<_> = crd::all().iter().map(|(file, _)| (*file).to_owned()).collect();
    expected.sort();
    assert_eq!(files, expected);
    for (file, crd) in crd::all() {
        assert!(
            fs::read_to_string(dir.join(file)).unwrap() == crd::to_yaml(&crd).unwrap(),
            "charts/crofter/files/crds/{file} is not what the types say: run `make crds`"
        );
    }
}

#[test]
fn crds_are_kept_unless_the_values_say_otherwise() {
    let policy = "/metadata/annotations/helm.sh~1resource-policy";
    let kept = rendered(&[]);
    assert_eq!(of_kind(&kept, "CustomResourceDefinition").len(), 3);
    for crd in of_kind(&kept, "CustomResourceDefinition") {
        assert_eq!(crd.pointer(policy), Some(&Value::from("keep")));
    }
    for crd in of_kind(&rendered(&["--set", "crds.keep=false"]), "CustomResourceDefinition") {
        assert_eq!(crd.pointer(policy), None);
    }
    assert!(of_kind(&rendered(&["--set", "crds.install=false"]), "CustomResourceDefinition").is_empty());
}

#[test]
fn the_plans_in_the_policy_are_those_of_the_operator() {
    let expression = |objects: &[Value]| {
        let policies = of_kind(objects, "ValidatingAdmissionPolicy");
        let policy = policies.iter().find(|p| p["metadata"]["name"] == "tenant-plan.crofter.io").unwrap();
        policy.pointer("/spec/validations/0/expression").unwrap().as_str().unwrap().to_owned()
    };
    let built_in = Plans::built_in().unwrap();
    let names = serde_json::to_string(&built_in.names().collect::<Vec<_>>()).unwrap();
    let objects = rendered(&[]);
    assert!(expression(&objects).ends_with(&names), "{}", expression(&objects));
    assert!(of_kind(&objects, "ConfigMap").is_empty());

    let plans = plans();
    let objects = rendered(&["--set-json", &plans, "--set", "defaultTenant.plan=gold"]);
    assert!(expression(&objects).ends_with(r#"["gold"]"#), "{}", expression(&objects));
    let table = of_kind(&objects, "ConfigMap")[0].pointer("/data/plans.yaml").unwrap().as_str().unwrap();
    let gold = Plans::from_yaml(table).unwrap().get("gold").unwrap().clone();
    assert_eq!((gold.weight, gold.quotas.max_jobs, gold.quotas.max_queued_jobs), (9, 5_000_000, -1));
}

#[test]
fn the_scenarios_reach_the_operator_as_they_were_given() {
    let objects = rendered(&["--set-json", &format!("scenarios={SCENARIO}")]);
    let map = of_kind(&objects, "ConfigMap")[0];
    let catalogue = Scenarios::from_yaml(map["data"]["scenarios.yaml"].as_str().unwrap()).unwrap();
    let direct = Scenarios::from_yaml(&format!("{{\"scenarios\": {SCENARIO}}}")).unwrap();
    assert_eq!(catalogue, direct);
    assert_eq!(catalogue.get("train").unwrap().run_as_user, Some(2_000_000_000));
    let deployment = of_kind(&objects, "Deployment")[0];
    assert_eq!(env(deployment, "CROFTER_PLANS"), None);
    let pod = deployment.pointer("/spec/template/spec").unwrap();
    assert_eq!(pod["volumes"].as_array().unwrap().len(), 1);
    mounted(deployment, "CROFTER_SCENARIOS", map);
}

/// Asserts that the file that `variable` names is the one entry of the ConfigMap.
fn mounted(deployment: &Value, variable: &str, map: &Value) {
    let pod = deployment.pointer("/spec/template/spec").unwrap();
    let (volumes, mounts) = (&pod["volumes"], &pod["containers"][0]["volumeMounts"]);
    let mut volumes = volumes.as_array().unwrap().iter();
    let volume = volumes.find(|v| v["configMap"]["name"] == map["metadata"]["name"]).unwrap();
    let mount = mounts.as_array().unwrap().iter().find(|mount| mount["name"] == volume["name"]).unwrap();
    assert_eq!(mount["subPath"], Value::Null, "a change would not reach the operator");
    let item = &volume["configMap"]["items"][0];
    let path = format!("{}/{}", mount["mountPath"].as_str().unwrap(), item["path"].as_str().unwrap());
    assert_eq!(env(deployment, variable).unwrap()["value"], path);
    assert!(map["data"].get(item["key"].as_str().unwrap()).is_some());
}

/// The Secret and its key whose file `variable` names.
fn mounted_secret(deployment: &Value, variable: &str) -> (String, String) {
    let pod = deployment.pointer("/spec/template/spec").unwrap();
    let path = env(deployment, variable).unwrap()["value"].as_str().unwrap();
    let (dir, key) = path.rsplit_once('/').unwrap();
    let mut mounts = pod["containers"][0]["volumeMounts"].as_array().unwrap().iter();
    let mount = mounts.find(|mount| mount["mountPath"] == dir).unwrap();
    assert_eq!((&mount["subPath"], &mount["readOnly"]), (&Value::Null, &json!(true)));
    let mut volumes = pod["volumes"].as_array().unwrap().iter();
    let secret = &volumes.find(|volume| volume["name"] == mount["name"]).unwrap()["secret"];
    assert_eq!(
        (&secret["items"], &secret["optional"]),
        (&Value::Null, &Value::Null),
        "all keys, which must exist"
    );
    (secret["secretName"].as_str().unwrap().to_owned(), key.to_owned())
}

#[test]
fn a_tls_secret_makes_the_rest_api_speak_https() {
    // Step 1: without one it is plain HTTP.
    let port = |objects: &[Value]| of_kind(objects, "Service")[0].pointer("/spec/ports/0").cloned().unwrap();
    let objects = rendered(&[]);
    let plain = of_kind(&objects, "Deployment")[0];
    assert_eq!((env(plain, "CROFTER_TLS_CERT"), env(plain, "CROFTER_TLS_KEY")), (None, None));
    assert_eq!(port(&objects), json!({"name": "http", "port": 80, "targetPort": "api"}));
    // Step 2: with one, both of its files reach the operator and the Service has the port of HTTPS.
    let objects = rendered(&["--set", "tls.existingSecret=crofter-tls"]);
    let served = of_kind(&objects, "Deployment")[0];
    for (variable, key) in [("CROFTER_TLS_CERT", "tls.crt"), ("CROFTER_TLS_KEY", "tls.key")] {
        assert_eq!(mounted_secret(served, variable), ("crofter-tls".to_owned(), key.to_owned()));
    }
    let https = json!({"name": "https", "port": 443, "targetPort": "api", "appProtocol": "https"});
    assert_eq!(port(&objects), https);
    let objects = rendered(&["--set", "tls.existingSecret=crofter-tls,service.port=8443"]);
    assert_eq!(port(&objects)["port"], 8443);
    // Step 3: the probes stay on the port of metrics, which is plain.
    for probe in ["livenessProbe", "readinessProbe"] {
        let probe = served.pointer(&format!("/spec/template/spec/containers/0/{probe}/httpGet")).unwrap();
        assert_eq!((&probe["port"], &probe["scheme"]), (&json!("metrics"), &Value::Null));
    }
}

#[test]
fn the_operator_is_configured_by_the_values() {
    // Given no values, the operator has its defaults.
    let objects = rendered(&[]);
    let plain = of_kind(&objects, "Deployment")[0];
    assert_eq!((env(plain, "DATABASE_URL"), env(plain, "CROFTER_DATABASE_URL_FILE")), (None, None));
    assert_eq!(env(plain, "CROFTER_PLANS"), None);
    assert_eq!(env(plain, "CROFTER_SCENARIOS"), None);
    assert_eq!(env(plain, "CROFTER_DEFAULT_TENANT").unwrap()["value"], "enterprise");
    assert_eq!(plain.pointer("/spec/template/spec/volumes"), None);
    assert_eq!(env(plain, "CROFTER_NAMESPACE_PREFIX").unwrap()["value"], "tenant-");
    assert_eq!(
        env(plain, "CROFTER_NAMESPACE").unwrap().pointer("/valueFrom/fieldRef/fieldPath"),
        Some(&Value::from("metadata.namespace"))
    );

    // Given all values, each reaches the operator.
    let (plans, scenarios) = (plans(), format!("scenarios={SCENARIO}"));
    let objects = rendered(&[
        "--set-json",
        &plans,
        "--set-json",
        &scenarios,
        "--set",
        "defaultTenant.create=false,database.existingSecret=pg,database.existingSecretKey=uri",
        "--set",
        "namespacePrefix=team-,gpuResource=amd.com/gpu,terminationGracePeriodSeconds=60,elasticPools={gpu,spot}",
        "--set",
        "pullAlwaysOnPools=false,audit.retentionDays=30",
        "--set",
        "image.repository=registry.example.com/crofter,image.tag=1.2",
        "--set-json",
        r#"extraEnv=[{"name": "RUST_LOG", "value": "debug"}]"#,
        "--set-json",
        r#"corsOrigins=["https://app.example.org", "http://localhost:3000"]"#,
    ]);
    let full = of_kind(&objects, "Deployment")[0];
    assert_eq!(mounted_secret(full, "CROFTER_DATABASE_URL_FILE"), ("pg".to_owned(), "uri".to_owned()));
    assert_eq!(env(full, "DATABASE_URL"), None, "a changed password would need a restart");
    assert_eq!(env(full, "CROFTER_NAMESPACE_PREFIX").unwrap()["value"], "team-");
    assert_eq!(env(full, "CROFTER_GPU_RESOURCE").unwrap()["value"], "amd.com/gpu");
    assert_eq!(env(full, "CROFTER_ELASTIC_POOLS").unwrap()["value"], "gpu,spot");
    assert_eq!(env(full, "CROFTER_PULL_ALWAYS_ON_POOLS").unwrap()["value"], "false");
    assert_eq!(env(plain, "CROFTER_PULL_ALWAYS_ON_POOLS"), None, "they are pulled");
    assert_eq!(env(full, "CROFTER_AUDIT_RETENTION_DAYS").unwrap()["value"], "30");
    let origins = &env(full, "CROFTER_CORS_ORIGINS").unwrap()["value"];
    assert_eq!(origins, "https://app.example.org,http://localhost:3000");
    assert_eq!(env(full, "RUST_LOG").unwrap()["value"], "debug");
    assert_eq!(env(full, "CROFTER_DEFAULT_TENANT"), None);
    // The pod and the mounted files follow the values as well.
    let pod = full.pointer("/spec/template/spec").unwrap();
    assert_eq!(pod["terminationGracePeriodSeconds"], 60);
    assert_eq!(pod["containers"][0]["image"], "registry.example.com/crofter:1.2");
    let maps = of_kind(&objects, "ConfigMap");
    let map = |key: &str| *maps.iter().find(|map| map["data"].get(key).is_some()).unwrap();
    mounted(full, "CROFTER_PLANS", map("plans.yaml"));
    mounted(full, "CROFTER_SCENARIOS", map("scenarios.yaml"));
    assert!(of_kind(&objects, "Tenant").is_empty());
}

/// `helm upgrade --reuse-values` gives a chart no value that is newer than the release.
#[test]
fn values_that_are_newer_than_a_release_may_be_absent() {
    let newer = "database.bundled=null,topologySpreadConstraints=null,extraObjects=null,extraVolumes=null,\
                 extraVolumeMounts=null,networkPolicy.egress=null,policies.systemNamespaces=null,policies.nodeNames=null,\
                 pullAlwaysOnPools=null,audit=null,metrics=null";
    assert!(helm_template(&["--set", &format!("{newer},api=null")]) == helm_template(&[]));
    // Of `api` the upgrade may give one value alone.
    let separate = "api.deployment.enabled=true";
    let absent = "api.replicas=null,api.serviceAccount=null,api.resources=null";
    assert!(
        helm_template(&["--set", &format!("{newer},{absent},{separate}")])
            == helm_template(&["--set", separate])
    );
}

#[test]
fn system_namespaces_are_those_of_kubernetes_the_release_and_the_values() {
    let bindings = |arguments: &[&str]| {
        let objects = rendered(arguments);
        let bindings = of_kind(&objects, "ValidatingAdmissionPolicyBinding");
        ["worker-tolerations.crofter.io", "node-names.crofter.io"].map(|name| {
            let binding = bindings.iter().find(|binding| binding["metadata"]["name"] == name).unwrap();
            let selector = binding.pointer("/spec/matchResources/namespaceSelector").unwrap();
            (binding["spec"]["validationActions"].clone(), selector.clone())
        })
    };
    let but = |names: Value| {
        json!({"matchExpressions": [
            {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": names},
            {"key": "pod-security.kubernetes.io/enforce", "operator": "NotIn", "values": ["privileged"]},
        ]})
    };
    let plain = but(json!(["kube-system", NAMESPACE]));
    assert_eq!(bindings(&[]), [(json!(["Deny", "Audit"]), plain.clone()), (json!(["Audit"]), plain)]);
    let more = "policies.systemNamespaces={local-path-storage,kube-system},policies.nodeNames=Deny";
    let others = but(json!(["kube-system", NAMESPACE, "local-path-storage"]));
    let actions = [json!(["Deny", "Audit"]), json!(["Deny"])];
    assert_eq!(bindings(&["--set", more]), actions.map(|actions| (actions, others.clone())));
}

/// A tag may move, a digest can't.
#[test]
fn a_tag_is_always_pulled_and_a_digest_once() {
    let policy = |value: &str| {
        let objects = rendered(&["--set", value]);
        let pod =
            of_kind(&objects, "Deployment")[0].pointer("/spec/template/spec/containers/0").cloned().unwrap();
        pod["imagePullPolicy"].as_str().unwrap().to_owned()
    };
    assert_eq!(policy("image.tag=1.2"), "Always");
    assert_eq!(policy(&format!("image.digest=sha256:{}", "0".repeat(64))), "IfNotPresent");
    assert_eq!(policy("image.pullPolicy=Never"), "Never");
}

#[test]
fn only_its_own_ports_of_the_operator_are_reached() {
    let objects = rendered(&[]);
    let policy = of_kind(&objects, "NetworkPolicy")[0];
    let deployment = of_kind(&objects, "Deployment")[0];
    assert_eq!(
        policy.pointer("/spec/podSelector/matchLabels"),
        deployment.pointer("/spec/selector/matchLabels")
    );
    let ports = deployment.pointer("/spec/template/spec/containers/0/ports").unwrap().as_array().unwrap();
    let mut named: Vec<_> = ports.iter().map(|port| port["name"].as_str().unwrap()).collect();
    named.sort_unstable();
    let ingress = policy.pointer("/spec/ingress").unwrap().as_array().unwrap();
    let open: Vec<_> = ingress.iter().map(|rule| rule["ports"][0]["port"].as_str().unwrap()).collect();
    assert_eq!(open, named, "every port of the pod has a rule, and nothing else");
    assert_eq!(policy.pointer("/spec/policyTypes"), Some(&serde_json::json!(["Ingress", "Egress"])));

    // Everyone reaches the API, which authenticates, and all pods but those of tenants the metrics, which do not.
    assert_eq!(ingress[0].get("from"), None);
    let no_tenant = json!([{"namespaceSelector": {
        "matchExpressions": [{"key": names::LABEL_TENANT, "operator": "DoesNotExist"}],
    }}]);
    assert_eq!(ingress[1]["from"], no_tenant);

    // Who may reach them, and what they reach, can be said. The page has the value that keeps tenants from the API.
    let page = block_after("**Who reaches the operator's pods.**", "yaml");
    let values: Vec<Value> = yaml::read_all(&page).unwrap();
    let api = format!("networkPolicy={}", values[0]["networkPolicy"]);
    let objects = rendered(&["--set-json", &api]);
    let ingress = of_kind(&objects, "NetworkPolicy")[0].pointer("/spec/ingress").unwrap().as_array().unwrap();
    assert_eq!((&ingress[0]["from"], &ingress[1]["from"]), (&no_tenant, &no_tenant));
    let from =
        r#"networkPolicy.metricsFrom=[{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]"#;
    let objects = rendered(&["--set-json", from]);
    let ingress = of_kind(&objects, "NetworkPolicy")[0].pointer("/spec/ingress").unwrap().as_array().unwrap();
    assert_eq!(ingress[0].get("from"), None);
    assert_eq!(ingress[1]["from"][0]["namespaceSelector"]["matchLabels"]["name"], "monitoring");
    assert!(of_kind(&rendered(&["--set", "networkPolicy.enabled=false"]), "NetworkPolicy").is_empty());

    let egress = |objects: &[Value]| of_kind(objects, "NetworkPolicy")[0]["spec"]["egress"].clone();
    assert_eq!(egress(&rendered(&[])), json!([{}]), "everything");
    let only = r#"networkPolicy.egress=[{"ports": [{"port": 443}]}]"#;
    assert_eq!(egress(&rendered(&["--set-json", only])), json!([{"ports": [{"port": 443}]}]));
}

#[test]
fn more_objects_and_volumes_are_rendered_as_given() {
    let values = |set: &str| format!("{}/tests/chart/values/{set}.yaml", env!("CARGO_MANIFEST_DIR"));
    // Objects are templates, whether they are given as manifests or as texts.
    let objects = rendered(&["--values", &values("restricted")]);
    let notes = of_kind(&objects, "ConfigMap")[0];
    assert_eq!(
        (&notes["metadata"]["name"], &notes["data"]["chart"]),
        (&json!("crofter-notes"), &json!("crofter"))
    );
    let tenant = of_kind(&objects, "Tenant")[0];
    assert_eq!(
        (&tenant["metadata"]["name"], &tenant["spec"]["plan"]),
        (&json!("crofter-extra"), &json!("enterprise"))
    );

    let objects = rendered(&["--values", &values("placed")]);
    let deployment = of_kind(&objects, "Deployment")[0];
    let pod = deployment.pointer("/spec/template/spec").unwrap();
    assert_eq!(pod["volumes"], json!([{"name": "ca", "configMap": {"name": "company-ca"}}]));
    let mounts = &pod["containers"][0]["volumeMounts"];
    assert_eq!(mounts, &json!([{"name": "ca", "mountPath": "/etc/company", "readOnly": true}]));
    // A constraint without a selector is for the operator's own pods.
    let spread = pod["topologySpreadConstraints"].as_array().unwrap();
    assert_eq!(spread.len(), 2);
    assert_eq!(spread[0]["topologyKey"], "topology.kubernetes.io/zone");
    assert_eq!(spread[0]["labelSelector"], deployment["spec"]["selector"]);
    assert_eq!(spread[1]["labelSelector"], json!({"matchLabels": {"team": "platform"}}));
}

#[test]
fn two_replicas_are_spread_updated_one_by_one_and_never_drained_together() {
    let objects = rendered(&[]);
    let deployment = of_kind(&objects, "Deployment")[0];
    assert_eq!(deployment.pointer("/spec/replicas"), Some(&Value::from(2)));
    let update =
        serde_json::json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
    assert_eq!(deployment.pointer("/spec/strategy"), Some(&update));
    let selected = deployment.pointer("/spec/selector/matchLabels");
    let pod = deployment.pointer("/spec/template/spec").unwrap();
    let spread = &pod["topologySpreadConstraints"][0];
    assert_eq!(
        (&spread["topologyKey"], &spread["whenUnsatisfiable"]),
        (&"kubernetes.io/hostname".into(), &"ScheduleAnyway".into())
    );
    assert_eq!(spread.pointer("/labelSelector/matchLabels"), selected);
    let name = env(deployment, "POD_NAME").unwrap().pointer("/valueFrom/fieldRef/fieldPath").unwrap();
    assert_eq!(name, "metadata.name");
    let budget = of_kind(&objects, "PodDisruptionBudget")[0];
    assert_eq!(budget.pointer("/spec/selector/matchLabels"), selected);
    assert_eq!(budget.pointer("/spec/maxUnavailable"), Some(&Value::from(1)));

    // 5 s until it has left the Service; 15, 2, 5 and 3 s for controllers, Events, the mirror and the Lease; 15 s for requests, 3 s for their audit log.
    let pause = pod.pointer("/containers/0/lifecycle/preStop/sleep/seconds").unwrap().as_u64().unwrap();
    assert!(pod["terminationGracePeriodSeconds"].as_u64().unwrap() >= pause + 15 + 2 + 5 + 3 + 15 + 3);

    let objects = rendered(&["--set", "replicas=1"]);
    assert_eq!(of_kind(&objects, "Deployment")[0].pointer("/spec/replicas"), Some(&Value::from(1)));
    assert!(of_kind(&objects, "PodDisruptionBudget").is_empty(), "it would keep the node from being drained");
}

#[test]
fn bad_values_are_refused_with_their_name() {
    // Each bad value is refused by the schema or by a template, and the error names it.
    for (value, named) in [
        ("databse.existingSecret=pg", "databse"),
        ("namespacePrefix=Tenant_", "namespacePrefix"),
        ("namespacePrefix=abcdefghijklmnopqrstuvwx-", "namespacePrefix"),
        ("gpuResource=gpu", "gpuResource"),
        ("elasticPools={Spot}", "elasticPools/0"),
        ("audit.retentionDays=0", "audit/retentionDays"),
        ("audit.retention=30", "audit"),
        ("corsOrigins={*}", "corsOrigins/0"),
        ("corsOrigins={https://a.example.org/}", "corsOrigins/0"),
        ("tls.existingSecret=Crofter_TLS", "tls/existingSecret"),
        ("tls.secret=crofter-tls", "tls"),
        ("database.existingSecretKey=a/b", "database/existingSecretKey"),
        ("image.repository=", "image/repository"),
        ("image.digest=latest", "image/digest"),
        ("image.pullPolicy=Sometimes", "image/pullPolicy"),
        ("terminationGracePeriodSeconds=0", "terminationGracePeriodSeconds"),
        ("crds.keep=perhaps", "crds/keep"),
        ("replicas=0", "replicas"),
        ("enabled=perhaps", "enabled"),
        ("image.tag=a b", "image/tag"),
        ("database.bundled.enabled=true,database.existingSecret=pg", "two databases"),
        ("database.bundled.image.tag=", "database/bundled/image/tag"),
        ("database.bundled.storage.size=much", "database/bundled/storage/size"),
        ("database.bundled.password=x", "password"),
        ("resources.limit.cpu=1", "limit"),
        ("tolerations[0].efect=NoSchedule", "efect"),
        ("affinity.nodeAfinity=x", "nodeAfinity"),
        ("topologySpreadConstraints[0].topologyKey=zone", "topologySpreadConstraints/0"),
        ("extraVolumes[0].emptyDir.medium=Memory", "extraVolumes/0"),
        ("extraVolumeMounts[0].name=ca,extraVolumeMounts[0].mountPath=etc", "extraVolumeMounts/0/mountPath"),
        ("extraEnv[0].name=A,extraEnv[0].valu=b", "valu"),
        ("extraObjects[0].kind=ConfigMap", "extraObjects/0"),
        ("plans.gold.weight=1", "plans/gold"),
        ("plans.Gold.weight=1", "Gold"),
        ("scenarios.train.timeoutSeconds=5", "scenarios/train"),
        ("scenarios.train.image=", "scenarios/train/image"),
        ("scenarios.train.comand={x}", "comand"),
        ("scenarios.Train.image=i", "Train"),
        ("scenarios.train.image=i,scenarios.train.resources.cpus=1", "cpus"),
        ("scenarios.train.image=i,scenarios.train.resources.cpu=many", "scenarios/train/resources/cpu"),
        (
            "scenarios.train.image=i,scenarios.train.env[0].name=CROFTER_JOB,scenarios.train.env[0].value=x",
            "env/0/name",
        ),
        ("defaultTenant.plan=gold", "the plans are basic, enterprise, free, pro"),
        ("serviceAccount.create=false", "serviceAccount.name"),
        ("api.deployment.enabled=true,api.serviceAccount.create=false", "api.serviceAccount.name"),
        ("api.deployment.enabled=true,api.serviceAccount.name=crofter", "\"crofter\" is the operator's"),
        ("api.replicas=0", "api/replicas"),
        ("api.enabled=true", "api"),
    ] {
        let error = failed(&helm(&["template", "crofter", "--set", value]));
        assert!(error.contains(named), "{value}: {error}");
    }
    // A bad field within a whole plan is named by its path.
    let weightless = plans().replace(r#""weight":9"#, r#""weight":0"#);
    let error = failed(&helm(&["template", "crofter", "--set-json", &weightless]));
    assert!(error.contains("plans/gold/weight"), "{error}");
}

#[test]
fn a_cluster_that_is_too_old_is_refused() {
    let error = failed(&helm(&["template", "crofter", "--kube-version", "1.33.9"]));
    assert!(error.contains("1.34.0"), "{error}");
}
