//! From a Job to the pod of one attempt. Pure.
//!
//! The pod runs on the admitted nodes of one worker group and nowhere else, asks for exactly what it may use, and has
//! no token and no rights. Its finalizer keeps it until what it used is counted.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::SignedDuration;
use k8s_openapi::{
    api::core::v1::{
        Affinity, Capabilities, ConfigMapEnvSource, ConfigMapKeySelector, Container, EmptyDirVolumeSource,
        EnvFromSource, EnvVar, EnvVarSource, LocalObjectReference, NodeAffinity, NodeSelector,
        NodeSelectorRequirement, NodeSelectorTerm, PersistentVolumeClaimVolumeSource, Pod,
        PodSecurityContext, PodSpec, PreferredSchedulingTerm, ResourceRequirements, SeccompProfile,
        SecretEnvSource, SecretKeySelector, SecurityContext, Toleration, Volume, VolumeMount,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::OwnerReference},
};
use kube::{Resource, ResourceExt, api::ObjectMeta};

use crate::{
    api_types::{
        Job, JobSpec, Reason, Scenarios, Tenant,
        job::{EnvVar as JobEnv, KeyRef},
        quantity::DISK,
        tenant::PodSecurity,
    },
    domain::{
        admission::Admission,
        attempt::START_ALLOWANCE,
        environment::{self, EnvironmentError},
        pod_requests::BANDWIDTH_ANNOTATION,
        resources::{AskError, Resources},
    },
    names,
};

/// User of a Restricted pod that names none; the `nonroot` user of distroless images.
const DEFAULT_USER: i64 = 65_532;
/// Keeps Karpenter and the cluster autoscaler from consolidating a node away under a job: what it has computed would be
/// lost.
const UNDISTURBED: [(&str, &str); 2] =
    [("karpenter.sh/do-not-disrupt", "true"), ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false")];
/// The resource that counts what is written on a node's disk.
const EPHEMERAL_STORAGE: &str = "ephemeral-storage";
/// Seconds between SIGTERM and SIGKILL.
const GRACE_SECONDS: i64 = 30;

/// A job whose every field was read.
pub(super) struct ValidJob<'a> {
    /// With all that its scenario supplies.
    spec: Cow<'a, JobSpec>,
    name: String,
    namespace: String,
    uid: String,
    owner: OwnerReference,
    tenant: String,
    tenant_uid: String,
    pod_security: PodSecurity,
    image: String,
    asked: Resources,
    /// Running time that is left.
    left: Option<SignedDuration>,
}

/// Why no pod can be made of a job.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// It can't be told what it asks for.
    #[error(transparent)]
    Asks(#[from] AskError),
    /// The kernel could not execute it.
    #[error(transparent)]
    Environment(#[from] EnvironmentError),
    /// It asks for what the tenant's namespace never allows.
    #[error(
        "spec.runAsUser is 0, and PodSecurity `restricted` lets no process run as root: give another user id"
    )]
    Root,
    /// Neither the job nor its scenario has one.
    #[error("no image: give spec.image")]
    NoImage,
    /// It was never stored.
    #[error("the job has no UID yet")]
    NoUid,
    /// It would hand an API key to its container.
    #[error("Secret {0} holds an API key: a job can't refer to it")]
    KeySecret(String),
}

impl Refusal {
    pub(super) fn reason(&self) -> Reason {
        match self {
            Self::Asks(error) => error.reason(),
            Self::Environment(_) | Self::Root | Self::NoImage | Self::NoUid | Self::KeySecret(_) => {
                Reason::PodRefused
            }
        }
    }
}

