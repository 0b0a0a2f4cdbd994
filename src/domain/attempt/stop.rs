//! Ending a pod without deleting it, so that its log stays.
//!
//! The kubelet ends a pod, with its grace, when its `activeDeadlineSeconds` are over, and the API server lets them be
//! shortened while it runs. What it then says is the same whichever client shortened them, so the pod itself carries
//! who asked and when, written by the same patch.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::{api_types::Reason, names};

/// A kubelet that has not ended the pod so long after its grace does not heed the deadline: the pod is then deleted.
const PATIENCE: SignedDuration = SignedDuration::from_secs(30);
/// What Kubernetes takes where a pod does not say.
const DEFAULT_GRACE: i64 = 30;

/// That a pod is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop {
    /// When it was asked for, in whole seconds as the kubelet's times are.
    pub at: Timestamp,
    /// Why.
    pub reason: Reason,
}

impl Stop {
    /// The merge-patch that stops this very pod, as it is known.
    #[must_use]
    pub fn patch(&self, pod_uid: &str, resource_version: &str) -> Value {
        let second = Timestamp::from_second(self.at.as_second()).unwrap_or(self.at);
        let metadata = json!({
            "uid": pod_uid, "resourceVersion": resource_version,
            "annotations": {names::ANNOTATION_STOP: format!("{second} {}", self.reason)},
        });
        json!({"metadata": metadata, "spec": {"activeDeadlineSeconds": 1}})
    }

    /// When the pod is deleted if it has not ended.
    #[must_use]
    pub fn until(&self, pod: &Pod) -> Timestamp {
        let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let grace = SignedDuration::from_secs(grace.unwrap_or(DEFAULT_GRACE));
        self.at.saturating_add(grace.saturating_add(PATIENCE)).unwrap_or(self.at)
    }
}

/// Whether a pod was asked to end.
#[must_use]
pub fn request(pod: &Pod) -> Option<Stop> {
    let (at, reason) = pod.annotations().get(names::ANNOTATION_STOP)?.split_once(' ')?;
    Some(Stop { at: at.parse().ok()?, reason: reason.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube_ext::mock;

    #[test]
    fn a_stopped_pod_carries_the_reason_and_the_time() {
        let stop = Stop { at: "2026-01-01T00:00:09.7Z".parse().unwrap(), reason: Reason::Canceled };
        let patch = stop.patch("p1", "7");
        assert_eq!(patch["metadata"]["uid"], "p1");
        let mut pod =
            json!({"metadata": {"name": "p"}, "spec": {"containers": [], "activeDeadlineSeconds": 2100}});
        mock::merge(&mut pod, &patch);
        assert_eq!(pod["spec"]["activeDeadlineSeconds"], 1);
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let asked = Stop { at: "2026-01-01T00:00:09Z".parse().unwrap(), ..stop };
        assert_eq!(request(&pod), Some(asked));
        assert_eq!(asked.until(&pod), "2026-01-01T00:01:09Z".parse().unwrap());
    }

    #[test]
    fn what_is_no_request_is_none() {
        let pod = |text: &str| -> Pod {
            let metadata = json!({"annotations": {names::ANNOTATION_STOP: text}});
            serde_json::from_value(json!({"metadata": metadata})).unwrap()
        };
        for text in ["", "Canceled", "now Canceled", "2026-01-01T00:00:09Z Tired"] {
            assert_eq!(request(&pod(text)), None, "{text}");
        }
    }
}
