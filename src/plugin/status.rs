//! `status [TENANT]`: a tenant on one page. A part that the credentials may not read is named as such, and the rest is shown.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::Value;

use super::{
    Context, Session,
    output::{self, Format, names, structured},
    table::{Cell, Style, age, clean, of_state, span, table},
};
use crate::{
    api_types::quota::QuotaDimension,
    client::{
        JobFilter, Kind, Result, Scope, Transport,
        model::{Job, Key, Node, Tenant},
    },
    domain::resources::{cores, gigabytes},
};

/// How soon a key expires that is shown.
const SOON: SignedDuration = SignedDuration::from_hours(14 * 24);
/// Waiting jobs that are shown.
const SHOWN_JOBS: usize = 10;
/// Waiting jobs that are counted.
const COUNTED_JOBS: usize = 1_000;
/// Characters of a bar.
const BAR: u64 = 20;

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name of the tenant; by default that of the key, the profile or the namespace
    #[arg(value_name = "TENANT", value_parser = output::named("tenant"))]
    name: Option<String>,
}

/// What the page shows.
#[derive(Debug, Serialize)]
struct Page {
    tenant: Tenant,
    workers: Option<Vec<Node>>,
    keys_about_to_expire: Option<Vec<Key>>,
    waiting_jobs: Option<Vec<Job>>,
    /// Whether more jobs wait than were counted.
    more_jobs_wait: bool,
    /// What could not be read, and why.
    not_shown: Vec<String>,
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let Session { transport, scope } = context.session_of(args.name.as_deref()).await?;
    let (format, now) = (context.format(), context.clock.now());
    let page = read(transport.as_ref(), &scope, now).await?;
    let text = match structured(format, &page)? {
        Some(text) => text,
        None if format == Format::Name => names("tenant", [page.tenant.name.as_str()]),
        None => rendered(&page, now, context.terminal.color),
    };
    context.terminal.print(&text)
}

