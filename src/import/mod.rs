//! `crofter import`: tenants and waiting jobs of the job service that Crofter replaces.
//!
//! Rows become objects by pure functions (`tenants`, `jobs`), which are written as YAML or into the cluster. The database is
//! only read. To import again changes nothing that is there; what was not written is tried again. Whatever is not imported, or
//! is not what it was, is in the report with its reason.

mod jobs;
mod naming;
mod report;
mod target;
mod tenants;

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    path::PathBuf,
};

use anyhow::{Context as _, bail};
use kube::Client;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;

use self::{
    jobs::{JobOptions, JobRow},
    naming::TenantNames,
    report::Report,
    target::{Target, Written},
    tenants::TenantRow,
};
use crate::{
    api_types::Plans,
    config,
    db::{Original, Table, UnreadableRow, UrlSource},
    names, operator,
};

/// The flags of `crofter import`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Database of the service that is replaced, as a postgres:// URL. It is only read.
    #[arg(long, env = "CROFTER_IMPORT_URL", hide_env_values = true, value_name = "URL", value_parser = config::secret)]
    from: Option<SecretString>,
    /// A file with that URL.
    #[arg(long, value_name = "FILE", conflicts_with = "from", required_unless_present = "from")]
    from_file: Option<PathBuf>,
    /// Write into the cluster. Without it the objects are printed as YAML.
    #[arg(long)]
    apply: bool,
    /// Let the API server check all of it and store nothing.
    #[arg(long, requires = "apply")]
    dry_run: bool,
    /// Tenant of the rows that have none.
    #[arg(long, value_name = "NAME", default_value = names::DEFAULT_TENANT, value_parser = tenant_name)]
    tenant: String,
    /// Scenario of the catalogue for a scenario there, such as `4K60-h264=uhd`; by default its name in small letters.
    #[arg(long, value_name = "THERE=HERE", value_parser = renamed)]
    scenario: Vec<(String, String)>,
    /// Image of all jobs. They then name no scenario, and have its name as the parameter `scenario`.
    #[arg(long, conflicts_with = "scenario")]
    image: Option<String>,
    /// The plan table of the installation, where it is not the built-in one.
    #[arg(long, env = "CROFTER_PLANS", value_name = "FILE")]
    plans: Option<PathBuf>,
    /// Prefix of tenant namespaces.
    #[arg(long, env = "CROFTER_NAMESPACE_PREFIX", default_value = names::DEFAULT_NAMESPACE_PREFIX)]
    namespace_prefix: String,
}

fn tenant_name(text: &str) -> Result<String, String> {
    match naming::label(text, naming::MAX_TENANT) == text && !text.is_empty() {
        true => Ok(text.to_owned()),
        false => {
            Err(format!("`{text}` is not a tenant's name: at most {} of a-z, 0-9 and -", naming::MAX_TENANT))
        }
    }
}

fn renamed(text: &str) -> Result<(String, String), String> {
    let (there, here) =
        text.rsplit_once('=').ok_or_else(|| format!("`{text}` has no `=`: give THERE=HERE"))?;
    match naming::label(here, 63) == here && !here.is_empty() {
        true => Ok((there.to_owned(), here.to_owned())),
        false => Err(format!("`{here}` is not the name of a scenario: at most 63 of a-z, 0-9 and -")),
    }
}

/// Imports, and prints the report on standard error.
///
/// # Errors
/// The database can't be read, or objects were not written; the report is printed first.
pub async fn main(options: Options) -> anyhow::Result<()> {
    let from = options.from_file.clone().map(UrlSource::File);
    let from =
        from.or_else(|| options.from.clone().map(UrlSource::Given)).context("give --from or --from-file")?;
    let plans = match &options.plans {
        None => Plans::built_in()?,
        Some(file) => {
            let text = std::fs::read_to_string(file);
            Plans::from_yaml(&text.with_context(|| format!("failed to read {}", file.display()))?)?
        }
    };
    let mut original = Original::open(&from).await?;
    let mut out = io::stdout();
    let target = match options.apply {
        false => Target::Yaml(&mut out),
        true => {
            let client = Client::try_from(operator::client_config().await?)?;
            Target::Cluster { client, dry_run: options.dry_run }
        }
    };
    let import = Import { options: &options, target, report: Report::default() };
    let report = import.run(&mut original, &plans).await?;
    eprint!("{report}");
    match report.failed.count() {
        0 => Ok(()),
        count => bail!("{count} objects were not written: mend what the report says, and import again"),
    }
}

