//! `top`: which tenants use most, and how near they are to their quotas.

use serde_json::json;

use super::{
    Context,
    output::{Format, names, structured},
    status::{amount, used_of},
    table::{Cell, Style, table},
};
use crate::{
    api_types::quota::QuotaDimension,
    client::{Kind, Result, Scope, model::Tenant},
};

/// What the list is sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Sort {
    /// The fullest of a tenant's quotas
    Full,
    /// Jobs at once
    Jobs,
    /// CPU
    Cpu,
    /// Memory
    Memory,
    /// GPUs
    Gpus,
}

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What comes first
    #[arg(long, value_enum, default_value = "full")]
    sort: Sort,
}

const SHOWN: [QuotaDimension; 4] =
    [QuotaDimension::Jobs, QuotaDimension::Cpu, QuotaDimension::Memory, QuotaDimension::Gpus];

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let session = context.session().await?;
    let all = match &session.scope {
        Scope::Tenant(_) => vec![session.transport.tenant(&session.scope).await?],
        // A key and a member have one tenant, their own.
        _ => match session.transport.tenants().await {
            Err(error) if error.kind == Kind::Denied && session.scope == Scope::Own => {
                vec![session.transport.tenant(&session.scope).await.map_err(|_| error)?]
            }
            all => all?,
        },
    };
    let sorted = sorted(all, args.sort);
    let format = context.format();
    let text = match structured(format, &json!({"tenants": sorted}))? {
        Some(text) => text,
        None if format == Format::Name => names("tenant", sorted.iter().map(|tenant| tenant.name.as_str())),
        None => rendered(&sorted, context.terminal.color),
    };
    context.terminal.print(&text)
}

/// How full a quota is, in thousandths; a quota of 0 that is used is full.
fn fullness(tenant: &Tenant, of: QuotaDimension) -> Option<u64> {
    match used_of(tenant, of)? {
        (_, None) => None,
        (0, Some(0)) => Some(0),
        (_, Some(0)) => Some(1000),
        (used, Some(limit)) => u64::try_from(u128::from(used) * 1000 / u128::from(limit)).ok(),
    }
}

/// The fullest of a tenant's quotas.
fn fullest(tenant: &Tenant) -> Option<(u64, QuotaDimension)> {
    let all = QuotaDimension::all().filter(|of| *of != QuotaDimension::QueuedJobs);
    all.filter_map(|of| Some((fullness(tenant, of)?, of))).max_by_key(|(full, _)| *full)
}

fn sorted(mut tenants: Vec<Tenant>, by: Sort) -> Vec<Tenant> {
    let used = |tenant: &Tenant, of| used_of(tenant, of).map_or(0, |(used, _)| used);
    let key = |tenant: &Tenant| match by {
        Sort::Full => fullest(tenant).map_or(0, |(full, _)| full),
        Sort::Jobs => used(tenant, QuotaDimension::Jobs),
        Sort::Cpu => used(tenant, QuotaDimension::Cpu),
        Sort::Memory => used(tenant, QuotaDimension::Memory),
        Sort::Gpus => used(tenant, QuotaDimension::Gpus),
    };
    tenants.sort_by(|a, b| key(b).cmp(&key(a)).then_with(|| a.name.cmp(&b.name)));
    tenants
}

fn rendered(tenants: &[Tenant], color: bool) -> String {
    let header = ["TENANT", "JOBS", "QUEUED", "CPU", "MEMORY GB", "GPUS", "FULLEST QUOTA"];
    let row = |tenant: &Tenant| {
        let used = |of| Cell::from(used_of(tenant, of).map(|(used, _)| amount(of, used)).unwrap_or_default());
        let queued = tenant.usage.get("queued_jobs").map(ToString::to_string).unwrap_or_default();
        let full = fullest(tenant).map(|(full, of)| (full / 10, of.amounts()));
        let style = match full.map(|(percent, _)| percent) {
            Some(100..) => Style::Bad,
            Some(80..) => Style::Warn,
            _ => Style::Plain,
        };
        let full = full.map(|(percent, of)| format!("{percent}% of {of}")).unwrap_or_default();
        let [jobs, cpu, memory, gpus] = SHOWN.map(used);
        vec![Cell::from(&tenant.name), jobs, queued.into(), cpu, memory, gpus, Cell::styled(&full, style)]
    };
    table(&header, tenants.iter().map(row).collect(), color)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants() -> Vec<Tenant> {
        let tenant = |name: &str, jobs: u64, cpu: u64| {
            json!({"name": name, "quotas": {"max_jobs": 20, "max_cpu_cores": 16, "max_gpus": 0, "max_memory_gb": -1},
                   "usage": {"active_jobs": jobs, "queued_jobs": 4, "cpu_millicores": cpu, "gpus": 0, "memory_bytes": 1_500_000_000}})
        };
        serde_json::from_value(json!([tenant("a", 1, 4000), tenant("b", 20, 1000), tenant("c", 2, 15_000), {"name": "d", "quotas": null}])).unwrap()
    }

    #[test]
    fn the_fullest_or_the_largest_is_first() {
        let order = |by| sorted(tenants(), by).into_iter().map(|tenant| tenant.name).collect::<String>();
        assert_eq!([order(Sort::Full), order(Sort::Cpu), order(Sort::Jobs)], ["bcad", "cabd", "bcad"]);
        insta::assert_snapshot!(rendered(&sorted(tenants(), Sort::Full), false));
    }
}
