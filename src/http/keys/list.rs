//! `GET /keys`.

use std::collections::BTreeMap;

use axum::{Json, extract::State};

use super::{
    TenantKeys, of_tenant,
    view::{KeysView, view},
};
use crate::http::{App, by_tenant::ByTenant, openapi::Operation, problem::Problem, rights::ListKeys};

/// The description of the route.
pub fn operation() -> Operation {
    of_tenant("listKeys", "List API keys", "Lists the tenant's API keys, the newest first.")
        .json::<KeysView>(200, "These are all keys of the tenant.")
}

/// Lists keys. A tenant has few, so the list has one page.
pub async fn list(
    State(app): State<App>,
    ByTenant(context, _): ByTenant<ListKeys>,
) -> Result<Json<KeysView>, Problem> {
    let keys = TenantKeys::from(context);
    let own = app.keys.state_filter(|key| key.metadata.namespace.as_deref() == Some(&keys.of.namespace));
    let by_age: BTreeMap<_, _> = own
        .iter()
        .map(|key| {
            let view = view(key, &keys.of.uid);
            ((view.created_at, view.id.clone()), view)
        })
        .collect();
    Ok(Json(KeysView { keys: by_age.into_values().rev().collect(), next_cursor: None }))
}
