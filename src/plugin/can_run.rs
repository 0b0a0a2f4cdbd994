//! `can-run`: what would become of a job, without submitting it.
//!
//! It compares what the job asks for with the tenant's quotas, usage and nodes, as the scheduler does; with a kubeconfig the API
//! server also checks the job by a dry run. What it can't know, it says: the load of shared pools, the jobs ahead in the queue,
//! and what a scenario brings along.

use serde::Serialize;
use serde_json::Map;

use super::{
    Context, Session,
    output::{Format, structured},
    spec_flags::SpecFlags,
    status::{amount, used_of},
    table::clean,
    why,
};
use crate::{
    api_types::{JobSpec, Scenarios, job::OnQuota, quota::QuotaDimension},
    client::{
        Error, Kind, Result,
        model::{Check, Node, Tenant},
    },
    domain::resources::Resources,
};

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    spec: SpecFlags,
}

/// What would become of the job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outlook {
    /// It would start, unless others are ahead of it.
    Starts,
    /// It would wait.
    Waits,
    /// It would be rejected.
    Rejected,
}

#[derive(Debug, Serialize)]
struct Judgement {
    outlook: Outlook,
    checks: Vec<Check>,
    not_checked: Vec<String>,
}

pub async fn run(context: &Context, args: Args) -> Result<u8> {
    let submission = args.spec.submission()?;
    let spec = submission.typed()?;
    let Session { transport, scope } = context.session().await?;
    let (tenant, nodes) = tokio::join!(transport.tenant(&scope), transport.nodes(&scope));
    let (tenant, mut not_checked) = (tenant?, Vec::new());
    let nodes = match nodes {
        Ok(nodes) => Some(nodes),
        Err(error) if error.kind == Kind::Denied => {
            not_checked.push(format!("nodes: {error}"));
            None
        }
        Err(error) => return Err(error),
    };
    let mut judgement = judge(&spec, &tenant, nodes.as_deref(), not_checked)?;
    match transport.dry_run(&scope, &submission).await {
        Ok(true) => judgement.checks.insert(0, check("valid", Some(true), "the API server admits the job")),
        Ok(false) => judgement
            .not_checked
            .push("the rules of fields: the REST API checks them at the submit".to_owned()),
        Err(error) if error.kind == Kind::Refused => {
            judgement.outlook = Outlook::Rejected;
            judgement.checks.insert(0, check("valid", Some(false), &error.message));
        }
        Err(error) => return Err(error),
    }
    let text = match structured(context.format(), &judgement)? {
        Some(text) => text,
        None if context.format() == Format::Name => format!("{}\n", word(judgement.outlook)),
        None => rendered(&tenant, &judgement, context.terminal.color),
    };
    context.terminal.print(&text)?;
    Ok(if judgement.outlook == Outlook::Rejected { Kind::Refused.exit_code() } else { 0 })
}

fn word(outlook: Outlook) -> &'static str {
    match outlook {
        Outlook::Starts => "starts",
        Outlook::Waits => "waits",
        Outlook::Rejected => "rejected",
    }
}

fn check(name: &str, ok: Option<bool>, detail: &str) -> Check {
    Check { name: name.to_owned(), ok, detail: detail.to_owned(), at: None, rest: Map::new() }
}

/// What the job asks for of a dimension; `None` where only its scenario says.
fn asked(spec: &JobSpec, resources: &Resources, of: QuotaDimension) -> Option<u64> {
    let own = spec.resources.as_ref();
    let is_given = match of {
        QuotaDimension::Jobs | QuotaDimension::JobsPerHour => return Some(1),
        QuotaDimension::Cpu => own.is_some_and(|own| own.cpu.is_some()),
        QuotaDimension::Memory => own.is_some_and(|own| own.memory.is_some()),
        QuotaDimension::Gpus => own.is_some_and(|own| own.gpus.is_some()),
        QuotaDimension::Bandwidth => own.is_some_and(|own| own.bandwidth_mbps.is_some()),
        _ => return None,
    };
    resources.amount(of).filter(|_| is_given || spec.scenario.is_none())
}

