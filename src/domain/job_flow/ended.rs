//! A job that has ended: what still runs is stopped, the record of its attempts is completed, and the job expires.

use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};

use super::{
    Step, View, bounds, delete,
    finish::{on_record, put_on_record},
    running::stop_pod,
};
use crate::{
    api_types::{JobStatus, Reason},
    domain::attempt::{self, Observed},
};

/// A job that has ended keeps its pods for their logs, but none that could still run, and what ran all the same (its
/// pod was created just before the job was canceled) is recorded.
pub(super) fn after_the_end(view: &View<'_>, status: &JobStatus) -> Step {
    let record = |pod: &Arc<Pod>| {
        let bounds = bounds(view, status, attempt::number(pod)?, pod);
        attempt::record_within(pod, view.gpu_resource, &bounds)
    };
    let records = view.pods.iter().filter_map(record);
    if let Some(missing) = records.into_iter().find(|record| !on_record(status, record.attempt)) {
        let mut new = status.clone();
        (new.attempt, new.pod, new.node) = (missing.attempt, Some(missing.pod.clone()), missing.node.clone());
        new.running_millis = new.running_millis.saturating_add(missing.running_millis());
        put_on_record(&mut new, missing);
        return Step::Write(Box::new(new));
    }
    let live = view.pods.iter().find(|pod| {
        pod.metadata.deletion_timestamp.is_none() && !matches!(attempt::observe(pod), Observed::Ended(_))
    });
    if let Some(pod) = live {
        return delete(pod);
    }
    let kept = |pod: &&Arc<Pod>| pod.metadata.deletion_timestamp.is_none() && attempt::others_run(pod);
    if let Some(pod) = view.pods.iter().find(kept) {
        // The attempt has its end: this one is the sidecar's.
        return stop_pod(view, pod, Reason::Succeeded);
    }
    let Some(seconds) = view.job.spec.ttl_seconds_after_finished else { return Step::Wait(None) };
    let Some(Time(end)) = status.finished_at else { return Step::Wait(None) };
    match end.saturating_add(SignedDuration::from_secs(seconds)) {
        Ok(at) if at <= view.now => Step::Expire,
        Ok(at) => Step::Wait(Some(at)),
        Err(_) => Step::Wait(None),
    }
}
