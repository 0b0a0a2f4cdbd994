//! The one container of a job's pod, and its volumes. Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapEnvSource, ConfigMapKeySelector, Container, EmptyDirVolumeSource,
        EnvFromSource, EnvVar, EnvVarSource, PersistentVolumeClaimVolumeSource, ResourceRequirements,
        SecretEnvSource, SecretKeySelector, SecurityContext, Volume, VolumeMount,
    },
    apimachinery::pkg::api::resource::Quantity,
};

use super::super::validate::ValidJob;
use crate::{
    api_types::{
        job::{EnvVar as JobEnv, KeyRef},
        quantity,
        tenant::PodSecurity,
    },
    config::Settings,
    domain::{admission::Admission, environment, resources::Resources},
    names,
};

/// The resource that counts what is written on a node's disk.
pub(super) const EPHEMERAL_STORAGE: &str = "ephemeral-storage";

pub(super) fn container(job: &ValidJob<'_>, admission: &Admission, settings: &Settings) -> Container {
    let texts = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let asked = amounts(&job.asked, &settings.gpu_resource);
    let from: Vec<EnvFromSource> = job.spec.env_from.iter().map(env_from).collect();
    let restricted = job.pod_security == PodSecurity::Restricted;
    // What one tenant's job has pulled with its secret is on the node for the next tenant's, which has none.
    let checks_pulls = settings.pull_always_on_pools && names::is_pool_group(&admission.group);
    Container {
        name: names::JOB_CONTAINER.to_owned(),
        image: Some(job.image.clone()),
        image_pull_policy: checks_pulls.then(|| "Always".to_owned()),
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
        // A pod's status, and so the Job's, is read by users who may not read logs: none of their lines goes there. What the
        // program writes to /dev/termination-log does.
        termination_message_policy: Some("File".to_owned()),
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

/// What it asks for is all that it gets. Scratch volumes have limits of their own: where they are all that is asked for
/// of the disk, what is written elsewhere has none, as without them.
fn limits(job: &ValidJob<'_>, asked: &BTreeMap<String, Quantity>) -> BTreeMap<String, Quantity> {
    let mut limits = asked.clone();
    if job.spec.resources.as_ref().is_none_or(|own| own.ephemeral_storage.is_none()) {
        limits.remove(EPHEMERAL_STORAGE);
    }
    limits
}

fn variables(job: &ValidJob<'_>, admission: &Admission) -> Vec<EnvVar> {
    let plain = |name: String, value: String| EnvVar { name, value: Some(value), value_from: None };
    // Crofter's own come last: where a name is given twice, the kubelet takes the last, before those of `envFrom` and of the
    // image. On a node whose default runtime is that of a GPU's vendor, a container without allocated GPUs would have those
    // that one of these names, and many images name all of them.
    let no_gpus = names::VISIBLE_GPUS.iter().filter(|_| job.asked.gpus == 0);
    let no_gpus = no_gpus.map(|(name, none)| (*name, (*none).to_owned()));
    let own = [
        ("CROFTER_JOB", job.name.clone()),
        ("CROFTER_JOB_UID", job.uid.clone()),
        ("CROFTER_ATTEMPT", admission.attempt.to_string()),
        ("CROFTER_TENANT", job.tenant.clone()),
    ];
    // Parameters are texts and reach the container as they are; `env`, `command` and `args` are a pod's, where
    // `$(NAME)` is the value of that variable and `$$` one `$`.
    let parameters = &job.spec.parameters;
    let json = environment::parameters_json(parameters)
        .map(|json| plain(environment::PARAMETERS.to_owned(), environment::literal(&json)));
    let each = parameters
        .iter()
        .map(|(name, value)| plain(names::parameter_variable(name), environment::literal(&value.0)));
    // A variable of a job from before the rule would displace that of the device plugin.
    let users =
        job.spec.env.iter().filter(|variable| !names::makes_gpus_visible(&variable.name)).map(env_var);
    let own = own.into_iter().chain(no_gpus).map(|(name, value)| plain(name.to_owned(), value));
    users.chain(each).chain(json).chain(own).collect()
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

pub(super) fn volumes(job: &ValidJob<'_>) -> Option<Vec<Volume>> {
    let one = |volume: &crate::api_types::job::Volume| Volume {
        name: volume.name.clone(),
        persistent_volume_claim: volume.claim.as_ref().map(|claim| PersistentVolumeClaimVolumeSource {
            claim_name: claim.clone(),
            read_only: Some(volume.read_only),
        }),
        empty_dir: volume.scratch.as_ref().map(|size| EmptyDirVolumeSource {
            size_limit: Some(Quantity(quantity::DISK.at_least(size).0)),
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
