//! The peppers: stored in one Secret of the operator's namespace, apart from the keys that are hashed with them.
//!
//! Its entries are `v1`, `v2` and so on; the two newest are in force. The first process that needs the Secret creates it,
//! from the operating system's randomness. Without the peppers every key would be void, so the last valid peppers stay in
//! force when the Secret becomes unreadable, and each replica of the operator that has them recreates a deleted Secret. To
//! retire a pepper, an administrator adds a newer one and later removes the old one.

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

/// Time between attempts to recreate a deleted Secret.
const RECREATE_RETRY: Duration = Duration::from_secs(5);

/// The state of the peppers.
#[derive(Clone, Debug)]
pub enum State {
    /// The first list is not complete.
    Pending,
    /// The Secret does not exist.
    Absent,
    /// The Secret has no valid pepper, for this reason.
    Unusable(NoPepper),
    /// These are in force.
    InForce(Arc<Peppers>),
}

/// Why a process can't create a pepper.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system gives no randomness.
    #[error("failed to make a pepper: {0}")]
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

/// Creates the Secret with a first pepper; an existing Secret stays.
///
/// # Errors
/// [`Error`].
pub async fn create(client: &Client, namespace: &str, random: &Random) -> Result<(), Error> {
    let mut pepper = SecretSlice::from(vec![0; PEPPER_LEN]);
    random.fill(pepper.expose_secret_mut())?;
    create_secret(client, namespace, [(PepperVersion(1), &pepper)]).await?;
    tracing::info!(namespace, name = names::PEPPER_SECRET, "created a pepper for API keys");
    Ok(())
}

async fn create_secret<'a>(
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

/// The peppers in a Secret. An invalid entry is ignored, so that a mistake in one does not void all keys.
///
/// # Errors
/// [`NoPepper`] where no entry is valid.
pub fn read(secret: &Secret) -> Result<Peppers, NoPepper> {
    let entries: BTreeMap<_, _> = secret.data.iter().flatten().collect();
    let mut first = NoPepper::Absent;
    let good = entries.into_iter().filter_map(|(name, value)| {
        let version = name.parse().and_then(|version: PepperVersion| {
            if value.0.len() < PEPPER_LEN { Err(NoPepper::Short) } else { Ok(version) }
        });
        if let Err(why) = version {
            tracing::warn!(entry = name, %why, "ignored an invalid entry of the Secret of peppers");
            first = why;
        }
        Some((version.ok()?, SecretSlice::from(value.0.clone())))
    });
    let good: Vec<_> = good.collect();
    if good.is_empty() { Err(first) } else { Peppers::new(good) }
}

/// Keeps `state` up to date, and with a `client` recreates a deleted Secret. Ends when the watch does.
pub async fn follow(
    client: Option<Client>,
    namespace: String,
    mut changes: mpsc::Receiver<Change<Secret>>,
    state: watch::Sender<State>,
) {
    let mut missing = false;
    loop {
        let change = match tokio::time::timeout(RECREATE_RETRY, changes.recv()).await {
            Ok(Some(change)) => Some(change),
            Ok(None) => return,
            Err(_) => None,
        };
        if let Some(change) = change {
            missing = apply(&change, &state, missing);
        }
        let in_force = match &*state.borrow() {
            State::InForce(peppers) if missing => Some(Arc::clone(peppers)),
            _ => None,
        };
        if let (Some(client), Some(peppers)) = (&client, in_force) {
            match create_secret(client, &namespace, peppers.iter()).await {
                Ok(()) => missing = false,
                Err(error) => tracing::error!(%error, "failed to recreate the Secret of peppers"),
            }
        }
    }
}

