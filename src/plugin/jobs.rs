//! `jobs`: the jobs of a tenant, or one of them.

use jiff::Timestamp;

use super::{
    Context, Session,
    output::{self, Format, names, structured},
    table::{Cell, Style, age, of_state, table},
};
use crate::client::{
    JobFilter, Result, Scope,
    model::{Job, Jobs},
};

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name or id of one job
    #[arg(value_parser = output::named("job"))]
    job: Option<String>,
    /// Only jobs in this state
    #[arg(long, value_name = "STATE", value_parser = ["queued", "assigned", "running", "retrying", "completed", "failed", "timed_out", "canceled", "rejected"])]
    status: Option<String>,
    /// Only jobs of this queue
    #[arg(long, value_parser = ["live", "default", "batch"])]
    queue: Option<String>,
    /// At most this many, the newest, of each tenant
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let Session { transport, scope } = context.session().await?;
    let (format, now) = (context.format(), context.clock.now());
    if let Some(name) = &args.job {
        let job = transport.job(&scope, name).await?;
        let text = match structured(format, &job)? {
            Some(text) => text,
            None => {
                rendered(std::slice::from_ref(&job), format, scope == Scope::All, now, context.terminal.color)
            }
        };
        return context.terminal.print(&text);
    }
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let filter = JobFilter { status: args.status, queue: args.queue, limit };
    let jobs = transport.jobs(&scope, &filter).await?;
    let text = match structured(format, &jobs)? {
        Some(text) => text,
        None => rendered(&jobs.jobs, format, scope == Scope::All, now, context.terminal.color),
    };
    context.terminal.print(&text)?;
    if matches!(format, Format::Table | Format::Wide) {
        remarks(context, &jobs, limit);
    }
    Ok(())
}

fn remarks(context: &Context, jobs: &Jobs, limit: usize) {
    if jobs.jobs.is_empty() {
        context.terminal.remark("no jobs");
    } else if jobs.next_cursor.is_some() {
        context.terminal.remark(&format!("there are more than the {limit} newest: give --limit"));
    }
}

/// Jobs as a table or names.
pub fn rendered(jobs: &[Job], format: Format, with_tenant: bool, now: Timestamp, color: bool) -> String {
    if format == Format::Name {
        return names("job", jobs.iter().map(|job| job.name.as_str()));
    }
    if jobs.is_empty() {
        return String::new();
    }
    let wide = format == Format::Wide;
    let mut header = vec!["NAME", "STATUS", "REASON", "QUEUE", "ATTEMPT", "EXIT", "AGE"];
    if with_tenant {
        header.insert(0, "TENANT");
    }
    if wide {
        header.extend(["PRIORITY", "NODE", "ID", "MESSAGE"]);
    }
    let row = |job: &Job| {
        let text = |text: &Option<String>| Cell::from(text.as_deref().unwrap_or_default());
        let exit = job.exit_code.map(|code| code.to_string()).unwrap_or_default();
        let exit_style = if job.exit_code.unwrap_or(0) == 0 { Style::Plain } else { Style::Bad };
        let mut row = vec![
            Cell::from(&job.name),
            Cell::styled(job.state(), of_state(job.state())),
            text(&job.reason),
            text(&job.queue),
            job.attempt.to_string().into(),
            Cell::styled(&exit, exit_style),
            age(now, job.created_at).into(),
        ];
        if with_tenant {
            row.insert(0, text(&job.tenant));
        }
        if wide {
            row.extend([text(&job.priority), text(&job.node), Cell::from(&job.id), text(&job.message)]);
        }
        row
    };
    table(&header, jobs.iter().map(row).collect(), color)
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// Jobs as the REST API returns them.
    pub fn fixture() -> Vec<Job> {
        let job = |name: &str, more: Value| {
            let mut job = json!({
                "id": "0b8e9a52-6a5e-4d5c-9c0e-6a1f6c0a9f11", "name": name, "tenant": "acme", "status": "queued",
                "queue": "default", "priority": "medium", "attempt": 0, "created_at": "2030-01-01T00:00:00Z",
            });
            for (key, value) in more.as_object().unwrap() {
                job[key] = value.clone();
            }
            serde_json::from_value(job).unwrap()
        };
        vec![
            job("render", json!({"status": "running", "attempt": 2, "node": "w1", "reason": "Running"})),
            job(
                "wait",
                json!({"reason": "WaitingForQuota", "message": "max concurrent jobs limit reached (5/5)"}),
            ),
            job("bad", json!({"status": "failed", "attempt": 1, "exit_code": 3, "reason": "NonZeroExit"})),
            job("evil", json!({"message": "\u{1b}]0;owned\u{7}\u{1b}[2J", "reason": "X\nY"})),
        ]
    }

    fn now() -> Timestamp {
        "2030-01-01T00:05:00Z".parse().unwrap()
    }

    #[test]
    fn jobs_are_a_table() {
        insta::assert_snapshot!(rendered(&fixture(), Format::Table, false, now(), false));
        insta::assert_snapshot!(rendered(&fixture(), Format::Wide, true, now(), false));
    }

    #[test]
    fn on_a_terminal_states_have_colors_and_names_none() {
        let text = rendered(&fixture(), Format::Table, false, now(), true);
        assert!(text.contains("\u{1b}[38;5;"), "{text:?}");
        assert!(!text.contains("\u{1b}[2J") && !text.contains('\u{7}'), "{text:?}");
        assert_eq!(rendered(&fixture()[..2], Format::Name, false, now(), true), "job/render\njob/wait\n");
    }

    #[test]
    fn no_jobs_are_no_line() {
        assert_eq!(rendered(&[], Format::Table, false, now(), false), "");
    }
}
