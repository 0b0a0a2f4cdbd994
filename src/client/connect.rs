//! Which server is used: what flags name comes first, then `CROFTER_URL`, the profile of `login`, and the kubeconfig.

use std::{io::Read as _, path::PathBuf, sync::Arc};

use kube::config::{KubeConfigOptions, Kubeconfig};
use secrecy::SecretString;

use super::{
    Transport,
    cluster::Cluster,
    error::{Error, Kind, Result},
    profile::{self, Profile, Profiles},
    rest::Rest,
};
use crate::names;

/// Flags that say which server is used, and as whom.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// URL of the REST API, such as `https://crofter.example.org` [env: CROFTER_URL]
    #[arg(long, global = true, value_name = "URL", conflicts_with_all = ["context", "kubeconfig"])]
    pub server: Option<String>,
    /// File with the API key or Kubernetes token for the REST API, `-` for standard input [env: CROFTER_KEY has it itself]
    #[arg(long, env = "CROFTER_KEY_FILE", global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// File with the certificates of the REST API's authorities
    #[arg(long, env = "CROFTER_CA", global = true, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Profile of `login` to use [env: CROFTER_PROFILE]
    #[arg(long, global = true, value_name = "NAME")]
    pub profile: Option<String>,
    /// Kubeconfig to use in place of a profile [env: KUBECONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig, in place of a profile
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// Prefix of tenant namespaces
    #[arg(long, env = "CROFTER_NAMESPACE_PREFIX", global = true, hide = true, default_value = names::DEFAULT_NAMESPACE_PREFIX)]
    pub namespace_prefix: String,
    /// Say each request to the REST API on standard error, without credentials
    #[arg(short, long, global = true)]
    pub verbose: bool,
}

/// A server, and the tenant that requests are about where none is named.
#[derive(Clone)]
pub struct Connected {
    /// The server.
    pub transport: Arc<dyn Transport>,
    /// The tenant.
    pub tenant: Option<String>,
}

/// The environment variable with a key or token.
const KEY_VARIABLE: &str = "CROFTER_KEY";
/// That with the URL of the REST API.
const URL_VARIABLE: &str = "CROFTER_URL";
/// That with the name of a profile.
const PROFILE_VARIABLE: &str = "CROFTER_PROFILE";

impl Connection {
    /// The key or token of the file or the environment.
    ///
    /// # Errors
    /// The file can't be read, or is empty.
    pub fn credentials(&self, variable: impl Fn(&str) -> Option<String>) -> Result<Option<SecretString>> {
        let Some(file) = &self.key_file else {
            return Ok(variable(KEY_VARIABLE).filter(|key| !key.is_empty()).map(SecretString::from));
        };
        let failed =
            |cause: &str| Error::usage(format!("failed to read the key in {}: {cause}", file.display()));
        let mut text = String::new();
        let read = if file.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut text).map(|_| ())
        } else {
            std::fs::read_to_string(file).map(|read| text = read)
        };
        read.map_err(|error| failed(&error.to_string()))?;
        let text = text.trim();
        if text.is_empty() {
            return Err(failed("it is empty"));
        }
        Ok(Some(SecretString::from(text)))
    }

    /// The URL of the flag or the environment.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        self.server.clone().or_else(|| set_variable(URL_VARIABLE))
    }

    /// The file of profiles.
    ///
    /// # Errors
    /// As [`profile::path`].
    pub fn profiles(&self) -> Result<PathBuf> {
        profile::path(variable)
    }

    /// The cluster of the flags or the kubeconfig.
    ///
    /// # Errors
    /// There is none, or it can't be read.
    pub async fn kubeconfig(&self) -> Result<kube::Config> {
        let failed = |error: &dyn std::fmt::Display| {
            Error::new(Kind::Failed, format!("failed to read the kubeconfig: {error}"))
                .next("login --server URL")
        };
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        if let Some(file) = &self.kubeconfig {
            let read = Kubeconfig::read_from(file).map_err(|error| failed(&error))?;
            return kube::Config::from_custom_kubeconfig(read, &options)
                .await
                .map_err(|error| failed(&error));
        }
        if self.context.is_some() {
            return kube::Config::from_kubeconfig(&options).await.map_err(|error| failed(&error));
        }
        // In a pod, the service account.
        kube::Config::infer().await.map_err(|_| {
            let message = "failed to find a server: there is no profile, no --server and no kubeconfig";
            Error::new(Kind::Usage, message).next("login --server URL")
        })
    }
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A variable that is not empty.
fn set_variable(name: &str) -> Option<String> {
    variable(name).filter(|value| !value.is_empty())
}

/// The server that the flags, the environment, the profile or the kubeconfig name.
///
/// # Errors
/// There is none, or what names it can't be read.
pub async fn connect(flags: &Connection) -> Result<Connected> {
    let credentials = flags.credentials(variable)?;
    let names_cluster = flags.context.is_some() || flags.kubeconfig.is_some();
    // A flag has precedence over every variable.
    let of_variable = || set_variable(URL_VARIABLE).filter(|_| !names_cluster && flags.profile.is_none());
    if let Some(server) = flags.server.clone().or_else(of_variable) {
        let token = credentials.ok_or_else(|| {
            Error::new(Kind::Denied, format!("failed to use {server}: there is no key for it"))
                .next(format!("login --server {server}"))
        })?;
        let rest = Rest::new(&server, token, flags.ca.as_deref(), flags.verbose)?;
        return Ok(Connected { transport: Arc::new(rest), tenant: None });
    }
    if !names_cluster {
        let wanted = flags.profile.clone().or_else(|| set_variable(PROFILE_VARIABLE));
        let profiles = flags.profiles().and_then(|path| Profiles::read(&path));
        // Without a home directory there is no profile.
        let profiles = match profiles {
            Err(error) if wanted.is_some() || !error.message.contains("HOME") => return Err(error),
            other => other.unwrap_or_default(),
        };
        if let Some(Profile { server, token, ca, tenant }) = profiles.get(wanted.as_deref())? {
            let token = credentials.unwrap_or_else(|| SecretString::from(token.as_str()));
            let ca = flags.ca.as_ref().or(ca.as_ref());
            let rest = Rest::new(server, token, ca.map(PathBuf::as_path), flags.verbose)?;
            return Ok(Connected { transport: Arc::new(rest), tenant: tenant.clone() });
        }
    }
    let config = flags.kubeconfig().await?;
    let cluster = Cluster::new(config, &flags.namespace_prefix)?;
    Ok(Connected { transport: Arc::new(cluster), tenant: None })
}
