//! Configuration: flags and environment variables alike, read once at start.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use futures::{FutureExt, future::BoxFuture};
use secrecy::SecretString;
use tokio::sync::watch;

use crate::{
    api_types::{Plans, Scenarios},
    db::UrlSource,
    http::{cors, tls},
    names,
};

/// How often the file of a table is read for a change.
const TABLE_READ_INTERVAL: Duration = Duration::from_secs(10);

/// Where the database is, if one is configured.
#[derive(Clone, Debug, clap::Args)]
pub struct Database {
    /// Postgres to mirror into, as a postgres:// URL; without it everything but history works.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_parser = secret)]
    pub database_url: Option<SecretString>,
    /// A file with that URL, such as one of a mounted Secret; read again for each new connection.
    #[arg(long, env = "CROFTER_DATABASE_URL_FILE", value_name = "FILE", conflicts_with = "database_url")]
    pub database_url_file: Option<PathBuf>,
}

impl Database {
    /// The URL, or the file that has it.
    #[must_use]
    pub fn source(&self) -> Option<UrlSource> {
        let file = self.database_url_file.clone().map(UrlSource::File);
        file.or_else(|| self.database_url.clone().map(UrlSource::Given))
    }
}

/// The flags and environment variables of the operator.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Where the database is.
    #[command(flatten)]
    pub database: Database,
    /// Address of /healthz, /readyz and /metrics; port 0 takes a free one.
    #[arg(long, env = "CROFTER_METRICS_ADDR", default_value = "0.0.0.0:9090", value_parser = address)]
    pub metrics_addr: SocketAddr,
    /// Address of the REST API; port 0 takes a free one.
    #[arg(long, env = "CROFTER_API_ADDR", default_value = "0.0.0.0:8080", value_parser = address)]
    pub api_addr: SocketAddr,
    /// The certificate (PEM, with those of its intermediate authorities after it) with which the REST API is served over
    /// TLS; taken again when the file changes. Without it the API is plain HTTP.
    #[arg(long, env = "CROFTER_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of that certificate (PEM, not encrypted).
    #[arg(long, env = "CROFTER_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Origins of the pages that browsers may let call the REST API, separated by commas, such as
    /// `https://app.example.org`; none by default.
    #[arg(long, env = "CROFTER_CORS_ORIGINS", value_delimiter = ',', value_parser = cors::origin)]
    pub cors_origins: Vec<String>,
    /// A plan table (YAML) that replaces the built-in one; taken again when the file changes.
    #[arg(long, env = "CROFTER_PLANS")]
    pub plans: Option<PathBuf>,
    /// Shared pools whose nodes an autoscaler supplies, separated by commas: jobs are admitted to them up to their tenants'
    /// quotas, also where no node has room yet.
    #[arg(long, env = "CROFTER_ELASTIC_POOLS", value_delimiter = ',', value_parser = pool)]
    pub elastic_pools: Vec<String>,
    /// Seconds within which a pod must have started. For tests, which can't wait for minutes; the deadline that a pod
    /// gets for the kubelet is made for the default.
    #[arg(long, env = "CROFTER_START_LIMIT_SECONDS", default_value_t = 300, hide = true, value_parser = clap::value_parser!(u32).range(1..=300))]
    pub start_limit_seconds: u32,
    /// A catalogue of scenarios (YAML) that jobs may name; taken again when the file changes.
    #[arg(long, env = "CROFTER_SCENARIOS")]
    pub scenarios: Option<PathBuf>,
    /// Plan of the tenant `default`, which the first leader creates, once; without it no tenant is created.
    #[arg(long, env = "CROFTER_DEFAULT_TENANT", value_name = "PLAN")]
    pub default_tenant: Option<String>,
    /// Namespace of the operator's own objects, such as the Secret of the peppers.
    #[arg(long, env = "CROFTER_NAMESPACE", default_value = names::DEFAULT_NAMESPACE)]
    pub namespace: String,
    /// Name of the operator's own pod, for people who read the Lease; by default the machine's.
    #[arg(long, env = "POD_NAME", hide = true)]
    pub pod_name: Option<String>,
    /// Days after which entries of the audit log are deleted from the database.
    #[arg(long, env = "CROFTER_AUDIT_RETENTION_DAYS", value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub audit_retention_days: u32,
    /// Settings that controllers share.
    #[command(flatten)]
    pub settings: Settings,
}

