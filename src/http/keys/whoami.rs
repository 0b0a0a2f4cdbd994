//! `GET /whoami`.

use axum::Json;
use kube::ResourceExt;

use super::view::{AdministratorCaller, CallerView, KeyCaller};
use crate::{
    http::{auth::Caller, openapi::Operation},
    keys::Principal,
};

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new("whoami", "Show the caller", "Returns whom the credentials of the request authenticate.")
        .json::<CallerView>(200, "This is the caller.")
}

/// Returns the caller.
pub async fn whoami(caller: Caller) -> Json<CallerView> {
    Json(match caller {
        Caller::Tenant(context) => {
            let Principal { tenant, key, key_id, scopes } = context.principal;
            CallerView::Key(KeyCaller {
                kind: "key",
                tenant_id: tenant.uid.clone(),
                tenant: tenant.name.clone(),
                id: key.uid(),
                name: key.name_any(),
                key_id: key_id.to_string(),
                scopes,
            })
        }
        Caller::Administrator(admin) => {
            CallerView::Administrator(AdministratorCaller { kind: "administrator", name: admin.user.name })
        }
    })
}
