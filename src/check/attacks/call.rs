//! One request of an attack or of its twin. Requests that would change something ask the API server for a dry run: it checks
//! them as any other, and stores nothing.

use axum::http::{self, Method, Request, header};
use kube::client::Body;
use serde_json::{Value, json};

/// A resource of the API server.
#[derive(Clone, Copy, Debug)]
pub struct Resource {
    /// Its group and version, as a path.
    group_version: &'static str,
    /// Its name in paths and in the words of a refusal.
    pub plural: &'static str,
    kind: &'static str,
}

const fn resource(group_version: &'static str, plural: &'static str, kind: &'static str) -> Resource {
    Resource { group_version, plural, kind }
}

pub(super) const TENANTS: Resource = resource("apis/crofter.io/v1alpha1", "tenants", "Tenant");
pub(super) const JOBS: Resource = resource("apis/crofter.io/v1alpha1", "jobs", "Job");
pub(super) const KEYS: Resource = resource("apis/crofter.io/v1alpha1", "tenantapikeys", "TenantApiKey");
pub(super) const NAMESPACES: Resource = resource("api/v1", "namespaces", "Namespace");
pub(super) const NODES: Resource = resource("api/v1", "nodes", "Node");
pub(super) const PODS: Resource = resource("api/v1", "pods", "Pod");
pub(super) const SECRETS: Resource = resource("api/v1", "secrets", "Secret");
pub(super) const CONFIG_MAPS: Resource = resource("api/v1", "configmaps", "ConfigMap");
pub(super) const CLAIMS: Resource = resource("api/v1", "persistentvolumeclaims", "PersistentVolumeClaim");
pub(super) const QUOTAS: Resource = resource("api/v1", "resourcequotas", "ResourceQuota");
pub(super) const LIMITS: Resource = resource("api/v1", "limitranges", "LimitRange");
pub(super) const ACCOUNTS: Resource = resource("api/v1", "serviceaccounts", "ServiceAccount");
pub(super) const SERVICES: Resource = resource("api/v1", "services", "Service");
pub(super) const LEASES: Resource = resource("apis/coordination.k8s.io/v1", "leases", "Lease");
pub(super) const NETWORK_POLICIES: Resource =
    resource("apis/networking.k8s.io/v1", "networkpolicies", "NetworkPolicy");
pub(super) const ROLE_BINDINGS: Resource =
    resource("apis/rbac.authorization.k8s.io/v1", "rolebindings", "RoleBinding");
pub(super) const CLUSTER_ROLES: Resource =
    resource("apis/rbac.authorization.k8s.io/v1", "clusterroles", "ClusterRole");
pub(super) const POLICIES: Resource = resource(
    "apis/admissionregistration.k8s.io/v1",
    "validatingadmissionpolicies",
    "ValidatingAdmissionPolicy",
);

/// A request.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// Its method.
    pub method: Method,
    /// The path, with the query.
    pub path: String,
    /// The body.
    pub body: Option<Value>,
    /// More headers.
    headers: Vec<(&'static str, String)>,
    content_type: &'static str,
}

impl Call {
    fn new(method: Method, path: String, body: Option<Value>) -> Self {
        Self { method, path, body, headers: Vec::new(), content_type: "application/json" }
    }

    /// The same with one more header.
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// The same with other texts in place of what is in braces.
    pub(super) fn filled(&self, texts: &[(&str, String)]) -> Self {
        let mut call = self.clone();
        let mut body = call.body.take().map(|body| body.to_string());
        for (name, text) in texts {
            call.path = call.path.replace(name, text);
            body = body.map(|body| body.replace(name, text));
            for (_, value) in &mut call.headers {
                *value = value.replace(name, text);
            }
        }
        // The texts are ids: JSON stays JSON.
        call.body = body.and_then(|body| serde_json::from_str(&body).ok());
        call
    }

    /// A request to the REST API.
    pub(super) fn rest(method: Method, path: &str, body: Option<Value>) -> Self {
        Self::new(method, format!("/v1{path}"), body)
    }

    /// This request as one of HTTP, with more headers.
    pub(super) fn request(&self, headers: &[(&'static str, String)]) -> Result<Request<Body>, http::Error> {
        let mut request = Request::builder().method(self.method.clone()).uri(&self.path);
        for (name, value) in headers.iter().chain(&self.headers) {
            request = request.header(*name, value);
        }
        let body = self.body.as_ref().map(Value::to_string).unwrap_or_default();
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, self.content_type);
        }
        request.body(Body::from(body.into_bytes()))
    }
}

/// The path of a resource, in a namespace unless that is empty.
fn path(of: Resource, namespace: &str, rest: &str) -> String {
    let within = if namespace.is_empty() { String::new() } else { format!("namespaces/{namespace}/") };
    format!("/{}/{within}{}{rest}", of.group_version, of.plural)
}

/// Creates an object. `rest` is what follows the resource in the path: nothing, or `/name/subresource`.
pub(super) fn create_at(of: Resource, namespace: &str, rest: &str, mut object: Value) -> Call {
    if rest.is_empty() {
        let group_version = of.group_version.trim_start_matches("apis/").trim_start_matches("api/");
        object["apiVersion"] = json!(group_version);
        object["kind"] = json!(of.kind);
    }
    Call::new(Method::POST, format!("{}?dryRun=All", path(of, namespace, rest)), Some(object))
}

/// Creates an object of this name, with more fields.
pub(super) fn create(of: Resource, namespace: &str, name: &str, mut object: Value) -> Call {
    object["metadata"]["name"] = json!(name);
    create_at(of, namespace, "", object)
}

/// Changes an object, or a subresource of it (`name/status`), by a merge patch.
pub(super) fn patch(of: Resource, namespace: &str, name: &str, change: Value) -> Call {
    let path = path(of, namespace, &format!("/{name}"));
    let content_type = "application/merge-patch+json";
    Call { content_type, ..Call::new(Method::PATCH, format!("{path}?dryRun=All"), Some(change)) }
}

/// Changes the metadata of an object.
pub(super) fn note(of: Resource, namespace: &str, name: &str, metadata: &Value) -> Call {
    patch(of, namespace, name, json!({"metadata": metadata}))
}

/// Deletes an object.
pub(super) fn delete(of: Resource, namespace: &str, name: &str) -> Call {
    Call::new(Method::DELETE, format!("{}?dryRun=All", path(of, namespace, &format!("/{name}"))), None)
}

/// Deletes an object and leaves what it owns, or all objects where `name` is empty.
pub(super) fn orphan(of: Resource, namespace: &str, name: &str) -> Call {
    let rest = if name.is_empty() { String::new() } else { format!("/{name}") };
    let query = "dryRun=All&propagationPolicy=Orphan";
    Call::new(Method::DELETE, format!("{}?{query}", path(of, namespace, &rest)), None)
}

/// Reads an object.
pub(super) fn get(of: Resource, namespace: &str, name: &str) -> Call {
    Call::new(Method::GET, path(of, namespace, &format!("/{name}")), None)
}

/// Reads all objects, in one namespace or, where that is empty, in all.
pub(super) fn list(of: Resource, namespace: &str) -> Call {
    Call::new(Method::GET, format!("{}?limit=1", path(of, namespace, "")), None)
}
