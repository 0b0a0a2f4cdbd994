//! `DELETE /tenants/{id}/nodes/{node}`.

use axum::{extract::State, http::StatusCode};
use kube::ResourceExt;

use super::{Ids, administered, authorise, remove_label};
use crate::http::{
    App,
    auth::ByAdministrator,
    openapi::Operation,
    problem::{Code, Problem},
};

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new(
        "releaseNode",
        "Release a node of a tenant",
        "Releases a node from a tenant. Jobs that run there finish first.",
    )
    .empty(204, "The node is released.")
    .problems([Code::Conflict, Code::InvalidObject])
}

/// Releases a node from a tenant. Jobs that run there finish first.
///
/// # Errors
/// `not_found` where the node is not assigned to the tenant.
pub async fn release(
    State(app): State<App>,
    ByAdministrator(admin): ByAdministrator,
    Ids(id, node): Ids,
) -> Result<StatusCode, Problem> {
    let tenant = administered(&app, &admin, &id, "patch").await?;
    authorise(&app, &admin, &node).await?;
    remove_label(&app, &tenant.name_any(), &node).await?;
    Ok(StatusCode::NO_CONTENT)
}
