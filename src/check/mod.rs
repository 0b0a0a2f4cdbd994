//! `crofter check`: whether an installation works, asked of the cluster itself. The chart runs it as its `helm test`.
//!
//! Each check is one line of output, `ok` or `failed` with the cause and how to mend it. A check that fails keeps no other
//! from being made.

pub mod attacks;
mod cluster;
mod trial;

use std::{fmt, path::PathBuf, time::Duration};

use anyhow::bail;
use kube::Client;
use tokio::time::Instant;

use crate::{
    config::{self, Account, Database},
    db::{self, Pool, UrlSource},
    kube_ext::CallError,
    names, operator,
};

/// How long what was just installed may take to be in force.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(30);
/// Time between two attempts.
const PAUSE: Duration = Duration::from_secs(1);

/// The flags of `crofter check`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Namespace of the operator.
    #[arg(long, env = "CROFTER_NAMESPACE", default_value = names::DEFAULT_NAMESPACE)]
    namespace: String,
    /// Prefix of tenant namespaces.
    #[arg(long, env = "CROFTER_NAMESPACE_PREFIX", default_value = names::DEFAULT_NAMESPACE_PREFIX)]
    namespace_prefix: String,
    /// Where the database of the operator is; without it the database is not checked.
    #[command(flatten)]
    database: Database,
    /// Plan of the tenant that is created and deleted.
    #[arg(long, env = "CROFTER_CHECK_PLAN", default_value = "free")]
    plan: String,
    /// Image of the job that runs where shared pools have nodes: one that contains this program, as its entry point. Without
    /// it no job runs.
    #[arg(long, env = "CROFTER_CHECK_IMAGE")]
    job_image: Option<String>,
    /// Seconds that each step of the tenant and its job may take; the job also pulls its image.
    #[arg(long, env = "CROFTER_CHECK_STEP_SECONDS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3600))]
    step_seconds: u32,
    /// Also try what each kind of client must not get through with: dry runs on the API server, and requests of throwaway
    /// tenants to the REST API (docs/security.md). Needs an administrator who may impersonate.
    #[arg(long)]
    attacks: bool,
    /// Service account of the operator, as which attacks are made.
    #[arg(long, env = "CROFTER_SERVICE_ACCOUNT", value_name = "NAMESPACE/NAME", default_value = "crofter-system/crofter", value_parser = config::account)]
    service_account: Account,
    /// URL of the REST API, such as `http://127.0.0.1:8080`; without it attacks are made on the API server alone.
    #[arg(long, env = "CROFTER_URL")]
    api_url: Option<String>,
    /// File with the certificates of the authorities that the REST API's may be of.
    #[arg(long, env = "CROFTER_CA")]
    api_authority: Option<PathBuf>,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is as it should be.
    Ok(String),
    /// It is not.
    Failed {
        /// What is wrong, and why.
        what: String,
        /// What an administrator does about it.
        mend: String,
    },
}

impl Finding {
    fn failed(what: impl fmt::Display, mend: impl Into<String>) -> Self {
        Self::Failed { what: what.to_string(), mend: mend.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok(what) => write!(f, "ok: {what}"),
            Self::Failed { what, mend } => write!(f, "failed: {what}; to mend it: {mend}"),
        }
    }
}

/// What a failed call to the API server means for a check.
fn unanswered(error: CallError) -> Finding {
    let mend = match error.code() {
        Some(403) => "run it with the rights of the chart's test, or as an administrator",
        _ => "see whether the API server answers: kubectl get --raw /readyz",
    };
    Finding::failed(error, mend)
}

/// Makes all checks, and prints what each has found.
///
/// # Errors
/// The cluster is not found, or a check has failed; what is wrong is printed before.
pub async fn main(options: Options) -> anyhow::Result<()> {
    run(Client::try_from(operator::client_config().await?)?, options).await
}

/// The same for this cluster.
///
/// # Errors
/// A check has failed; what is wrong is printed before.
pub async fn run(client: Client, options: Options) -> anyhow::Result<()> {
    let mut failed = 0;
    let mut report = |finding: Finding| {
        failed += usize::from(matches!(finding, Finding::Failed { .. }));
        println!("{finding}");
    };
    report(repeated(|| cluster::crds(&client)).await);
    report(repeated(|| cluster::admission(&client)).await);
    report(repeated(|| cluster::leader(&client, &options.namespace)).await);
    let url = options.database.source();
    report(repeated(|| database(url.as_ref())).await);
    report(repeated(|| cluster::clocks(&client)).await);
    for finding in trial::run(&client, &options).await {
        report(finding);
    }
    if options.attacks {
        for finding in attacks::check(&client, &options).await {
            report(finding);
        }
    }
    if failed > 0 {
        bail!("{failed} checks have failed");
    }
    Ok(())
}

/// Repeats a check that fails for a while: what was just installed takes a moment to be in force.
async fn repeated<Check: Future<Output = Finding>>(check: impl Fn() -> Check) -> Finding {
    let end = Instant::now() + IN_FORCE_WITHIN;
    loop {
        let finding = check().await;
        if matches!(finding, Finding::Ok(_)) || Instant::now() >= end {
            return finding;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn database(url: Option<&UrlSource>) -> Finding {
    let Some(url) = url else {
        return Finding::Ok("no database is configured: history and usage are not kept".to_owned());
    };
    let pending = match Pool::new(url, db::Options::default()) {
        Ok(pool) => db::pending_migrations(&pool).await,
        Err(error) => Err(error),
    };
    match pending {
        Ok(0) => Finding::Ok("the database answers, and its schema is of this version".to_owned()),
        Ok(count) => Finding::failed(
            format!("the database lacks {count} migrations"),
            "the leader makes them when it connects: see its log for the reason why it can't, or run `crofter migrate`",
        ),
        Err(error) => Finding::failed(
            format!("failed to read the database: {error}"),
            "see whether Postgres runs, and whether the Secret of database.existingSecret has its URL",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line() {
        assert_eq!(Finding::Ok("all of it".to_owned()).to_string(), "ok: all of it");
        let failed = Finding::failed("a part is missing", "install it");
        assert_eq!(failed.to_string(), "failed: a part is missing; to mend it: install it");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_just_installed_is_given_a_moment() {
        let late = |seconds: u64| {
            let since = Instant::now();
            repeated(move || async move {
                let is_late = since.elapsed() < Duration::from_secs(seconds);
                if is_late { Finding::failed("not yet", "wait") } else { Finding::Ok("now".to_owned()) }
            })
        };
        assert_eq!(late(5).await, Finding::Ok("now".to_owned()));
        assert_eq!(late(60).await, Finding::failed("not yet", "wait"));
    }

    #[tokio::test]
    async fn a_database_that_does_not_answer_is_named() {
        let url = UrlSource::from("postgres://u:geheim@127.0.0.1:1/db");
        let finding = database(Some(&url)).await.to_string();
        assert!(finding.starts_with("failed: failed to read the database: "), "{finding}");
        assert!(!finding.contains("geheim"), "{finding}");
        assert!(database(None).await.to_string().starts_with("ok: no database is configured"));
    }
}