fn judge(
    spec: &JobSpec,
    tenant: &Tenant,
    nodes: Option<&[Node]>,
    mut not_checked: Vec<String>,
) -> Result<Judgement> {
    let own = JobSpec { scenario: None, ..spec.clone() };
    let resources = Resources::of_job(&own, &Scenarios::default())
        .map_err(|error| Error::usage(format!("failed to read the job: {error}")))?;
    let (mut checks, mut rejected, mut waits) = (Vec::new(), false, false);
    if let Some(status) = &tenant.status {
        let is_active = status == "active";
        rejected |= !is_active;
        checks.push(check("tenant active", Some(is_active), &format!("the tenant is {status}")));
    }
    for of in QuotaDimension::all() {
        let Some((used, limit)) = used_of(tenant, of) else { continue };
        if of == QuotaDimension::QueuedJobs {
            let is_full = limit.is_some_and(|limit| used >= limit);
            let most = limit.map_or("no limit".to_owned(), |limit| limit.to_string());
            waits |= is_full;
            checks.push(check("queue", Some(!is_full), &format!("{used} of {most} jobs wait")));
            continue;
        }
        let Some(check) = of.check() else { continue };
        let Some(asked) = asked(spec, &resources, of) else {
            not_checked.push(format!("{}: the scenario says what the job asks for", of.amounts()));
            continue;
        };
        let (ok, text) = compared(of, used, asked, limit);
        let never = limit.is_some_and(|limit| asked > limit);
        let is_counted_now = matches!(of, QuotaDimension::Jobs | QuotaDimension::JobsPerHour);
        rejected |= never || (!ok && is_counted_now && spec.on_quota == OnQuota::Reject);
        waits |= !ok;
        checks.push(self::check(&check.name.replace('_', " "), Some(ok), &text));
    }
    let fit = nodes.map(|nodes| fit(spec, &resources, nodes));
    if let Some((ok, text, is_final)) = fit {
        rejected |= is_final;
        waits |= ok == Some(false);
        checks.push(check("node fit", ok, &text));
    }
    not_checked.push("jobs that are ahead, and what others use of the nodes at this moment".to_owned());
    let outlook = match (rejected, waits) {
        (true, _) => Outlook::Rejected,
        (false, true) => Outlook::Waits,
        (false, false) => Outlook::Starts,
    };
    Ok(Judgement { outlook, checks, not_checked })
}

fn compared(of: QuotaDimension, used: u64, asked: u64, limit: Option<u64>) -> (bool, String) {
    let ok = asked == 0 || limit.is_none_or(|limit| used.saturating_add(asked) <= limit);
    let most = limit.map_or("no limit".to_owned(), |limit| amount(of, limit));
    let never = if limit.is_some_and(|limit| asked > limit) { ": it can never run" } else { "" };
    let text = format!(
        "{} in use, the job asks for {}, limit {most} {}{never}",
        amount(of, used),
        amount(of, asked),
        of.amounts()
    );
    (ok, text)
}

/// Whether a node of the tenant's own could hold the job, were it empty; in words; and whether that is final.
fn fit(spec: &JobSpec, asked: &Resources, nodes: &[Node]) -> (Option<bool>, String, bool) {
    let admitted: Vec<&Node> = nodes.iter().filter(|node| node.status != "pending").collect();
    if spec.scenario.is_some() {
        return (None, "the scenario says what the job asks for".to_owned(), false);
    }
    if spec.pool.is_some() {
        return (None, "the nodes of shared pools are not known here".to_owned(), false);
    }
    if admitted.is_empty() {
        let text = "the tenant has no node of its own: the job waits, unless a shared pool has room";
        return (None, text.to_owned(), false);
    }
    let holds = |node: &&&Node| {
        node.cpu_millicores >= asked.cpu_milli
            && node.memory_bytes >= asked.memory_bytes
            && node.gpus >= asked.gpus
    };
    let count = admitted.iter().filter(holds).count();
    let text = format!("{count} of {} nodes could hold it, were they empty", admitted.len());
    // A shared pool may have larger nodes, so that only the scheduler can say that it fits none.
    (Some(count > 0), text, false)
}

