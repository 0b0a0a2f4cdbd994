//! Ways into the cluster: clients, other people's credentials, and the real kubectl and helm.

use std::{
    ffi::OsStr,
    io,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    authorization::v1::{ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec},
    core::v1::ServiceAccount,
};
use kube::{
    Api, Client, Config,
    api::PostParams,
    client::{Body, ClientBuilder, DynBody},
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use tower::util::BoxService;

use crate::{
    cluster::{Cluster, Error as ClusterError},
    pki::Credentials,
    wait,
};

/// Why the API server could not be reached, or credentials for it not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A client configuration is not one.
    #[error("reading the client configuration {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KubeconfigError,
    },
    /// A client could not be made.
    #[error("making a client")]
    Client(#[source] kube::Error),
    /// The API server gave no token.
    #[error("requesting a token for the service account {namespace}/{name}")]
    Token {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the API server said; `None` if it answered without one.
        source: Option<kube::Error>,
    },
    /// A command could not be run.
    #[error("running {program}")]
    Run {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// What a client's builder holds: a service with its types erased.
pub(crate) type GenericService =
    BoxService<http::Request<Body>, http::Response<Box<DynBody>>, tower::BoxError>;

/// A client with the given configuration, bound to the caller's runtime.
pub(crate) async fn client(kubeconfig: &Path) -> Result<Client, Error> {
    Client::try_from(config(kubeconfig).await?).map_err(Error::Client)
}

async fn config(kubeconfig: &Path) -> Result<Config, Error> {
    let unreadable = |source| Error::Kubeconfig { path: kubeconfig.to_owned(), source };
    let read = Kubeconfig::read_from(kubeconfig).map_err(unreadable)?;
    Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(unreadable)
}

/// Fails unless the API server says that it is ready.
pub(crate) async fn is_ready(client: &Client) -> Result<(), kube::Error> {
    let request = http::Request::get("/readyz").body(Vec::new()).map_err(kube::Error::HttpError)?;
    client.request_text(request).await.map(drop)
}

/// Fails unless the API server lets whoever asks bind pods to nodes.
pub(crate) async fn may_bind(client: &Client) -> Result<(), String> {
    let binding = ResourceAttributes {
        verb: Some("create".to_owned()),
        resource: Some("pods".to_owned()),
        subresource: Some("binding".to_owned()),
        ..ResourceAttributes::default()
    };
    let review = SelfSubjectAccessReview {
        spec: SelfSubjectAccessReviewSpec {
            resource_attributes: Some(binding),
            ..SelfSubjectAccessReviewSpec::default()
        },
        ..SelfSubjectAccessReview::default()
    };
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let answer = reviews.create(&PostParams::default(), &review).await.map_err(|error| error.to_string())?;
    match answer.status {
        Some(status) if status.allowed => Ok(()),
        refused => Err(format!("{refused:?}")),
    }
}

impl Cluster {
    /// An administrator's client. Make one per runtime: a client dies with the runtime it was made in.
    ///
    /// # Errors
    /// When the client configuration cannot be used.
    pub async fn client(&self) -> Result<Client, ClusterError> {
        self.client_for(self.kubeconfig()).await
    }

    /// The builder of an administrator's client.
    pub(crate) async fn client_builder(&self) -> Result<ClientBuilder<GenericService>, ClusterError> {
        let config = config(self.kubeconfig()).await?;
        Ok(ClientBuilder::try_from(config).map_err(Error::Client)?)
    }

    /// A client with another client configuration.
    ///
    /// # Errors
    /// When the client configuration cannot be used.
    pub async fn client_for(&self, kubeconfig: &Path) -> Result<Client, ClusterError> {
        Ok(client(kubeconfig).await?)
    }

    /// Waits until the API server says that it is ready.
    ///
    /// # Errors
    /// When it does not within the deadline.
    pub async fn wait_for_api(&self, deadline: Duration) -> Result<(), ClusterError> {
        let client = self.client().await?;
        Ok(wait::until(deadline, "the API server to be ready", async || is_ready(&client).await).await?)
    }

    /// The client configuration of a user with a client certificate, who may do what RBAC gives that name and those
    /// groups: nothing to begin with.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn kubeconfig_for_user(&self, name: &str, groups: &[&str]) -> Result<PathBuf, ClusterError> {
        Ok(self.plane().user(self.pki(), &file_name(&["user", name]), name, groups)?)
    }

    /// The client configuration of an existing service account, with a token that lives a day.
    ///
    /// # Errors
    /// When there is no such service account, or a file cannot be written.
    pub async fn kubeconfig_for_service_account(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<PathBuf, ClusterError> {
        let failed = |source| Error::Token { namespace: namespace.to_owned(), name: name.to_owned(), source };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let request = TokenRequest {
            spec: TokenRequestSpec { expiration_seconds: Some(24 * 3600), ..TokenRequestSpec::default() },
            ..TokenRequest::default()
        };
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await
            .map_err(|error| failed(Some(error)))?;
        let token = answer.status.ok_or_else(|| failed(None))?.token;
        let path = self.plane().kubeconfig_path(&file_name(&["service-account", namespace, name]));
        self.pki().write_kubeconfig(&path, self.api_url(), &Credentials::Token(&token))?;
        Ok(path)
    }

    /// Runs the real kubectl as an administrator.
    ///
    /// # Errors
    /// When it cannot be run; that it failed is in the output's status.
    pub async fn kubectl<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Output, ClusterError> {
        self.run("kubectl", args).await
    }

    /// Runs the real helm as an administrator.
    ///
    /// # Errors
    /// When it cannot be run; that it failed is in the output's status.
    pub async fn helm<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Output, ClusterError> {
        self.run("helm", args).await
    }

    async fn run<A: AsRef<OsStr>>(
        &self,
        name: &str,
        args: impl IntoIterator<Item = A>,
    ) -> Result<Output, ClusterError> {
        let program = self.tools.path(name)?;
        let home = self.dir().join("home");
        let mut command = tokio::process::Command::new(&program);
        command.args(args).env("KUBECONFIG", self.kubeconfig()).kill_on_drop(true);
        // Caches and settings of the user's own must not decide what a test sees.
        command.env("HOME", &home).env("KUBECACHEDIR", home.join("kube-cache"));
        for (variable, dir) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, home.join("helm").join(dir));
        }
        Ok(command.output().await.map_err(|source| Error::Run { program, source })?)
    }
}

/// Names of users may hold anything; names of files may not.
fn file_name(parts: &[&str]) -> String {
    parts.join("-").replace(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '.', "_")
}
