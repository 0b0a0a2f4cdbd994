//! What an estimate of a start needs to know of a job, read from its object.

use std::sync::Arc;

use jiff::SignedDuration;
use kube::ResourceExt as _;

use super::from_objects::JobPods;
use crate::{
    api_types::{Job, JobPhase, Reason, Scenarios},
    domain::{
        admission::{JobInput, JobState},
        estimate::{
            JobTimes, Outlook,
            history::{Kind, PastRun},
        },
        retry,
    },
    names,
};

/// Takes over a job's times, and the runs of its attempts that ended.
pub(super) fn update(
    outlook: &mut Outlook,
    job: &Job,
    input: &JobInput,
    pods: &JobPods,
    scenarios: &Scenarios,
) {
    let mut kinds = kinds(job, scenarios);
    // What it ran while its spec was whole: the image of its scenario, too.
    if let (Some(known), false) = (outlook.kinds(&input.uid), job.spec.has_payload()) {
        kinds = known.to_vec();
    }
    past_runs(job, &input.uid).for_each(|run| outlook.add_run(&input.namespace, &kinds, &run));
    match input.state {
        JobState::Ended(_) => {
            let timeout_seconds = job.spec.timeout_seconds;
            outlook.submitted(input, &JobTimes { kinds, timeout_seconds, ..JobTimes::default() });
            outlook.remove(&input.uid);
        }
        JobState::Inactive | JobState::Waiting(_) | JobState::BackingOff | JobState::Active { .. } => {
            let pod = pods.live(&input.namespace, &input.uid).cloned();
            let timeout_seconds = scenarios.timeout_seconds(&job.spec);
            outlook.set(input, JobTimes { kinds, timeout_seconds, pod, ..times(job) });
        }
    }
}

/// What a job runs: its scenario, and its image, which may be the scenario's. Of an ended job, whose spec the cache does not
/// have whole, what the cache says.
fn kinds(job: &Job, scenarios: &Scenarios) -> Vec<Kind> {
    if !job.spec.has_payload() {
        return job.annotations().get(names::JOB_KINDS).map_or_else(Vec::new, |text| Kind::parse_all(text));
    }
    let mut kinds = Kind::of_spec(&job.spec);
    let scenario = job.spec.scenario.as_deref().filter(|_| job.spec.image.is_none());
    let image = scenario.and_then(|name| scenarios.get(name)).map(|scenario| Kind::image(&scenario.image));
    kinds.extend(image);
    kinds
}

/// The times that a job's status has.
fn times(job: &Job) -> JobTimes {
    let Some(status) = &job.status else { return JobTimes::default() };
    let is_running = status.phase == JobPhase::Running;
    JobTimes {
        ran_before: SignedDuration::from_millis(status.running_millis),
        started: status.started_at.as_ref().filter(|_| is_running).map(|time| time.0),
        not_before: status.not_before.as_ref().map(|time| time.0),
        next_attempt: (
            u32::try_from(status.attempt).unwrap_or(0).saturating_add(1),
            retry::to_charge(status).is_some(),
        ),
        ..JobTimes::default()
    }
}

/// The attempts that ended by themselves or at their limit: how long one ran that was canceled or that the cluster ended
/// says nothing of others.
fn past_runs<'a>(job: &'a Job, uid: &'a Arc<str>) -> impl Iterator<Item = PastRun> + 'a {
    let ended = job.status.iter().flat_map(|status| &status.attempts);
    ended.filter_map(|attempt| {
        let is_whole = matches!(
            attempt.reason.parse().ok()?,
            Reason::Succeeded | Reason::NonZeroExit | Reason::DeadlineExceeded | Reason::OutOfMemory
        );
        (is_whole && attempt.started_at.is_some()).then(|| PastRun {
            job: Arc::clone(uid),
            attempt: u32::try_from(attempt.attempt).unwrap_or(0),
            finished: attempt.finished_at.0,
            ran: SignedDuration::from_millis(attempt.running_millis()),
        })
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::{Value, json};

    use super::*;

    fn job(spec: Value, status: Value) -> Job {
        serde_json::from_value(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Job",
            "metadata": {"name": "j", "namespace": "n", "uid": "u"}, "spec": spec, "status": status,
        }))
        .unwrap()
    }

    fn attempt(number: i32, reason: &str, started: Option<&str>) -> Value {
        json!({
            "attempt": number, "pod": "p", "startedAt": started, "finishedAt": "2030-01-01T00:01:00Z",
            "reason": reason, "cpuMillicores": 1, "memoryBytes": 1, "gpus": 0, "bandwidthMbps": 0,
        })
    }

    #[test]
    fn a_job_runs_its_scenario_and_that_ones_image() {
        let scenarios =
            Scenarios::from_yaml("scenarios:\n  render: {image: 'blender:4', timeoutSeconds: 90}\n").unwrap();
        let of = |spec| kinds(&job(spec, json!({})), &scenarios);
        let (scenario, image) = (Kind::scenario("render"), Kind::image);
        assert_eq!(of(json!({"scenario": "render"})), [scenario, image("blender:4")]);
        assert_eq!(of(json!({"scenario": "render", "image": "own:1"})), [scenario, image("own:1")]);
        assert_eq!(of(json!({"scenario": "unknown"})), [Kind::scenario("unknown")]);
        assert_eq!(of(json!({"image": "own:1"})), [image("own:1")]);
        let mut ended = job(json!({"scenario": "render", "image": "own:1"}), json!({"phase": "Completed"}));
        crate::controllers::job::prepare(&mut ended);
        assert_eq!(kinds(&ended, &scenarios), [scenario, image("own:1")], "the cache has no more of it");
    }

    #[test]
    fn only_attempts_that_ended_by_themselves_or_at_their_limit_count() {
        let start = Some("2030-01-01T00:00:00Z");
        let attempts = json!([
            attempt(1, "Evicted", start),
            attempt(2, "NonZeroExit", start),
            attempt(3, "NonZeroExit", None),
            attempt(4, "Canceled", start),
            attempt(5, "OfANewerVersion", start),
            attempt(6, "Succeeded", start),
        ]);
        let job = job(json!({"image": "i"}), json!({"phase": "Completed", "attempts": attempts}));
        let uid = "u".into();
        let runs: Vec<_> = past_runs(&job, &uid).map(|run| (run.attempt, run.ran.as_secs())).collect();
        assert_eq!(runs, [(2, 60), (6, 60)]);
    }

    #[test]
    fn a_start_counts_only_while_the_attempt_runs() {
        let of = |phase: &str| {
            let status = json!({
                "phase": phase, "attempt": 2, "retries": 1, "runningMillis": 5000,
                "startedAt": "2030-01-01T00:00:00Z", "notBefore": "2030-01-01T00:00:05Z",
            });
            times(&job(json!({"image": "i"}), status))
        };
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        assert_eq!(of("Running").started, Some(at("2030-01-01T00:00:00Z")));
        let retrying = of("Retrying");
        assert_eq!((retrying.started, retrying.next_attempt), (None, (3, true)));
        assert_eq!(retrying.not_before, Some(at("2030-01-01T00:00:05Z")));
        assert_eq!(retrying.ran_before.as_secs(), 5);
    }
}
