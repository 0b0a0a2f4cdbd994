//! The API key controller: gives each [`TenantApiKey`] a token in a Secret, and keeps in its status the hash by which
//! that token is recognised; rotates, restores and ends it.
//!
//! A reconcile has five steps, each in a module of its own: `dereference` and `secret` (the tenant, the peppers, the
//! Secret as it is), `validate`, the step that follows (`domain::api_key::lifecycle`; `build` makes the Secret),
//! `apply`, `status`.
//!
//! Guarantees: the token of a key is in its Secret, for a moment in this process's memory, and nowhere else; a Secret
//! that is not the key's is never changed; wherever the process is killed, the next one leaves a Secret that opens, and
//! at most two versions that do.

mod apply;
mod build;
mod dereference;
mod error;
mod invalid;
mod reconcile;
mod reconcile_state;
mod secret;
mod status;
mod triggers;
mod validate;
mod write_status;

#[cfg(test)]
mod tests;

use std::{future::Future, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future};
use kube::{
    Client,
    runtime::{
        Controller, controller,
        reflector::{Store, store::Writer},
    },
};
use tokio::sync::{mpsc, watch};

pub use error::Error;
pub use reconcile::{error_policy, reconcile};

use self::reconcile_state::ReconcileState;
use crate::{
    api_types::{Tenant, TenantApiKey},
    clock::Clock,
    config::Settings,
    keys::pepper,
    kube_ext::{
        controller::{Reconciler, log_errors},
        events::Events,
        invalid::{InvalidObjects, Meta, cache, split_invalid},
        streams::received,
        watch::{Change, synced_before, until_synced},
    },
    metrics::Metrics,
    random::Random,
};

/// Reconciles at once.
const CONCURRENCY: u16 = 8;
/// The longest delay after failures in a row.
const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// Room between the keys' watch and the two controllers.
const CHANNEL: usize = 64;

/// What the controller needs from the rest of the operator.
pub struct Dependencies {
    /// The API server.
    pub client: Client,
    /// All keys.
    pub keys: Store<TenantApiKey>,
    /// All tenants.
    pub tenants: Store<Tenant>,
    /// The peppers in force.
    pub peppers: watch::Receiver<pepper::State>,
    /// The operator's configuration.
    pub settings: Settings,
    /// The operator's own namespace.
    pub namespace: String,
    /// Where Events go.
    pub events: Events,
    /// The time of day.
    pub clock: Clock,
    /// What keys are made of.
    pub random: Random,
    /// Counters.
    pub metrics: Metrics,
}

/// What a reconcile works with.
pub struct Context {
    dependencies: Dependencies,
    invalid: InvalidObjects<TenantApiKey>,
    state: ReconcileState,
    reconciler: Reconciler,
}

fn reconciler(metrics: Metrics) -> Reconciler {
    Reconciler::new("api_key", metrics, LONGEST_DELAY)
}

/// What the controller listens to.
pub struct Inputs {
    /// Changes of keys.
    pub keys: mpsc::Receiver<Change<TenantApiKey>>,
    /// The same changes, for the keys that other keys have created.
    pub ancestors: mpsc::Receiver<Change<TenantApiKey>>,
    /// Changes of tenants.
    pub tenants: mpsc::Receiver<Change<Tenant>>,
}

/// Makes the context, and what writes its cache of keys that can't be read, which [`run`] consumes.
#[must_use]
pub fn prepare(dependencies: Dependencies) -> (Arc<Context>, Writer<Meta<TenantApiKey>>) {
    let (invalid, writer) = cache();
    let reconciler = reconciler(dependencies.metrics.clone());
    let context = Context { dependencies, invalid, state: ReconcileState::default(), reconciler };
    (Arc::new(context), writer)
}

/// Runs the controller until `shutdown`, and then until the reconciles in flight have finished.
pub async fn run(
    context: Arc<Context>,
    invalid: Writer<Meta<TenantApiKey>>,
    inputs: Inputs,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let shutdown = shutdown.boxed().shared();
    let (valid_sender, objects) = mpsc::channel(CHANNEL);
    let (invalid_sender, metas) = mpsc::channel(CHANNEL);
    let forgetful = Arc::clone(&context);
    let splitting = split_invalid(inputs.keys, invalid, valid_sender, invalid_sender, move |key| {
        forgetful.state.forget(key)
    });
    let Dependencies { keys, tenants, peppers, .. } = &context.dependencies;
    let controller = Controller::for_shared_stream(received(objects), keys.clone())
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .reconcile_on(triggers::tenants(inputs.tenants, keys.clone()))
        .reconcile_on(triggers::ancestors(inputs.ancestors, keys.clone()))
        .reconcile_all_on(crate::kube_ext::streams::replaced(peppers.clone()))
        .graceful_shutdown_on(shutdown.clone())
        .run(reconcile, error_policy, Arc::clone(&context))
        .for_each(log_errors);
    let second = Controller::for_shared_stream(received(metas), context.invalid.store())
        .graceful_shutdown_on(shutdown.clone())
        .run(
            invalid::reconcile,
            |key, error, context| context.reconciler.retry(&*key, error),
            Arc::clone(&context),
        )
        .for_each(log_errors);
    let whole = async { until_synced(keys).await && until_synced(tenants).await };
    let reconciles = async {
        if synced_before(whole, shutdown).await {
            future::join(controller, second).await;
        }
    };
    let endless = splitting.then(|_| future::pending::<()>());
    future::select(Box::pin(reconciles), Box::pin(endless)).await;
}
