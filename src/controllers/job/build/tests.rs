//! Pods as JSON.

use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use serde_json::json;

use super::{
    super::validate::{
        tests::{catalogue, job, tenant},
        validate,
    },
    container::EPHEMERAL_STORAGE,
    *,
};
use crate::api_types::{Job, Scenarios, Tenant};

fn built_from(job: &Job, tenant: &Tenant, scenarios: &Scenarios) -> Pod {
    let valid = validate(job, tenant, scenarios, Some(SignedDuration::from_mins(30))).unwrap();
    let admission = Admission { attempt: 2, group: "acme".into(), node: Some("n".into()) };
    pod(&valid, &admission, &Settings::default())
}

fn built(job: &Job, tenant: &Tenant) -> Pod {
    built_from(job, tenant, &Scenarios::default())
}

#[test]
fn the_whole_pod() {
    let job = job(json!({
        "image": "registry/render:1", "command": ["/render"], "args": ["--fast"], "workingDir": "/work",
        "env": [{"name": "A", "value": "1"}, {"name": "B", "secretKeyRef": {"name": "s", "key": "k"}}],
        "envFrom": [{"configMap": "c"}], "parameters": {"frame-no": "7"},
        "resources": {"cpu": "1500m", "memory": "1Gi", "gpus": 1, "ephemeralStorage": "2Gi", "bandwidthMbps": 10},
        "volumes": [{"name": "out", "mountPath": "/out", "claim": "results"},
            {"name": "tmp", "mountPath": "/tmp", "scratch": "1Gi"}],
        "imagePullSecrets": ["pull"],
    }));
    insta::assert_json_snapshot!(built(&job, &tenant(json!({}))));
}

