//! The peppers: kept in one Secret of the operator's namespace, apart from the keys that are hashed with them.
//!
//! Its entries are `v1`, `v2` and so on; the two newest are in force. It is made by whoever needs it first, from the
//! operating system's randomness. Without the peppers every key would be void, so what was once read stays in force when
//! the Secret becomes unreadable, and a Secret that was deleted is put back by each process that still knows it. To
//! retire a pepper, an administrator adds a newer one and later takes the old one away.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{Api, Client, api::PostParams, core::ObjectMeta, runtime::watcher};
use secrecy::{ExposeSecret, ExposeSecretMut, SecretSlice};
use tokio::sync::{mpsc, watch};

use crate::{
    domain::api_key::{
        PepperVersion, Peppers,
        mac::{NoPepper, PEPPER_LEN},
    },
    kube_ext::{
        CallError,
        watch::{Change, Watch},
        within,
    },
    names,
    random::{Random, Unavailable},
};

/// When to try again to put a deleted Secret back.
const RETRY: Duration = Duration::from_secs(5);

/// What is known of the peppers.
#[derive(Clone, Debug)]
pub enum Known {
    /// Nothing yet.
    Nothing,
    /// There is no Secret.
    Absent,
    /// The Secret holds no pepper; with the reason.
    Unusable(NoPepper),
    /// These are in force.
    InForce(Arc<Peppers>),
}

