//! `GET /whoami`.

use axum::{Json, extract::State};
use futures::{StreamExt, TryStreamExt, stream};
use kube::ResourceExt;

use super::view::{AdministratorCaller, CallerView, KeyCaller, UserCaller};
use crate::{
    http::{
        App,
        administrators::AccessReview,
        auth::{Administrator, Caller, TenantKey},
        by_tenant::NamedTenant,
        openapi::Operation,
        problem::{Code, Problem},
        rights::{ALL, Right},
    },
    keys::Principal,
    names,
};

/// Reviews of rights at once.
const REVIEWS_AT_ONCE: usize = 4;

/// The description of the route.
pub fn operation() -> Operation {
    Operation::new(
        "whoami",
        "Show the caller",
        "Returns whom the credentials of the request authenticate. Where a user names a tenant, the response has the user's \
         rights there.",
    )
    .json::<CallerView>(200, "This is the caller.")
    .problems([Code::Forbidden])
}

/// Returns the caller.
///
/// # Errors
/// `tenant_mismatch`; `forbidden` for a user without any right in the tenant, whether it exists or not; `not_found`.
pub async fn whoami(
    State(app): State<App>,
    caller: Caller,
    named: NamedTenant,
) -> Result<Json<CallerView>, Problem> {
    let view = match caller {
        Caller::Tenant(TenantKey { principal, .. }) => {
            named.check(&principal.tenant)?;
            let Principal { tenant, key, key_id, scopes } = principal;
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
        Caller::Administrator(user) if named.is_given() => {
            CallerView::User(member(&app, user, &named).await?)
        }
        Caller::Administrator(user) => outside(&app, user).await?,
    };
    Ok(Json(view))
}

/// A user where the request names no tenant. Any account of the cluster has a token, so a token alone makes no administrator.
async fn outside(app: &App, user: Administrator) -> Result<CallerView, Problem> {
    let list = AccessReview::ours("list", "tenants", None, None);
    let is_administrator = app.administrators.allows(&user.user, &list).await?;
    let name = user.user.name;
    Ok(match is_administrator {
        true => CallerView::Administrator(AdministratorCaller { kind: "administrator", name }),
        false => CallerView::User(UserCaller {
            kind: "user",
            name,
            tenant_id: None,
            tenant: None,
            rights: Vec::new(),
        }),
    })
}

/// A user in the tenant that the request names.
async fn member(app: &App, user: Administrator, named: &NamedTenant) -> Result<UserCaller, Problem> {
    let name = named.name(app)?;
    let namespace = names::namespace(&app.settings.namespace_prefix, &name);
    let reviews = stream::iter(ALL).map(async |right: Right| {
        let allowed = app.administrators.allows(&user.user, &right.review(&namespace)).await?;
        Ok::<_, Problem>(allowed.then_some(right))
    });
    let rights: Vec<Option<Right>> = reviews.buffered(REVIEWS_AT_ONCE).try_collect().await?;
    let rights: Vec<Right> = rights.into_iter().flatten().collect();
    if rights.is_empty() {
        return Err(Problem::new(Code::Forbidden, "you have no right in the namespace of the tenant"));
    }
    let (of, _) = named.authorise(app, &user, &rights[..1]).await?;
    user.takes_place(&app.places.tenants, &of.uid)?;
    Ok(UserCaller {
        kind: "user",
        name: user.user.name,
        tenant_id: Some(of.uid.clone()),
        tenant: Some(of.name.clone()),
        rights: rights.iter().map(Right::to_string).collect(),
    })
}
