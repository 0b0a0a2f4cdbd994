//! Makes attacks and their twins, and judges the responses.

use std::{fmt, path::Path, time::Duration};

use axum::http::{Method, Uri};
use futures::{StreamExt, stream};
use http_body_util::BodyExt;
use kube::{Client, Config};
use serde_json::Value;
use tokio::time::Instant;

use super::{super::PAUSE, Attack, Site, Who, call::Call, fixtures::Fixtures};
/// Attacks at a time.
const AT_ONCE: usize = 8;
/// Time that one request may take.
const LIMIT: Duration = Duration::from_secs(20);
/// Characters of a response that are shown.
const SHOWN: usize = 300;

/// What became of an attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its wall refused it, and its twin was admitted.
    Refused,
    /// It got through.
    GotThrough,
    /// Something else refused it.
    RefusedOtherwise(String),
    /// The twin was refused, so that the refusal of the attack says nothing.
    TwinRefused(String),
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("refused"),
            Self::GotThrough => f.write_str("it GOT THROUGH"),
            Self::RefusedOtherwise(answer) => write!(f, "refused, but by something else: {answer}"),
            Self::TwinRefused(answer) => write!(f, "refused, as is what must be admitted: {answer}"),
        }
    }
}

/// What is attacked.
pub struct Targets<'a> {
    /// The API server, as an administrator who may impersonate.
    pub api_server: &'a Client,
    /// The REST API.
    pub rest: Option<&'a Client>,
    /// Names of the installation.
    pub site: &'a Site,
    /// What was created for the attacks.
    pub fixtures: &'a Fixtures,
}

/// A client of the REST API.
pub(super) fn rest_client(url: Option<&str>, authority: Option<&Path>) -> anyhow::Result<Option<Client>> {
    let Some(url) = url else { return Ok(None) };
    let mut config = Config::new(url.parse::<Uri>()?);
    config.root_cert_file = authority.map(Path::to_owned);
    Ok(Some(Client::try_from(config)?))
}

impl Targets<'_> {
    /// Whether the attack is on something that was given.
    #[must_use]
    pub fn reach(&self, attack: &Attack) -> bool {
        self.rest.is_some() || !attack.who.is_of_rest()
    }

    /// Waits until what was just created is in force everywhere: until the API server admits all twins, and the REST API knows
    /// each key for what it is. What is still otherwise after `limit` shows in the outcomes.
    pub async fn settle(&self, attacks: &[Attack], limit: Duration) {
        let end = Instant::now() + limit;
        let mut open: Vec<(Who, Call, u16)> = Vec::new();
        for (who, call) in attacks.iter().map(|attack| &attack.twin).filter(|(who, _)| !who.is_of_rest()) {
            let twin = (*who, call.clone(), 200);
            if !open.contains(&twin) {
                open.push(twin);
            }
        }
        let whoami = Call::rest(Method::GET, "/whoami", None);
        let keys = [
            (Who::Key, 200),
            (Who::KeyWithoutScopes, 200),
            (Who::KeyOfKeys, 200),
            (Who::NeighbourKey, 200),
            (Who::RevokedKey, 401),
            (Who::SuspendedKey, 403),
        ];
        let in_tenant = Call::rest(Method::GET, "/whoami?tenant={tenant}", None);
        let users = [(Who::AdminToken, 200), (Who::ViewerToken, 200), (Who::NeighbourToken, 403)];
        if self.rest.is_some() {
            open.extend(keys.map(|(who, code)| (who, whoami.clone(), code)));
            open.extend(users.map(|(who, code)| (who, in_tenant.clone(), code)));
        }
        loop {
            let mut left = Vec::new();
            for (who, call, code) in open {
                let is_as_expected = match self.ask(who, &call).await {
                    Ok((200..=299, _)) => code == 200,
                    Ok((other, _)) => other == code,
                    Err(_) => false,
                };
                if !is_as_expected {
                    left.push((who, call, code));
                }
            }
            if left.is_empty() || Instant::now() >= end {
                return;
            }
            open = left;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Makes the attacks, and after them each of their twins once: those of the REST API may end what the attacks are on.
    pub async fn run(&self, attacks: &[Attack]) -> Vec<Outcome> {
        let mut outcomes = self.attack(attacks).await;
        let mut twins: Vec<(Who, Call)> = Vec::new();
        for attack in attacks {
            if !twins.contains(&attack.twin) {
                twins.push(attack.twin.clone());
            }
        }
        // In order: that of a canceled job comes before that of a deleted one.
        let answers = stream::iter(&twins).map(|(who, call)| self.ask(*who, call)).buffered(1);
        let answers: Vec<_> = answers.collect().await;
        for (attack, outcome) in attacks.iter().zip(&mut outcomes) {
            let answer = twins.iter().position(|twin| *twin == attack.twin).and_then(|at| answers.get(at));
            if let Some(answer) = answer
                && *outcome == Outcome::Refused
                && !matches!(answer, Ok((200..=299, _)))
            {
                *outcome = Outcome::TwinRefused(shown(answer));
            }
        }
        outcomes
    }

    /// Makes the attacks without their twins.
    pub async fn attack(&self, attacks: &[Attack]) -> Vec<Outcome> {
        let each = stream::iter(attacks).map(|attack| async move {
            let answer = self.ask(attack.who, &attack.call).await;
            match &answer {
                Ok((code, words)) if *code == attack.code && words.contains(&attack.words) => {
                    Outcome::Refused
                }
                Ok((200..=299, _)) => Outcome::GotThrough,
                other => Outcome::RefusedOtherwise(shown(other)),
            }
        });
        each.buffered(AT_ONCE).collect().await
    }

    /// The status and the body of the response.
    async fn ask(&self, who: Who, call: &Call) -> Result<(u16, String), String> {
        let call = call.filled(&self.fixtures.ids);
        let headers = self.headers(who);
        let client = if who.is_of_rest() { self.rest.unwrap_or(self.api_server) } else { self.api_server };
        let exchange = async {
            let request = call.request(&headers).map_err(|error| error.to_string())?;
            let response = client.send(request).await.map_err(|error| error.to_string())?;
            let code = response.status().as_u16();
            let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
            Ok((code, words(&body.to_bytes())))
        };
        tokio::time::timeout(LIMIT, exchange).await.unwrap_or_else(|_| Err("no response in time".to_owned()))
    }

    /// The headers that make a request this client's.
    fn headers(&self, who: Who) -> Vec<(&'static str, String)> {
        if let Some((user, groups)) = who.user(self.site) {
            let groups = groups.into_iter().map(|group| ("impersonate-group", group));
            return [("impersonate-user", user)].into_iter().chain(groups).collect();
        }
        let token = self.fixtures.tokens.get(&who).map(|token| ("authorization", format!("Bearer {token}")));
        // A connection of its own: the server closes one after a body that is too long, and another request may be on it.
        let close = who.is_of_rest().then(|| ("connection", "close".to_owned()));
        token.into_iter().chain(close).collect()
    }
}

/// The message of an API server's refusal; any other body as it is.
fn words(body: &[u8]) -> String {
    let status: Option<Value> = serde_json::from_slice(body).ok();
    let message =
        status.as_ref().filter(|status| status["kind"] == "Status").map(|status| &status["message"]);
    match message.and_then(Value::as_str) {
        Some(message) => message.to_owned(),
        None => String::from_utf8_lossy(body).into_owned(),
    }
}

fn shown(answer: &Result<(u16, String), String>) -> String {
    match answer {
        Ok((code, body)) => format!("{code} {}", body.chars().take(SHOWN).collect::<String>()),
        Err(error) => error.clone(),
    }
}
