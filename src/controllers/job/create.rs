//! The creation of an attempt's pod, and what each answer of the API server means.
//!
//! The admission is claimed first: what was taken back meanwhile makes no pod. A pod that was made a moment ago is not
//! made again. A pod of that name may be there already, made by an earlier try: then it is the job's own. Refusals that
//! pass by themselves cost the job nothing: it keeps its room for some quick tries, and then gives it back and waits.
//! Those that would come again end it.

use std::sync::Arc;

use kube::{ResourceExt, api::PostParams, runtime::controller::Action};

use super::{Context, Error, build, is_own, pods_api, settle};
use crate::{
    api_types::{Reason, Tenant},
    domain::{
        admission::Admission,
        job_flow::{self, View},
    },
    kube_ext::call::{within, within_opt},
};

/// Creates the pod of an admitted attempt, or says why there is none yet.
pub(super) async fn create(
    view: &View<'_>,
    tenant: &Tenant,
    admission: &Admission,
    context: &Context,
) -> Result<Action, Error> {
    let job = view.job;
    let uid = job.uid().unwrap_or_default();
    if let Some(left) = context.made.on_its_way(&uid, admission.attempt) {
        return Ok(Action::requeue(left));
    }
    let Some(admission) = context.board.claim(&uid, admission.attempt) else {
        return Ok(Action::await_change());
    };
    let scenarios = Arc::clone(&context.scenarios.borrow());
    let pod = match build::validate(job, tenant, &scenarios, job_flow::running_left(view)) {
        Ok(valid) => build::pod(&valid, &admission, &context.settings.gpu_resource),
        Err(refusal) => {
            let step = job_flow::refused(view, refusal.reason(), refusal.to_string());
            return settle(step, job, context).await;
        }
    };
    let name = pod.name_any();
    let api = pods_api(job, context);
    match within(format!("creating pod {name}"), api.create(&PostParams::default(), &pod)).await {
        Ok(_) => {
            context.made.put(&uid, admission.attempt);
            context.metrics.admitted();
            Ok(Action::await_change())
        }
        Err(error) if error.is_conflict() => {
            let existing = within_opt(format!("reading pod {name}"), api.get(&name)).await?;
            match existing {
                Some(pod) if is_own(&pod.metadata, job, context) => {
                    context.made.put(&uid, admission.attempt);
                    Ok(Action::await_change())
                }
                // A quota whose count was changed meanwhile answers with a conflict, too.
                None => Ok(try_again(&uid, &admission, &error.to_string(), context)),
                Some(_) => Err(Error::NameTaken(name)),
            }
        }
        Err(error) => match error.refusal() {
            Some(words) if refused_for_good(error.code(), words) => {
                let sentence = format!("the API server refuses the pod: {words}");
                settle(job_flow::refused(view, Reason::PodRefused, sentence), job, context).await
            }
            Some(words) if error.code() == Some(403) => {
                tracing::debug!(pod = name, words, "the pod was refused for the moment");
                Ok(try_again(&uid, &admission, words, context))
            }
            _ => Err(error.into()),
        },
    }
}

/// Asks the scheduler when to try again; where the admission is given back, the next one brings the job here.
fn try_again(job_uid: &str, admission: &Admission, words: &str, context: &Context) -> Action {
    context.metrics.pod_refused();
    match context.board.refused(job_uid, admission.attempt, words) {
        Some(wait) => Action::requeue(wait),
        None => Action::await_change(),
    }
}

/// Whether the same pod will be refused again: by its own form, and not by a quota, a missing account or a namespace
/// on its way out.
fn refused_for_good(code: Option<u16>, words: &str) -> bool {
    match code {
        Some(422 | 400) => true,
        Some(403) => words.contains("violates PodSecurity") || words.contains("ValidatingAdmissionPolicy"),
        _ => false,
    }
}
