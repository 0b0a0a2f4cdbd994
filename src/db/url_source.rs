//! The URL of Postgres: where it comes from, and what new connections take from it.
//!
//! It is given as it is, or in a file such as that of a mounted Secret. That file, and those which the URL itself names
//! (`sslrootcert`, `sslcert`, `sslkey`), are read again before a connection may be made, so that a new password or
//! certificate needs no restart. What can't be used is logged once, and the URL before stays. So it does where the new one
//! names another server or database: the connections of a pool must not be of two databases.
//!
//! No error and no line of the log holds the URL or the content of a file.

use std::{
    fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use sqlx::{
    ConnectOptions, PgPool,
    postgres::{PgConnectOptions, PgSslMode},
};
use tokio::sync::Mutex;
use url::Url;

use crate::pem;

/// The parameters of a URL that are used as they are; `options[…]` is another one.
const PARAMETERS: [&str; 11] = [
    "sslmode",
    "ssl-mode",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Where the URL of the database is.
#[derive(Clone, Debug)]
pub enum UrlSource {
    /// It was given itself.
    Given(SecretString),
    /// It is in this file.
    File(PathBuf),
}

impl From<SecretString> for UrlSource {
    fn from(url: SecretString) -> Self {
        Self::Given(url)
    }
}

impl From<&str> for UrlSource {
    fn from(url: &str) -> Self {
        Self::Given(url.into())
    }
}

/// Why a URL can't be used. Holds neither the URL nor the content of a file.
#[derive(Debug, thiserror::Error)]
pub enum UrlError {
    /// A file can't be read.
    #[error("failed to read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The text is no URL.
    #[error(
        "it is no URL ({0}): give postgres://user:password@host:port/database, with %XX for what is special in a URL"
    )]
    Form(#[from] url::ParseError),
    /// It is the URL of something else.
    #[error("it is not of Postgres: it must begin with postgres:// or postgresql://")]
    Scheme,
    /// A part of it is a fragment.
    #[error("it has a `#`, after which nothing is read: write %23 in its place")]
    Fragment,
    /// A parameter of it has no value of its kind.
    #[error(transparent)]
    Parameter(sqlx::Error),
    /// A file that it names is not what it should be.
    #[error("failed to load {parameter} {}: {cause}", .path.display())]
    File {
        /// The parameter that names the file.
        parameter: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: pem::Error,
    },
    /// It is the URL of another database than before.
    #[error("it names another database, {now} in place of {before}: restart Crofter to use it")]
    Moved {
        /// Where the new one is.
        now: String,
        /// Where the present one is.
        before: String,
    },
}

/// What a URL says, with the content of the files that it names.
struct Loaded {
    connect: PgConnectOptions,
    /// Of the URL and of the files.
    digest: [u8; 32],
    /// It can't change: no file has a part in it.
    is_fixed: bool,
    /// Parameters that are not used.
    ignored: Vec<String>,
}

impl UrlSource {
    /// Reads the URL and the files that it names. Blocks.
    fn load(&self) -> Result<Loaded, UrlError> {
        let text = match self {
            Self::Given(url) => url.clone(),
            Self::File(path) => {
                let text = fs::read_to_string(path);
                text.map_err(|source| UrlError::Read { path: path.clone(), source })?.into()
            }
        };
        let mut url = Url::parse(text.expose_secret().trim())?;
        if !["postgres", "postgresql"].contains(&url.scheme()) {
            return Err(UrlError::Scheme);
        }
        if url.fragment().is_some() {
            return Err(UrlError::Fragment);
        }
        let pairs: Vec<(String, String)> =
            url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        let (mut digest, mut files, mut ignored) = (Sha256::new(), Vec::new(), Vec::new());
        digest.update(text.expose_secret());
        url.set_query(None);
        for (name, value) in &pairs {
            if PARAMETERS.contains(&name.as_str()) || name.starts_with("options[") {
                url.query_pairs_mut().append_pair(name, value);
            } else if let Some(file) = FileParameter::of(name) {
                files.push((file, file.load(Path::new(value))?));
            } else {
                ignored.push(name.clone());
            }
        }
        let mut connect = PgConnectOptions::from_str(url.as_str()).map_err(UrlError::Parameter)?;
        let is_fixed = matches!(self, Self::Given(_)) && files.is_empty();
        for (file, pem) in files {
            digest.update(Sha256::digest(&pem));
            connect = file.give(connect, pem);
        }
        let connect = connect.application_name("crofter").disable_statement_logging();
        Ok(Loaded { connect, digest: digest.finalize().into(), is_fixed, ignored })
    }

    /// How to connect to it once. Blocks for as long as it takes to read some files.
    ///
    /// # Errors
    /// The URL can't be used.
    pub(super) fn connect_options(&self) -> Result<PgConnectOptions, UrlError> {
        let Loaded { connect, ignored, .. } = self.load()?;
        warn_of(&ignored);
        Ok(connect)
    }

    /// What an error in it is about.
    pub(super) fn doing(&self) -> &'static str {
        match self {
            Self::Given(_) => "failed to read DATABASE_URL",
            Self::File(_) => "failed to read the file of the database URL",
        }
    }
}

