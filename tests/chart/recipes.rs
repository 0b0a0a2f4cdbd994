//! The files of examples/recipes and the values of examples/operator/production-values.yaml: what is Kubernetes' and Crofter's own
//! is admitted by a real API server, what is of others has fields that its project documents, and values render.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crofter::{
    api_types::{Plans, Scenarios},
    yaml,
};
use crofter_test_cluster::Cluster;
use serde_json::{Value, json};

use super::{
    alerts::alerts,
    chart, helm,
    rendering::{helm_template, of_kind},
    succeeded,
};

/// Kinds of others, and the fields of their specs as their projects document them.
const FOREIGN: [(&str, &str, &[&str]); 11] = [
    ("karpenter.sh/v1", "NodePool", &["template", "limits", "disruption"]),
    ("cert-manager.io/v1", "Issuer", &["selfSigned", "ca"]),
    (
        "cert-manager.io/v1",
        "Certificate",
        &[
            "isCA",
            "commonName",
            "secretName",
            "duration",
            "renewBefore",
            "privateKey",
            "issuerRef",
            "dnsNames",
        ],
    ),
    (
        "postgresql.cnpg.io/v1",
        "Cluster",
        &["instances", "storage", "bootstrap", "postgresql", "affinity", "resources", "backup"],
    ),
    ("postgresql.cnpg.io/v1", "ScheduledBackup", &["schedule", "cluster", "method"]),
    ("argoproj.io/v1alpha1", "Application", &["project", "source", "destination", "syncPolicy"]),
    ("argoproj.io/v1alpha1", "WorkflowTemplate", &["entrypoint", "serviceAccountName", "templates"]),
    ("source.toolkit.fluxcd.io/v1", "OCIRepository", &["interval", "url", "ref", "layerSelector"]),
    ("source.toolkit.fluxcd.io/v1", "GitRepository", &["interval", "url", "ref"]),
    (
        "helm.toolkit.fluxcd.io/v2",
        "HelmRelease",
        &[
            "interval",
            "chartRef",
            "releaseName",
            "targetNamespace",
            "storageNamespace",
            "install",
            "upgrade",
            "test",
            "driftDetection",
            "values",
        ],
    ),
    (
        "kustomize.toolkit.fluxcd.io/v1",
        "Kustomization",
        &["interval", "retryInterval", "timeout", "sourceRef", "path", "prune", "wait"],
    ),
];
/// What the API server of the test knows.
const OWN: [&str; 4] = ["v1", "batch/v1", "rbac.authorization.k8s.io/v1", "crofter.io/v1alpha1"];

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples")
}

fn recipe(file: &str) -> String {
    fs::read_to_string(examples().join("recipes").join(file)).unwrap()
}

/// The files of objects, by name, without values of the chart and pipelines of others.
fn manifests() -> BTreeMap<String, Vec<Value>> {
    let files = fs::read_dir(examples().join("recipes")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let is_manifest = |name: &String| {
        name.ends_with(".yaml") && !name.ends_with("-values.yaml") && name != "github-actions.yaml"
    };
    names.filter(is_manifest).map(|name| (name.clone(), yaml::read_all(&recipe(&name)).unwrap())).collect()
}

fn is_own(object: &Value) -> bool {
    OWN.contains(&object["apiVersion"].as_str().unwrap())
}

/// The Job that a step of a workflow creates, with a word in place of each of its placeholders.
fn job_of_the_workflow() -> Value {
    let workflow: Vec<Value> = yaml::read_all(&recipe("argo-workflows.yaml")).unwrap();
    let template = &of_kind(&workflow, "WorkflowTemplate")[0]["spec"]["templates"][1];
    let mut parts = template["resource"]["manifest"].as_str().unwrap().split("{{");
    let first = parts.next().unwrap().to_owned();
    let filled = parts.fold(first, |text, part| format!("{text}word{}", part.split_once("}}").unwrap().1));
    yaml::read(&filled).unwrap()
}

/// A dry run stores nothing, so the namespaces of the objects are made before.
#[tokio::test]
async fn the_api_server_admits_what_is_kubernetes_and_crofters_own() {
    // Given a cluster with the chart, and the objects of all recipes.
    let cluster = Cluster::builder().postgres(false).start().unwrap();
    succeeded(&helm(&cluster, "install", &chart(), &["--create-namespace"]).await);
    let mut own: Vec<(String, Value)> = Vec::new();
    for (file, objects) in manifests() {
        own.extend(objects.into_iter().filter(is_own).map(|object| (file.clone(), object)));
    }
    own.push(("argo-workflows.yaml".to_owned(), job_of_the_workflow()));
    assert!(own.len() > 20, "{} objects are few", own.len());
    // Their namespaces exist.
    let namespaces: BTreeSet<&str> =
        own.iter().filter_map(|(_, object)| object["metadata"]["namespace"].as_str()).collect();
    for namespace in namespaces.iter().filter(|name| !["kube-system", "crofter-system"].contains(*name)) {
        succeeded(&cluster.kubectl(["create", "namespace", namespace]).await.unwrap());
    }
    // Each is admitted, and has no field that the API server does not know.
    let path = cluster.dir().join("recipe.json");
    for (file, object) in &own {
        fs::write(&path, object.to_string()).unwrap();
        let apply = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "--filename"];
        let output = cluster.kubectl(apply.iter().copied().chain([path.to_str().unwrap()])).await.unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success(),
            "{file}: {} {}: {error}",
            object["kind"],
            object["metadata"]["name"]
        );
    }
}