#[test]
fn a_dollar_of_a_parameter_reaches_the_container_and_one_of_env_and_args_is_kubernetes_own() {
    let job = job(json!({
        "image": "a", "args": ["$(A)"], "env": [{"name": "A", "value": "$(HOME)"}],
        "parameters": {"price": "cost $$5", "token": "$(TOKEN)"},
    }));
    let container = built(&job, &tenant(json!({}))).spec.unwrap().containers.remove(0);
    let env = container.env.unwrap();
    let value = |name: &str| env.iter().find(|e| e.name == name).unwrap().value.as_deref().unwrap();
    assert_eq!((value("CROFTER_PARAM_PRICE"), value("CROFTER_PARAM_TOKEN")), ("cost $$$$5", "$$(TOKEN)"));
    assert_eq!(value("CROFTER_PARAMETERS"), r#"{"price":"cost $$$$5","token":"$$(TOKEN)"}"#);
    assert_eq!((value("A"), container.args.unwrap()), ("$(HOME)", vec!["$(A)".to_owned()]));
}

#[test]
fn a_container_sees_no_gpu_that_it_did_not_ask_for() {
    // Stored before the rule that refuses the name.
    let all = |name: &str| json!([{"name": name, "value": "all"}, {"name": "A", "value": "1"}]);
    let seen = |gpus: i64, name: &str| {
        let job = job(json!({"image": "a", "env": all(name), "resources": {"gpus": gpus}}));
        let container = built(&job, &tenant(json!({}))).spec.unwrap().containers.remove(0);
        let env = container.env.unwrap().into_iter().filter(|env| env.name == name);
        env.map(|env| env.value.unwrap()).collect::<Vec<_>>()
    };
    for (name, none) in names::VISIBLE_GPUS {
        assert_eq!(seen(0, name), [none], "{name}");
        assert!(seen(1, name).is_empty(), "{name}: the device plugin names those that are allocated");
    }
}

#[test]
fn an_image_that_another_tenant_has_pulled_is_asked_for_again() {
    let (job, tenant) = (job(json!({"image": "a@sha256:0"})), tenant(json!({})));
    let valid = validate(&job, &tenant, &Scenarios::default(), None).unwrap();
    let policy = |group: &str, pull_always_on_pools| {
        let admission = Admission { attempt: 1, group: group.to_owned(), node: None };
        let settings = Settings { pull_always_on_pools, ..Settings::default() };
        pod(&valid, &admission, &settings).spec.unwrap().containers.remove(0).image_pull_policy
    };
    assert_eq!(policy("pool.shared", true).as_deref(), Some("Always"));
    assert_eq!(policy("acme", true), None, "its own workers");
    assert_eq!(policy("pool.shared", false), None, "where the kubelet checks it");
}

#[test]
fn the_pod_of_a_retry_says_which_one_the_hour_counts() {
    let label = |status| {
        let mut job = job(json!({"image": "a"}));
        job.status = Some(serde_json::from_value(status).unwrap());
        built(&job, &tenant(json!({}))).metadata.labels.unwrap().remove(names::LABEL_RETRY)
    };
    let status =
        |charged: i32| json!({"phase": "Queued", "attempt": 4, "retries": 2, "chargedRetries": charged});
    assert_eq!(label(status(1)).as_deref(), Some("2"));
    assert_eq!(label(status(2)), None);
}

#[test]
fn no_autoscaler_consolidates_a_job_away() {
    let pod = built(&job(json!({"image": "a"})), &tenant(json!({})));
    let expected = json!({"karpenter.sh/do-not-disrupt": "true", "cluster-autoscaler.kubernetes.io/safe-to-evict": "false"});
    assert_eq!(json!(pod.metadata.annotations), expected);
}

#[test]
fn scratch_is_asked_for_and_limits_nothing_else() {
    let scratch = json!([{"name": "tmp", "mountPath": "/tmp", "scratch": "1Gi"}]);
    let disk = |spec| {
        let resources =
            built(&job(spec), &tenant(json!({}))).spec.unwrap().containers.remove(0).resources.unwrap();
        let of = |amounts: Option<BTreeMap<String, Quantity>>| Some(amounts?.remove(EPHEMERAL_STORAGE)?.0);
        (of(resources.requests), of(resources.limits))
    };
    let gib = |n: u64| Some((n << 30).to_string());
    assert_eq!(disk(json!({"image": "a", "volumes": scratch})), (gib(1), None));
    let both = json!({"image": "a", "volumes": scratch, "resources": {"ephemeralStorage": "2Gi"}});
    assert_eq!(disk(both), (gib(3), gib(3)), "the kubelet counts scratch against the pod's limit");
}

#[test]
fn a_scratch_volume_is_never_without_a_limit() {
    let volumes = json!([{"name": "v", "mountPath": "/v", "scratch": "0"}]);
    let pod = built(&job(json!({"image": "a", "volumes": volumes})), &tenant(json!({})));
    let volume = &pod.spec.unwrap().volumes.unwrap()[0];
    let size = volume.empty_dir.as_ref().and_then(|dir| dir.size_limit.clone());
    assert_eq!(size, Some(Quantity("1Mi".to_owned())));
}

#[test]
fn baseline_keeps_the_images_user() {
    let pod = built(&job(json!({"image": "a"})), &tenant(json!({"podSecurity": "Baseline"})));
    let context = pod.spec.unwrap().security_context.unwrap();
    assert_eq!((context.run_as_user, context.run_as_non_root), (None, None));
}

#[test]
fn a_scenario_alone_makes_the_pod() {
    let pod = built_from(&job(json!({"scenario": "train"})), &tenant(json!({})), &catalogue());
    let own = |name: &str| name.starts_with("CROFTER_");
    let bandwidth = pod.metadata.annotations.unwrap();
    let spec = pod.spec.unwrap();
    let container = &spec.containers[0];
    let resources = json!({"cpu": "4000m", "memory": "8589934592", "nvidia.com/gpu": "1", "ephemeral-storage": "1073741824"});
    let shown = json!({
        "image": container.image, "command": container.command, "args": container.args,
        "env": container.env.iter().flatten().filter(|e| !own(&e.name)).collect::<Vec<_>>(),
        "resources": container.resources, "user": spec.security_context.unwrap().run_as_user,
        "bandwidth": bandwidth["kubernetes.io/egress-bandwidth"],
    });
    let expected = json!({
        "image": "registry/train:3", "command": ["/train"], "args": ["--epochs", "10"],
        "env": [{"name": "DATA", "value": "/data"}, {"name": "LOG", "value": "info"}],
        "resources": {"requests": resources, "limits": resources}, "user": 1000, "bandwidth": "50M",
    });
    assert_eq!(shown, expected);
}

#[test]
fn what_the_job_gives_wins_over_its_scenario() {
    let own = job(json!({
        "scenario": "train", "image": "mine:1", "args": ["--epochs", "20"], "runAsUser": 2000,
        "env": [{"name": "LOG", "value": "debug"}], "resources": {"cpu": "500m", "gpus": 0, "bandwidthMbps": 0},
    }));
    let pod = built_from(&own, &tenant(json!({})), &catalogue());
    let annotations = pod.metadata.annotations.unwrap();
    assert!(!annotations.keys().any(|name| name.contains("bandwidth")), "{annotations:?}");
    let spec = pod.spec.unwrap();
    let container = &spec.containers[0];
    assert_eq!(container.image.as_deref(), Some("mine:1"));
    assert_eq!(
        (&container.command, &container.args),
        (&Some(vec!["/train".to_owned()]), &Some(vec!["--epochs".to_owned(), "20".to_owned()]))
    );
    let values: Vec<_> =
        container.env.iter().flatten().filter(|e| e.name == "LOG").map(|e| e.value.as_deref()).collect();
    assert_eq!(values, [Some("info"), Some("debug")], "the kubelet takes the last");
    let resources = json!({"cpu": "500m", "memory": "8589934592", "ephemeral-storage": "1073741824"});
    assert_eq!(json!(container.resources.as_ref().unwrap().requests), resources);
    assert_eq!(spec.security_context.unwrap().run_as_user, Some(2000));

    let command = job(json!({"scenario": "train", "command": ["/other"]}));
    let container = built_from(&command, &tenant(json!({})), &catalogue()).spec.unwrap().containers.remove(0);
    assert_eq!((container.command, container.args), (Some(vec!["/other".to_owned()]), None));
}