/// Reads a job; the error is a sentence for its owner.
pub(super) fn validate<'a>(
    job: &'a Job,
    tenant: &Tenant,
    scenarios: &Scenarios,
    left: Option<SignedDuration>,
) -> Result<ValidJob<'a>, Refusal> {
    if let Some(secret) = job.spec.key_secret() {
        return Err(Refusal::KeySecret(secret.to_owned()));
    }
    let asked = Resources::of_job(&job.spec, scenarios)?;
    let spec = scenarios.complete(&job.spec).map_err(AskError::from)?;
    environment::check(&spec)?;
    if tenant.spec.pod_security == PodSecurity::Restricted && spec.run_as_user == Some(0) {
        return Err(Refusal::Root);
    }
    Ok(ValidJob {
        name: job.name_any(),
        namespace: job.namespace().unwrap_or_default(),
        uid: job.uid().unwrap_or_default(),
        owner: job.controller_owner_ref(&()).ok_or(Refusal::NoUid)?,
        tenant: tenant.name_any(),
        tenant_uid: tenant.uid().unwrap_or_default(),
        pod_security: tenant.spec.pod_security,
        image: spec.image.clone().ok_or(Refusal::NoImage)?,
        spec,
        asked,
        left,
    })
}

/// The pod of an admitted attempt.
pub(super) fn pod(job: &ValidJob<'_>, admission: &Admission, gpu_resource: &str) -> Pod {
    Pod { metadata: metadata(job, admission), spec: Some(spec(job, admission, gpu_resource)), status: None }
}

fn metadata(job: &ValidJob<'_>, admission: &Admission) -> ObjectMeta {
    let mut labels = BTreeMap::from([
        (names::LABEL_MANAGED_BY.to_owned(), names::MANAGER.to_owned()),
        (names::LABEL_TENANT.to_owned(), job.tenant.clone()),
        (names::LABEL_TENANT_UID.to_owned(), job.tenant_uid.clone()),
        (names::LABEL_JOB_UID.to_owned(), job.uid.clone()),
        (names::LABEL_ATTEMPT.to_owned(), admission.attempt.to_string()),
        (names::LABEL_GROUP.to_owned(), admission.group.clone()),
    ]);
    // A label's value is at most 63 characters, an object's name up to 253.
    if job.name.len() <= 63 {
        labels.insert(names::LABEL_JOB.to_owned(), job.name.clone());
    }
    let bandwidth = job.asked.bandwidth_mbps;
    let directions =
        [BANDWIDTH_ANNOTATION, "kubernetes.io/ingress-bandwidth"].map(|d| (d, format!("{bandwidth}M")));
    let annotations = directions.into_iter().filter(|_| bandwidth > 0);
    let annotations = annotations.chain(UNDISTURBED.map(|(name, value)| (name, value.to_owned())));
    ObjectMeta {
        name: Some(names::pod(&job.name, &job.uid, admission.attempt)),
        namespace: Some(job.namespace.clone()),
        labels: Some(labels),
        annotations: Some(annotations.map(|(name, value)| (name.to_owned(), value)).collect()),
        finalizers: Some(vec![names::FINALIZER_ACCOUNTED.to_owned()]),
        owner_references: Some(vec![job.owner.clone()]),
        ..ObjectMeta::default()
    }
}

fn spec(job: &ValidJob<'_>, admission: &Admission, gpu_resource: &str) -> PodSpec {
    let secrets = job.spec.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() });
    let secrets: Vec<_> = secrets.collect();
    PodSpec {
        active_deadline_seconds: job.left.map(|left| left.saturating_add(START_ALLOWANCE).as_secs()),
        affinity: Some(affinity(admission)),
        automount_service_account_token: Some(false),
        containers: vec![container(job, admission, gpu_resource)],
        enable_service_links: Some(false),
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        restart_policy: Some("Never".to_owned()),
        security_context: Some(pod_security(job)),
        service_account_name: Some(names::JOB_SERVICE_ACCOUNT.to_owned()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        tolerations: Some(vec![Toleration {
            key: Some(names::NODE_ADMITTED.to_owned()),
            operator: Some("Equal".to_owned()),
            value: Some(admission.group.clone()),
            effect: Some("NoSchedule".to_owned()),
            toleration_seconds: None,
        }]),
        volumes: volumes(job),
        ..PodSpec::default()
    }
}

