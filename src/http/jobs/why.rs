//! `GET /jobs/{id}/why`: the conditions of a job's start, as an ordered checklist with numbers.
//!
//! Where this process schedules, the numbers of the conditions are the scheduler's current ones; elsewhere they are those of
//! the last status, and the response says so. Estimate and shares come from all that a scheduler would know here.

use axum::{Json, extract::State};
use jiff::Timestamp;
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    Id, cached_job,
    estimate::{Start, StartEstimate},
    rate,
    score::{PoolShare, Score},
    view::{StatusWord, word},
};
use crate::{
    api_types::{
        Job, JobPhase, Reason,
        plan::{EffectiveQuotas, Limit},
        quota::QuotaDimension,
        reason::StartCondition,
        tenant::TenantUsage,
    },
    domain::{
        resources::Resources,
        waiting::{self, Explanation},
    },
    http::{
        App,
        by_tenant::{ByTenant, Context},
        openapi::Operation,
        path::uid,
        problem::Problem,
        rights::GetJob,
    },
    kube_ext::is_paused,
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
    /// This is the path on this server that has the cause of the reason and what to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    docs: Option<String>,
    /// This is the job's position among the tenant's waiting jobs, from 1. It is null beyond the 10,000th.
    position: Option<usize>,
    /// This is `scheduler` where the numbers of the conditions are of this moment, and `status` where they are those of the last
    /// status, as no scheduler decides in this replica.
    #[schemars(extend("enum" = ["scheduler", "status"]))]
    source: &'static str,
    /// This says when the job starts, as far as that can be known. It is absent where the job does not wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimate: Option<StartEstimate>,
    /// This says where the job comes among the tenant's jobs. It is absent where the job does not wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    score: Option<Score>,
    /// These are the tenant's shares of the pools that the job may use and other tenants use, too. There are none where the
    /// job does not wait, and where a replica that does not lead has no estimate of it.
    shares: Vec<PoolShare>,
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
    /// This is how much the job requests.
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
    fn of(condition: StartCondition, ok: Option<bool>, detail: impl Into<String>) -> Self {
        Self::plain(condition.into(), ok, detail)
    }

    fn plain(name: &'static str, ok: Option<bool>, detail: impl Into<String>) -> Self {
        Self { name, ok, detail: detail.into(), used: None, asked: None, limit: None, at: None }
    }

    /// The check of one amount against its quota.
    fn amount(name: &'static str, unit: &str, used: u64, asked: u64, limit: Limit) -> Self {
        let ok = asked == 0 || limit.allows(used.saturating_add(asked));
        let most = limit.at_most().map_or("no limit".to_owned(), |most| most.to_string());
        let detail = format!("{used} in use, this job asks for {asked}, limit {most} ({unit})");
        let amounts = (Some(used), Some(asked), limit.at_most());
        Self { used: amounts.0, asked: amounts.1, limit: amounts.2, ..Self::plain(name, Some(ok), detail) }
    }
}

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new(
        "explainJob",
        "Explain why a job waits",
        "Returns the position of a waiting job, an estimate of when it starts, its score, the tenant's shares of the \
         pools, and the conditions of its start, in their order and with numbers.",
    )
    .json::<Why>(200, "These are the conditions.")
}

/// Explains why a job waits.
///
/// # Errors
/// `not_found`.
pub async fn why(
    State(app): State<App>,
    ByTenant(context, _): ByTenant<GetJob>,
    id: Id,
) -> Result<Json<Why>, Problem> {
    let job = cached_job(&app, &context, &id).await?;
    let mut why = explain(&app, &context, &job);
    if why.waiting {
        let tenant = uid(&context.of.uid).unwrap_or_default();
        let Start { estimate, shares: copied } = match unknown(&app, &job, &why) {
            Some(cause) => Start::unknown(cause),
            None => app.estimates.of(tenant, &why.id, &app.scheduler, &app.clock).await,
        };
        why.estimate = Some(estimate);
        let (shares, knows_recent) = match app.scheduler.pool_shares(&why.id) {
            Some(shares) => (shares, true),
            None => (copied, false),
        };
        why.shares = shares.iter().map(|share| PoolShare::of(share, knows_recent)).collect();
    }
    Ok(Json(why))
}

