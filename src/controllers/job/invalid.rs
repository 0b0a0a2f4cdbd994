//! Jobs that are stored in a form that can't be read (by hand, or under another schema).
//!
//! The controller changes neither them nor their pods; each says `Stalled`/`InvalidObject` with the decoder's words. A
//! job that was mended continues where it was: `domain::job_flow` then writes its whole status.

use std::sync::Arc;

use kube::{ResourceExt, runtime::controller::Action};
use serde_json::{Map, json};

use super::{Context, error::Error};
use crate::{
    api_types::{
        Job, JobPhase, Reason,
        conditions::{self, Wanted},
    },
    domain::job_state::is_terminal,
    kube_ext::invalid::{self, Meta, Raw, Report},
};

/// Reports on a job that it can't be read.
pub(super) async fn reconcile(job: Arc<Meta<Job>>, context: Arc<Context>) -> Result<Action, Error> {
    let Context { client, events, clock, reconciler, .. } = &*context;
    let report = async {
        match invalid::report(client, &job, events, clock.now(), describe).await {
            Ok(()) => Ok(Action::await_change()),
            Err(source) => Err(Error::ReportInvalid { job: job.name_any(), source }),
        }
    };
    reconciler.run(&*job, report).await
}

fn describe(raw: &Raw<Job>) -> Report {
    let message =
        format!("the job, as stored, can't be read: {}; put that right, or delete the job", raw.error);
    let phase = raw.data.pointer("/status/phase").and_then(|phase| phase.as_str()?.parse::<JobPhase>().ok());
    let mut fields = Map::new();
    // How a job ended stays to be seen.
    if !phase.is_some_and(is_terminal) {
        fields.insert("reason".to_owned(), json!(Reason::InvalidObject.as_str()));
        fields.insert("message".to_owned(), json!(message));
    }
    let conditions = vec![Wanted::yes(conditions::STALLED, Reason::InvalidObject, message.clone())];
    let keep = &[conditions::FINISHED, conditions::COMPLETE, conditions::FAILED];
    Report { message, conditions, keep, fields }
}
