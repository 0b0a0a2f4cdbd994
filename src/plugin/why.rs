//! `why JOB`: why a job waits, as the checklist of its start.

use super::{
    Context, Session,
    output::{self, Format, names, structured},
    table::{Cell, Style, clean, span, table},
};
use crate::client::{
    Result,
    model::{Check, Job, PoolShare, Score, StartEstimate, Why},
};

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or id of the job
    #[arg(value_parser = output::named("job"))]
    job: String,
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let Session { transport, scope } = context.session().await?;
    let job = transport.job(&scope, &args.job).await?;
    let why = transport.why(&scope, &job).await?;
    let text = match structured(context.format(), &why)? {
        Some(text) => text,
        None if context.format() == Format::Name => names("job", [job.name.as_str()]),
        None => rendered(&job, &why, context.terminal.color),
    };
    context.terminal.print(&text)
}

fn rendered(job: &Job, why: &Why, color: bool) -> String {
    let reason = why.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let mut text = format!("job {} is {}{}\n", clean(&job.name), clean(&why.status), clean(&reason));
    if let Some(message) = &why.message {
        text += &format!("  {}\n", clean(message));
    }
    if let Some(position) = why.position {
        text += &format!("  it is number {position} of the tenant's waiting jobs\n");
    }
    if !why.waiting {
        text += "  it does not wait for its start\n";
        return text;
    }
    if let Some(start) = why.estimate.as_ref().and_then(start) {
        text += &format!("  {}\n", clean(&start));
    }
    text.extend(why.score.iter().map(|score| format!("  {}\n", clean(&points(score)))));
    text.extend(why.shares.iter().map(|share| format!("  {}\n", clean(&share_of(share)))));
    text += "\n";
    text += &checklist(&why.checks, color);
    if why.source == "status" {
        text += "\nreason and conditions are from the job's last status; the leading replica has those of this moment\n";
    }
    text
}

/// When it starts, or why that is not known; nothing where a server of another version says neither.
fn start(estimate: &StartEstimate) -> Option<String> {
    match (estimate.starts_in_seconds_p50, estimate.starts_in_seconds_p90, &estimate.unknown) {
        (Some(_), Some(0), _) => Some("starts at once".to_owned()),
        (Some(median), Some(ninth_decile), _) => {
            let (median, ninth_decile) = (rounded_up(median), rounded_up(ninth_decile));
            Some(format!("starts in about {median} (9 of 10 times within {ninth_decile})"))
        }
        (_, _, Some(why)) => Some(format!("when it starts is not known: {why}")),
        _ => None,
    }
}

/// A score, taken apart.
fn points(score: &Score) -> String {
    let Score { total, queue, queue_points, priority, priority_points, waiting_points } = score;
    format!(
        "its score is {total}: {queue_points} as its queue is {queue}, {priority_points} as its priority is {priority}, \
         {waiting_points} for waiting"
    )
}

/// The tenant's share of a pool, and what the job would make of it.
fn share_of(share: &PoolShare) -> String {
    let percent = |part: f64| format!("{:.0}%", part * 100.0);
    let is = if share.within_guarantee { "within" } else { "beyond" };
    let recent = share.recent.map(|recent| format!(", lately {}", percent(recent))).unwrap_or_default();
    format!(
        "pool {}: the tenant holds {}{recent}, guaranteed {} (weight {}); with this job {}, {is} the guarantee",
        share.pool,
        percent(share.held),
        percent(share.guaranteed),
        share.weight,
        percent(share.with_job),
    )
}

/// A span of time that is no shorter than it is.
fn rounded_up(seconds: u64) -> String {
    let unit = match seconds {
        0..120 => 1,
        120..7_200 => 60,
        7_200..172_800 => 3_600,
        _ => 86_400,
    };
    span(i64::try_from(seconds.div_ceil(unit).saturating_mul(unit)).unwrap_or(i64::MAX))
}

/// Conditions as a table.
pub fn checklist(checks: &[Check], color: bool) -> String {
    let row = |check: &Check| {
        let (word, style) = match check.ok {
            Some(true) => ("yes", Style::Good),
            Some(false) => ("NO", Style::Bad),
            None => ("?", Style::Plain),
        };
        let at = check.at.map(|at| format!(" (until {at})")).unwrap_or_default();
        vec![
            Cell::styled(word, style),
            check.name.replace('_', " ").into(),
            format!("{}{at}", check.detail).into(),
        ]
    };
    table(&["MET", "CONDITION", "DETAIL"], checks.iter().map(row).collect(), color)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_conditions_are_a_checklist() {
        // Given a job that waits for a quota.
        let why: Why = serde_json::from_value(json!({
            "id": "u", "status": "queued", "waiting": true, "reason": "WaitingForQuota", "position": 3, "source": "scheduler",
            "score": {
                "total": 54.41, "queue": "default", "queue_points": 50, "priority": "medium", "priority_points": 2,
                "waiting_points": 2.41,
            },
            "shares": [
                {
                    "pool": "gpu", "weight": 2, "guaranteed": 0.25, "held": 0.2, "with_job": 0.3, "recent": 0.0861,
                    "within_guarantee": false,
                },
            ],
            "message": "max concurrent jobs limit reached (5/5)", "docs": "/reasons/WaitingForQuota",
            "checks": [
                {"name": "tenant_active", "ok": true, "detail": "the tenant accepts and runs jobs"},
                {"name": "rate_window", "ok": true, "detail": "9 in use, this job asks for 1, limit 10 (jobs an hour)", "at": "2030-01-01T01:00:00Z"},
                {"name": "job_quota", "ok": false, "detail": "5 in use, this job asks for 1, limit 5 (jobs at once)"},
                {"name": "node_fit", "ok": null, "detail": "not checked before the quotas allow the job\u{1b}[2J"},
            ],
        }))
        .unwrap();
        let job = Job { name: "render".to_owned(), ..Job::default() };
        insta::assert_snapshot!(rendered(&job, &why, false));
        // Then an estimate has a line of its own, whatever it says.
        let estimated = |p50, p90, unknown: Option<&str>| {
            let estimate = StartEstimate {
                starts_in_seconds_p50: p50,
                starts_in_seconds_p90: p90,
                unknown: unknown.map(str::to_owned),
            };
            let why = Why { estimate: Some(estimate), score: None, shares: Vec::new(), ..why.clone() };
            let text = rendered(&job, &why, false);
            text.lines().nth(3).unwrap().to_owned()
        };
        let lines = [
            estimated(Some(239), Some(601), None),
            estimated(Some(0), Some(45), None),
            estimated(Some(0), Some(0), None),
            estimated(Some(7_199), Some(u64::MAX), None),
            estimated(None, None, Some("it waits for a job without a timeout\u{1b}[2J")),
            estimated(None, None, None),
        ];
        insta::assert_snapshot!(lines.join("\n"));
        let mut status = Why { source: "status".to_owned(), ..why.clone() };
        status.shares[0].recent = None;
        let text = rendered(&job, &status, false);
        assert!(
            text.contains("from the job's last status") && text.contains("holds 20%, guaranteed 25%"),
            "{text}"
        );
        let running = Why { waiting: false, ..why };
        assert!(rendered(&job, &running, false).ends_with("it does not wait for its start\n"));
    }
}
