//! The client of the parts that run on the leader only: it refuses every request but reads while this process does not lead.
//!
//! The check comes right before a request is sent, each time that it is sent, so that a process that was frozen or suspended
//! with a request at hand writes nothing when it is woken.

use std::{
    future::ready,
    task::{self, Poll},
};

use axum::http::{Method, Request, Response};
use futures::{FutureExt, future::BoxFuture};
use kube::{
    Client,
    client::{Body, retry::RetryPolicy},
};
use tower::{BoxError, Service, ServiceBuilder, retry::RetryLayer};

use super::{call::NotLeader, lease::Leadership};

/// A client that sends with `client`, and writes only while this process leads. `client` must not repeat requests by itself:
/// this one repeats what is refused with 429, 503 or 504, and checks again each time.
#[must_use]
pub fn gated(client: Client, leadership: Leadership) -> Client {
    let namespace = client.default_namespace().to_owned();
    let service = ServiceBuilder::new()
        .layer(RetryLayer::new(RetryPolicy::server_retry()))
        .service(LeaderGate { client, leadership });
    Client::new(service, namespace)
}

#[derive(Clone)]
struct LeaderGate {
    client: Client,
    leadership: Leadership,
}

impl Service<Request<Body>> for LeaderGate {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if *request.method() != Method::GET && !self.leadership.leads() {
            return ready(Err(NotLeader.into())).boxed();
        }
        let client = self.client.clone();
        async move { client.send(request).await.map_err(Into::into) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{
        Api,
        api::{DeleteParams, Patch, PatchParams, PostParams},
    };
    use serde_json::json;

    use super::*;
    use crate::kube_ext::{lease::tests::Lab, mock, within};

    fn map() -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": "m"}})).unwrap()
    }

    #[tokio::test]
    async fn only_a_leader_writes_and_everyone_reads() {
        let (lab, fake) = (Lab::new(), mock::Fake::default());
        fake.put("/api/v1/namespaces/n/configmaps/m", json!({"metadata": {"name": "m"}}));
        let api: Api<ConfigMap> = Api::namespaced(gated(fake.client(), lab.leadership.clone()), "n");
        assert!(api.get("m").await.is_ok());
        let (post, patch) = (PostParams::default(), PatchParams::default());
        let (delete, change) = (DeleteParams::default(), json!({"data": {}}));
        let errors = [
            within("failed to create", api.create(&post, &map())).await.unwrap_err(),
            within("failed to replace", api.replace("m", &post, &map())).await.unwrap_err(),
            within("failed to patch", api.patch("m", &patch, &Patch::Merge(&change))).await.unwrap_err(),
            within("failed to delete", async { api.delete("m", &delete).await.map(|_| map()) })
                .await
                .unwrap_err(),
        ];
        for error in errors {
            assert_eq!(error.category(), "not_leader", "{error}");
            assert!(error.to_string().contains("this replica does not lead"), "{error}");
        }
        assert_eq!(mock::outline(&fake.calls()), ["GET /api/v1/namespaces/n/configmaps/m"]);

        lab.lead(10);
        assert!(api.patch("m", &patch, &Patch::Merge(&change)).await.is_ok());
        lab.pass(10);
        assert!(api.patch("m", &patch, &Patch::Merge(&change)).await.is_err(), "its time is over");
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_is_repeated_is_checked_each_time() {
        let (lab, asked) = (Lab::new(), Arc::new(AtomicU32::new(0)));
        lab.lead(10);
        let (count, clock) = (Arc::clone(&asked), lab.clone());
        let client = mock::client(move |_| {
            // The process is frozen while it waits to repeat the request.
            if count.fetch_add(1, Ordering::SeqCst) == 1 {
                clock.pass(11);
            }
            mock::refusal(429, "too many requests")
        });
        let api: Api<ConfigMap> = Api::namespaced(gated(client, lab.leadership.clone()), "n");
        let error = within("failed to create", api.create(&PostParams::default(), &map())).await.unwrap_err();
        assert_eq!(error.category(), "not_leader", "{error}");
        assert_eq!(asked.load(Ordering::SeqCst), 2);
    }
}