#[test]
fn objects_of_others_have_fields_that_are_documented() {
    let mut found = 0;
    for (file, objects) in manifests() {
        for object in objects.iter().filter(|object| !is_own(object)) {
            found += 1;
            let at = format!("{file}: {} {}", object["apiVersion"], object["kind"]);
            let kind = FOREIGN.iter().find(|(version, kind, _)| {
                object["apiVersion"] == json!(version) && object["kind"] == json!(kind)
            });
            let (_, _, fields) = kind.unwrap_or_else(|| panic!("{at} is no kind that the test knows"));
            assert!(object["metadata"]["name"].is_string(), "{at} has no name");
            for field in object["spec"].as_object().unwrap().keys() {
                assert!(fields.contains(&field.as_str()), "{at}: {field}");
            }
        }
    }
    assert!(found > 15, "{found} objects of others are few");
    // Pipelines are YAML as well.
    for file in ["github-actions.yaml", "gitlab-ci.yml"] {
        assert!(yaml::read::<Value>(&recipe(file)).unwrap().is_object(), "{file}");
    }
}

/// A node of an autoscaler has the label and the taint that a pod of Crofter asks for.
#[test]
fn karpenters_nodes_have_what_pods_ask_for() {
    let pools: Vec<Value> = ["karpenter.yaml", "spot.yaml"]
        .iter()
        .flat_map(|file| yaml::read_all::<Value>(&recipe(file)).unwrap())
        .collect();
    assert_eq!(pools.len(), 3);
    for pool in pools {
        let (labels, spec) =
            (&pool["spec"]["template"]["metadata"]["labels"], &pool["spec"]["template"]["spec"]);
        let admitted = &labels[crofter::names::NODE_ADMITTED];
        let expected = match (&labels[crofter::names::NODE_POOL], &labels[crofter::names::NODE_TENANT]) {
            (Value::String(pool), Value::Null) => format!("pool.{pool}"),
            (Value::Null, Value::String(tenant)) => tenant.clone(),
            labels => panic!("{labels:?}"),
        };
        assert_eq!(*admitted, expected);
        let taint = json!({"key": crofter::names::NODE_ADMITTED, "value": expected, "effect": "NoSchedule"});
        assert_eq!(spec["taints"], json!([taint]));
    }
}

