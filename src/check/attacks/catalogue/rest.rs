//! What the REST API refuses: credentials that are none, scopes that a key lacks, objects of others, and input that is not as
//! documented. `{tenant}`, `{job}` and so on are ids of what was created for the attacks.

use axum::http::Method;
use serde_json::{Value, json};

use super::{Attack, By, Site, Wall, Who, call::Call};

/// An id that nothing has.
const ABSENT: &str = "00000000-0000-4000-8000-000000000000";

/// A route with the scope that it needs, and the same for a twin, which may end what it is about.
struct Route {
    call: Call,
    needs: Option<&'static str>,
    twin: Call,
}

fn routes() -> Vec<Route> {
    let submit = || Some(json!({"image": "none", "on_quota": "queue"}));
    let route = |method: Method, path: &str, body: Option<Value>, needs| {
        let (call, twin) = (Call::rest(method.clone(), path, body.clone()), path.replace("{job}", "{spare}"));
        // A key rotates itself.
        let other = if path.ends_with("/rotate") { "{own}" } else { "{sparekey}" };
        Route { call, needs, twin: Call::rest(method, &twin.replace("{key}", other), body) }
    };
    let (get, post, delete) = (Method::GET, Method::POST, Method::DELETE);
    vec![
        route(get.clone(), "/jobs", None, Some("jobs:read")),
        route(post.clone(), "/jobs", submit(), Some("jobs:write")),
        route(get.clone(), "/jobs/{job}", None, Some("jobs:read")),
        route(get.clone(), "/jobs/{job}/why", None, Some("jobs:read")),
        route(get.clone(), "/jobs/{canceled}/events", None, Some("jobs:read")),
        route(post.clone(), "/jobs/{canceled}/retry", None, Some("jobs:write")),
        route(post.clone(), "/jobs/{job}/cancel", None, Some("jobs:write")),
        route(delete.clone(), "/jobs/{job}", None, Some("jobs:write")),
        route(get.clone(), "/scenarios", None, None),
        route(get.clone(), "/plans", None, None),
        route(get.clone(), "/keys", None, Some("keys:read")),
        route(post.clone(), "/keys", Some(json!({"scopes": []})), Some("keys:write")),
        route(post, "/keys/{key}/rotate", None, Some("keys:write")),
        route(delete, "/keys/{key}", None, Some("keys:write")),
        route(get.clone(), "/tenants/{tenant}", None, Some("tenant:read")),
        route(get.clone(), "/tenants/{tenant}/stats", None, Some("tenant:read")),
        route(get.clone(), "/tenants/{tenant}/nodes", None, Some("tenant:read")),
        route(get.clone(), "/tenants/{tenant}/jobs", None, Some("jobs:read")),
        route(get, "/whoami", None, None),
    ]
}

fn shown(call: &Call) -> String {
    let ids = ["{job}", "{canceled}", "{key}", "{tenant}"];
    let path = ids.into_iter().fold(call.path.clone(), |path, id| path.replace(id, "{id}"));
    format!("{} {path}", call.method)
}

/// Everybody on every route.
fn everybody() -> Vec<Attack> {
    let by = |who, wall, code| By { who, wall, code };
    let mut all = Vec::new();
    // Refused keys and tokens are counted by address: few of them here, so that the API does not refuse more for a while.
    let few = [0, 1, 7, 14];
    for (index, route) in routes().into_iter().enumerate() {
        let twin = || (Who::Key, route.twin.clone());
        let mut tried = |by: By, words: &str| {
            all.push(by.attack(shown(&route.call), route.call.clone(), words, twin()));
        };
        tried(by(Who::NoKey, Wall::Credential, 401), "missing_credentials");
        tried(by(Who::SuspendedKey, Wall::Credential, 403), "tenant_inactive");
        if few.contains(&index) {
            tried(by(Who::RevokedKey, Wall::Credential, 401), "invalid_key");
            tried(by(Who::ForgedKey, Wall::Credential, 401), "invalid_key");
            tried(by(Who::ForgedToken, Wall::Credential, 401), "invalid_token");
        }
        if let Some(scope) = route.needs {
            tried(by(Who::KeyWithoutScopes, Wall::Scope, 403), scope);
        }
        if route.call.path.contains('{') {
            tried(by(Who::NeighbourKey, Wall::OwnObjects, 404), "not_found");
        }
    }
    all
}