/// Why it can't be known when a job starts, whatever else runs and waits.
fn unknown(app: &App, job: &Job, why: &Why) -> Option<&'static str> {
    if is_paused(job) {
        return Some(PAUSED);
    }
    if !app.schedules {
        return Some(NO_SCHEDULER);
    }
    let is_refused = why.reason.as_deref() == Some(Reason::PodRefused.into());
    (is_refused && why.source == "status").then_some(REFUSED)
}

const REFUSED: &str = "the API server refuses the job's pod for the moment, and only the leading replica knows when it is \
                       created again";
const PAUSED: &str =
    "the job is paused: nothing lets it start before its annotation crofter.io/paused is removed";
const NO_SCHEDULER: &str = "this server has the REST API alone, and only the operator knows what else runs and waits; \
                            position and conditions are those of the job's last status";

fn explain(app: &App, context: &Context, job: &Job) -> Why {
    let status = job.status.clone().unwrap_or_default();
    let waiting = matches!(status.phase, JobPhase::Queued | JobPhase::Retrying);
    let uid = job.uid().unwrap_or_default();
    let verdict = app.scheduler().filter(|_| waiting).and_then(|scheduler| scheduler.current_verdict(&uid));
    let source = if app.scheduler().is_some_and(SchedulerHandle::is_ready) { "scheduler" } else { "status" };
    let explanation = waiting::explain(Some(&status), verdict.as_ref());
    let checks = if waiting { checks(app, context, job, &explanation) } else { Vec::new() };
    let namespace = &context.of.namespace;
    let position = waiting.then(|| app.jobs.position(namespace, job)).flatten();
    let docs = explanation.known().map(Reason::path);
    let Explanation { reason, message } = explanation;
    let score = waiting.then(|| Score::of(job, app.clock.now()));
    Why {
        id: uid,
        status: word(status.phase),
        waiting,
        reason,
        message,
        docs,
        position,
        source,
        estimate: None,
        score,
        shares: Vec::new(),
        checks,
    }
}

fn checks(app: &App, context: &Context, job: &Job, explanation: &Explanation) -> Vec<Check> {
    let (reason, message) = (explanation.known(), explanation.message.as_deref());
    let is_active = reason.and_then(Reason::unmet) != Some(StartCondition::TenantActive);
    let detail = message.filter(|_| !is_active).unwrap_or("the tenant accepts and runs jobs");
    let mut checks = vec![Check::of(StartCondition::TenantActive, Some(is_active), detail)];
    let usage = rate::usage(app, context);
    let asked = Resources::of_job(&job.spec, &app.scenarios.borrow()).ok();
    if let Some(quotas) = rate::quotas(app, context) {
        // The hourly window counts a job once, not each attempt.
        let fresh = job.status.as_ref().is_none_or(|status| status.attempt == 0);
        checks.extend(quota_checks(&quotas, &usage, asked.as_ref(), fresh));
    }
    let within_quota = checks.iter().all(|check| check.ok == Some(true));
    checks.extend(placement_checks(reason, message, within_quota));
    if let Some(at) = job.status.as_ref().and_then(|status| status.not_before.as_ref()) {
        let over = at.0 <= app.clock.now();
        let back_off = Check::of(StartCondition::BackOff, Some(over), "no attempt before this time");
        checks.insert(1, Check { at: Some(at.0), ..back_off });
    }
    checks
}

/// The checks of the tenant's quotas.
fn quota_checks(
    quotas: &EffectiveQuotas,
    usage: &TenantUsage,
    asked: Option<&Resources>,
    fresh: bool,
) -> Vec<Check> {
    let number = |n: i64| u64::try_from(n).unwrap_or(0);
    let asked = asked.copied().unwrap_or_default();
    // The hourly window is checked first.
    let all = [QuotaDimension::JobsPerHour].into_iter();
    let all = all.chain(QuotaDimension::all().filter(|dimension| *dimension != QuotaDimension::JobsPerHour));
    let check = |dimension: QuotaDimension| {
        let check = dimension.check()?;
        let asked = match dimension {
            QuotaDimension::JobsPerHour => fresh.into(),
            QuotaDimension::Jobs => 1,
            _ => asked.amount(dimension)?,
        };
        let used = number(dimension.used(usage)?).div_ceil(check.size);
        let limit = dimension.limit(quotas).divided_by(check.size);
        let at = usage.jobs_hour_reset_at.as_ref().filter(|_| dimension == QuotaDimension::JobsPerHour);
        let amount = Check::amount(check.name, check.unit, used, asked.div_ceil(check.size), limit);
        Some(Check { at: at.map(|at| at.0), ..amount })
    };
    all.filter_map(check).collect()
}

