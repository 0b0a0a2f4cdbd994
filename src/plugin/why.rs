//! `why JOB`: why a job waits, as the checklist of its start.

use super::{
    Context, Session,
    output::{Format, names, structured},
    table::{Cell, Style, clean, table},
};
use crate::client::{
    Result,
    model::{Check, Job, Why},
};

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or id of the job
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
    text += "\n";
    text += &checklist(&why.checks, color);
    if why.source == "status" {
        text += "\nfrom the job's last status; the REST API of the leading replica has the numbers of this moment\n";
    }
    text
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
        let why: Why = serde_json::from_value(json!({
            "id": "u", "status": "queued", "waiting": true, "reason": "WaitingForQuota", "position": 3, "source": "scheduler",
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
        let status = Why { source: "status".to_owned(), ..why.clone() };
        assert!(rendered(&job, &status, false).contains("from the job's last status"));
        let running = Why { waiting: false, ..why };
        assert!(rendered(&job, &running, false).ends_with("it does not wait for its start\n"));
    }
}