/// The routes of a tenant, with tokens of users of the cluster who lack the right.
fn of_users() -> Vec<Attack> {
    let mut all = Vec::new();
    let named = |call: &Call, tenant: &str| {
        let path = call.path.trim_start_matches("/v1");
        let is_of_tenants = path.starts_with("/tenants/");
        let query = if is_of_tenants { String::new() } else { format!("?tenant={tenant}") };
        Call::rest(call.method.clone(), &format!("{path}{query}"), call.body.clone())
    };
    for route in routes().into_iter().filter(|route| route.needs.is_some()) {
        let second = |path: &str| {
            let path = path.replace("{spare}", "{spare2}").replace("{sparekey}", "{sparekey2}");
            path.replace("{own}", "{sparekey2}")
        };
        let mut twin = named(&route.twin, "{tenant}");
        twin.path = second(&twin.path);
        let call = named(&route.call, "{tenant}");
        let viewer_may = call.method == Method::GET && !call.path.contains("/keys");
        let tokens = [Who::NeighbourToken, Who::StrangerToken, Who::ViewerToken];
        for who in tokens.into_iter().filter(|who| *who != Who::ViewerToken || !viewer_may) {
            let by = By { who, wall: Wall::Rights, code: 403 };
            all.push(by.attack(
                shown(&route.call),
                call.clone(),
                "forbidden",
                (Who::AdminToken, twin.clone()),
            ));
        }
    }
    let by = By { who: Who::AdminToken, wall: Wall::Rights, code: 403 };
    let get = |path: &str| Call::rest(Method::GET, path, None);
    let own = || (Who::AdminToken, get("/tenants/{tenant}"));
    for (what, path) in [
        ("list the jobs of another tenant", "/jobs?tenant={next}"),
        ("list the keys of another tenant", "/keys?tenant={next}"),
        ("follow the jobs of another tenant", "/events?tenant={next}"),
        ("read another tenant", "/tenants/{next}"),
        ("list a tenant that does not exist", "/jobs?tenant=absent"),
        ("list all tenants", "/tenants"),
        ("list all pools", "/pools"),
        ("read the audit log", "/audit"),
        ("read the audit log of the own tenant", "/audit?tenant={tenant}"),
    ] {
        all.push(by.attack(what, get(path), "forbidden", own()));
    }
    let two = get("/jobs?tenant={tenant}").with("x-tenant-id", "{next}");
    all.push(by.attack(
        "name two tenants",
        two,
        "tenant_mismatch",
        (Who::AdminToken, get("/jobs?tenant={tenant}")),
    ));
    let none = By { who: Who::AdminToken, wall: Wall::Input, code: 400 };
    let jobs = (Who::AdminToken, get("/jobs?tenant={tenant}"));
    all.push(none.attack("name no tenant", get("/jobs"), "tenant_required", jobs));
    all
}

/// Routes of administrators, with a key.
fn of_administrators() -> Vec<Attack> {
    let by = By { who: Who::Key, wall: Wall::Credential, code: 403 };
    let routes = [
        (Method::GET, "/tenants", None),
        (Method::GET, "/pools", None),
        (Method::GET, "/audit", None),
        (Method::POST, "/tenants", Some(json!({"name": "mine"}))),
        (Method::PATCH, "/tenants/{tenant}", Some(json!({"plan": "enterprise"}))),
        (Method::PUT, "/tenants/{tenant}", Some(json!({"plan": "enterprise"}))),
        (Method::DELETE, "/tenants/{tenant}", None),
        (Method::POST, "/tenants/{tenant}/nodes", Some(json!({"node": "n1"}))),
        (Method::DELETE, "/tenants/{tenant}/nodes/n1", None),
    ];
    let one = |(method, path, body)| {
        let call = Call::rest(method, path, body);
        let twin = Call::rest(Method::GET, "/tenants/{tenant}", None);
        by.attack(shown(&call), call, "forbidden", (Who::Key, twin))
    };
    routes.into_iter().map(one).collect()
}