/// Applies a change that the watch delivers; whether the Secret is missing then.
fn apply(change: &Change<Secret>, state: &watch::Sender<State>, missing: bool) -> bool {
    match change {
        Change::Applied(secret) => {
            let read = read(secret);
            let keeps = matches!(&*state.borrow(), State::InForce(_));
            match read {
                Ok(peppers) => {
                    tracing::info!(versions = ?peppers, "peppers in force");
                    state.send_replace(State::InForce(Arc::new(peppers)));
                }
                Err(why) if keeps => {
                    tracing::error!(%why, "the Secret of peppers is invalid; the last valid peppers stay in force");
                }
                Err(why) => drop(state.send_replace(State::Unusable(why))),
            }
            false
        }
        Change::Deleted(_) => {
            tracing::error!(
                "the Secret of peppers was deleted; the operator recreates it from the peppers in force"
            );
            if !matches!(&*state.borrow(), State::InForce(_)) {
                state.send_replace(State::Absent);
            }
            true
        }
        Change::Synced => {
            state.send_if_modified(|state| {
                let is_first = matches!(state, State::Pending);
                if is_first {
                    *state = State::Absent;
                }
                is_first
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
    fn invalid_entries_are_ignored() {
        let peppers = read(&secret(json!({"v1": good("A"), "v2": good("E"), "V3": good("I"), "v4": "AAAA"})));
        let versions: Vec<u32> = peppers.unwrap().versions().map(|v| v.0).collect();
        assert_eq!(versions, [2, 1]);
        assert_eq!(read(&secret(json!({"v1": "AAAA"}))).unwrap_err(), NoPepper::Short);
        assert_eq!(read(&secret(json!({}))).unwrap_err(), NoPepper::Absent);
    }

    #[tokio::test]
    async fn a_first_pepper_is_random_and_an_existing_one_stays() {
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
    async fn valid_peppers_stay_in_force_and_are_recreated() {
        let fake = Fake::default();
        let (sender, changes) = mpsc::channel(8);
        let (state, mut receiver) = watch::channel(State::Pending);
        let run = tokio::spawn(follow(Some(fake.client()), "crofter-system".into(), changes, state));
        sender.send(Change::Synced).await.unwrap();
        receiver.wait_for(|known| matches!(known, State::Absent)).await.unwrap();
        let both = secret(json!({"v1": good("A"), "v2": good("E")}));
        sender.send(Change::Applied(Arc::clone(&both))).await.unwrap();
        receiver.wait_for(|known| matches!(known, State::InForce(_))).await.unwrap();
        sender.send(Change::Applied(secret(json!({})))).await.unwrap();
        // Refused at first, as in a namespace that does not exist.
        fake.refuse("/api/v1/namespaces/crofter-system/secrets", 404);
        sender.send(Change::Deleted(Arc::clone(&both))).await.unwrap();
        tokio::time::sleep(RECREATE_RETRY / 2).await;
        fake.refuse("/api/v1/namespaces/crofter-system/secrets", 0);
        tokio::time::sleep(RECREATE_RETRY * 2).await;
        assert_eq!(fake.get(AT)["data"], json!({"v1": good("A"), "v2": good("E")}));
        assert!(matches!(&*receiver.borrow(), State::InForce(peppers) if peppers.newest().0 == 2));
        run.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_client_valid_peppers_stay_in_force_and_changes_are_still_followed() {
        let (sender, changes) = mpsc::channel(8);
        let (state, mut receiver) = watch::channel(State::Pending);
        let run = tokio::spawn(follow(None, "crofter-system".into(), changes, state));
        let first = secret(json!({"v1": good("A")}));
        sender.send(Change::Applied(Arc::clone(&first))).await.unwrap();
        receiver.wait_for(|known| matches!(known, State::InForce(_))).await.unwrap();
        sender.send(Change::Deleted(first)).await.unwrap();
        tokio::time::sleep(RECREATE_RETRY * 2).await;
        assert!(matches!(&*receiver.borrow(), State::InForce(peppers) if peppers.newest().0 == 1));
        sender.send(Change::Applied(secret(json!({"v1": good("A"), "v2": good("E")})))).await.unwrap();
        let newest = receiver.wait_for(|known| matches!(known, State::InForce(p) if p.newest().0 == 2)).await;
        assert!(newest.is_ok());
        run.abort();
    }
}