/// The group's nodes only, and among them rather the one whose room was reserved: where kube-scheduler spreads what was
/// packed together, a large job that was admitted finds its room gone.
fn affinity(admission: &Admission) -> Affinity {
    let among = |key: &str, value: &str| NodeSelectorRequirement {
        key: key.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![value.to_owned()]),
    };
    let group = NodeSelectorTerm {
        match_expressions: Some(vec![among(names::NODE_ADMITTED, &admission.group)]),
        match_fields: None,
    };
    let reserved = admission.node.as_deref().map(|node| PreferredSchedulingTerm {
        preference: NodeSelectorTerm {
            match_expressions: None,
            match_fields: Some(vec![among("metadata.name", node)]),
        },
        weight: 100,
    });
    let node_affinity = NodeAffinity {
        required_during_scheduling_ignored_during_execution: Some(NodeSelector {
            node_selector_terms: vec![group],
        }),
        preferred_during_scheduling_ignored_during_execution: reserved.map(|term| vec![term]),
    };
    Affinity { node_affinity: Some(node_affinity), ..Affinity::default() }
}

fn pod_security(job: &ValidJob<'_>) -> PodSecurityContext {
    let restricted = job.pod_security == PodSecurity::Restricted;
    let user = job.spec.run_as_user.or(restricted.then_some(DEFAULT_USER));
    PodSecurityContext {
        run_as_non_root: restricted.then_some(true),
        run_as_user: user,
        // Without a group of its own a process is in root's, and can't write to a claim that is not its user's.
        run_as_group: user,
        fs_group: user,
        fs_group_change_policy: user.map(|_| "OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn container(job: &ValidJob<'_>, admission: &Admission, gpu_resource: &str) -> Container {
    let texts = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let asked = amounts(&job.asked, gpu_resource);
    let from: Vec<EnvFromSource> = job.spec.env_from.iter().map(env_from).collect();
    let restricted = job.pod_security == PodSecurity::Restricted;
    Container {
        name: names::JOB_CONTAINER.to_owned(),
        image: Some(job.image.clone()),
        command: texts(&job.spec.command),
        args: texts(&job.spec.args),
        working_dir: job.spec.working_dir.clone(),
        env: Some(variables(job, admission)),
        env_from: (!from.is_empty()).then_some(from),
        resources: Some(ResourceRequirements {
            limits: Some(limits(job, &asked)),
            requests: Some(asked),
            ..ResourceRequirements::default()
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            capabilities: restricted
                .then(|| Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
            ..SecurityContext::default()
        }),
        // The last lines of a failed container's output become its message.
        termination_message_policy: Some("FallbackToLogsOnError".to_owned()),
        volume_mounts: mounts(job),
        ..Container::default()
    }
}

fn amounts(asked: &Resources, gpu_resource: &str) -> BTreeMap<String, Quantity> {
    let mut amounts = BTreeMap::from([
        ("cpu".to_owned(), Quantity(format!("{}m", asked.cpu_milli))),
        ("memory".to_owned(), Quantity(asked.memory_bytes.to_string())),
    ]);
    if asked.gpus > 0 {
        amounts.insert(gpu_resource.to_owned(), Quantity(asked.gpus.to_string()));
    }
    if asked.ephemeral_bytes > 0 {
        amounts.insert(EPHEMERAL_STORAGE.to_owned(), Quantity(asked.ephemeral_bytes.to_string()));
    }
    amounts
}

/// What it asks for is all that it gets. Scratch volumes have limits of their own: where they are all that is asked for of
/// the disk, what is written elsewhere has none, as without them.
fn limits(job: &ValidJob<'_>, asked: &BTreeMap<String, Quantity>) -> BTreeMap<String, Quantity> {
    let mut limits = asked.clone();
    if job.spec.resources.as_ref().is_none_or(|own| own.ephemeral_storage.is_none()) {
        limits.remove(EPHEMERAL_STORAGE);
    }
    limits
}

fn variables(job: &ValidJob<'_>, admission: &Admission) -> Vec<EnvVar> {
    let plain = |name: String, value: String| EnvVar { name, value: Some(value), value_from: None };
    // Crofter's own come last: where a name is given twice, the kubelet takes the last.
    let own = [
        ("CROFTER_JOB", job.name.clone()),
        ("CROFTER_JOB_UID", job.uid.clone()),
        ("CROFTER_ATTEMPT", admission.attempt.to_string()),
        ("CROFTER_TENANT", job.tenant.clone()),
    ];
    // Parameters are texts and reach the container as they are; `env`, `command` and `args` are a pod's, where `$(NAME)`
    // is the value of that variable and `$$` one `$`.
    let parameters = &job.spec.parameters;
    let json = environment::parameters_json(parameters)
        .map(|json| plain(environment::PARAMETERS.to_owned(), environment::literal(&json)));
    let each = parameters
        .iter()
        .map(|(name, value)| plain(names::parameter_variable(name), environment::literal(&value.0)));
    let users = job.spec.env.iter().map(env_var);
    users.chain(each).chain(json).chain(own.map(|(name, value)| plain(name.to_owned(), value))).collect()
}

fn env_var(variable: &JobEnv) -> EnvVar {
    let secret = |k: &KeyRef| SecretKeySelector { name: k.name.clone(), key: k.key.clone(), optional: None };
    let map = |k: &KeyRef| ConfigMapKeySelector { name: k.name.clone(), key: k.key.clone(), optional: None };
    let value_from =
        (variable.secret_key_ref.is_some() || variable.config_map_key_ref.is_some()).then(|| EnvVarSource {
            secret_key_ref: variable.secret_key_ref.as_ref().map(secret),
            config_map_key_ref: variable.config_map_key_ref.as_ref().map(map),
            ..EnvVarSource::default()
        });
    EnvVar { name: variable.name.clone(), value: variable.value.clone(), value_from }
}

fn env_from(source: &crate::api_types::job::EnvFrom) -> EnvFromSource {
    EnvFromSource {
        secret_ref: source.secret.as_ref().map(|name| SecretEnvSource { name: name.clone(), optional: None }),
        config_map_ref: source
            .config_map
            .as_ref()
            .map(|name| ConfigMapEnvSource { name: name.clone(), optional: None }),
        prefix: None,
    }
}

fn volumes(job: &ValidJob<'_>) -> Option<Vec<Volume>> {
    let one = |volume: &crate::api_types::job::Volume| Volume {
        name: volume.name.clone(),
        persistent_volume_claim: volume.claim.as_ref().map(|claim| PersistentVolumeClaimVolumeSource {
            claim_name: claim.clone(),
            read_only: Some(volume.read_only),
        }),
        empty_dir: volume.scratch.as_ref().map(|size| EmptyDirVolumeSource {
            size_limit: Some(Quantity(DISK.at_least(size).0)),
            medium: None,
        }),
        ..Volume::default()
    };
    let all: Vec<Volume> = job.spec.volumes.iter().map(one).collect();
    (!all.is_empty()).then_some(all)
}

fn mounts(job: &ValidJob<'_>) -> Option<Vec<VolumeMount>> {
    let one = |volume: &crate::api_types::job::Volume| VolumeMount {
        name: volume.name.clone(),
        mount_path: volume.mount_path.clone(),
        read_only: volume.read_only.then_some(true),
        ..VolumeMount::default()
    };
    let all: Vec<VolumeMount> = job.spec.volumes.iter().map(one).collect();
    (!all.is_empty()).then_some(all)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(spec: serde_json::Value) -> Job {
        let metadata = json!({"name": "render", "namespace": "tenant-acme", "uid": "0b8e9a52-6a5e-4d5c-9c0e-6a1f6c0a9f11"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    fn tenant(spec: serde_json::Value) -> Tenant {
        serde_json::from_value(json!({"metadata": {"name": "acme", "uid": "t"}, "spec": spec})).unwrap()
    }

    fn built_from(job: &Job, tenant: &Tenant, scenarios: &Scenarios) -> Pod {
        let valid = validate(job, tenant, scenarios, Some(SignedDuration::from_mins(30))).unwrap();
        pod(&valid, &Admission { attempt: 2, group: "acme".into(), node: Some("n".into()) }, "nvidia.com/gpu")
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
            let of =
                |amounts: Option<BTreeMap<String, Quantity>>| Some(amounts?.remove(EPHEMERAL_STORAGE)?.0);
            (of(resources.requests), of(resources.limits))
        };
        let gib = |n: u64| Some((n << 30).to_string());
        assert_eq!(disk(json!({"image": "a", "volumes": scratch})), (gib(1), None));
        let both = json!({"image": "a", "volumes": scratch, "resources": {"ephemeralStorage": "2Gi"}});
        assert_eq!(disk(both), (gib(3), gib(3)), "the kubelet counts scratch against the pod's limit");
    }

    #[test]
    fn no_reference_to_the_secret_of_an_api_key_reaches_a_pod() {
        for spec in [
            json!({"envFrom": [{"secret": "crofter-key-ci"}]}),
            json!({"env": [{"name": "A", "secretKeyRef": {"name": "crofter-key-ci", "key": "token"}}]}),
            json!({"imagePullSecrets": ["mine", "crofter-key-ci"]}),
        ] {
            let mut spec = spec;
            spec["image"] = json!("a");
            let job = job(spec);
            let refusal = validate(&job, &tenant(json!({})), &Scenarios::default(), None).err().unwrap();
            assert_eq!(refusal.reason(), Reason::PodRefused);
            assert_eq!(
                refusal.to_string(),
                "Secret crofter-key-ci holds an API key: a job can't refer to it"
            );
        }
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

    fn catalogue() -> Scenarios {
        Scenarios::from_yaml(
            "scenarios:
              train:
                image: registry/train:3
                command: [/train]
                args: [--epochs, '10']
                env: [{name: DATA, value: /data}, {name: LOG, value: info}]
                resources: {cpu: 4, memory: 8Gi, gpus: 1, ephemeralStorage: 1Gi, bandwidthMbps: 50}
                runAsUser: 1000",
        )
        .unwrap()
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
        let container =
            built_from(&command, &tenant(json!({})), &catalogue()).spec.unwrap().containers.remove(0);
        assert_eq!((container.command, container.args), (Some(vec!["/other".to_owned()]), None));
    }

    #[test]
    fn what_can_not_be_built_says_why() {
        let refused = |spec, scenarios: &Scenarios| {
            let refusal = validate(&job(spec), &tenant(json!({})), scenarios, None).err().unwrap();
            (refusal.reason(), refusal.to_string())
        };
        let none = Scenarios::default();
        let (reason, sentence) = refused(json!({"scenario": "infer"}), &catalogue());
        assert_eq!(reason, Reason::UnknownScenario);
        assert_eq!(sentence, "the catalogue has no scenario `infer`: it has train");
        let (_, sentence) = refused(json!({"scenario": "train", "image": "a"}), &none);
        assert_eq!(sentence, "the catalogue has no scenario `train`: it is empty");
        assert_eq!(refused(json!({}), &none), (Reason::PodRefused, "no image: give spec.image".to_owned()));
        let (reason, sentence) = refused(json!({"image": "a", "runAsUser": 0}), &none);
        assert!(reason == Reason::PodRefused && sentence.contains("PodSecurity"), "{sentence}");
        let parameters: std::collections::BTreeMap<_, _> =
            (0..32).map(|n| (format!("p{n}"), "x".repeat(4096))).collect();
        let (reason, sentence) = refused(json!({"image": "a", "parameters": parameters}), &none);
        assert!(reason == Reason::PodRefused && sentence.contains("at most 131071"), "{sentence}");
        let (reason, sentence) = refused(json!({"image": "a", "resources": {"cpu": "many"}}), &none);
        assert_eq!(reason, Reason::PodRefused);
        assert!(sentence.starts_with("spec.resources.cpu: `many`"), "{sentence}");
    }
}
