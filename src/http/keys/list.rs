//! `GET /keys`.

use std::collections::BTreeMap;

use axum::{Json, extract::State};

use super::{
    TenantKeys, TenantQuery, of_tenant,
    view::{KeysView, view},
};
use crate::{
    api_types::api_key::Scope,
    http::{App, auth::Caller, openapi::Operation, problem::Problem, query::Params},
};

/// The description of the route.
pub fn operation() -> Operation {
    of_tenant("listKeys", "List API keys", "Lists the tenant's API keys, the newest first.", Scope::KeysRead)
        .json::<KeysView>(200, "These are all keys of the tenant.")
}

/// Lists keys. A tenant has few, so the list has one page.
pub async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(query): Params<TenantQuery>,
) -> Result<Json<KeysView>, Problem> {
    let keys = TenantKeys::authorise(&app, caller, query, Scope::KeysRead, "list").await?;
    let own = app.keys.state_filter(|key| key.metadata.namespace.as_deref() == Some(&keys.namespace));
    let by_age: BTreeMap<_, _> = own
        .iter()
        .map(|key| {
            let view = view(key, &keys.tenant_uid);
            ((view.created_at, view.id.clone()), view)
        })
        .collect();
    Ok(Json(KeysView { keys: by_age.into_values().rev().collect(), next_cursor: None }))
}