/// Why there is no pepper.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No randomness.
    #[error("making a pepper: {0}")]
    Random(#[from] Unavailable),
    /// The API server refused.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// The watch of the one Secret.
#[must_use]
pub fn watch(client: &Client, namespace: &str) -> Watch<Secret> {
    let one = watcher::Config::default().fields(&format!("metadata.name={}", names::PEPPER_SECRET));
    Watch::new(Api::namespaced(client.clone(), namespace), one)
}

/// Makes the Secret with a first pepper; one that is there stays.
///
/// # Errors
/// [`Error`].
pub async fn create(client: &Client, namespace: &str, random: &Random) -> Result<(), Error> {
    let mut pepper = SecretSlice::from(vec![0; PEPPER_LEN]);
    random.fill(pepper.expose_secret_mut())?;
    put(client, namespace, [(PepperVersion(1), &pepper)]).await?;
    tracing::info!(namespace, name = names::PEPPER_SECRET, "a pepper for API keys was made");
    Ok(())
}

async fn put<'a>(
    client: &Client,
    namespace: &str,
    peppers: impl IntoIterator<Item = (PepperVersion, &'a SecretSlice<u8>)>,
) -> Result<(), CallError> {
    let entry = |(version, pepper): (PepperVersion, &SecretSlice<u8>)| {
        (version.to_string(), ByteString(pepper.expose_secret().to_vec()))
    };
    let labels = [(names::LABEL_MANAGED_BY.to_owned(), names::MANAGER.to_owned())];
    let secret = Secret {
        metadata: ObjectMeta {
            name: Some(names::PEPPER_SECRET.to_owned()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        type_: Some("Opaque".to_owned()),
        data: Some(peppers.into_iter().map(entry).collect()),
        ..Secret::default()
    };
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let what = format!("failed to create Secret {} in {namespace}", names::PEPPER_SECRET);
    match within(what, api.create(&PostParams::default(), &secret)).await {
        Err(error) if error.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

/// The peppers in a Secret. An entry that is none is passed over, so that a slip shuts nobody out.
///
/// # Errors
/// [`NoPepper`] when there is no good one.
pub fn read(secret: &Secret) -> Result<Peppers, NoPepper> {
    let entries: BTreeMap<_, _> = secret.data.iter().flatten().collect();
    let mut first = NoPepper::Absent;
    let good = entries.into_iter().filter_map(|(name, value)| {
        let version = name.parse().and_then(|version: PepperVersion| {
            if value.0.len() < PEPPER_LEN { Err(NoPepper::Short) } else { Ok(version) }
        });
        if let Err(why) = version {
            tracing::warn!(entry = name, %why, "an entry of the Secret of peppers is passed over");
            first = why;
        }
        Some((version.ok()?, SecretSlice::from(value.0.clone())))
    });
    let good: Vec<_> = good.collect();
    if good.is_empty() { Err(first) } else { Peppers::new(good) }
}

/// Keeps `known` up to date, and puts a deleted Secret back. Ends when the watch does.
pub async fn follow(
    client: Client,
    namespace: String,
    mut changes: mpsc::Receiver<Change<Secret>>,
    known: watch::Sender<Known>,
) {
    let mut missing = false;
    loop {
        let change = match tokio::time::timeout(RETRY, changes.recv()).await {
            Ok(Some(change)) => Some(change),
            Ok(None) => return,
            Err(_) => None,
        };
        if let Some(change) = change {
            missing = take(&change, &known, missing);
        }
        let in_force = match &*known.borrow() {
            Known::InForce(peppers) if missing => Some(Arc::clone(peppers)),
            _ => None,
        };
        if let Some(peppers) = in_force {
            match put(&client, &namespace, peppers.iter()).await {
                Ok(()) => missing = false,
                Err(error) => tracing::error!(%error, "the Secret of peppers is gone and can't be put back"),
            }
        }
    }
}

/// Takes in what the watch tells; whether the Secret is missing then.
fn take(change: &Change<Secret>, known: &watch::Sender<Known>, missing: bool) -> bool {
    match change {
        Change::Applied(secret) => {
            let read = read(secret);
            let keeps = matches!(&*known.borrow(), Known::InForce(_));
            match read {
                Ok(peppers) => {
                    tracing::info!(versions = ?peppers, "peppers in force");
                    known.send_replace(Known::InForce(Arc::new(peppers)));
                }
                Err(why) if keeps => {
                    tracing::error!(%why, "the Secret of peppers can't be used; those read before stay in force");
                }
                Err(why) => drop(known.send_replace(Known::Unusable(why))),
            }
            false
        }
        Change::Deleted(_) => {
            tracing::error!("the Secret of peppers was deleted; it is put back while they are known");
            if !matches!(&*known.borrow(), Known::InForce(_)) {
                known.send_replace(Known::Absent);
            }
            true
        }
        Change::Synced => {
            known.send_if_modified(|known| {
                let first = matches!(known, Known::Nothing);
                if first {
                    *known = Known::Absent;
                }
                first
            });
            missing
        }
        Change::Invalid(_) => missing,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kube_ext::mock::Fake;

    const AT: &str = "/api/v1/namespaces/crofter-system/secrets/crofter-pepper";

    fn secret(data: Value) -> Arc<Secret> {
        let whole = json!({"metadata": {"name": "crofter-pepper"}, "data": data});
        Arc::new(serde_json::from_value(whole).unwrap())
    }

    /// 32 bytes, in base64.
    fn good(letter: &str) -> String {
        format!("{}=", letter.repeat(43))
    }

    #[test]
    fn entries_that_are_no_pepper_are_passed_over() {
        let peppers = read(&secret(json!({"v1": good("A"), "v2": good("E"), "V3": good("I"), "v4": "AAAA"})));
        let versions: Vec<u32> = peppers.unwrap().versions().map(|v| v.0).collect();
        assert_eq!(versions, [2, 1]);
        assert_eq!(read(&secret(json!({"v1": "AAAA"}))).unwrap_err(), NoPepper::Short);
        assert_eq!(read(&secret(json!({}))).unwrap_err(), NoPepper::Absent);
    }

    #[tokio::test]
    async fn a_first_pepper_is_random_and_one_that_is_there_stays() {
        let fake = Fake::default();
        let random = |byte: u8| {
            Random::of(move |bytes| {
                bytes.fill(byte);
                Ok(())
            })
        };
        create(&fake.client(), "crofter-system", &random(7)).await.unwrap();
        let made = fake.get(AT);
        let made: Secret = serde_json::from_value(made).unwrap();
        assert_eq!(made.data.unwrap()["v1"].0, [7; 32]);
        create(&fake.client(), "crofter-system", &random(8)).await.unwrap();
        let kept: Secret = serde_json::from_value(fake.get(AT)).unwrap();
        assert_eq!(kept.data.unwrap()["v1"].0, [7; 32]);
        let none = Random::of(|_| Err(Unavailable));
        assert!(matches!(create(&fake.client(), "x", &none).await, Err(Error::Random(_))));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_read_stays_in_force_and_is_put_back() {
        let fake = Fake::default();
        let (sender, changes) = mpsc::channel(8);
        let (known, mut receiver) = watch::channel(Known::Nothing);
        let run = tokio::spawn(follow(fake.client(), "crofter-system".into(), changes, known));
        sender.send(Change::Synced).await.unwrap();
        receiver.wait_for(|known| matches!(known, Known::Absent)).await.unwrap();
        let both = secret(json!({"v1": good("A"), "v2": good("E")}));
        sender.send(Change::Applied(Arc::clone(&both))).await.unwrap();
        receiver.wait_for(|known| matches!(known, Known::InForce(_))).await.unwrap();
        sender.send(Change::Applied(secret(json!({})))).await.unwrap();
        // Refused at first, as in a namespace that is not there.
        fake.refuse("/api/v1/namespaces/crofter-system/secrets", 404);
        sender.send(Change::Deleted(Arc::clone(&both))).await.unwrap();
        tokio::time::sleep(RETRY / 2).await;
        fake.refuse("/api/v1/namespaces/crofter-system/secrets", 0);
        tokio::time::sleep(RETRY * 2).await;
        assert_eq!(fake.get(AT)["data"], json!({"v1": good("A"), "v2": good("E")}));
        assert!(matches!(&*receiver.borrow(), Known::InForce(peppers) if peppers.newest().0 == 2));
        run.abort();
    }
}
