//! The Secret of the Postgres that the chart can install: its password, and the URL that contains it.
//!
//! A chart that makes a password renders another one each time. So the pod of Postgres creates the Secret before its server
//! starts, once: an existing Secret stays, as the password in the database does.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, api::PostParams, core::ObjectMeta};
use secrecy::{ExposeSecret, ExposeSecretMut, SecretSlice, SecretString};

use super::client_config;
use crate::{
    hex::hex,
    kube_ext::{CallError, within},
    random::{Random, Unavailable},
};

/// Bytes of a password; it has two hexadecimal digits for each.
const PASSWORD_LEN: usize = 24;
/// The user of Postgres and its database.
const USER: &str = "crofter";

/// The flags of `crofter database-secret`.
#[derive(Clone, Debug, clap::Args)]
pub struct DatabaseSecret {
    /// Namespace of the Secret.
    #[arg(long)]
    namespace: String,
    /// Name of the Secret.
    #[arg(long)]
    name: String,
    /// Host, and port where it is not 5432, of Postgres.
    #[arg(long)]
    host: String,
}

/// Why a process can't create the Secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system gives no randomness.
    #[error("failed to make a password: {0}")]
    Random(#[from] Unavailable),
    /// The API server refused.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// Creates the Secret of the cluster that the environment names; an existing Secret stays.
///
/// # Errors
/// The cluster is not found, the API server refuses, or the system has no randomness.
pub async fn database_secret(wanted: DatabaseSecret) -> anyhow::Result<()> {
    let client = Client::try_from(client_config().await?)?;
    let is_new = create(&client, &wanted, &Random::system()).await?;
    let DatabaseSecret { namespace, name, .. } = wanted;
    let done = if is_new { "created" } else { "exists, and stays as it is" };
    tracing::info!(namespace, name, "the Secret of the database {done}");
    Ok(())
}

/// Whether the Secret was created: false where it existed.
async fn create(client: &Client, wanted: &DatabaseSecret, random: &Random) -> Result<bool, Error> {
    let DatabaseSecret { namespace, name, host } = wanted;
    let mut bytes = SecretSlice::from(vec![0; PASSWORD_LEN]);
    random.fill(bytes.expose_secret_mut())?;
    let password = SecretString::from(hex(bytes.expose_secret()));
    let url = SecretString::from(format!("postgres://{USER}:{}@{host}/{USER}", password.expose_secret()));
    let data = [("password", password), ("url", url)]
        .map(|(key, value)| (key.to_owned(), ByteString(value.expose_secret().as_bytes().to_vec())));
    let secret = Secret {
        metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
        type_: Some("Opaque".to_owned()),
        data: Some(BTreeMap::from(data)),
        ..Secret::default()
    };
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let what = format!("failed to create Secret {name} in {namespace}");
    match within(what, api.create(&PostParams::default(), &secret)).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_conflict() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube_ext::mock::Fake;

    const AT: &str = "/api/v1/namespaces/crofter-system/secrets/crofter-postgres";

    fn wanted() -> DatabaseSecret {
        DatabaseSecret {
            namespace: "crofter-system".to_owned(),
            name: "crofter-postgres".to_owned(),
            host: "crofter-postgres.crofter-system.svc".to_owned(),
        }
    }

    fn filled_with(byte: u8) -> Random {
        Random::of(move |bytes| {
            bytes.fill(byte);
            Ok(())
        })
    }

    #[tokio::test]
    async fn the_password_is_random_in_the_url_and_made_once() {
        let fake = Fake::default();
        assert!(create(&fake.client(), &wanted(), &filled_with(7)).await.unwrap());
        let made = fake.get(AT);
        let secret: Secret = serde_json::from_value(made.clone()).unwrap();
        let data = secret.data.unwrap();
        let password = "07".repeat(PASSWORD_LEN);
        assert_eq!(data["password"].0, password.as_bytes());
        let url = format!("postgres://crofter:{password}@crofter-postgres.crofter-system.svc/crofter");
        assert_eq!(data["url"].0, url.as_bytes());
        assert!(!create(&fake.client(), &wanted(), &filled_with(8)).await.unwrap());
        assert_eq!(fake.get(AT), made);
    }

    #[tokio::test]
    async fn without_randomness_or_the_right_nothing_is_created() {
        let fake = Fake::default();
        let none = Random::of(|_| Err(Unavailable));
        assert!(matches!(create(&fake.client(), &wanted(), &none).await, Err(Error::Random(_))));
        fake.refuse("/api/v1/namespaces/crofter-system/secrets", 403);
        let error = create(&fake.client(), &wanted(), &filled_with(7)).await.unwrap_err().to_string();
        assert!(error.starts_with("failed to create Secret crofter-postgres in crofter-system: "), "{error}");
        assert!(fake.get(AT).is_null());
    }
}
