//! Jobs that are stored in a form that can't be read (by hand, or under another schema).
//!
//! Nothing is done to them or their pods; each says `Stalled`/`InvalidObject` with the decoder's words. A job that was
//! mended goes on where it was: its status is then stated anew by `domain::job_flow`.

use std::sync::Arc;

use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject},
    runtime::controller::Action,
};
use serde_json::{Map, json};

use super::{Context, Error};
use crate::{
    api_types::{
        Job, JobPhase, Reason,
        conditions::{self, Wanted},
    },
    domain::job_state::is_terminal,
    kube_ext::invalid::{self, Meta},
};

/// Says on a job that it can't be read.
pub(super) async fn reconcile(job: Arc<Meta<Job>>, context: Arc<Context>) -> Result<Action, Error> {
    let (name, namespace) = (job.name_any(), job.namespace().unwrap_or_default());
    let result = report(&name, &namespace, &context).await;
    if let Err(error) = &result
        && !error.is_conflict()
    {
        tracing::warn!(job = name, namespace, %error, "that a job can't be read was not written and will be again");
    }
    result.map(|()| Action::await_change())
}

async fn report(name: &str, namespace: &str, context: &Context) -> Result<(), Error> {
    let client = &context.client;
    let api: Api<DynamicObject> =
        Api::namespaced_with(client.clone(), namespace, &ApiResource::erase::<Job>(&()));
    let Some(raw) = invalid::read::<Job>(&api, name).await? else { return Ok(()) };
    let message =
        format!("the job, as stored, can't be read: {}; put that right, or delete the job", raw.error);
    let phase = raw.data.pointer("/status/phase").and_then(|phase| phase.as_str()?.parse::<JobPhase>().ok());
    let mut more = Map::new();
    // How a job ended stays to be seen.
    if !phase.is_some_and(is_terminal) {
        more.insert("reason".to_owned(), json!(Reason::InvalidObject.as_str()));
        more.insert("message".to_owned(), json!(message));
    }
    let wanted = vec![Wanted::yes(conditions::STALLED, Reason::InvalidObject, message.clone())];
    let keep = [conditions::FINISHED, conditions::COMPLETE, conditions::FAILED];
    let api: Api<Meta<Job>> = Api::namespaced(client.clone(), namespace);
    if invalid::write_status(&api, &raw, wanted, &keep, more, context.clock.now()).await? {
        context.events.warning(&raw.meta, Reason::InvalidObject, message);
    }
    Ok(())
}
