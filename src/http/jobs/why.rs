//! `GET /jobs/{id}/why`: what stands between a job and its start, as an ordered checklist with numbers.
//!
//! Where this process schedules, the numbers are the scheduler's of this moment; elsewhere they are those last written, and
//! the answer says so.

use axum::{Json, extract::State};
use jiff::Timestamp;
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Id,
    create::BEING_CREATED,
    living, rate,
    view::{StatusWord, word},
};
use crate::{
    api_types::{
        Job, JobPhase, Reason,
        plan::{EffectiveQuotas, Limit},
        tenant::TenantUsage,
    },
    domain::{admission::Verdict, resources::Resources},
    http::{
        App,
        auth::{ByKey, Context, JobsRead},
        problem::Problem,
    },
    scheduler::SchedulerHandle,
};

/// An explanation says why a job waits.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Why {
    /// This is the UID of the job.
    id: String,
    /// This is the state of the job.
    #[schemars(with = "StatusWord")]
    status: &'static str,
    /// Whether the job waits for its start.
    waiting: bool,
    /// This says in one word why the job is in its state.
    reason: Option<String>,
    /// This sentence says why the job is in its state, with numbers.
    message: Option<String>,
    /// This is the job's place among the tenant's waiting jobs, from 1. It is null beyond the 10,000th.
    position: Option<usize>,
    /// This is `scheduler` where the numbers are of this moment, and `status` where this process does not schedule.
    #[schemars(extend("enum" = ["scheduler", "status"]))]
    source: &'static str,
    /// These are the conditions of a start, in the order in which they are checked.
    checks: Vec<Check>,
}

/// A check is one condition of a start.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Check {
    /// This is the name of the condition.
    name: &'static str,
    /// Whether the condition is met. It is null where it was not checked, because an earlier one is not met.
    ok: Option<bool>,
    /// This sentence explains the result.
    detail: String,
    /// This is how much is in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    used: Option<u64>,
    /// This is how much the job asks for.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<u64>,
    /// This is the limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    /// This is when the condition changes by itself, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<Timestamp>,
}

impl Check {
    fn plain(name: &'static str, ok: Option<bool>, detail: impl Into<String>) -> Self {
        Self { name, ok, detail: detail.into(), used: None, asked: None, limit: None, at: None }
    }

    /// One amount of a quota.
    fn amount(name: &'static str, unit: &str, used: u64, asked: u64, limit: Limit) -> Self {
        let ok = asked == 0 || limit.allows(used.saturating_add(asked));
        let most = limit.at_most().map_or("no limit".to_owned(), |most| most.to_string());
        let detail = format!("{used} in use, this job asks for {asked}, limit {most} ({unit})");
        let amounts = (Some(used), Some(asked), limit.at_most());
        Self { used: amounts.0, asked: amounts.1, limit: amounts.2, ..Self::plain(name, Some(ok), detail) }
    }
}

/// Answers why.
///
/// # Errors
/// `not_found`.
pub async fn why(
    State(app): State<App>,
    ByKey(context, _): ByKey<JobsRead>,
    id: Id,
) -> Result<Json<Why>, Problem> {
    let job = living(&app, &context, &id)?;
    Ok(Json(explain(&app, &context, &job)))
}

fn explain(app: &App, context: &Context, job: &Job) -> Why {
    let status = job.status.clone().unwrap_or_default();
    let waiting = matches!(status.phase, JobPhase::Queued | JobPhase::Retrying);
    let uid = job.uid().unwrap_or_default();
    let verdict = app.board.as_ref().filter(|_| waiting).and_then(|board| board.current_verdict(&uid));
    let source =
        if app.board.as_ref().is_some_and(SchedulerHandle::is_ready) { "scheduler" } else { "status" };
    let (reason, message) = match verdict {
        Some(Verdict::Wait(reason, message) | Verdict::Reject(reason, message)) => {
            (Some(reason.as_str().to_owned()), Some(message))
        }
        Some(Verdict::Admit(_)) => {
            (Some(Reason::Admitted.as_str().to_owned()), Some(BEING_CREATED.to_owned()))
        }
        None => (status.reason.clone(), status.message.clone()),
    };
    let checks =
        if waiting { checks(app, context, job, reason.as_deref(), message.as_deref()) } else { Vec::new() };
    let namespace = &context.principal.tenant.namespace;
    let position = waiting.then(|| app.jobs.position(namespace, job)).flatten();
    Why { id: uid, status: word(status.phase), waiting, reason, message, position, source, checks }
}

fn checks(
    app: &App,
    context: &Context,
    job: &Job,
    reason: Option<&str>,
    message: Option<&str>,
) -> Vec<Check> {
    let mut checks = vec![Check::plain("tenant_active", Some(true), "the tenant accepts and runs jobs")];
    let usage = rate::usage(app, context);
    let asked = Resources::of_job(&job.spec, &app.scenarios.borrow()).ok();
    if let Some(quotas) = rate::quotas(app, context) {
        // A retry is not counted again.
        let fresh = job.status.as_ref().is_none_or(|status| status.attempt == 0);
        checks.extend(by_quota(&quotas, &usage, asked.as_ref(), fresh));
    }
    let within_quota = checks.iter().all(|check| check.ok == Some(true));
    checks.extend(by_place(reason.and_then(|reason| reason.parse().ok()), message, within_quota));
    if let Some(at) = job.status.as_ref().and_then(|status| status.not_before.as_ref()) {
        let over = at.0 <= app.clock.now();
        let back_off = Check::plain("back_off", Some(over), "no attempt before this time");
        checks.insert(1, Check { at: Some(at.0), ..back_off });
    }
    checks
}