#[test]
fn the_values_of_examples_render() {
    // Given the values of production: two Deployments, the image by its digest, and a plan table that is read.
    let path = |file: &str| examples().join(file).to_str().unwrap().to_owned();
    let rendered = |file: &str| -> Vec<Value> {
        let text = helm_template(&["--values", &path(file)]);
        yaml::read_all(&text).unwrap().into_iter().filter(|object: &Value| !object.is_null()).collect()
    };
    let objects = rendered("operator/production-values.yaml");
    let deployments = of_kind(&objects, "Deployment");
    assert_eq!(deployments.len(), 2);
    for deployment in deployments {
        assert_eq!(deployment["spec"]["replicas"], 3);
        let pod = &deployment["spec"]["template"]["spec"];
        assert!(pod["containers"][0]["image"].as_str().unwrap().contains("@sha256:"));
        assert_eq!(pod["topologySpreadConstraints"].as_array().unwrap().len(), 2);
        assert_eq!(pod["priorityClassName"], "system-cluster-critical");
    }
    let maps = of_kind(&objects, "ConfigMap");
    let plans = Plans::from_yaml(maps[0]["data"]["plans.yaml"].as_str().unwrap()).unwrap();
    assert_eq!(plans.names().collect::<Vec<_>>(), ["free", "gpu", "team"]);
    let budgets = of_kind(&objects, "PodDisruptionBudget");
    assert_eq!(budgets.len(), 2, "of the operator and of the REST API");
    let denies = |binding: &&Value| binding["metadata"]["name"] == "node-names.crofter.io";
    let bindings = of_kind(&objects, "ValidatingAdmissionPolicyBinding");
    let binding = bindings.into_iter().find(denies).unwrap();
    assert_eq!(binding["spec"]["validationActions"], json!(["Deny"]));
    // The scenarios of the transcoding tenant are read, and its jobs name them.
    let objects = rendered("recipes/transcoding-values.yaml");
    let map = of_kind(&objects, "ConfigMap")[0]["data"]["scenarios.yaml"].as_str().unwrap().to_owned();
    let scenarios = Scenarios::from_yaml(&map).unwrap();
    for job in yaml::read_all::<Value>(&recipe("transcoding-jobs.yaml")).unwrap() {
        assert!(scenarios.get(job["spec"]["scenario"].as_str().unwrap()).is_some(), "{job}");
    }
    // The certificate of the database is where its URL says.
    let objects = rendered("recipes/cloudnativepg-values.yaml");
    let mounts =
        &of_kind(&objects, "Deployment")[0]["spec"]["template"]["spec"]["containers"][0]["volumeMounts"];
    let secrets: Vec<Value> = yaml::read_all(&recipe("cloudnativepg.yaml")).unwrap();
    let url = secrets.iter().find_map(|secret| secret["stringData"]["url"].as_str()).unwrap();
    let mounted = mounts.as_array().unwrap().iter().filter_map(|mount| mount["mountPath"].as_str());
    assert!(mounted.into_iter().any(|path| url.ends_with(&format!("sslrootcert={path}/ca.crt"))), "{mounts}");
    // Prometheus finds the PodMonitor and the alerts by one label, and reaches the metrics.
    let objects = rendered("recipes/prometheus-values.yaml");
    for kind in ["PodMonitor", "PrometheusRule"] {
        let labels = &of_kind(&objects, kind)[0]["metadata"]["labels"];
        assert_eq!(labels["release"], "kube-prometheus-stack", "{kind}");
    }
    let from =
        of_kind(&objects, "NetworkPolicy")[0].pointer("/spec/ingress/1/from/0/namespaceSelector").unwrap();
    assert_eq!(from["matchLabels"]["kubernetes.io/metadata.name"], "monitoring");
}

/// The names that begin with `crofter_` in a text.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = words.filter(|word| word.starts_with("crofter_"));
    names.map(|name| name.strip_suffix("_bucket").unwrap_or(name).to_owned()).collect()
}

#[test]
fn alerts_and_dashboard_name_metrics_that_exist() {
    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md")).unwrap();
    let known: BTreeSet<String> =
        page.lines().filter_map(|line| line.strip_prefix("## ")).map(str::to_owned).collect();
    let alerts: String =
        alerts().iter().map(|alert| format!("{}\n", alert["expr"].as_str().unwrap())).collect();
    for (file, text) in
        [("alerts.yaml", alerts), ("grafana-dashboard.json", recipe("grafana-dashboard.json"))]
    {
        let named = metrics_in(&text);
        assert!(named.len() > 8, "{file} names {} metrics", named.len());
        assert_eq!(named.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "{file}");
    }
    serde_json::from_str::<Value>(&recipe("grafana-dashboard.json")).unwrap();
}

#[test]
fn programs_of_recipes_are_python() {
    let objects: Vec<Value> = yaml::read_all(&recipe("gpu-training.yaml")).unwrap();
    let train = of_kind(&objects, "ConfigMap")[0]["data"]["train.py"].as_str().unwrap().to_owned();
    for program in [train, recipe("airflow_dag.py")] {
        let mut python = Command::new("python3");
        python.args(["-c", "import ast, sys; ast.parse(sys.argv[1])", &program]);
        succeeded(&python.output().unwrap());
    }
}