/// A parameter that names a file of PEM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FileParameter {
    RootCertificate,
    Certificate,
    Key,
}

impl FileParameter {
    fn of(name: &str) -> Option<Self> {
        match name {
            "sslrootcert" | "ssl-root-cert" | "ssl-ca" => Some(Self::RootCertificate),
            "sslcert" | "ssl-cert" => Some(Self::Certificate),
            "sslkey" | "ssl-key" => Some(Self::Key),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::RootCertificate => "sslrootcert",
            Self::Certificate => "sslcert",
            Self::Key => "sslkey",
        }
    }

    /// The content of its file, which is read here because sqlx's errors do not name it.
    fn load(self, path: &Path) -> Result<Vec<u8>, UrlError> {
        let pem = fs::read(path).map_err(|source| UrlError::Read { path: path.to_owned(), source })?;
        let checked = match self {
            Self::RootCertificate | Self::Certificate => pem::certificates(&pem).map(drop),
            Self::Key => pem::private_key(&pem).map(drop),
        };
        let failed = |cause| UrlError::File { parameter: self.name(), path: path.to_owned(), cause };
        checked.map_err(failed).map(|()| pem)
    }

    fn give(self, connect: PgConnectOptions, pem: Vec<u8>) -> PgConnectOptions {
        match self {
            // As libpq: authorities are given in order to be checked. sqlx would not.
            Self::RootCertificate if matches!(connect.get_ssl_mode(), PgSslMode::Require) => {
                connect.ssl_mode(PgSslMode::VerifyCa).ssl_root_cert_from_pem(pem)
            }
            Self::RootCertificate => connect.ssl_root_cert_from_pem(pem),
            Self::Certificate => connect.ssl_client_cert_from_pem(pem),
            Self::Key => connect.ssl_client_key_from_pem(pem),
        }
    }
}

/// The URL that new connections of a pool use.
pub(super) struct CurrentUrl {
    source: UrlSource,
    is_fixed: bool,
    state: Mutex<State>,
}

struct State {
    /// Of what is in use.
    digest: [u8; 32],
    /// Why the last read is not in use.
    refused: Option<String>,
}

impl CurrentUrl {
    /// The URL as it is now. Blocks for as long as it takes to read some files.
    ///
    /// # Errors
    /// The URL can't be used.
    pub(super) fn load(source: UrlSource) -> Result<(Self, PgConnectOptions), UrlError> {
        let Loaded { connect, digest, is_fixed, ignored } = source.load()?;
        warn_of(&ignored);
        Ok((Self { source, is_fixed, state: Mutex::new(State { digest, refused: None }) }, connect))
    }

    /// Gives the pool what has changed since the last time.
    pub(super) async fn refresh(&self, pool: &PgPool) {
        if self.is_fixed {
            return;
        }
        let mut state = self.state.lock().await;
        let source = self.source.clone();
        // Reading files blocks.
        let Ok(loaded) = tokio::task::spawn_blocking(move || source.load()).await else { return };
        let used = loaded.and_then(|loaded| {
            if loaded.digest == state.digest {
                return Ok(None);
            }
            let (now, before) = (place(&loaded.connect), place(&pool.connect_options()));
            if now == before { Ok(Some(loaded)) } else { Err(UrlError::Moved { now, before }) }
        });
        match used {
            Ok(new) => {
                state.refused = None;
                if let Some(Loaded { connect, digest, ignored, .. }) = new {
                    warn_of(&ignored);
                    state.digest = digest;
                    pool.set_connect_options(connect);
                    tracing::info!(
                        "the database URL, or a file that it names, has changed: new connections use it"
                    );
                }
            }
            Err(error) => {
                let error = error.to_string();
                if state.refused.as_ref() != Some(&error) {
                    tracing::error!(error, "the new database URL is not used; the one before stays");
                    state.refused = Some(error);
                }
            }
        }
    }
}

/// Server and database.
fn place(connect: &PgConnectOptions) -> String {
    let database = connect.get_database().unwrap_or(connect.get_username());
    match connect.get_socket() {
        Some(socket) => format!("{}/{database}", socket.display()),
        None => format!("{}:{}/{database}", connect.get_host(), connect.get_port()),
    }
}

/// Warns of parameters without effect.
fn warn_of(ignored: &[String]) {
    for name in named(ignored) {
        tracing::warn!(name, "the database URL has a parameter that Crofter does not know, and ignores");
    }
}

/// Those that have the form of a parameter's name: others may be part of a password.
fn named(ignored: &[String]) -> impl Iterator<Item = &str> {
    let is_name = |name: &&str| {
        name.len() <= 32 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c == '-')
    };
    ignored.iter().map(String::as_str).filter(is_name)
}

#[cfg(test)]
mod tests;
