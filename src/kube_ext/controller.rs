//! What each controller does around a reconcile: a span, metrics, an early retry after a conflict, and back-off after
//! any other failure.

use std::{error::Error, fmt::Debug, time::Duration};

use kube::{
    Resource, ResourceExt,
    runtime::{
        controller::{self, Action},
        reflector::ObjectRef,
        watcher,
    },
};
use tracing::Instrument;

use super::{CallError, backoff::Backoff};
use crate::metrics::Metrics;

/// The delay after a write that met a newer object. The watch delivers that object soon, mostly before.
pub const CONFLICT_REQUEUE: Duration = Duration::from_millis(500);

/// Why a reconcile failed.
pub trait ReconcileError: Error {
    /// A word from a closed list, for metrics.
    fn category(&self) -> &'static str;

    /// The object has changed meanwhile (409): nothing is wrong.
    fn is_conflict(&self) -> bool {
        self.category() == "conflict"
    }

    /// The failure may end by itself within seconds.
    fn is_transient(&self) -> bool {
        matches!(self.category(), "timeout" | "unreachable" | "throttled" | "server_error")
    }
}

impl ReconcileError for CallError {
    fn category(&self) -> &'static str {
        CallError::category(self)
    }
}

/// Runs the reconciles of one controller.
#[derive(Debug)]
pub struct Reconciler {
    name: &'static str,
    metrics: Metrics,
    backoff: Backoff,
}

impl Reconciler {
    /// A controller of this name in metrics, spans and logs. An object that fails is tried again after 1 s, and after
    /// twice the delay each time, up to `longest_delay`.
    #[must_use]
    pub fn new(name: &'static str, metrics: Metrics, longest_delay: Duration) -> Self {
        Self { name, metrics, backoff: Backoff::new(longest_delay) }
    }

    /// Runs one reconcile of an object in a span with its name and namespace, and counts it. A conflict is no error.
    ///
    /// # Errors
    /// Those of `reconcile` other than a conflict; they are for [`Self::retry`].
    pub async fn run<K, E>(
        &self,
        object: &K,
        reconcile: impl Future<Output = Result<Action, E>>,
    ) -> Result<Action, E>
    where
        K: Resource,
        E: ReconcileError,
    {
        let (name, namespace) = (object.name_any(), object.namespace());
        let span = tracing::info_span!("reconcile", controller = self.name, name, namespace);
        let begun = tokio::time::Instant::now();
        let result = reconcile.instrument(span.clone()).await;
        let outcome = result.as_ref().map_or_else(ReconcileError::category, |_| "ok");
        self.metrics.reconciled(self.name, outcome, begun.elapsed());
        match result {
            Ok(action) => {
                self.backoff.reset(&key(object));
                Ok(action)
            }
            Err(error) if error.is_conflict() => {
                span.in_scope(|| tracing::debug!(%error, "the object has changed meanwhile, will retry"));
                Ok(Action::requeue(CONFLICT_REQUEUE))
            }
            Err(error) => Err(error),
        }
    }

    /// When to try again after a failure, which is logged.
    pub fn retry<K: Resource>(&self, object: &K, error: &impl ReconcileError) -> Action {
        let delay = self.backoff.failed(&key(object));
        tracing::warn!(
            controller = self.name,
            name = object.name_any(),
            namespace = object.namespace(),
            category = error.category(),
            %error,
            ?delay,
            "reconcile failed, will retry"
        );
        Action::requeue(delay)
    }

    /// Failures of an object since the last success.
    #[must_use]
    pub fn failures<K: Resource>(&self, object: &K) -> u32 {
        self.backoff.count(&key(object))
    }
}

fn key<K: Resource>(object: &K) -> String {
    object.uid().unwrap_or_else(|| object.name_any())
}

/// Logs what a controller returns besides failed reconciles, which [`Reconciler::retry`] has logged. A trigger for an object
/// that does not exist any more means nothing.
pub async fn log_errors<K, E>(result: Result<(ObjectRef<K>, Action), controller::Error<E, watcher::Error>>)
where
    K: Resource,
    K::DynamicType: Debug + Eq + std::hash::Hash + Clone,
    E: Error + 'static,
{
    use controller::Error::{ObjectNotFound, ReconcilerFailed};
    match result {
        Ok(_) | Err(ReconcilerFailed(..) | ObjectNotFound(_)) => (),
        Err(error) => tracing::warn!(%error, "a trigger of a controller failed"),
    }
}

#[cfg(test)]
mod tests {
    use crate::api_types::Tenant;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed")]
    struct Failed(&'static str);

    impl ReconcileError for Failed {
        fn category(&self) -> &'static str {
            self.0
        }
    }

    fn tenant(name: &str) -> Tenant {
        Tenant::new(name, serde_json::from_value(serde_json::json!({"plan": "free"})).unwrap())
    }

    #[tokio::test]
    async fn a_conflict_is_retried_soon_and_failures_with_growing_delays() {
        let reconciler = Reconciler::new("tenant", Metrics::default(), Duration::from_secs(30));
        let acme = tenant("acme");
        let run = async |result: Result<Action, Failed>| reconciler.run(&acme, async { result }).await;
        assert_eq!(run(Err(Failed("conflict"))).await.unwrap(), Action::requeue(CONFLICT_REQUEUE));
        assert_eq!(reconciler.failures(&acme), 0, "a conflict is no failure");
        for n in 1..=3 {
            let error = run(Err(Failed("timeout"))).await.unwrap_err();
            reconciler.retry(&acme, &error);
            assert_eq!(reconciler.failures(&acme), n);
        }
        assert_eq!(reconciler.failures(&tenant("globex")), 0);
        run(Ok(Action::await_change())).await.unwrap();
        assert_eq!(reconciler.failures(&acme), 0);
        let text = reconciler.metrics.text().unwrap();
        for (result, count) in [("conflict", 1), ("timeout", 3), ("ok", 1)] {
            let line =
                format!(r#"crofter_reconciles_total{{controller="tenant",result="{result}"}} {count}"#);
            assert!(text.contains(&line), "{line} in {text}");
        }
    }
}
