//! One reconcile of a node: dereference, validate, build, apply, report.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Node;
use kube::{ResourceExt, runtime::controller::Action};

use super::{Context, apply, build, dereference::dereference, error::Error, live_reads, report};
use crate::domain::node_admission::{Step, Waiting};

/// How soon a node that waits for others to be released is reconciled again, if nothing changes before.
pub(super) const ROOM_INTERVAL: Duration = Duration::from_secs(10);

/// Takes the next step of one node.
///
/// # Errors
/// [`Error`] when a call to the API server failed; to be tried again after [`error_policy`].
pub async fn reconcile(node: Arc<Node>, context: Arc<Context>) -> Result<Action, Error> {
    context.reconciler.run(&*node, reconcile_node(&node, &context)).await
}

/// When to try again after a failure.
#[expect(clippy::needless_pass_by_value, reason = "the signature that a Controller asks for")]
pub fn error_policy(node: Arc<Node>, error: &Error, context: Arc<Context>) -> Action {
    context.reconciler.retry(&*node, error)
}

/// Dereferences, validates, builds, applies, and reports.
async fn reconcile_node(node: &Node, context: &Context) -> Result<Action, Error> {
    // 1. Dereference: the node, the nodes and quotas of its group, and the job pods on it.
    let Some(found) = dereference(&node.name_any(), context) else { return Ok(Action::await_change()) };
    // 2. Validate: the step that its group and quotas allow, and what only the API server knows for certain.
    let step = found.step();
    if live_reads::confirm(&found, &step, context).await? {
        // 3. Build: the one patch of the node. Pure.
        let change = build::change(&found, &step);
        // 4. Apply.
        let written = apply::apply(&found, change.as_ref(), context).await?;
        // 5. Report: a node has no status of ours, so Events have what has changed.
        report::report(&found, &step, change, written.as_ref(), context);
    }
    Ok(requeue(&step))
}

fn requeue(step: &Step) -> Action {
    match step {
        // Room may be made by an unanswered write that turns out not to have happened, which no watch delivers.
        Step::Wait(Waiting::Room) => Action::requeue(ROOM_INTERVAL),
        _ => Action::await_change(),
    }
}
