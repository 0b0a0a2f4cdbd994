//! `/keys` and `/whoami`: API keys over REST, the text once.
//!
//! What is made is a TenantApiKey like any other; its controller makes the text, and this server reads it from the Secret
//! to hand it over. A key can make and rotate only keys that may do no more than it may itself: with the text of one
//! comes all that it may do.

mod view;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{FromRequestParts, Path, State},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Time};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
    runtime::{reflector::ObjectRef, wait::await_condition},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use self::view::{AdministratorCaller, Issued, KeyCaller, KeyView, KeysView, New, Who, view};
use super::{
    App,
    administrators::Act,
    audit::Made,
    auth::Caller,
    body::Body,
    openapi::{Describes, Operation},
    path::canonical,
    problem::{Code, Problem},
    query::Params,
    routes::Routes,
};
use crate::{
    api_types::{
        TenantApiKey,
        api_key::{Scope, TenantApiKeySpec},
        conditions,
    },
    domain::api_key::lifecycle,
    hex::hex,
    kube_ext::{call::within_opt, within},
    names,
};

/// How long the text of a new version is waited for. After that it is only in the Secret.
const ISSUED: Duration = Duration::from_secs(5);

/// The routes.
pub fn routes() -> Routes {
    let later = "This is the key. Its token was not made within 5 s: it is in the Secret of the key soon.";
    let of = |operation: Operation, scope| {
        operation.scope(scope).refuses([Code::InvalidQuery, Code::Forbidden, Code::NotFound])
    };
    let list_keys =
        Operation::new("listKeys", "List API keys", "Lists the tenant's API keys, the newest first.");
    let create_key = Operation::new(
        "createKey",
        "Create an API key",
        "Creates an API key. A key can create only keys that have no scope beyond its own.",
    );
    let rotate_key = Operation::new(
        "rotateKey",
        "Rotate an API key",
        "Makes a new version of an API key. The previous version stays valid for the overlap of the key.",
    );
    let delete_key = Operation::new(
        "deleteKey",
        "Delete an API key",
        "Deletes an API key, which the server then refuses.",
    );
    Routes::new("Keys")
        .get(
            "/keys",
            list,
            of(list_keys, Scope::KeysRead).json::<KeysView>(200, "These are all keys of the tenant."),
        )
        .post(
            "/keys",
            create,
            of(create_key, Scope::KeysWrite)
                .json::<Issued>(201, "This is the key with its token, which is shown only once.")
                .json::<KeyView>(202, later)
                .links(201, "id", &["rotateKey", "deleteKey"])
                .refuses([Code::InvalidObject, Code::Conflict, Code::QuotaExceeded]),
        )
        .post(
            "/keys/{id}/rotate",
            rotate,
            of(rotate_key, Scope::KeysWrite)
                .json::<Issued>(200, "This is the key with its new token, which is shown only once.")
                .json::<KeyView>(202, later)
                .refuses([Code::WrongState, Code::Conflict, Code::InvalidObject]),
        )
        .delete("/keys/{id}", remove, of(delete_key, Scope::KeysWrite).nothing(204, "The key is deleted."))
        .get(
            "/whoami",
            whoami,
            Operation::new(
                "whoami",
                "Show the caller",
                "Returns whom the credentials of the request authenticate.",
            )
            .json::<Who>(200, "This is the caller."),
        )
}

/// Parameters of all these routes.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Of {
    /// This is the name of the tenant. An administrator must give it.
    #[schemars(length(min = 1))]
    tenant: Option<String>,
}

/// Whose keys these are.
struct Place {
    namespace: String,
    tenant_uid: String,
    /// What the asking key may do; `None` for an administrator.
    scopes: Option<Vec<Scope>>,
}

impl Place {
    /// The place that a caller may do this in.
    async fn of(
        app: &App,
        caller: Caller,
        of: Of,
        scope: Scope,
        verb: &'static str,
    ) -> Result<Self, Problem> {
        match caller {
            Caller::Tenant(context) => {
                context.needs(scope)?;
                let tenant = &context.principal.tenant;
                if of.tenant.map(canonical).is_some_and(|named| named != tenant.name && named != tenant.uid) {
                    let detail = "`tenant` names another tenant than the key's";
                    return Err(Problem::new(Code::TenantMismatch, detail));
                }
                Ok(Self {
                    namespace: tenant.namespace.clone(),
                    tenant_uid: tenant.uid.clone(),
                    scopes: Some(context.principal.key.spec.scopes.clone()),
                })
            }
            Caller::Administrator(user) => {
                let missing =
                    || Problem::new(Code::InvalidQuery, "an administrator says whose: ?tenant=NAME");
                let name = of.tenant.ok_or_else(missing)?;
                let namespace = names::namespace(&app.settings.namespace_prefix, &name);
                let (resource, at) = ("tenantapikeys", Some(namespace.clone()));
                // Before anything is said of the tenant.
                app.administrators.may(&user, Act::ours(verb, resource, at, None)).await?;
                let tenant = app.tenants.get(&ObjectRef::new(&name));
                let tenant_uid = tenant.and_then(|tenant| tenant.uid());
                let tenant_uid = tenant_uid.ok_or_else(|| Problem::not_found("tenant"))?;
                Ok(Self { namespace, tenant_uid, scopes: None })
            }
        }
    }

