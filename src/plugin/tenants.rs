//! `tenants list|get|set`: tenants, for administrators.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{
    Context,
    output::{self, Format, names, structured},
    status::{amount, used_of},
    table::{Cell, of_state, table},
};
use crate::{
    api_types::quota::QuotaDimension,
    client::{Error, Result, Scope, TenantChanges, model::Tenant},
};

/// The flags of the verb.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// List all tenants
    #[command(visible_alias = "ls")]
    List,
    /// Show one tenant
    Get {
        /// Name of the tenant
        #[arg(value_name = "TENANT", value_parser = output::named("tenant"))]
        name: String,
    },
    /// Change a tenant, such as: tenants set acme --quota maxJobs=30
    Set(Set),
}

#[derive(Debug, clap::Args)]
struct Set {
    /// Name of the tenant
    #[arg(value_name = "TENANT", value_parser = output::named("tenant"))]
    name: String,
    /// Quota of the tenant's own, such as maxJobs=30; -1 is no limit, and with a kubeconfig `plan` takes the plan's again
    #[arg(short, long = "quota", value_name = "NAME=NUMBER", value_parser = quota)]
    quotas: Vec<(String, Value)>,
    /// Plan
    #[arg(long)]
    plan: Option<String>,
    /// Suspend the tenant
    #[arg(long, conflicts_with = "resume")]
    suspend: bool,
    /// End the suspension of the tenant
    #[arg(long)]
    resume: bool,
    /// When it expires, such as 2027-01-01T00:00:00Z
    #[arg(long, value_name = "TIME")]
    expires_at: Option<Timestamp>,
}

/// A quota by the name of its field in a Tenant or in the REST API.
fn quota(text: &str) -> std::result::Result<(String, Value), String> {
    let (name, number) = text.split_once('=').ok_or("give NAME=NUMBER, such as maxJobs=30")?;
    let known = QuotaDimension::all().find(|of| of.field() == name || of.rest_name() == name);
    let known = known.ok_or_else(|| {
        let all: Vec<&str> = QuotaDimension::all().map(QuotaDimension::field).collect();
        format!("{name} is no quota: give one of {}", all.join(", "))
    })?;
    if number == "plan" {
        return Ok((known.field().to_owned(), Value::Null));
    }
    let number: i64 = number.parse().map_err(|_| format!("{number} is no whole number"))?;
    if number < -1 {
        Err(format!("{number} is no quota: give 0 or more, or -1 for no limit"))
    } else {
        Ok((known.field().to_owned(), json!(number)))
    }
}

impl Set {
    fn changes(&self) -> Result<TenantChanges> {
        let quotas: Map<String, Value> = self.quotas.iter().cloned().collect();
        let changes = TenantChanges {
            plan: self.plan.clone(),
            quotas,
            suspended: (self.suspend || self.resume).then_some(self.suspend),
            expires_at: self.expires_at,
        };
        if changes == TenantChanges::default() {
            let message = format!("failed to change the tenant {}: no change is given", self.name);
            return Err(Error::usage(message).next("tenants set --help"));
        }
        Ok(changes)
    }
}

pub async fn run(context: &Context, args: Args) -> Result<()> {
    let (format, terminal) = (context.format(), context.terminal);
    let session = context.session().await?;
    let text = match args.verb {
        Verb::List => {
            let tenants = session.transport.tenants().await?;
            match structured(format, &json!({"tenants": tenants}))? {
                Some(text) => text,
                None => rendered(&tenants, format, terminal.color),
            }
        }
        Verb::Get { name } => {
            let tenant = session.transport.tenant(&Scope::Tenant(name)).await?;
            match structured(format, &tenant)? {
                Some(text) => text,
                None => rendered(std::slice::from_ref(&tenant), format, terminal.color),
            }
        }
        Verb::Set(set) => {
            let tenant = session.transport.update_tenant(&set.name, &set.changes()?).await?;
            match structured(format, &tenant)? {
                Some(text) => text,
                None => names("tenant", [tenant.name.as_str()]),
            }
        }
    };
    terminal.print(&text)
}