/// What controllers need to know of an administrator's choices.
#[derive(Clone, Debug, clap::Args)]
pub struct Settings {
    /// Prefix of tenant namespaces.
    #[arg(long, env = "CROFTER_NAMESPACE_PREFIX", default_value = names::DEFAULT_NAMESPACE_PREFIX, value_parser = prefix)]
    pub namespace_prefix: String,
    /// The extended resource that counts GPUs.
    #[arg(long, env = "CROFTER_GPU_RESOURCE", default_value = names::DEFAULT_GPU_RESOURCE)]
    pub gpu_resource: String,
    /// Whether the pods of shared pools have `imagePullPolicy: Always`: the node then asks the registry whether the job's own
    /// pull secrets may have an image that another tenant's job has left on it.
    #[arg(long, env = "CROFTER_PULL_ALWAYS_ON_POOLS", default_value_t = true, action = clap::ArgAction::Set)]
    pub pull_always_on_pools: bool,
    /// Who reads the Secrets of API keys.
    #[command(flatten)]
    pub accounts: Accounts,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace_prefix: names::DEFAULT_NAMESPACE_PREFIX.to_owned(),
            gpu_resource: names::DEFAULT_GPU_RESOURCE.to_owned(),
            pull_always_on_pools: true,
            accounts: Accounts::default(),
        }
    }
}

/// The ServiceAccounts that are bound in the namespace of each tenant to what they need of the Secrets of API keys. Without
/// them nothing is bound: a process that runs outside of the cluster has the rights of its kubeconfig.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args)]
pub struct Accounts {
    /// ServiceAccount of the operator, as `namespace/name`, which reads and writes the Secrets of API keys in tenants'
    /// namespaces; without it nothing is bound there.
    #[arg(long, env = "CROFTER_SERVICE_ACCOUNT", value_name = "NAMESPACE/NAME", value_parser = account)]
    pub service_account: Option<Account>,
    /// ServiceAccount of the REST API where it has its own, as `namespace/name`, which reads the Secrets of API keys.
    #[arg(long, env = "CROFTER_API_SERVICE_ACCOUNT", value_name = "NAMESPACE/NAME", value_parser = account)]
    pub api_service_account: Option<Account>,
}

/// A ServiceAccount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Config {
    /// How long the database keeps entries of the audit log.
    #[must_use]
    pub fn audit_retention(&self) -> Duration {
        Duration::from_hours(24 * u64::from(self.audit_retention_days))
    }

    /// The files with which the REST API is served over TLS, if it is.
    #[must_use]
    pub fn tls(&self) -> Option<tls::Files> {
        let (certificate, key) = (self.tls_cert.clone()?, self.tls_key.clone()?);
        Some(tls::Files { certificate, key })
    }
}

/// A value that is not shown.
///
/// # Errors
/// Never.
pub fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(SecretString::from(text))
}

/// An address; `:9090` means all interfaces.
fn address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.to_owned() };
    full.parse().map_err(|_| format!("`{text}` is no address: give one such as 127.0.0.1:9090 or :9090"))
}

/// A pool's name, as tenants list it.
fn pool(text: &str) -> Result<String, String> {
    /// 63 characters of a label's value less `pool.`.
    const LONGEST: usize = 58;
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let fits = (1..=LONGEST).contains(&text.len())
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-');
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is no pool: give names of at most {LONGEST} characters of a-z, 0-9 and -"))
    }
}

/// `namespace/name`.
pub(crate) fn account(text: &str) -> Result<Account, String> {
    match text.split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
            Ok(Account { namespace: namespace.to_owned(), name: name.to_owned() })
        }
        _ => Err(format!("`{text}` is no ServiceAccount: give it as namespace/name")),
    }
}

