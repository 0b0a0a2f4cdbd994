//! `DELETE /tenants/{id}`.

use axum::{extract::State, http::StatusCode};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Preconditions},
};

use super::{Id, versioned_for_write, write_refused};
use crate::{
    api_types::Tenant,
    domain::tenant_state::deletion_prevented,
    http::{
        App,
        auth::ByAdministrator,
        header::IfMatch,
        openapi::Operation,
        problem::{Code, Problem},
    },
    kube_ext::within,
    names,
};

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new(
        "deleteTenant",
        "Delete a tenant",
        "Deletes a tenant, its jobs first. The history keeps what it used.",
    )
    .empty(204, "The tenant is being deleted.")
    .problems([Code::Conflict, Code::InvalidObject])
}

/// Deletes a tenant. Its finalizer deletes what belongs to it in order; the history stays.
///
/// # Errors
/// `forbidden` for the tenant `default`, and for a tenant whose deletion is prevented.
pub async fn delete(
    State(app): State<App>,
    ByAdministrator(admin): ByAdministrator,
    id: Id,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    let (tenant, version) = versioned_for_write(&app, &admin, &id, &if_match, "delete").await?;
    let name = tenant.name_any();
    if name == names::DEFAULT_TENANT {
        return Err(Problem::new(Code::Forbidden, "cannot delete default tenant"));
    }
    if deletion_prevented(tenant.spec.prevent_deletion).is_some() {
        return Err(Problem::new(
            Code::Forbidden,
            "the tenant can't be deleted while prevent_deletion is true",
        ));
    }
    let versioned = version.is_some();
    let preconditions = Some(Preconditions { uid: tenant.uid(), resource_version: version });
    let params = DeleteParams { preconditions, ..DeleteParams::default() };
    let api: Api<Tenant> = Api::all(app.client.clone());
    let deleted = within("failed to delete a Tenant", api.delete(&name, &params)).await;
    deleted.map(|_| StatusCode::NO_CONTENT).map_err(|error| write_refused(error, versioned))
}
