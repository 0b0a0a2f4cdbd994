//! The creation of an attempt's pod, and what each answer of the API server means.
//!
//! The admission is claimed first: no pod is created for one that was withdrawn meanwhile. A pod that was created just
//! now is not created again. A pod of that name may exist already, from an earlier try: then it is the job's own. What
//! a refusal means is `domain::pod_create`'s table.

use std::sync::Arc;

use kube::{ResourceExt, api::PostParams, runtime::controller::Action};

use super::{
    Context,
    api::{is_own, pods_api},
    build,
    error::Error,
    outcome::Outcome,
    validate,
};
use crate::{
    api_types::{Reason, Tenant},
    domain::{
        admission::Admission,
        job_flow::{self, View},
        pod_create::{self, Answer, Meaning},
    },
    kube_ext::{
        CallError,
        call::{within, within_opt},
    },
};

/// Creates the pod of an admitted attempt, or says why there is none yet.
pub(super) async fn create(
    view: &View<'_>,
    tenant: &Tenant,
    admission: &Admission,
    context: &Context,
) -> Result<Outcome, Error> {
    let job = view.job;
    let uid = job.uid().unwrap_or_default();
    if let Some(left) = context.expectations.pending_for(&uid, admission.attempt) {
        return Ok(Outcome::Done(Action::requeue(left)));
    }
    let Some(admission) = context.scheduler.claim(&uid, admission.attempt) else {
        return Ok(Outcome::Done(Action::await_change()));
    };
    let scenarios = Arc::clone(&context.scenarios.borrow());
    let pod = match validate::validate(job, tenant, &scenarios, job_flow::running_left(view)) {
        Ok(valid) => build::pod(&valid, &admission, &context.settings),
        Err(refusal) => {
            return Ok(job_flow::refused(view, refusal.reason(), refusal.to_string()).into());
        }
    };
    let namespace = job.namespace().unwrap_or_default();
    let _leave = match context.outages.enter(&namespace) {
        Ok(leave) => leave,
        Err(message) => return Ok(give_back(&uid, &admission, Meaning::GiveBack, message, context)),
    };
    let name = pod.name_any();
    let api = pods_api(job, context);
    match within(format!("failed to create Pod {name}"), api.create(&PostParams::default(), &pod)).await {
        Ok(_) => {
            context.outages.report(&namespace, None);
            context.expectations.put(&uid, admission.attempt);
            context.metrics.pod_created();
            Ok(Outcome::Done(Action::await_change()))
        }
        Err(error) if error.is_conflict() => {
            context.outages.report(&namespace, None);
            let existing = within_opt(format!("failed to read Pod {name}"), api.get(&name)).await;
            match existing.map_err(|source| Error::ReadPod { pod: name.clone(), source })? {
                Some(pod) if is_own(&pod.metadata, job, context) => {
                    context.expectations.put(&uid, admission.attempt);
                    Ok(Outcome::Done(Action::await_change()))
                }
                // A quota whose count was changed meanwhile answers with a conflict, too.
                None => Ok(refused(view, &admission, &error, context)),
                Some(_) => {
                    let message =
                        format!("the pod name {name} is taken by a pod of another owner: delete that pod");
                    Ok(give_back(&uid, &admission, Meaning::GiveBack, message, context))
                }
            }
        }
        Err(error) => Ok(refused(view, &admission, &error, context)),
    }
}

/// What comes of a pod that was not created.
fn refused(view: &View<'_>, admission: &Admission, error: &CallError, context: &Context) -> Outcome {
    let answer = answer(error);
    let meaning = pod_create::meaning(&answer);
    let message = pod_create::message(&answer, meaning);
    let job = view.job;
    let outage =
        Some(message.as_str()).filter(|_| pod_create::is_outage(&answer) && meaning != Meaning::Keep);
    context.outages.report(&job.namespace().unwrap_or_default(), outage);
    match meaning {
        Meaning::Final => job_flow::refused(view, Reason::PodRefused, message).into(),
        Meaning::Keep => {
            tracing::warn!(job = job.name_any(), namespace = job.namespace(), %error, "failed to create a pod, will retry");
            try_again(&job.uid().unwrap_or_default(), admission, meaning, message, context)
        }
        Meaning::TryAgain | Meaning::GiveBack => {
            let uid = job.uid().unwrap_or_default();
            give_back(&uid, admission, meaning, message, context)
        }
    }
}

fn answer(error: &CallError) -> Answer<'_> {
    match (error, error.code(), error.refusal()) {
        (CallError::Timeout { .. }, ..) => Answer::Timeout,
        (_, Some(code), Some(words)) => Answer::Refused { code, words },
        _ => Answer::Unreachable,
    }
}

/// Has the scheduler give the admission back, or try again soon.
fn give_back(
    job_uid: &str,
    admission: &Admission,
    meaning: Meaning,
    message: String,
    context: &Context,
) -> Outcome {
    context.metrics.pod_refused();
    tracing::debug!(job_uid, message, "a pod was refused for the moment");
    try_again(job_uid, admission, meaning, message, context)
}

/// Asks the scheduler when to try again; where the admission is given back, the next one brings the job here.
fn try_again(
    job_uid: &str,
    admission: &Admission,
    meaning: Meaning,
    message: String,
    context: &Context,
) -> Outcome {
    let wait = context.scheduler.pod_create_failed(job_uid, admission.attempt, meaning, message);
    Outcome::Done(wait.map_or_else(Action::await_change, Action::requeue))
}
