//! Keys that are stored in a form that can't be read (by hand, or under another schema).
//!
//! Nobody knows whether such a key is meant to be refused, so it is (`keys`). Nothing is done to its Secret; it says
//! `Stalled`/`InvalidObject` with the decoder's words, and goes on where it was once it was mended.

use std::sync::Arc;

use kube::{
    Api, ResourceExt,
    api::{ApiResource, DynamicObject},
    runtime::controller::Action,
};
use serde_json::Map;

use super::{Context, Error};
use crate::{
    api_types::{
        Reason, TenantApiKey,
        conditions::{self, Wanted},
    },
    kube_ext::invalid::{self, Meta},
};

/// Says on a key that it can't be read.
pub(super) async fn reconcile(key: Arc<Meta<TenantApiKey>>, context: Arc<Context>) -> Result<Action, Error> {
    let (name, namespace) = (key.name_any(), key.namespace().unwrap_or_default());
    let result = report(&name, &namespace, &context).await;
    if let Err(error) = &result
        && !error.is_conflict()
    {
        tracing::warn!(key = name, namespace, %error, "that a key can't be read was not written and will be again");
    }
    result.map(|()| Action::await_change())
}

async fn report(name: &str, namespace: &str, context: &Context) -> Result<(), Error> {
    let client = &context.dependencies.client;
    let resource = ApiResource::erase::<TenantApiKey>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let Some(raw) = invalid::read::<TenantApiKey>(&api, name).await? else { return Ok(()) };
    let message = format!(
        "the key, as stored, can't be read, and is refused: {}; put that right, or delete the key",
        raw.error
    );
    let wanted = vec![
        Wanted::no(conditions::READY, Reason::InvalidObject, message.clone()),
        Wanted::no(conditions::ACTIVE, Reason::InvalidObject, message.clone()),
        Wanted::yes(conditions::STALLED, Reason::InvalidObject, message.clone()),
    ];
    let api: Api<Meta<TenantApiKey>> = Api::namespaced(client.clone(), namespace);
    let now = context.dependencies.clock.now();
    if invalid::write_status(&api, &raw, wanted, &[], Map::new(), now).await? {
        context.dependencies.events.warning(&raw.meta, Reason::InvalidObject, message);
    }
    Ok(())
}