/// The checks of nodes, of other tenants and of the API server, from the scheduler's reason: it checks nodes only within
/// the quotas.
fn placement_checks(reason: Option<Reason>, message: Option<&str>, within_quota: bool) -> [Check; 3] {
    let said = || message.unwrap_or("the scheduler has not decided yet").to_owned();
    let node = |ok, detail: String| Check::of(StartCondition::NodeFit, ok, detail);
    let turn = |ok, detail: &str| Check::of(StartCondition::Turn, ok, detail);
    let no_pod_yet = || Check::of(StartCondition::Pod, None, "not created before the job is admitted");
    match reason.and_then(Reason::unmet) {
        Some(StartCondition::NodeFit) => {
            [node(Some(false), said()), turn(None, "not checked before a node has capacity"), no_pod_yet()]
        }
        Some(StartCondition::Turn) => {
            [node(Some(true), "a node has capacity".to_owned()), turn(Some(false), &said()), no_pod_yet()]
        }
        Some(StartCondition::Pod) => [
            node(None, "a node had capacity when the job was last admitted".to_owned()),
            turn(None, "checked again when the pod is created again"),
            Check::of(StartCondition::Pod, Some(false), said()),
        ],
        None if reason == Some(Reason::Admitted) => [
            node(Some(true), said()),
            turn(Some(true), "the job is first in fair-share order"),
            Check::of(StartCondition::Pod, None, "being created"),
        ],
        Some(
            StartCondition::TenantActive
            | StartCondition::BackOff
            | StartCondition::RateWindow
            | StartCondition::Quota,
        )
        | None => {
            let why =
                if within_quota { "not checked yet" } else { "not checked before the quotas allow the job" };
            [node(None, why.to_owned()), turn(None, why), no_pod_yet()]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_types::Plans;

    #[test]
    fn a_refused_pod_is_the_condition_that_is_not_met() {
        let words = "the API server refuses the pod for the moment: failed calling webhook";
        let [node, turn, pod] = placement_checks(Some(Reason::PodRefused), Some(words), true);
        assert_eq!((node.ok, turn.ok, pod.ok), (None, None, Some(false)));
        assert_eq!((pod.name, pod.detail.as_str()), ("pod", words));
    }

    #[test]
    fn each_quota_is_a_line_with_its_numbers() {
        let plans = Plans::built_in().unwrap();
        let usage =
            TenantUsage { active_jobs: 5, cpu_millicores: 3500, jobs_this_hour: 9, ..TenantUsage::default() };
        let asked = Resources { cpu_milli: 1000, memory_bytes: 1, ..Resources::default() };
        let lines = quota_checks(&plans.get("free").unwrap().quotas, &usage, Some(&asked), true);
        let results: Vec<_> = lines.iter().map(|line| (line.name, line.ok)).collect();
        let (first, others) = results.split_at(3);
        let expected = [("rate_window", true), ("job_quota", false), ("cpu", false)];
        assert_eq!(first, expected.map(|(name, ok)| (name, Some(ok))));
        for name in ["memory", "gpus", "bandwidth"] {
            assert!(others.contains(&(name, Some(true))), "{name}: {others:?}");
        }
        assert!(others.iter().all(|(_, ok)| *ok == Some(true)), "{others:?}");
        assert_eq!((lines[2].used, lines[2].asked, lines[2].limit), (Some(3500), Some(1000), Some(4000)));
    }

    #[test]
    fn a_condition_that_was_not_checked_has_no_result() {
        let results = |reason| placement_checks(reason, Some("why"), false).map(|check| check.ok);
        assert_eq!(results(Some(Reason::WaitingForCapacity)), [Some(false), None, None]);
        assert_eq!(results(Some(Reason::WaitingForTurn)), [Some(true), Some(false), None]);
        assert_eq!(results(Some(Reason::WaitingForQuota)), [None, None, None]);
    }
}
