//! Keys that are stored in a form that can't be read (by hand, or under another schema).
//!
//! Whether such a key is meant to be refused can't be known, so it is (`keys`). The controller leaves its Secret as it
//! is; the key says `Stalled`/`InvalidObject` with the decoder's words, and continues where it was once it was mended.

use std::sync::Arc;

use kube::{ResourceExt, runtime::controller::Action};
use serde_json::Map;

use super::{Context, Error};
use crate::{
    api_types::{
        Reason, TenantApiKey,
        conditions::{self, Wanted},
    },
    kube_ext::invalid::{self, Meta, Raw, Report},
};

/// Reports on a key that it can't be read.
pub(super) async fn reconcile(key: Arc<Meta<TenantApiKey>>, context: Arc<Context>) -> Result<Action, Error> {
    let dependencies = &context.dependencies;
    let report = async {
        let now = dependencies.clock.now();
        match invalid::report(&dependencies.client, &key, &dependencies.events, now, describe).await {
            Ok(()) => Ok(Action::await_change()),
            Err(source) => Err(Error::ReportInvalid { key: key.name_any(), source }),
        }
    };
    context.reconciler.run(&*key, report).await
}

fn describe(raw: &Raw<TenantApiKey>) -> Report {
    let message = format!(
        "the key, as stored, can't be read, and is refused: {}; put that right, or delete the key",
        raw.error
    );
    let conditions = vec![
        Wanted::no(conditions::READY, Reason::InvalidObject, message.clone()),
        Wanted::no(conditions::ACTIVE, Reason::InvalidObject, message.clone()),
        Wanted::yes(conditions::STALLED, Reason::InvalidObject, message.clone()),
    ];
    Report { message, conditions, keep: &[], fields: Map::new() }
}