/// Tenants as a table.
pub fn rendered(tenants: &[Tenant], format: Format, color: bool) -> String {
    if format == Format::Name {
        return names("tenant", tenants.iter().map(|tenant| tenant.name.as_str()));
    }
    let mut header = vec!["TENANT", "PLAN", "STATUS", "JOBS", "QUEUED", "CPU", "WORKERS", "HOUR"];
    if format == Format::Wide {
        header.extend(["MEMORY", "GPUS", "NAMESPACE", "EXPIRES", "ID"]);
    }
    let of = |tenant: &Tenant, dimension: QuotaDimension| {
        let used = used_of(tenant, dimension);
        let shown = used.map(|(used, limit)| {
            let limit = limit.map_or("-".to_owned(), |limit| amount(dimension, limit));
            format!("{}/{limit}", amount(dimension, used))
        });
        Cell::from(shown.unwrap_or_default())
    };
    let row = |tenant: &Tenant| {
        let text = |text: &Option<String>| Cell::from(text.as_deref().unwrap_or_default());
        let status = tenant.status.as_deref().unwrap_or_default();
        let mut row = vec![
            Cell::from(&tenant.name),
            text(&tenant.plan),
            Cell::styled(status, of_state(status)),
            of(tenant, QuotaDimension::Jobs),
            of(tenant, QuotaDimension::QueuedJobs),
            of(tenant, QuotaDimension::Cpu),
            of(tenant, QuotaDimension::Workers),
            of(tenant, QuotaDimension::JobsPerHour),
        ];
        if format == Format::Wide {
            let expires = tenant.expires_at.map(|at| at.to_string()).unwrap_or_default();
            row.extend([
                of(tenant, QuotaDimension::Memory),
                of(tenant, QuotaDimension::Gpus),
                text(&tenant.namespace),
                expires.into(),
                Cell::from(&tenant.id),
            ]);
        }
        row
    };
    table(&header, tenants.iter().map(row).collect(), color)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenants() -> Vec<Tenant> {
        serde_json::from_value(json!([
            {"id": "u", "name": "acme", "plan": "basic", "status": "active", "namespace": "tenant-acme",
             "quotas": {"max_jobs": 20, "max_queued_jobs": 200, "max_cpu_cores": -1, "max_workers": 5, "max_jobs_per_hour": 100},
             "usage": {"active_jobs": 3, "queued_jobs": 0, "cpu_millicores": 1500, "active_workers": 1, "jobs_this_hour": 7}},
            {"id": "v", "name": "odd", "plan": "gone", "status": "stalled", "quotas": null, "usage": {}},
        ]))
        .unwrap()
    }

    #[test]
    fn tenants_are_a_table() {
        insta::assert_snapshot!(rendered(&tenants(), Format::Wide, false));
        assert_eq!(rendered(&tenants(), Format::Name, false), "tenant/acme\ntenant/odd\n");
    }

    #[test]
    fn a_quota_is_named_as_in_a_tenant_or_as_in_rest() {
        assert_eq!(quota("maxJobs=30"), Ok(("maxJobs".to_owned(), json!(30))));
        assert_eq!(quota("max_jobs=-1"), Ok(("maxJobs".to_owned(), json!(-1))));
        assert_eq!(quota("maxGpus=plan"), Ok(("maxGpus".to_owned(), Value::Null)));
        for (bad, expected) in [
            ("maxJob=1", "maxJob is no quota: give one of maxJobs, "),
            ("maxJobs", "give NAME=NUMBER"),
            ("maxJobs=x", "x is no whole number"),
            ("maxJobs=-2", "give 0 or more"),
        ] {
            assert!(quota(bad).unwrap_err().contains(expected), "{bad}");
        }
    }
}