/// A prefix that leaves room for a tenant's name of 40 characters in a namespace's 63.
fn prefix(text: &str) -> Result<String, String> {
    /// 63 characters of a namespace less 40 of a tenant.
    const LONGEST: usize = 23;
    let fits = text.len() <= LONGEST
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    if fits {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}`: give at most {LONGEST} characters of a-z, 0-9 and -, the first one a letter"))
    }
}

/// The plan table in force, and the task that follows its file. Without a file it is the built-in table for ever.
///
/// # Errors
/// The file can't be read or holds no good table. Later, a bad table is logged and the one before stays in force.
pub async fn plans(file: Option<PathBuf>) -> anyhow::Result<(watch::Receiver<Arc<Plans>>, Follow)> {
    followed("plan table", file, Plans::built_in()?, Plans::from_yaml).await
}

/// The scenarios in force, and the task that follows their file. Without a file there are none.
///
/// # Errors
/// As [`plans`].
pub async fn scenarios(file: Option<PathBuf>) -> anyhow::Result<(watch::Receiver<Arc<Scenarios>>, Follow)> {
    followed("scenario catalogue", file, Scenarios::default(), Scenarios::from_yaml).await
}

/// A task that follows a file, for as long as a receiver of its content exists.
pub type Follow = BoxFuture<'static, ()>;

/// What `file` holds, and the task that takes it again whenever the file has changed; `built_in` where there is no file.
async fn followed<T, E>(
    what: &'static str,
    file: Option<PathBuf>,
    built_in: T,
    parse: fn(&str) -> Result<T, E>,
) -> anyhow::Result<(watch::Receiver<Arc<T>>, Follow)>
where
    T: Send + Sync + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    let Some(path) = file else {
        let (sender, receiver) = watch::channel(Arc::new(built_in));
        // Keeps the channel open: a closed one means that the operator ends.
        return Ok((receiver, async move { sender.closed().await }.boxed()));
    };
    let mut text = read(what, &path).await?;
    let table = parse(&text).with_context(|| format!("the {what} in {}", path.display()))?;
    let (sender, receiver) = watch::channel(Arc::new(table));
    let follow = async move {
        loop {
            tokio::time::sleep(TABLE_READ_INTERVAL).await;
            let now = match read(what, &path).await {
                Ok(now) => now,
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the {what} can't be read; the one before stays"
                    );
                    continue;
                }
            };
            if now == text {
                continue;
            }
            match parse(&now) {
                Ok(table) => {
                    tracing::info!("the {what} has changed");
                    sender.send_replace(Arc::new(table));
                }
                Err(error) => tracing::error!(%error, "the new {what} is not taken; the one before stays"),
            }
            text = now;
        }
    };
    Ok((receiver, follow.boxed()))
}

async fn read(what: &str, path: &Path) -> anyhow::Result<String> {
    tokio::fs::read_to_string(path)
        .await
        .with_context(|| format!("failed to read the {what} {}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use secrecy::ExposeSecret;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn flags_are_read_and_secrets_stay_hidden() {
        let line = ["x", "--database-url", "postgres://u:geheim@h/db", "--metrics-addr", ":0"];
        let config = Line::parse_from(line).config;
        assert!(config.database.database_url.as_ref().unwrap().expose_secret().contains("geheim"));
        assert!(!format!("{config:?}").contains("geheim"));
        assert_eq!(config.metrics_addr.port(), 0);
    }

    #[test]
    fn the_default_is_that_of_the_command_line() {
        let settings = |line: &[&str]| format!("{:?}", Line::parse_from(line).config.settings);
        assert_eq!(settings(&["x"]), format!("{:?}", Settings::default()));
        let off = Settings { pull_always_on_pools: false, ..Settings::default() };
        assert_eq!(settings(&["x", "--pull-always-on-pools", "false"]), format!("{off:?}"));
    }

    #[test]
    fn files_that_belong_together_are_given_together() {
        let parse =
            |line: &[&str]| Line::try_parse_from(line).map(|line| line.config).map_err(|e| e.to_string());
        let plain = parse(&["x"]).unwrap();
        assert!(plain.tls().is_none() && plain.database.source().is_none());
        let files = parse(&["x", "--tls-cert", "c", "--tls-key", "k"]).unwrap().tls().unwrap();
        assert_eq!((files.certificate.to_str(), files.key.to_str()), (Some("c"), Some("k")));
        for (alone, missing) in [("--tls-cert", "--tls-key <FILE>"), ("--tls-key", "--tls-cert <FILE>")] {
            let error = parse(&["x", alone, "f"]).unwrap_err();
            assert!(error.contains("required") && error.contains(missing), "{error}");
        }
        let file = parse(&["x", "--database-url-file", "/f"]).unwrap().database.source();
        assert!(matches!(file, Some(UrlSource::File(path)) if path.to_str() == Some("/f")));
        let both = ["x", "--database-url-file", "f", "--database-url", "postgres://u:geheim@h/db"];
        let error = parse(&both).unwrap_err();
        assert!(error.contains("cannot be used with") && !error.contains("geheim"), "{error}");
    }

    #[test]
    fn bad_values_are_named() {
        let error = Line::try_parse_from(["x", "--metrics-addr", "nowhere"]).err().unwrap().to_string();
        assert!(error.contains("`nowhere` is no address"), "{error}");
        assert!(Line::try_parse_from(["x", "--namespace-prefix", "Team_"]).is_err());
        let pools = Line::parse_from(["x", "--elastic-pools", "gpu,spot"]).config.elastic_pools;
        assert_eq!(pools, ["gpu", "spot"]);
        let error = Line::try_parse_from(["x", "--elastic-pools", "gpu,Spot"]).err().unwrap().to_string();
        assert!(error.contains("`Spot` is no pool"), "{error}");
        let days = |days: &str| Line::try_parse_from(["x", "--audit-retention-days", days]);
        assert_eq!(days("2").ok().unwrap().config.audit_retention(), Duration::from_secs(2 * 86_400));
        for bad in ["0", "3651", "ever"] {
            let error = days(bad).err().unwrap().to_string();
            assert!(error.contains("--audit-retention-days"), "{error}");
        }
        for bad in ["crofter", "/crofter", "crofter-system/", "a/b/c"] {
            let error = Line::try_parse_from(["x", "--service-account", bad]).err().unwrap().to_string();
            assert!(error.contains(&format!("`{bad}` is no ServiceAccount")), "{error}");
        }
    }

    /// A file of this test's own, which goes with it.
    struct Scratch(PathBuf);

    impl Scratch {
        fn holding(name: &str, text: &str) -> Self {
            let path = std::env::temp_dir().join(format!("crofter-{name}-{}", std::process::id()));
            std::fs::write(&path, text).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            drop(std::fs::remove_file(&self.0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_followed_and_a_bad_one_is_not() {
        let table = include_str!("api_types/plans.yaml");
        let file = Scratch::holding("plans", table);
        let (mut receiver, follow) = plans(Some(file.0.clone())).await.unwrap();
        let follow = tokio::spawn(follow);
        std::fs::write(&file.0, table.replace("  free:", "  starter:")).unwrap();
        receiver.changed().await.unwrap();
        assert!(receiver.borrow_and_update().get("starter").is_some());
        std::fs::write(&file.0, "plans: {}").unwrap();
        tokio::time::sleep(TABLE_READ_INTERVAL * 3).await;
        assert!(!receiver.has_changed().unwrap());
        follow.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_goes_changes_nothing_and_is_followed_when_it_is_back() {
        let file = Scratch::holding("scenarios", "scenarios: {a: {image: i}}");
        let (mut receiver, follow) = scenarios(Some(file.0.clone())).await.unwrap();
        let follow = tokio::spawn(follow);
        assert!(receiver.borrow_and_update().get("a").is_some());
        std::fs::remove_file(&file.0).unwrap();
        tokio::time::sleep(TABLE_READ_INTERVAL * 3).await;
        assert!(!receiver.has_changed().unwrap());
        std::fs::write(&file.0, "scenarios: {b: {image: i}}").unwrap();
        receiver.changed().await.unwrap();
        assert!(receiver.borrow().get("a").is_none() && receiver.borrow().get("b").is_some());
        follow.abort();
    }

    #[tokio::test]
    async fn at_the_start_the_file_must_be_good() {
        let file = Scratch::holding("bad", "scenarios: {a: {}}");
        let error = format!("{:#}", scenarios(Some(file.0.clone())).await.err().unwrap());
        assert!(
            error.contains("the scenario catalogue in") && error.contains("missing field `image`"),
            "{error}"
        );
        let error = scenarios(Some("/nowhere".into())).await.err().unwrap().to_string();
        assert_eq!(error, "failed to read the scenario catalogue /nowhere");
        let (none, _follow) = scenarios(None).await.unwrap();
        assert_eq!(**none.borrow(), Scenarios::default());
    }
}