    /// Refuses what would give more than the asking key has.
    fn within_own(&self, scopes: &[Scope]) -> Result<(), Problem> {
        match &self.scopes {
            Some(own) if scopes.iter().any(|scope| !own.contains(scope)) => Err(Problem::new(
                Code::MissingScope,
                "a key can't make or rotate one that may do more than itself",
            )),
            _ => Ok(()),
        }
    }

    fn api(&self, app: &App) -> Api<TenantApiKey> {
        Api::namespaced(app.client.clone(), &self.namespace)
    }

    fn find(&self, app: &App, id: &str) -> Result<Arc<TenantApiKey>, Problem> {
        let is_it = |key: &TenantApiKey| {
            key.metadata.namespace.as_deref() == Some(&self.namespace)
                && key.metadata.uid.as_deref() == Some(id)
        };
        app.keys.find(is_it).ok_or_else(|| Problem::not_found("key"))
    }
}

/// The id in a path.
pub struct Id(String);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let id = Path::<String>::from_request_parts(parts, state).await;
        id.map(|Path(id)| Self(canonical(id))).map_err(|_| Problem::not_found("key"))
    }
}

impl Describes for Id {
    fn describe(operation: &mut Operation) {
        operation.takes_path(
            "id",
            "This is the id of the key, which is its UID.",
            &json!({"type": "string", "format": "uuid"}),
        );
    }
}

/// `GET /keys`. There are few, so there is one page.
async fn list(
    State(app): State<App>,
    caller: Caller,
    Params(of): Params<Of>,
) -> Result<Json<KeysView>, Problem> {
    let place = Place::of(&app, caller, of, Scope::KeysRead, "list").await?;
    let own = app.keys.state_filter(|key| key.metadata.namespace.as_deref() == Some(&place.namespace));
    let by_age: BTreeMap<_, _> = own
        .iter()
        .map(|key| {
            let view = view(key, &place.tenant_uid);
            ((view.created_at, view.id.clone()), view)
        })
        .collect();
    Ok(Json(KeysView { keys: by_age.into_values().rev().collect(), next_cursor: None }))
}

/// `POST /keys`: 201 with the text, which is not shown again; 202 without it where it takes longer to be made.
async fn create(
    State(app): State<App>,
    caller: Caller,
    Params(of): Params<Of>,
    Body(new): Body<New>,
) -> Result<Response, Problem> {
    let place = Place::of(&app, caller, of, Scope::KeysWrite, "create").await?;
    place.within_own(&new.scopes)?;
    possible(&new, app.clock.now())?;
    let spec = TenantApiKeySpec {
        display_name: new.display_name,
        scopes: new.scopes,
        expires_at: new.expires_at.map(Time),
        rotate_every: new.rotate_every,
        // What the CRD has.
        overlap_seconds: new.overlap_seconds.unwrap_or(86_400),
        ..TenantApiKeySpec::default()
    };
    let name = format!("key-{}", random(&app)?);
    let key = TenantApiKey::new(&name, spec);
    let made =
        within("failed to create a TenantApiKey", place.api(&app).create(&PostParams::default(), &key)).await;
    let key = made.map_err(|error| match error.code() {
        Some(403) if error.to_string().contains("exceeded quota") => {
            let detail = "the tenant has too many keys: delete some that are not used";
            Problem::new(Code::QuotaExceeded, detail).retry_after(60).inside(error)
        }
        Some(403 | 404) => Problem::new(Code::TenantInactive, "invalid or inactive tenant").inside(error),
        _ => error.into(),
    })?;
    let made = Made(key.uid().unwrap_or_default());
    let mut response = issued(&app, &place, key, StatusCode::CREATED, |_| true).await?;
    response.extensions_mut().insert(made);
    Ok(response)
}

/// Refuses what would be made and could never be used, and what the CRD's rules say in words of their own.
fn possible(new: &New, now: Timestamp) -> Result<(), Problem> {
    if let Some(at) = new.expires_at.filter(|at| *at <= now) {
        let detail = format!("expires_at: {at} has passed: give a later time, or none");
        return Err(Problem::new(Code::InvalidObject, detail));
    }
    match &new.rotate_every {
        Some(text) if lifecycle::period(text).is_none() => {
            let detail = "rotate_every: give hours, minutes and seconds such as 720h or 1h30m, at least 1m";
            Err(Problem::new(Code::InvalidObject, detail))
        }
        _ => Ok(()),
    }
}

