//! Configuration: flags and environment variables alike, read once at start.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use secrecy::SecretString;
use tokio::sync::watch;

use crate::{api_types::Plans, names};

/// How often the plan file is looked at for a change.
const PLANS_LOOK: Duration = Duration::from_secs(10);

/// What the operator is told at start.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Postgres to mirror into, as a postgres:// URL; without it everything but history works.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, value_parser = secret)]
    pub database_url: Option<SecretString>,
    /// Address of /healthz, /readyz and /metrics; port 0 takes a free one.
    #[arg(long, env = "CROFTER_METRICS_ADDR", default_value = "0.0.0.0:9090", value_parser = address)]
    pub metrics_addr: SocketAddr,
    /// A plan table (YAML) that replaces the built-in one; taken anew when the file changes.
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
}

fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
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
pub fn plans(
    file: Option<PathBuf>,
) -> anyhow::Result<(watch::Receiver<Arc<Plans>>, impl Future<Output = ()> + Send + 'static)> {
    let mut text = match &file {
        Some(path) => Some(read(path)?),
        None => None,
    };
    let table = match &text {
        Some(text) => Plans::from_yaml(text)?,
        None => Plans::built_in()?,
    };
    let (sender, receiver) = watch::channel(Arc::new(table));
    let follow = async move {
        let Some(path) = file else {
            // Keeps the channel open: a closed one means that the operator ends.
            sender.closed().await;
            return;
        };
        loop {
            tokio::time::sleep(PLANS_LOOK).await;
            match read(&path) {
                Ok(now) if text.as_ref() == Some(&now) => (),
                Ok(now) => {
                    match Plans::from_yaml(&now) {
                        Ok(table) => {
                            tracing::info!(plans = table.names().count(), "the plan table has changed");
                            sender.send_replace(Arc::new(table));
                        }
                        Err(error) => {
                            tracing::error!(%error, "the new plan table is not taken; the one before stays")
                        }
                    }
                    text = Some(now);
                }
                Err(error) => tracing::error!(%error, "the plan table can't be read; the one before stays"),
            }
        }
    };
    Ok((receiver, follow))
}

fn read(path: &std::path::Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading the plan table {}", path.display()))
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
        assert!(config.database_url.as_ref().unwrap().expose_secret().contains("geheim"));
        assert!(!format!("{config:?}").contains("geheim"));
        assert_eq!(config.metrics_addr.port(), 0);
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
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_followed_and_a_bad_one_is_not() {
        let dir = std::env::temp_dir().join(format!("crofter-plans-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("plans.yaml");
        let table = include_str!("api_types/plans.yaml");
        std::fs::write(&path, table).unwrap();
        let (mut receiver, follow) = plans(Some(path.clone())).unwrap();
        let follow = tokio::spawn(follow);
        std::fs::write(&path, table.replace("  free:", "  starter:")).unwrap();
        receiver.changed().await.unwrap();
        assert!(receiver.borrow_and_update().get("starter").is_some());
        std::fs::write(&path, "plans: {}").unwrap();
        tokio::time::sleep(PLANS_LOOK * 3).await;
        assert!(!receiver.has_changed().unwrap());
        follow.abort();
        std::fs::remove_dir_all(dir).unwrap();
    }
}
