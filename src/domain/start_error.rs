//! What keeps a container from starting, and whether it can end by itself.
//!
//! A kubelet says why a container waits, in one word and a sentence; kube-scheduler, why a pod gets no node. Four kinds
//! of it never end by themselves:
//!
//! | word | what it says | the job |
//! |---|---|---|
//! | `InvalidImageName` | the image's name can't be parsed; a job's image can't be edited | ends at once |
//! | `CreateContainerError` | `no command specified`: neither image nor job has an entry point | ends at once |
//! | `CreateContainerConfigError` | a Secret, a ConfigMap or a key of one does not exist | ends [`GRACE`] after the pod was created |
//! | (kube-scheduler) | `persistentvolumeclaim "x" not found` | likewise, as `ClaimNotFound` |
//!
//! The grace is for what is applied together with its job, in whatever order (GitOps, `kubectl apply -f dir/`): it
//! counts from the pod's creation, so that a pull of minutes before the kubelet reads the Secret uses it up. Every
//! other cause may end (an image that can't be pulled, a registry that is away, a kubelet whose cache is behind) and
//! waits until the pod's start limit.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;

use crate::{api_types::Reason, names};

/// How long after the creation of its pod a Secret, ConfigMap, key of one, or claim may be created.
pub const GRACE: SignedDuration = SignedDuration::from_secs(60);

/// Why an attempt whose container never starts is ended.
pub const REASONS: [Reason; 4] = [
    Reason::InvalidImageName,
    Reason::CreateContainerConfigError,
    Reason::CreateContainerError,
    Reason::ClaimNotFound,
];

/// Why a container never starts as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartError {
    /// The kubelet's word.
    pub reason: Reason,
    /// The kubelet's word and sentence.
    pub message: String,
    /// How long after the creation of the pod it may end by itself.
    pub grace: SignedDuration,
}

/// Why the job's container never starts as it is, if its kubelet or kube-scheduler says so.
#[must_use]
pub fn of(pod: &Pod) -> Option<StartError> {
    of_container(pod).or_else(|| of_claim(pod))
}

fn of_claim(pod: &Pod) -> Option<StartError> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let unscheduled = conditions.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")?;
    let (_, named) = unscheduled.message.as_deref()?.split_once("persistentvolumeclaim \"")?;
    let (claim, rest) = named.split_once('"')?;
    let message = format!("ClaimNotFound: persistentvolumeclaim \"{claim}\" not found");
    rest.starts_with(" not found").then_some(StartError {
        reason: Reason::ClaimNotFound,
        message,
        grace: GRACE,
    })
}

fn of_container(pod: &Pod) -> Option<StartError> {
    let containers = pod.status.as_ref()?.container_statuses.as_ref()?;
    let container = containers.iter().find(|container| container.name == names::JOB_CONTAINER)?;
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let words = waiting.message.as_deref().unwrap_or_default();
    let (reason, grace) = match waiting.reason.as_deref()? {
        "InvalidImageName" => (Reason::InvalidImageName, SignedDuration::ZERO),
        "CreateContainerError" if words.contains("no command specified") => {
            (Reason::CreateContainerError, SignedDuration::ZERO)
        }
        "CreateContainerConfigError" if is_missing(words) => (Reason::CreateContainerConfigError, GRACE),
        _ => return None,
    };
    let message = format!("{}: {words}", reason.as_str()).trim_end_matches([':', ' ']).to_owned();
    Some(StartError { reason, message, grace })
}

/// Whether a kubelet's words name a Secret, a ConfigMap or a key that does not exist: `secret "x" not found`,
/// `couldn't find key k in Secret ns/x`. One whose cache is behind says `failed to sync secret cache` instead.
fn is_missing(words: &str) -> bool {
    let absent = ["secret \"", "configmap \""]
        .iter()
        .any(|kind| words.starts_with(kind) && words.ends_with(" not found"));
    absent || words.starts_with("couldn't find key ") || words.starts_with("references non-existent ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn error(container: &str, reason: &str, message: &str) -> Option<(Reason, String, i64)> {
        let state = json!({"waiting": {"reason": reason, "message": message}});
        let status = json!([{"name": container, "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": state}]);
        let pod = json!({"status": {"phase": "Pending", "containerStatuses": status}});
        let error = of(&serde_json::from_value(pod).unwrap())?;
        Some((error.reason, error.message, error.grace.as_secs()))
    }

    #[test]
    fn a_claim_that_does_not_exist_is_known_by_kube_schedulers_words() {
        let of_words = |words: &str| {
            let condition = json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": words});
            of(&serde_json::from_value(json!({"status": {"phase": "Pending", "conditions": [condition]}}))
                .unwrap())
        };
        let absent =
            "0/3 nodes are available: persistentvolumeclaim \"results\" not found. preemption: not helpful";
        let error = of_words(absent).unwrap();
        assert_eq!((error.reason, error.grace), (Reason::ClaimNotFound, GRACE));
        assert_eq!(error.message, "ClaimNotFound: persistentvolumeclaim \"results\" not found");
        assert_eq!(of_words("0/3 nodes are available: 3 Insufficient cpu."), None);
        assert_eq!(of_words("pod has unbound immediate PersistentVolumeClaims"), None);
    }

    #[test]
    fn what_can_never_start_is_known_by_the_kubelets_word() {
        let config = "CreateContainerConfigError";
        let table = [
            ("InvalidImageName", "couldn't parse image name \"UPPER/Case:tag\"", Some(0)),
            ("CreateContainerError", "failed to generate spec: no command specified", Some(0)),
            (config, "secret \"db\" not found", Some(60)),
            (config, "configmap \"settings\" not found", Some(60)),
            (config, "couldn't find key password in Secret tenant-acme/db", Some(60)),
            (config, "couldn't find key level in ConfigMap tenant-acme/settings", Some(60)),
            // These may end.
            (config, "failed to sync secret cache: timed out waiting for the condition", None),
            (config, "services have not yet been read at least once, cannot construct envvars", None),
            ("CreateContainerError", "context deadline exceeded", None),
            ("ErrImagePull", "pull access denied, repository does not exist", None),
            ("ImagePullBackOff", "Back-off pulling image \"InvalidImageName\"", None),
            ("ContainerCreating", "", None),
            ("PodInitializing", "", None),
        ];
        for (reason, words, grace) in table {
            let expected = grace.map(|grace| (reason.parse().unwrap(), format!("{reason}: {words}"), grace));
            assert_eq!(error("job", reason, words), expected, "{reason}: {words}");
        }
        assert_eq!(error("injected", "InvalidImageName", "no"), None, "not the job's container");
        let bare = error("job", "InvalidImageName", "").unwrap();
        assert_eq!(bare.1, "InvalidImageName");
    }
}