/// What would give a key more than its holder has, or take it from who has more.
fn beyond_its_own() -> Vec<Attack> {
    let by = |who| By { who, wall: Wall::Scope, code: 403 };
    let (small, all) = (by(Who::KeyOfKeys), by(Who::Key));
    let make = |scopes: &[&str]| Call::rest(Method::POST, "/keys", Some(json!({"scopes": scopes})));
    let rotate = |id: &str| Call::rest(Method::POST, &format!("/keys/{id}/rotate"), None);
    let delete = |id: &str| Call::rest(Method::DELETE, &format!("/keys/{id}"), None);
    let beyond = "a key can't create, rotate or delete a key with scopes beyond its own";
    vec![
        small.attack(
            "make a key with more scopes",
            make(&["jobs:write"]),
            beyond,
            (Who::KeyOfKeys, make(&[])),
        ),
        small.attack("rotate a key with more scopes", rotate("{own}"), beyond, (Who::Key, rotate("{own}"))),
        small.attack(
            "delete a key with more scopes",
            delete("{own}"),
            beyond,
            (Who::KeyOfKeys, delete("{scopeless}")),
        ),
        all.attack(
            "rotate a key of others",
            rotate("{key}"),
            "can rotate only itself",
            (Who::Key, rotate("{own}")),
        ),
    ]
}

/// Input that is not as documented.
fn input() -> Vec<Attack> {
    let get = |path: &str| Call::rest(Method::GET, path, None);
    let submit = |body: Value| Call::rest(Method::POST, "/jobs", Some(body));
    let (job, read, keys) = (json!({"image": "none", "on_quota": "queue"}), get("/jobs"), get("/keys"));
    let field = |name: &str, value: Value| {
        let mut job = job.clone();
        job[name] = value;
        submit(job)
    };
    let made = submit(job.clone());
    let cases: Vec<(&str, Call, u16, &str, &Call)> = vec![
        ("a body that is a list", submit(json!([])), 422, "invalid_body", &made),
        ("an image that is a number", field("image", json!(7)), 422, "invalid_body", &made),
        ("a pod template", field("pod_template", json!({})), 422, "invalid_body", &made),
        ("fields in a list", field("resources", json!(["1"])), 422, "invalid_body", &made),
        ("a text with a NUL", field("image", json!("a\u{0}")), 400, "malformed_body", &made),
        ("a timeout of -1", field("timeout_seconds", json!(-1)), 422, "invalid_object", &made),
        ("a timeout without a bound", field("timeout_seconds", json!(1e300)), 422, "invalid_body", &made),
        (
            "the Secret of a key",
            field("env_from", json!([{"secret": "crofter-key-all"}])),
            422,
            "invalid_object",
            &made,
        ),
        (
            "100 KiB of arguments",
            field("args", json!(vec!["x".repeat(25_600); 4])),
            422,
            "invalid_object",
            &made,
        ),
        ("a body of 2 MiB", field("args", json!(["x".repeat(2 << 20)])), 413, "body_too_large", &made),
        (
            "a long idempotency key",
            made.clone().with("idempotency-key", &"k".repeat(256)),
            400,
            "invalid_header",
            &made,
        ),
        ("a cursor of zeros", get(&format!("/jobs?cursor={}", "0".repeat(64))), 400, "invalid_cursor", &read),
        ("a cursor with a NUL", get("/jobs?cursor=%00"), 400, "invalid_cursor", &read),
        ("a page of 0", get("/jobs?limit=0"), 400, "invalid_query", &read),
        ("a page without a bound", get("/jobs?limit=1000000000"), 400, "invalid_query", &read),
        ("SQL in a filter", get("/jobs?status=%27%20OR%201=1"), 400, "invalid_query", &read),
        ("a path out of the route", get("/jobs/..%2f..%2fsecrets"), 404, "not_found", &read),
        ("a path that is no UTF-8", get("/jobs/%ff"), 404, "not_found", &read),
        ("an id that nothing has", get(&format!("/jobs/{ABSENT}")), 404, "not_found", &read),
        (
            "the name of another tenant",
            read.clone().with("x-tenant-id", "{next}"),
            403,
            "tenant_mismatch",
            &read,
        ),
        ("the keys of another tenant", get("/keys?tenant={next}"), 403, "tenant_mismatch", &keys),
        ("a second credential", read.clone().with("x-api-key", "x"), 400, "invalid_header", &read),
    ];
    let one = |(what, call, code, words, twin): (&str, Call, u16, &str, &Call)| {
        let by = By { who: Who::Key, wall: Wall::Input, code };
        by.attack(format!("{} /v1/jobs with {what}", call.method), call, words, (Who::Key, twin.clone()))
    };
    cases.into_iter().map(one).collect()
}

pub(super) fn all(_: &Site) -> Vec<Attack> {
    [everybody(), of_users(), of_administrators(), beyond_its_own(), input()].concat()
}