/// A row of `nodes`.
#[derive(Clone, Debug, Deserialize)]
struct NodeRow {
    id: String,
    name: Option<String>,
    tenant_id: Option<String>,
    address: Option<String>,
}

struct Import<'a> {
    options: &'a Options,
    target: Target<'a>,
    report: Report,
}

impl Import<'_> {
    async fn run(mut self, original: &mut Original, plans: &Plans) -> anyhow::Result<Report> {
        let tenants: Vec<TenantRow> = self.read_all(original, Table::Tenants, "tenant").await?;
        let names = TenantNames::of(tenants.iter().map(|row| (row.id.as_str(), row.name.as_str())));
        let written = self.tenants(&tenants, &names, plans).await;
        self.jobs(original, &names, &written).await?;
        self.nodes(original, &names).await?;
        for (status, count) in original.job_counts().await? {
            if jobs::has_ended(&status) {
                self.report
                    .left
                    .add(format!("{count} jobs that are {status}: history stays in the old database"));
            }
        }
        self.report
            .to_do
            .add("API keys: make a TenantApiKey for each client, as no key of the old service is valid here");
        Ok(self.report)
    }

    /// All rows of a table that can be read.
    async fn read_all<T: serde::de::DeserializeOwned>(
        &mut self,
        original: &mut Original,
        table: Table,
        kind: &str,
    ) -> anyhow::Result<Vec<T>> {
        let mut all = Vec::new();
        if !original.has(table) {
            return Ok(all);
        }
        original.begin(table).await?;
        loop {
            let rows = original.fetch().await?;
            if rows.is_empty() {
                return Ok(all);
            }
            for row in rows {
                match row {
                    Ok(row) => all.push(row),
                    Err(UnreadableRow { id, cause }) => {
                        self.report.failed.add(format!("{kind} {id}: {cause}"))
                    }
                }
            }
        }
    }

    /// Writes the Tenants; the names of those that are there.
    async fn tenants(&mut self, rows: &[TenantRow], names: &TenantNames, plans: &Plans) -> BTreeSet<String> {
        let mut written = BTreeSet::new();
        for row in rows {
            let Some(name) = names.get(&row.id) else { continue };
            let what = format!("tenant `{}`", row.name);
            let (tenant, changes) = match tenants::tenant(row, name, plans) {
                Ok(converted) => converted,
                Err(cause) if cause == tenants::DELETED => {
                    self.report.left.add(format!("{what}: {cause}"));
                    continue;
                }
                Err(cause) => {
                    self.report.failed.add(format!("{what}: {cause}"));
                    continue;
                }
            };
            match self.target.tenant(&tenant).await {
                Ok(()) => {
                    self.report.tenants += 1;
                    written.insert(name.to_owned());
                    changes.iter().for_each(|change| self.report.changed.add(format!("{what}: {change}")));
                }
                Err(error) => self.report.failed.add(format!("{what}: {error}")),
            }
        }
        // The chart makes the default tenant.
        let rest = &self.options.tenant;
        if !names.contains(rest) {
            let tenant = json!({
                "apiVersion": format!("{}/{}", names::GROUP, names::VERSION), "kind": "Tenant",
                "metadata": {"name": rest}, "spec": {"plan": "enterprise"},
            });
            let made = match rest == names::DEFAULT_TENANT {
                true => Ok(()),
                false => self.target.tenant(&tenant).await,
            };
            match made {
                Ok(()) => drop(written.insert(rest.clone())),
                Err(error) => self.report.failed.add(format!("tenant `{rest}`: {error}")),
            }
        }
        written
    }

    async fn jobs(
        &mut self,
        original: &mut Original,
        names: &TenantNames,
        written: &BTreeSet<String>,
    ) -> anyhow::Result<()> {
        let scenarios: BTreeMap<String, String> = self.options.scenario.iter().cloned().collect();
        let options = JobOptions { scenarios, image: self.options.image.clone() };
        let (mut open, mut closed) = (HashSet::new(), HashSet::new());
        let mut needed = BTreeSet::new();
        original.begin(Table::OpenJobs).await?;
        loop {
            let rows: Vec<Result<JobRow, UnreadableRow>> = original.fetch().await?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                let row = match row {
                    Ok(row) => row,
                    Err(UnreadableRow { id, cause }) => {
                        self.report.failed.add(format!("job {id}: {cause}"));
                        continue;
                    }
                };
                let of = row.tenant_id.as_deref().filter(|id| !id.is_empty());
                let tenant = of.map_or(Some(self.options.tenant.as_str()), |id| names.get(id));
                let Some(tenant) = tenant.filter(|tenant| written.contains(*tenant)) else {
                    self.report.left.add(format!("job {}: its tenant is not imported", row.id));
                    continue;
                };
                if closed.contains(tenant) {
                    continue;
                }
                if !open.contains(tenant) {
                    match self.target.ready(tenant).await {
                        Ok(true) => drop(open.insert(tenant.to_owned())),
                        // A dry run of a tenant that is not there yet.
                        Ok(false) => {
                            self.report.left.add(format!(
                                "jobs of tenant `{tenant}`: not checked, as it is not there yet"
                            ));
                            closed.insert(tenant.to_owned());
                            continue;
                        }
                        Err(error) => {
                            self.report.failed.add(format!("jobs of tenant `{tenant}`: {error}"));
                            closed.insert(tenant.to_owned());
                            continue;
                        }
                    }
                }
                if self.job(&row, tenant, &options, &mut needed).await {
                    closed.insert(tenant.to_owned());
                }
            }
        }
        if !needed.is_empty() {
            let needed: Vec<String> = needed.into_iter().collect();
            self.report.to_do.add(format!("scenarios that the catalogue must have: {}", needed.join(", ")));
        }
        Ok(())
    }

    /// Writes one Job; whether its tenant takes no more of them.
    async fn job(
        &mut self,
        row: &JobRow,
        tenant: &str,
        options: &JobOptions,
        needed: &mut BTreeSet<String>,
    ) -> bool {
        let namespace = names::namespace(&self.options.namespace_prefix, tenant);
        let (job, changes) = match jobs::job(row, &namespace, options) {
            Ok(converted) => converted,
            Err(cause) => {
                self.report.left.add(format!("job {}: {cause}", row.id));
                return false;
            }
        };
        needed.extend(job["spec"]["scenario"].as_str().map(str::to_owned));
        match self.target.job(&job).await {
            Ok(Written::New) => {
                self.report.jobs += 1;
                changes
                    .iter()
                    .for_each(|change| self.report.changed.add(format!("job {}: {change}", row.id)));
            }
            Ok(Written::Before) => self.report.jobs_before += 1,
            Err(error) if error.is_quota() => {
                let rest = "this and its further jobs: its quotas keep no more of them; import again when some have ended";
                self.report.failed.add(format!("job {} of tenant `{tenant}`, {rest}: {error}", row.id));
                return true;
            }
            Err(error) => self.report.failed.add(format!("job {}: {error}", row.id)),
        }
        false
    }

    async fn nodes(&mut self, original: &mut Original, names: &TenantNames) -> anyhow::Result<()> {
        let rows: Vec<NodeRow> = self.read_all(original, Table::Nodes, "node").await?;
        for NodeRow { id, name, tenant_id, address } in rows {
            let name = name.filter(|name| !name.is_empty()).unwrap_or(id);
            let tenant = tenant_id.as_deref().map_or(Some(self.options.tenant.as_str()), |id| names.get(id));
            let Some(tenant) = tenant else { continue };
            self.report.to_do.add(format!(
                "node `{name}` ({}): once it is a node of the cluster, label it {}={tenant}",
                address.unwrap_or_default(),
                names::NODE_TENANT
            ));
        }
        Ok(())
    }
}
