//! When the API server received the end of a container: what a kubelet can't choose.
//!
//! The API server keeps the time of each field manager's last write. [`prepare`] reads that of a pod's status before the
//! cache drops it. A kubelet reports an end within seconds. One that is cut off does so when it is back; by then its
//! pods have long been deleted, or are known to be lost. So a container that ended by itself has done so no earlier than
//! [`MAX_DELAY`] before its report, and one that was deleted or disrupted no earlier than that before its deletion or
//! disruption. Whoever writes a pod's status could claim one of these: then the attempt has failed by it, and is run again.
//!
//! A pod with several containers is written again when the others end, so nothing is known of the job's.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{Cause, container, phase};
use crate::names;

/// The longest delay of a report. A node is unreachable 50 s after its last lease, and a pod tolerates that for 300 s (defaults of
/// kube-controller-manager's `--node-monitor-grace-period` and the API server's `--default-unreachable-toleration-seconds`).
const MAX_DELAY: SignedDuration = SignedDuration::from_mins(10);

/// Sees to it that a pod whose container has ended carries [`names::POD_END_REPORTED`], and that no other pod does. For
/// [`Watch::with_prepare`](crate::kube_ext::watch::Watch::with_prepare).
pub fn prepare(pod: &mut Pod) {
    // Whoever writes a pod's status can write its annotations.
    pod.annotations_mut().remove(names::POD_END_REPORTED);
    if !has_ended(pod) || pod.spec.as_ref().is_none_or(|spec| spec.containers.len() > 1) {
        return;
    }
    let writes = pod.managed_fields().iter().filter(|entry| entry.subresource.as_deref() == Some("status"));
    let Some(at) = writes.filter_map(|entry| Some(entry.time.as_ref()?.0)).max() else { return };
    pod.annotations_mut().insert(names::POD_END_REPORTED.to_owned(), at.to_string());
}

/// The earliest time at which the container of a pod can have ended, by what it ended, where it is known.
pub(super) fn earliest_end(pod: &Pod, cause: Cause) -> Option<Timestamp> {
    let reported: Timestamp = pod.annotations().get(names::POD_END_REPORTED)?.parse().ok()?;
    if !matches!(cause, Cause::Deletion | Cause::Infrastructure) {
        return reported.checked_sub(MAX_DELAY).ok();
    }
    let grace = SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or_default());
    let deleted = pod.metadata.deletion_timestamp.as_ref().and_then(|time| time.0.checked_sub(grace).ok());
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let disrupted = conditions.filter(|c| c.type_ == "DisruptionTarget" && c.status == "True");
    let disrupted = disrupted.filter_map(|c| Some(c.last_transition_time.as_ref()?.0));
    disrupted.chain(deleted).fold(reported, Timestamp::min).checked_sub(MAX_DELAY).ok()
}

