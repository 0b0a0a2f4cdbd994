//! What the chart renders, without a cluster.

use std::{fs, process::Command};

use crofter::api_types::{Plans, crd};
use crofter_test_cluster::tools::Tools;
use serde_json::Value;

use super::{chart, failed, succeeded};

/// Runs helm on the chart alone.
fn helm(args: &[&str]) -> std::process::Output {
    let helm = Tools::control_plane().unwrap().path("helm").unwrap();
    Command::new(helm).args(args).arg(chart()).output().unwrap()
}

/// The objects that the chart renders with these arguments.
fn rendered(args: &[&str]) -> Vec<Value> {
    let command = [&["template", "crofter", "--namespace", "crofter-system"], args].concat();
    serde_yaml_ng::Deserializer::from_str(&succeeded(&helm(&command)))
        .map(|document| serde::Deserialize::deserialize(document).unwrap())
        .filter(|object: &Value| !object.is_null())
        .collect()
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|o| o["kind"] == kind).collect()
}

fn env<'a>(deployment: &'a Value, name: &str) -> Option<&'a Value> {
    let env = deployment.pointer("/spec/template/spec/containers/0/env").unwrap().as_array().unwrap();
    env.iter().find(|e| e["name"] == name)
}

const PLAN: &str = r#"{"gold": {"weight": 9, "maxJobs": 5000000, "maxQueuedJobs": -1, "maxJobsPerHour": -1,
    "maxWorkers": 100, "maxCpuCores": 256, "maxMemoryGb": 1024, "maxGpus": 0, "maxStorageGb": 10,
    "maxBandwidthMbps": 10, "jobTimeoutMinutes": 60}}"#;

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

    let plans = format!("plans={PLAN}");
    let objects = rendered(&["--set-json", &plans, "--set", "defaultTenant.plan=gold"]);
    assert!(expression(&objects).ends_with(r#"["gold"]"#), "{}", expression(&objects));
    let table = of_kind(&objects, "ConfigMap")[0].pointer("/data/plans.yaml").unwrap().as_str().unwrap();
    let gold = Plans::from_yaml(table).unwrap().get("gold").unwrap().clone();
    assert_eq!((gold.weight, gold.quotas.max_jobs, gold.quotas.max_queued_jobs), (9, 5_000_000, -1));
}

#[test]
fn the_operator_is_configured_by_the_values() {
    let objects = rendered(&[]);
    let plain = of_kind(&objects, "Deployment")[0];
    assert_eq!(plain.pointer("/spec/strategy/type"), Some(&Value::from("Recreate")));
    assert_eq!(env(plain, "DATABASE_URL"), None);
    assert_eq!(env(plain, "CROFTER_PLANS"), None);
    assert_eq!(env(plain, "CROFTER_NAMESPACE_PREFIX").unwrap()["value"], "tenant-");
    assert_eq!(
        env(plain, "CROFTER_NAMESPACE").unwrap().pointer("/valueFrom/fieldRef/fieldPath"),
        Some(&Value::from("metadata.namespace"))
    );

    let plans = format!("plans={PLAN}");
    let objects = rendered(&[
        "--set-json",
        &plans,
        "--set",
        "defaultTenant.create=false,database.existingSecret=pg,database.existingSecretKey=uri",
        "--set",
        "namespacePrefix=team-,gpuResource=amd.com/gpu,terminationGracePeriodSeconds=60,elasticPools={gpu,spot}",
        "--set",
        "image.repository=registry.example.com/crofter,image.tag=1.2",
        "--set-json",
        r#"extraEnv=[{"name": "RUST_LOG", "value": "debug"}]"#,
    ]);
    let full = of_kind(&objects, "Deployment")[0];
    let secret = env(full, "DATABASE_URL").unwrap().pointer("/valueFrom/secretKeyRef").unwrap();
    assert_eq!((&secret["name"], &secret["key"]), (&Value::from("pg"), &Value::from("uri")));
    assert_eq!(env(full, "CROFTER_NAMESPACE_PREFIX").unwrap()["value"], "team-");
    assert_eq!(env(full, "CROFTER_GPU_RESOURCE").unwrap()["value"], "amd.com/gpu");
    assert_eq!(env(full, "CROFTER_ELASTIC_POOLS").unwrap()["value"], "gpu,spot");
    assert_eq!(env(full, "RUST_LOG").unwrap()["value"], "debug");
    let pod = full.pointer("/spec/template/spec").unwrap();
    assert_eq!(pod["terminationGracePeriodSeconds"], 60);
    assert_eq!(pod["containers"][0]["image"], "registry.example.com/crofter:1.2");
    let mount = pod["containers"][0]["volumeMounts"][0]["mountPath"].as_str().unwrap();
    let item = pod["volumes"][0]["configMap"]["items"][0]["path"].as_str().unwrap();
    assert_eq!(env(full, "CROFTER_PLANS").unwrap()["value"], format!("{mount}/{item}"));
    assert_eq!(pod["volumes"][0]["configMap"]["name"], of_kind(&objects, "ConfigMap")[0]["metadata"]["name"]);
    assert!(of_kind(&objects, "Tenant").is_empty());
}

#[test]
fn bad_values_are_refused_with_their_name() {
    for (value, named) in [
        ("databse.existingSecret=pg", "databse"),
        ("namespacePrefix=Tenant_", "namespacePrefix"),
        ("namespacePrefix=abcdefghijklmnopqrstuvwx-", "namespacePrefix"),
        ("gpuResource=gpu", "gpuResource"),
        ("elasticPools={Spot}", "elasticPools/0"),
        ("image.repository=", "image/repository"),
        ("image.digest=latest", "image/digest"),
        ("image.pullPolicy=Sometimes", "image/pullPolicy"),
        ("terminationGracePeriodSeconds=0", "terminationGracePeriodSeconds"),
        ("crds.keep=perhaps", "crds/keep"),
        ("plans.gold.weight=1", "plans/gold"),
        ("plans.Gold.weight=1", "Gold"),
        ("defaultTenant.plan=gold", "the plans are basic, enterprise, free, pro"),
        ("serviceAccount.create=false", "serviceAccount.name"),
    ] {
        let error = failed(&helm(&["template", "crofter", "--set", value]));
        assert!(error.contains(named), "{value}: {error}");
    }
    let unlimited_weight = PLAN.replace(r#""weight": 9"#, r#""weight": 0"#);
    let plans = format!("plans={unlimited_weight}");
    let error = failed(&helm(&["template", "crofter", "--set-json", &plans]));
    assert!(error.contains("plans/gold/weight"), "{error}");
}

#[test]
fn a_cluster_that_is_too_old_is_refused() {
    let error = failed(&helm(&["template", "crofter", "--kube-version", "1.33.9"]));
    assert!(error.contains("1.34.0"), "{error}");
}