fn rendered(tenant: &Tenant, judgement: &Judgement, color: bool) -> String {
    let outlook = match judgement.outlook {
        Outlook::Starts => "would start, unless others are ahead of it",
        Outlook::Waits => "would wait",
        Outlook::Rejected => "would be REJECTED",
    };
    let mut text = format!("as a job of {} it {outlook}\n\n", clean(&tenant.name));
    text += &why::checklist(&judgement.checks, color);
    text += "\n";
    for part in &judgement.not_checked {
        text += &format!("not checked: {}\n", clean(part));
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn tenant(usage: Value) -> Tenant {
        let mut tenant = json!({
            "name": "acme", "status": "active",
            "quotas": {"max_jobs": 5, "max_queued_jobs": 50, "max_jobs_per_hour": 10, "max_cpu_cores": 4, "max_memory_gb": 16,
                       "max_gpus": 0, "max_bandwidth_mbps": -1},
            "usage": {"active_jobs": 1, "queued_jobs": 0, "jobs_this_hour": 3, "cpu_millicores": 1000, "memory_bytes": 0, "gpus": 0,
                      "bandwidth_mbps": 0},
        });
        for (field, value) in usage.as_object().unwrap() {
            tenant["usage"][field] = value.clone();
        }
        serde_json::from_value(tenant).unwrap()
    }

    fn nodes() -> Vec<Node> {
        serde_json::from_value(json!([
            {"name": "w1", "status": "ready", "cpu_millicores": 2000, "memory_bytes": 8_000_000_000_u64},
            {"name": "w2", "status": "pending", "cpu_millicores": 64000, "memory_bytes": 640_000_000_000_u64},
        ]))
        .unwrap()
    }

    fn outlook(spec: Value, usage: Value) -> Outlook {
        let spec: JobSpec = serde_json::from_value(spec).unwrap();
        judge(&spec, &tenant(usage), Some(&nodes()), Vec::new()).unwrap().outlook
    }

    #[test]
    fn a_job_starts_waits_or_is_rejected_as_the_scheduler_decides() {
        let small = json!({"image": "i", "resources": {"cpu": "1", "memory": "1Gi"}});
        assert_eq!(outlook(small.clone(), json!({})), Outlook::Starts);
        for used_up in [
            json!({"active_jobs": 5}),
            json!({"jobs_this_hour": 10}),
            json!({"cpu_millicores": 3500}),
            json!({"queued_jobs": 50}),
        ] {
            assert_eq!(outlook(small.clone(), used_up.clone()), Outlook::Waits, "{used_up}");
        }
        // More than the quota at all, a GPU where none is allowed, and a job that does not wait.
        for never in [json!({"cpu": "5"}), json!({"gpus": 1}), json!({"memory": "17G"})] {
            assert_eq!(outlook(json!({"image": "i", "resources": never}), json!({})), Outlook::Rejected);
        }
        let impatient = json!({"image": "i", "onQuota": "Reject"});
        assert_eq!(outlook(impatient.clone(), json!({})), Outlook::Starts);
        assert_eq!(outlook(impatient, json!({"active_jobs": 5})), Outlook::Rejected);
        // Within the quota, and larger than any node of its own.
        assert_eq!(outlook(json!({"image": "i", "resources": {"cpu": "3"}}), json!({})), Outlook::Waits);
    }

    #[test]
    fn what_is_not_known_is_said() {
        let spec: JobSpec =
            serde_json::from_value(json!({"scenario": "render", "resources": {"cpu": "1"}})).unwrap();
        let judgement = judge(&spec, &tenant(json!({})), Some(&nodes()), Vec::new()).unwrap();
        insta::assert_snapshot!(rendered(&tenant(json!({})), &judgement, false));
    }

    #[test]
    fn a_tenant_that_is_suspended_takes_no_job() {
        let mut tenant = tenant(json!({}));
        tenant.status = Some("suspended".to_owned());
        let spec: JobSpec = serde_json::from_value(json!({"image": "i"})).unwrap();
        assert_eq!(judge(&spec, &tenant, None, Vec::new()).unwrap().outlook, Outlook::Rejected);
    }
}