fn random(app: &App) -> Result<String, Problem> {
    let mut bytes = [0; 8];
    let filled = app.random.fill(&mut bytes);
    filled.map_err(|error| Problem::new(Code::Internal, "no name could be made").inside(error))?;
    Ok(hex(&bytes))
}

/// `POST /keys/{id}/rotate`: 200 with the new text; the one before stays valid for the overlap.
async fn rotate(
    State(app): State<App>,
    caller: Caller,
    id: Id,
    Params(of): Params<Of>,
) -> Result<Response, Problem> {
    let place = Place::of(&app, caller, of, Scope::KeysWrite, "patch").await?;
    let key = place.find(&app, &id.0)?;
    place.within_own(&key.spec.scopes)?;
    if lifecycle::closed(&key.spec, app.clock.now()).is_some() {
        return Err(Problem::new(Code::WrongState, "the key is revoked or expired: make a new one"));
    }
    let word = format!("{}-{}", app.clock.now(), random(&app)?);
    let annotations = json!({names::ANNOTATION_ROTATE: word});
    let patch = json!({"metadata": {"uid": key.uid(), "annotations": annotations}});
    let (name, params) = (key.name_any(), PatchParams::default());
    let patched =
        within("failed to rotate a key", place.api(&app).patch(&name, &params, &Patch::Merge(&patch)))
            .await?;
    let answers = lifecycle::request(&word);
    issued(&app, &place, patched, StatusCode::OK, move |key| {
        key.status.as_ref().and_then(|status| status.last_rotate_request.as_ref()) == Some(&answers)
    })
    .await
}

/// Waits until the version asked for is in its Secret, and hands its text over.
async fn issued(
    app: &App,
    place: &Place,
    key: TenantApiKey,
    status: StatusCode,
    is_it: impl Fn(&TenantApiKey) -> bool + Send,
) -> Result<Response, Problem> {
    let (name, uid) = (key.name_any(), key.uid());
    let ready = |key: Option<&TenantApiKey>| {
        key.is_some_and(|key| {
            let status = key.status.as_ref();
            let ready = status.into_iter().flat_map(|status| &status.conditions);
            let ready = ready.filter(|condition| condition.type_ == conditions::READY);
            key.uid() == uid && is_it(key) && ready.into_iter().any(|condition| condition.status == "True")
        })
    };
    let waited = tokio::time::timeout(ISSUED, await_condition(place.api(app), &name, ready)).await;
    let later =
        |key: &TenantApiKey| (StatusCode::ACCEPTED, Json(view(key, &place.tenant_uid))).into_response();
    let Ok(Ok(Some(ready))) = waited else { return Ok(later(&key)) };
    let api: Api<Secret> = Api::namespaced(app.client.clone(), &place.namespace);
    let secret = within_opt("failed to read the Secret of a key", api.get(&ready.secret_name())).await?;
    // It may be deleted, or the key be revoked, in the meantime.
    let Some(secret) = secret else { return Ok(later(&ready)) };
    let entry = |entry: &str| {
        let bytes = secret.data.as_ref()?.get(entry)?;
        String::from_utf8(bytes.0.clone()).ok()
    };
    let current = ready.status.as_ref().and_then(|status| status.key_id.clone());
    match entry(names::SECRET_TOKEN).filter(|_| entry(names::SECRET_KEY_ID) == current) {
        Some(token) => {
            let body = Issued { key: view(&ready, &place.tenant_uid), token };
            Ok((status, Json(body)).into_response())
        }
        None => Ok(later(&ready)),
    }
}

/// `DELETE /keys/{id}`: from then on it is refused everywhere.
async fn remove(
    State(app): State<App>,
    caller: Caller,
    id: Id,
    Params(of): Params<Of>,
) -> Result<StatusCode, Problem> {
    let place = Place::of(&app, caller, of, Scope::KeysWrite, "delete").await?;
    let key = place.find(&app, &id.0)?;
    let preconditions = Some(Preconditions { uid: key.uid(), resource_version: None });
    let params = DeleteParams { preconditions, ..DeleteParams::default() };
    let (name, api) = (key.name_any(), place.api(&app));
    let deleted = within("failed to delete a key", api.delete(&name, &params)).await;
    deleted.map(|_| StatusCode::NO_CONTENT).map_err(|error| match error.code() {
        Some(404 | 409) => Problem::not_found("key"),
        _ => error.into(),
    })
}

/// `GET /whoami`.
async fn whoami(caller: Caller) -> Json<Who> {
    Json(match caller {
        Caller::Tenant(context) => {
            let (tenant, key) = (&context.principal.tenant, &context.principal.key);
            Who::Key(KeyCaller {
                kind: "key",
                tenant_id: tenant.uid.clone(),
                tenant: tenant.name.clone(),
                id: key.uid(),
                name: key.name_any(),
                key_id: context.principal.key_id.to_string(),
                scopes: key.spec.scopes.clone(),
            })
        }
        Caller::Administrator(user) => {
            Who::Administrator(AdministratorCaller { kind: "administrator", name: user.name })
        }
    })
}