/// What the tenant's quotas say.
fn by_quota(
    quotas: &EffectiveQuotas,
    usage: &TenantUsage,
    asked: Option<&Resources>,
    fresh: bool,
) -> Vec<Check> {
    /// 10^6: memory is shown in megabytes.
    const MB: u64 = 1_000_000;
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    let limit = Limit::from_quota;
    let asked = asked.copied().unwrap_or_default();
    let hour = number(usage.jobs_this_hour);
    let window =
        Check::amount("rate_window", "jobs an hour", hour, fresh.into(), limit(quotas.max_jobs_per_hour));
    let at = usage.jobs_hour_reset_at.as_ref().map(|at| at.0);
    vec![
        Check { at, ..window },
        Check::amount("job_quota", "jobs at once", number(usage.active_jobs), 1, limit(quotas.max_jobs)),
        Check::amount(
            "cpu",
            "millicores",
            number(usage.cpu_millicores),
            asked.cpu_milli,
            limit(quotas.max_cpu_cores).times(1000),
        ),
        Check::amount(
            "memory",
            "MB",
            number(usage.memory_bytes).div_ceil(MB),
            asked.memory_bytes.div_ceil(MB),
            limit(quotas.max_memory_gb).times(1000),
        ),
        Check::amount("gpus", "GPUs", number(usage.gpus), asked.gpus, limit(quotas.max_gpus)),
        Check::amount(
            "bandwidth",
            "Mbit/s",
            number(usage.bandwidth_mbps),
            asked.bandwidth_mbps,
            limit(quotas.max_bandwidth_mbps),
        ),
    ]
}

/// What the nodes and the other tenants say: the scheduler's own word, for it looks at nodes only within the quotas.
fn by_place(reason: Option<Reason>, message: Option<&str>, within_quota: bool) -> [Check; 3] {
    let said = || message.unwrap_or("the scheduler has not said").to_owned();
    let no_pod_yet = || Check::plain("pod", None, "not created before its turn");
    match reason {
        Some(Reason::NoWorkers | Reason::WaitingForCapacity | Reason::DoesNotFit) => [
            Check::plain("node_fit", Some(false), said()),
            Check::plain("turn", None, "not looked at before a node has room"),
            no_pod_yet(),
        ],
        Some(Reason::WaitingForTurn) => [
            Check::plain("node_fit", Some(true), "a node has room"),
            Check::plain("turn", Some(false), said()),
            no_pod_yet(),
        ],
        Some(Reason::Admitted) => [
            Check::plain("node_fit", Some(true), said()),
            Check::plain("turn", Some(true), "it is its turn"),
            Check::plain("pod", None, "being created"),
        ],
        Some(Reason::PodRefused) => [
            Check::plain("node_fit", None, "a node had room when it was last its turn"),
            Check::plain("turn", None, "looked at again when the pod is tried again"),
            Check::plain("pod", Some(false), said()),
        ],
        _ => {
            let why =
                if within_quota { "not judged yet" } else { "not looked at before the quotas have room" };
            [Check::plain("node_fit", None, why), Check::plain("turn", None, why), no_pod_yet()]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_types::Plans;

    #[test]
    fn a_pod_that_is_refused_is_what_the_job_waits_for() {
        let words = "the API server refuses the pod for the moment: failed calling webhook";
        let [node, turn, pod] = by_place(Some(Reason::PodRefused), Some(words), true);
        assert_eq!((node.ok, turn.ok, pod.ok), (None, None, Some(false)));
        assert_eq!((pod.name, pod.detail.as_str()), ("pod", words));
    }

    #[test]
    fn each_quota_is_a_line_with_its_numbers() {
        let plans = Plans::built_in().unwrap();
        let usage =
            TenantUsage { active_jobs: 5, cpu_millicores: 3500, jobs_this_hour: 9, ..TenantUsage::default() };
        let asked = Resources { cpu_milli: 1000, memory_bytes: 1, ..Resources::default() };
        let lines = by_quota(&plans.get("free").unwrap().quotas, &usage, Some(&asked), true);
        let told: Vec<_> = lines.iter().map(|line| (line.name, line.ok)).collect();
        let expected = [
            ("rate_window", true),
            ("job_quota", false),
            ("cpu", false),
            ("memory", true),
            ("gpus", true),
            ("bandwidth", true),
        ];
        assert_eq!(told, expected.map(|(name, ok)| (name, Some(ok))));
        assert_eq!((lines[2].used, lines[2].asked, lines[2].limit), (Some(3500), Some(1000), Some(4000)));
    }

    #[test]
    fn what_was_not_looked_at_is_not_said_to_be_well() {
        let told = |reason| by_place(reason, Some("why"), false).map(|check| check.ok);
        assert_eq!(told(Some(Reason::WaitingForCapacity)), [Some(false), None, None]);
        assert_eq!(told(Some(Reason::WaitingForTurn)), [Some(true), Some(false), None]);
        assert_eq!(told(Some(Reason::WaitingForQuota)), [None, None, None]);
    }
}