/// A part of the page; `None` where the credentials may not read it.
fn part<T>(name: &str, read: Result<T>, not_shown: &mut Vec<String>) -> Result<Option<T>> {
    match read {
        Ok(part) => Ok(Some(part)),
        Err(error) if matches!(error.kind, Kind::Denied | Kind::NeedsRest) => {
            not_shown.push(format!("{name}: {error}"));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn read(transport: &dyn Transport, scope: &Scope, now: Timestamp) -> Result<Page> {
    let waiting =
        |status: &str| JobFilter { status: Some(status.to_owned()), queue: None, limit: COUNTED_JOBS };
    let (queued, retrying) = (waiting("queued"), waiting("retrying"));
    let (tenant, workers, keys, queued, retrying) = tokio::join!(
        transport.tenant(scope),
        transport.nodes(scope),
        transport.keys(scope),
        transport.jobs(scope, &queued),
        transport.jobs(scope, &retrying),
    );
    let mut not_shown = Vec::new();
    let expires = |key: &Key| {
        let at = key.expires_at.filter(|_| !key.revoked);
        at.is_some_and(|at| at > now && at.duration_since(now) < SOON)
    };
    let tenant = tenant?;
    let workers = part("workers", workers, &mut not_shown)?;
    let keys = part("keys", keys, &mut not_shown)?;
    let jobs = [part("jobs", queued, &mut not_shown)?, part("jobs", retrying, &mut not_shown)?];
    not_shown.dedup();
    let more_jobs_wait = jobs.iter().flatten().any(|jobs| jobs.next_cursor.is_some());
    let is_readable = jobs.iter().any(Option::is_some);
    // The oldest first, as the queue is, near enough.
    let mut waiting: Vec<Job> = jobs.into_iter().flatten().flat_map(|jobs| jobs.jobs).collect();
    waiting.sort_by(|a, b| a.created_at.cmp(&b.created_at).then_with(|| a.name.cmp(&b.name)));
    let waiting_jobs = is_readable.then_some(waiting);
    let keys_about_to_expire =
        keys.map(|keys| keys.into_iter().filter(expires).collect::<Vec<_>>()).map(|mut keys| {
            keys.sort_by_key(|key| key.expires_at);
            keys
        });
    Ok(Page { tenant, workers, keys_about_to_expire, waiting_jobs, more_jobs_wait, not_shown })
}

/// An amount of a dimension in its own unit.
pub fn amount(of: QuotaDimension, used: u64) -> String {
    match of.unit() {
        1 => used.to_string(),
        1000 => cores(used),
        _ => gigabytes(used),
    }
}

/// A bar of how much of a quota is used, and how near that is to its end.
fn bar(used: u64, limit: u64) -> (String, Style) {
    let (filled, percent) = if limit == 0 {
        (if used > 0 { BAR } else { 0 }, if used > 0 { 100 } else { 0 })
    } else {
        let of = |whole: u64| {
            u64::try_from(u128::from(used) * u128::from(whole) / u128::from(limit)).unwrap_or(whole)
        };
        (of(BAR).min(BAR), of(100))
    };
    let style = match percent {
        0..80 => Style::Good,
        80..100 => Style::Warn,
        _ => Style::Bad,
    };
    let count = |n: u64| usize::try_from(n).unwrap_or_default();
    (format!("[{}{}] {percent:>3}%", "#".repeat(count(filled)), ".".repeat(count(BAR - filled))), style)
}

/// What a tenant uses of a dimension, and its limit in the same unit (`None`: no limit).
pub fn used_of(tenant: &Tenant, of: QuotaDimension) -> Option<(u64, Option<u64>)> {
    let used = tenant.usage.get(of.rest_usage()?.name)?.as_i64()?;
    let quota = *tenant.quotas.as_ref()?.get(&of.rest_name())?;
    let limit = u64::try_from(quota).ok().map(|quota| quota.saturating_mul(of.unit()));
    Some((u64::try_from(used).unwrap_or(0), limit))
}

fn quota_rows(tenant: &Tenant) -> Vec<Vec<Cell>> {
    let row = |of: QuotaDimension| {
        let (used, limit) = used_of(tenant, of)?;
        let (bar, style) = limit.map_or((" ".to_owned(), Style::Plain), |limit| bar(used, limit));
        let limit = limit.map_or("no limit".to_owned(), |limit| amount(of, limit));
        Some(vec![of.amounts().into(), amount(of, used).into(), limit.into(), Cell::styled(&bar, style)])
    };
    QuotaDimension::all().filter_map(row).collect()
}

fn window(tenant: &Tenant, now: Timestamp) -> Option<String> {
    let (used, limit) = used_of(tenant, QuotaDimension::JobsPerHour)?;
    let limit = limit.map_or("no limit".to_owned(), |limit| limit.to_string());
    let reset = tenant.usage.get("jobs_hour_reset_at").and_then(Value::as_str);
    let reset = reset.and_then(|at| at.parse::<Timestamp>().ok()).filter(|at| *at > now);
    let reset = reset.map_or("begins with the next job".to_owned(), |at| {
        format!("ends in {}", span(at.duration_since(now).as_secs()))
    });
    Some(format!("hourly window: {used} of {limit} jobs started, {reset}\n"))
}

fn rendered(page: &Page, now: Timestamp, color: bool) -> String {
    let tenant = &page.tenant;
    let mut text = format!("tenant {}", clean(&tenant.name));
    let facts = [("plan", &tenant.plan), ("status", &tenant.status), ("namespace", &tenant.namespace)];
    for (name, value) in facts {
        if let Some(value) = value {
            text += &format!(", {name} {}", clean(value));
        }
    }
    if let Some(at) = tenant.expires_at {
        text += &format!(", expires {at}");
    }
    text += "\n\n";
    text += &table(&["QUOTA", "USED", "LIMIT", ""], quota_rows(tenant), color);
    text += "\n";
    text += &window(tenant, now).unwrap_or_default();
    text += &workers(page, color);
    text += &keys(page, now, color);
    text += &waiting(page, now, color);
    for part in &page.not_shown {
        text += &format!("\nnot shown: {}\n", clean(part));
    }
    text
}

fn workers(page: &Page, color: bool) -> String {
    let Some(nodes) = &page.workers else { return String::new() };
    if nodes.is_empty() {
        return "\nno worker of its own\n".to_owned();
    }
    format!("\n{}", super::nodes::rendered(nodes, color))
}

fn keys(page: &Page, now: Timestamp, color: bool) -> String {
    let Some(keys) = page.keys_about_to_expire.as_ref().filter(|keys| !keys.is_empty()) else {
        return String::new();
    };
    let row = |key: &Key| {
        let left = key.expires_at.map(|at| span(at.duration_since(now).as_secs())).unwrap_or_default();
        let rotates = key.rotate_every.as_deref().unwrap_or("never");
        vec![Cell::from(&key.name), Cell::styled(&left, Style::Warn), rotates.into()]
    };
    let rows = keys.iter().map(row).collect();
    format!("\n{}", table(&["KEY ABOUT TO EXPIRE", "IN", "ROTATES"], rows, color))
}

fn waiting(page: &Page, now: Timestamp, color: bool) -> String {
    let Some(jobs) = &page.waiting_jobs else { return String::new() };
    if jobs.is_empty() {
        return "\nno job waits\n".to_owned();
    }
    let row = |job: &Job| {
        let why = job.message.as_deref().unwrap_or_default();
        vec![
            Cell::from(&job.name),
            Cell::styled(job.reason.as_deref().unwrap_or_default(), of_state(job.state())),
            age(now, job.created_at).into(),
            why.into(),
        ]
    };
    let rows = jobs.iter().take(SHOWN_JOBS).map(row).collect();
    let mut text = format!("\n{}", table(&["WAITING JOB", "REASON", "AGE", "WHY"], rows, color));
    let more = jobs.len().saturating_sub(SHOWN_JOBS);
    if more > 0 {
        let at_least = if page.more_jobs_wait { "at least " } else { "" };
        text += &format!("and {at_least}{more} more\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::jobs::tests::fixture, *};

    fn page() -> Page {
        let tenant = serde_json::from_value(json!({
            "id": "u", "name": "acme", "plan": "basic", "status": "active", "namespace": "tenant-acme", "expires_at": null,
            "quotas": {"max_jobs": 20, "max_queued_jobs": 200, "max_jobs_per_hour": 100, "max_workers": 5, "max_cpu_cores": 16,
                       "max_memory_gb": 64, "max_gpus": 0, "max_storage_gb": -1, "max_bandwidth_mbps": 1000,
                       "job_timeout_minutes": 120, "max_api_keys": 100},
            "usage": {"active_jobs": 17, "queued_jobs": 3, "jobs_this_hour": 100, "active_workers": 1, "cpu_millicores": 1500,
                      "memory_bytes": 2_147_483_648_u64, "gpus": 0, "storage_bytes": 5_000_000_000_u64, "bandwidth_mbps": 0,
                      "jobs_hour_reset_at": "2030-01-01T00:40:00Z", "completed_jobs": 9},
        }))
        .unwrap();
        let nodes = json!([{"id": "n", "name": "w1", "status": "ready", "cpu_millicores": 8000, "memory_bytes": 32_000_000_000_u64, "gpus": 0}]);
        let keys = json!([{"id": "k", "name": "ci", "scopes": [], "active": true, "expires_at": "2030-01-03T12:00:00Z"}]);
        Page {
            tenant,
            workers: serde_json::from_value(nodes).unwrap(),
            keys_about_to_expire: serde_json::from_value(keys).unwrap(),
            waiting_jobs: Some(fixture().into_iter().filter(Job::is_waiting).collect()),
            more_jobs_wait: false,
            not_shown: Vec::new(),
        }
    }

    fn now() -> Timestamp {
        "2030-01-01T00:05:00Z".parse().unwrap()
    }

    #[test]
    fn a_tenant_is_one_page() {
        insta::assert_snapshot!(rendered(&page(), now(), false));
    }

    #[test]
    fn what_may_not_be_read_is_named_and_more_jobs_are_counted() {
        let mut page = page();
        (page.workers, page.keys_about_to_expire) = (None, None);
        page.not_shown = vec!["keys: failed to list the keys: forbidden".to_owned()];
        let job = page.waiting_jobs.unwrap()[0].clone();
        page.waiting_jobs = Some(vec![job; 15]);
        insta::assert_snapshot!(rendered(&page, now(), false));
        page.waiting_jobs = None;
        assert!(!rendered(&page, now(), false).contains("job waits"));
    }

    #[test]
    fn a_bar_is_bounded_and_turns_red_at_the_limit() {
        assert_eq!(bar(0, 0), ("[....................]   0%".to_owned(), Style::Good));
        assert_eq!(bar(1, 0).1, Style::Bad);
        assert_eq!(bar(17, 20), ("[#################...]  85%".to_owned(), Style::Warn));
        assert_eq!(bar(40, 20), ("[####################] 200%".to_owned(), Style::Bad));
        assert_eq!(bar(u64::MAX, 1).1, Style::Bad);
    }
}
