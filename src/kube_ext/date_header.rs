//! A client that sets [`ServerTime`] by the `Date` of each answer.

use std::task::{self, Poll};

use axum::http::{HeaderMap, Request, Response, header};
use futures::{FutureExt, future::BoxFuture};
use jiff::{Timestamp, fmt::rfc2822::DateTimeParser};
use kube::{Client, client::Body};
use tower::{BoxError, Service};

use crate::clock::ServerTime;

/// A client that sends with `client`, and reads the `Date` of each answer.
#[must_use]
pub fn timed(client: Client, time: ServerTime) -> Client {
    let namespace = client.default_namespace().to_owned();
    Client::new(Timed { client, time }, namespace)
}

#[derive(Clone)]
struct Timed {
    client: Client,
    time: ServerTime,
}

impl Service<Request<Body>> for Timed {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { client, time } = self.clone();
        async move {
            let sent = time.sent();
            let response = client.send(request).await?;
            // Errors of a server may be those of a proxy, which has a clock of its own.
            if let Some(date) = date(response.headers()).filter(|_| !response.status().is_server_error()) {
                time.answered(date, sent);
            }
            Ok(response)
        }
        .boxed()
    }
}

fn date(headers: &HeaderMap) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(headers.get(header::DATE)?.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{Api, api::PostParams};

    use super::*;
    use crate::kube_ext::{leader_gate::gated, lease::tests::Lab, mock::Fake, within};

    #[tokio::test]
    async fn an_error_of_the_client_below_stays_what_it_is() {
        let (lab, fake) = (Lab::new(), Fake::default());
        let time = ServerTime::new(crate::clock::Clock::system());
        let client = timed(gated(fake.client(), lab.leadership.clone()), time);
        let api: Api<ConfigMap> = Api::namespaced(client, "n");
        let (post, map) = (PostParams::default(), ConfigMap::default());
        let error = within("failed to create", api.create(&post, &map)).await.unwrap_err();
        assert_eq!(error.category(), "not_leader", "{error}");
        let error = within("failed to read", api.get("m")).await.unwrap_err();
        assert!(error.is_not_found(), "{error}");
    }

    #[test]
    fn a_date_is_read_as_servers_write_it() {
        let of = |value: &str| date(&[(header::DATE, value.parse().unwrap())].into_iter().collect());
        assert_eq!(of("Tue, 29 Sep 2026 10:00:01 GMT"), Some("2026-09-29T10:00:01Z".parse().unwrap()));
        for wrong in ["", "now", "2026-09-29T10:00:01Z", "Tue, 31 Sep 2026 10:00:01 GMT"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(date(&HeaderMap::new()), None);
    }
}