fn has_ended(pod: &Pod) -> bool {
    let state = container(pod).and_then(|container| container.state.as_ref());
    matches!(phase(pod), Some("Succeeded" | "Failed")) || state.is_some_and(|s| s.terminated.is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{super::record, *};
    use crate::kube_ext::mock;

    /// A pod whose container has ended, written as the API server has it and prepared for the cache.
    fn prepared(changes: &Value) -> Pod {
        let mut pod = json!({
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [
                {"manager": "crofter", "time": "2026-01-01T09:00:00Z"},
                {"manager": "kube-scheduler", "subresource": "status", "time": "2026-01-01T00:00:01Z"},
                {"manager": "kubelet", "subresource": "status", "time": "2026-01-01T08:00:00Z"},
            ]},
            "spec": {"containers": [{"name": "job"}]},
            "status": {"phase": "Succeeded"},
        });
        mock::merge(&mut pod, changes);
        let mut pod: Pod = serde_json::from_value(pod).unwrap();
        prepare(&mut pod);
        pod
    }

    fn earliest(changes: Value) -> Option<String> {
        let [own, deleted] =
            [Cause::Success, Cause::Deletion].map(|cause| earliest_end(&prepared(&changes), cause));
        let never_later = own.zip(deleted).is_none_or(|(own, deleted)| deleted <= own);
        assert!(never_later && own.is_some() >= deleted.is_some());
        deleted.map(|time| time.to_string())
    }

    #[test]
    fn an_attempt_runs_until_shortly_before_its_end_was_reported() {
        // Given a kubelet that says of a container that ran for eight hours that it ran for no second.
        let second = "2026-01-01T00:00:05Z";
        let terminated = json!({"exitCode": 0, "startedAt": second, "finishedAt": second});
        let container = json!({"name": "job", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": terminated}});
        let pod = prepared(&json!({
            "metadata": {"labels": {names::LABEL_ATTEMPT: "1"}}, "status": {"containerStatuses": [container]},
        }));
        // Then its record has what the API server saw.
        let record = record(&pod, "nvidia.com/gpu").unwrap();
        assert_eq!(record.started_at.unwrap().0.to_string(), second);
        assert_eq!(record.finished_at.0.to_string(), "2026-01-01T07:50:00Z");
    }

    #[test]
    fn what_ended_by_itself_is_bounded_by_its_report_alone() {
        let claimed = prepared(&json!({
            "metadata": {"deletionTimestamp": "2026-01-01T05:00:00Z"}, "status": {"conditions": [
                {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": "2026-01-01T04:00:00Z"}]},
        }));
        for cause in [Cause::Success, Cause::Job, Cause::Timeout, Cause::Invalid] {
            assert_eq!(
                earliest_end(&claimed, cause).unwrap().to_string(),
                "2026-01-01T07:50:00Z",
                "{cause:?}"
            );
        }
        assert_eq!(
            earliest_end(&claimed, Cause::Infrastructure).unwrap().to_string(),
            "2026-01-01T03:50:00Z"
        );
    }

    #[test]
    fn an_end_is_at_most_ten_minutes_older_than_its_report_deletion_and_disruption() {
        let some = |time: &str| Some(format!("2026-01-01T{time}Z"));
        // Given: a container whose end was reported at eight.
        assert_eq!(earliest(json!({})), some("07:50:00"));
        let running = json!([{"name": "job", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:05Z"}}}]);
        let terminated = json!([{"name": "job", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0}}}]);
        // Then: nothing is known of one that runs, or is not alone; and what was before the report counts.
        for (what, changes, expected) in [
            ("runs", json!({"status": {"phase": "Running", "containerStatuses": running}}), None),
            (
                "its pod is not over",
                json!({"status": {"phase": "Running", "containerStatuses": terminated}}),
                some("07:50:00"),
            ),
            ("one of two", json!({"spec": {"containers": [{"name": "job"}, {"name": "proxy"}]}}), None),
            ("nothing is known", json!({"metadata": {"managedFields": null}}), None),
            (
                "deleted at five, with grace, while its node was cut off",
                json!({"metadata": {"deletionTimestamp": "2026-01-01T05:00:30Z", "deletionGracePeriodSeconds": 30}}),
                some("04:50:00"),
            ),
            (
                "disrupted before that",
                json!({"metadata": {"deletionTimestamp": "2026-01-01T05:00:00Z"}, "status": {"conditions": [
                    {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": "2026-01-01T04:00:00Z"}]}}),
                some("03:50:00"),
            ),
            ("the year zero", json!({"metadata": {"deletionTimestamp": "-009999-01-02T01:59:59Z"}}), None),
        ] {
            assert_eq!(earliest(changes), expected, "{what}");
        }
    }

    #[test]
    fn what_a_kubelet_wrote_itself_is_not_kept() {
        let forged = json!({"metadata": {"annotations": {names::POD_END_REPORTED: "2026-01-01T00:00:00Z"}}});
        let mut running = forged.clone();
        running["status"] = json!({"phase": "Running"});
        assert_eq!(earliest(running), None);
        assert_eq!(earliest(forged).as_deref(), Some("2026-01-01T07:50:00Z"));
    }
}
